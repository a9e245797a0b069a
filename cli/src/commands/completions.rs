//! `bottle completions`: a completion script for a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Prints a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bottle completions bash > ~/.local/share/bash-completion/completions/bottle\n  \
    bottle completions zsh > \"${fpath[1]}/_bottle\"\n  \
    bottle completions fish > ~/.config/fish/completions/bottle.fish")]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Completions, context: &mut Context) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bottle", &mut script);
    context.printer.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
