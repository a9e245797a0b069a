//! `bottle logs`: what a container of a session printed.

use std::io::IsTerminal as _;

use bottle_executor::engine::console::Console as _;
use bottle_planner::words::Role;
use clap::Args;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::join::print;
use crate::running::Running;

/// Prints what the agent, or a sidecar, wrote to its terminal or log.
///
/// On a terminal of yours it is shown without what would control that; --raw prints it as it is.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bottle logs                      the agent of the last session\n  \
    bottle logs dev-ab12c egress --follow\n  bottle logs dev -n 20 --raw | less -R"
)]
pub struct Logs {
    /// The session: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    /// Whose: agent, egress, git-gate, supervise or pipelock
    #[arg(default_value = "agent", value_parser = role)]
    role: Role,
    /// Go on as it prints, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,
    /// With everything that controls a terminal
    #[arg(long)]
    raw: bool,
}

fn role(text: &str) -> Result<Role, String> {
    Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
        let all: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
        format!("expected one of {}", all.join(", "))
    })
}

/// Runs the command.
pub fn run(args: &Logs, context: &mut Context) -> Result<Exit, Failure> {
    let running = Running::find(&args.id, context)?;
    let name = running.container(args.role)?;
    if running.look(args.role)?.is_none() {
        return Err(Failure::error(format!(
            "the {} of session {} is not there",
            args.role, running.identity
        )));
    }
    let log = running.engine.log(name, args.lines, args.follow);
    let raw = args.raw || !std::io::stdout().is_terminal();
    running.runtime.block_on(print(&mut context.printer, log, raw))?;
    Ok(Exit::Ok)
}
