//! Pushes of many bytes, and an upstream that has no room for them.

use std::process::Command;

use bottle_tests::host::ran;

use crate::World;

#[test]
fn two_hundred_megabytes_go_through_and_a_secret_at_their_end_does_not() {
    let world = World::ssh("gitbig", "");
    world
        .inside(
            "cd /tmp/web && for n in 1 2 3 4; do head -c 40000000 /dev/urandom > f$n; done && \
             seq 1000000000 | head -c 40000000 > text && \
             git add . && git commit -qm much",
        )
        .code(0);
    let pushed = world.inside("cd /tmp/web && git push origin HEAD").code(0);
    pushed.says("passed on to web");
    assert!(world.upstream.refs().contains("agent/work"));
    let token = format!("glpat-{}", "x7Qm2Lr8Tn4Vb9Kc3HjZ");
    let line = format!(
        "cd /tmp/web && (head -c 40000000 /dev/urandom; echo; echo '{token}') > f5 && git add . && \
         git commit -qm more && git push origin HEAD"
    );
    world.inside(&line).code(1).says("f5, line ").says("gitlab-pat");
    world.down();
}

/// A file system with little room, for as long as it is kept.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: std::path::PathBuf) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m", "small"]).arg(&at);
        ran(&mut mount, b"").code(0);
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn an_upstream_with_a_full_disk_refuses_in_its_words() {
    let world = World::ssh("gitfull", "");
    let objects = world.upstream.at("acme/web.git/objects");
    let kept = world.upstream.at("kept");
    std::fs::create_dir(&kept).expect("a folder");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let from = format!("{}/.", from.display());
        ran(Command::new("cp").args(["-a", &from]).arg(to), b"").code(0);
    };
    copy(&objects, &kept);
    let small = Small::mount(objects.clone());
    copy(&kept, &objects);
    let before = world.upstream.refs();
    world
        .inside("cd /tmp/web && head -c 8000000 /dev/urandom > f && git add . && git commit -qm f")
        .code(0);
    let refused = world.inside("cd /tmp/web && git push origin HEAD").code(1);
    refused.says("No space left on device").says("web does not take the push");
    assert_eq!(world.upstream.refs(), before);
    world.inside("cd /tmp/web && git reset -q --hard HEAD~1 && git push origin HEAD").code(0);
    drop(small);
    world.down();
}
