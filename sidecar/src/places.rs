//! Where a role finds its files, and the one port that needs a privilege.

use std::path::{Path, PathBuf};

use bottle_planner::gate::MIRRORS;
use bottle_planner::sidecar::{IN, OUT, RUN};

/// The folders a role works in. [`Places::default`] is the layout inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Settings, rendered by the planner; read-only.
    pub input: PathBuf,
    /// What the role writes for the host to read.
    pub output: PathBuf,
    /// The private folder of the socket that secrets are handed over through.
    pub run: PathBuf,
    /// Where the git gate keeps its mirrors.
    pub mirrors: PathBuf,
    /// The file that names the resolver egress asks.
    pub resolv_conf: PathBuf,
    /// The port DNS is served on and asked at: 53, but for tests.
    pub dns_port: u16,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            input: IN.into(),
            output: OUT.into(),
            run: RUN.into(),
            mirrors: MIRRORS.into(),
            resolv_conf: "/etc/resolv.conf".into(),
            dns_port: 53,
        }
    }
}

impl Places {
    /// The same layout below a folder: `in`, `out`, `run`, `mirrors` and `resolv.conf`.
    #[must_use]
    pub fn below(root: &Path, dns_port: u16) -> Self {
        Self {
            input: root.join("in"),
            output: root.join("out"),
            run: root.join("run"),
            mirrors: root.join("mirrors"),
            resolv_conf: root.join("resolv.conf"),
            dns_port,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("receive.sock")
    }
}
