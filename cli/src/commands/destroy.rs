//! `bottle destroy`: the end of a session, as a plan like any other.

use bottle_planner::resolve::{Keep, plan_destroy};
use bottle_planner::words::Identity;
use clap::Args;

use super::apply::{Consent, checked};
use super::blocked::Refused;
use crate::args::ManifestArgs;
use crate::carry_out::{self, Job};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;
use crate::planted::Mounted;
use crate::sessions::Sessions;
use crate::world;

/// Takes a session down: its containers, networks and volumes go, its record moves to history.
///
/// What the agent did is saved with the record first: saved/work.patch, saved/work.bundle (commits
/// of a clone) and its transcript, each at most 512 MiB. If that fails, nothing goes. What else is
/// on its volumes is lost, so you are asked.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle destroy dev-ab12c\n  bottle destroy @last --yes\n  \
    bottle destroy dev --plan-only > end.json       any unique beginning of the name will do\n  \
    bottle destroy dev --unsaved                    what the agent did is not wanted")]
pub struct Destroy {
    /// The session: its ID, a unique beginning of it, or `@last`
    id: String,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
    /// Save nothing of what the agent did
    #[arg(long)]
    unsaved: bool,
    /// Print the plan as JSON and stop
    #[arg(long, conflicts_with_all = ["yes", "json"])]
    plan_only: bool,
    /// Events on standard output, one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Takes down a session that has nothing to lose.
pub fn without_asking(identity: &Identity, context: &mut Context) -> Result<Exit, Failure> {
    let id = identity.to_string();
    let args = Destroy { id, yes: true, unsaved: false, plan_only: false, json: false };
    run(&args, context)
}

/// Runs the command.
pub fn run(args: &Destroy, context: &mut Context) -> Result<Exit, Failure> {
    let manifest = ManifestArgs::default();
    let roots = context.roots(&manifest)?;
    let sessions = Sessions::of(&roots.root);
    let identity = sessions.find(&args.id)?;
    let snapshot = world::of_session(context, &manifest, &identity)?;
    let keep = if args.unsaved { Keep::Nothing } else { Keep::Saved };
    let plan = plan_destroy(&identity, &snapshot, keep).map_err(Failure::from_plan)?;
    let text = super::pretty(&plan)?;
    if args.plan_only {
        context.printer.data(&text)?;
        return Ok(Exit::Ok);
    }
    let text = PlanText::stored(text)?;
    let plan = checked(&text, None)?;
    let mut job = Job {
        plan: &plan,
        text: &text.text,
        digest: &text.digest,
        inputs: None,
        roots: &roots,
        workspace: None,
        confirmed: None,
        rollback: false,
        redeliver: false,
        json: args.json,
        secrets: &[],
    };
    carry_out::check(&job)?;
    let consent = Consent { yes: args.yes, ..Consent::default() };
    let (_, confirmed) = consent.of(&plan, &sessions, &mut context.printer)?;
    job.confirmed = confirmed.as_ref();
    let mounted = Mounted::of(&roots, &plan);
    // Counted before the record moves. That the log cannot be read keeps nothing from ending.
    let record = sessions.record(identity.as_str())?;
    let refused = Refused::read(&record).map_or(0, |refused| refused.count);
    let done = carry_out::carry_out(&job, context);
    // Once the agent has ended: what it leaves at the last moment counts.
    if let Some(mounted) = mounted {
        mounted.tell(&mut context.printer);
    }
    let done = done?;
    if refused > 0 && done == Exit::Ok {
        let requests = if refused == 1 { "request was" } else { "requests were" };
        context.printer.say(&format!("{refused} {requests} refused (`bottle blocked {identity}`)"));
    }
    Ok(done)
}
