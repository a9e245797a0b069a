//! `bottle start` and `bottle resume`: plan, preflight, apply, attach, and the end.

use bottle_executor::state::PRESERVE;
use bottle_planner::escape::visible;
use bottle_planner::plan::Plan;
use bottle_planner::policy::Manifest;
use bottle_planner::resolve::{Inputs, plan};
use bottle_planner::spec::Spec;
use bottle_planner::words::Identity;
use clap::Args;

use super::apply::{Consent, checked};
use super::attach::{KeysArgs, attach};
use super::plan::asked;
use super::{destroy, list, pull};
use crate::args::ManifestArgs;
use crate::ask;
use crate::carry_out::{self, Job};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leak_rules;
use crate::plan_file::PlanText;
use crate::request::RequestArgs;
use crate::running::Running;
use crate::sessions::Sessions;
use crate::world;

/// How often a launch is planned again when somebody else took what was planned: a subnet, a name.
const TRIES: usize = 5;

/// Starts an agent: plans a session, shows what it may do, asks, carries the plan out and joins the
/// agent.
///
/// The same as `bottle plan`, `bottle apply` and `bottle attach` one after another. Where the agent
/// ends well and all its work was pulled or pushed, its session ends too and its record moves to
/// history; else you are asked, and without a terminal everything is kept: `bottle resume` carries
/// on. If the session does not come up, what was
/// made for it is undone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle start dev\n  \
    bottle start dev --workspace clone --task @todo.md --yes\n  \
    bottle start dev --detach --name night-shift; bottle attach night-shift\n  \
    bottle start dev -- --model opus         arguments for the agent's command")]
pub struct Start {
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    launch: LaunchArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// Carries on with a session that was stopped or whose agent has ended, with the agent's own way
/// to go on from where it was.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle resume                    the last session\n  \
    bottle resume dev-ab12c --task 'go on with the tests' --yes\n  \
    bottle resume --all --yes        after a reboot")]
pub struct Resume {
    /// The session: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    /// Every session that was stopped, killed, or lost with the engine or the host; not those whose
    /// agent came to an end of its own or reached a limit. Where there are several, none is joined
    #[arg(long, conflicts_with_all = ["id", "task"])]
    all: bool,
    /// Work for a run without a terminal; @FILE reads it from a file
    #[arg(long, value_name = "TEXT|@FILE")]
    task: Option<String>,
    #[command(flatten)]
    launch: LaunchArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// How a session is begun.
#[derive(Debug, Clone, Args)]
pub struct LaunchArgs {
    /// Approve without asking
    #[arg(short, long, help_heading = "Launch")]
    yes: bool,
    /// Leave the agent to itself once it runs
    #[arg(short, long, help_heading = "Launch")]
    detach: bool,
    #[command(flatten)]
    keys: KeysArgs,
}

/// Runs `bottle start`.
pub fn run(args: &Start, context: &mut Context) -> Result<Exit, Failure> {
    let asked = asked(&args.request, &args.manifest, context)?;
    launch(&args.launch, &args.manifest, asked, context)
}

/// Runs `bottle resume`.
pub fn resume(args: &Resume, context: &mut Context) -> Result<Exit, Failure> {
    if args.all {
        return resume_all(args, context);
    }
    let identity = Sessions::of(&context.env.state_root()?).find(&args.id)?;
    resume_one(&identity, &args.launch, args, context)
}

fn resume_one(
    identity: &Identity,
    launch_args: &LaunchArgs,
    args: &Resume,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let request = RequestArgs {
        identity: Some(identity.to_string()),
        resume: true,
        task: args.task.clone(),
        ..RequestArgs::default()
    };
    let asked = asked(&request, &args.manifest, context)?;
    launch(launch_args, &args.manifest, asked, context)
}

/// Carries on with every session that was cut short. What fails of one is told, and the others go on.
fn resume_all(args: &Resume, context: &mut Context) -> Result<Exit, Failure> {
    let all = list::cut_short(context)?;
    if let [one] = all.as_slice() {
        return resume_one(one, &args.launch, args, context);
    }
    if all.is_empty() {
        context.printer.say("No session was cut short");
        return Ok(Exit::Ok);
    }
    let launch_args = LaunchArgs { detach: true, ..args.launch.clone() };
    let mut failed = Vec::new();
    for identity in &all {
        context.printer.say(&format!("Session {identity}:"));
        if let Err(failure) = resume_one(identity, &launch_args, args, context) {
            context.printer.failure(&failure);
            failed.push(identity.as_str());
            if failure.exit == Exit::Interrupted {
                return Err(Failure::silent(Exit::Interrupted));
            }
        }
    }
    context.printer.say(&format!("{} of {} go on", all.len() - failed.len(), all.len()));
    if failed.is_empty() {
        return Ok(Exit::Ok);
    }
    Err(Failure::new(Exit::Partial, format!("not carried on with: {}", failed.join(", "))))
}

/// Plans, asks, applies and joins what is asked, and sees to the end.
pub fn launch(
    args: &LaunchArgs,
    manifest_args: &ManifestArgs,
    (manifest, spec): (Manifest, Spec),
    context: &mut Context,
) -> Result<Exit, Failure> {
    let keys = args.keys.parse()?;
    let roots = context.roots(manifest_args)?;
    let sessions = Sessions::of(&roots.root);
    let mut approved: Option<Plan> = None;
    let mut tries = 0;
    let identity = loop {
        tries += 1;
        let (inputs, text, plan) = planned(&manifest, &spec, manifest_args, context)?;
        let is_new = sessions.plan_text(&plan.identity)?.is_none();
        let mut job = Job {
            plan: &plan,
            text: &text.text,
            digest: &text.digest,
            inputs: Some(&inputs),
            roots: &roots,
            workspace: plan.session.workspace.as_ref().map(|place| &place.host),
            confirmed: None,
            rollback: false,
            redeliver: false,
            json: false,
            secrets: &[],
        };
        carry_out::check(&job)?;
        carry_out::check_secrets(&job, context)?;
        let same = approved.as_ref().is_some_and(|before| differs_in_minted_alone(before, &plan));
        let consent = Consent { yes: args.yes || same, ..Consent::default() };
        let (_, confirmed) = consent.of(&plan, &sessions, &mut context.printer)?;
        job.confirmed = confirmed.as_ref();
        match carry_out::carry_out(&job, context) {
            Ok(_) => break plan.identity.clone(),
            Err(failure) => {
                let begun = sessions.plan_text(&plan.identity)?.is_some();
                let undone = if is_new && begun && failure.exit != Exit::Interrupted {
                    job.rollback = true;
                    undo(&job, context)
                } else {
                    true
                };
                if !(failure.again && undone && tries < TRIES) {
                    return Err(failure);
                }
                context.printer.say(&format!(
                    "the world is not as planned ({}); planning again",
                    visible(&failure.chain())
                ));
                approved = Some(plan.clone());
            }
        }
    };
    let running = Running::find(identity.as_str(), context)?;
    if args.detach {
        context.printer.say(&format!("It runs; `bottle attach {identity}` joins it"));
        return Ok(Exit::Ok);
    }
    let exit = attach(&running, keys, true, context)?;
    drop(running);
    ended(&identity, exit, context)
}

/// Whether what was approved need not be asked again: nothing differs but what is minted for a
/// session (its networks and addresses, the time), and nothing may be lost.
fn differs_in_minted_alone(before: &Plan, now: &Plan) -> bool {
    let mut session = now.session.clone();
    session.net.clone_from(&before.session.net);
    session.out.clone_from(&before.session.out);
    session.places.clone_from(&before.session.places);
    session.started_at.clone_from(&before.session.started_at);
    session == before.session
        && (&before.grants, &before.spec, &before.parent) == (&now.grants, &now.spec, &now.parent)
        && !now.actions.iter().any(|action| action.destructive)
}

/// One plan of the launch, its inputs and its text.
fn planned(
    manifest: &Manifest,
    spec: &Spec,
    manifest_args: &ManifestArgs,
    context: &mut Context,
) -> Result<(String, PlanText, Plan), Failure> {
    let snapshot = world::snapshot(context, manifest_args, manifest, spec)?;
    let made = plan(manifest, spec, &snapshot).map_err(Failure::from_plan)?;
    leak_rules::of_manifest(&made.grants, manifest)?;
    let inputs = Inputs { manifest: manifest.clone(), spec: spec.clone(), snapshot };
    let text = PlanText::stored(super::pretty(&made)?)?;
    let checked = checked(&text, None)?;
    Ok((super::pretty(&inputs)?, text, checked))
}

/// Undoes what was made, and whether all of it was; what cannot be undone is told beside the failure
/// that led here.
fn undo(job: &Job<'_>, context: &mut Context) -> bool {
    context.printer.say("undoing what was made");
    match carry_out::carry_out(job, context) {
        Ok(exit) => exit == Exit::Ok,
        Err(failure) => {
            context.printer.failure(&failure);
            false
        }
    }
}

/// What becomes of a session whose agent has ended, or goes on without us.
fn ended(identity: &Identity, exit: Exit, context: &mut Context) -> Result<Exit, Failure> {
    let running = Running::find(identity.as_str(), context)?;
    if running.is_up(bottle_planner::words::Role::Agent).is_ok() {
        return Ok(exit);
    }
    drop(running);
    if exit == Exit::Theirs(0) && !is_preserved(identity, context)? && may_go(identity, context) {
        destroy::without_asking(identity, context)?;
    } else {
        context.printer.say(&format!(
            "Everything of session {identity} is kept: `bottle resume {identity}` carries on, \
             `bottle destroy {identity}` ends it"
        ));
    }
    Ok(exit)
}

/// Whether somebody said that the session is to stay.
fn is_preserved(identity: &Identity, context: &Context) -> Result<bool, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    Ok(roots.state(identity).join(PRESERVE).symlink_metadata().is_ok())
}

/// Whether nothing is lost with the session: a person may pull what there is, or give it up.
fn may_go(identity: &Identity, context: &mut Context) -> bool {
    loop {
        let left = match pull::unfinished(identity.as_str(), context) {
            Ok(None) => return true,
            Ok(Some(left)) => left,
            Err(failure) => {
                context.printer.failure(&failure);
                context.printer.say("what the agent did could not be looked at");
                return false;
            }
        };
        context.printer.say(&format!("Session {identity} has {left}"));
        if !context.printer.is_interactive() {
            return false;
        }
        let question = "Pull it, keep the session, or discard it? [p/K/d]";
        match ask::letter(&mut context.printer, question).ok().flatten() {
            Some('p') => {
                if let Err(failure) = pull::by_asking(identity.as_str(), context) {
                    context.printer.failure(&failure);
                    return false;
                }
            }
            Some('d') => return true,
            _ => return false,
        }
    }
}
