//! Proxies behind egress: squid as an organisation has it, and a next hop as pipelock is one.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use bottle_outside::{Authority, Hop, Origin, SAID};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::attack::Shot;
use crate::attack::targets::get;
use crate::harness::{Session, Who, wait_until};

/// Squid in the foreground, with names of its own; it ends with the test.
struct Squid {
    child: Child,
    folder: tempfile::TempDir,
}

impl Squid {
    /// Listens at the gate's address, which nobody else uses.
    fn start(session: &Session, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // It gives up being root.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (listen, server) = (session.address(Who::Gate), session.address(Who::Server));
        let hosts: String = names.iter().map(|name| format!("{server} {name}\n")).collect();
        std::fs::write(at("hosts"), hosts).unwrap();
        let config = format!(
            "http_port {listen}:3128\nhttp_access allow all\ncache deny all\n\
             hosts_file {}\naccess_log stdio:{}\ncache_log {}\npid_filename {}\n\
             coredump_dir {}\nshutdown_lifetime 0 seconds\nmax_filedescriptors 1024\n\
             pinger_enable off\nnetdb_filename none\n",
            at("hosts"),
            at("access.log"),
            at("cache.log"),
            at("squid.pid"),
            at("."),
        );
        std::fs::write(at("squid.conf"), config).unwrap();
        // Under a name of its own: what a killed one leaves in shared memory stops the next.
        let name = format!("bottle{}", listen.to_string().replace('.', "x"));
        let child = Command::new("squid")
            .args(["-N", "-n", &name, "-f", &at("squid.conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("scripts/host-setup --tests installs squid");
        wait_until("squid listens", || TcpStream::connect((listen, 3128)).is_ok());
        Self { child, folder }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        // Asked, and not killed: it takes its shared memory along.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
    }
}

fn secure(host: &str) -> Shot {
    Shot::tunnel(host).send(get(host, "/open/x", ""))
}

fn plain(host: &str) -> Shot {
    Shot::proxy().send(get(host, &format!("http://{host}/open/x"), ""))
}

#[test]
fn squid_carries_what_is_allowed_and_nothing_else() {
    let session = Session::new();
    let outside = Authority::new("outside");
    session.write("in/upstream-ca.pem", &outside.pem());
    let unpinned = |port: u16| session.route(port, json!({"address": null}));
    let proxy = format!("http://{}:3128", session.address(Who::Gate));
    session.write_egress(
        &json!({
            "far.test": unpinned(443), "plain.test": unpinned(80), "inside.test": unpinned(443),
            "near.corp": session.route(443, json!({})),
        }),
        json!({"upstream_proxy": [proxy, ["corp"]]}),
    );
    session.resolve("inside.test", "10.0.0.1".parse().unwrap());
    let server = session.address(Who::Server);
    let names = ["far.test", "near.corp", "inside.test"];
    let origin = Origin::tls((server, 443), outside.server(&names, &["h2", "http/1.1"]));
    let old = Origin::plain((server, 80));
    let squid = Squid::start(&session, &["far.test", "plain.test", "inside.test", "evil.test"]);
    let egress = session.start_ready("egress");

    for (shot, told) in [
        (secure("far.test"), "CONNECT far.test:443"),
        (plain("plain.test"), "GET http://plain.test/open/x"),
    ] {
        let outcome = shot.fire(&session);
        assert!(outcome.text().contains(SAID), "{told}: {} {}", outcome.end, outcome.text());
    }
    assert_eq!((origin.requests().len(), old.requests().len()), (1, 1));
    // Not through squid.
    let outcome = secure("near.corp").fire(&session);
    assert!(outcome.text().contains(SAID), "{}", outcome.text());
    // Not at all: no route, and an address that is private before squid is asked.
    for host in ["evil.test", "inside.test"] {
        let outcome = secure(host).fire(&session);
        assert!(!outcome.text().contains(SAID), "{}", outcome.text());
        assert_eq!(outcome.status(), 403, "{}", outcome.text());
    }
    // It tells of a tunnel once that is closed, and egress keeps it for the next request.
    drop(egress);
    let told = ["CONNECT far.test:443", "GET http://plain.test/open/x"];
    wait_until("squid tells of both", || told.iter().all(|told| squid.log().contains(told)));
    let log = squid.log();
    for host in ["near.corp", "evil.test", "inside.test"] {
        assert!(!log.contains(host), "{log}");
    }
    let told = |code: &str| session.decisions().iter().any(|d: &Value| d["code"] == code);
    assert!(told("address") && told("no_route"));
}

#[test]
fn everything_goes_through_the_next_hop() {
    let session = Session::new();
    let outside = Authority::new("outside");
    session.write("in/upstream-ca.pem", &outside.pem());
    let server = session.address(Who::Server);
    let origin = Origin::tls((server, 443), outside.server(&["far.test"], &["http/1.1"]));
    let old = Origin::plain((server, 80));
    let hop = Hop::serve(
        (session.address(Who::Gate), 8888),
        &[("far.test:443", origin.address()), ("plain.test:80", old.address())],
    );
    let unpinned = |port: u16| session.route(port, json!({"address": null}));
    session.write_egress(
        &json!({
            "far.test": unpinned(443), "plain.test": unpinned(80), "other.test": unpinned(443),
        }),
        json!({"next_hop": [session.address(Who::Gate), 8888]}),
    );
    // It answers that there is no such name, which is left to the hop.
    session.resolve("inside.test", "10.0.0.1".parse().unwrap());
    let _egress = session.start_ready("egress");
    for (shot, what) in [(secure("far.test"), "https"), (plain("plain.test"), "http")] {
        let outcome = shot.fire(&session);
        let heads = hop.heads();
        assert!(
            outcome.text().contains(SAID),
            "{what}: {} {} {heads:?}",
            outcome.end,
            outcome.text()
        );
    }
    let heads = hop.heads();
    assert!(heads[0].starts_with("CONNECT far.test:443 HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[1].starts_with("GET http://plain.test/open/x HTTP/1.1\r\n"), "{heads:?}");
    // What the hop refuses is no answer of the server's.
    let outcome = secure("other.test").fire(&session);
    assert_eq!(outcome.status(), 502, "{}", outcome.text());
    // What egress refuses does not come so far.
    let outcome = secure("evil.test").fire(&session);
    assert_eq!(outcome.status(), 403, "{}", outcome.text());
    assert_eq!(hop.heads().len(), 3);
}
