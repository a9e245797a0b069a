//! `bottle exec`: a program beside the agent, in its container and under its rules.

use std::io::IsTerminal as _;

use bottle_executor::engine::console::{Console as _, Program};
use bottle_executor::files::Root;
use bottle_planner::words::{RelPath, Role};
use clap::Args;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::join::{Left, join};
use crate::running::Running;
use crate::sessions::Sessions;
use crate::terminal::DetachKeys;
use crate::world;

/// Runs a program in the agent's container: as its user, in its folder, with its variables and no
/// other way out.
///
/// Secrets that were delivered to the agent's environment are in its memory alone, and not given to
/// the program. Ends with the program's exit code.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle exec @last -- bash\n  \
    bottle exec dev-ab12c -- git log --oneline\n  \
    tar -c notes | bottle exec dev -w /tmp -- tar -x")]
pub struct Exec {
    /// The session: its ID, a unique beginning of it, or `@last`
    id: String,
    /// The folder to begin in (default: the agent's)
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// A variable more, as NAME=VALUE (repeatable); visible on the engine while it runs
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Exec, context: &mut Context) -> Result<Exit, Failure> {
    if let Some(wrong) =
        args.env.iter().find(|v| v.split_once('=').is_none_or(|(n, _)| n.is_empty()))
    {
        // Without a `=` it may be a value.
        let name = wrong.split('=').next().filter(|_| wrong.starts_with('='));
        return Err(Failure::usage(match name {
            Some(_) => "--env: expected NAME=VALUE, found no name".to_owned(),
            None => "--env: expected NAME=VALUE, found no `=`".to_owned(),
        }));
    }
    let running = Running::find(&args.id, context)?;
    let name = running.is_up(Role::Agent)?;
    let (stdin, stdout) = (std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
    let terminal = stdin && stdout;
    let mut env = literals(&running, context)?;
    env.extend(args.env.iter().cloned());
    let program =
        Program { argv: args.command.clone(), env, workdir: args.workdir.clone(), terminal };
    let engine = &running.engine;
    let printer = &mut context.printer;
    running.runtime.block_on(async {
        let started = engine.run(name, &program).await;
        let (id, streams) = started.map_err(|error| world::engine_failure(&error))?;
        let none = DetachKeys::none();
        let resize = async |size| engine.resize_run(&id, size).await;
        let left = join(printer, streams, terminal, none, resize, std::future::pending()).await?;
        match left {
            Left::Asked(code) => Ok(Exit::Theirs(code)),
            Left::Ended | Left::Detached => {
                let code = engine.run_code(&id).await;
                code.map(Exit::theirs).map_err(|error| world::engine_failure(&error))
            }
        }
    })
}

/// The variables that the init gives the agent and that are no secrets.
fn literals(running: &Running, context: &Context) -> Result<Vec<String>, Failure> {
    let sessions = Sessions::of(&context.env.state_root()?);
    let record = sessions.record(running.identity.as_str())?;
    let wrong =
        |e: &dyn std::error::Error| Failure::error("cannot read the agent's variables").because(e);
    let path = RelPath::new("agent/in/agent.env").map_err(|e| wrong(&e))?;
    let file = match Root::open(&record.folder).map_err(|e| wrong(&e))? {
        Some(root) => root.read(&path).map_err(|e| wrong(&e))?,
        None => None,
    };
    let text = file.map(|file| file.bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
