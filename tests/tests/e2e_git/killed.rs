//! The gate killed in the middle of a push, and started again: upstream is untouched or complete,
//! and the mirror can be used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use bottle_tests::host::{docker, until};

use crate::World;

/// How far a push is when the gate is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The pack is on its way into the gate.
    Comes,
    /// It is there whole, and looked into.
    IsLookedInto,
    /// Upstream has it and has not decided.
    IsJudged,
    /// Upstream's refs are changed; the gate does not know yet.
    IsThere,
}

/// A hook of upstream's, held at a stage for as long as a file is there.
const HOOK: &str = "#!/bin/sh
name=${0##*/}
[ -e hold-$name ] || exit 0
touch held-$name
while [ -e hold-$name ]; do sleep 0.02; done
rm held-$name
";

impl Stage {
    const ALL: [Self; 4] = [Self::Comes, Self::IsLookedInto, Self::IsJudged, Self::IsThere];

    /// The hook of upstream's that no push gets past at that stage.
    fn hook(self) -> &'static str {
        if self == Self::IsThere { "post-receive" } else { "pre-receive" }
    }

    /// Returns once a push is so far.
    fn reached(self, world: &World) {
        let incoming = "/mirrors/web.git/objects/tmp_objdir-incoming-*";
        let seen = match self {
            Self::Comes => incoming.to_owned(),
            Self::IsLookedInto => format!("{incoming}/pack/pack-*.idx"),
            Self::IsJudged | Self::IsThere => {
                let held = world.upstream.at(&format!("acme/web.git/held-{}", self.hook()));
                return until("upstream runs its hook", || held.exists());
            }
        };
        let look = format!("until ls -d {seen} 2>/dev/null; do :; done");
        docker(&["exec", &world.gate(), "timeout", "60", "sh", "-c", &look]).code(0);
    }
}

/// Whether a process works in this folder, as git does in the repository that it serves.
fn is_worked_in(folder: &Path) -> bool {
    let processes = fs::read_dir("/proc").expect("readable").flatten();
    let mut folders =
        processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    folders.any(|at| at == folder)
}

#[test]
fn a_gate_that_is_killed_leaves_upstream_untouched_or_complete() {
    let world = World::ssh("gitkill", "");
    let repository = world.upstream.at("acme/web.git");
    for hook in ["pre-receive", "post-receive"] {
        let hook = repository.join("hooks").join(hook);
        fs::write(&hook, HOOK).expect("written");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("runnable");
    }
    let before = world.upstream.refs();
    for stage in Stage::ALL {
        let branch = format!("agent/{stage:?}");
        let commit = "cd /tmp/web && for n in $(seq 40); do head -c 300000 /dev/urandom > f$n; done && \
                      git add . && git commit -qm much && git rev-parse HEAD";
        let tip = world.inside(commit).code(0).out.trim().to_owned();
        let line = format!("refs/heads/{branch} {tip}");
        let push = format!("cd /tmp/web && git push origin HEAD:{branch} 2>&1");
        let hold = repository.join(format!("hold-{}", stage.hook()));
        fs::write(&hold, "").expect("written");
        thread::scope(|scope| {
            let pushing = scope.spawn(|| world.inside(&push));
            stage.reached(&world);
            docker(&["kill", &world.gate()]).code(0);
            let ended = pushing.join().expect("it ends");
            assert_ne!(ended.status, Some(0), "{stage:?}: {}", ended.out);
        });
        let refs = world.upstream.refs();
        assert_eq!(refs.contains(&line), stage == Stage::IsThere, "{stage:?}: {refs}");
        fs::remove_file(hold).expect("it is there");
        until("upstream is done with it", || !is_worked_in(&repository));
        let refs = world.upstream.refs();
        assert!(refs.contains(&line) || !refs.contains(&branch), "{stage:?}: {refs}");
        world.upstream.git("acme/web.git", &["fsck", "--strict"]);
        // `bottle apply` starts it and delivers again.
        world.host.plans(&world.session, "again.json", &[]);
        world.host.run(&["apply", "again.json", "--yes"]).code(0);
        world.inside("cd /tmp/web && git fetch origin").code(0);
        world.inside(&push).code(0);
        assert!(world.upstream.refs().contains(&line));
        let fsck = "git --git-dir /mirrors/web.git fsck --strict 2>&1";
        docker(&["exec", &world.gate(), "sh", "-c", fsck]).code(0);
    }
    assert!(world.upstream.refs().contains(before.trim()));
    world.down();
}
