//! Egress killed under load: the agent gets errors and never a way round, and credentials are gone
//! with it until they are delivered again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bottle_outside::SAID;
use bottle_tests::host::{docker, until};

use crate::{Bench, TOKEN};

#[test]
fn nothing_gets_round_a_dead_egress() {
    let bench = Bench::new();
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let one = "for h in https://api.test/open/load http://plain.test/open/load; do \
               curl -sS -m 3 $h; curl -sS -m 3 --noproxy '*' $h; done 2>&1; true";
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let times = bench.inside(one).out.matches(SAID).count();
                    served.fetch_add(times, Ordering::SeqCst);
                }
            });
        }
        until("the load runs", || served.load(Ordering::SeqCst) > 8);
        docker(&["kill", &bench.egress()]).code(0);
        // Another round that begins only now.
        bench.origin.forget();
        bench.plain.forget();
        let ran = bench.inside(one);
        done.store(true, Ordering::SeqCst);
        assert!(!ran.out.contains(SAID), "{}", ran.out);
        let direct = format!("timeout 3 bash -c 'exec 3<>/dev/tcp/{}/80' 2>&1", bench.outside);
        assert!(!bench.inside(&direct).ok(), "a way round");
    });
    assert!(bench.origin.requests().is_empty() && bench.plain.requests().is_empty());

    docker(&["start", &bench.egress()]).code(0);
    let auth = "curl -sS -m 5 https://auth.test/x 2>&1; true";
    until("egress answers again", || bench.inside(auth).out.contains("bottle refused"));
    assert!(bench.inside(auth).out.contains("not delivered"), "{}", bench.inside(auth).out);
    assert!(bench.origin.requests().is_empty());
    bench.host.run(&["apply", "plan.json", "--redeliver", "--yes"]).code(0);
    let ran = bench.inside(auth);
    assert!(ran.out.contains(SAID), "{}", ran.out);
    let seen = bench.origin.requests();
    assert_eq!(seen[0].header("authorization"), Some(format!("Bearer {TOKEN}")));
}
