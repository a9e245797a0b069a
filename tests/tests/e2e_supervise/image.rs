//! Another image: from the request to the agent that goes on in it.

use serde_json::json;

use bottle_tests::host::{docker, until};
use bottle_tests::supervised::{Supervised, bash};

#[test]
fn what_a_person_would_be_refused_is_refused_at_once() {
    let world = Supervised::new();
    for (dockerfile, part) in [
        ("FROM bottle-sidecar:latest\nRUN true\n", "is not a base"),
        ("# syntax=docker/dockerfile:1\nFROM debian:bookworm-slim\n", "syntax"),
        ("FROM debian:bookworm-slim\nONBUILD RUN true\n", "ONBUILD"),
        ("FROM debian:bookworm-slim\nLABEL dev.bottle.owner=me\n", "dev.bottle"),
        (
            "FROM debian:bookworm-slim\nRUN --mount=type=secret,id=x cat /run/secrets/x\n",
            "no mount",
        ),
        ("FROM debian:bookworm-slim\nADD https://a.test/x /x\n", "ADD"),
    ] {
        let arguments = json!({"dockerfile": dockerfile, "justification": "please"});
        let result = world.calls("request-image", arguments).result();
        assert_eq!(result["isError"], true, "{dockerfile}: {result}");
        let why = result["content"][0]["text"].as_str().expect("text");
        assert!(why.contains(part), "{why}");
    }
    assert!(world.list().is_empty());
}

#[test]
fn an_approved_image_is_what_the_agent_comes_back_in() {
    let world = Supervised::new();
    let container = world.container();
    bash(&container, "echo kept > ~/note");
    let dockerfile = "FROM debian:bookworm-slim\nRUN echo tool > /usr/local/share/tool\n";
    let arguments = json!({"dockerfile": dockerfile, "justification": "the tool is missing"});
    let call = world.calls("request-image", arguments);
    let (id, digest) = world.shown();
    let other = "FROM debian:bookworm-slim\nRUN echo other > /usr/local/share/tool\n";
    let other = json!({"dockerfile": other, "justification": "or this one"});
    let _other = world.calls("request-image", other);
    let waiting = world.pending(2);
    let other = waiting.iter().filter_map(|p| p["id"].as_str()).find(|other| *other != id);
    let other = other.expect("the second").to_owned();
    let shown = world.host.run(&["supervise", "show", &id]).code(0);
    shown.prints("the tool is missing").prints("+RUN echo tool").prints("bottle resume");
    let approve = ["supervise", "approve", &id, "--expect", &digest];
    let said = world.host.run(&approve).code(0).says(&format!("bottle resume {}", world.session));
    assert!(said.err.contains("approved"), "{}", said.err);
    assert_eq!(call.answer()["answer"], "approved");

    // No second image takes the place of one that nobody has seen in force; nor is what was approved
    // rejected, where the answer was lost.
    world.host.run(&["supervise", "show", &other, "--json"]).code(11).says("another image");
    let answer = format!("root/state/{}/supervise/in/answers/{id}.json", world.session);
    let text = world.host.read(&answer);
    std::fs::remove_file(world.host.at(&answer)).expect("it was answered");
    world.host.run(&["supervise", "reject", &id]).code(11).says("cut short, and is in force");
    world.host.write(&answer, &text);

    // It rests, with everything kept.
    let state = docker(&["inspect", "--format", "{{.State.Running}}", &container]).code(0).out;
    assert_eq!(state.trim(), "false");
    assert!(world.host.has(&format!("root/state/{}/.preserve", world.session)));
    world.host.run(&["resume", &world.session, "--detach", "--yes"]).code(0);
    let mut tool = String::new();
    until("the new image is there", || {
        tool = bash(&container, "cat /usr/local/share/tool ~/note");
        !tool.is_empty()
    });
    assert_eq!(tool, "tool\nkept\n");
    assert_eq!(world.audit(), ["answered", "done"]);

    // Asked for once more, it is in force: approving changes nothing, and stops nobody.
    let again = json!({"dockerfile": dockerfile, "justification": "is it there?"});
    let call = world.calls("request-image", again);
    let waiting = world.pending(2);
    let again = waiting.iter().filter_map(|p| p["id"].as_str()).find(|again| *again != other);
    let again = again.expect("the third").to_owned();
    let digest = world.digest(&again);
    world.host.run(&["supervise", "approve", &again, "--expect", &digest]).code(0);
    assert_eq!(call.answer()["answer"], "approved");
    let state = docker(&["inspect", "--format", "{{.State.Running}}", &container]).code(0).out;
    assert_eq!(state.trim(), "true");
    let plan = ["plan", "dev", "--identity", &world.session, "--detailed-exitcode"];
    world.host.run(&plan).code(0);
}
