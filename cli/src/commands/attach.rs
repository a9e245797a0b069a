//! `bottle attach`: a person joins an agent that runs.

use bottle_executor::engine::console::{Console as _, Size};
use bottle_planner::words::Role;
use clap::Args;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::join::{Left, join, print};
use crate::running::Running;
use crate::terminal::{self, DetachKeys};

/// Joins the agent of a session: what you type goes to it, what it prints comes to you.
///
/// Ctrl-C goes to the agent. The detach keys leave it running; so does closing the terminal. Where
/// the agent ends, this ends with its exit code. An agent with a task has no terminal: its log is
/// followed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle attach                    the last session\n  \
    bottle attach dev-ab12c\n  bottle attach dev --detach-keys ctrl-x,d")]
pub struct Attach {
    /// The session: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    #[command(flatten)]
    keys: KeysArgs,
}

/// The keys to leave with.
#[derive(Debug, Clone, Args)]
pub struct KeysArgs {
    /// Keys that leave the agent running: letters or ctrl-LETTER, in this order; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
}

impl KeysArgs {
    /// The keys.
    pub fn parse(&self) -> Result<DetachKeys, Failure> {
        DetachKeys::parse(&self.detach_keys)
            .map_err(|e| Failure::usage(format!("--detach-keys: {e}")))
    }
}

/// Runs the command.
pub fn run(args: &Attach, context: &mut Context) -> Result<Exit, Failure> {
    let keys = args.keys.parse()?;
    let running = Running::find(&args.id, context)?;
    running.is_up(Role::Agent)?;
    attach(&running, keys, false, context)
}

/// Stays with the agent until it ends, and answers how; or until the person leaves, and answers 0.
pub fn attach(
    running: &Running,
    keys: DetachKeys,
    from_start: bool,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let name = running.container(Role::Agent)?;
    let engine = &running.engine;
    let printer = &mut context.printer;
    if running.plan.spec.task.is_some() {
        let lines = if from_start { None } else { Some(50) };
        running.runtime.block_on(print(printer, engine.log(name, lines, true), false))?;
        return running.wait();
    }
    let left = running.runtime.block_on(async {
        let streams = engine.attach(name, from_start).await;
        let streams = streams.map_err(|error| crate::world::engine_failure(&error))?;
        if let Some(Size { columns, rows }) = terminal::size() {
            // A program draws itself again where the size changes, and only there.
            let _ = engine.resize(name, Size { columns, rows: rows.saturating_add(1) }).await;
        }
        let ended = async { drop(engine.wait(name).await) };
        join(printer, streams, true, keys, |size| engine.resize(name, size), ended).await
    })?;
    match left {
        Left::Ended => running.wait(),
        Left::Detached => {
            let identity = &running.identity;
            printer
                .say(&format!("\nSession {identity} goes on; `bottle attach {identity}` joins it"));
            Ok(Exit::Ok)
        }
        Left::Asked(code) => Ok(Exit::Theirs(code)),
    }
}
