//! The run of a plan's actions: side by side as far as their dependencies let them, each noted
//! before and after; on a failure nothing new begins and what is in flight ends.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bottle_planner::document;
use bottle_planner::plan::{Action, ActionId, Effect, Operation, Plan};
use bottle_planner::words::Digest;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::apply::{Applied, ApplyError, Failure, Finding, Report};
use crate::engine::Engine;
use crate::events::Event;
use crate::files::Root;
use crate::journal::{Entry, Journal, Step};
use crate::ledger::{self, own};
use crate::ops::{Basis, Check, Made, OpError, World, subject};
use crate::receipt::{ActionOutcome, ActionReceipt, Outcome, Receipt};
use crate::state::RECEIPT;

/// How many actions run side by side.
pub(crate) const WIDTH: usize = 16;

/// The plan's actions as a graph.
pub(crate) struct Graph<'p> {
    pub(crate) actions: &'p [Action],
    /// For each action those that wait for it.
    unlocks: Vec<Vec<usize>>,
    /// For each action whether something that is done before it has the same object.
    pub(crate) clouded: Vec<bool>,
}

impl<'p> Graph<'p> {
    pub(crate) fn of(plan: &'p Plan) -> Result<Self, ApplyError> {
        let actions = &plan.actions;
        let mut places: BTreeMap<&ActionId, usize> = BTreeMap::new();
        let mut unlocks: Vec<Vec<usize>> = vec![Vec::new(); actions.len()];
        let mut clouded = vec![false; actions.len()];
        // What was touched before each action, itself included.
        let mut touched: Vec<BTreeSet<String>> = Vec::with_capacity(actions.len());
        for (index, action) in actions.iter().enumerate() {
            let mut before = BTreeSet::new();
            for id in &action.depends_on {
                let Some(&place) = places.get(id) else {
                    let why = format!("{} depends on {id}, which is not before it", action.id);
                    return Err(ApplyError::Internal(why));
                };
                unlocks[place].push(index);
                before.extend(touched[place].iter().cloned());
            }
            let subject = subject(&action.op);
            clouded[index] = before.contains(&subject);
            if action.effect != Effect::None {
                before.insert(subject);
            }
            touched.push(before);
            if places.insert(&action.id, index).is_some() {
                return Err(ApplyError::Internal(format!("{} is there twice", action.id)));
            }
        }
        Ok(Self { actions, unlocks, clouded })
    }
}

/// The run of a plan's actions.
pub(crate) struct Run<'r, 'o> {
    graph: &'r Graph<'r>,
    plan: &'r Plan,
    digest: &'r Digest,
    clock: &'r dyn Fn() -> String,
    events: RefCell<Emitter<'o>>,
    started_at: String,
    receipts: RefCell<Vec<ActionReceipt>>,
    /// Whether what the checks found still counts for actions that wait for nothing.
    fresh: bool,
}

/// Numbers events and hands them on.
struct Emitter<'o> {
    seq: u64,
    observer: &'o mut dyn FnMut(&Event),
}

/// What became of an action that did not fail.
enum Ended {
    Done(Made),
    Skipped(Made),
}

impl<'r, 'o> Run<'r, 'o> {
    pub(crate) fn new(
        graph: &'r Graph<'r>,
        (plan, digest): (&'r Plan, &'r Digest),
        clock: &'r dyn Fn() -> String,
        observer: &'o mut dyn FnMut(&Event),
        fresh: bool,
    ) -> Self {
        let receipt = |action: &Action| ActionReceipt {
            id: action.id.clone(),
            outcome: ActionOutcome::NotBegun,
            started_at: None,
            ended_at: None,
            object: None,
            error: None,
        };
        Self {
            graph,
            plan,
            digest,
            clock,
            events: RefCell::new(Emitter { seq: 0, observer }),
            started_at: clock(),
            receipts: RefCell::new(graph.actions.iter().map(receipt).collect()),
            fresh,
        }
    }

    /// All was so already: nothing is written, not even that it was looked at.
    pub(crate) fn verified(self, checks: Vec<Option<Check>>) -> Applied {
        self.tell_begin();
        for (index, check) in checks.into_iter().enumerate() {
            if let Some(Check::Satisfied(made)) = check {
                self.skipped(index, &made);
            }
        }
        Applied { receipt: self.close(Outcome::Verified), archived: None }
    }

    /// Does the actions and stores what came of it.
    pub(crate) async fn go<E: Engine>(
        self,
        world: &World<'_, E>,
        record: Root,
        checks: Vec<Option<Check>>,
        owns: bool,
    ) -> Result<Applied, ApplyError> {
        let (opened, digest) = (record.clone(), self.digest.clone());
        let journal = world.blocking(move || Journal::open(&opened, &digest)).await?;
        self.tell_begin();
        let due: Vec<&Action> = self.graph.actions.iter().zip(&checks).filter_map(due).collect();
        let (failed, ()) = futures_util::join!(
            self.actions(world, &journal, checks),
            world.install_tools(due.into_iter())
        );
        let ended =
            |r: &ActionReceipt| matches!(r.outcome, ActionOutcome::Done | ActionOutcome::Skipped);
        let whole = self.receipts.borrow().iter().all(ended);
        if whole && owns {
            world.ledger.borrow_mut().complete = true;
        }
        let receipt = self.close(match (whole, failed.is_empty()) {
            (true, _) => Outcome::Complete,
            (false, false) => Outcome::Partial,
            (false, true) => Outcome::Interrupted,
        });
        let stored = store(world, &record, &journal, &receipt).await;
        if !whole {
            // What could not be stored is in the journal; the failure itself is the news.
            return Err(unfinished(receipt, failed));
        }
        stored?;
        let archived = archived_at(self.graph, &receipt).map(|below| world.root.path().join(below));
        Ok(Applied { receipt, archived })
    }

    /// Runs the actions side by side as far as their dependencies let them; answers the failures.
    async fn actions<E: Engine>(
        &self,
        world: &World<'_, E>,
        journal: &Journal,
        mut checks: Vec<Option<Check>>,
    ) -> Vec<Failure> {
        let graph = self.graph;
        let mut waits: Vec<usize> = graph.actions.iter().map(|a| a.depends_on.len()).collect();
        // Before which actions something was really done: what their checks saw may be past.
        let mut stirred = vec![!self.fresh; graph.actions.len()];
        let mut ready: BTreeSet<usize> = (0..waits.len()).filter(|i| waits[*i] == 0).collect();
        let mut running = FuturesUnordered::new();
        let mut failed = Vec::new();
        loop {
            let mut ended = None;
            let open = failed.is_empty() && !world.cancel.is_set() && running.len() < WIDTH;
            if open && let Some(index) = ready.pop_first() {
                match checks[index].take() {
                    Some(Check::Satisfied(made)) => {
                        self.skipped(index, &made);
                        ended = Some((index, Ok(Ended::Skipped(made))));
                    }
                    check => {
                        let basis = basis(check, &graph.actions[index], stirred[index]);
                        self.tell_start(index);
                        running.push(self.one(world, journal, index, basis));
                        continue;
                    }
                }
            }
            if ended.is_none() {
                ended = running.next().await;
            }
            let Some((index, result)) = ended else { break };
            let action = &graph.actions[index];
            let did = match result {
                Ok(Ended::Done(made)) => {
                    self.done(index, &made);
                    note(world, action, &made);
                    true
                }
                Ok(Ended::Skipped(made)) => {
                    if self.receipts.borrow()[index].outcome == ActionOutcome::NotBegun {
                        self.skipped(index, &made);
                    }
                    if action.effect != Effect::None {
                        note(world, action, &made);
                    }
                    stirred[index]
                }
                Err(error) => {
                    self.failed(index, &error);
                    failed.push(Failure { action: action.id.clone(), error });
                    continue;
                }
            };
            for &next in &graph.unlocks[index] {
                stirred[next] |= did;
                waits[next] -= 1;
                if waits[next] == 0 {
                    ready.insert(next);
                }
            }
        }
        drop(running);
        // What was found to be so is so, whether or not its turn came.
        for (index, check) in checks.iter().enumerate() {
            if let Some(Check::Satisfied(made)) = check {
                self.receipts.borrow_mut()[index].outcome = ActionOutcome::Skipped;
                self.receipts.borrow_mut()[index].object.clone_from(&made.object);
            }
        }
        failed
    }

    /// One action: looked at again where time has passed, noted, done, noted.
    async fn one<E: Engine>(
        &self,
        world: &World<'_, E>,
        journal: &Journal,
        index: usize,
        basis: Option<Basis>,
    ) -> (usize, Result<Ended, OpError>) {
        (index, self.attempt(world, journal, index, basis).await)
    }

    async fn attempt<E: Engine>(
        &self,
        world: &World<'_, E>,
        journal: &Journal,
        index: usize,
        basis: Option<Basis>,
    ) -> Result<Ended, OpError> {
        let action = &self.graph.actions[index];
        let basis = match basis {
            Some(basis) => basis,
            None => match world.check(action).await? {
                Check::Ready(basis) => basis,
                Check::Satisfied(made) => {
                    let mut entry = Entry::new(&action.id, Step::Skipped);
                    entry.notes.clone_from(&made.notes);
                    journal.end(entry)?;
                    return Ok(Ended::Skipped(made));
                }
                Check::Stale { expected, found } => return Err(OpError::Stale { expected, found }),
            },
        };
        let mut entry = Entry::new(&action.id, Step::Start);
        entry.previous.clone_from(&basis.previous);
        entry.notes = world.intent(action);
        journal.begin(entry).await?;
        let progress = |line: &str| self.tell_progress(index, line);
        match world.carry_out(action, &basis, &progress).await {
            Ok(made) => {
                let mut entry = Entry::new(&action.id, Step::Done);
                entry.object.clone_from(&made.object);
                entry.previous = basis.previous;
                entry.notes.clone_from(&made.notes);
                journal.end(entry)?;
                Ok(Ended::Done(made))
            }
            Err(error) => {
                let mut entry = Entry::new(&action.id, Step::Failed);
                entry.error = Some(chain(&error));
                journal.end(entry)?;
                Err(error)
            }
        }
    }

    fn tell(&self, event: impl FnOnce(u64) -> Event) {
        let mut emitter = self.events.borrow_mut();
        emitter.seq += 1;
        let event = event(emitter.seq);
        (emitter.observer)(&event);
    }

    fn tell_begin(&self) {
        let (plan, identity) = (self.digest.clone(), self.plan.identity.clone());
        let actions = self.graph.actions.len();
        self.tell(|seq| Event::PlanStart { seq, plan, identity, actions });
    }

    fn tell_start(&self, index: usize) {
        let Action { id, effect, .. } = &self.graph.actions[index];
        self.receipts.borrow_mut()[index].started_at = Some((self.clock)());
        self.tell(|seq| Event::ActionStart { seq, id: id.clone(), effect: *effect });
    }

    fn tell_progress(&self, index: usize, line: &str) {
        let id = self.graph.actions[index].id.clone();
        self.tell(|seq| Event::ActionProgress { seq, id, line: line.to_owned() });
    }

    fn done(&self, index: usize, made: &Made) {
        let id = self.end(index, ActionOutcome::Done, made.object.clone(), None);
        self.tell(|seq| Event::ActionDone { seq, id, object: made.object.clone() });
    }

    fn skipped(&self, index: usize, made: &Made) {
        let id = self.end(index, ActionOutcome::Skipped, made.object.clone(), None);
        self.tell(|seq| Event::ActionSkipped { seq, id, left: made.left.clone() });
    }

    fn failed(&self, index: usize, error: &OpError) {
        let error = chain(error);
        let id = self.end(index, ActionOutcome::Failed, None, Some(error.clone()));
        self.tell(|seq| Event::ActionFailed { seq, id, error });
    }

    fn end(
        &self,
        index: usize,
        outcome: ActionOutcome,
        object: Option<String>,
        error: Option<String>,
    ) -> ActionId {
        let receipt = &mut self.receipts.borrow_mut()[index];
        receipt.outcome = outcome;
        receipt.ended_at = receipt.started_at.is_some().then(|| (self.clock)());
        receipt.object = object;
        receipt.error = error;
        receipt.id.clone()
    }

    fn close(&self, outcome: Outcome) -> Receipt {
        self.tell(|seq| Event::PlanDone { seq, outcome });
        Receipt {
            plan: self.digest.clone(),
            identity: self.plan.identity.clone(),
            outcome,
            started_at: self.started_at.clone(),
            ended_at: (self.clock)(),
            actions: self.receipts.borrow().clone(),
        }
    }
}

/// What the checks before the first action saw, where it still counts: nothing was done since that
/// the action waited for, or the doing itself refuses where it does not hold any more (the engine
/// gives a name once; a file is read again before it is replaced).
fn basis(check: Option<Check>, action: &Action, stirred: bool) -> Option<Basis> {
    let compares_itself = matches!(
        action.op,
        Operation::Container(_) | Operation::File(_) | Operation::RemoveFile(_)
    );
    match check {
        Some(Check::Ready(basis)) if !stirred || compares_itself => Some(basis),
        _ => None,
    }
}

/// What is still to be done, as far as the checks could tell.
fn due<'p>((action, check): (&'p Action, &Option<Check>)) -> Option<&'p Action> {
    let so = action.effect == Effect::None || matches!(check, Some(Check::Satisfied(_)));
    (!so).then_some(action)
}

fn note<E: Engine>(world: &World<'_, E>, action: &Action, made: &Made) {
    let mut ledger = world.ledger.borrow_mut();
    for note in &made.notes {
        ledger::note(&mut ledger, &action.id, note);
    }
}

/// Stores ledger and receipt, and waits for the journal.
async fn store<E: Engine>(
    world: &World<'_, E>,
    record: &Root,
    journal: &Journal,
    receipt: &Receipt,
) -> Result<(), OpError> {
    let text = document::pretty(receipt).map_err(|e| OpError::Internal(e.to_string()))?;
    let (at, ledger) = (record.clone(), world.ledger.borrow().clone());
    let ledger = world.blocking(move || ledger::store(&at, &ledger));
    let at = record.clone();
    let receipt = world.blocking(move || at.write(&own(RECEIPT)?, text.as_bytes(), 0o600, None));
    let synced = async { Ok(journal.finish().await?) };
    // The ledger last: once it says that all is done, nothing comes back to write a receipt.
    let (receipt, synced) = futures_util::join!(receipt, synced);
    synced.and(receipt)?;
    ledger.await
}

fn unfinished(receipt: Receipt, failed: Vec<Failure>) -> ApplyError {
    let with = |outcome| {
        let some = receipt.actions.iter().filter(move |r| r.outcome == outcome);
        some.map(|r| r.id.clone()).collect::<Vec<_>>()
    };
    let (done, not_begun) = (with(ActionOutcome::Done), with(ActionOutcome::NotBegun));
    let untouched = done.is_empty() && failed.iter().all(|f| f.error.is_stale());
    if untouched && !failed.is_empty() {
        let findings = failed.into_iter().map(|failure| {
            let what = failure.action.to_string();
            match failure.error {
                OpError::Stale { expected, found } => Finding { what, expected, found },
                error => Finding { what, expected: "it to be done".into(), found: chain(&error) },
            }
        });
        return ApplyError::Stale { findings: findings.collect() };
    }
    let interrupted = failed.is_empty();
    let report = Box::new(Report { done, failed, not_begun, receipt });
    if interrupted { ApplyError::Interrupted(report) } else { ApplyError::Partial(report) }
}

fn archived_at(graph: &Graph<'_>, receipt: &Receipt) -> Option<String> {
    let index = graph.actions.iter().position(|a| matches!(a.op, Operation::Archive(_)))?;
    receipt.actions[index].object.clone()
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
