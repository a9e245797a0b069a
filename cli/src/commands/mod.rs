//! The commands, one file each.

pub mod allow;
pub mod apply;
pub mod attach;
pub mod audit;
pub mod blocked;
pub mod cleanup;
pub mod completions;
pub mod destroy;
pub mod diff;
pub mod digest;
pub mod doctor;
pub mod egress;
pub mod exec;
pub mod git;
pub mod info;
pub mod init;
pub mod lint;
pub mod list;
pub mod lock;
pub mod logs;
pub mod plan;
pub mod presets;
pub mod probe;
pub mod prove;
pub mod pull;
pub mod report;
pub mod run;
pub mod schema;
pub mod show;
pub mod sidecar;
pub mod start;
pub mod stop;
pub mod supervise;
pub mod wait;

use std::process::ExitCode;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Failure;

/// Runs one command.
pub fn run(command: Command, context: &mut Context) -> ExitCode {
    let done = match command {
        // A role in a container has exit codes of its own, and streams that are its log.
        Command::Sidecar(args) => return sidecar::run(&args),
        Command::Init(args) => init::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Plan(args) => plan::run(&args, context),
        Command::Show(args) => show::run(&args, context),
        Command::Diff(args) => diff::run(&args, context),
        Command::Lint(args) => lint::run(&args, context),
        Command::Digest(args) => digest::run(&args, context),
        Command::Apply(args) => apply::run(&args, context),
        Command::Start(args) => start::run(&args, context),
        Command::Run(args) => run::run(&args, context),
        Command::Resume(args) => start::resume(&args, context),
        Command::List(args) => list::run(&args, context),
        Command::Info(args) => info::run(&args, context),
        Command::Attach(args) => attach::run(&args, context),
        Command::Exec(args) => exec::run(&args, context),
        Command::Logs(args) => logs::run(&args, context),
        Command::Stop(args) => stop::run(&args, context),
        Command::Wait(args) => wait::run(&args, context),
        Command::Blocked(args) => blocked::run(&args, context),
        Command::Allow(args) => allow::run(&args, context),
        Command::Supervise(args) => supervise::run(&args, context),
        Command::Audit(args) => audit::run(&args, context),
        Command::Egress(args) => egress::run(&args, context),
        Command::Git(args) => git::run(&args, context),
        Command::Pull(args) => pull::run(&args, context),
        Command::Destroy(args) => destroy::run(&args, context),
        Command::Report(args) => report::run(&args, context),
        Command::Cleanup(args) => cleanup::run(&args, context),
        Command::Lock(args) => lock::run(&args, context),
        Command::Probe(args) => probe::run(&args, context),
        Command::Presets(args) => presets::run(&args, context),
        Command::Schema(args) => schema::run(&args, context),
        Command::Prove(args) => prove::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
    };
    let exit = done.unwrap_or_else(|failure| {
        context.printer.failure(&failure);
        failure.exit
    });
    exit.into()
}

/// A document's text as it is printed and saved.
pub fn pretty<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    bottle_planner::document::pretty(value)
        .map_err(|e| Failure::error("cannot write the document").because(&e))
}
