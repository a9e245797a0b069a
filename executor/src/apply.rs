//! Carries out a plan: exactly that plan, once, and carried on after a crash at any point.
//!
//! The executor chooses nothing. For each action it looks whether it is so already, then whether
//! what the plan expects holds, and does it; anything else is reported as stale.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bottle_planner::document;
use bottle_planner::plan::{Action, ActionId, Effect, Expect, Intent, Operation, Plan};
use bottle_planner::policy::HostConfig;
use bottle_planner::words::{AbsPath, Digest, Identity};
use futures_util::StreamExt as _;

use crate::engine::{Engine, EngineError};
use crate::events::Event;
use crate::files::Root;
use crate::journal::{self, Step};
use crate::ledger::{self, BACKUP, own};
use crate::lock::{Lock, LockError};
use crate::ops::{self, Check, Inspections, Installing, OpError, Shared, World, history_name};
use crate::receipt::Receipt;
use crate::requires::{self, Unmet};
use crate::run::{Graph, Run, WIDTH};
use crate::secrets::{self, Env, Gathered, Prompter, SecretsMissing, Sources};
use crate::state::{INPUTS, LEDGER, Ledger, PLAN, PREVIOUS_PLAN, Roots};
use crate::tool::ToolBinary;

/// How long the checks before the first action hold for actions that wait for nothing.
const FRESH: Duration = Duration::from_secs(1);

/// One apply.
///
/// The caller has read the plan's bytes once, compared their digest with what was approved
/// (`--expect`, `--require-lock`), checked schema and version, and linted it. The text here is
/// those very bytes.
pub struct Request<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Its digest.
    pub digest: &'a Digest,
    /// Its text, stored as `plan.json`.
    pub text: &'a str,
    /// What the planner was given, stored as `inputs.json`; `None` where it is not known.
    pub inputs: Option<&'a str>,
    /// What the plan's roots are on this host.
    pub roots: &'a Roots,
    /// The host config: sources of secrets, extra trust.
    pub config: &'a HostConfig,
    /// `uid-digest` of the applying user and state root.
    pub owner: &'a str,
    /// The binary that applies.
    pub tool: &'a ToolBinary,
    /// The folder that a person (or a flag) confirmed; a plan that brings in another is refused.
    pub workspace: Option<&'a AbsPath>,
    /// Given by whoever confirmed that work may be lost.
    pub confirmed: Option<&'a Confirmed>,
    /// Whether secrets that were delivered are delivered again.
    pub redeliver: bool,
    /// The host's environment.
    pub env: &'a Env<'a>,
    /// Who is asked for secrets.
    pub prompter: &'a mut dyn Prompter,
    /// The time, RFC 3339, for receipts.
    pub clock: &'a dyn Fn() -> String,
    /// Set by Ctrl-C.
    pub cancel: &'a Cancel,
}

/// The word of a confirmed path that work may be lost: nothing destructive is done without one.
#[derive(Debug)]
pub struct Confirmed {
    reason: String,
}

impl Confirmed {
    /// For the code that asked, or was told in so many words; `reason` says which.
    pub fn destructive(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    /// How it was confirmed.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A flag that asks an apply to stop after what is in flight.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a successful apply left.
#[derive(Debug)]
pub struct Applied {
    /// What was done. [`Outcome::Verified`](crate::receipt::Outcome::Verified) means that nothing had to be.
    pub receipt: Receipt,
    /// Where the session's record went, if the plan ended it.
    pub archived: Option<PathBuf>,
}

/// One difference between the world and what the plan expects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct Finding {
    /// The action, or the part of the plan.
    pub what: String,
    /// What the plan expects.
    pub expected: String,
    /// What there is.
    pub found: String,
}

/// An action that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} failed")]
pub struct Failure {
    /// Which.
    pub action: ActionId,
    /// Why.
    #[source]
    pub error: OpError,
}

/// What an apply that did not come to its end left.
#[derive(Debug)]
pub struct Report {
    /// Actions that were done.
    pub done: Vec<ActionId>,
    /// Actions that failed, and why.
    pub failed: Vec<Failure>,
    /// Actions that were not begun.
    pub not_begun: Vec<ActionId>,
    /// All of it, as it was stored.
    pub receipt: Receipt,
}

/// Why a plan was not carried out, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan may lose work and nobody confirmed that. Nothing was touched.
    #[error("the plan may lose work and nobody confirmed it: {}", list(.actions))]
    Unconfirmed {
        /// The actions that may.
        actions: Vec<ActionId>,
    },
    /// The plan brings in a folder that nobody confirmed. Nothing was touched.
    #[error("expected the plan to bring in {}, found {found}", confirmed.as_ref().map_or("no folder", AbsPath::as_str))]
    Workspace {
        /// The folder that was confirmed.
        confirmed: Option<AbsPath>,
        /// The plan's.
        found: AbsPath,
    },
    /// Another process works on this session. Nothing was touched.
    #[error("the session is locked")]
    Locked(#[source] LockError),
    /// The world is not as the plan expects. Nothing was touched.
    #[error("the plan is stale: {}", list(.findings))]
    Stale {
        /// All differences.
        findings: Vec<Finding>,
    },
    /// Requirements do not hold. Nothing was touched.
    #[error("requirements do not hold: {}", list(.unmet))]
    RequirementsFailed {
        /// All of them.
        unmet: Vec<Unmet>,
    },
    /// Secrets could not be had. Nothing was touched.
    #[error(transparent)]
    SecretsMissing(SecretsMissing),
    /// An action failed; those in flight were finished and no new one was begun.
    #[error("partly applied: {} done, {} failed, {} not begun", .0.done.len(), .0.failed.len(), .0.not_begun.len())]
    Partial(Box<Report>),
    /// It was told to stop; actions in flight were finished.
    #[error("interrupted: {} done, {} not begun", .0.done.len(), .0.not_begun.len())]
    Interrupted(Box<Report>),
    /// The engine failed before the first action.
    #[error(transparent)]
    Engine(EngineError),
    /// The state folder could not be read or written.
    #[error("the state folder cannot be used")]
    State(#[source] OpError),
    /// The plan cannot be, or this program is wrong.
    #[error("internal: {0}")]
    Internal(String),
}

impl ApplyError {
    /// The exit code of the documented list (`docs/plan.md`, section 4).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Locked(_) | Self::Engine(_) | Self::State(_) => 1,
            Self::Stale { .. } | Self::RequirementsFailed { .. } | Self::SecretsMissing(_) => 10,
            Self::Unconfirmed { .. } | Self::Workspace { .. } => 11,
            Self::Partial(_) => 12,
            Self::Internal(_) => 70,
            Self::Interrupted(_) => 130,
        }
    }

    /// Whether planning again may help: the world differed from what the plan expected.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Stale { .. } => true,
            Self::Partial(report) => report.failed.iter().all(|f| f.error.is_stale()),
            _ => false,
        }
    }
}

impl From<OpError> for ApplyError {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Engine(error) => Self::Engine(error),
            OpError::Lock(error) => Self::Locked(error),
            OpError::Internal(why) => Self::Internal(why),
            error => Self::State(error),
        }
    }
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// How a plan stands to the one last applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It follows it.
    Fresh,
    /// It follows it and has nothing to do: it does not become the last applied.
    Idle,
    /// It is it, and was cut short.
    CarryOn,
    /// It is it, whole: what holds is passed over, what does not is reported and not repaired.
    Verify,
}

/// Carries out a plan.
///
/// In this order: what needs a person's word; the lock; the parent; requirements and
/// expectations, all of them, reported together; secrets; the plan and `ledger.json` are stored;
/// then the actions, side by side as far as their dependencies let them.
///
/// # Errors
///
/// See [`ApplyError`]. Everything but `Partial` and `Interrupted` has touched nothing, save that
/// a plan whose first actions found the world changed may have been stored as begun.
pub async fn apply<E: Engine>(
    engine: &E,
    mut request: Request<'_>,
    observer: &mut dyn FnMut(&Event),
) -> Result<Applied, ApplyError> {
    let plan = request.plan;
    refuse_unconfirmed(&request)?;
    let graph = Graph::of(plan)?;
    let opened = open(request.roots, plan, request.digest).await?;
    let mode = mode(plan, request.digest, opened.ledger.as_ref())?;
    let world = World {
        engine,
        plan,
        digest: request.digest,
        roots: request.roots,
        config: request.config,
        tool: request.tool,
        env: request.env,
        cancel: request.cancel,
        root: opened.root,
        lock: opened.lock,
        state: RefCell::new(opened.state),
        ledger: RefCell::new(opened.ledger.clone().unwrap_or_default()),
        begun: opened.begun,
        done: opened.done,
        secrets: RefCell::default(),
        redeliver: request.redeliver,
        shared: Shared::default(),
        inspections: Inspections::default(),
        installing: Installing::default(),
    };
    let looked_at = Instant::now();
    let (unmet, checks) =
        futures_util::join!(requires::check(&world, request.owner), look(&world, &graph, mode));
    let unmet = unmet?;
    if !unmet.is_empty() {
        return Err(ApplyError::RequirementsFailed { unmet });
    }
    let checks = sort_out(plan, checks?)?;
    *world.secrets.borrow_mut() = gather(&mut request, &checks)?;
    let fresh = looked_at.elapsed() < FRESH;
    let run = Run::new(&graph, (plan, request.digest), request.clock, observer, fresh);
    let idle = checks.iter().all(|c| matches!(c, Some(Check::Satisfied(_))));
    if idle && matches!(mode, Mode::Idle | Mode::Verify) {
        return Ok(run.verified(checks));
    }
    let record = match mode {
        Mode::Fresh => {
            let (text, inputs) = (request.text.to_owned(), request.inputs.map(str::to_owned));
            begin(&world, opened.ledger, text, inputs).await?
        }
        _ => opened.record.ok_or_else(|| ApplyError::Internal("no state folder".into()))?,
    };
    run.go(&world, record, checks, matches!(mode, Mode::Fresh | Mode::CarryOn)).await
}

fn refuse_unconfirmed(request: &Request<'_>) -> Result<(), ApplyError> {
    let plan = request.plan;
    let destructive = |a: &&Action| a.destructive && a.effect != Effect::None;
    let actions: Vec<ActionId> =
        plan.actions.iter().filter(destructive).map(|a| a.id.clone()).collect();
    if !actions.is_empty() && request.confirmed.is_none() {
        return Err(ApplyError::Unconfirmed { actions });
    }
    if plan.intent == Intent::Destroy {
        return Ok(());
    }
    let mounted = plan.actions.iter().filter_map(|a| match &a.op {
        Operation::Container(spec) => ops::mounts_workspace(spec),
        Operation::Placeholder(stand) => Some(&stand.workspace),
        _ => None,
    });
    let brought = plan.session.workspace.iter().map(|w| &w.host).chain(mounted);
    for found in brought {
        if request.workspace != Some(found) {
            let confirmed = request.workspace.cloned();
            return Err(ApplyError::Workspace { confirmed, found: found.clone() });
        }
    }
    Ok(())
}

/// What is known of a session once it is locked.
pub(crate) struct Opened {
    pub(crate) root: Root,
    pub(crate) lock: Arc<Lock>,
    pub(crate) state: Option<Root>,
    /// The state folder, or where it went when the session was ended.
    record: Option<Root>,
    pub(crate) ledger: Option<Ledger>,
    begun: BTreeSet<ActionId>,
    done: BTreeSet<ActionId>,
}

pub(crate) async fn open(
    roots: &Roots,
    plan: &Plan,
    digest: &Digest,
) -> Result<Opened, ApplyError> {
    let (roots, identity, digest) = (roots.clone(), plan.identity.clone(), digest.clone());
    let ends = plan.intent == Intent::Destroy;
    let opened =
        tokio::task::spawn_blocking(move || open_blocking(&roots, &identity, &digest, ends));
    opened.await.map_err(|e| ApplyError::Internal(e.to_string()))?.map_err(ApplyError::from)
}

fn open_blocking(
    roots: &Roots,
    identity: &Identity,
    digest: &Digest,
    ends: bool,
) -> Result<Opened, OpError> {
    let root = Root::open_or_make(&roots.root)?;
    let lock = Arc::new(Lock::session(roots, &root, identity)?);
    let state = root.below(&own(&format!("state/{identity}"))?)?;
    let mut ledger = match &state {
        Some(state) => ledger::load(state)?,
        None => None,
    };
    let mut record = state.clone();
    if state.is_none() && ends {
        // A plan that ended this session: its record is where it put it.
        (ledger, record) = archived(&root, identity, digest)?.map(|(l, r, _)| (l, r)).unzip();
    }
    let (mut begun, mut done) = (BTreeSet::new(), BTreeSet::new());
    let this = ledger.as_ref().is_some_and(|l| l.plan.as_ref() == Some(digest));
    if let Some(state) = record.as_ref().filter(|_| this) {
        for record in journal::read(state)?.into_iter().filter(|r| r.plan == *digest) {
            match record.event {
                Step::Start => {
                    begun.insert(record.action);
                }
                Step::Done => {
                    done.insert(record.action);
                }
                Step::Undone => {
                    begun.remove(&record.action);
                    done.remove(&record.action);
                }
                Step::Skipped | Step::Failed => {}
            }
        }
    }
    Ok(Opened { root, lock, state, record, ledger, begun, done })
}

/// The record of a session in history whose last plan was this one.
pub(crate) fn archived(
    root: &Root,
    identity: &Identity,
    digest: &Digest,
) -> Result<Option<(Ledger, Root, String)>, OpError> {
    for n in 1_u32.. {
        let name = history_name(identity.as_str(), n);
        let Some(state) = root.below(&own(&name)?)? else { break };
        if let Some(ledger) = ledger::load(&state)?
            && ledger.plan.as_ref() == Some(digest)
        {
            return Ok(Some((ledger, state, name)));
        }
    }
    Ok(None)
}

/// The compare-and-set of `docs/plan.md`, rule 9.
fn mode(plan: &Plan, digest: &Digest, ledger: Option<&Ledger>) -> Result<Mode, ApplyError> {
    let last = ledger.and_then(|l| l.plan.as_ref());
    if last == Some(digest) {
        let whole = ledger.is_some_and(|l| l.complete);
        return Ok(if whole { Mode::Verify } else { Mode::CarryOn });
    }
    if plan.parent.as_ref() == last {
        let idle = plan.actions.iter().all(|a| a.effect == Effect::None);
        return Ok(if idle { Mode::Idle } else { Mode::Fresh });
    }
    let name = |digest: Option<&Digest>| digest.map_or("no plan".to_owned(), Digest::to_string);
    Err(ApplyError::Stale {
        findings: vec![Finding {
            what: "parent".into(),
            expected: format!("{} to be the last applied", name(plan.parent.as_ref())),
            found: name(last),
        }],
    })
}

/// Looks at every action whose object no other action changes before it.
async fn look<E: Engine>(
    world: &World<'_, E>,
    graph: &Graph<'_>,
    mode: Mode,
) -> Result<Vec<Option<Check>>, OpError> {
    let checks = graph.actions.iter().enumerate().map(|(index, action)| async move {
        if mode == Mode::Verify {
            // Whatever it did, it is done: the question is only whether it still holds.
            let held = Action { effect: Effect::None, expect: Expect::Satisfied, ..action.clone() };
            return world.check(&held).await.map(Some);
        }
        let told = matches!(action.op, Operation::Deliver(_)) && world.done.contains(&action.id);
        if graph.clouded[index] && action.effect != Effect::None && !told {
            return Ok(None);
        }
        world.check(action).await.map(Some)
    });
    let checks: Vec<_> = futures_util::stream::iter(checks).buffered(2 * WIDTH).collect().await;
    checks.into_iter().collect()
}

/// Reports all that is stale together.
fn sort_out(plan: &Plan, checks: Vec<Option<Check>>) -> Result<Vec<Option<Check>>, ApplyError> {
    let stale = |(action, check): (&Action, &Option<Check>)| match check {
        Some(Check::Stale { expected, found }) => Some(Finding {
            what: action.id.to_string(),
            expected: expected.clone(),
            found: found.clone(),
        }),
        _ => None,
    };
    let findings: Vec<Finding> = plan.actions.iter().zip(&checks).filter_map(stale).collect();
    if findings.is_empty() { Ok(checks) } else { Err(ApplyError::Stale { findings }) }
}

/// Gathers the values of what will be delivered, and of nothing else.
fn gather(request: &mut Request<'_>, checks: &[Option<Check>]) -> Result<Gathered, ApplyError> {
    let due = request.plan.actions.iter().zip(checks);
    let refs: BTreeSet<_> = due
        .filter(|(_, check)| !matches!(check, Some(Check::Satisfied(_))))
        .filter_map(|(action, _)| match &action.op {
            Operation::Deliver(deliver) => Some(deliver.items.values().cloned()),
            _ => None,
        })
        .flatten()
        .collect();
    if refs.is_empty() {
        return Ok(Gathered::default());
    }
    let sources =
        Sources { config: &request.config.secrets, home: &request.roots.home, env: request.env };
    secrets::gather(&refs, &sources, &mut *request.prompter).map_err(ApplyError::SecretsMissing)
}

/// Stores the plan, what it replaces, and the word that it was begun. The ledger comes last: as
/// long as it names the old plan, nothing was begun.
async fn begin<E: Engine>(
    world: &World<'_, E>,
    old: Option<Ledger>,
    text: String,
    inputs: Option<String>,
) -> Result<Root, ApplyError> {
    let (root, identity) = (world.root.clone(), world.plan.identity.clone());
    let ledger = Ledger {
        plan: Some(world.digest.clone()),
        previous: old.as_ref().and_then(|l| l.plan.clone()),
        complete: false,
        ..old.clone().unwrap_or_default()
    };
    *world.ledger.borrow_mut() = ledger.clone();
    let begun = world.blocking(move || {
        let path = own(&format!("state/{identity}"))?;
        root.ensure_folder(&own("state")?, 0o700)?;
        root.ensure_folder(&path, 0o700)?;
        let state = root.below(&path)?.ok_or_else(|| {
            OpError::Internal(format!("the state folder of {identity} went away"))
        })?;
        state.remove_tree(&own(BACKUP)?)?;
        state.make_folder(&own(BACKUP)?, 0o700, None)?;
        if let Some(old) = &old {
            keep_old(&state, old)?;
        }
        state.write(&own(PLAN)?, text.as_bytes(), 0o600, None)?;
        match inputs {
            Some(inputs) => state.write(&own(INPUTS)?, inputs.as_bytes(), 0o600, None)?,
            // Those of the plan before make another plan.
            None => drop(state.remove(&own(INPUTS)?)?),
        }
        ledger::store(&state, &ledger)?;
        Ok::<_, OpError>(state)
    });
    let state = begun.await?;
    *world.state.borrow_mut() = Some(state.clone());
    Ok(state)
}

/// Puts what the executor wrote for the plan before aside, for a rollback.
fn keep_old(state: &Root, old: &Ledger) -> Result<(), OpError> {
    let text = document::pretty(old).map_err(|e| OpError::Internal(e.to_string()))?;
    state.write(&own(&format!("{BACKUP}/{}", LEDGER))?, text.as_bytes(), 0o600, None)?;
    for name in [INPUTS, PREVIOUS_PLAN] {
        if let Some(content) = state.read(&own(name)?)? {
            state.write(&own(&format!("{BACKUP}/{name}"))?, &content.bytes, 0o600, None)?;
        }
    }
    if let Some(plan) = &old.plan
        && let Some(text) = ledger::plan_text(state, plan)?
    {
        state.write(&own(PREVIOUS_PLAN)?, text.as_bytes(), 0o600, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
