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
