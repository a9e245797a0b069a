//! `bottle supervise`: what agents ask for, shown as what it would change, and the answers.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use bottle_planner::diff::GrantsDiff;
use bottle_planner::escape::visible;
use bottle_planner::proposal::{Ask, Proposal};
use bottle_planner::words::{Digest, Identity};
use bottle_planner::{refusals, show};
use clap::{Args, Subcommand};
use serde::Serialize;
use similar::TextDiff;

use super::blocked::moment;
use crate::args::ManifestArgs;
use crate::ask;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::supervise::decide::{self, Word};
use crate::supervise::pending::{Found, Pending};
use crate::supervise::seen::{Effect, Seen};
use crate::supervise::{edit, tui};

/// The most lines of a justification that are shown at once.
const LINES: usize = 40;

/// Answers what agents ask for: network access, another image, a push that was refused.
///
/// Each request is shown as the change that approving it would cause. An approval names the digest of
/// what was shown: if anything moved since, it is refused, and shown again.
///
/// Without a command it shows all of it on the whole terminal: what waits, what approving the
/// selected one would change, and what runs; the keys are at the bottom, `?` explains them, and the
/// bell rings for what is new. Without a terminal it is `list`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  bottle supervise                         see it all, and answer by keys\n  \
    bottle supervise list                    what waits for an answer?\n  \
    bottle supervise show 3f                 what would approving it change?\n  \
    bottle supervise approve 3f              see it, be asked, approve it\n  \
    bottle supervise approve 3f --expect sha256:…   approve what `show` showed, from a script\n  \
    bottle supervise modify 3f --path '/v1/items/*'   approve something narrower\n  \
    bottle supervise reject 3f --notes 'use the mirror'\n\nWithout a command it takes the whole \
    terminal: what waits, what approving it would change,\nwhat runs, and the keys at the bottom; \
    `?` explains them. Without a terminal it is `list`."
)]
pub struct Supervise {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    manifest: ManifestArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What waits for an answer, the oldest first
    List(List),
    /// One request, and what approving it would change
    Show(ShowOne),
    /// Approve it as it was asked
    Approve(Approve),
    /// Approve it in another form: by flags, or in $EDITOR
    Modify(Box<Modify>),
    /// Reject it
    Reject(Reject),
}

#[derive(Debug, Default, Args)]
struct List {
    /// Only of this session: its ID, a unique beginning of it, or `@last`
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowOne {
    /// The request: its id, a unique beginning of it, or `@last`
    id: String,
    /// One JSON document, with the whole plan
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Approve {
    /// The request: its id, a unique beginning of it, or `@last`
    id: String,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Debug, Args)]
struct Consent {
    /// What was shown, by its digest; without it you are shown and asked
    #[arg(long, value_name = "DIGEST", help_heading = "Approval")]
    expect: Option<Digest>,
    /// For the agent: why, or what to do with it
    #[arg(long, default_value = "", help_heading = "Approval")]
    notes: String,
    /// Also for later sessions, in the manifest's overlay
    #[arg(long, help_heading = "Approval")]
    always: bool,
    /// Events on standard output, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manifest: ManifestArgs,
}

#[derive(Debug, Args)]
struct Modify {
    /// The request: its id, a unique beginning of it, or `@last`
    id: String,
    /// Reach this host in its place (`*.example.com` is every name below it)
    #[arg(long, help_heading = "Rule")]
    host: Option<String>,
    /// At this port
    #[arg(long, help_heading = "Rule")]
    port: Option<u16>,
    /// With these methods alone (repeatable)
    #[arg(long, help_heading = "Rule")]
    method: Vec<String>,
    /// On these paths alone, globs over whole segments (repeatable)
    #[arg(long, value_name = "GLOB", help_heading = "Rule")]
    path: Vec<String>,
    /// For reading alone: GET, HEAD, OPTIONS
    #[arg(long, conflicts_with = "method", help_heading = "Rule")]
    read: bool,
    /// Build this Dockerfile in its place
    #[arg(long, value_name = "FILE", help_heading = "Image")]
    dockerfile: Option<PathBuf>,
    /// Let the build reach these hosts alone, `host` or `host:port` (repeatable)
    #[arg(long, value_name = "HOST", help_heading = "Image")]
    build_host: Vec<String>,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Debug, Args)]
struct Reject {
    /// The request: its id, a unique beginning of it, or `@last`
    id: String,
    /// For the agent: why, or what to do in its place
    #[arg(long, default_value = "")]
    notes: String,
    /// What became of it on standard output, as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Supervise, context: &mut Context) -> Result<Exit, Failure> {
    let Some(what) = &args.what else {
        let has_screen = context.printer.is_interactive() && std::io::stdout().is_terminal();
        if has_screen {
            return tui::run(&args.manifest, context);
        }
        return list(&List::default(), context);
    };
    match what {
        What::List(args) => list(args, context),
        What::Show(args) => show_one(args, context),
        What::Approve(args) => {
            let pending = one(&args.id, context)?;
            answer(&pending, None, &args.consent, context)
        }
        What::Modify(args) => modify(args, context),
        What::Reject(args) => {
            decide::reject(&one(&args.id, context)?, &args.notes, args.json, context)
        }
    }
}

fn found(context: &Context) -> Result<Found, Failure> {
    Found::of(&context.roots(&ManifestArgs::default())?)
}

fn one(id: &str, context: &Context) -> Result<Pending, Failure> {
    found(context)?.one(id, &context.roots(&ManifestArgs::default())?)
}

/// What `list --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    proposals: Vec<Row<'a>>,
    broken: Vec<Broken<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    session: &'a Identity,
    words: String,
    proposal: &'a Proposal,
}

#[derive(Serialize)]
struct Broken<'a> {
    session: &'a Identity,
    file: &'a str,
    why: &'a str,
}

fn list(args: &List, context: &mut Context) -> Result<Exit, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let mut found = Found::of(&roots)?;
    if let Some(session) = &args.session {
        let session = crate::sessions::Sessions::of(&roots.root).find(session)?;
        found.pending.retain(|pending| pending.session == session);
        found.broken.retain(|(of, ..)| *of == session);
    }
    if args.json {
        let rows = found.pending.iter().map(|Pending { session, proposal }| Row {
            id: proposal.id(),
            session,
            words: proposal.ask.words(),
            proposal,
        });
        let broken = found.broken.iter();
        let broken = broken.map(|(session, file, why)| Broken { session, file, why }).collect();
        let document = Document { proposals: rows.collect(), broken };
        context.printer.data(&super::pretty(&document)?)?;
        return Ok(Exit::Ok);
    }
    let mut text = String::new();
    for pending in &found.pending {
        text.push_str(&row(pending, &context.printer));
    }
    context.printer.data(&text)?;
    if found.pending.is_empty() {
        context.printer.say("Nothing waits for an answer");
    }
    for (session, name, why) in &found.broken {
        let name = visible(name);
        context.printer.warn(&format!("{session}: {name} is no request: {}", visible(why)));
    }
    Ok(Exit::Ok)
}

fn row(pending: &Pending, printer: &Printer) -> String {
    let Pending { session, proposal } = pending;
    let id = printer.paint_data(Colour::Bold, &proposal.id());
    let first = proposal.justification.lines().next().unwrap_or_default();
    format!(
        "{id}  {session}  {}\n              {}\n              {}\n",
        moment(proposal.at.as_str()),
        visible(&proposal.ask.words()),
        cut(&visible(first), 100),
    )
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// What `show --json` prints.
#[derive(Serialize)]
struct One<'a> {
    id: String,
    session: &'a Identity,
    words: String,
    proposal: &'a Proposal,
    /// What an approval names.
    digest: &'a Digest,
    /// What the agent may do then.
    grants: &'a GrantsDiff,
    /// The whole plan, where it is one that is applied in place.
    plan: Option<&'a bottle_planner::plan::Plan>,
    /// The rule that `--always` would keep.
    rule: Option<refusals::Widening>,
}

fn show_one(args: &ShowOne, context: &mut Context) -> Result<Exit, Failure> {
    let pending = one(&args.id, context)?;
    if !args.json {
        // What is asked for is shown also where it cannot be granted.
        let text = asked(&pending, &context.printer);
        context.printer.data(&text)?;
    }
    let seen = Seen::look(&pending, &pending.proposal.ask, context)?;
    if args.json {
        let plan = match &seen.effect {
            Effect::InPlace(amended) => Some(&amended.plan),
            _ => None,
        };
        let document = One {
            id: pending.proposal.id(),
            session: &pending.session,
            words: pending.proposal.ask.words(),
            proposal: &pending.proposal,
            digest: &seen.digest,
            grants: &seen.diff,
            plan,
            rule: seen.widening(),
        };
        context.printer.data(&super::pretty(&document)?)?;
        return Ok(Exit::Ok);
    }
    context.printer.data(&change(&seen))?;
    let id = pending.proposal.id();
    context
        .printer
        .data(&format!("approve  bottle supervise approve {id} --expect {}\n", seen.digest))?;
    Ok(Exit::Ok)
}

/// What is asked for, and why.
pub fn asked(pending: &Pending, printer: &Printer) -> String {
    let Pending { session, proposal } = pending;
    let mut text = format!(
        "{}  {session}, {}\nasks     {}\n",
        printer.paint_data(Colour::Bold, &proposal.id()),
        moment(proposal.at.as_str()),
        visible(&proposal.ask.words()),
    );
    let mut lines = proposal.justification.lines();
    for (n, line) in lines.by_ref().take(LINES).enumerate() {
        let _ =
            writeln!(text, "{}{}", if n == 0 { "because  " } else { "         " }, visible(line));
    }
    let more = lines.count();
    if more > 0 {
        let _ = writeln!(text, "         … and {more} lines more");
    }
    text
}

/// What approving it would change: in words, and what those words leave out.
pub fn change(seen: &Seen) -> String {
    match &seen.effect {
        Effect::Nothing => "It may do that already: approving changes nothing.\n".to_owned(),
        Effect::InPlace(amended) => {
            let mut text = show::grants_diff(&seen.diff);
            text.push_str("Done while the agent runs:\n");
            let changed = amended.plan.actions.iter();
            for action in changed.filter(|a| a.effect != bottle_planner::plan::Effect::None) {
                let _ = writeln!(text, "  {} {}", show::sign(action), show::action_line(action));
            }
            text
        }
        Effect::Image { dockerfile, .. } => {
            let mut text = show::grants_diff(&seen.diff);
            text.push_str(
                "The session is stopped; `bottle resume` brings it back in the new image, with its \
                 files and conversation.\n",
            );
            let before = seen.dockerfile();
            let diff = TextDiff::from_lines(before.as_str(), dockerfile.as_str());
            let diff = diff.unified_diff().header("Dockerfile in force", "proposed").to_string();
            text.extend(diff.lines().map(|line| format!("{}\n", visible(line))));
            text
        }
    }
}

fn modify(args: &Modify, context: &mut Context) -> Result<Exit, Failure> {
    let pending = one(&args.id, context)?;
    let by_flags = args.host.is_some()
        || args.port.is_some()
        || args.read
        || !args.method.is_empty()
        || !args.path.is_empty()
        || args.dockerfile.is_some()
        || !args.build_host.is_empty();
    let other = if by_flags {
        by_flag(args, &pending.proposal.ask)?
    } else if context.printer.is_interactive() {
        let editor = context.env.editor();
        edit::in_editor(&pending.proposal.ask, &editor)?
    } else {
        return Err(Failure::usage("nobody is there to edit it").hint(
            "say how with --host, --port, --method, --path, --read, --dockerfile or --build-host",
        ));
    };
    let modified = (other != pending.proposal.ask).then_some(&other);
    answer(&pending, modified, &args.consent, context)
}

fn by_flag(args: &Modify, ask: &Ask) -> Result<Ask, Failure> {
    let of_rule = args.host.is_some()
        || args.port.is_some()
        || args.read
        || !args.method.is_empty()
        || !args.path.is_empty();
    let of_image = args.dockerfile.is_some() || !args.build_host.is_empty();
    match ask {
        Ask::Egress { host, port, rule } if !of_image => {
            let kept: Vec<String> = rule.methods.iter().cloned().collect();
            let methods = match (&args.method, args.read) {
                (_, true) => &[][..],
                (given, false) if given.is_empty() => &kept,
                (given, false) => given,
            };
            let paths = if args.path.is_empty() { &rule.paths } else { &args.path };
            let host = args.host.as_deref().unwrap_or(host.as_str());
            edit::rule_of(host, args.port.unwrap_or(*port), methods, paths)
        }
        Ask::Image { dockerfile, hosts } if !of_rule => {
            let dockerfile = match &args.dockerfile {
                Some(path) => read(path)?,
                None => dockerfile.clone(),
            };
            let hosts = match args.build_host.as_slice() {
                [] => hosts.clone(),
                given => edit::build_hosts(given)?,
            };
            Ok(Ask::Image { dockerfile, hosts })
        }
        Ask::PushException { .. } => Err(edit::nothing_to_modify()),
        Ask::Egress { .. } => {
            Err(Failure::usage("this asks for network access: say --host, --path"))
        }
        Ask::Image { .. } => Err(Failure::usage("this asks for an image: say --dockerfile")),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|e| Failure::error(format!("cannot read {}", path.display())).because(&e))
}

/// Approves what was seen: by its digest, or after it is shown and a person said yes.
fn answer(
    pending: &Pending,
    modified: Option<&Ask>,
    consent: &Consent,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let digest = match &consent.expect {
        Some(digest) => digest.clone(),
        None => shown_and_asked(pending, modified, context)?,
    };
    let word = Word {
        modified,
        seen: &digest,
        notes: &consent.notes,
        always: consent.always,
        json: consent.json,
        manifest: &consent.manifest,
    };
    decide::approve(pending, &word, context)
}

fn shown_and_asked(
    pending: &Pending,
    modified: Option<&Ask>,
    context: &mut Context,
) -> Result<Digest, Failure> {
    let seen = Seen::look(pending, modified.unwrap_or(&pending.proposal.ask), context)?;
    let text = asked(pending, &context.printer) + &change(&seen);
    context.printer.say(text.trim_end());
    if !context.printer.is_interactive() {
        return Err(Failure::new(Exit::Refused, "nobody approved it and nobody can be asked")
            .hint(format!("approve what you see here with --expect {}", seen.digest)));
    }
    if ask::confirm(&mut context.printer, "Approve it?")? {
        return Ok(seen.digest);
    }
    Err(Failure::new(Exit::Refused, "not approved; it waits on"))
}
