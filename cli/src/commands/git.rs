//! `bottle git`: what went through a session's git gate, and what did not.

use std::fmt::Write as _;

use bottle_planner::decision::{Decision, Outcome, Push, PushFinding, RefUpdate};
use bottle_planner::escape::visible;
use bottle_planner::words::Role;
use clap::{Args, Subcommand};

use super::blocked::moment;
use crate::context::Context;
use crate::decision_log;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::sessions::{Record, Sessions};

/// Shows what a session's git gate let through, and what it found.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle git log @last --follow\n  \
    bottle git log dev-ab12c --pushes --json")]
pub struct Git {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every fetch and push: its refs, how much was new, what was found, and the verdict
    Log(Log),
}

#[derive(Debug, Args)]
struct Log {
    /// The session, live or ended: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    /// Go on as decisions are made, until Ctrl-C or the session's end
    #[arg(short, long)]
    follow: bool,
    /// Pushes alone
    #[arg(long)]
    pushes: bool,
    /// Only what did not go through
    #[arg(long)]
    refused: bool,
    /// The lines of the log as they are, one JSON object each
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Git, context: &mut Context) -> Result<Exit, Failure> {
    let sessions = Sessions::of(&context.env.state_root()?);
    let What::Log(args) = &args.what;
    log(args, &sessions.record(&args.id)?, &mut context.printer)
}

fn log(args: &Log, record: &Record, printer: &mut Printer) -> Result<Exit, Failure> {
    let skipped = decision_log::watch(record, Role::GitGate, args.follow, |batch| {
        let mut text = String::new();
        for (raw, decision) in batch {
            let through = decision.outcome.is_through();
            if (args.pushes && decision.method != "push") || (args.refused && through) {
                continue;
            }
            if args.json {
                text.push_str(&raw);
                text.push('\n');
            } else {
                text.push_str(&told(&decision, printer));
            }
        }
        if text.is_empty() { Ok(()) } else { printer.data(&text) }
    })?;
    if skipped > 0 {
        printer.warn(&format!("{skipped} lines of the log are no decisions"));
    }
    Ok(Exit::Ok)
}

/// When, what became of it, which remote, how much; below it each ref and each finding.
fn told(decision: &Decision, printer: &Printer) -> String {
    let (word, colour) = match decision.outcome {
        Outcome::Allow | Outcome::Warn | Outcome::Redact => ("passed", None),
        Outcome::Refuse => ("refuse", Some(Colour::Red)),
        Outcome::Failed => ("failed", Some(Colour::Yellow)),
    };
    let word = colour.map_or(word.to_owned(), |colour| printer.paint_data(colour, word));
    let remote = decision.rule.strip_prefix("git ").unwrap_or(&decision.rule);
    let why = if decision.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", visible(&decision.reason))
    };
    let size = decision.push.as_ref().map_or(String::new(), size);
    let mut text = format!(
        "{}  {word}  {:<5} {}{size}{why}\n",
        moment(&decision.time),
        visible(&decision.method),
        visible(remote),
    );
    for update in decision.push.iter().flat_map(|push| &push.refs) {
        let _ = writeln!(text, "    {}", changed(update));
    }
    for finding in decision.push.iter().flat_map(|push| &push.findings) {
        let _ = writeln!(text, "    found {}", found(finding));
    }
    let through = decision.outcome.is_through();
    let fate = if through { "let through once" } else { "may be let through once still" };
    for excepted in decision.push.iter().flat_map(|push| &push.excepted) {
        let (what, by) = (found(&excepted.finding), visible(&excepted.exception));
        let _ = writeln!(text, "    {fate}: {what}, by exception {by}");
    }
    text
}

fn found(finding: &PushFinding) -> String {
    let line = finding.line.map_or(String::new(), |line| format!(", line {line}"));
    let commit = finding.commit.as_deref().map(|id| format!(", commit {}", short(id)));
    format!(
        "{} in {}{line}{} [{}]",
        visible(&finding.rule),
        visible(&finding.place),
        visible(&commit.unwrap_or_default()),
        visible(&finding.fingerprint),
    )
}

fn size(push: &Push) -> String {
    let Push { objects, bytes, millis, .. } = push;
    let objects = if *objects == 1 { "1 object".into() } else { format!("{objects} objects") };
    format!("  {objects}, {bytes} bytes, looked at in {millis} ms")
}

fn changed(update: &RefUpdate) -> String {
    let name = visible(&update.name);
    let id = |id: &str| visible(short(id));
    match (&update.old, &update.new) {
        (Some(old), Some(new)) => format!("{name}  {} -> {}", id(old), id(new)),
        (None, Some(new)) => format!("{name}  new at {}", id(new)),
        (Some(old), None) => format!("{name}  deleted, was {}", id(old)),
        (None, None) => name,
    }
}

/// An id as people write it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
