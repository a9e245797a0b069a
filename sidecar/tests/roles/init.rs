//! The agent's init: what reaches the agent, and how it ends.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Process, Session, Who, merge, wait_until};

/// Settings that run a shell script.
fn write_init(session: &Session, script: &str, changes: Value) {
    let mut settings = json!({
        "protocol": 1, "provider": {"kind": "claude"},
        "argv": ["/bin/sh", "-c", script],
        "workdir": session.path("out").to_str(), "home": "/home/agent",
        "wait_for": {}, "expects": [], "time_seconds": 60, "idle_seconds": 60,
    });
    merge(&mut settings, changes);
    session.write("in/init.json", &settings.to_string());
}

fn run(script: &str, changes: Value) -> crate::harness::Ended {
    let session = Session::new();
    write_init(&session, script, changes);
    session.start("agent").end()
}

/// Starts a script that creates the file `up` in its workdir once it listens.
fn start_up(session: &Session, script: &str) -> Process {
    write_init(session, script, json!({}));
    let process = session.start("agent");
    wait_until("the script is up", || session.path("out/up").exists());
    process
}

#[test]
fn delivered_secrets_and_literals_reach_the_agent() {
    let session = Session::new();
    let script = r#"printf '%s|%s|%s|%s|%s' "$LITERAL" "$TOKEN" "$SECOND" "$HOME" "$(pwd)""#;
    write_init(&session, script, json!({"expects": ["TOKEN", "SECOND"]}));
    session.write("in/agent.env", "LITERAL=a b=c\nHOME=/elsewhere\n");
    let process = session.start("agent");
    wait_until("secrets are taken", || session.path("run/receive.sock").exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(session.path("run/receive.sock")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let (code, error) = session.receive(r#"{"TOKEN": "hunter2", "OTHER": "hunter3"}"#);
    assert_eq!(code, 65);
    assert!(error.contains("OTHER") && !error.contains("hunter"), "{error}");
    assert_eq!(session.receive(r#"{"TOKEN": "hunter2\nx"}"#).0, 0);
    assert_eq!(session.receive(r#"{"SECOND": ""}"#).0, 0);

    let ended = process.end();
    let workdir = session.path("out").canonicalize().unwrap();
    let expected = format!("a b=c|hunter2\nx||/home/agent|{}", workdir.display());
    assert_eq!((ended.code(), ended.stdout()), (Some(0), expected.as_str()));
    assert!(!ended.stderr().contains("hunter"), "{}", ended.stderr());
}

#[test]
fn nothing_is_delivered_before_the_role_is_up_or_after_the_agent_runs() {
    let session = Session::new();
    assert_eq!(session.receive("{}").0, 75);
    let process = start_up(&session, "trap 'exit 3' TERM; touch up; while :; do sleep 0.05; done");
    assert_eq!(session.receive(r#"{"TOKEN": "x"}"#).0, 65);
    assert_eq!(session.receive("[]").0, 65);
    process.signal(Signal::TERM);
    assert_eq!(process.end().code(), Some(3));
}

#[test]
fn the_exit_code_is_the_agents() {
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        assert_eq!(run(script, json!({})).code(), Some(code), "{script}");
    }
}

#[test]
fn what_cannot_run_is_said() {
    for (changes, code, said) in [
        (json!({"argv": ["/no/such/program"]}), 127, "/no/such/program"),
        (json!({"argv": ["/etc/passwd"]}), 126, "/etc/passwd"),
        (json!({"argv": []}), 78, "argv"),
        (json!({"workdir": "/no/such/folder"}), 78, "/no/such/folder"),
        (json!({"time_seconds": 0}), 78, "time_seconds"),
        (json!({"protocol": 2}), 78, "protocol"),
    ] {
        let ended = run("true", changes);
        assert_eq!(ended.code(), Some(code), "{}", ended.stderr());
        assert!(ended.stderr().contains(said), "{}", ended.stderr());
    }
    assert_eq!(Session::new().start("agent").end().code(), Some(78));
}

#[test]
fn signals_reach_the_agent() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        let session = Session::new();
        let script =
            format!("trap 'echo {name}; exit 5' {name}; touch up; while :; do sleep 0.05; done");
        let process = start_up(&session, &script);
        process.signal(signal);
        let ended = process.end();
        assert_eq!((ended.code(), ended.stdout()), (Some(5), format!("{name}\n").as_str()));
    }
}

#[test]
fn a_signal_before_the_agent_runs_ends_the_init() {
    let session = Session::new();
    write_init(&session, "true", json!({"expects": ["TOKEN"]}));
    let process = session.start("agent");
    wait_until("secrets are taken", || session.path("run/receive.sock").exists());
    process.signal(Signal::TERM);
    assert_eq!(process.end().code(), Some(143));
}

#[test]
fn orphans_are_reaped() {
    // The signal 0 reaches a zombie, so the loop ends only when somebody reaped it.
    let script = "sh -c 'sleep 0.05 & echo $! >orphan'; \
                  while kill -0 $(cat orphan) 2>/dev/null; do sleep 0.01; done; exit 9";
    assert_eq!(run(script, json!({})).code(), Some(9));
}

#[test]
fn a_stopped_agent_is_woken() {
    assert_eq!(run("kill -STOP $$; exit 4", json!({})).code(), Some(4));
}

#[test]
fn the_time_limit_ends_the_agent() {
    let begun = Instant::now();
    let ended = run("while :; do echo x; sleep 0.05; done", json!({"time_seconds": 1}));
    assert_eq!(ended.code(), Some(124));
    assert!(ended.stderr().contains("time limit of 1 s"), "{}", ended.stderr());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn silence_ends_the_agent_and_output_does_not() {
    let ended = run("sleep 60", json!({"idle_seconds": 1}));
    assert_eq!(ended.code(), Some(124));
    assert!(ended.stderr().contains("no output for 1 s"), "{}", ended.stderr());
    let busy = "i=0; while [ $i -lt 25 ]; do echo x; sleep 0.1; i=$((i+1)); done";
    assert_eq!(run(busy, json!({"idle_seconds": 1})).code(), Some(0));
}

#[test]
fn the_agent_waits_for_its_sidecars() {
    let session = Session::new();
    let address = (session.address(Who::Egress), 9099);
    write_init(&session, "touch ran", json!({"wait_for": {"egress": address}}));
    let process = session.start("agent");
    wait_until("the init is up", || session.path("run/receive.sock").exists());
    assert!(!session.path("out/ran").exists());
    let _listener = TcpListener::bind(address).unwrap();
    assert_eq!(process.end().code(), Some(0));
    assert!(session.path("out/ran").exists());
}

#[test]
fn how_it_ended_is_written_down() {
    let written = |session: &Session| -> Value {
        serde_json::from_str(&std::fs::read_to_string(session.path("out/ended.json")).unwrap())
            .unwrap()
    };
    for (script, changes, reason, code) in [
        ("exit 3", json!({}), "exited", 3),
        ("kill -SEGV $$", json!({}), "signalled", 139),
        ("sleep 60", json!({"time_seconds": 1}), "time_limit", 124),
        ("sleep 60", json!({"idle_seconds": 1}), "idle_limit", 124),
        ("true", json!({"argv": ["/no/such/program"]}), "not_run", 127),
        // An agent that wrote first has not the last word, nor who left a link.
        ("echo '{}' >ended.json; exit 5", json!({}), "exited", 5),
        ("ln -s /tmp/nowhere .ended.json.tmp; ln -s x ended.json; exit 6", json!({}), "exited", 6),
    ] {
        let session = Session::new();
        session.write("out/ended.json", "of a run before");
        write_init(&session, script, changes);
        session.start("agent").end();
        let told = written(&session);
        assert_eq!((&told["reason"], &told["code"]), (&reason.into(), &code.into()), "{script}");
        assert!(session.path("out/ended.json").symlink_metadata().unwrap().is_file());
    }
    let session = Session::new();
    let process = start_up(&session, "touch up; while :; do sleep 0.05; done");
    assert!(!session.path("out/ended.json").exists());
    process.signal(Signal::TERM);
    process.end();
    assert_eq!(written(&session)["reason"], "told");
}
