//! Session after session: the engine and the host hold afterwards what they held before. Nothing else
//! may use the engine meanwhile.
//!
//! An engine is expected to answer (`scripts/host-setup` starts one), and `cargo build -p bottle`
//! to have been run.

use std::fs;

use bottle_tests::host::{Host, docker, unique, until};

/// How often a session is started and taken down, and how many do so beside each other: 200 in all.
const CYCLES: usize = 50;
const BESIDE: usize = 4;

const MANIFEST: &str = "bottles:
  box:
    provider: {command: [sleep, '86400']}
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    workspace: {modes: [none]}
agents:
  dev: {bottle: box}
";

/// What the engine and the host hold that sessions could leave behind.
fn held() -> [(&'static str, usize); 4] {
    let lines = |words: &[&str]| docker(words).code(0).out.lines().count();
    let pid = fs::read_to_string("/var/run/docker.pid").expect("the engine's process");
    let files = fs::read_dir(format!("/proc/{}/fd", pid.trim())).expect("readable").count();
    let mounts = fs::read_to_string("/proc/mounts").expect("readable").lines().count();
    [
        ("images", lines(&["images", "-a", "-q"])),
        ("interfaces", fs::read_dir("/sys/class/net").expect("readable").count()),
        // The engine's own bookkeeping comes and goes by a few.
        ("open files of the engine", files / 64),
        ("mounts", mounts),
    ]
}

#[test]
fn one_after_another_leaves_nothing_behind() {
    let hosts: Vec<Host> = (0..BESIDE).map(|_| Host::with_manifest(MANIFEST)).collect();
    let cycle = |host: &Host| {
        let session = unique("soak");
        let start = ["start", "dev", "--manifest", "bottle.yaml", "--name", &session];
        host.run(&[&start[..], &["--yes", "--detach"]].concat()).code(0);
        host.run(&["destroy", &session, "--yes"]).code(0);
    };
    // What is made once, such as the image of the sidecars, is there after the first.
    cycle(&hosts[0]);
    let before = held();
    std::thread::scope(|scope| {
        for host in &hosts {
            scope.spawn(move || (0..CYCLES).for_each(|_| cycle(host)));
        }
    });
    until("the engine has what it had", || held() == before);
    for host in &hosts {
        assert!(host.leavings().is_empty(), "{:?}", host.leavings());
        let records = fs::read_dir(host.at("root/history")).expect("there").count();
        assert!(records >= CYCLES, "each has its record: {records}");
        let scratch = fs::read_dir(host.at("root/tmp")).into_iter().flatten().count();
        assert_eq!(scratch, 0, "no scratch stays");
    }
}
