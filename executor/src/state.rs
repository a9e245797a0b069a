//! Where things lie on the host, and what the ledger of a session remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bottle_planner::policy::BuildHost;
use bottle_planner::words::{Digest, Identity, RelPath, Role};
use serde::{Deserialize, Serialize};

/// The state root, `~/.bottle`, and what lies below it. Roots of a plan are bound here and
/// nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The state root itself.
    pub root: PathBuf,
    /// The user's home folder (for `~` and `known_hosts`).
    pub home: PathBuf,
    /// The folder of skills, `~/.claude/skills`.
    pub skills: PathBuf,
    /// The manifest's own folder: files a manifest names lie below it.
    pub manifest: PathBuf,
}

impl Roots {
    /// The state folder of one session.
    #[must_use]
    pub fn state(&self, identity: &Identity) -> PathBuf {
        self.root.join("state").join(identity.as_str())
    }

    /// Where the record of an ended session goes.
    #[must_use]
    pub fn history(&self, identity: &Identity) -> PathBuf {
        self.root.join("history").join(identity.as_str())
    }

    /// The folder of one binary, mounted read-only into agents' containers.
    #[must_use]
    pub fn bin(&self, tool: &Digest) -> PathBuf {
        self.root.join("bin").join(tool.hex())
    }

    /// The lock file of one session.
    #[must_use]
    pub fn session_lock(&self, identity: &Identity) -> PathBuf {
        self.root.join("locks").join(format!("{identity}.lock"))
    }

    /// The lock file of what is decided about one session.
    #[must_use]
    pub fn decisions_lock(&self, identity: &Identity) -> PathBuf {
        self.root.join("locks").join(format!("{identity}.decisions.lock"))
    }

    /// The lock file of rules that are kept for later sessions.
    #[must_use]
    pub fn overlays_lock(&self) -> PathBuf {
        self.root.join("locks").join("overlays.lock")
    }

    /// The lock file of objects that sessions share (images).
    #[must_use]
    pub fn shared_lock(&self) -> PathBuf {
        self.root.join("locks").join("shared.lock")
    }
}

/// `ledger.json`: what the executor last left, so that a change by somebody else is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The plan last applied or begun (all-`none` plans are not).
    pub plan: Option<Digest>,
    /// The plan before that one, to which a rollback returns.
    pub previous: Option<Digest>,
    /// Whether every action of `plan` was done.
    pub complete: bool,
    /// What was last written, by path below the state folder.
    pub files: BTreeMap<RelPath, Digest>,
    /// What was uploaded: action id to (container id, digest of the upload's canonical form).
    pub uploaded: BTreeMap<String, (String, Digest)>,
    /// To which running containers secrets were delivered: (container id, started at).
    pub delivered: BTreeMap<Role, (String, String)>,
    /// Which files are in force where: (container id, started at, digest).
    pub loaded: BTreeMap<Role, (String, String, Digest)>,
}

/// The name of the ledger in the state folder.
pub const LEDGER: &str = "ledger.json";
/// The plan as applied (or begun).
pub const PLAN: &str = "plan.json";
/// The plan before it.
pub const PREVIOUS_PLAN: &str = "plan.previous.json";
/// What the planner was given.
pub const INPUTS: &str = "inputs.json";
/// Start and end of each action, appended and fsynced.
pub const JOURNAL: &str = "journal.jsonl";
/// What an apply did.
pub const RECEIPT: &str = "receipt.json";
/// Approved egress changes.
pub const APPROVALS: &str = "approvals.json";
/// The Dockerfile of an approved capability change.
pub const DOCKERFILE: &str = "Dockerfile";
/// The folder of answers to what an agent asked; the executor alone writes it.
pub const ANSWERS: &str = "supervise/in/answers";
/// The hosts that its build may reach: [`BuildHosts`].
pub const BUILD_HOSTS: &str = "build-hosts.json";
/// Hosts by the digest of the Dockerfile that they were approved with.
pub type BuildHosts = BTreeMap<Digest, BTreeSet<BuildHost>>;
/// Findings that a person lets through the git gate, once each.
pub const PUSH_EXCEPTIONS: &str = "git-gate/in/exceptions.json";
/// The key of the session's certificate authority. No digest of it is taken, and no record keeps it.
pub const CA_KEY: &str = "egress/in/ca.key";
/// Set while a session must not be taken down on a normal end.
pub const PRESERVE: &str = ".preserve";

/// When a person last stopped the session, RFC 3339.
pub const STOPPED: &str = ".stopped";

/// Files of the state folder that the executor keeps for itself: no plan may write them.
pub const RESERVED: [&str; 9] = [
    LEDGER,
    PLAN,
    PREVIOUS_PLAN,
    INPUTS,
    JOURNAL,
    RECEIPT,
    STOPPED,
    crate::work::PULLED,
    crate::work::SAVED,
];

/// Whether a path below the state folder belongs to a container's `out` folder, which is the
/// container's own.
#[must_use]
pub fn is_out(path: &Path) -> bool {
    path.components().nth(1).is_some_and(|c| c.as_os_str() == "out")
}
