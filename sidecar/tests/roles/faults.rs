//! What breaks around egress: servers that stall, break off or answer what no server should;
//! clients without number; answers without end; a routes file that is none.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bottle_outside::{Authority, Broken, Origin, SAID};
use rustix::process::{Resource, Rlimit, Signal};
use serde_json::{Value, json};

use crate::attack::Shot;
use crate::attack::targets::get;
use crate::harness::{Process, Session, Who, wait_until};

/// A session with a good server at `good.test`, and a bad one at `bad.test:8443`.
struct Bench {
    session: Session,
    egress: Process,
    good: Origin,
    bad: Broken,
}

impl Bench {
    fn new() -> Self {
        let session = Session::new();
        let outside = Authority::new("outside");
        session.write("in/upstream-ca.pem", &outside.pem());
        session.write_egress(&routes(&session), json!({}));
        let server = session.address(Who::Server);
        let names = ["good.test", "bad.test", "auth.test"];
        let good = Origin::tls((server, 443), outside.server(&names, &["http/1.1"]));
        let bad = Broken::tls((server, 8443), outside.server(&names, &["http/1.1"]));
        let egress = session.start_ready("egress");
        assert_eq!(session.receive(r#"{"inject:TOKEN": "tok-1a2b3c4d5e6f"}"#).0, 0);
        Self { session, egress, good, bad }
    }

    fn serves(&self) {
        let request = get("good.test", "/open/x", "");
        let outcome = Shot::tunnel("good.test").send(request).fire(&self.session);
        assert!(outcome.text().contains(SAID), "{} {}", outcome.end, outcome.text());
    }

    /// Asks the bad server on a connection of its own.
    fn bad(&self, path: &str) -> Shot {
        Shot::connect("bad.test:8443").tls("bad.test").send(get("bad.test:8443", path, ""))
    }
}

fn routes(session: &Session) -> Value {
    let auth = json!({
        "scheme": "Bearer", "header": "authorization", "secret": "TOKEN", "placeholder": null,
    });
    json!({
        "good.test": session.route(443, json!({})),
        "bad.test": session.route(8443, json!({})),
        "auth.test": session.route(443, json!({"auth": auth})),
    })
}

#[test]
fn a_server_that_breaks_off_is_told_of_and_costs_nothing() {
    let bench = Bench::new();
    for (path, status) in [
        ("/close", 502),
        ("/half-head", 502),
        ("/garbage", 502),
        ("/endless-head", 502),
        ("/two-lengths", 502),
        ("/split-header", 200),
        ("/half-body", 0),
        ("/reset-body", 0),
        ("/bad-chunk", 0),
        ("/early", 413),
        ("/fine", 200),
    ] {
        let outcome = bench.bad(path).fire(&bench.session);
        // A head may be on its way or not when what follows it breaks off.
        let expected = if status == 0 { [0, 200] } else { [status; 2] };
        let found = outcome.status();
        assert!(expected.contains(&found), "{path}: {} {:?}", outcome.end, outcome.text());
        assert!(!outcome.is_silence(), "{path}");
        let promised = "content-length: 1000";
        if outcome.text().contains(promised) {
            assert!(outcome.answer.len() < 1000, "{path}: made whole");
        }
        bench.serves();
    }
    let failed = |d: &Value| d["outcome"] == "failed" && d["code"] == "upstream";
    assert!(bench.session.decisions().iter().filter(|d| failed(d)).count() >= 4);
}

#[test]
fn an_answer_in_an_answer_is_nobodys() {
    let bench = Bench::new();
    for _ in 0..4 {
        // What the bad server slips behind its answer must not answer the next request.
        let _ = bench.bad("/both-lengths").fire(&bench.session);
        let outcome = bench.bad("/close").fire(&bench.session);
        assert_eq!(outcome.status(), 502, "{}", outcome.text());
    }
    bench.serves();
}

#[test]
fn a_server_that_stalls_keeps_nobody_else_waiting_and_is_left_with_its_client() {
    let bench = Bench::new();
    thread::scope(|scope| {
        let hung: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| bench.bad("/hang").within(300).fire(&bench.session)))
            .collect();
        wait_until("all of them hang", || bench.bad.open() >= 20);
        bench.serves();
        for hung in hung {
            assert!(hung.join().unwrap().is_silence());
        }
    });
    wait_until("the server is left", || bench.bad.open() == 0);
}

#[test]
fn ten_thousand_idle_connections_are_bounded() {
    const MANY: usize = 10_000;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, wanted).unwrap();
    let bench = Bench::new();
    bench.serves();
    let before = bench.egress.memory("VmRSS");
    let mut all: Vec<TcpStream> = Vec::with_capacity(MANY);
    for n in 0..MANY {
        all.push(bench.session.connect(Who::Agent, Who::Egress, [9099, 80, 443][n % 3]));
    }
    // Those beyond the limit are closed upon, at once.
    let closed = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        matches!((&*stream).read(&mut [0]), Ok(0))
    };
    wait_until("the rest is closed", || all.iter().filter(|s| closed(s)).count() >= MANY - 1100);
    let kept = all.iter().filter(|s| !closed(s)).count();
    assert!((500..=1024).contains(&kept), "{kept} are kept");
    let grown = bench.egress.memory("VmRSS").saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for {kept} connections");
    drop(all);
    wait_until("there is room again", || {
        let request = get("good.test", "/open/x", "");
        let outcome = Shot::tunnel("good.test").send(request).fire(&bench.session);
        outcome.text().contains(SAID)
    });
}

/// Reads a whole answer of this many bytes, and tells how much memory egress had at most.
fn download(bench: &Bench, host: &str, bytes: u64) -> u64 {
    let request = get(host, &format!("/huge/{bytes}"), "");
    let read = Shot::tunnel(host).send(request).drain(&bench.session);
    assert!(read >= bytes, "{read} of {bytes}");
    bench.egress.memory("VmHWM")
}

#[test]
fn a_long_answer_takes_no_memory() {
    let bench = Bench::new();
    let before = download(&bench, "good.test", 4 << 20).max(download(&bench, "auth.test", 4 << 20));
    // A gigabyte: what stays is not more with ten, and a debug build takes its time.
    let after = download(&bench, "good.test", 1 << 30);
    assert!(after < before + (16 << 10), "{before} KiB became {after}");
    // Where a credential is looked for in it, too.
    let after = download(&bench, "auth.test", 64 << 20);
    assert!(after < before + (16 << 10), "{before} KiB became {after}");
    drop(bench.good);
}

#[test]
fn a_routes_file_that_is_none_changes_nothing_under_load() {
    let bench = Bench::new();
    let first = bench.session.state().unwrap();
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (done, served) = (Arc::new(done), Arc::new(served));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    bench.serves();
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for garbage in ["", "{", "\0\0\0", r#"{"protocol": 1, "routes": {}}"#, "[]", "null"] {
            let so_far = served.load(Ordering::SeqCst);
            bench.session.write("in/routes.json", garbage);
            bench.egress.signal(Signal::HUP);
            wait_until("the error is told", || {
                bench.session.state().is_some_and(|state| state.error.is_some())
            });
            wait_until("requests go on", || served.load(Ordering::SeqCst) > so_far + 5);
            assert_eq!(bench.session.state().unwrap().loaded, first.loaded, "{garbage:?}");
            bench.session.write_routes(&routes(&bench.session));
            bench.egress.signal(Signal::HUP);
            wait_until("the error is gone", || {
                bench.session.state().is_some_and(|state| state.error.is_none())
            });
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(served.load(Ordering::SeqCst) > 30);
}
