//! A refusal on the real engine becomes a rule: plan, apply, refused, blocked, allow, and it works,
//! while the agent's container stays what it was.
//!
//! An engine is expected to answer, and `cargo build -p bottle` to have been run.

use std::process::Command;

use bottle_tests::host::{Host, inspect, ran, unique, until};
use bottle_tests::outside::{answering, this_host};

const MARK: &str = "reached-the-outside";

/// One request from inside the agent's container, through egress; what came back.
fn asks(agent: &str, method: &str, url: &str) -> String {
    // The base image has no curl: bash speaks to the proxy by itself.
    let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let script = format!(
        "exec 3<>/dev/tcp/egress/9099\nprintf '{method} {url} HTTP/1.1\\r\\nHost: {host}\\r\\n\
         Content-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' >&3\ntimeout 10 cat <&3\n"
    );
    let mut command = Command::new("docker");
    ran(command.args(["exec", "-i", agent, "bash", "-s"]), script.as_bytes()).out
}

#[test]
fn a_refusal_becomes_a_rule() {
    let port = answering(MARK);
    let address = this_host();
    let host = Host::new();
    host.write(
        "root/bottles/box.yaml",
        &format!(
            "egress: {{routes: [{{host: hello.test, port: {port}, address: {address}, \
             allow: [{{methods: [GET], paths: [/open]}}]}}]}}\n\
             provider: {{command: [sleep, '86400']}}\nisolation: container\n\
             image: {{reference: 'debian:bookworm-slim'}}\n"
        ),
    )
    .write("root/agents/dev.yaml", "bottle: box\n");
    let session = unique("allow");
    let agent = format!("bottle-{session}");
    host.run(&["plan", "dev", "--name", &session, "-o", "plan.json"]).code(0);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    let url = |path: &str| format!("http://hello.test:{port}{path}");
    // The engine may lose what a short-lived exec prints: it is asked until it is heard.
    until("what is granted is answered", || asks(&agent, "GET", &url("/open")).contains(MARK));
    for item in ["/items/1", "/items/2"] {
        let answer = asks(&agent, "POST", &url(item));
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }

    let asked = format!("POST hello.test:{port}/items/*\n     2 times");
    until("the refusals are in the log", || host.run(&["blocked"]).out.contains(&asked));
    let ran = host.run(&["blocked", "@last"]).code(0).prints("bottle allow");
    ran.prints(&format!("bottle allow {session} 1"));
    let before = inspect(&agent)["Id"].clone();
    host.run(&["allow", "@last", "1"]).code(11).says("nobody approved");
    let ran = host.run(&["allow", "@last", "1", "--always", "--yes"]).code(0);
    ran.says(&format!("newly allows: POST on /items/* at hello.test:{port}"));
    assert_eq!(inspect(&agent)["Id"], before, "the agent's container is untouched");
    let answer = asks(&agent, "POST", &url("/items/3"));
    assert!(answer.contains(MARK), "{answer}");
    let answer = asks(&agent, "DELETE", &url("/items/3"));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");

    // What was approved stays for this session, and is there for the next.
    host.run(&["plan", "--identity", &session, "--detailed-exitcode"]).code(0);
    assert!(host.read("root/overlays/box.yaml").contains("paths: [\"/items/*\"]"));
    let next = unique("allow");
    let words = ["plan", "dev", "--name", &next, "-o", "next.json"];
    host.run(&words).code(0).says("overlays/box.yaml");
    let rules = host.plan("work/next.json").grants.egress.routes.into_values().next();
    assert_eq!(rules.expect("a route").allow.len(), 2);

    host.run(&["egress", "routes", &session]).code(0).says("In force, as planned");
    let ran = host.run(&["destroy", &session, "--yes"]).code(0);
    ran.says("3 requests were refused");
    host.run(&["blocked", &session]).code(0).prints("has ended");
}
