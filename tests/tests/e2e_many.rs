//! Many sessions at once: each apart from the others, and nothing left behind.
//!
//! An engine is expected to answer (`scripts/host-setup` starts one), and `cargo build -p bottle`
//! to have been run.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};

use bottle_planner::words::Role;
use bottle_tests::host::{Host, docker, unique};
use serde_json::Value;

/// What the sessions are started with at the same time.
const MANY: usize = 20;

fn manifest(agent: &str) -> String {
    format!(
        "bottles:
  box:
    provider: {{command: [sh, -c, '{agent}']}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
    limits: {{memory: 128M, pids: 64}}
agents:
  dev: {{bottle: box}}
"
    )
}

fn start(host: &Host, session: &str) -> Child {
    let words = ["start", "dev", "--manifest", "bottle.yaml", "--name", session];
    let mut command = host.command(&[&words[..], &["--yes", "--detach", "--task", "go"]].concat());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it starts")
}

fn ended(child: Child) {
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn many_at_once_and_each_apart() {
    let host = Host::with_manifest(&manifest("echo $HOSTNAME > ~/mine; sleep 86400"));
    let sessions: Vec<String> = (0..MANY).map(|_| unique("many")).collect();
    let all: Vec<Child> = sessions.iter().map(|session| start(&host, session)).collect();
    all.into_iter().for_each(ended);
    let listed = host.run(&["list", "--json"]).code(0);
    let listed: Vec<Value> = serde_json::from_str(&listed.out).expect("JSON");
    let running = listed.iter().filter(|row| row["state"] == "running").count();
    assert_eq!(running, MANY, "{listed:#?}");

    let places: Vec<(Ipv4Addr, Ipv4Addr)> = sessions
        .iter()
        .map(|session| {
            let plan = host.plan(&format!("root/state/{session}/plan.json"));
            let at = |role| plan.session.places.get(&role).expect("it has a place").net;
            (at(Role::Agent), at(Role::Egress))
        })
        .collect();
    for (n, session) in sessions.iter().enumerate() {
        let (_, own) = places[n];
        let (agent, egress) = places[(n + 1) % MANY];
        let reach =
            |at| format!("timeout 3 bash -c 'echo > /dev/tcp/{at}/9099' 2>/dev/null && echo {at}");
        let script = format!(
            "{}; {}; timeout 3 bash -c 'echo > /dev/tcp/{agent}/22' 2>&1 | grep -i refused; ls ~; true",
            reach(own),
            reach(egress),
        );
        let found = docker(&["exec", &format!("bottle-{session}"), "sh", "-c", &script]).code(0);
        // Its own egress answers, and nothing of its neighbour's does, not even with a refusal.
        assert_eq!(found.out, format!("{own}\nmine\n"), "{session}");
    }
    let report = host.run(&["report", "--json"]).code(0);
    let report: Value = serde_json::from_str(&report.out).expect("JSON");
    let text = report.to_string();
    assert!(sessions.iter().all(|session| text.contains(session)), "{report:#}");

    for session in &sessions {
        docker(&["rm", "-f", &format!("bottle-{session}"), &format!("bottle-egress-{session}")])
            .code(0);
        fs::remove_dir_all(host.at(&format!("root/state/{session}"))).expect("removed");
    }
    host.run(&["cleanup", "--yes"]).code(0);
    assert!(host.leavings().is_empty(), "{:?}", host.leavings());
    let left: Vec<_> = fs::read_dir(host.at("root/state")).expect("there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
