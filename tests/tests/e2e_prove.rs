//! `bottle prove` on the real engine: the walls of a throw-away bottle hold and nothing of it stays, a
//! running session is entered and left as it was, and a wall that somebody broke is seen.
//!
//! An engine is expected to answer (`scripts/host-setup` starts one), and `cargo build -p bottle`
//! to have been run.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use bottle_tests::host::{Host, Ran, docker, inspect, unique, until};
use serde_json::Value;

/// What `prove --json` found.
struct Proof {
    all: Vec<Value>,
    held: bool,
}

impl Proof {
    fn of(ran: &Ran) -> Self {
        let found: Value = serde_json::from_str(&ran.out)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", ran.out, ran.err));
        let all = found["attempts"].as_array().expect("a list").clone();
        let held = found["held"].as_bool().expect("a verdict");
        assert_eq!(ran.status, Some(if held { 0 } else { 1 }), "{}", ran.err);
        Self { all, held }
    }

    /// The ids of what did not go as it should, less what this host's kernel lets through of every
    /// bridge that has no address, and less what a runtime without limits does.
    fn broken(&self) -> BTreeSet<&str> {
        let broken = self.all.iter().filter(|row| row["held"] != true);
        let ids = broken.map(|row| row["id"].as_str().expect("text"));
        ids.filter(|id| kernel_checks_sources() || !id.starts_with("one-way-"))
            .filter(|id| limits_hold() || *id != "too-many-threads")
            .collect()
    }

    fn row(&self, id: &str) -> &Value {
        let found = self.all.iter().find(|row| row["id"] == id);
        found.unwrap_or_else(|| panic!("no attempt {id}"))
    }

    fn tried(&self) -> usize {
        self.all.iter().filter(|row| row["tried"] == true).count()
    }
}

/// Whether the kernel drops what it could not answer; what holds of a bridge is the stricter of these
/// two (ip-sysctl.rst, `rp_filter`).
fn kernel_checks_sources() -> bool {
    ["all", "default"].iter().any(|name| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
        text.is_ok_and(|text| text.trim() != "0")
    })
}

/// Whether the runtime that a bottle takes by itself puts its processes into cgroups: gVisor does
/// not where it is registered so.
fn limits_hold() -> bool {
    let runtimes = docker(&["info", "--format", "{{json .Runtimes}}"]).code(0).out;
    !runtimes.contains("--ignore-cgroups")
}

/// What is below a folder of the state root.
fn entries(host: &Host, folder: &str) -> Vec<String> {
    let found = fs::read_dir(host.at(folder)).into_iter().flatten().flatten();
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[track_caller]
fn nothing_is_left(host: &Host) {
    assert_eq!(host.leavings(), Vec::<String>::new());
    for folder in ["root/state", "root/history"] {
        assert_eq!(entries(host, folder), Vec::<String>::new(), "{folder}");
    }
    let locks = entries(host, "root/locks");
    assert!(locks.iter().all(|lock| !lock.starts_with("prove")), "{locks:?}");
}

fn manifest(routes: &str) -> String {
    format!(
        "bottles:
  box:
    egress: {{routes: [{routes}]}}
    provider: {{command: [sleep, '86400']}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
agents:
  dev: {{bottle: box}}
"
    )
}

#[test]
fn every_wall_of_a_throw_away_bottle_holds_and_nothing_of_it_stays() {
    let host = Host::new();
    let proof = Proof::of(&host.run(&["prove", "--json"]));
    assert_eq!(proof.broken(), BTreeSet::new());
    let all_hold = kernel_checks_sources() && limits_hold();
    assert_eq!(proof.held, all_hold, "what the kernel lets through is told");
    assert_eq!(proof.row("too-many-threads")["held"], limits_hold());
    assert!(proof.tried() >= 150, "{} were tried", proof.tried());
    for id in ["twin-tcp", "twin-udp", "net-twin", "dns-granted", "own-routes", "granted"] {
        let row = proof.row(id);
        assert_eq!((&row["expected"], &row["tried"]), (&"allowed".into(), &true.into()), "{row}");
    }
    assert_eq!(proof.row("granted")["happened"], "the canary answered");
    nothing_is_left(&host);
}

#[test]
fn the_table_fits_a_terminal_and_ends_with_the_verdict() {
    let host = Host::new();
    let ran = host.run(&["prove"]);
    let long: Vec<&str> = ran.out.lines().filter(|line| line.chars().count() > 80).collect();
    // The last line names every wall that did not hold.
    assert!(long.iter().all(|line| line.contains(" attempts")), "{long:?}");
    let last = ran.out.lines().last().expect("a line");
    if kernel_checks_sources() && limits_hold() {
        assert!(last.ends_with("every wall held"), "{last}\n{}", ran.err);
        ran.code(0);
        return;
    }
    for (holds, open) in
        [(kernel_checks_sources(), "one-way-direct"), (limits_hold(), "too-many-threads")]
    {
        assert_eq!(last.contains(open), !holds, "{last}\n{}", ran.err);
    }
    let ran = ran.code(1).prints("OPEN");
    if !kernel_checks_sources() {
        ran.says("rp_filter");
    }
}

#[test]
fn a_running_session_is_entered_and_left_as_it_was() {
    let host = Host::with_manifest(&manifest("{host: api.example.test, port: 443}"));
    let session = unique("proved");
    host.up(&session);
    let container = format!("bottle-{session}");
    let before = inspect(&container);

    let proof = Proof::of(&host.run(&["prove", &session, "--json"]));
    assert_eq!(proof.broken(), BTreeSet::new());
    assert!(proof.tried() >= 100, "{} were tried", proof.tried());
    assert_eq!(proof.row("proxy-granted")["tried"], false, "there is no route for it");
    assert_eq!(proof.row("dns-granted")["attempt"], "ask egress for api.example.test");
    assert_eq!(proof.row("tunnel-granted")["held"], true);

    let after = inspect(&container);
    for part in ["Id", "State", "NetworkSettings"] {
        assert_eq!(before[part], after[part], "{part}");
    }
    let replan = ["plan", "--manifest", "bottle.yaml", "--identity", &session];
    host.run(&[&replan[..], &["--detailed-exitcode"]].concat()).code(0);
    host.run(&["prove", "no-such-session"]).code(1).says("there is no session");
}

#[test]
fn a_wall_that_somebody_broke_is_seen() {
    let host = Host::with_manifest(&manifest(""));
    let session = unique("proved");
    host.up(&session);
    docker(&["network", "connect", "bridge", &format!("bottle-{session}")]).code(0);

    let ran = host.run(&["prove", &session, "--json"]);
    let proof = Proof::of(&ran);
    assert!(!proof.held);
    let broken = proof.broken();
    for id in ["host-tcp", "host-udp", "host-ping", "second-network"] {
        assert!(broken.contains(id), "{id} is not among {broken:?}");
    }
    // This host says so itself, whatever the container says.
    let heard = proof.row("host-tcp")["happened"].as_str().expect("text");
    assert!(heard.starts_with("this host heard it at "), "{heard}");
    assert!(!broken.contains("capeff"), "{broken:?}");
    host.run(&["prove", &session]).code(1).prints("OPEN").prints("second-network");
}

#[test]
fn an_interrupt_takes_the_bottle_away_first() {
    let host = Host::new();
    let mut command = host.command(&["prove"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    until("something of the bottle is there", || !host.leavings().is_empty());
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("it runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    nothing_is_left(&host);
}
