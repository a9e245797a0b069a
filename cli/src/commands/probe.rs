//! `bottle probe`: the facts about this host that a plan is made from.

use bottle_planner::words::Name;
use chrono::Utc;
use clap::Args;

use crate::args::ManifestArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::request::{self, RequestArgs};
use crate::sessions::Sessions;
use crate::world;

/// Prints a snapshot: the facts about this host that a plan is made from.
///
/// By default it holds only what the agent's plan can need, so that it can be committed. Names of
/// secrets are in it, never values.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle probe --for dev > snapshot.json\n  \
    bottle plan dev --snapshot snapshot.json\n  bottle probe --everything")]
pub struct Probe {
    /// The agent whose plan it is for; may be left out where the manifest has only one
    #[arg(long = "for", value_name = "AGENT", conflicts_with = "everything")]
    agent: Option<String>,
    /// All that any agent's plan could need, and all names of variables and containers
    #[arg(long)]
    everything: bool,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// Runs the command.
pub fn run(args: &Probe, context: &mut Context) -> Result<Exit, Failure> {
    let read = world::manifest(context, &args.manifest, None)?;
    let snapshot = if args.everything {
        world::everything(context, &args.manifest, &read.manifest)?
    } else {
        let request = RequestArgs { agent: args.agent.clone(), ..RequestArgs::default() };
        let sessions = Sessions::of(&context.env.state_root()?);
        let draft = request::draft(&request, context.env, &sessions, Utc::now)?;
        let agent: Name = world::agent(&mut context.printer, &read, &draft)?;
        if !read.manifest.agents.contains_key(&agent) {
            let known: Vec<&str> = read.manifest.agents.keys().map(Name::as_str).collect();
            return Err(Failure::error(format!("there is no agent `{agent}`"))
                .hint(format!("agents: {}", known.join(", "))));
        }
        world::snapshot(context, &args.manifest, &read.manifest, &draft.with_agent(agent))?
    };
    context.printer.data(&super::pretty(&snapshot)?)?;
    Ok(Exit::Ok)
}
