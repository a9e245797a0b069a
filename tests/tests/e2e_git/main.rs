//! The git gate in whole sessions on the real engine: real git in the agent's container, real git
//! hosts outside, and everything between them.
//!
//! An engine is expected to answer and `sshd` to be there (`scripts/host-setup` sees to both), and
//! `cargo build -p bottle` to have been run.

mod exceptions;
mod hosts;
mod killed;
mod large;
mod sessions;
mod walls;

use bottle_tests::host::{Host, Ran, docker, unique};

use hosts::Upstream;

/// A session that is up, and its upstream.
struct World {
    host: Host,
    upstream: Upstream,
    session: String,
}

impl World {
    /// A session with one remote over ssh; `push` is what the manifest grants, `, push: {…}`.
    fn ssh(prefix: &str, push: &str) -> Self {
        let host = Host::new();
        let upstream = Upstream::ssh(&host, push);
        Self::up(host, upstream, prefix)
    }

    /// The same, whose agent may ask a person.
    fn supervised(prefix: &str) -> Self {
        let host = Host::new();
        let upstream = Upstream::ssh(&host, "");
        let manifest = manifest(&upstream.entry);
        let manifest = manifest.replace("    git:\n", "    supervise: true\n    git:\n");
        Self::of(host, upstream, prefix, &manifest)
    }

    fn up(host: Host, upstream: Upstream, prefix: &str) -> Self {
        let manifest = manifest(&upstream.entry);
        Self::of(host, upstream, prefix, &manifest)
    }

    fn of(host: Host, upstream: Upstream, prefix: &str, manifest: &str) -> Self {
        let session = unique(prefix);
        host.write("work/bottle.yaml", manifest);
        host.up(&session);
        let world = Self { host, upstream, session };
        let url = world.upstream.url();
        world.inside(&format!("git clone -q {url} /tmp/web")).code(0);
        world.inside("cd /tmp/web && git checkout -q -b agent/work").code(0);
        world
    }

    /// Runs a shell line in the agent's container.
    fn inside(&self, line: &str) -> Ran {
        docker(&["exec", &format!("bottle-{}", self.session), "bash", "-c", line])
    }

    fn gate(&self) -> String {
        format!("bottle-git-gate-{}", self.session)
    }

    fn down(self) -> Host {
        self.host.run(&["destroy", &self.session, "--yes"]).code(0);
        let left = self.host.leavings();
        assert!(left.is_empty(), "{left:?}");
        self.host
    }
}

fn manifest(entry: &str) -> String {
    format!(
        "bottles:
  box:
    provider: {{command: [sleep, '86400']}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
    git:
      - {entry}
    git_user: {{name: Ada, email: ada@example.com}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    )
}
