//! `bottle lock`: what each agent is granted, written down for a second pair of eyes.
//!
//! A lock file holds the grants of each agent with their digest. Grants are free of host and time,
//! so everybody's lock file is the same, and a change of it is what a reviewer looks at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bottle_planner::diff::diff_grants;
use bottle_planner::document::{self, Strictness};
use bottle_planner::escape::visible;
use bottle_planner::grants::Grants;
use bottle_planner::policy::{Manifest, WorkspaceMode};
use bottle_planner::resolve::{grants_digest, plan};
use bottle_planner::snapshot::Snapshot;
use bottle_planner::spec::{Overrides, SessionRequest, Spec};
use bottle_planner::words::{Digest, Name, Timestamp};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::args::ManifestArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leak_rules;
use crate::load;
use crate::request::Mode;
use crate::save::replace;
use crate::world;

/// What a lock file says it is.
const KIND: &str = "bottle/lock";
/// The lock file's own format.
const FORMAT_VERSION: &str = "1.0";
/// Where it lies unless told otherwise.
const FILE: &str = "bottle.lock";

/// Writes down what each agent is granted, or checks that nothing else is.
///
/// Commit the file where changes are reviewed, and apply with `--require-lock`: a plan that grants
/// anything else is refused. Only the modes of bringing in a folder that are named here are
/// locked; `none` always is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle lock                                 every agent\n  \
    bottle lock dev --workspace clone --manifest bottle.yaml\n  \
    bottle lock --check                         exits with 11 if something else is granted\n  \
    bottle apply plan.json --require-lock bottle.lock")]
pub struct Lock {
    /// Which agents (default: all; with --check, those of the file)
    agents: Vec<Name>,
    /// The lock file
    #[arg(short, long, value_name = "FILE", default_value = FILE)]
    output: PathBuf,
    /// Compare in place of writing
    #[arg(long)]
    check: bool,
    /// Lock this mode of bringing in a folder too (repeatable)
    #[arg(long, value_name = "MODE", conflicts_with = "check")]
    workspace: Vec<Mode>,
    /// Plan from a stored snapshot, with no engine
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// A lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LockFile {
    kind: String,
    format_version: String,
    /// By agent, then by the mode in which a folder is brought in.
    agents: BTreeMap<Name, BTreeMap<WorkspaceMode, Locked>>,
}

/// What was approved of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Locked {
    digest: Digest,
    /// So that a refusal can say what is newly allowed. Only the digest approves.
    grants: Grants,
}

/// Runs the command.
pub fn run(args: &Lock, context: &mut Context) -> Result<Exit, Failure> {
    let read = world::manifest(context, &args.manifest, None)?;
    if read.has_errors {
        return Err(Failure::error("the manifest has errors"));
    }
    let stored = if args.check { Some(LockFile::read(&args.output)?) } else { None };
    let agents: Vec<Name> = match (&stored, args.agents.is_empty()) {
        (_, false) => args.agents.clone(),
        (Some(stored), true) => {
            let mut all: Vec<Name> = stored.agents.keys().cloned().collect();
            all.extend(read.manifest.agents.keys().cloned());
            all.sort();
            all.dedup();
            all
        }
        (None, true) => read.manifest.agents.keys().cloned().collect(),
    };
    let given = args.snapshot.as_deref().map(world::stored_snapshot).transpose()?;
    let mut found = BTreeMap::new();
    let mut failed = Failure::silent(Exit::Error);
    for agent in &agents {
        if stored.is_some() && !read.manifest.agents.contains_key(agent) {
            continue;
        }
        match grants(agent, &read.manifest, given.as_ref(), args, context) {
            Ok(grants) => {
                found.insert(agent.clone(), grants);
            }
            Err(failure) => failed.problems.extend(failure.problems),
        }
    }
    if !failed.problems.is_empty() {
        return Err(failed);
    }
    match stored {
        Some(stored) => check(&stored, &agents, &found, context),
        None => write(args, &read.manifest, found, context),
    }
}

/// What an agent is granted without a folder; the mode is the only part of it that a launch adds.
fn grants(
    agent: &Name,
    manifest: &Manifest,
    given: Option<&Snapshot>,
    args: &Lock,
    context: &mut Context,
) -> Result<Grants, Failure> {
    let mut spec = spec(agent)?;
    let snapshot = match given {
        Some(snapshot) => snapshot.clone(),
        None => world::snapshot(context, &args.manifest, manifest, &spec)?,
    };
    // Grants hardly ever depend on the engine, so a machine without one can check them.
    spec.offline = given.is_some() || snapshot.engine.is_none();
    let planned = plan(manifest, &spec, &snapshot).map_err(Failure::from_plan);
    let granted = planned
        .and_then(|plan| leak_rules::of_manifest(&plan.grants, manifest).map(|()| plan.grants));
    granted.map_err(|mut failure| {
        for problem in &mut failure.problems {
            problem.message = format!("agent {agent}: {}", problem.message);
        }
        failure
    })
}

fn spec(agent: &Name) -> Result<Spec, Failure> {
    let word = |e: bottle_planner::words::WordError| Failure::error(e.to_string());
    Ok(Spec {
        agent: agent.clone(),
        session: SessionRequest::New { suffix: "00000".to_owned() },
        at: Timestamp::new("2000-01-01T00:00:00Z").map_err(word)?,
        workspace: None,
        resume: false,
        task: None,
        args: Vec::new(),
        overrides: Overrides::default(),
        refresh: std::collections::BTreeSet::new(),
        offline: false,
    })
}

fn write(
    args: &Lock,
    manifest: &Manifest,
    found: BTreeMap<Name, Grants>,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let mut lock = LockFile {
        kind: KIND.to_owned(),
        format_version: FORMAT_VERSION.to_owned(),
        agents: BTreeMap::new(),
    };
    for (agent, grants) in found {
        let mut modes = BTreeMap::new();
        modes.insert(WorkspaceMode::None, Locked::new(grants.clone(), WorkspaceMode::None)?);
        for mode in args.workspace.iter().copied().map(WorkspaceMode::from) {
            let allowed = manifest
                .bottles
                .get(&grants.bottle)
                .is_some_and(|bottle| bottle.workspace.modes.contains(&mode));
            if mode != WorkspaceMode::None && !allowed {
                return Err(Failure::error(format!(
                    "bottle {} of agent {agent} does not allow workspace mode {}",
                    grants.bottle,
                    mode.as_str()
                )));
            }
            modes.insert(mode, Locked::new(grants.clone(), mode)?);
        }
        lock.agents.insert(agent, modes);
    }
    let text = super::pretty(&lock)?;
    // It is to be committed: everybody may read it.
    replace(&args.output, &text, 0o644).map_err(|e| {
        Failure::error(format!("could not write {}", args.output.display())).because(&e)
    })?;
    for (agent, modes) in &lock.agents {
        for (mode, locked) in modes {
            let line = format!("{agent} (workspace {}): {}", mode.as_str(), locked.digest);
            context.printer.say(&line);
        }
    }
    Ok(Exit::Ok)
}

fn check(
    stored: &LockFile,
    agents: &[Name],
    found: &BTreeMap<Name, Grants>,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let mut failure = Failure::silent(Exit::Refused);
    for agent in agents {
        let problem = match (stored.agents.get(agent), found.get(agent)) {
            (None, _) => Some(Failure::new(Exit::Refused, format!("{agent} is not locked"))),
            (Some(_), None) => Some(Failure::new(
                Exit::Refused,
                format!("{agent} is locked and the manifest has no such agent"),
            )),
            (Some(modes), Some(grants)) => {
                let mut differs = None;
                for (mode, locked) in modes {
                    let now = Locked::new(grants.clone(), *mode)?;
                    if now.digest != locked.digest {
                        differs = Some(refusal(agent, Some(locked), &now.grants));
                    }
                }
                differs
            }
        };
        match problem {
            Some(problem) => failure.problems.extend(problem.problems),
            None => context.printer.say(&format!("{agent} is as locked")),
        }
    }
    if failure.problems.is_empty() {
        return Ok(Exit::Ok);
    }
    Err(failure
        .hint("if that is meant, write the file anew with `bottle lock` and have it reviewed"))
}

/// Refuses grants that a lock file does not have.
pub fn require(file: &Path, grants: &Grants) -> Result<(), Failure> {
    let lock = LockFile::read(file)?;
    let agent = &grants.agent.name;
    let digest = grants_digest(grants)
        .map_err(|e| Failure::error("cannot digest the grants").because(&e))?;
    let modes = lock.agents.get(agent);
    let mode = grants.workspace.mode;
    let locked = modes.and_then(|modes| modes.get(&mode));
    if locked.is_some_and(|locked| locked.digest == digest) {
        return Ok(());
    }
    let nearest = locked.or_else(|| modes.and_then(|modes| modes.values().next()));
    Err(refusal(agent, nearest, grants).hint(format!(
        "{} does not have grants {digest}; `bottle lock` writes them down for review",
        file.display()
    )))
}

/// What is granted that was not approved.
fn refusal(agent: &Name, locked: Option<&Locked>, now: &Grants) -> Failure {
    // Grants that do not match their own digest were edited, and prove nothing.
    let honest = locked.filter(|l| grants_digest(&l.grants).is_ok_and(|d| d == l.digest));
    let Some(locked) = honest else {
        return Failure::new(Exit::Refused, format!("nothing is approved for agent {agent}"));
    };
    let diff = diff_grants(Some(&locked.grants), now);
    let mut message = format!("agent {agent} is granted something else than was approved");
    for line in diff.widened.iter().chain(&diff.changed).chain(&diff.narrowed) {
        message.push('\n');
        message.push_str(&visible(line));
    }
    Failure::new(Exit::Refused, message)
}

impl Locked {
    fn new(mut grants: Grants, mode: WorkspaceMode) -> Result<Self, Failure> {
        grants.workspace.mode = mode;
        let digest = grants_digest(&grants)
            .map_err(|e| Failure::error("cannot digest the grants").because(&e))?;
        Ok(Self { digest, grants })
    }
}

impl LockFile {
    fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let text = load::text(path)
            .map_err(|e| Failure::error(format!("cannot read {shown}")).because(&e))?;
        let raw = document::parse_value(&text)
            .map_err(|e| Failure::error(format!("expected a lock file in {shown}: {e}")))?;
        let field = |name: &str| raw.get(name).and_then(serde_json::Value::as_str);
        if field("kind") != Some(KIND) {
            return Err(Failure::error(format!(
                "expected a lock file in {shown}, found another document"
            )));
        }
        if field("format_version") != Some(FORMAT_VERSION) {
            return Err(Failure::new(
                Exit::Version,
                format!(
                    "{shown} has format version `{}`, expected {FORMAT_VERSION}",
                    field("format_version").unwrap_or_default().escape_debug()
                ),
            ));
        }
        document::from_value::<Self>(raw, Strictness::Strict)
            .map(|found| found.value)
            .map_err(|e| Failure::error(format!("expected a lock file in {shown}: {e}")))
    }
}
