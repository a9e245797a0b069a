//! `bottle list`: which sessions there are and how they fare.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bottle_executor::engine::Engine as _;
use bottle_executor::engine::console::Console as _;
use bottle_planner::ending::How;
use bottle_planner::escape::visible;
use bottle_planner::plan::{LABEL_IDENTITY, LABEL_OWNER, Plan};
use bottle_planner::resolve::owner_label;
use bottle_planner::snapshot::{Container, ContainerState};
use bottle_planner::words::{Identity, Role};
use clap::Args;
use serde::Serialize;

use crate::args::ManifestArgs;
use crate::context::Context;
use crate::ending;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Colour;
use crate::plan_file::PlanText;
use crate::running;
use crate::sessions::{Record, Sessions};
use crate::world;

/// Lists sessions and what happened to them: how an agent ended is one of its exit code, a signal,
/// `bottle stop`, its time or idle limit, memory that ran out, a kill, or the engine's or host's end.
///
/// The init inside the container tells limits and signals apart; the agent could write the same, so
/// that is for information alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle list\n  bottle list --json | jq -r '.[].session'\n  \
    bottle list --all                also those whose record is in history")]
pub struct List {
    /// Also sessions that were taken down
    #[arg(short, long)]
    all: bool,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// How a session fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// The agent runs, and every sidecar.
    Running,
    /// The agent runs, and a sidecar does not: it has no way out.
    CutOff,
    /// The agent was stopped, or has ended.
    Ended,
    /// Its apply was cut short, or a container of it was removed.
    Incomplete,
    /// It was taken down.
    History,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::CutOff => "cut off",
            Self::Ended => "ended",
            Self::Incomplete => "incomplete",
            Self::History => "history",
        }
    }

    fn colour(self) -> Colour {
        match self {
            Self::Running => Colour::Green,
            Self::CutOff | Self::Incomplete => Colour::Red,
            Self::Ended => Colour::Yellow,
            Self::History => Colour::Bold,
        }
    }
}

/// One session, as `--json` has it.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The session; of an ended one, as its record is called.
    pub session: Identity,
    /// Its agent.
    pub agent: String,
    state: State,
    /// The agent's exit code, where it has ended.
    exit_code: Option<i64>,
    /// How the agent ended, where it does not run.
    how: Option<How>,
    /// When it was asked for, or last resumed.
    pub started_at: String,
    workspace: Option<String>,
    mode: Option<&'static str>,
    task: Option<String>,
}

impl Row {
    /// Whether it was taken down.
    #[must_use]
    pub fn is_history(&self) -> bool {
        self.state == State::History
    }

    /// Whether its agent runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running | State::CutOff)
    }

    /// How its agent ended, or that it runs.
    #[must_use]
    pub fn outcome(&self) -> String {
        match self.how {
            Some(how) => how.text(self.exit_code),
            None => self.state.text().to_owned(),
        }
    }

    /// What is kept of it.
    #[must_use]
    pub fn record(&self, sessions: &Sessions) -> Record {
        if self.is_history() {
            return Record::of_ended(sessions, &self.session);
        }
        let folder = sessions.folder_of(&self.session);
        Record { name: self.session.clone(), folder, ended: false }
    }

    /// The state in words, and how it came to that: `ended: time limit`.
    #[must_use]
    pub fn state(&self) -> String {
        let state = self.state.text();
        let how = self.how.filter(|how| *how != How::Unknown);
        how.map_or_else(|| state.to_owned(), |how| format!("{state}: {}", how.text(self.exit_code)))
    }
}

/// Runs the command.
pub fn run(args: &List, context: &mut Context) -> Result<Exit, Failure> {
    let rows = rows(args.all, context)?;
    if args.json {
        context.printer.data(&super::pretty(&rows)?)?;
        return Ok(Exit::Ok);
    }
    if rows.is_empty() {
        context.printer.say("There is no session; `bottle start AGENT` begins one");
    }
    let text = table(&rows, |colour, text| context.printer.paint_data(colour, text));
    context.printer.data(&text)?;
    Ok(Exit::Ok)
}

/// The sessions of this user and state root, the oldest first; `all` is also those in history.
pub fn rows(all: bool, context: &mut Context) -> Result<Vec<Row>, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let sessions = Sessions::of(&roots.root);
    let mut rows = live(&sessions, &owner_label(&world::host(&roots)?), context)?;
    let ended = if all { sessions.ended() } else { Vec::new() };
    for name in ended {
        let text = Record::of_ended(&sessions, &name).plan_text()?;
        let plan = text.and_then(|text| PlanText::stored(text).ok()?.lenient().ok());
        let Some(plan) = plan else { continue };
        let (how, code) = ending::of_agent(&roots.history(&name), None);
        rows.push(Row { session: name, ..row(&plan, State::History, Some(how), code) });
    }
    rows.sort_by(|a, b| a.started_at.cmp(&b.started_at));
    Ok(rows)
}

/// The sessions whose agent neither runs nor came to an end of its own or by a limit, the oldest
/// first.
pub fn cut_short(context: &mut Context) -> Result<Vec<Identity>, Failure> {
    let mut rows = rows(false, context)?;
    rows.retain(|row| row.state == State::Ended && row.how.is_some_and(How::is_cut_short));
    Ok(rows.into_iter().map(|row| row.session).collect())
}

/// The sessions that were not taken down.
fn live(sessions: &Sessions, owner: &str, context: &mut Context) -> Result<Vec<Row>, Failure> {
    let all = sessions.all();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let (runtime, engine) = running::engine(context)?;
    let observed = runtime.block_on(engine.observe(owner, &std::collections::BTreeSet::new()));
    let observed = observed.map_err(|error| world::engine_failure(&error))?;
    let mut rows = Vec::new();
    for identity in all {
        let plan =
            PlanText::of_session(identity.as_str(), sessions).and_then(|text| text.lenient());
        let plan = match plan {
            Ok(plan) => plan,
            Err(failure) => {
                context.printer.warn(&format!("session {identity}: {}", failure.chain()));
                continue;
            }
        };
        let found: BTreeMap<Role, &Container> = plan
            .session
            .places
            .iter()
            .filter_map(|(role, place)| {
                let container = observed.containers.get(&place.container)?;
                let label = |name: &str| container.labels.get(name).map(String::as_str);
                let ours = label(LABEL_OWNER) == Some(owner)
                    && label(LABEL_IDENTITY) == Some(identity.as_str());
                ours.then_some((*role, container))
            })
            .collect();
        let state = state(&plan, &found);
        let (how, code) = match (state, found.get(&Role::Agent)) {
            (State::Ended | State::Incomplete, Some(agent)) => {
                let ending = runtime.block_on(engine.ending(&agent.id));
                let ending = ending.map_err(|error| world::engine_failure(&error))?;
                let told = ending
                    .map(|ending| ending::of_agent(&sessions.folder_of(&identity), Some(&ending)));
                told.map_or((None, None), |(how, code)| (Some(how), code))
            }
            _ => (None, None),
        };
        rows.push(row(&plan, state, how, code));
    }
    Ok(rows)
}

fn state(plan: &Plan, found: &BTreeMap<Role, &Container>) -> State {
    let runs = |role: &Role| found.get(role).is_some_and(|c| c.state == ContainerState::Running);
    if plan.session.places.keys().any(|role| !found.contains_key(role)) {
        State::Incomplete
    } else if plan.session.places.keys().all(runs) {
        State::Running
    } else if runs(&Role::Agent) {
        State::CutOff
    } else if found.get(&Role::Agent).is_some_and(|c| c.state == ContainerState::Exited) {
        State::Ended
    } else {
        State::Incomplete
    }
}

fn row(plan: &Plan, state: State, how: Option<How>, exit_code: Option<i64>) -> Row {
    let workspace = plan.session.workspace.as_ref();
    Row {
        session: plan.identity.clone(),
        agent: plan.spec.agent.to_string(),
        state,
        exit_code,
        how,
        started_at: plan.session.started_at.to_string(),
        workspace: workspace.map(|place| place.host.to_string()),
        mode: workspace.map(|place| place.mode.as_str()),
        task: plan.spec.task.clone(),
    }
}

fn table(rows: &[Row], paint: impl Fn(Colour, &str) -> String) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let wide = rows.iter().map(|row| row.session.as_str().len()).max().unwrap_or_default().max(7);
    let agents = rows.iter().map(|row| row.agent.len()).max().unwrap_or_default().max(5);
    let states: Vec<String> = rows.iter().map(Row::state).collect();
    let state_wide = states.iter().map(String::len).max().unwrap_or_default().max(10);
    let mut text = format!(
        "{:wide$}  {:agents$}  {:state_wide$}  {:20}  WORK\n",
        "SESSION", "AGENT", "STATE", "STARTED"
    );
    for (row, state) in rows.iter().zip(states) {
        let state = paint(row.state.colour(), &format!("{state:state_wide$}"));
        let work = match (&row.workspace, row.mode, &row.task) {
            (Some(folder), Some(mode), _) => format!("{} ({mode})", visible(folder)),
            (_, _, Some(task)) => {
                let first: String =
                    task.lines().next().unwrap_or_default().chars().take(40).collect();
                format!("task: {}", visible(&first))
            }
            _ => String::new(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:wide$}  {:agents$}  {state}  {:20}  {work}",
            row.session.as_str(),
            row.agent,
            row.started_at
        );
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}
