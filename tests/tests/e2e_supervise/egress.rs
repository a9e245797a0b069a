//! Network access: from the refusal to the decision that is in force.

use std::time::Duration;

use bottle_tests::host::until;
use bottle_tests::supervised::{Supervised, took};
use serde_json::{Value, json};

#[test]
fn a_refusal_becomes_a_request_and_an_approval_is_in_force_at_once() {
    let world = Supervised::new();
    assert_eq!(world.status("POST", "/items/17"), "403");
    let call = world.asks_egress("POST", "/items/17");
    let (id, digest) = world.shown();

    // Shown as what it would change, in words and with the plan's digest.
    let shown = world.host.run(&["supervise", "show", &id]).code(0);
    let shown = shown.prints("the task needs it").prints("Grants: widened");
    shown.prints(&format!("POST on /items/* at hello.test:{}", world.port)).prints(&digest);

    // Without a terminal and without the digest nobody approved it.
    world.host.run(&["supervise", "approve", &id]).code(11).says(&digest);
    world.host.run(&["supervise", "approve", &id, "--expect", &digest, "--notes", "go on"]).code(0);
    let in_force = took(|| world.status("POST", "/items/18") == "200");
    assert!(in_force < Duration::from_secs(20), "{in_force:?}");
    let answer = call.answer();
    assert_eq!(answer["answer"], "approved");
    assert_eq!(answer["notes"], "go on");
    assert!(answer["granted"].to_string().contains("POST on /items/*"), "{answer}");

    assert!(world.list().is_empty());
    world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(11).says("already");
    assert_eq!(world.audit(), ["answered", "done"]);
    // What was approved is kept by the next plan, which has nothing to do.
    let plan = ["plan", "dev", "--identity", &world.session, "--detailed-exitcode"];
    world.host.run(&plan).code(0);
}

#[test]
fn what_a_person_narrows_is_what_is_granted() {
    let world = Supervised::new();
    let call = world.asks_egress("POST", "/items/17");
    let id = world.pending(1)[0]["id"].as_str().expect("an id").to_owned();
    let narrow = ["supervise", "modify", &id, "--method", "GET", "--path", "/items/17"];
    let said = world.host.run(&narrow).code(11).err;
    let digest = said.split("--expect ").nth(1).expect("a digest").trim().to_owned();
    // The digest is of what was shown, and of nothing else.
    world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(11).says("moved");
    let mut narrow = narrow.to_vec();
    narrow.extend(["--expect", &digest]);
    world.host.run(&narrow).code(0);
    let answer = call.answer();
    assert_eq!(answer["answer"], "modified");
    assert!(answer["granted"].to_string().contains("GET on /items/17"), "{answer}");
    until("it is in force", || world.status("GET", "/items/17") == "200");
    assert_eq!(world.status("POST", "/items/17"), "403");
}

#[test]
fn a_rejection_says_why_and_changes_nothing() {
    let world = Supervised::new();
    let call = world.asks_egress("GET", "/secret");
    let id = world.pending(1)[0]["id"].as_str().expect("an id").to_owned();
    world.host.run(&["supervise", "reject", &id, "--notes", "use /open"]).code(0);
    let answer = call.answer();
    assert_eq!((&answer["answer"], &answer["notes"]), (&json!("rejected"), &json!("use /open")));
    assert_eq!(world.status("GET", "/secret"), "403");
    // Asked again in the same words, it is answered in the same words, and nobody is bothered.
    let again = world.asks_egress("GET", "/secret").answer();
    assert_eq!(again["request"], answer["request"]);
    assert!(world.list().is_empty());
}

#[test]
fn an_approval_is_of_what_was_seen() {
    let world = Supervised::new();
    let _call = world.asks_egress("POST", "/items/17");
    let (id, digest) = world.shown();
    // Another decision moves the plan in force.
    let (host, port) = ("other.test", world.port.to_string());
    let allow = ["allow", &world.session, "--host", host, "--port", &port, "--yes"];
    world.host.run(&allow).code(0);
    world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(11).says("moved");
    assert_eq!(world.status("POST", "/items/17"), "403");
    assert_eq!(world.audit(), ["allowed"]);
    let digest = world.digest(&id);
    let approve = ["supervise", "approve", &id, "--expect", &digest, "--json"];
    let events = world.host.run(&approve).code(0).out;
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(events.iter().any(|event| event["event"] == "plan_done"), "{events:?}");
    let last = events.last().expect("events");
    assert_eq!((&last["event"], &last["verdict"]), (&json!("decided"), &json!("approved")));
    assert_eq!(last["seen"], json!(digest));
    until("it is in force", || world.status("POST", "/items/17") == "200");
}

#[test]
fn a_standing_decision_is_in_the_overlay_and_in_the_next_plan() {
    let world = Supervised::new();
    let call = world.asks_egress("POST", "/items/17");
    let (id, digest) = world.shown();
    world.host.run(&["plan", "dev", "--name", "later-a", "-o", "before.json"]).code(0);
    world.host.run(&["supervise", "approve", &id, "--expect", &digest, "--always"]).code(0);
    assert_eq!(call.answer()["answer"], "approved");
    assert!(world.host.read("root/overlays/box.yaml").contains("/items/*"));
    // What later sessions may do was decided too, and before the agent was told.
    assert_eq!(world.audit(), ["answered", "kept", "done"]);
    let kept = format!(
        "kept for later sessions of bottle box: POST on /items/* at hello.test:{}",
        world.port
    );
    world.host.run(&["audit", "show"]).code(0).prints(&kept);
    world.host.run(&["plan", "dev", "--name", "later-a", "-o", "after.json"]).code(0);
    let diff = world.host.run(&["diff", "before.json", "after.json"]).code(0);
    diff.prints(&format!("POST on /items/* at hello.test:{}", world.port));
}

/// The rule could not be kept for later sessions: the proposal waits on, and approving it again
/// finishes it.
#[test]
fn a_standing_decision_that_cannot_be_kept_is_not_half_made() {
    let world = Supervised::new();
    let call = world.asks_egress("POST", "/items/17");
    let (id, digest) = world.shown();
    // Whoever keeps another rule at this moment does not come to an end with it.
    let lock = world.host.at("root/locks/overlays.lock");
    let lock = std::fs::OpenOptions::new().create(true).append(true).open(lock).expect("opened");
    lock.lock().expect("taken");
    let always = |digest: &str| {
        world.host.run(&["supervise", "approve", &id, "--expect", digest, "--always"])
    };
    assert!(!always(&digest).ok());
    assert_eq!(world.pending(1)[0]["id"], id.as_str(), "it waits on");
    drop(lock);
    always(&world.digest(&id)).code(0);
    assert_eq!(call.answer()["answer"], "approved");
    assert!(world.host.read("root/overlays/box.yaml").contains("/items/*"));
    world.host.run(&["audit", "verify"]).code(0);
}

#[test]
fn nothing_is_lost_when_the_sidecar_or_the_session_starts_again() {
    let world = Supervised::new();
    let call = world.asks_egress("POST", "/items/17");
    let (id, _) = world.shown();
    let sidecar = format!("bottle-supervise-{}", world.session);
    bottle_tests::host::docker(&["kill", &sidecar]).code(0);
    drop(call);
    world.host.run(&["stop", &world.session]).code(0);
    assert_eq!(world.pending(1)[0]["id"], id.as_str());
    world.host.run(&["resume", &world.session, "--detach", "--yes"]).code(0);
    let call = world.asks_egress("POST", "/items/17");
    let digest = world.digest(&id);
    world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(0);
    assert_eq!(call.answer()["request"], id.as_str());
}
