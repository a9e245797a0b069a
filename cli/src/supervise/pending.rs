//! The proposals that wait for a person, of all sessions.

use bottle_executor::files::Root;
use bottle_executor::proposals::{Proposals, answer_of};
use bottle_executor::state::Roots;
use bottle_planner::proposal::{Answer, Ask, MOST_PENDING, PROPOSALS, Proposal, Verdict};
use bottle_planner::words::Identity;

use super::seen::waiting_image;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::sessions::Sessions;

/// One proposal of one session.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Whose.
    pub session: Identity,
    /// What it says.
    pub proposal: Proposal,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that wait, the oldest first.
    pub pending: Vec<Pending>,
    /// Those that were answered.
    pub answered: Vec<(Pending, Answer)>,
    /// Session, name and fault of what is no proposal.
    pub broken: Vec<(Identity, String, String)>,
}

impl Found {
    /// Looks through the sessions that were not taken down.
    pub fn of(roots: &Roots) -> Result<Self, Failure> {
        let mut found = Self::default();
        for session in Sessions::of(&roots.root).all() {
            let Some(root) = open(roots, &session)? else { continue };
            let read = match Proposals::read(&root) {
                Ok(read) => read,
                // One session that cannot be read hides no other.
                Err(error) => {
                    found.broken.push((session, PROPOSALS.to_owned(), error.to_string()));
                    continue;
                }
            };
            let mut waiting = 0;
            for proposal in read.all {
                let answer = answer_of(&root, &proposal);
                let answer = answer.map_err(|e| Failure::from_error(Exit::Error, &e))?;
                let pending = Pending { session: session.clone(), proposal };
                match answer {
                    // Its sidecar keeps no more: it is not the one that was planned.
                    None if waiting >= MOST_PENDING => {
                        let why = format!("more than {MOST_PENDING} wait");
                        found.broken.push((session.clone(), pending.proposal.id(), why));
                        break;
                    }
                    None => {
                        waiting += 1;
                        found.pending.push(pending);
                    }
                    Some(answer) => found.answered.push((pending, answer)),
                }
            }
            let broken = read.broken.into_iter();
            found.broken.extend(broken.map(|(name, why)| (session.clone(), name, why)));
        }
        found.pending.sort_by(|a, b| a.proposal.at.cmp(&b.proposal.at));
        Ok(found)
    }

    /// The proposal meant by an id, a unique beginning of one, either after `SESSION/`, or `@last`:
    /// one that waits.
    pub fn one(self, text: &str, roots: &Roots) -> Result<Pending, Failure> {
        let mut waiting = self.pending;
        if text == "@last" {
            return waiting.pop().ok_or_else(|| Failure::error("nothing waits for an answer"));
        }
        let (session, id) = match text.rsplit_once('/') {
            Some((session, id)) => (Some(session), id),
            None => (None, text),
        };
        let is_it = |pending: &Pending| {
            !id.is_empty()
                && pending.proposal.id().starts_with(id)
                && session.is_none_or(|session| pending.session.as_str() == session)
        };
        waiting.retain(is_it);
        match waiting.len() {
            1 => return Ok(waiting.remove(0)),
            0 => {}
            n => {
                let several = format!("`{}` could be any of {n}", text.escape_debug());
                return Err(Failure::usage(several)
                    .hint("give more of its digits, or SESSION/ID where sessions ask the same"));
            }
        }
        if let Some((answered, answer)) = self.answered.iter().find(|(pending, _)| is_it(pending)) {
            return Err(already(answered, answer, roots)?);
        }
        Err(Failure::error(format!("no proposal `{}` waits", text.escape_debug()))
            .hint("`bottle supervise list` has those that do"))
    }
}

/// Why one that was answered is not answered again. An image whose session does not run in it yet is
/// named with what is left to do: whoever approved it may have been cut short.
pub fn already(pending: &Pending, answer: &Answer, roots: &Roots) -> Result<Failure, Failure> {
    let verdict = answer.verdict.as_str();
    let failure =
        Failure::new(Exit::Refused, format!("{} was {verdict} already", pending.proposal.id()));
    let session = &pending.session;
    let is_image =
        matches!(pending.proposal.ask, Ask::Image { .. }) && answer.verdict != Verdict::Rejected;
    if is_image && waiting_image(roots, session)?.is_some() {
        return Ok(failure.hint(format!(
            "its image is not in force yet: `bottle stop {session}`, then `bottle resume {session}`"
        )));
    }
    Ok(failure.hint("`bottle audit show` has who did it, and when"))
}

/// A session's state folder.
pub fn open(roots: &Roots, session: &Identity) -> Result<Option<Root>, Failure> {
    Root::open(&roots.state(session)).map_err(|e| Failure::from_error(Exit::Error, &e))
}
