//! `bottle info`: what an agent would be started with, without starting it.

use bottle_planner::resolve::plan;
use bottle_planner::show;
use clap::Args;

use super::plan::asked;
use crate::args::ManifestArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::request::RequestArgs;
use crate::world;

/// Says what an agent would be started with: where it and its bottle come from, its variables (their
/// names alone), where each secret would come from and whether it is there, skills, workspace, git
/// remotes and what may be pushed, routes with their credentials' schemes, isolation, limits, image.
///
/// Nothing is started and nothing is written. Works without an engine, too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle info dev\n  bottle info dev --workspace clone\n  \
    bottle info dev --json | jq '.secrets[] | select(.available | not)'")]
pub struct Info {
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Info, context: &mut Context) -> Result<Exit, Failure> {
    let (manifest, mut spec) = asked(&args.request, &args.manifest, context)?;
    let snapshot = world::snapshot(context, &args.manifest, &manifest, &spec)?;
    spec.offline = snapshot.engine.is_none();
    let made = plan(&manifest, &spec, &snapshot).map_err(Failure::from_plan)?;
    let info = show::info(&made, &manifest, &snapshot);
    if args.json {
        context.printer.data(&super::pretty(&info)?)?;
    } else {
        context.printer.data(&info.text())?;
    }
    Ok(Exit::Ok)
}
