//! `bottle wait`: until an agent has ended.

use bottle_planner::words::Role;
use clap::Args;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::running::Running;

/// Waits until the agent of a session has ended, and ends with its exit code.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle wait dev-ab12c && bottle logs dev-ab12c")]
pub struct Wait {
    /// The session: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
}

/// Runs the command.
pub fn run(args: &Wait, context: &mut Context) -> Result<Exit, Failure> {
    let running = Running::find(&args.id, context)?;
    if running.look(Role::Agent)?.is_none() {
        return Err(Failure::error(format!(
            "the agent of session {} is not there",
            running.identity
        )));
    }
    running.wait()
}
