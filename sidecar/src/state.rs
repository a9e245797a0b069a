//! `out/state.json`: which settings are in force, for the executor to wait on.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bottle_planner::words::Digest;
use serde::{Deserialize, Serialize};

/// What a role has loaded. Written once everything is bound, and again after each reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The digest of the file in force: `routes.json` of egress, `gate.json` of the git gate,
    /// `supervise.json` of supervise. `None` when there was never a good one.
    pub loaded: Option<Digest>,
    /// Why the newest file is not the one in force.
    pub error: Option<String>,
}

impl State {
    /// Replaces the state file in one step, so that a reader never sees half of it.
    pub(crate) fn write(&self, output: &Path) -> io::Result<()> {
        let fresh = output.join(".state.json.new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        std::fs::rename(fresh, output.join("state.json"))
    }
}
