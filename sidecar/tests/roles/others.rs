//! Supervise: what it says until it is built. And settings that no role can use.

use std::io::{Read as _, Write as _};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Session, Who};

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
