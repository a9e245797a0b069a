//! How long the pure core takes: `cargo bench -p bottle-tests --bench planner`.
//!
//! A typical bottle has four sidecars, ten routes and five skills; the others show how time grows
//! with routes. Figures are in `docs/benchmarks.md`; nothing fails by the clock.

use bottle_planner::lint::lint;
use bottle_planner::resolve::{plan, plan_digest};
use bottle_tests::fixture::typical;
use bottle_tests::settle::settle;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn resolution(c: &mut Criterion) {
    let (manifest, spec, snapshot) = typical(10);
    let mut group = c.benchmark_group("plan");
    group.bench_function("typical", |b| b.iter(|| plan(&manifest, &spec, &snapshot)));
    let first = plan(&manifest, &spec, &snapshot).expect("a plan");
    let settled = settle(&first, &snapshot);
    group.bench_function("typical, nothing to do", |b| {
        b.iter(|| plan(&manifest, &spec, &settled));
    });
    for routes in [100u64, 1_000, 10_000] {
        let (manifest, spec, snapshot) = typical(routes as usize);
        group.throughput(Throughput::Elements(routes));
        group.sample_size(10);
        group.bench_with_input(BenchmarkId::new("routes", routes), &routes, |b, _| {
            b.iter(|| plan(&manifest, &spec, &snapshot));
        });
    }
    group.finish();
}

fn checks(c: &mut Criterion) {
    let (manifest, spec, snapshot) = typical(10);
    let plan = plan(&manifest, &spec, &snapshot).expect("a plan");
    c.bench_function("lint", |b| b.iter(|| lint(&plan)));
    c.bench_function("digest", |b| b.iter(|| plan_digest(&plan)));
}

criterion_group!(benches, resolution, checks);
criterion_main!(benches);
