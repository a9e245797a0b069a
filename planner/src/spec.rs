//! The spec: one launch request, as the flags or a `--spec` file say it.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::WorkspaceMode;
use crate::words::{AbsPath, Identity, Name, Timestamp};

/// One launch request. Stored with the session, so that `resume` plans from the same words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Spec {
    /// Which agent.
    pub agent: Name,
    /// Which session.
    pub session: SessionRequest,
    /// When the launch was asked for (`--at`, `SOURCE_DATE_EPOCH`, else the clock of the edge).
    pub at: Timestamp,
    /// The folder to bring in; `None` brings none.
    pub workspace: Option<WorkspaceRequest>,
    /// Whether an ended session is started again, with the provider's resume command.
    pub resume: bool,
    /// Work for a headless run; `None` is interactive.
    pub task: Option<String>,
    /// Further arguments for the agent's command.
    pub args: Vec<String>,
    /// What `BOTTLE_*` variables override.
    pub overrides: Overrides,
    /// What a live session should take over although it is frozen while a container exists.
    pub refresh: BTreeSet<Refresh>,
    /// Whether facts that the snapshot lacks become requirements rather than errors
    /// (`--snapshot FILE`).
    pub offline: bool,
}

/// Which session a launch is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SessionRequest {
    /// A new one, named `slugify(agent)-SUFFIX`.
    New {
        /// Five characters `[a-z0-9]`, drawn by the edge.
        suffix: String,
    },
    /// The one of this name, new or existing (`--name`, `--identity`, `resume`).
    Named {
        /// Its identity.
        identity: Identity,
    },
}

/// The folder to bring in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkspaceRequest {
    /// The host folder.
    pub path: AbsPath,
    /// The mode asked for; `None` takes the bottle's default.
    pub mode: Option<WorkspaceMode>,
}

/// Overrides from `BOTTLE_*` (or their `CLAUDE_BOTTLE_*` namesakes); empty means unset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Overrides {
    /// `BOTTLE_IMAGE`: the base image, over everything else.
    pub image: Option<String>,
    /// `BOTTLE_DERIVED_IMAGE`: the tag of the image with the workspace.
    pub derived_image: Option<String>,
    /// `BOTTLE_CONTAINER`: the agent container's exact name.
    pub container: Option<String>,
}

/// A frozen fact that a live session may take over.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// The workspace's present content.
    Workspace,
    /// The images' present content.
    Image,
    /// The present `bottle` binary.
    Tool,
}
