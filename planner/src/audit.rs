//! The audit log: what was asked, what a person saw and answered, and what it did. One JSON object a
//! line, each with the digest of the line before, so that a line that was changed, taken out or put
//! in shows.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{self, Strictness};
use crate::proposal::{Ask, Verdict};
use crate::words::{Digest, Identity, Name, Timestamp};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Entry {
    /// Counted from 1.
    pub number: u64,
    /// The digest of the line before, without its line feed; of nothing for the first.
    pub before: Digest,
    /// When it was written.
    pub at: Timestamp,
    /// Who did it: uid and name of the host's user.
    pub who: String,
    /// The session.
    pub session: Identity,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A person answered a proposal. What it brings about comes after.
    Answered {
        /// The proposal.
        proposal: Digest,
        /// What was asked for.
        ask: Box<Ask>,
        /// Why, in the agent's words.
        justification: String,
        /// The answer.
        verdict: Verdict,
        /// What was approved in its place, where it was modified.
        modified: Option<Box<Ask>>,
        /// The digest of what the person was shown: of the plan, or of the grants after it; none
        /// where a proposal was rejected.
        seen: Option<Digest>,
        /// What the person said to it.
        notes: String,
    },
    /// The answer is in force, and the agent was told.
    Done {
        /// The proposal.
        proposal: Digest,
        /// What changed, in words.
        effect: Vec<String>,
        /// The plan that was applied, if there was one.
        plan: Option<Digest>,
    },
    /// The answer could not be carried out; the proposal waits on.
    Failed {
        /// The proposal.
        proposal: Digest,
        /// Why.
        why: String,
    },
    /// A person allowed something that nobody proposed (`bottle allow`). The plan is applied after
    /// this line; its receipt says what came of it.
    Allowed {
        /// The plan that was approved.
        plan: Digest,
        /// What it changes, in words.
        effect: Vec<String>,
    },
    /// A person allowed something to later sessions too (`--always`). The overlay is written after this
    /// line.
    Kept {
        /// To which bottle's.
        bottle: Name,
        /// What, in words.
        rule: String,
    },
}

/// The first thing that is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A line is no entry.
    #[error("line {line} is no entry: {why}")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A line does not follow the one before.
    #[error(
        "line {line} does not follow the line before: one of them was changed, or one is missing"
    )]
    Chain {
        /// Counted from 1.
        line: u64,
    },
}

/// A whole log that holds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// The digest of the last line: kept elsewhere, it tells whether the end was cut off.
    pub head: Digest,
    /// Bytes after the last line feed: a line whose writing was cut short, which counts for nothing.
    pub torn: usize,
}

/// What the first line has for the one before.
#[must_use]
pub fn origin() -> Digest {
    Digest::of(b"")
}

/// Reads a log and checks that each line follows the one before.
///
/// # Errors
///
/// The first line that does not.
pub fn verify(text: &str) -> Result<Verified, Broken> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let mut verified = Verified { entries: Vec::new(), head: origin(), torn: text.len() - whole };
    for (number, line) in (1..).zip(text[..whole].lines()) {
        let entry = document::parse::<Entry>(line, Strictness::Lenient)
            .map_err(|e| Broken::Malformed { line: number, why: e.to_string() })?
            .value;
        if entry.number != number || entry.before != verified.head {
            return Err(Broken::Chain { line: number });
        }
        verified.head = Digest::of(line.as_bytes());
        verified.entries.push(entry);
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: u64) -> String {
        let mut text = String::new();
        let mut before = origin();
        for number in 1..=count {
            let entry = Entry {
                number,
                before,
                at: Timestamp::new("2026-01-31T12:00:00Z").expect("a time"),
                who: "0 root".to_string(),
                session: Identity::new("dev-ab12c").expect("an identity"),
                event: Event::Allowed { plan: Digest::of(b"plan"), effect: Vec::new() },
            };
            let line = document::canonical(&entry).expect("written");
            before = Digest::of(line.as_bytes());
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    #[test]
    fn whatever_is_done_to_it_shows() {
        let whole = log(3);
        let verified = verify(&whole).expect("whole");
        assert_eq!((verified.entries.len(), verified.torn), (3, 0));
        let lines: Vec<&str> = whole.lines().collect();
        let joined = |lines: &[&str]| lines.join("\n") + "\n";
        let changed = lines[1].replace("root", "toor");
        let middle_changed = joined(&[lines[0], &changed, lines[2]]);
        assert_eq!(verify(&middle_changed), Err(Broken::Chain { line: 3 }));
        assert_eq!(verify(&joined(&[lines[0], lines[2]])), Err(Broken::Chain { line: 2 }));
        assert_eq!(verify(&joined(&[lines[1], lines[2]])), Err(Broken::Chain { line: 1 }));
        assert_eq!(
            verify(&joined(&[lines[0], lines[0], lines[1]])),
            Err(Broken::Chain { line: 2 })
        );
        assert!(matches!(verify("x\n"), Err(Broken::Malformed { line: 1, .. })));
        // The end cut off shows by the head alone.
        let shorter = verify(&joined(&lines[..2])).expect("holds together");
        assert_ne!(shorter.head, verified.head);
    }

    #[test]
    fn a_line_cut_short_counts_for_nothing() {
        let whole = log(2);
        let torn = &whole[..whole.len() - 5];
        let verified = verify(torn).expect("holds together");
        assert_eq!(verified.entries.len(), 1);
        assert!(verified.torn > 0);
        assert_eq!(verify("").expect("empty").head, origin());
    }
}
