//! Whoever decides is killed, at each step of it: no proposal is lost, none is applied twice, the
//! audit log holds together.

use bottle_tests::host::{docker, until};
use bottle_tests::supervised::{Supervised, approve_and_be_killed, bash};
use serde_json::json;

#[test]
fn killed_at_any_moment_an_approval_can_be_given_again() {
    let world = Supervised::new();
    // A whole decision takes this long here; it is killed at times spread over that and beyond.
    for (n, part) in (1u64..=8).map(|n| (n, n * 60)).collect::<Vec<_>>() {
        let path = format!("/k{n}x/item");
        let call = world.asks_egress("POST", &path);
        let (id, digest) = world.shown();
        approve_and_be_killed(&world.host, &id, &digest, part);
        if !world.list().is_empty() {
            // It was not done before it was killed: it is seen again, and carried on.
            let digest = world.digest(&id);
            world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(0);
        }
        assert_eq!(call.answer()["answer"], "approved", "after {part} ms");
        until("it is in force", || world.status("POST", &path) == "200");
    }
    world.host.run(&["audit", "verify"]).code(0);
    let approvals = world.host.read(&format!("root/state/{}/approvals.json", world.session));
    for n in 1..=8 {
        assert_eq!(approvals.matches(&format!("/k{n}x/item")).count(), 1, "{approvals}");
    }
}

#[test]
fn killed_at_any_moment_an_image_is_approved_once_and_taken_up() {
    let world = Supervised::new();
    let container = world.container();
    bash(&container, "echo kept > ~/note");
    // Before it is written down, while it is, before the agent is told, before it is stopped.
    for (n, part) in (1u64..=5).map(|n| (n, n * 30)) {
        let dockerfile =
            format!("FROM debian:bookworm-slim\nRUN echo tool {n} > /usr/local/share/tool\n");
        let arguments = json!({"dockerfile": dockerfile, "justification": "the tool is missing"});
        let call = world.calls("request-image", arguments);
        let (id, digest) = world.shown();
        approve_and_be_killed(&world.host, &id, &digest, part);
        let approve =
            |digest: &str| world.host.run(&["supervise", "approve", &id, "--expect", digest]);
        if world.list().is_empty() {
            // Only the stop may be missing, and whoever tries again is told so.
            approve(&digest).code(11).says("approved already").says("bottle resume");
        } else {
            approve(&world.digest(&id)).code(0);
        }
        assert_eq!(call.answer()["answer"], "approved", "after {part} ms");
        world.host.run(&["stop", &world.session]).code(0);
        world.host.run(&["resume", &world.session, "--detach", "--yes"]).code(0);
        let mut tool = String::new();
        until("the new image is there", || {
            tool = bash(&container, "cat /usr/local/share/tool ~/note");
            !tool.is_empty()
        });
        assert_eq!(tool, format!("tool {n}\nkept\n"), "after {part} ms");
    }
    world.host.run(&["audit", "verify"]).code(0);
    let dangling =
        docker(&["ps", "-aq", "--filter", &format!("name=bottle-build-{}", world.session)]);
    assert_eq!(dangling.out, "");
}

/// As a kill between the effect and the answer leaves it.
#[test]
fn an_approval_that_was_cut_short_is_finished_and_not_rejected() {
    let world = Supervised::new();
    let _call = world.asks_egress("POST", "/items/17");
    let (id, digest) = world.shown();
    world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(0);
    let answer = format!("root/state/{}/supervise/in/answers/{id}.json", world.session);
    std::fs::remove_file(world.host.at(&answer)).expect("it was answered");

    world.host.run(&["supervise", "reject", &id]).code(11).says("cut short, and is in force");
    let digest = world.digest(&id);
    world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(0);
    assert!(world.host.has(&answer));
    assert_eq!(world.audit(), ["answered", "done", "answered", "done"]);
    let approvals = world.host.read(&format!("root/state/{}/approvals.json", world.session));
    assert_eq!(approvals.matches("/items/*").count(), 1, "{approvals}");
}
