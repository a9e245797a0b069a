//! Why no plan could be made: every reason at once, each with a code, a message and a hint.

use alloc::string::String;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One reason why no plan could be made.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    thiserror::Error,
)]
#[error("{message}")]
pub struct PlanError {
    /// From a closed list; stable.
    pub code: ErrorCode,
    /// What is wrong and where; a lower-case fragment.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// The closed list of planning errors.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// No engine answered.
    EngineUnreachable,
    /// The engine is too old.
    EngineTooOld,
    /// The engine cannot keep an agent from its host.
    EngineUnfit,
    /// The spec names no known agent.
    UnknownAgent,
    /// The agent names no known bottle.
    UnknownBottle,
    /// An agent from a repository asks for what its bottle does not lend to such agents.
    RepositoryAgent,
    /// The session asked for is not one that can be planned.
    BadSession,
    /// The pinned container name is taken.
    ContainerNameTaken,
    /// All hundred names are taken.
    NoContainerName,
    /// A sidecar, network or volume of that name belongs to somebody else.
    Orphan,
    /// No subnet of the pool is free.
    PoolExhausted,
    /// gVisor is demanded and not registered.
    NoGvisor,
    /// An image is neither present nor pullable by digest.
    ImageMissing,
    /// A file that the manifest names is not there.
    FileMissing,
    /// A skill is not there.
    SkillMissing,
    /// No host key is known for an ssh upstream.
    NoHostKey,
    /// A private key cannot be used.
    IdentityFile,
    /// A variable is set twice or cannot be written down.
    BadEnvironment,
    /// The workspace cannot be brought in as asked.
    BadWorkspace,
    /// Something odd (a link, a socket) lies where the state folder has a file.
    StateFolder,
    /// What was approved does not fit the routes.
    BadApproval,
    /// The Dockerfile that was approved for a session says what none may say.
    BadProposal,
    /// A document could not be written.
    Internal,
}
