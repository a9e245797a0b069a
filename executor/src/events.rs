//! What is told while a plan is carried out: for the live list on a terminal and for `--json`.

use bottle_planner::plan::{ActionId, Effect};
use bottle_planner::words::{Digest, Identity};
use serde::{Deserialize, Serialize};

use crate::receipt::Outcome;

/// One piece of news. `seq` counts from one within one apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The checks are over and the first action is about to begin.
    PlanStart {
        /// Counts events.
        seq: u64,
        /// The plan.
        plan: Digest,
        /// The session.
        identity: Identity,
        /// How many actions it has.
        actions: usize,
    },
    /// An action begins.
    ActionStart {
        /// Counts events.
        seq: u64,
        /// Which.
        id: ActionId,
        /// What it does to the world.
        effect: Effect,
    },
    /// An action has something to say (a build's output).
    ActionProgress {
        /// Counts events.
        seq: u64,
        /// Which.
        id: ActionId,
        /// One line.
        line: String,
    },
    /// An action is done.
    ActionDone {
        /// Counts events.
        seq: u64,
        /// Which.
        id: ActionId,
        /// The engine's id of what was made.
        object: Option<String>,
    },
    /// An action had nothing to do: it was so already.
    ActionSkipped {
        /// Counts events.
        seq: u64,
        /// Which.
        id: ActionId,
        /// Why it was left although it was asked for, and how to get there.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        left: Option<String>,
    },
    /// An action failed; no new one begins after it.
    ActionFailed {
        /// Counts events.
        seq: u64,
        /// Which.
        id: ActionId,
        /// Why.
        error: String,
    },
    /// All is over.
    PlanDone {
        /// Counts events.
        seq: u64,
        /// How it ended.
        outcome: Outcome,
    },
}
