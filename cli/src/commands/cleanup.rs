//! `bottle cleanup`: what was left behind, on one list, and away with it.

use std::fmt::Write as _;

use bottle_executor::apply::Confirmed;
use bottle_executor::cleanup::{CleanupError, carry_out, look};
use bottle_planner::cleanup::{Removal, cleanup};
use bottle_planner::escape::visible;
use bottle_planner::resolve::owner_label;
use chrono::Utc;
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::ManifestArgs;
use crate::ask;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::running;
use crate::world;

/// Removes what no session needs any more: containers, networks, volumes and images of sessions that
/// are gone, state folders of sessions that never came up, copies of the binary, old records.
///
/// Only what belongs to you and this state root, and nothing of a session that `bottle resume` can
/// carry on. All of it is shown, then you are asked once; volumes that somebody's work may be on
/// are asked for apart. Without a terminal --yes is needed. What could not be removed is told, with
/// exit code 12, and the next clean-up finds it again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle cleanup --dry-run         what would go, and why\n  \
    bottle cleanup\n  \
    bottle cleanup --yes --keep-work all but volumes that work may be on, without asking\n  \
    bottle cleanup --dry-run --json | jq -r '.removals[] | .kind + \" \" + .name'")]
pub struct Cleanup {
    /// Show what would go and touch nothing
    #[arg(short = 'n', long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it without asking, also where work may be lost
    #[arg(short, long)]
    yes: bool,
    /// Leave volumes that somebody's work may be on
    #[arg(long)]
    keep_work: bool,
    /// One JSON document: what goes, why, its size, and how that went
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document<'a> {
    /// Whether all was to be shown and nothing to be touched.
    dry_run: bool,
    /// What goes, in the order in which it does.
    removals: Vec<Row<'a>>,
    /// Sessions that stay although something is wrong with them, and why.
    kept: Vec<Kept<'a>>,
}

/// One thing that goes.
#[derive(Debug, Serialize, JsonSchema)]
struct Row<'a> {
    #[serde(flatten)]
    removal: &'a Removal,
    /// Whether it is gone.
    removed: bool,
    /// Why it is not, where it was to be removed.
    error: Option<String>,
}

/// A session that stays although something is wrong with it.
#[derive(Debug, Serialize, JsonSchema)]
struct Kept<'a> {
    /// Its name.
    session: &'a str,
    /// What is wrong.
    why: &'a str,
}

/// Runs the command.
pub fn run(args: &Cleanup, context: &mut Context) -> Result<Exit, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let config = world::config(&mut context.printer, &roots)?;
    let owner = owner_label(&world::host(&roots)?);
    let (runtime, engine) = running::engine(context)?;
    let seen = runtime.block_on(look(&engine, &roots, &config, &owner, Utc::now()));
    let seen = seen.map_err(|error| failure(&error))?;
    let mut made = cleanup(&seen);
    made.removals.retain(|removal| !(args.keep_work && removal.loses_work));
    let printer = &mut context.printer;
    for (session, why) in &made.kept {
        printer
            .say(&format!("Session {session} stays: {why} (`bottle destroy {session}` ends it)"));
    }
    let text = table(&made.removals, printer);
    if args.json {
        printer.say(text.trim_end())
    } else {
        printer.data(&text)?
    }
    let (chosen, confirmed) = if args.dry_run || made.removals.is_empty() {
        (Vec::new(), None)
    } else {
        consent(args, &made.removals, printer)?
    };
    let mut done: Vec<(Removal, Option<String>)> = Vec::new();
    if !chosen.is_empty() {
        let mut told = |removal: &Removal, result: &Result<(), CleanupError>| {
            let what = format!("{} {}", removal.target.kind(), visible(removal.target.name()));
            let error = result.as_ref().err().map(|error| failure(error).chain());
            match &error {
                Some(error) => printer.warn(&format!("{what} is left: {error}")),
                None => printer.say(&format!("removed {what}")),
            }
            done.push((removal.clone(), error));
        };
        let work = carry_out(&engine, &roots, &owner, &chosen, confirmed.as_ref(), &mut told);
        runtime.block_on(work).map_err(|error| failure(&error))?;
    }
    let failed = done.iter().filter(|(_, error)| error.is_some()).count();
    if args.json {
        let row = |removal| {
            let outcome = done.iter().find(|(one, _)| one == removal).map(|(_, error)| error);
            let removed = outcome.is_some_and(Option::is_none);
            Row { removal, removed, error: outcome.cloned().flatten() }
        };
        let kept = made.kept.iter().map(|(session, why)| Kept { session: session.as_str(), why });
        let document = Document {
            dry_run: args.dry_run,
            removals: made.removals.iter().map(row).collect(),
            kept: kept.collect(),
        };
        printer.data(&super::pretty(&document)?)?;
    }
    match (made.removals.len(), done.len()) {
        (0, _) => printer.say("There is nothing to clean up"),
        (_, 0) => printer.say("Nothing was touched"),
        (_, all) if failed == 0 => printer.say(&format!("{} removed", things(all))),
        (_, all) => printer.say(&format!("{} removed, {failed} left", things(all - failed))),
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Partial })
}

/// What goes, and the word that work may be lost.
fn consent(
    args: &Cleanup,
    removals: &[Removal],
    printer: &mut Printer,
) -> Result<(Vec<Removal>, Option<Confirmed>), Failure> {
    let (losing, plain): (Vec<Removal>, Vec<Removal>) =
        removals.iter().cloned().partition(|removal| removal.loses_work);
    if args.yes {
        let told = (!losing.is_empty()).then(|| Confirmed::destructive("--yes"));
        return Ok((removals.to_vec(), told));
    }
    if !printer.is_interactive() {
        return Err(Failure::new(
            Exit::Refused,
            "nobody approved the clean-up and nobody can be asked",
        )
        .hint("--dry-run shows it; approve it with --yes, or with --yes --keep-work"));
    }
    let question = format!("Remove {}?", things(plain.len()));
    if !plain.is_empty() && !ask::confirm(printer, &question)? {
        return Err(Failure::new(Exit::Refused, "not approved; nothing was touched"));
    }
    if losing.is_empty() {
        return Ok((removals.to_vec(), None));
    }
    let head = printer.paint(Colour::Red, "This loses work for good where there is any:");
    let names: Vec<String> = losing.iter().map(|one| visible(one.target.name())).collect();
    printer.say(&format!("{head} {}", names.join(", ")));
    if ask::confirm(printer, &format!("Remove also {}?", volumes(losing.len())))? {
        return Ok((removals.to_vec(), Some(Confirmed::destructive("asked on a terminal"))));
    }
    Ok((plain, None))
}

fn things(n: usize) -> String {
    if n == 1 { "1 thing".to_owned() } else { format!("{n} things") }
}

fn volumes(n: usize) -> String {
    if n == 1 { "this volume".to_owned() } else { format!("these {n} volumes") }
}

fn failure(error: &CleanupError) -> Failure {
    match error {
        CleanupError::Engine(error) => world::engine_failure(error),
        error => Failure::from_error(Exit::Error, error),
    }
}

fn table(removals: &[Removal], printer: &Printer) -> String {
    if removals.is_empty() {
        return String::new();
    }
    let names: Vec<String> = removals.iter().map(|r| visible(r.target.name())).collect();
    let wide = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max(4);
    let mut text = format!("{:9}  {:wide$}  {:>9}  WHY\n", "KIND", "NAME", "SIZE");
    for (removal, name) in removals.iter().zip(&names) {
        let mut why = visible(&removal.why);
        if removal.loses_work {
            let _ = write!(why, "; {}", printer.paint_data(Colour::Red, "work may be lost"));
        }
        let size = removal.bytes.map_or_else(|| "–".to_owned(), room);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:9}  {name:wide$}  {size:>9}  {why}", removal.target.kind());
    }
    let bytes = removals.iter().filter_map(|removal| removal.bytes).sum();
    let _ = writeln!(text, "{}, {} as far as is known", things(removals.len()), room(bytes));
    text
}

/// Bytes as people read them.
fn room(bytes: u64) -> String {
    let mut whole = bytes;
    let mut tenth = 0;
    for unit in ["B", "kB", "MB", "GB"] {
        if whole < 1000 {
            return if unit == "B" {
                format!("{whole} B")
            } else {
                format!("{whole}.{tenth} {unit}")
            };
        }
        (whole, tenth) = (whole / 1000, whole % 1000 / 100);
    }
    format!("{whole}.{tenth} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_read_them() {
        let cases = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB")];
        for (bytes, text) in cases {
            assert_eq!(room(bytes), text);
        }
        assert_eq!(room(u64::MAX), "18446744.0 TB");
    }
}
