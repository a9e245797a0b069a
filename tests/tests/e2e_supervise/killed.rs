//! Whoever decides is killed, at each step of it: no proposal is lost, none is applied twice, the
//! audit log holds together.

use std::process::Stdio;
use std::time::Duration;

use bottle_tests::host::until;
use bottle_tests::supervised::Supervised;

#[test]
fn killed_at_any_moment_an_approval_can_be_given_again() {
    let world = Supervised::new();
    // A whole decision takes this long here; it is killed at times spread over that and beyond.
    for (n, part) in (1u64..=8).map(|n| (n, n * 60)).collect::<Vec<_>>() {
        let path = format!("/k{n}x/item");
        let call = world.asks_egress("POST", &path);
        let (id, digest) = world.shown();
        let words = ["supervise", "approve", &id, "--expect", &digest];
        let mut command = world.host.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("bottle runs");
        std::thread::sleep(Duration::from_millis(part));
        child.kill().expect("killed");
        child.wait().expect("gone");

        world.host.run(&["audit", "verify"]).code(0);
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
