//! The gate killed in the middle of a push, and started again: upstream is untouched or complete,
//! and the mirror can be used.

use std::thread;
use std::time::Duration;

use bottle_tests::host::docker;

use crate::World;

#[test]
fn a_gate_that_is_killed_leaves_upstream_untouched_or_complete() {
    let world = World::ssh("gitkill", "");
    world
        .inside(
            "cd /tmp/web && for n in $(seq 40); do head -c 300000 /dev/urandom > f$n; done && \
             git add . && git commit -qm much",
        )
        .code(0);
    let tip = world.inside("cd /tmp/web && git rev-parse HEAD").code(0).out.trim().to_owned();
    let before = world.upstream.refs();
    for (round, delay) in [50, 400, 900, 1500].into_iter().enumerate() {
        let branch = format!("agent/round-{round}");
        let push = format!("cd /tmp/web && git push origin HEAD:{branch} 2>&1");
        thread::scope(|scope| {
            let pushing = scope.spawn(|| world.inside(&push));
            // Whatever it is doing then: the rounds differ in it.
            thread::sleep(Duration::from_millis(delay));
            docker(&["kill", &world.gate()]);
            pushing.join().expect("it ends");
        });
        let refs = world.upstream.refs();
        let there = refs.contains(&format!("refs/heads/{branch} {tip}"));
        assert!(there || !refs.contains(&branch), "{refs}");
        world.upstream.git("acme/web.git", &["fsck", "--strict"]);
        // `bottle apply` starts it and delivers again.
        world.host.plans(&world.session, "again.json", &[]);
        world.host.run(&["apply", "again.json", "--yes"]).code(0);
        world.inside("cd /tmp/web && git fetch origin").code(0);
        world.inside(&push).code(0);
        assert!(world.upstream.refs().contains(&format!("refs/heads/{branch} {tip}")));
    }
    assert!(world.upstream.refs().contains(before.trim()));
    let fsck = "git --git-dir /mirrors/web.git fsck --strict 2>&1";
    docker(&["exec", &world.gate(), "sh", "-c", fsck]).code(0);
    world.down();
}
