//! Carrying an answer out, in an order in which being killed loses nothing and does nothing twice.

use std::thread::sleep;
use std::time::{Duration, Instant};

use bottle_executor::lock::Lock;
use bottle_executor::proposals::{give_answer, set_image};
use bottle_planner::audit::Event;
use bottle_planner::proposal::{Answer, Ask, LONGEST_NOTES, TOLD, Verdict};
use bottle_planner::sidecar::PROTOCOL;
use bottle_planner::words::{Digest, Identity, Role};
use serde::Serialize;

use super::pending::{Found, Pending, already, open};
use super::seen::{Effect, Seen, waiting_image};
use crate::amend::InForce;
use crate::args::ManifestArgs;
use crate::audit;
use crate::commands::stop;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::overlay::Standing;

/// Seconds that an agent has to end when its image changes.
const GRACE: u32 = 10;

/// How long an agent's call may take to get its answer: it looks every 100 ms.
const HEARING: Duration = Duration::from_secs(2);

/// What a person says to a proposal.
#[derive(Debug, Clone)]
pub struct Word<'a> {
    /// In which form it is approved, where that is not the one in which it was asked.
    pub modified: Option<&'a Ask>,
    /// The digest of what the person was shown.
    pub seen: &'a Digest,
    /// For the agent.
    pub notes: &'a str,
    /// Whether later sessions may do so too.
    pub always: bool,
    /// Whether events go to standard output.
    pub json: bool,
    /// Beside which manifest a rule is kept for later sessions.
    pub manifest: &'a ManifestArgs,
}

/// Approves: what it changes must be what was seen.
pub fn approve(pending: &Pending, word: &Word<'_>, context: &mut Context) -> Result<Exit, Failure> {
    check_notes(word.notes)?;
    let _lock = lock(pending, context)?;
    still_waits(pending, context)?;
    let ask = word.modified.unwrap_or(&pending.proposal.ask);
    let seen = Seen::look(pending, ask, context)?;
    if seen.digest != *word.seen {
        let id = pending.proposal.id();
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "expected {}, found {}: something moved since it was shown",
                word.seen, seen.digest
            ),
        )
        .hint(format!("look at it again: `bottle supervise show {id}`")));
    }
    // Looked at first: a rule that could not be kept is not half allowed.
    let (at, rule) = (audit::now()?, seen.widening());
    let standing = match (word.always, &rule) {
        (false, _) => None,
        (true, Some(wanted)) => {
            Some(Standing { args: word.manifest, applied: &seen.applied, wanted, at: &at })
        }
        (true, None) => {
            return Err(Failure::usage("--always goes with network access alone")
                .hint("a push exception is good once; write an image into the bottle's `image:`"));
        }
    };
    standing.map_or(Ok(()), |standing| standing.check(context))?;
    let verdict = if word.modified.is_some() { Verdict::Modified } else { Verdict::Approved };
    answered(pending, verdict, word.modified, Some(&seen.digest), word.notes, context)?;
    let exit = or_note(carry_out(pending, &seen, word, context), pending, context)?;
    if exit != Exit::Ok {
        failed(pending, "the plan was not carried out whole", context)?;
        return Ok(exit);
    }
    // Before the agent is told: until then an approval that was cut short is given again, and finishes.
    let kept = standing.map_or(Ok(()), |standing| standing.keep(context));
    or_note(kept, pending, context)?;
    let effect: Vec<String> = seen.diff.widened.iter().chain(&seen.diff.changed).cloned().collect();
    let told = tell(pending, verdict, word.notes, effect.clone(), context);
    or_note(told, pending, context)?;
    let plan = match &seen.effect {
        Effect::InPlace(amended) => Some(amended.text.digest.clone()),
        _ => None,
    };
    let proposal = pending.proposal.digest();
    audit::note(&pending.session, Event::Done { proposal, effect, plan }, context)?;
    say(pending, verdict, Some(&seen.digest), word.json, context)?;
    if matches!(seen.effect, Effect::Image { .. }) {
        // Told first: the agent's call ends while its server still runs.
        wait_until_told(pending, context)?;
        stop::session(pending.session.as_str(), GRACE, context)?;
        context.printer.say(&format!(
            "`bottle resume {}` brings the agent back in the new image",
            pending.session
        ));
    }
    Ok(Exit::Ok)
}

/// Rejects: nothing changes but that the agent is told.
pub fn reject(
    pending: &Pending,
    notes: &str,
    json: bool,
    context: &mut Context,
) -> Result<Exit, Failure> {
    check_notes(notes)?;
    let _lock = lock(pending, context)?;
    still_waits(pending, context)?;
    if took_effect(pending, context)? {
        return Err(Failure::new(
            Exit::Refused,
            "an approval of it was cut short, and is in force: it cannot be rejected any more",
        )
        .hint(
            "approve it to finish; `bottle plan --identity` and a narrower manifest take it back",
        ));
    }
    answered(pending, Verdict::Rejected, None, None, notes, context)?;
    let told = tell(pending, Verdict::Rejected, notes, Vec::new(), context);
    or_note(told, pending, context)?;
    let proposal = pending.proposal.digest();
    let event = Event::Done { proposal, effect: Vec::new(), plan: None };
    audit::note(&pending.session, event, context)?;
    say(pending, Verdict::Rejected, None, json, context)?;
    Ok(Exit::Ok)
}

/// What became of a proposal: the last line of the events that `--json` prints.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum News<'a> {
    Decided { id: String, session: &'a Identity, verdict: Verdict, seen: Option<&'a Digest> },
}

fn say(
    pending: &Pending,
    verdict: Verdict,
    seen: Option<&Digest>,
    json: bool,
    context: &mut Context,
) -> Result<(), Failure> {
    let (id, session) = (pending.proposal.id(), &pending.session);
    context.printer.say(&format!("{id} is {}", verdict.as_str()));
    if json {
        let line = serde_json::to_string(&News::Decided { id, session, verdict, seen });
        context.printer.event(&line.map_err(|e| Failure::error(e.to_string()))?);
    }
    Ok(())
}

fn carry_out(
    pending: &Pending,
    seen: &Seen,
    word: &Word<'_>,
    context: &mut Context,
) -> Result<Exit, Failure> {
    match &seen.effect {
        Effect::Nothing => Ok(Exit::Ok),
        Effect::InPlace(amended) => {
            amended.check(context)?;
            amended.apply(None, word.json, context)
        }
        Effect::Image { dockerfile, hosts } => {
            let roots = context.roots(&ManifestArgs::default())?;
            let root = open(&roots, &pending.session)?.ok_or_else(|| gone(pending))?;
            set_image(&root, dockerfile, hosts)
                .map_err(|e| Failure::from_error(Exit::Error, &e))?;
            Ok(Exit::Ok)
        }
    }
}

/// Waits until the agent's call got its answer, if it still waits.
fn wait_until_told(pending: &Pending, context: &Context) -> Result<(), Failure> {
    let state = context.roots(&ManifestArgs::default())?.state(&pending.session);
    let told = state.join(format!("{}/out/{TOLD}/{}", Role::Supervise, pending.proposal.id()));
    let begun = Instant::now();
    while told.symlink_metadata().is_err() && begun.elapsed() < HEARING {
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One decision at a time about one session.
fn lock(pending: &Pending, context: &Context) -> Result<Lock, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let root = bottle_executor::files::Root::open_or_make(&roots.root)
        .map_err(|e| Failure::from_error(Exit::Error, &e))?;
    Lock::decisions(&roots, &root, &pending.session)
        .map_err(|e| Failure::from_error(Exit::Stale, &e).hint("somebody else decides right now"))
}

/// Somebody may have answered since it was read.
fn still_waits(pending: &Pending, context: &Context) -> Result<(), Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let found = Found::of(&roots)?;
    let is_it = |other: &Pending| {
        (&other.session, &other.proposal) == (&pending.session, &pending.proposal)
    };
    if found.pending.iter().any(is_it) {
        return Ok(());
    }
    let answer = found.answered.iter().find(|(other, _)| is_it(other));
    let Some((_, answer)) = answer else { return Err(gone(pending)) };
    Err(already(pending, answer, &roots)?)
}

/// Whether an approval of it was cut short after it took effect: then it cannot be rejected any more.
fn took_effect(pending: &Pending, context: &Context) -> Result<bool, Failure> {
    let (id, session) = (pending.proposal.id(), &pending.session);
    let in_force = InForce::of(session, context)?.plan;
    let by = format!("bottle supervise {id}");
    let roots = context.roots(&ManifestArgs::default())?;
    let waits = match &pending.proposal.ask {
        Ask::Image { dockerfile, .. } => {
            waiting_image(&roots, session)?.as_ref() == Some(dockerfile)
        }
        _ => false,
    };
    Ok(waits
        || in_force.grants.push_exceptions.contains_key(&id)
        || in_force.session.approvals.iter().any(|approval| approval.by.as_ref() == Some(&by)))
}

fn gone(pending: &Pending) -> Failure {
    Failure::error(format!("session {} is not there any more", pending.session))
}

fn check_notes(notes: &str) -> Result<(), Failure> {
    if notes.len() > LONGEST_NOTES {
        return Err(Failure::usage(format!("--notes: expected at most {LONGEST_NOTES} bytes")));
    }
    Ok(())
}

fn answered(
    pending: &Pending,
    verdict: Verdict,
    modified: Option<&Ask>,
    seen: Option<&Digest>,
    notes: &str,
    context: &Context,
) -> Result<(), Failure> {
    let proposal = &pending.proposal;
    let event = Event::Answered {
        proposal: proposal.digest(),
        ask: Box::new(proposal.ask.clone()),
        justification: proposal.justification.clone(),
        verdict,
        modified: modified.cloned().map(Box::new),
        seen: seen.cloned(),
        notes: notes.to_owned(),
    };
    audit::note(&pending.session, event, context)
}

/// What fails after an answer was noted is noted too: the proposal waits on.
fn or_note<T>(
    done: Result<T, Failure>,
    pending: &Pending,
    context: &Context,
) -> Result<T, Failure> {
    if let Err(failure) = &done {
        failed(pending, &failure.chain(), context)?;
    }
    done
}

fn failed(pending: &Pending, why: &str, context: &Context) -> Result<(), Failure> {
    let event = Event::Failed { proposal: pending.proposal.digest(), why: why.to_owned() };
    audit::note(&pending.session, event, context)
}

fn tell(
    pending: &Pending,
    verdict: Verdict,
    notes: &str,
    granted: Vec<String>,
    context: &Context,
) -> Result<(), Failure> {
    let answer = Answer {
        protocol: PROTOCOL,
        proposal: pending.proposal.digest(),
        verdict,
        at: audit::now()?,
        notes: notes.to_owned(),
        granted,
    };
    let roots = context.roots(&ManifestArgs::default())?;
    let root = open(&roots, &pending.session)?.ok_or_else(|| gone(pending))?;
    give_answer(&root, &pending.proposal, &answer).map_err(|e| Failure::from_error(Exit::Error, &e))
}
