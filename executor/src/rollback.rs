//! Undoes what a plan made, in reverse order, and brings back what it took away.
//!
//! Nothing is touched that this plan cannot be proved to have made: an engine object by its label
//! and the journal, a file by the digest that was written. What is left is reported. Every step
//! looks first, so that a rollback that was cut short is simply run again.
//!
//! A killed apply may have asked the engine for something that comes to be only after rollback has
//! looked. So what the journal has begun and not ended is waited for, as long as it can take.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::{
    Action, ActionId, ContainerSpec, Effect, Expect, LABEL_PLAN, LABEL_SPEC, MintCa, Operation,
    Plan, Reload,
};
use bottle_planner::snapshot::{Container, ContainerState};
use bottle_planner::words::{Digest, RelPath};

use crate::apply::{ApplyError, Finding, Request, archived, open};
use crate::ca;
use crate::engine::Engine;
use crate::events::Event;
use crate::files::{FileError, Root};
use crate::journal::{self, Entry, Journal, Note, Previous, Step};
use crate::ledger::{self, APPLIED, BACKUP, own};
use crate::ops::{Basis, Check, Inspections, Installing, OpError, Shared, World};
use crate::secrets::{self, Sources};
use crate::state::{INPUTS, JOURNAL, LEDGER, Ledger, PLAN, PREVIOUS_PLAN, RECEIPT};

/// Seconds a container has between SIGTERM and SIGKILL.
const GRACE_SECONDS: u32 = 10;

/// How long the engine may take for what it was asked before the asking process was killed.
/// Nothing tells that it will not come any more; Docker makes an object in well under a second.
const SETTLES: Duration = Duration::from_secs(5);
/// Between two looks at first; it doubles up to the longest.
const POLL: Duration = Duration::from_millis(10);
const LONGEST_POLL: Duration = Duration::from_millis(50);

/// What a rollback left.
#[derive(Debug)]
pub struct RolledBack {
    /// Actions that were undone, in that order.
    pub undone: Vec<ActionId>,
    /// Actions of the plan before that were done again, to bring back what was taken away.
    pub restored: Vec<ActionId>,
    /// What was not undone, and why.
    pub kept: Vec<Kept>,
    /// The plan that is the last applied again; `None` where there was none.
    pub returned_to: Option<Digest>,
}

/// Something that a rollback left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The action that made or changed it.
    pub action: ActionId,
    /// Why it was left.
    pub why: String,
}

/// What the journal says of this plan.
#[derive(Default)]
struct Past {
    /// Actions that began.
    begun: BTreeSet<ActionId>,
    /// Actions that ended well.
    done: BTreeSet<ActionId>,
    /// Actions that began and have no end: the process was killed, and the engine may be at it.
    unanswered: BTreeSet<ActionId>,
    /// Engine ids of what was made.
    ids: BTreeSet<String>,
    /// Files as they were before.
    previous: BTreeMap<ActionId, Previous>,
    /// Fingerprints of certificates that were minted.
    minted: BTreeSet<Digest>,
}

/// Undoes the plan of this request, which must be the one last applied or begun.
///
/// Needs a [`Confirmed`](crate::apply::Confirmed) where a volume goes that an agent may have
/// worked on. Images are shared and stay.
///
/// # Errors
///
/// As for [`apply`](crate::apply::apply).
pub async fn rollback<E: Engine>(
    engine: &E,
    mut request: Request<'_>,
    observer: &mut dyn FnMut(&Event),
) -> Result<RolledBack, ApplyError> {
    let (plan, digest) = (request.plan, request.digest);
    let opened = open(request.roots, plan, digest).await?;
    let ledger = opened.ledger.filter(|l| l.plan.as_ref() == Some(digest));
    let Some(ledger) = ledger else {
        return Err(ApplyError::Stale {
            findings: vec![Finding {
                what: "plan".into(),
                expected: format!("{digest} to be the last applied"),
                found: "another, or none".into(),
            }],
        });
    };
    let world = World {
        engine,
        plan,
        digest,
        roots: request.roots,
        config: request.config,
        tool: request.tool,
        env: request.env,
        cancel: request.cancel,
        root: opened.root,
        lock: opened.lock,
        state: RefCell::new(opened.state),
        ledger: RefCell::new(ledger.clone()),
        begun: BTreeSet::new(),
        done: BTreeSet::new(),
        secrets: RefCell::default(),
        redeliver: false,
        shared: Shared::default(),
        inspections: Inspections::default(),
        installing: Installing::default(),
    };
    let mut back = Back {
        world: &world,
        past: Past::default(),
        out: RolledBack {
            undone: Vec::new(),
            restored: Vec::new(),
            kept: Vec::new(),
            returned_to: ledger.previous.clone(),
        },
        observer,
        seq: 0,
    };
    let state = back.enter(ledger.clone()).await?;
    back.settle().await?;
    back.refuse_unconfirmed(request.confirmed.is_some()).await?;
    let journal = {
        let (state, digest) = (state.clone(), digest.clone());
        world.blocking(move || Journal::open(&state, &digest)).await?
    };
    back.stop_own().await?;
    for action in plan.actions.iter().rev() {
        if back.past.begun.contains(&action.id) {
            back.undo(action, &journal).await?;
        }
    }
    // Once more for what came after all: the undoing has taken its time too.
    for action in plan.actions.iter().rev() {
        if back.past.unanswered.contains(&action.id) && is_object(&action.op) {
            back.undo(action, &journal).await?;
        }
    }
    let old = old(&world, &state, ledger.previous.as_ref()).await?;
    let Some((old_plan, old_digest, old_ledger)) = old else {
        journal.finish().await.map_err(OpError::from)?;
        clear(&world, state).await?;
        return Ok(back.out);
    };
    let Back { past, mut out, .. } = back;
    let then = World {
        plan: &old_plan,
        digest: &old_digest,
        ledger: RefCell::new(old_ledger),
        inspections: Inspections::default(),
        installing: Installing::default(),
        ..world
    };
    restore(&then, plan, &past, &mut request, &mut out).await?;
    journal.finish().await.map_err(OpError::from)?;
    commit(&then, &state).await?;
    Ok(out)
}

/// A rollback at work.
struct Back<'b, 'w, E> {
    world: &'b World<'w, E>,
    past: Past,
    out: RolledBack,
    observer: &'b mut dyn FnMut(&Event),
    seq: u64,
}

impl<E: Engine> Back<'_, '_, E> {
    /// Finds the state folder (in history, where the plan ended the session), reads the journal,
    /// and says in the ledger that the plan is not whole any more.
    async fn enter(&mut self, mut ledger: Ledger) -> Result<Root, OpError> {
        let (root, digest) = (self.world.root.clone(), self.world.digest.clone());
        let (identity, state) = (self.world.plan.identity.clone(), self.world.state.take());
        let entered = self.world.blocking(move || {
            let state = match state {
                Some(state) => state,
                None => {
                    let found = archived(&root, &identity, &digest)?;
                    let (_, state, from) = found.ok_or_else(|| {
                        OpError::Internal(format!("the record of {identity} went away"))
                    })?;
                    root.ensure_folder(&own("state")?, 0o700)?;
                    root.rename(&own(&from)?, &own(&format!("state/{identity}"))?)?;
                    state
                }
            };
            let records = journal::read(&state)?;
            if ledger.complete {
                ledger.complete = false;
                ledger::store(&state, &ledger)?;
            }
            Ok::<_, OpError>((state, records))
        });
        let (state, records) = entered.await?;
        for record in records.into_iter().filter(|r| r.plan == *self.world.digest) {
            match record.event {
                Step::Start => self.past.unanswered.insert(record.action.clone()),
                _ => self.past.unanswered.remove(&record.action),
            };
            self.past.ids.extend(record.object);
            self.past.minted.extend(record.notes.iter().filter_map(|n| match n {
                Note::Minted { fingerprint } => Some(fingerprint.clone()),
                _ => None,
            }));
            match record.event {
                Step::Start => {
                    // The first start saw what was there before this plan.
                    if let Some(previous) = record.previous
                        && !self.past.begun.contains(&record.action)
                    {
                        self.past.previous.insert(record.action.clone(), previous);
                    }
                    self.past.begun.insert(record.action);
                }
                Step::Done => {
                    self.past.done.insert(record.action);
                }
                Step::Skipped | Step::Failed | Step::Undone => {}
            }
        }
        *self.world.state.borrow_mut() = Some(state.clone());
        Ok(state)
    }

    /// Waits until all that the engine was asked, and never answered, is seen to be done; what is
    /// not seen in time never reached it.
    async fn settle(&mut self) -> Result<(), OpError> {
        let plan = self.world.plan;
        let open = plan.actions.iter().filter(|a| self.past.unanswered.contains(&a.id));
        let mut open: Vec<&Action> = open.collect();
        let begun = Instant::now();
        let mut wait = POLL;
        let mut told = false;
        loop {
            let mut left = Vec::new();
            for action in open {
                if begun.elapsed() < patience(&action.op) && !self.took_effect(&action.op).await? {
                    left.push(action);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            for action in left.iter().filter(|_| !std::mem::replace(&mut told, true)) {
                self.seq += 1;
                let line = "it was cut short; the engine may still be at it".to_owned();
                let id = action.id.clone();
                (self.observer)(&Event::ActionProgress { seq: self.seq, id, line });
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(LONGEST_POLL);
            open = left;
        }
    }

    /// Whether the world is as an engine call leaves it. Calls that change nothing which a
    /// rollback looks at need no waiting for.
    async fn took_effect(&self, op: &Operation) -> Result<bool, OpError> {
        let engine = self.world.engine;
        Ok(match op {
            Operation::Network(spec) => engine.network(&spec.name).await?.is_some(),
            Operation::Volume(spec) => engine.volume(&spec.name).await?.is_some(),
            Operation::Container(spec) => engine.container(&spec.name).await?.is_some(),
            Operation::Start(at) => {
                engine.container(&at.container).await?.is_some_and(|container| runs(&container))
            }
            Operation::Stop(at) => {
                engine.container(&at.container).await?.is_none_or(|container| !runs(&container))
            }
            Operation::RemoveContainer(at) => {
                let found = engine.container(&at.container).await?;
                found.is_none_or(|container| self.is_made_here(&container.labels))
            }
            Operation::RemoveNetwork(object) => {
                let found = engine.network(&object.name).await?;
                found.is_none_or(|network| self.is_made_here(&network.labels))
            }
            _ => true,
        })
    }

    /// A volume that an agent worked on goes only with a person's word.
    async fn refuse_unconfirmed(&self, confirmed: bool) -> Result<(), ApplyError> {
        let mut actions = Vec::new();
        for action in &self.world.plan.actions {
            let Operation::Volume(spec) = &action.op else { continue };
            if confirmed || !self.past.begun.contains(&action.id) {
                continue;
            }
            let found = self.world.engine.volume(&spec.name).await.map_err(OpError::from)?;
            let worked_on = self.past.done.iter().any(|id| id.0 == "start:agent");
            if worked_on && found.is_some_and(|v| self.is_made_here(&v.labels)) {
                actions.push(action.id.clone());
            }
        }
        if actions.is_empty() { Ok(()) } else { Err(ApplyError::Unconfirmed { actions }) }
    }

    /// Stops what goes, all at once: each may take its time.
    async fn stop_own(&self) -> Result<(), OpError> {
        let stops = self.world.plan.actions.iter().filter_map(|action| match &action.op {
            Operation::Container(spec) if self.past.begun.contains(&action.id) => Some(spec),
            _ => None,
        });
        let stops = stops.map(|spec| async move {
            match self.own_container(spec).await? {
                Some(c) if runs(&c) => {
                    self.world.engine.stop(&c.id, GRACE_SECONDS).await.map_err(OpError::from)
                }
                _ => Ok(()),
            }
        });
        futures_util::future::try_join_all(stops).await.map(|_| ())
    }

    async fn undo(&mut self, action: &Action, journal: &Journal) -> Result<(), OpError> {
        let kept = |why: &str| Some(Kept { action: action.id.clone(), why: why.to_owned() });
        let (undone, left) = match &action.op {
            Operation::Container(spec) => match self.own_container(spec).await? {
                Some(container) => {
                    if runs(&container) {
                        self.world.engine.stop(&container.id, GRACE_SECONDS).await?;
                    }
                    self.world.engine.remove_container(&container.id).await?;
                    (true, None)
                }
                None => (false, None),
            },
            Operation::Network(spec) => match self.world.engine.network(&spec.name).await? {
                Some(n) if self.is_made_here(&n.labels) => {
                    self.world.engine.remove_network(&spec.name).await?;
                    (true, None)
                }
                _ => (false, None),
            },
            Operation::Volume(spec) => match self.world.engine.volume(&spec.name).await? {
                Some(v) if self.is_made_here(&v.labels) => {
                    self.world.engine.remove_volume(&spec.name).await?;
                    (true, None)
                }
                _ => (false, None),
            },
            Operation::Start(at) => match self.world.engine.container(&at.container).await? {
                Some(c) if self.stays(&c) && runs(&c) && self.past.done.contains(&action.id) => {
                    self.world.engine.stop(&c.id, GRACE_SECONDS).await?;
                    (true, None)
                }
                _ => (false, None),
            },
            Operation::Connect(connect) => {
                let left = self.stays_by_name(&connect.container).await?;
                (false, kept("the container stays connected").filter(|_| left))
            }
            Operation::Upload(upload) => {
                let left = self.stays_by_name(&upload.container).await?;
                (false, kept("what was uploaded stays in the container").filter(|_| left))
            }
            Operation::Deliver(deliver) => {
                let left = self.stays_by_name(&deliver.container).await?;
                (false, kept("what was delivered stays in memory").filter(|_| left))
            }
            Operation::RemoveVolume(_) => (false, kept("what was on the volume is gone for good")),
            Operation::File(file) => {
                let written = Some(Digest::of(file.content.as_bytes()));
                self.undo_file(&action.id, file.path.path.clone(), written).await?
            }
            Operation::RemoveFile(file) => {
                self.undo_file(&action.id, file.path.path.clone(), None).await?
            }
            Operation::Folder(folder) if action.effect == Effect::Create => {
                self.undo_folder(&action.id, folder.path.path.clone()).await?
            }
            Operation::Placeholder(stand) if action.effect == Effect::Create => {
                (self.world.remove_placeholder(stand).await?, None)
            }
            Operation::MintCa(mint) => (self.undo_mint(action, mint).await?, None),
            // Shared with other sessions, or brought back below.
            _ => (false, None),
        };
        self.out.kept.extend(left);
        if undone {
            journal.end(Entry::new(&action.id, Step::Undone))?;
            self.out.undone.push(action.id.clone());
            self.seq += 1;
            let (seq, id) = (self.seq, action.id.clone());
            (self.observer)(&Event::ActionDone { seq, id, object: None });
        }
        Ok(())
    }

    /// Brings back what a file held before, if it holds what this plan left there.
    async fn undo_file(
        &self,
        id: &ActionId,
        path: RelPath,
        written: Option<Digest>,
    ) -> Result<(bool, Option<Kept>), OpError> {
        let (state, previous) = (self.world.state()?, self.past.previous.get(id).cloned());
        let id = id.clone();
        self.world
            .blocking(move || {
                let found = state.read(&path)?;
                let now = found.as_ref().map(|f| Previous {
                    digest: f.digest.clone(),
                    mode: f.mode,
                    owner: f.owner,
                });
                if now == previous {
                    return Ok((false, None));
                }
                if now.map(|n| n.digest) != written {
                    let why = format!("{path} was changed since");
                    return Ok((false, Some(Kept { action: id, why })));
                }
                let Some(previous) = previous else {
                    state.remove(&path)?;
                    return Ok((true, None));
                };
                let backup = own(&format!("{BACKUP}/{}", previous.digest.hex()))?;
                let bytes = match found.filter(|f| f.digest == previous.digest) {
                    Some(found) => Some(found.bytes),
                    None => state.read(&backup)?.map(|c| c.bytes),
                };
                let Some(bytes) = bytes else {
                    let why = format!("the backup of {path} is gone");
                    return Ok((false, Some(Kept { action: id, why })));
                };
                state.write(&path, &bytes, previous.mode, Some(previous.owner))?;
                Ok::<_, OpError>((true, None))
            })
            .await
    }

    /// Removes a folder that this plan made: what its own containers left in `out` goes with it,
    /// anything else keeps it.
    async fn undo_folder(
        &self,
        id: &ActionId,
        path: RelPath,
    ) -> Result<(bool, Option<Kept>), OpError> {
        let (state, id) = (self.world.state()?, id.clone());
        self.world
            .blocking(move || {
                if state.entry(&path)?.is_none() {
                    return Ok((false, None));
                }
                match path.as_str().split_once('/') {
                    Some((_, "out")) => state.remove_tree(&path)?,
                    Some((_, "in")) => {
                        state.remove(&own(&format!("{path}/{APPLIED}"))?)?;
                    }
                    _ => {}
                }
                if state.remove_folder_if_empty(&path)? {
                    return Ok((true, None));
                }
                let why = format!("{path} holds something this plan did not make");
                Ok::<_, FileError>((false, Some(Kept { action: id, why })))
            })
            .await
    }

    async fn undo_mint(&self, action: &Action, mint: &MintCa) -> Result<bool, OpError> {
        let (state, mint) = (self.world.state()?, mint.clone());
        let minted = self.past.minted.clone();
        // It was begun where there was nothing: a half-made pair is this plan's too.
        let half_made = action.expect == Expect::Absent && minted.is_empty();
        self.world
            .blocking(move || {
                let found = state.read(&mint.certificate.path)?;
                let known = found
                    .as_ref()
                    .and_then(|c| std::str::from_utf8(&c.bytes).ok())
                    .and_then(ca::fingerprint)
                    .is_some_and(|f| minted.contains(&f));
                if !known && !half_made && found.is_some() {
                    return Ok(false);
                }
                let certificate = state.remove(&mint.certificate.path)?;
                let key = state.remove(&mint.key.path)?;
                Ok::<_, FileError>(certificate || key)
            })
            .await
    }

    /// The container of this name, if this plan made it.
    async fn own_container(&self, spec: &ContainerSpec) -> Result<Option<Container>, OpError> {
        let found = self.world.engine.container(&spec.name).await?;
        Ok(found.filter(|c| {
            let as_asked = c.labels.get(LABEL_SPEC) == spec.labels.get(LABEL_SPEC);
            self.is_made_here(&c.labels) && (as_asked || self.past.ids.contains(&c.id))
        }))
    }

    fn is_made_here(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(LABEL_PLAN).map(String::as_str) == Some(self.world.digest.as_str())
            && self.world.ours(labels)
    }

    /// Whether a container was there before this plan, so that it is there after.
    fn stays(&self, container: &Container) -> bool {
        self.world.ours(&container.labels) && !self.is_made_here(&container.labels)
    }

    async fn stays_by_name(&self, name: &str) -> Result<bool, OpError> {
        let found = self.world.engine.container(name).await?;
        Ok(found.is_some_and(|c| self.stays(&c)))
    }
}

/// The plan before, and the ledger as it was then.
async fn old<E: Engine>(
    world: &World<'_, E>,
    state: &Root,
    previous: Option<&Digest>,
) -> Result<Option<(Plan, Digest, Ledger)>, OpError> {
    let Some(previous) = previous.cloned() else { return Ok(None) };
    let state = state.clone();
    world
        .blocking(move || {
            let lost = |what: &str| OpError::Internal(format!("{what} of {previous} is lost"));
            let text = ledger::plan_text(&state, &previous)?.ok_or_else(|| lost("the plan"))?;
            let plan = document::parse::<Plan>(&text, Strictness::Lenient)
                .map_err(|e| OpError::Internal(e.to_string()))?;
            let kept = state.read(&own(&format!("{BACKUP}/{LEDGER}"))?)?;
            let kept = kept.ok_or_else(|| lost("the ledger"))?;
            let ledger = serde_json::from_slice(&kept.bytes)
                .map_err(|e| OpError::Internal(e.to_string()))?;
            Ok::<_, OpError>(Some((plan.value, previous, ledger)))
        })
        .await
}

/// Carries out those actions of the plan before that bring back what this plan took away.
async fn restore<E: Engine>(
    then: &World<'_, E>,
    undone: &Plan,
    past: &Past,
    request: &mut Request<'_>,
    out: &mut RolledBack,
) -> Result<(), OpError> {
    let mut removed = BTreeSet::new();
    let mut running = BTreeSet::new();
    let mut reloaded = BTreeSet::new();
    for action in undone.actions.iter().filter(|a| past.begun.contains(&a.id)) {
        match &action.op {
            Operation::Stop(at) => {
                running.insert(at.container.as_str());
            }
            Operation::RemoveContainer(at) => {
                removed.insert(at.container.as_str());
            }
            Operation::RemoveNetwork(at) => {
                removed.insert(at.name.as_str());
            }
            Operation::Reload(reload) => {
                reloaded.insert(reload.container.as_str());
            }
            _ => {}
        }
    }
    let wanted = |action: &&Action| match &action.op {
        Operation::Network(spec) => removed.contains(spec.name.as_str()),
        Operation::Container(spec) => removed.contains(spec.name.as_str()),
        Operation::Upload(upload) => {
            removed.contains(upload.container.as_str()) && upload.volume.is_none()
        }
        Operation::Connect(connect) => removed.contains(connect.container.as_str()),
        Operation::Start(at) => running.contains(at.container.as_str()),
        Operation::Deliver(deliver) => running.contains(deliver.container.as_str()),
        _ => false,
    };
    let actions: Vec<&Action> = then.plan.actions.iter().filter(wanted).collect();
    let undeliverable = gather(then, &actions, request);
    for action in actions {
        if let (Operation::Deliver(_), Some(why)) = (&action.op, &undeliverable) {
            out.kept.push(Kept { action: action.id.clone(), why: why.clone() });
            continue;
        }
        let again =
            Action { effect: Effect::Create, expect: expectation(action), ..action.clone() };
        let basis: Basis = match then.check(&again).await? {
            Check::Satisfied(_) => continue,
            Check::Ready(basis) => basis,
            Check::Stale { expected, found } => {
                let why = format!("not brought back: expected {expected}, found {found}");
                out.kept.push(Kept { action: action.id.clone(), why });
                continue;
            }
        };
        let made = then.carry_out(&again, &basis, &|_| {}).await?;
        for note in &made.notes {
            ledger::note(&mut then.ledger.borrow_mut(), &action.id, note);
        }
        out.restored.push(action.id.clone());
    }
    for action in &undone.actions {
        if let Operation::Reload(reload) = &action.op
            && reloaded.contains(reload.container.as_str())
        {
            restore_reload(then, &action.id, reload, out).await?;
        }
    }
    Ok(())
}

/// A sidecar that this plan made read its files again reads the old ones again.
async fn restore_reload<E: Engine>(
    then: &World<'_, E>,
    id: &ActionId,
    reload: &Reload,
    out: &mut RolledBack,
) -> Result<(), OpError> {
    let running = then.engine.container(&reload.container).await?;
    if running.is_none_or(|c| c.state != ContainerState::Running) {
        return Ok(());
    }
    let Some(digest) = then.reloadable_digest(reload.role).await? else { return Ok(()) };
    let note = then.reload_to(&Reload { digest, ..reload.clone() }).await?;
    ledger::note(&mut then.ledger.borrow_mut(), id, &note);
    out.restored.push(id.clone());
    Ok(())
}

/// Gathers what has to be delivered again; answers why that cannot be, in words.
fn gather<E>(
    then: &World<'_, E>,
    actions: &[&Action],
    request: &mut Request<'_>,
) -> Option<String> {
    let refs: BTreeSet<_> = actions
        .iter()
        .filter_map(|action| match &action.op {
            Operation::Deliver(deliver) => Some(deliver.items.values().cloned()),
            _ => None,
        })
        .flatten()
        .collect();
    let sources = Sources { config: &then.config.secrets, home: &then.roots.home, env: then.env };
    match secrets::gather(&refs, &sources, &mut *request.prompter) {
        Ok(gathered) => {
            *then.secrets.borrow_mut() = gathered;
            None
        }
        Err(missing) => Some(format!("deliver again with `--redeliver`: {missing}")),
    }
}

/// Whether an action makes an engine object that a rollback takes away again.
fn is_object(op: &Operation) -> bool {
    matches!(op, Operation::Network(_) | Operation::Volume(_) | Operation::Container(_))
}

/// How long an engine call may take to be seen.
fn patience(op: &Operation) -> Duration {
    match op {
        Operation::Stop(_) => SETTLES + Duration::from_secs(GRACE_SECONDS.into()),
        _ => SETTLES,
    }
}

fn expectation(action: &Action) -> Expect {
    match action.op {
        Operation::Network(_) | Operation::Container(_) => Expect::Absent,
        _ => Expect::Ours,
    }
}

fn runs(container: &Container) -> bool {
    matches!(container.state, ContainerState::Running | ContainerState::Paused)
}

/// Makes the plan before the last applied again. The ledger comes last.
async fn commit<E: Engine>(then: &World<'_, E>, state: &Root) -> Result<(), OpError> {
    let (state, digest) = (state.clone(), then.digest.clone());
    let ledger = then.ledger.borrow().clone();
    then.blocking(move || {
        if let Some(text) = ledger::plan_text(&state, &digest)? {
            state.write(&own(PLAN)?, text.as_bytes(), 0o600, None)?;
        }
        for name in [INPUTS, PREVIOUS_PLAN] {
            match state.read(&own(&format!("{BACKUP}/{name}"))?)? {
                Some(content) => state.write(&own(name)?, &content.bytes, 0o600, None)?,
                // The plan itself is in `plan.json` by now.
                None => {
                    state.remove(&own(name)?)?;
                }
            }
        }
        ledger::store(&state, &ledger)?;
        state.remove_tree(&own(BACKUP)?)?;
        Ok::<_, OpError>(())
    })
    .await
}

/// Removes the state folder of a session that began with this plan, unless somebody else left
/// something in it. The ledger goes last: without it there is nothing to roll back.
async fn clear<E: Engine>(world: &World<'_, E>, state: Root) -> Result<(), OpError> {
    let (root, identity) = (world.root.clone(), world.plan.identity.clone());
    world
        .blocking(move || {
            state.remove_tree(&own(BACKUP)?)?;
            for name in [PLAN, PREVIOUS_PLAN, INPUTS, RECEIPT, JOURNAL, LEDGER] {
                state.remove(&own(name)?)?;
            }
            root.remove_folder_if_empty(&own(&format!("state/{identity}"))?)?;
            Ok::<_, OpError>(())
        })
        .await
}
