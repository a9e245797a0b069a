//! `bottle blocked`: what a session was refused, and what would allow it.

use std::fmt::Write as _;

use bottle_planner::approvals::is_allowed;
use bottle_planner::decision::Via;
use bottle_planner::escape::visible;
use bottle_planner::plan::Plan;
use bottle_planner::refusals::{Group, Refusals, Widening, widening};
use bottle_planner::words::Role;
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::decision_log;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::plan_file::PlanText;
use crate::sessions::{Record, Sessions};

/// How many kinds are shown unless all are asked for.
const SHOWN: usize = 50;

/// Lists what a session was refused, one line a kind, newest first.
///
/// Requests of one kind differ in ids alone. Each kind has the command that would allow it, or why
/// none can. A kind that is allowed by now is left out; a kind keeps its number as long as the log
/// does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle blocked                   of the last session\n  \
    bottle blocked dev-ab12c --json\n  \
    bottle blocked dev-ab12c --all   also what is allowed by now, and more than 50 kinds")]
pub struct Blocked {
    /// The session, live or ended: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    /// One JSON document
    #[arg(long)]
    json: bool,
    /// Also what is allowed by now, and however many kinds there are
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub fn run(args: &Blocked, context: &mut Context) -> Result<Exit, Failure> {
    let record = Sessions::of(&context.env.state_root()?).record(&args.id)?;
    let refused = Refused::read(&record)?;
    if args.json {
        let groups = refused.kinds.iter().filter(|kind| args.all || !kind.allowed_now);
        let document = Document {
            session: record.name.as_str(),
            ended: record.ended,
            refused: refused.count,
            untold: refused.untold,
            garbled: refused.garbled,
            kinds: groups.collect(),
        };
        context.printer.data(&super::pretty(&document)?)?;
        return Ok(Exit::Ok);
    }
    let text = human(&refused, &record, args.all, &context.printer);
    context.printer.data(&text)?;
    if refused.count == 0 {
        context.printer.say(&format!("Session {} was refused nothing", record.name));
    }
    if refused.garbled > 0 {
        let lines = if refused.garbled == 1 { "line" } else { "lines" };
        context.printer.warn(&format!("{} {lines} of the log are no decisions", refused.garbled));
    }
    Ok(Exit::Ok)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    session: &'a str,
    ended: bool,
    refused: u64,
    untold: u64,
    garbled: u64,
    kinds: Vec<&'a Kind>,
}

/// One kind of refused request, and what can be done about it.
#[derive(Debug, Clone, Serialize)]
pub struct Kind {
    /// What was refused.
    pub group: Group,
    /// The smallest rule that would allow it.
    pub proposal: Option<Widening>,
    /// Why no rule can.
    pub why_not: Option<String>,
    /// Whether the rules in force allow it by now.
    pub allowed_now: bool,
    /// The command that would allow it.
    pub command: Option<String>,
}

/// All that a session was refused.
#[derive(Debug)]
pub struct Refused {
    /// The kinds, by number.
    pub kinds: Vec<Kind>,
    /// How many requests.
    pub count: u64,
    /// How many of kinds that are too many to be told apart.
    pub untold: u64,
    /// How many lines of the log are no decisions.
    pub garbled: u64,
}

impl Refused {
    /// Reads it from the session's log.
    pub fn read(record: &Record) -> Result<Self, Failure> {
        let mut refusals = Refusals::default();
        let garbled = decision_log::each(&record.folder, Role::Egress, |_, decision| {
            refusals.add(&decision)
        })?;
        let plan = record.plan_text()?.and_then(|text| PlanText::stored(text).ok()?.lenient().ok());
        let (count, untold) = (refusals.count, refusals.untold);
        let kind = |group: Group| kind(group, record, plan.as_ref());
        let kinds = refusals.groups().into_iter().map(kind).collect();
        Ok(Self { kinds, count, untold, garbled })
    }
}

fn kind(group: Group, record: &Record, plan: Option<&Plan>) -> Kind {
    let (proposal, why_not) = match widening(&group) {
        Ok(proposal) => (Some(proposal), None),
        Err(why) => (None, Some(why.to_owned())),
    };
    let allowed_now = proposal
        .as_ref()
        .zip(plan)
        .is_some_and(|(p, plan)| is_allowed(&plan.grants.egress.routes, &p.host, p.port, &p.rule));
    let can = proposal.is_some() && !allowed_now && !record.ended;
    let command = can.then(|| format!("bottle allow {} {}", record.name, group.number));
    Kind { group, proposal, why_not, allowed_now, command }
}

fn human(refused: &Refused, record: &Record, all: bool, printer: &Printer) -> String {
    let mut kinds: Vec<&Kind> =
        refused.kinds.iter().filter(|kind| all || !kind.allowed_now).collect();
    let hidden = refused.kinds.len() - kinds.len();
    kinds.sort_by(|a, b| {
        (&b.group.last, b.group.count, a.group.number).cmp(&(
            &a.group.last,
            a.group.count,
            b.group.number,
        ))
    });
    let more = if all { 0 } else { kinds.len().saturating_sub(SHOWN) };
    kinds.truncate(kinds.len() - more);
    let mut text = String::new();
    for kind in kinds {
        let group = &kind.group;
        let number = printer.paint_data(Colour::Bold, &format!("{:>3}", group.number));
        let _ = writeln!(text, "{number}  {}", printer.paint_data(Colour::Bold, &asked(group)));
        let times = if group.count == 1 {
            format!("once, {}", moment(&group.last))
        } else {
            format!("{} times, {} to {}", group.count, moment(&group.first), moment(&group.last))
        };
        let _ = writeln!(text, "     {times}");
        let why = format!("{} ({})", visible(&group.reason), visible(&group.rule));
        let _ = writeln!(text, "     {why}");
        let what = match (&kind.command, &kind.why_not) {
            (Some(command), _) => printer.paint_data(Colour::Cyan, command),
            (None, Some(why)) => format!("no rule can allow it: {why}"),
            (None, None) if kind.allowed_now => "allowed by now".to_owned(),
            (None, None) => "the session has ended; a later one needs a route for it".to_owned(),
        };
        let _ = writeln!(text, "     {what}");
    }
    if more > 0 {
        let _ = writeln!(text, "… and {more} kinds more; --all shows them");
    }
    if hidden > 0 {
        let _ = writeln!(text, "… and {hidden} allowed by now; --all shows them");
    }
    if refused.untold > 0 {
        let _ = writeln!(text, "… and {} requests of still other kinds", refused.untold);
    }
    if record.ended && refused.count > 0 {
        let _ = writeln!(text, "Session {} has ended.", record.name);
    }
    text
}

/// What was asked, on a line: `POST https://api.github.com/repos/*`.
pub fn asked(group: &Group) -> String {
    let host = visible(&group.host);
    if group.via == Via::Dns {
        return format!("DNS {host}");
    }
    let port = group.port.map_or(String::new(), |port| format!(":{port}"));
    let path = group.path.as_deref().map(visible).unwrap_or_default();
    format!("{} {host}{port}{path}", visible(&group.method))
}

/// A time of the log as people read it: to the second, in UTC.
pub fn moment(time: &str) -> String {
    let time = visible(time);
    match time.split_once('T') {
        Some((day, clock)) => format!("{day} {}", clock.chars().take(8).collect::<String>()),
        None => time.chars().take(24).collect(),
    }
}
