//! `bottle allow`: one rule more for a session that runs, planned and applied like any other change.

use bottle_planner::approvals::{DEFAULT_PORT, is_allowed};
use bottle_planner::audit::Event;
use bottle_planner::diff::diff_grants;
use bottle_planner::escape::visible;
use bottle_planner::plan::Plan;
use bottle_planner::policy::Approval;
use bottle_planner::refusals::Widening;
use bottle_planner::resolve::Amendment;
use bottle_planner::show;
use bottle_planner::words::Digest;
use chrono::Utc;
use clap::Args;

use super::apply::{Consent, checked};
use super::blocked::{Refused, asked};
use crate::amend::{Amended, InForce};
use crate::args::ManifestArgs;
use crate::audit;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::overlay::Standing;
use crate::request;
use crate::rule;
use crate::sessions::Sessions;

/// Allows a running session one rule more: of what it was refused, or one that is spelled out.
///
/// The rule is the smallest that allows the kind of request: its method, and its path with `*` for
/// ids; reading, where nothing but the host is known. You are shown what is newly allowed and
/// asked. The change is planned from the plan in force, without a look at the manifest, and applied
/// in place: the agent keeps running. With --always the rule is also kept for later sessions, in an
/// overlay beside the manifest.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bottle allow @last 1                     the kind that `bottle blocked` calls 1\n  \
    bottle allow dev-ab12c 3 --always        for later sessions too\n  \
    bottle allow dev-ab12c --host api.example.com --method POST --path '/v1/items/*'\n  \
    bottle allow dev-ab12c 1 --plan-only > plan.json    to be reviewed and applied by somebody else"
)]
pub struct Allow {
    /// The session: its ID, a unique beginning of it, or `@last`
    id: String,
    /// The kind of request, by its number or id in `bottle blocked`
    #[arg(value_name = "N", required_unless_present = "host", conflicts_with = "host")]
    kind: Option<String>,
    /// Reach this host (`*.example.com` is every name below it)
    #[arg(long, help_heading = "Rule")]
    host: Option<String>,
    /// At this port (default: the host's own, else 443)
    #[arg(long, requires = "host", help_heading = "Rule")]
    port: Option<u16>,
    /// With this method (repeatable; default: reading)
    #[arg(long, requires = "host", help_heading = "Rule")]
    method: Vec<String>,
    /// On this path, a glob over whole segments (repeatable; default: every path)
    #[arg(long, requires = "host", value_name = "GLOB", help_heading = "Rule")]
    path: Vec<String>,
    /// For this session alone, resumed or not (the default)
    #[arg(long, conflicts_with = "always")]
    once: bool,
    /// For this session, and in the manifest's overlay for later ones
    #[arg(long)]
    always: bool,
    /// Do it without asking
    #[arg(short, long, help_heading = "Approval")]
    yes: bool,
    /// Approve the plan of this digest, and no other (with the --at it was made with)
    #[arg(long, value_name = "DIGEST", help_heading = "Approval")]
    expect: Option<Digest>,
    /// Print the plan as JSON and stop
    #[arg(long, conflicts_with_all = ["yes", "expect", "json", "always"])]
    plan_only: bool,
    /// The time of the approval, in place of now (RFC 3339)
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Events on standard output, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// Runs the command.
pub fn run(args: &Allow, context: &mut Context) -> Result<Exit, Failure> {
    let sessions = Sessions::of(&context.roots(&args.manifest)?.root);
    let identity = sessions.find(&args.id)?;
    let applied = InForce::of(&identity, context)?.plan;
    let asked_for = match &args.host {
        Some(host) => spelled_out(args, host, &applied)?,
        None => of_kind(args, &sessions, context)?,
    };
    let at = request::time(args.at.as_deref(), context.env, Utc::now)?;
    // Looked at first: a rule that could not be kept is not half allowed.
    let standing =
        Standing { args: &args.manifest, applied: &applied, wanted: &asked_for, at: &at };
    let standing = (args.always && !args.once).then_some(standing);
    standing.map_or(Ok(()), |standing| standing.check(context))?;
    let Widening { host, port, rule } = asked_for.clone();
    if is_allowed(&applied.grants.egress.routes, &host, port, &rule) {
        context.printer.say(&format!("Session {identity} may do that already"));
        standing.map_or(Ok(()), |standing| standing.keep(context))?;
        return Ok(Exit::Ok);
    }
    let approval =
        Approval { at: at.clone(), host, port, rule, by: Some("bottle allow".to_owned()) };
    let amended = Amended::plan(&applied, &Amendment::Route(approval), &args.manifest, context)?;
    if args.plan_only {
        context.printer.data(&amended.text.text)?;
        return Ok(Exit::Ok);
    }
    let plan = checked(&amended.text, args.expect.as_ref())?;
    amended.check(context)?;
    let consent = Consent {
        expected: args.expect.is_some(),
        locked: false,
        yes: args.yes,
        rollback: false,
        redeliver: false,
    };
    let (_, confirmed) = consent.of(&plan, &sessions, &mut context.printer)?;
    let diff = diff_grants(Some(&applied.grants), &plan.grants);
    if args.yes || args.expect.is_some() {
        // Nobody was asked, so nobody was shown.
        context.printer.say(show::grants_diff(&diff).trim_end());
    }
    // Before it is done: what is in force is never missing there.
    let event = Event::Allowed { plan: amended.text.digest.clone(), effect: diff.widened };
    audit::note(&identity, event, context)?;
    let done = amended.apply(confirmed.as_ref(), args.json, context)?;
    if done != Exit::Ok {
        return Ok(done);
    }
    standing.map_or(Ok(()), |standing| standing.keep(context))?;
    Ok(Exit::Ok)
}

/// The rule of a kind of refused request.
fn of_kind(args: &Allow, sessions: &Sessions, context: &mut Context) -> Result<Widening, Failure> {
    let wanted = args.kind.as_deref().unwrap_or_default();
    let record = sessions.record(&args.id)?;
    let refused = Refused::read(&record)?;
    let number = wanted.parse().ok();
    let kind = refused
        .kinds
        .into_iter()
        .find(|kind| number == Some(kind.group.number) || kind.group.id == wanted);
    let Some(kind) = kind else {
        return Err(Failure::error(format!(
            "session {} was refused nothing of number `{}`",
            record.name,
            visible(wanted)
        ))
        .hint(format!("`bottle blocked {}` lists what was refused", record.name)));
    };
    let what = asked(&kind.group);
    match (kind.proposal, kind.why_not) {
        (Some(proposal), _) => {
            context.printer.say(&format!("Refused {} times: {what}", kind.group.count));
            Ok(proposal)
        }
        (None, why) => {
            let why = why.unwrap_or_default();
            Err(Failure::new(Exit::Refused, format!("no rule can allow {what}")).hint(why))
        }
    }
}

/// The rule that the flags spell out.
fn spelled_out(args: &Allow, host: &str, applied: &Plan) -> Result<Widening, Failure> {
    let host = rule::host(host)?;
    let rule = rule::rule(&args.method, &args.path)?;
    let routes = &applied.grants.egress.routes;
    let own = bottle_planner::approvals::route_of(routes, &host).map(|(_, route)| route.port);
    let port = args.port.or(own).unwrap_or(DEFAULT_PORT);
    Ok(Widening { host, port, rule })
}
