//! `bottle show`: a plan for people and for other tools. Needs no engine and nothing fresh.

use bottle_planner::plan::Plan;
use bottle_planner::show;
use clap::{Args, ValueEnum};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;
use crate::sessions::{Sessions, known};

/// Shows a plan: what the agent may do, what will be done, and what was not done and why.
///
/// Nothing is checked and nothing is asked of the engine: a plan of a newer version is shown as
/// far as it is understood.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle show plan.json\n  \
    bottle plan dev | bottle show -\n  \
    bottle show dev-ab12c                         the plan last applied to a session\n  \
    bottle show plan.json --format markdown       for a comment on a pull request\n  \
    bottle show plan.json --format dot | dot -Tsvg -o plan.svg")]
pub struct Show {
    /// A plan file, `-` for standard input, or a session's ID; may be left out for an only session
    plan: Option<String>,
    /// How to show it
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// How a plan is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Sentences, for a terminal
    Human,
    /// For a comment on a pull request
    Markdown,
    /// The document itself
    Json,
    /// The actions as a graph in Graphviz' language
    Dot,
    /// The containers as a Compose file, to look at
    Compose,
}

/// Runs the command.
pub fn run(args: &Show, context: &mut Context) -> Result<Exit, Failure> {
    let text = match &args.plan {
        Some(place) if place == "-" => PlanText::read(place)?,
        Some(place) => PlanText::find(place, &sessions(context)?)?,
        None => only_session(&sessions(context)?)?,
    };
    let plan = text.lenient()?;
    let shown = match args.format {
        Format::Human => show::human(&plan),
        Format::Markdown => show::plan_markdown(&plan),
        // The document as it was read, with what this version does not know.
        Format::Json => super::pretty(&text.raw)?,
        Format::Dot => show::dot(&plan),
        Format::Compose => compose(&plan)?,
    };
    context.printer.data(&shown)?;
    Ok(Exit::Ok)
}

fn sessions(context: &Context) -> Result<Sessions, Failure> {
    Ok(Sessions::of(&context.env.state_root()?))
}

fn only_session(sessions: &Sessions) -> Result<PlanText, Failure> {
    match sessions.all().as_slice() {
        [one] => PlanText::of_session(one.as_str(), sessions),
        all => Err(Failure::usage("expected a plan file, `-`, or a session's ID").hint(known(all))),
    }
}

fn compose(plan: &Plan) -> Result<String, Failure> {
    serde_yaml::to_string(&show::compose(plan))
        .map_err(|e| Failure::error("cannot write the Compose file").because(&e))
}
