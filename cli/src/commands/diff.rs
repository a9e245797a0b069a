//! `bottle diff`: two plans compared, meaning first and text last.

use std::time::Duration;

use bottle_planner::diff::{PlanDiff, Verdict, diff};
use bottle_planner::escape::visible;
use bottle_planner::show;
use clap::{Args, ValueEnum};
use similar::{ChangeTag, TextDiff};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::plan_file::PlanText;
use crate::sessions::Sessions;

/// The most lines of text that are shown of a comparison.
const MOST_LINES: usize = 400;

/// Compares two plans: what is newly allowed, newly secret and destroyed; then the actions; then
/// the text.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle diff old.json new.json\n  \
    bottle plan --identity dev-ab12c | bottle diff dev-ab12c -\n  \
    bottle diff old.json new.json --fail-on widened --format markdown")]
pub struct Diff {
    /// The plan before: a file, `-` for standard input, or a session's ID (its applied plan)
    before: String,
    /// The plan after, likewise
    after: String,
    /// How to show the comparison
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Exit with 2 if the second plan grants anything that the first does not
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
}

/// How a comparison is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Sentences, then the text
    Human,
    /// For a comment on a pull request
    Markdown,
    /// For programs
    Json,
}

/// What is worth an exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// More is granted (or a change cannot be weighed)
    Widened,
}

/// Runs the command.
pub fn run(args: &Diff, context: &mut Context) -> Result<Exit, Failure> {
    if args.before == "-" && args.after == "-" {
        return Err(Failure::usage("standard input can be only one of the two plans"));
    }
    let read = |place: &str| match place {
        "-" => PlanText::read(place),
        place => PlanText::find(place, &Sessions::of(&context.env.state_root()?)),
    };
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let found = diff(&before.lenient()?, &after.lenient()?);
    let text = match args.format {
        Format::Human => human(&found, &before, &after, &context.printer)?,
        Format::Markdown => show::diff_markdown(&found),
        Format::Json => super::pretty(&found)?,
    };
    context.printer.data(&text)?;
    let widened = matches!(found.grants.verdict, Verdict::Widened | Verdict::Both);
    Ok(match args.fail_on {
        Some(FailOn::Widened) if widened => Exit::Changes,
        _ => Exit::Ok,
    })
}

fn human(
    found: &PlanDiff,
    before: &PlanText,
    after: &PlanText,
    printer: &Printer,
) -> Result<String, Failure> {
    let mut text = show::diff_human(found);
    if before.digest == after.digest {
        text.push_str("The plans are the same.\n");
        return Ok(text);
    }
    let (old, new) = (super::pretty(&before.raw)?, super::pretty(&after.raw)?);
    // The names are of files and sessions: nothing in them may reach the terminal as it is.
    let names = (visible(&before.from), visible(&after.from));
    text.push_str(&format!("\n--- {}\n+++ {}\n", names.0, names.1));
    text.push_str(&unified(&old, &new, |sign, line| match sign {
        '+' => printer.paint_data(Colour::Green, line),
        '-' => printer.paint_data(Colour::Red, line),
        '@' => printer.paint_data(Colour::Cyan, line),
        _ => line.to_owned(),
    }));
    Ok(text)
}

/// A unified diff, harmless, cut after so many lines.
pub fn unified(old: &str, new: &str, paint: impl Fn(char, &str) -> String) -> String {
    let diff = TextDiff::configure().timeout(Duration::from_secs(2)).diff_lines(old, new);
    let mut lines = Vec::new();
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        lines.push(paint('@', &hunk.header().to_string()));
        for change in hunk.iter_changes() {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let line = visible(change.value().trim_end_matches('\n'));
            lines.push(paint(sign, &format!("{sign}{line}")));
        }
    }
    let more = lines.len().saturating_sub(MOST_LINES);
    lines.truncate(MOST_LINES);
    if more > 0 {
        lines.push(format!("… {more} more lines; `--format json` has all that has a meaning"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_diff() {
        let plain = |_: char, line: &str| line.to_owned();
        assert_eq!(
            unified("a\nb\nc\n", "a\n\u{1b}[2J\nc\n", plain),
            "@@ -1,3 +1,3 @@\n a\n-b\n+\\u{1b}[2J\n c\n"
        );
    }

    #[test]
    fn it_is_bounded() {
        let old: String = (0..2000).map(|n| format!("{n}\n")).collect();
        let text = unified(&old, "", |_, line| line.to_owned());
        assert_eq!(text.lines().count(), MOST_LINES + 1);
        assert!(text.contains("1601 more lines"), "{text}");
    }
}
