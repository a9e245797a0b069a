//! `bottle stop`: a session rests; nothing of it goes.

use bottle_executor::engine::Engine as _;
use bottle_planner::snapshot::ContainerState;
use bottle_planner::words::Role;
use clap::Args;

use crate::context::Context;
use crate::ending;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::running::Running;
use crate::world;

/// Stops a session: first its agent, then its sidecars. What it worked on stays, and `bottle
/// resume` carries on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle stop dev-ab12c\n  \
    bottle stop @last --grace 60     let the agent take a minute to end")]
pub struct Stop {
    /// The session: its ID, a unique beginning of it, or `@last`
    id: String,
    /// Seconds between asking the agent to end and ending it
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u32,
}

/// Runs the command.
pub fn run(args: &Stop, context: &mut Context) -> Result<Exit, Failure> {
    session(&args.id, args.grace, context)
}

/// Stops a session, its agent first.
pub fn session(id: &str, grace: u32, context: &mut Context) -> Result<Exit, Failure> {
    let running = Running::find(id, context)?;
    let agent_first = std::iter::once(Role::Agent)
        .chain(Role::ALL.into_iter().filter(|role| *role != Role::Agent))
        .filter(|role| running.plan.session.places.contains_key(role));
    let mut stopped = 0;
    for role in agent_first {
        let Some(container) = running.look(role)? else { continue };
        if container.state == ContainerState::Running {
            if role == Role::Agent {
                ending::note_stop(&context.env.state_root()?, &running.identity);
            }
            let done = running.runtime.block_on(running.engine.stop(&container.id, grace));
            done.map_err(|error| world::engine_failure(&error))?;
            stopped += 1;
        }
    }
    let identity = &running.identity;
    context.printer.say(&match stopped {
        0 => format!("Session {identity} does not run"),
        _ => format!("Session {identity} is stopped; `bottle resume {identity}` carries on"),
    });
    Ok(Exit::Ok)
}
