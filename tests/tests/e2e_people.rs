//! People at sessions: starting one, joining it on a real terminal, leaving it, running something
//! beside it, and what becomes of it where its agent ends.
//!
//! An engine is expected to answer (`scripts/host-setup`), and `cargo build -p bottle` to have been
//! run.

use bottle_tests::host::{Host, docker, unique, until};
use bottle_tests::terminal::OnTerminal;
use serde_json::Value;

/// An agent that runs a script.
fn host(script: &str) -> Host {
    let script = serde_json::to_string(script).expect("text");
    Host::with_manifest(&format!(
        "bottles:
  box:
    env: {{COLOR: blue}}
    egress: {{routes: [{{host: api.example.com}}]}}
    provider: {{command: [sh, -c, {script}], resume_command: [sh, -c, 'echo again; exec sleep 86400']}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    ))
}

/// Asks for its colour and ends with 7 where it is told one.
const ASKS: &str = "echo which; stty size; while read word; do echo \"it is $word\"; [ \"$word\" = red ] && exit 7; done";

const START: [&str; 5] = ["start", "dev", "--manifest", "bottle.yaml", "--yes"];

fn start(session: &str, more: &[&'static str]) -> Vec<String> {
    let named = ["--name", session];
    START.iter().chain(&named).chain(more).map(ToString::to_string).collect()
}

fn list(host: &Host, session: &str) -> Value {
    let all: Vec<Value> =
        serde_json::from_str(&host.run(&["list", "--json"]).code(0).out).expect("JSON");
    all.into_iter().find(|row| row["session"] == session).unwrap_or(Value::Null)
}

#[test]
fn a_person_joins_an_agent_leaves_it_and_comes_back() {
    let host = host(ASKS);
    let session = unique("joined");
    let mut first = OnTerminal::run(&host, &start(&session, &[]));
    first.shows("which");
    // The size of the person's terminal is the agent's, from the start or a moment later.
    first.types("blue\r");
    first.shows("it is blue");
    first.types("\u{10}\u{11}");
    let (code, shown) = first.ends();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(&format!("bottle attach {session}")), "{shown}");
    assert_eq!(list(&host, &session)["state"], "running");

    // Ctrl-C belongs to the agent: a shell's `read` is ended by it and the script with it.
    let words = ["attach", &session].map(String::from);
    let mut second = OnTerminal::run(&host, &words);
    until("it is joined", || {
        second.types("green\r");
        std::thread::sleep(std::time::Duration::from_millis(200));
        second.shown().contains("it is green")
    });
    second.types("red\r");
    let (code, shown) = second.ends();
    assert_eq!(code, Some(7), "{shown}");
    let row = list(&host, &session);
    assert_eq!((&row["state"], &row["exit_code"]), (&"ended".into(), &7.into()), "{row}");
    host.run(&["wait", &session]).code(7);

    let log = host.run(&["logs", &session]).code(0).out;
    assert!(log.contains("it is green") && log.contains("it is red"), "{log}");
    host.run(&["logs", &session, "egress"]).code(0).says("egress is ready");

    host.run(&["resume", &session, "--manifest", "bottle.yaml", "--yes", "--detach"]).code(0);
    until("it goes on", || host.run(&["logs", &session]).out.contains("again"));
    assert_eq!(list(&host, &session)["state"], "running");
    host.run(&["destroy", &session, "--yes"]).code(0);
    assert_eq!(list(&host, &session), Value::Null);
    let history = host.run(&["list", "--all"]).code(0).out;
    assert!(history.contains(&session) && history.contains("history"), "{history}");
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn an_agent_that_prints_without_end_keeps_nobody() {
    let host = host("exec yes");
    let session = unique("floods");
    let mut person = OnTerminal::run(&host, &start(&session, &[]));
    person.shows("y\r\ny");
    person.types("\u{10}\u{11}");
    let code = person.ends().0;
    assert_eq!(code, Some(0));
    host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn an_agent_that_ends_well_leaves_nothing_and_another_everything() {
    let good = host("echo done");
    let session = unique("good");
    let ran = good.run(&start(&session, &[]).iter().map(String::as_str).collect::<Vec<_>>());
    let ran = ran.code(0);
    assert!(ran.out.contains("done"), "{} {}", ran.out, ran.err);
    assert_eq!(good.leavings(), Vec::<String>::new());
    assert!(good.has(&format!("root/history/{session}/receipt.json")));

    let bad = host("echo failed; exit 3");
    let session = unique("bad");
    let ran = bad.run(&start(&session, &[]).iter().map(String::as_str).collect::<Vec<_>>());
    let ran = ran.code(3).says(&format!("bottle resume {session}"));
    assert!(ran.out.contains("failed"), "{}", ran.out);
    assert!(!bad.leavings().is_empty());
    bad.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn a_program_beside_the_agent_has_its_place_and_its_variables() {
    let host = host("exec sleep 86400");
    let session = unique("beside");
    let words = start(&session, &["--detach"]);
    host.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).code(0);
    let script = "echo $COLOR $HTTPS_PROXY; id -u; echo oops >&2; exit 9";
    let ran = host.run(&["exec", &session, "--", "sh", "-c", script]).code(9);
    assert!(ran.out.contains("blue http://") && ran.err.contains("oops"), "{ran:?}");
    let ran =
        host.run_with(&["exec", &session, "-w", "/tmp", "--", "sh", "-c", "pwd; cat"], "in\n");
    assert_eq!(ran.code(0).out, "/tmp\nin\n");
    host.run(&["exec", &session, "-e", "hunter2", "--", "true"]).code(64);
    // More than any pipe between holds, both ways at once.
    let much = "0123456789abcdef".repeat(1 << 18);
    let ran = host.run_with(&["exec", &session, "--", "cat"], &much).code(0);
    assert!(ran.out == much, "{} of {} bytes came back", ran.out.len(), much.len());

    host.run(&["stop", &session]).code(0).says("bottle resume");
    assert_eq!(list(&host, &session)["state"], "ended");
    host.run(&["exec", &session, "--", "true"]).code(1).says("does not run");
    host.run(&["attach", &session]).code(1).says("bottle resume");
    host.run(&["stop", &session]).code(0).says("does not run");
    host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn plan_apply_and_start_make_the_same_world() {
    let host = host("exec sleep 86400");
    let session = unique("same");
    let made = |session: &str| {
        let name = format!("bottle-{session}");
        let told =
            docker(&["inspect", &name, "--format", "[{{json .Config}},{{json .HostConfig}}]"]);
        let mut told: Value = serde_json::from_str(&told.code(0).out).expect("JSON");
        // The engine's own name for it, and the plan, which says when it was made.
        told[0]["Hostname"].take();
        told[0]["Labels"]["dev.bottle.plan"].take();
        told
    };
    host.up(&session);
    let by_apply = made(&session);
    host.run(&["destroy", &session, "--yes"]).code(0);
    let words = start(&session, &["--detach"]);
    host.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).code(0);
    assert_eq!(by_apply, made(&session));
    host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let host = host("true");
    let session = unique("fails");
    // Somebody else's container has egress's address.
    let plan = host.plans(&session, "plan.json", &[]);
    let name = unique("squatter");
    let net = plan.session.net.name.clone();
    docker(&["network", "create", "--subnet", &plan.session.out.subnet.to_string(), &name]).code(0);
    let words = start(&session, &["--detach"]);
    let ran = host.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    docker(&["network", "rm", &name]).code(0);
    // Planned again past it, as a launch is, and then taken down.
    ran.code(0);
    assert!(docker(&["network", "inspect", &net]).ok());
    host.run(&["destroy", &session, "--yes"]).code(0);

    host.run(&["start", "dev", "--manifest", "bottle.yaml", "--name", &session])
        .code(11)
        .says("nobody approved the plan");
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn a_secret_that_is_missing_is_said_once_and_before_anything_is_asked() {
    let manifest = "bottles:
  box:
    egress: {routes: [{host: api.example.com, auth: {scheme: Bearer, secret: TOKEN}}]}
    provider: {command: [sleep, '86400']}
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    workspace: {modes: [none]}
agents:
  dev: {bottle: box, prompt: Be brief.}
";
    let host = Host::with_manifest(manifest);
    let session = unique("missing");
    let words = ["start", "dev", "--manifest", "bottle.yaml", "--name", session.as_str()];
    // Without `--yes` nobody could be asked: that is not what it ends with.
    let ran = host.run(&words).code(10).says("secret TOKEN is missing: the variable `TOKEN`");
    assert!(!ran.err.contains("planning again"), "{}", ran.err);
    assert!(host.leavings().is_empty());
}
