//! `bottle digest`: the digest that approves a plan, or its grants.

use clap::Args;
use serde_json::Value;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;

/// Prints the digest of a plan, as `apply --expect` takes it.
///
/// It is SHA-256 over the canonical form (RFC 8785), so the file's layout does not matter. The
/// digest of the grants alone is the same on every host.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle digest plan.json\n  \
    bottle apply plan.json --expect \"$(bottle digest reviewed.json)\"\n  \
    bottle digest plan.json --grants")]
pub struct Digest {
    /// A plan file, or `-` for standard input
    plan: String,
    /// Of what the agent may do, in place of the whole plan
    #[arg(long)]
    grants: bool,
}

/// Runs the command.
pub fn run(args: &Digest, context: &mut Context) -> Result<Exit, Failure> {
    let text = PlanText::read(&args.plan)?;
    text.check_kind()?;
    let digest = if args.grants {
        let grants = text.raw.get("grants").unwrap_or(&Value::Null);
        bottle_planner::document::digest(grants)
            .map_err(|e| Failure::error("cannot digest the grants").because(&e))?
    } else {
        text.digest
    };
    context.printer.data(&format!("{digest}\n"))?;
    Ok(Exit::Ok)
}
