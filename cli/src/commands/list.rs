//! `bottle list`: which sessions there are and how they fare.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bottle_executor::engine::Engine as _;
use bottle_executor::engine::console::Console as _;
use bottle_planner::escape::visible;
use bottle_planner::plan::{LABEL_IDENTITY, LABEL_OWNER, Plan};
use bottle_planner::resolve::owner_label;
use bottle_planner::snapshot::{Container, ContainerState};
use bottle_planner::words::{Identity, Role};
use clap::Args;
use serde::Serialize;

use crate::args::ManifestArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Colour;
use crate::plan_file::PlanText;
use crate::running;
use crate::sessions::Sessions;
use crate::world;

/// Lists sessions: running, stopped, or with an agent that has ended.
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
struct Row {
    session: Identity,
    agent: String,
    state: State,
    /// The agent's exit code, where it has ended.
    exit_code: Option<i64>,
    started_at: String,
    workspace: Option<String>,
    mode: Option<&'static str>,
    task: Option<String>,
}

/// Runs the command.
pub fn run(args: &List, context: &mut Context) -> Result<Exit, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let sessions = Sessions::of(&roots.root);
    let mut rows = live(&sessions, &owner_label(&world::host(&roots)?), context)?;
    if args.all {
        for name in sessions.ended() {
            let text = sessions.record(name.as_str())?.plan_text()?;
            let plan = text.and_then(|text| PlanText::stored(text).ok()?.lenient().ok());
            rows.extend(plan.map(|plan| Row { session: name, ..row(&plan, State::History, None) }));
        }
    }
    rows.sort_by(|a, b| a.started_at.cmp(&b.started_at));
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
        let code = match (state, found.get(&Role::Agent)) {
            (State::Ended, Some(agent)) => runtime.block_on(engine.wait(&agent.id)).ok(),
            _ => None,
        };
        rows.push(row(&plan, state, code));
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

fn row(plan: &Plan, state: State, exit_code: Option<i64>) -> Row {
    let workspace = plan.session.workspace.as_ref();
    Row {
        session: plan.identity.clone(),
        agent: plan.spec.agent.to_string(),
        state,
        exit_code,
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
    let mut text = format!(
        "{:wide$}  {:agents$}  {:14}  {:20}  WORK\n",
        "SESSION", "AGENT", "STATE", "STARTED"
    );
    for row in rows {
        let state = match row.exit_code {
            Some(code) => format!("{} ({code})", row.state.text()),
            None => row.state.text().to_owned(),
        };
        let state = paint(row.state.colour(), &format!("{state:14}"));
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
