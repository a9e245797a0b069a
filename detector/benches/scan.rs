//! How fast bodies are scanned with all built-in rules: program text, JSON that is mostly Base64, and
//! random bytes; and what a value to look for adds.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_detector::{Detector, Rules, Values};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use zeroize::Zeroizing;

/// Bytes of each body.
const SIZE: usize = 16 << 20;

fn bench(criterion: &mut Criterion) {
    let value = "tok_9fK2mQ7vL4xT8bN1cR6pJ3".to_owned();
    let values = Values::new([("TOKEN".to_owned(), Zeroizing::new(value))]);
    let rules = Detector::new(Some(Rules::builtin()), None);
    let both = Detector::new(Some(Rules::builtin()), Some(Arc::new(values)));
    let mut group = criterion.benchmark_group("scan");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE as u64));
    for (name, body) in [("rust", rust()), ("base64", base64()), ("random", random(SIZE))] {
        // A yardstick: what one look at each byte takes on this machine, now.
        let id = BenchmarkId::new("count of line ends", name);
        let count = |body: &[u8]| memchr::memchr_iter(b'\n', body).count();
        group.bench_with_input(id, &body, |b, body| b.iter(|| black_box(count(body))));
        for (with, detector) in [("rules", &rules), ("rules and a value", &both)] {
            let id = BenchmarkId::new(with, name);
            group.bench_with_input(id, &body, |b, body| b.iter(|| black_box(detector.scan(body))));
        }
    }
    group.finish();
}

/// The standard library's source where it is installed, else that of the crates that are, else this one's.
fn rust() -> Vec<u8> {
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let library = sysroot.map(|root| Path::new(&root).join("lib/rustlib/src/rust/library"));
    let crates =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|h| h + "/.cargo"));
    let crates = crates.map(|home| Path::new(&home).join("registry/src"));
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut text = Vec::new();
    for root in library.into_iter().chain(crates).chain([own]) {
        collect(&root, &mut text);
        if !text.is_empty() {
            break;
        }
    }
    text.into_iter().cycle().take(SIZE).collect()
}

/// Appends the program texts below a folder, up to [`SIZE`]. Bindings for Windows are left out: they are
/// tables of numbers.
fn collect(root: &Path, text: &mut Vec<u8>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        if text.len() >= SIZE || path.to_string_lossy().contains("windows") {
            continue;
        }
        if path.is_dir() {
            collect(&path, text);
        } else if is_rust {
            text.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
}

/// Records that hold thirty kilobytes of Base64 each, as images in a request do.
fn base64() -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters: Vec<u8> =
        random(SIZE).into_iter().map(|byte| alphabet[usize::from(byte >> 2)]).collect();
    let record = |data: &[u8]| [b"{\"id\": 12, \"data\": \"", data, b"\"}\n"].concat();
    letters.chunks(30_000).flat_map(record).take(SIZE).collect()
}

fn random(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

criterion_group!(benches, bench);
criterion_main!(benches);
