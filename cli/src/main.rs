//! The `bottle` command line: flags in, one command run, an exit code out.

mod again;
mod amend;
mod args;
mod ask;
mod audit;
mod carry_out;
mod commands;
mod context;
mod decision_log;
mod ending;
mod env;
mod exit;
mod failure;
mod join;
mod leak_rules;
mod live;
mod load;
mod output;
mod overlay;
mod own_binary;
mod plan_file;
mod planted;
mod prove;
mod request;
mod rule;
mod running;
mod save;
mod sessions;
mod supervise;
mod terminal;
mod typed;
mod usage;
mod world;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::context::Context;
use crate::env::Env;
use crate::exit::Exit;
use crate::output::Printer;

fn main() -> ExitCode {
    output::report_panics();
    if let Some(code) = bottle_sidecar::run_as_tool(std::env::args_os()) {
        return code;
    }
    let env = Env::of_process();
    let mut printer = Printer::of_process(env);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &mut printer).into(),
    };
    commands::run(cli.command, &mut Context { env, printer })
}

/// Prints help and versions as data, and a wrong command line as talk.
fn usage(error: &clap::Error, printer: &mut Printer) -> Exit {
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = if printer.has_coloured_data() {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            match printer.data(&text) {
                Ok(()) => Exit::Ok,
                Err(failure) => failure.exit,
            }
        }
        _ => {
            let text = if printer.has_coloured_talk() {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            printer.say(text.trim_end());
            Exit::Usage
        }
    }
}
