//! What agents ask for, as far as no engine is needed: which request is meant, and what a session
//! whose sidecar was taken over can do to the list.

use std::os::unix::fs::symlink;

use bottle_planner::document;
use bottle_planner::proposal::{Ask, MOST_PENDING, Proposal, Wish};
use bottle_planner::words::Timestamp;
use serde_json::{Value, json};

use crate::harness::Host;

fn proposal(path: &str) -> Proposal {
    let url = format!("https://api.example.com{path}");
    let methods = ["POST".to_owned()];
    let wish = Wish { url: Some(&url), methods: &methods, ..Wish::default() };
    Proposal {
        protocol: 1,
        at: Timestamp::new("2026-01-31T12:00:00Z").expect("a time"),
        ask: Ask::egress(&wish).expect("asked"),
        justification: "the task needs it".to_owned(),
    }
}

/// A host with two sessions, each with the plan that it was made from.
fn sessions() -> Host {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    for session in ["dev-aaaaa", "dev-bbbbb"] {
        host.session(session, &text);
        let folder = host.at(&format!("root/state/{session}/supervise/in"));
        std::fs::create_dir_all(folder).expect("made");
    }
    host
}

fn asks(host: &Host, session: &str, proposal: &Proposal) {
    let name = format!("root/state/{session}/supervise/out/proposals/{}.json", proposal.id());
    host.write(&name, &document::pretty(proposal).expect("a document"));
}

fn list(host: &Host) -> Value {
    host.run(&["supervise", "list", "--json"]).code(0).json()
}

#[test]
fn sessions_that_ask_the_same_are_told_apart() {
    let host = sessions();
    let one = proposal("/items/1x");
    let id = one.id();
    asks(&host, "dev-aaaaa", &one);
    asks(&host, "dev-bbbbb", &one);
    assert_eq!(list(&host)["proposals"].as_array().map(Vec::len), Some(2));
    host.run(&["supervise", "reject", &id]).code(64).says("could be any of 2").says("SESSION/ID");
    host.run(&["supervise", "reject", &format!("dev-aaaaa/{id}")]).code(0);
    let left = list(&host);
    assert_eq!(left["proposals"][0]["session"], "dev-bbbbb", "{left}");
    // What one session was answered is no answer to the other.
    let told = host.run(&["supervise", "reject", &id, "--json"]).code(0).json();
    let expected = json!({
        "event": "decided", "id": id, "session": "dev-bbbbb", "verdict": "rejected", "seen": null,
    });
    assert_eq!(told, expected);
    host.run(&["supervise", "reject", &id]).code(11).says("was rejected already");
    host.run(&["audit", "verify"]).code(0).says("4 entries");
}

#[test]
fn one_session_hides_no_other() {
    let host = sessions();
    asks(&host, "dev-bbbbb", &proposal("/items/1x"));
    std::fs::create_dir_all(host.at("root/state/dev-aaaaa/supervise/out")).expect("made");
    symlink("/", host.at("root/state/dev-aaaaa/supervise/out/proposals")).expect("linked");
    let found = list(&host);
    assert_eq!(found["proposals"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found["broken"][0]["session"], "dev-aaaaa", "{found}");
}

#[test]
fn more_than_a_sidecar_keeps_is_not_shown() {
    let host = sessions();
    for n in 0..MOST_PENDING + 30 {
        asks(&host, "dev-aaaaa", &proposal(&format!("/items/{n}x")));
    }
    asks(&host, "dev-bbbbb", &proposal("/items/1x"));
    let found = list(&host);
    assert_eq!(found["proposals"].as_array().map(Vec::len), Some(MOST_PENDING + 1), "{found}");
    assert_eq!(found["broken"].as_array().map(Vec::len), Some(1), "{found}");
}

#[test]
fn what_a_deny_rule_refuses_is_not_approved_into_an_empty_word() {
    let host = Host::with_agent();
    host.write(
        "root/bottles/dev.md",
        "---\negress:\n  routes:\n    - host: api.example.com\n      allow: [{access: read}]\n      \
         deny: [{access: all, paths: [/items/**]}]\n---\n",
    );
    let text = host.plan(&[]);
    host.session("dev-aaaaa", &text);
    let one = proposal("/items/1x");
    asks(&host, "dev-aaaaa", &one);
    let shown = host.run(&["supervise", "show", &one.id(), "--json"]).code(11);
    shown.says("a deny rule of the route of api.example.com refuses that");
}

#[test]
fn rules_that_are_kept_at_once_are_all_kept() {
    let host = Host::with_agent();
    let bottle = |rules: &str| {
        let text = format!(
            "---\negress:\n  routes:\n    - host: api.example.com\n      allow: [{rules}]\n---\n"
        );
        host.write("root/bottles/dev.md", &text);
    };
    let paths: Vec<String> = (0..6).map(|n| format!("/items/{n}")).collect();
    bottle(&format!("{{methods: [POST], paths: [{}]}}", paths.join(", ")));
    host.session("dev-aaaaa", &host.plan(&[]));
    // What the session may do is more than the manifest gives to later ones.
    bottle("{access: read}");
    let words = |path: &str| {
        let rule = ["--host", "api.example.com", "--method", "POST", "--path", path, "--always"];
        host.run(&[&["allow", "dev-aaaaa"][..], &rule].concat())
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = paths.iter().map(|path| scope.spawn(|| words(path))).collect();
        for run in runs {
            run.join().expect("it ran").code(0).says("Later sessions of bottle dev may do so too");
        }
    });
    let overlay = host.read("root/overlays/dev.yaml");
    for path in &paths {
        assert_eq!(overlay.matches(&format!("[\"{path}\"]")).count(), 1, "{overlay}");
    }
}
