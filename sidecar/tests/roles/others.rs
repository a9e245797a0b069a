//! The git gate and supervise: what they say until they are built.

use std::io::{Read as _, Write as _};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Session, Who};

fn gate(session: &Session) -> Value {
    json!({
        "protocol": 1, "listen": session.address(Who::Gate),
        "egress": [session.address(Who::Egress), 9099],
        "remotes": {"web": {
            "upstream": {"transport": "ssh", "user": "git", "host": "git.test", "port": 22,
                         "path": "acme/web.git"},
            "credential": {"kind": "secret", "secret": "KEY"},
            "known_host_keys": [], "extra_hosts": {},
            "push": {"branches": ["agent/*"], "tags": false, "force": false, "delete": false},
        }},
        "expects_delivery": true,
    })
}

#[test]
fn the_gate_says_that_it_serves_nothing_yet() {
    let session = Session::new();
    session.write("in/gate.json", &gate(&session).to_string());
    let process = session.start_ready("git-gate");
    let mut stream = session.connect(Who::Agent, Who::Gate, 9418);
    stream.write_all(b"0033git-upload-pack /web.git\0host=git-gate\0\0version=2\0").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let length = usize::from_str_radix(&answer[..4], 16).unwrap();
    assert_eq!(length, answer.len());
    assert!(answer[4..].starts_with("ERR bottle: "), "{answer}");

    assert_eq!(session.receive(r#"{"git:web": "key"}"#).0, 0);
    assert_eq!(session.receive(r#"{"git:other": "key"}"#).0, 65);
    process.signal(Signal::TERM);
    let ended = process.end();
    assert_eq!(ended.code(), Some(0));
    assert!(ended.stderr().contains("git-upload-pack /web.git"), "{}", ended.stderr());
}

#[test]
fn supervise_says_that_it_takes_nothing_yet() {
    let session = Session::new();
    let settings = json!({
        "protocol": 1, "listen": session.address(Who::Server), "identity": "dev-abcde",
        "routes": {}, "timeout_seconds": 60,
    });
    session.write("in/supervise.json", &settings.to_string());
    let process = session.start_ready("supervise");
    let mut stream = session.connect(Who::Agent, Who::Server, 9100);
    let request = "POST /mcp HTTP/1.1\r\nhost: supervise\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(serde_json::from_str::<Value>(body).unwrap()["error"].is_string());

    let first = session.state().unwrap();
    session.write("in/supervise.json", "{}");
    process.signal(Signal::HUP);
    crate::harness::wait_until("the bad file is noticed", || {
        session.state().is_some_and(|state| state.error.is_some())
    });
    assert_eq!(session.state().unwrap().loaded, first.loaded);
    process.signal(Signal::TERM);
    assert_eq!(process.end().code(), Some(0));
}

#[test]
fn a_bad_settings_file_ends_the_role() {
    for (role, file) in [
        ("git-gate", "in/gate.json"),
        ("supervise", "in/supervise.json"),
        ("egress", "in/settings.json"),
    ] {
        for text in [None, Some("{"), Some(r#"{"protocol": 99}"#)] {
            let session = Session::new();
            if let Some(text) = text {
                session.write(file, text);
            }
            let ended = session.start(role).end();
            assert_eq!(ended.code(), Some(78), "{role}: {}", ended.stderr());
            assert!(ended.stderr().contains(file), "{}", ended.stderr());
        }
    }
}
