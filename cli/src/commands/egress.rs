//! `bottle egress`: what a session's way out did, and which routes it has in force.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bottle_executor::files::Root;
use bottle_planner::decision::{Decision, Outcome};
use bottle_planner::escape::visible;
use bottle_planner::facts::rule_text;
use bottle_planner::policy::{HostPattern, Route, Tls};
use bottle_planner::sidecar::RoutesFile;
use bottle_planner::words::{Digest, RelPath, Role};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::blocked::moment;
use crate::context::Context;
use crate::decision_log;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::sessions::{Record, Sessions};

/// Shows what a session's egress decided, and the routes it has in force.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle egress log @last --follow\n  \
    bottle egress log dev-ab12c --refused --json\n  bottle egress routes dev-ab12c")]
pub struct Egress {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every decision: what was let through and what was not, and by which rule
    Log(Log),
    /// The routes in force, and how often each was used
    Routes(Routes),
}

#[derive(Debug, Args)]
struct Log {
    /// The session, live or ended: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    /// Go on as decisions are made, until Ctrl-C or the session's end
    #[arg(short, long)]
    follow: bool,
    /// Only what was refused
    #[arg(long)]
    refused: bool,
    /// The lines of the log as they are, one JSON object each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Routes {
    /// The session, live or ended: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Egress, context: &mut Context) -> Result<Exit, Failure> {
    let sessions = Sessions::of(&context.env.state_root()?);
    match &args.what {
        What::Log(args) => log(args, &sessions.record(&args.id)?, &mut context.printer),
        What::Routes(args) => routes(args, &sessions.record(&args.id)?, &mut context.printer),
    }
}

fn log(args: &Log, record: &Record, printer: &mut Printer) -> Result<Exit, Failure> {
    let skipped = decision_log::watch(record, Role::Egress, args.follow, |batch| {
        let mut text = String::new();
        for (raw, decision) in batch {
            if args.refused && decision.outcome != Outcome::Refuse {
                continue;
            }
            text.push_str(&if args.json { raw } else { line(&decision, printer) });
            text.push('\n');
        }
        if text.is_empty() { Ok(()) } else { printer.data(&text) }
    })?;
    if skipped > 0 {
        printer.warn(&format!("{skipped} lines of the log are no decisions"));
    }
    Ok(Exit::Ok)
}

/// One decision on a line: when, what, of whom, by which rule, and why.
fn line(decision: &Decision, printer: &Printer) -> String {
    let (word, colour) = match decision.outcome {
        Outcome::Allow => ("allow", None),
        Outcome::Warn => ("warn", Some(Colour::Yellow)),
        Outcome::Redact => ("redact", Some(Colour::Yellow)),
        Outcome::Refuse => ("refuse", Some(Colour::Red)),
        Outcome::Failed => ("failed", Some(Colour::Yellow)),
    };
    let word = format!("{word:<6}");
    let word = colour.map_or(word.clone(), |colour| printer.paint_data(colour, &word));
    let port = decision.port.map_or(String::new(), |port| format!(":{port}"));
    let path = decision.path.as_deref().map(visible).unwrap_or_default();
    let why = if decision.outcome == Outcome::Allow { "" } else { decision.reason.as_str() };
    let why = if why.is_empty() { String::new() } else { format!(": {}", visible(why)) };
    format!(
        "{}  {word}  {:<7} {}{port}{path}  [{}]{why}",
        moment(&decision.time),
        visible(&decision.method),
        visible(&decision.host),
        visible(&decision.rule),
    )
}

/// `egress/out/counters.json`: what egress counted. A file of another shape counts as none.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counters {
    /// When egress began to count.
    #[serde(default)]
    since: String,
    /// By the pattern of the route.
    #[serde(default)]
    routes: BTreeMap<String, Counts>,
    /// Requests for hosts that no route names.
    #[serde(default)]
    no_route: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
struct Counts {
    allowed: u64,
    refused: u64,
    warned: u64,
    redacted: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

/// `egress/out/state.json`, as far as it is of interest here.
#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(default)]
    loaded: Option<Digest>,
    #[serde(default)]
    error: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    session: &'a str,
    /// The digest of the routes file.
    planned: &'a Digest,
    /// The digest of what egress has in force, as it says itself.
    loaded: Option<&'a Digest>,
    /// Why egress did not take the newest file.
    error: Option<&'a str>,
    routes: &'a BTreeMap<HostPattern, Route>,
    counters: Option<&'a Counters>,
}

fn routes(args: &Routes, record: &Record, printer: &mut Printer) -> Result<Exit, Failure> {
    let missing = || {
        Failure::error(format!("session {} has no routes file", record.name))
            .hint("its plan was not applied as far as that")
    };
    let root = Root::open(&record.folder)
        .map_err(|error| Failure::from_error(Exit::Error, &error))?
        .ok_or_else(missing)?;
    let content = read(&root, "egress/in/routes.json")?.ok_or_else(missing)?;
    let file: RoutesFile = serde_json::from_slice(&content.bytes).map_err(|error| {
        Failure::error(format!("cannot read the routes of session {}", record.name)).because(&error)
    })?;
    // What egress itself writes is taken as far as it can be understood.
    let state: State = said(&root, "egress/out/state.json").unwrap_or_default();
    let counters: Option<Counters> = said(&root, "egress/out/counters.json");
    if args.json {
        let document = Document {
            session: record.name.as_str(),
            planned: &content.digest,
            loaded: state.loaded.as_ref(),
            error: state.error.as_deref(),
            routes: &file.routes,
            counters: counters.as_ref(),
        };
        printer.data(&super::pretty(&document)?)?;
        return Ok(Exit::Ok);
    }
    let mut text = String::new();
    for (host, route) in &file.routes {
        let name = printer.paint_data(Colour::Bold, &format!("{host}:{}", route.port));
        let _ = writeln!(text, "{name}{}", marks(route));
        for rule in &route.allow {
            let with = rule.auth.as_ref().or(route.auth.as_ref());
            let with = with.map_or(String::new(), |auth| format!(", credential {}", auth.secret));
            let _ = writeln!(text, "  allow  {}{with}", visible(&rule_text(rule)));
        }
        for rule in &route.deny {
            let _ = writeln!(text, "  deny   {}", visible(&rule_text(rule)));
        }
        if let Some(counters) = &counters {
            let counts = counters.routes.get(host.as_str()).copied().unwrap_or_default();
            let _ = writeln!(text, "  {}", used(&counts));
        }
    }
    if let Some(counters) = counters.as_ref().filter(|counters| counters.no_route > 0) {
        let _ = writeln!(text, "{} requests for hosts without a route", counters.no_route);
    }
    printer.data(&text)?;
    if file.routes.is_empty() {
        printer.say("There is no route: nothing can be reached");
    }
    in_force(record, &content.digest, &state, printer);
    Ok(Exit::Ok)
}

/// What is unlike other routes, in words.
fn marks(route: &Route) -> String {
    let mut marks = Vec::new();
    if route.tls == Tls::Passthrough {
        marks.push("TLS is not looked into".to_owned());
    }
    if let Some(address) = route.address {
        marks.push(format!("at {address}"));
    }
    if route.allow_private {
        marks.push("private addresses too".to_owned());
    }
    if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) }
}

fn used(counts: &Counts) -> String {
    let Counts { allowed, refused, warned, redacted, sent_bytes, received_bytes } = counts;
    let mut text = format!("used   {allowed} allowed, {refused} refused");
    for (count, what) in [(warned, "with a warning"), (redacted, "redacted")] {
        if *count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    let _ = write!(text, "; {sent_bytes} bytes sent, {received_bytes} received");
    text
}

fn in_force(record: &Record, planned: &Digest, state: &State, printer: &mut Printer) {
    if let Some(error) = &state.error {
        printer.warn(&format!("egress did not take the newest routes: {error}"));
    }
    match &state.loaded {
        _ if record.ended => printer.say(&format!("Session {} has ended", record.name)),
        Some(loaded) if loaded == planned => {
            printer.say(&format!("In force, as planned: {planned}"));
        }
        Some(loaded) => printer.warn(&format!("egress has {loaded} in force, not {planned}")),
        None => printer.warn("egress does not say what it has in force"),
    }
}

fn read(root: &Root, path: &str) -> Result<Option<bottle_executor::files::Content>, Failure> {
    let path = RelPath::new(path).map_err(|error| Failure::error(error.to_string()))?;
    root.read(&path).map_err(|error| Failure::from_error(Exit::Error, &error))
}

fn said<T: serde::de::DeserializeOwned>(root: &Root, path: &str) -> Option<T> {
    let content = read(root, path).ok().flatten()?;
    serde_json::from_slice(&content.bytes).ok()
}
