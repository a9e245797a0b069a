//! `bottle audit`: what was decided, by whom, and what it did.

use bottle_executor::audit::Audit as Log;
use bottle_planner::audit::{Entry, Event};
use bottle_planner::escape::visible;
use bottle_planner::words::Digest;
use clap::{Args, Subcommand};

use super::blocked::moment;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Shows and checks the audit log: every answer to an agent's request, and every `bottle allow`.
///
/// It is ~/.bottle/audit/decisions.jsonl, one JSON object a line, each with the digest of the line
/// before. The digest of its last line, kept elsewhere, also tells whether its end was cut off.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle audit show                  who allowed what?\n  \
    bottle audit verify                does the log hold together?\n  \
    bottle audit verify --head sha256:…    and does it go on from where it was?")]
pub struct Audit {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Each decision, the oldest first
    Show(Show),
    /// Check that no line was changed, taken out or put in; prints the digest of the last
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Show {
    /// Only of this session, by its whole ID
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// The lines as they are, one JSON object each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Verify {
    /// A digest that this printed before: the log must still hold that line
    #[arg(long, value_name = "DIGEST")]
    head: Option<Digest>,
}

/// Runs the command.
pub fn run(args: &Audit, context: &mut Context) -> Result<Exit, Failure> {
    let log = Log::of(&context.env.state_root()?);
    let verified = log.read().map_err(|e| Failure::from_error(Exit::Refused, &e))?;
    match &args.what {
        What::Show(args) => {
            let is_of = |entry: &&Entry| {
                args.session.as_ref().is_none_or(|session| entry.session.as_str() == session)
            };
            for entry in verified.entries.iter().filter(is_of) {
                let text = if args.json {
                    bottle_planner::document::canonical(entry)
                        .map_err(|e| Failure::error(e.to_string()))?
                        + "\n"
                } else {
                    shown(entry)
                };
                context.printer.data(&text)?;
            }
            if verified.entries.is_empty() {
                context.printer.say("Nothing was decided yet");
            }
        }
        What::Verify(args) => {
            if let Some(head) = &args.head
                && *head != verified.head
                && !verified.entries.iter().any(|entry| entry.before == *head)
            {
                return Err(Failure::new(
                    Exit::Refused,
                    format!("{} does not hold the line {head}", log.path().display()),
                )
                .hint("its end was cut off, or it is another log"));
            }
            context.printer.data(&format!("{}\n", verified.head))?;
            let count = verified.entries.len();
            let entries = if count == 1 { "entry" } else { "entries" };
            context.printer.say(&format!("{count} {entries}, each follows the one before"));
            if verified.torn > 0 {
                context
                    .printer
                    .warn("the last line was cut short as it was written; it counts for nothing");
            }
        }
    }
    Ok(Exit::Ok)
}

fn shown(entry: &Entry) -> String {
    let what = match &entry.event {
        Event::Answered { proposal, ask, verdict, modified, seen, notes, .. } => {
            let mut text =
                format!("{} {}: {}", verdict.as_str(), proposal.short(), visible(&ask.words()));
            if let Some(modified) = modified {
                text.push_str(&format!("\n      as {}", visible(&modified.words())));
            }
            if let Some(seen) = seen {
                text.push_str(&format!("\n      seen {seen}"));
            }
            if !notes.is_empty() {
                text.push_str(&format!("\n      notes: {}", visible(notes)));
            }
            text
        }
        Event::Done { proposal, effect, .. } => {
            format!("in force {}{}", proposal.short(), words(effect))
        }
        Event::Failed { proposal, why } => {
            format!("failed {}: {}", proposal.short(), visible(why))
        }
        Event::Allowed { effect, .. } => format!("allowed{}", words(effect)),
        Event::Kept { bottle, rule } => {
            format!("kept for later sessions of bottle {bottle}: {}", visible(rule))
        }
    };
    format!(
        "{:>4}  {}  {}  {}  {what}\n",
        entry.number,
        moment(entry.at.as_str()),
        visible(&entry.who),
        entry.session
    )
}

fn words(effect: &[String]) -> String {
    effect.iter().map(|line| format!("\n      + {}", visible(line))).collect()
}
