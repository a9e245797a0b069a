//! `receipt.json`: what an apply did, action by action, for whoever asks afterwards.

use bottle_planner::plan::ActionId;
use bottle_planner::words::{Digest, Identity};
use serde::{Deserialize, Serialize};

/// What one apply did. Holds no secret, no content and no value of a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The plan.
    pub plan: Digest,
    /// The session.
    pub identity: Identity,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    pub ended_at: String,
    /// Every action of the plan, in the plan's order.
    pub actions: Vec<ActionReceipt>,
}

/// How an apply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything is as the plan says.
    Complete,
    /// Everything was so already; nothing was touched.
    Verified,
    /// An action failed.
    Partial,
    /// It was told to stop.
    Interrupted,
}

/// What became of one action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionReceipt {
    /// Which.
    pub id: ActionId,
    /// What became of it.
    pub outcome: ActionOutcome,
    /// When it began, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<String>,
    /// When it ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at: Option<String>,
    /// The engine's id of what was made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub object: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionOutcome {
    /// It was done.
    Done,
    /// It was so already.
    Skipped,
    /// It failed.
    Failed,
    /// It was not begun.
    NotBegun,
}
