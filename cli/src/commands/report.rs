//! `bottle report`: what sessions came to, one line each.

use std::fmt::Write as _;
use std::io::Read as _;

use bottle_executor::engine::console::Console as _;
use bottle_executor::engine::docker::Docker;
use bottle_executor::receipt::Receipt;
use bottle_executor::state::RECEIPT;
use bottle_planner::decision::Outcome;
use bottle_planner::plan::Plan;
use bottle_planner::words::Role;
use chrono::{DateTime, Duration, NaiveDate, SecondsFormat, Utc};
use clap::Args;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::blocked::Refused;
use super::list::{self, Row};
use crate::context::Context;
use crate::decision_log;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;
use crate::running::{self, Calls};
use crate::sessions::{Record, Sessions};
use crate::usage::{self, Tokens};

/// The most bytes of a small document in a record.
const MOST: u64 = 1 << 20;

/// Reports on sessions, live and ended: how each ended, how long it took, the tokens it used as the
/// provider's responses say, what it pushed, what it was refused, and files that nobody pulled.
///
/// A dash says that it cannot be known: tokens need a headless run's structured output or a kept
/// transcript, which the agent could have written itself; files are counted when a session ends.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle report\n  bottle report --since 8h\n  \
    bottle report --since 2026-01-31 --json | jq '[.[].tokens.output // 0] | add'\n\n\
    --json is an array of objects: session, agent, state, how, exit_code, started_at, ended_at,\n\
    seconds, tokens {input, output}, pushes {passed, refused}, refused, unpulled; what is not\n\
    known is null.")]
pub struct Report {
    /// Only sessions that began since: `90m`, `2h`, `3d`, a date, or an RFC 3339 time
    #[arg(long, value_name = "T")]
    since: Option<String>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// One session, as `--json` has it.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    row: Row,
    ended_at: Option<String>,
    seconds: Option<i64>,
    tokens: Option<Tokens>,
    pushes: Option<Pushes>,
    refused: Option<u64>,
    unpulled: Option<u64>,
}

/// Pushes by what became of them.
#[derive(Debug, Default, Serialize)]
struct Pushes {
    passed: u64,
    refused: u64,
}

/// Runs the command.
pub fn run(args: &Report, context: &mut Context) -> Result<Exit, Failure> {
    let now = Utc::now();
    let since = args.since.as_deref().map(|text| moment(text, now)).transpose()?;
    let sessions = Sessions::of(&context.env.state_root()?);
    let mut rows = list::rows(true, context)?;
    rows.retain(|row| since.is_none_or(|since| began(row).is_some_and(|at| at >= since)));
    let engine = if rows.iter().any(|row| !row.is_history()) {
        Some(running::engine(context)?)
    } else {
        None
    };
    let lines: Vec<Line> = rows
        .into_iter()
        .map(|row| line(row, &sessions, engine.as_ref(), now))
        .collect::<Result<_, _>>()?;
    if args.json {
        context.printer.data(&super::pretty(&lines)?)?;
        return Ok(Exit::Ok);
    }
    if lines.is_empty() {
        context.printer.say("There is no session to report on");
        return Ok(Exit::Ok);
    }
    context.printer.data(&table(&lines))?;
    Ok(Exit::Ok)
}

fn line(
    row: Row,
    sessions: &Sessions,
    engine: Option<&(Calls, Docker)>,
    now: DateTime<Utc>,
) -> Result<Line, Failure> {
    let record = row.record(sessions);
    let plan = record.plan_text()?.and_then(|text| PlanText::stored(text).ok()?.lenient().ok());
    let has_gate = plan.as_ref().is_some_and(|plan| !plan.grants.git.is_empty());
    let mut ended_at = None;
    let mut tokens = usage::of_transcript(&record.folder);
    if let (false, Some((calls, engine)), Some(plan)) = (record.ended, engine, &plan)
        && let Some(place) = plan.session.places.get(&Role::Agent)
    {
        let ending = calls.block_on(engine.ending(&place.container)).ok().flatten();
        ended_at = ending.and_then(|ending| time(&ending.finished_at));
        tokens = tokens.or_else(|| of_log(calls, engine, plan, &place.container));
    }
    let ended_at = if record.ended { document(&record, RECEIPT).and_then(ended) } else { ended_at };
    let until = if row.is_running() { Some(now) } else { ended_at };
    let seconds = began(&row).zip(until).map(|(from, to)| (to - from).num_seconds().max(0));
    let whole = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    Ok(Line {
        ended_at: ended_at.map(whole),
        seconds,
        tokens,
        pushes: has_gate.then(|| pushes(&record)),
        refused: Refused::read(&record).ok().map(|refused| refused.count),
        unpulled: unpulled(&record, plan.as_ref()),
        row,
    })
}

fn began(row: &Row) -> Option<DateTime<Utc>> {
    time(&row.started_at)
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}

fn ended(receipt: Receipt) -> Option<DateTime<Utc>> {
    time(&receipt.ended_at)
}

/// A small document of a record; what cannot be read is not known.
fn document<T: for<'a> Deserialize<'a>>(record: &Record, name: &str) -> Option<T> {
    let mut bytes = Vec::new();
    let file = decision_log::open(&record.folder.join(name)).ok()?;
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What a headless agent printed of its use. One on a terminal prints pictures.
fn of_log(calls: &Calls, engine: &Docker, plan: &Plan, container: &str) -> Option<Tokens> {
    plan.spec.task.as_ref()?;
    let bytes = calls.block_on(async {
        let mut log = engine.log(container, None, false);
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(Ok(piece)) = log.next().await {
            bytes.extend_from_slice(&piece.bytes);
            if bytes.len() as u64 > usage::MOST {
                break;
            }
        }
        bytes
    });
    let mut seen = usage::Seen::default();
    seen.lines(bytes.as_slice());
    seen.sum()
}

fn pushes(record: &Record) -> Pushes {
    let mut pushes = Pushes::default();
    // A log that cannot be read counts as far as it could be.
    let _ = decision_log::each(&record.folder, Role::GitGate, |_, decision| {
        if decision.method == "push" {
            match decision.outcome {
                Outcome::Allow | Outcome::Warn | Outcome::Redact => pushes.passed += 1,
                Outcome::Refuse | Outcome::Failed => pushes.refused += 1,
            }
        }
    });
    pushes
}

/// Files that no pull brought, which were counted when the session's work was saved.
fn unpulled(record: &Record, plan: Option<&Plan>) -> Option<u64> {
    #[derive(Deserialize)]
    struct Saved {
        unpulled: u64,
    }
    if plan.is_some_and(|plan| plan.session.workspace.is_none()) {
        return Some(0);
    }
    document::<Saved>(record, "saved/summary.json").map(|saved| saved.unpulled)
}

/// A time as people say it: so long ago, a day, or exactly.
fn moment(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Failure> {
    let wrong = || {
        Failure::usage(format!("expected a time after --since, found `{}`", text.escape_debug()))
            .hint("like 90m, 2h, 3d, 2026-01-31 or 2026-01-31T12:00:00Z")
    };
    if let Some(at) = time(text) {
        return Ok(at);
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return day.and_hms_opt(0, 0, 0).map(|at| at.and_utc()).ok_or_else(wrong);
    }
    let (count, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let count: i64 = count.parse().ok().filter(|count| *count >= 0).ok_or_else(wrong)?;
    let ago = match unit {
        "s" => Duration::try_seconds(count),
        "m" => Duration::try_minutes(count),
        "h" => Duration::try_hours(count),
        "d" => Duration::try_days(count),
        _ => None,
    };
    ago.and_then(|ago| now.checked_sub_signed(ago)).ok_or_else(wrong)
}

fn table(lines: &[Line]) -> String {
    let dash = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
    let mut rows = vec![
        ["SESSION", "AGENT", "OUTCOME", "TIME", "IN", "OUT", "PUSHED", "REFUSED", "UNPULLED"]
            .map(str::to_owned),
    ];
    rows.extend(lines.iter().map(|line| {
        let pushed = line.pushes.as_ref().map_or_else(
            || "–".to_owned(),
            |pushes| match pushes.refused {
                0 => pushes.passed.to_string(),
                refused => format!("{} (-{refused})", pushes.passed),
            },
        );
        [
            line.row.session.to_string(),
            line.row.agent.clone(),
            line.row.outcome(),
            line.seconds.map_or_else(|| "–".to_owned(), duration),
            dash(line.tokens.map(|tokens| tokens.input)),
            dash(line.tokens.map(|tokens| tokens.output)),
            pushed,
            dash(line.refused),
            dash(line.unpulled),
        ]
    }));
    let wide =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(wide).collect();
    let mut text = String::new();
    for row in &rows {
        let mut out = String::new();
        for (column, (cell, wide)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string does not fail.
            let _ = if column < 3 {
                write!(out, "{cell:<wide$}  ")
            } else {
                write!(out, "{cell:>wide$}  ")
            };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

fn duration(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_say_them() {
        let now = time("2026-01-31T12:00:00Z").unwrap();
        let at = |text: &str| moment(text, now).map(|at| at.to_rfc3339()).map_err(|f| f.exit);
        assert_eq!(at("2h").unwrap(), "2026-01-31T10:00:00+00:00");
        assert_eq!(at("3d").unwrap(), "2026-01-28T12:00:00+00:00");
        assert_eq!(at("2026-01-30").unwrap(), "2026-01-30T00:00:00+00:00");
        assert_eq!(at("2026-01-31T11:00:00+01:00").unwrap(), "2026-01-31T10:00:00+00:00");
        for wrong in ["", "h", "2", "-2h", "2w", "2 h", "99999999999999999d", "é"] {
            assert_eq!(at(wrong), Err(Exit::Usage), "{wrong}");
        }
    }

    #[test]
    fn durations_as_people_read_them() {
        assert_eq!([5, 65, 3725].map(duration), ["5s", "1m 05s", "1h 02m"]);
    }
}
