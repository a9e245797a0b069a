//! The command line as types. What a flag means is said where the command is.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::env;
use crate::exit::Exit;

/// Runs AI coding agents unsupervised, each in a container that holds only what a manifest grants.
///
/// A session begins as a plan: one JSON file that says what will be done and what the agent may
/// do. It can be read, compared, approved and applied later. Data goes to standard output, talk
/// to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "bottle",
    version,
    max_term_width = 100,
    disable_help_subcommand = false,
    propagate_version = false,
    after_help = "Begin with `bottle doctor`, then `bottle init` and `bottle start dev`.",
    after_long_help = long_help()
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

fn long_help() -> String {
    format!(
        "Examples:\n  bottle init                        write a first manifest\n  \
         bottle start dev                   start agent dev, after a question, and join it\n  \
         bottle plan dev -o plan.json       plan a session of agent dev\n  \
         bottle show plan.json              read the plan\n  \
         bottle apply plan.json             carry it out, after a question\n  \
         bottle plan --identity dev-ab12c   plan the difference for a session\n  \
         bottle blocked                     what was the last session refused?\n  \
         bottle allow @last 1               allow the first kind of it\n  \
         bottle pull @last                  bring back what the agent did\n  \
         bottle destroy @last               take the last session down\n\n{}\n\n{}",
        env::table(),
        Exit::table()
    )
}

/// The commands, in the order in which they are met.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a starter manifest
    Init(commands::init::Init),
    /// Check what bottle needs of this host
    Doctor(commands::doctor::Doctor),
    /// Start an agent and join it
    Start(Box<commands::start::Start>),
    /// Start an agent from a built-in bottle alone, in the current folder
    Run(commands::run::Run),
    /// Carry on with a session, or with all that were cut short
    Resume(commands::start::Resume),
    /// Make a plan and print it as JSON
    Plan(commands::plan::Plan),
    /// Show a plan
    Show(commands::show::Show),
    /// Compare two plans: grants first, then what is done, then the text
    Diff(commands::diff::Diff),
    /// Check a plan against the rules every plan must keep
    Lint(commands::lint::Lint),
    /// Print the digest of a plan
    Digest(commands::digest::Digest),
    /// Carry out a plan
    Apply(commands::apply::Apply),
    /// List sessions and how they fare
    List(commands::list::List),
    /// Say what an agent would be started with
    Info(Box<commands::info::Info>),
    /// Join the agent of a session
    Attach(commands::attach::Attach),
    /// Run a program beside the agent
    Exec(commands::exec::Exec),
    /// Print what the containers of a session printed
    Logs(commands::logs::Logs),
    /// Stop a session; nothing of it goes
    Stop(commands::stop::Stop),
    /// Wait until an agent has ended
    Wait(commands::wait::Wait),
    /// List what a session was refused, and what would allow it
    Blocked(commands::blocked::Blocked),
    /// Allow a running session one rule more
    Allow(Box<commands::allow::Allow>),
    /// Answer what agents ask for
    Supervise(commands::supervise::Supervise),
    /// Show and check the log of what was decided
    Audit(commands::audit::Audit),
    /// Show what a session's way out decided, and its routes
    Egress(commands::egress::Egress),
    /// Show what was fetched and pushed through a session's git gate
    Git(commands::git::Git),
    /// Bring back what an agent did, as a patch that is shown first
    Pull(commands::pull::Pull),
    /// Take a session down
    Destroy(commands::destroy::Destroy),
    /// Report what sessions came to: outcome, time, tokens, pushes, refusals
    Report(commands::report::Report),
    /// Remove what no session needs any more
    Cleanup(commands::cleanup::Cleanup),
    /// Try to get out of a bottle in every known way, and say what happened
    Prove(commands::prove::Prove),
    /// Write down what each agent is granted, for review
    Lock(commands::lock::Lock),
    /// Print what a plan is made from: the facts about this host
    Probe(commands::probe::Probe),
    /// List the built-in bottles, or print one
    Presets(commands::presets::Presets),
    /// Print the JSON Schema of a document
    Schema(commands::schema::Schema),
    /// Print a completion script for a shell
    Completions(commands::completions::Completions),
    /// Run as a part of a session, inside its container
    #[command(hide = true)]
    Sidecar(commands::sidecar::Sidecar),
}

/// Where the manifest lies.
#[derive(Debug, Clone, Default, Args)]
pub struct ManifestArgs {
    /// Read one manifest file (`bottles` and `agents` as maps); naming it is to trust it
    #[arg(long, value_name = "FILE", conflicts_with = "manifest_dir", help_heading = "Manifest")]
    pub manifest: Option<PathBuf>,
    /// Read this folder in place of ~/.bottle
    #[arg(long, value_name = "DIR", help_heading = "Manifest")]
    pub manifest_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let line = format!("bottle {}", command.get_name());
            assert!(help.contains(&line), "{} has no example", command.get_name());
        }
    }
}
