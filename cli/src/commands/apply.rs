//! `bottle apply`: a plan, checked, approved and carried out.

use std::path::{Path, PathBuf};

use bottle_executor::apply::Confirmed;
use bottle_planner::diff::{Verdict, diff_grants};
use bottle_planner::escape::visible;
use bottle_planner::lint::lint;
use bottle_planner::plan::{Action, Effect, Intent, Operation, Plan};
use bottle_planner::show;
use bottle_planner::words::{AbsPath, Digest};
use clap::Args;

use super::lint as lint_command;
use super::lock;
use crate::args::ManifestArgs;
use crate::ask;
use crate::carry_out::{self, Job, SecretFd};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leak_rules;
use crate::output::{Colour, Printer};
use crate::plan_file::PlanText;
use crate::request::host_folder;
use crate::sessions::Sessions;

/// Carries out a plan: exactly that plan and nothing else.
///
/// The file is read once. Its digest, version, fields and every lint rule are checked before
/// anything is touched; on a terminal you are then shown what the agent may do and asked. Without
/// a terminal the plan must be approved by --expect, --require-lock or --yes. Applying a plan
/// again carries on where it was cut short, or verifies that all still holds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle apply plan.json\n  \
    bottle apply plan.json --expect sha256:5c3f… --json\n  \
    bottle plan dev | bottle apply - --require-lock bottle.lock\n  \
    bottle apply plan.json --secret NPM_TOKEN=fd:3 3<token\n  \
    bottle apply plan.json --rollback               undo what this plan made")]
pub struct Apply {
    /// A plan file, or `-` for standard input
    plan: String,
    /// Approve the plan of this digest, and no other
    #[arg(long, value_name = "DIGEST", help_heading = "Approval")]
    expect: Option<Digest>,
    /// Approve only what this lock file has (see `bottle lock`)
    #[arg(long, value_name = "FILE", help_heading = "Approval")]
    require_lock: Option<PathBuf>,
    /// Approve, also what may lose work
    #[arg(short, long, help_heading = "Approval")]
    yes: bool,
    /// The folder that may be brought in when --require-lock alone approves (default: the current)
    #[arg(long, value_name = "DIR", help_heading = "Approval")]
    cwd: Option<PathBuf>,
    /// Undo what this plan made, in reverse order
    #[arg(long, conflicts_with = "redeliver")]
    rollback: bool,
    /// Deliver secrets again that were delivered before, as they are now
    ///
    /// Sidecars take the new values at once. A running agent keeps the environment it was started
    /// with, so it is left as it is, with a notice: `docker restart` its container, which ends its
    /// work, and redeliver again.
    #[arg(long)]
    redeliver: bool,
    /// Events on standard output, one JSON object a line
    #[arg(long)]
    json: bool,
    /// The value of a variable that would be asked for, from an open descriptor (repeatable)
    #[arg(long, value_name = "NAME=fd:N")]
    secret: Vec<String>,
    /// What the plan was made from (`plan --dump-inputs`), kept with the session
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// Runs the command.
pub fn run(args: &Apply, context: &mut Context) -> Result<Exit, Failure> {
    // Parsed here and not by clap, which would repeat what is wrong: it may be a value.
    let secrets: Vec<SecretFd> = args
        .secret
        .iter()
        .map(|text| text.parse().map_err(|e: String| Failure::usage(format!("--secret: {e}"))))
        .collect::<Result<_, _>>()?;
    let text = PlanText::read(&args.plan)?;
    let plan = checked(&text, args.expect.as_ref())?;
    let lock = args.require_lock.as_deref();
    if let Some(file) = lock {
        lock::require(file, &plan.grants)?;
    }
    let roots = context.roots(&args.manifest)?;
    let inputs = args.inputs.as_deref().map(|file| inputs(file, &text.digest)).transpose()?;
    let mut job = Job {
        plan: &plan,
        text: &text.text,
        digest: &text.digest,
        inputs: inputs.as_deref(),
        roots: &roots,
        workspace: None,
        confirmed: None,
        rollback: args.rollback,
        redeliver: args.redeliver,
        json: args.json,
        secrets: &secrets,
    };
    carry_out::check(&job)?;
    let consent = Consent {
        expected: args.expect.is_some(),
        locked: lock.is_some(),
        yes: args.yes,
        rollback: args.rollback,
        redeliver: args.redeliver,
    };
    let sessions = Sessions::of(&roots.root);
    let (approval, confirmed) = consent.of(&plan, &sessions, &mut context.printer)?;
    if approval == Approval::Grants {
        refuse_beyond_grants(&plan)?;
    }
    let workspace = folder(approval, &plan, args.cwd.as_deref())?;
    (job.workspace, job.confirmed) = (workspace.as_ref(), confirmed.as_ref());
    carry_out::carry_out(&job, context)
}

/// A plan that may be carried out, if it is the expected one, of a version and with fields that
/// this build knows, and clean.
pub fn checked(text: &PlanText, expect: Option<&Digest>) -> Result<Plan, Failure> {
    if let Some(expected) = expect
        && *expected != text.digest
    {
        return Err(Failure::new(
            Exit::Refused,
            format!("expected plan {expected}, found {}", text.digest),
        )
        .hint("this is not the plan that was approved; compare the two with `bottle diff`"));
    }
    let plan = text.strict()?;
    let findings = lint(&plan);
    if findings.is_empty() {
        leak_rules::of_plan(&plan.grants)?;
        return Ok(plan);
    }
    let mut failure = Failure::new(Exit::Refused, format!("{} breaks lint rules", text.from));
    for finding in findings.iter().take(20) {
        let line = lint_command::line(finding);
        failure.problems.extend(Failure::new(Exit::Refused, line).problems);
    }
    Err(failure.hint("`bottle lint` lists all of them; a plan is made by `bottle plan` alone"))
}

/// Who approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// A person, or a flag that names or means this very plan: its folder is confirmed with it.
    Plan,
    /// A lock file: what is granted, and not which folder of this host it is granted for.
    Grants,
}

/// What the flags say about approval.
#[derive(Debug, Clone, Copy, Default)]
pub struct Consent {
    /// `--expect` named this plan.
    pub expected: bool,
    /// A lock file has these grants.
    pub locked: bool,
    /// `--yes`.
    pub yes: bool,
    /// Whether the plan is to be undone.
    pub rollback: bool,
    /// Whether secrets are delivered although nothing else is to do.
    pub redeliver: bool,
}

impl Consent {
    /// Decides, and asks where somebody can be asked.
    pub fn of(
        self,
        plan: &Plan,
        sessions: &Sessions,
        printer: &mut Printer,
    ) -> Result<(Approval, Option<Confirmed>), Failure> {
        let lost = lost_work(plan, self.rollback);
        let told = |how: &str| (!lost.is_empty()).then(|| Confirmed::destructive(how));
        if self.yes {
            return Ok((Approval::Plan, told("--yes")));
        }
        // A plan that has nothing to do is only verified: there is nothing to approve.
        let idle = !self.rollback
            && !self.redeliver
            && plan.actions.iter().all(|a| a.effect == Effect::None);
        let approval = if self.expected || idle {
            Some(Approval::Plan)
        } else if self.locked {
            Some(Approval::Grants)
        } else {
            None
        };
        if printer.is_interactive() && (!self.expected || !lost.is_empty()) && !idle {
            summarize(plan, sessions, &lost, self.rollback, printer);
            let question = match (self.rollback, lost.is_empty()) {
                (true, _) => "Undo this plan?",
                (false, true) => "Carry out this plan?",
                (false, false) if saves(plan) => "Carry out this plan?",
                (false, false) => "Carry out this plan, and lose that work for good?",
            };
            if !ask::confirm(printer, question)? {
                return Err(Failure::new(Exit::Refused, "not approved; nothing was touched"));
            }
            return Ok((Approval::Plan, told("asked on a terminal")));
        }
        match approval {
            Some(approval) if lost.is_empty() => Ok((approval, None)),
            Some(_) => Err(Failure::new(
                Exit::Refused,
                format!("the plan may lose work: {}", lost.join(", ")),
            )
            .hint("say --yes if that is meant")),
            None => Err(Failure::new(
                Exit::Refused,
                "nobody approved the plan and nobody can be asked",
            )
            .hint(match plan.intent {
                Intent::Launch => {
                    "say --yes, or approve the plan in a file: `bottle apply FILE` with --expect \
                             DIGEST or --require-lock FILE"
                }
                Intent::Destroy => "say --yes if that is meant",
            })),
        }
    }
}

/// The actions that may lose work.
fn lost_work(plan: &Plan, rollback: bool) -> Vec<String> {
    if rollback {
        // Whatever was made may have been worked on since.
        return vec!["what the session made since".to_owned()];
    }
    let losing = plan.actions.iter().filter(|a| a.destructive && a.effect != Effect::None);
    losing.map(|action| visible(&action.id.0)).collect()
}

/// What a person is shown before the question: what is newly allowed, what is done, what is lost.
fn summarize(
    plan: &Plan,
    sessions: &Sessions,
    lost: &[String],
    rollback: bool,
    printer: &mut Printer,
) {
    let applied = sessions.plan_text(&plan.identity).ok().flatten();
    let before = applied.and_then(|text| PlanText::stored(text).ok()?.lenient().ok());
    printer.say(&format!("Session {}", plan.identity));
    match &before {
        _ if plan.intent == Intent::Destroy => {}
        Some(before) => {
            let diff = diff_grants(Some(&before.grants), &plan.grants);
            if diff.verdict == Verdict::Same {
                printer.say("The agent may do what it may do already.");
            } else {
                printer.say(show::grants_diff(&diff).trim_end());
            }
        }
        None => printer.say(show::granted(plan).trim_end()),
    }
    if let (Some(place), Intent::Launch) = (&plan.session.workspace, plan.intent) {
        let folder = visible(place.host.as_str());
        printer.say(&format!("It works on {folder} ({}).", place.mode.as_str()));
    } else if before.is_none() && plan.intent == Intent::Launch {
        printer.say("No folder comes in; `--workspace copy` brings the current one.");
    }
    let asked = show::asked(plan);
    if plan.intent == Intent::Launch && !asked.is_empty() {
        printer.say(asked.trim_end());
    }
    if !rollback {
        // Of a session that is made from nothing, what takes long and what is put into a person's folder:
        // what the agent may do stands above, and is not to scroll away.
        let told = |action: &&Action| match action.effect {
            Effect::None => false,
            Effect::Create => before.is_some() || is_felt(&action.op),
            _ => true,
        };
        for action in plan.actions.iter().filter(told) {
            printer.say(&format!("  {} {}", show::sign(action), show::action_line(action)));
        }
    }
    for notice in &plan.notices {
        printer.say(&format!("  ! {}", visible(&notice.message)));
    }
    printer.say(&show::summary_line(plan));
    if !lost.is_empty() && saves(plan) {
        let what =
            "patch, commits and transcript are saved to the record first, the rest goes for good:";
        printer.say(&format!("{what} {}", lost.join(", ")));
    } else if !lost.is_empty() {
        let head = printer.paint(Colour::Red, "This may lose work for good:");
        printer.say(&format!("{head} {}", lost.join(", ")));
    }
}

/// Whether the agent's work is saved before anything goes.
fn saves(plan: &Plan) -> bool {
    let save = |action: &Action| matches!(action.op, Operation::Save(_));
    plan.actions.iter().any(|action| action.effect != Effect::None && save(action))
}

fn is_felt(op: &Operation) -> bool {
    matches!(
        op,
        Operation::BuildImage(_)
            | Operation::AssembleImage(_)
            | Operation::PullImage(_)
            | Operation::Placeholder(_)
    )
}

/// Refuses what a lock file cannot approve: it says what is granted, and nothing of the command's
/// arguments or of an image that is taken by its name.
fn refuse_beyond_grants(plan: &Plan) -> Result<(), Failure> {
    let spec = &plan.spec;
    let what = match &spec.overrides.derived_image {
        Some(image) => format!("takes image {} for the workspace", visible(image)),
        None if spec.args.is_empty() => return Ok(()),
        None => {
            format!("gives the agent's command the arguments {}", visible(&spec.args.join(" ")))
        }
    };
    Err(Failure::new(Exit::Refused, format!("the plan {what}, which no lock file approves"))
        .hint("read the plan, and approve it itself with --expect DIGEST"))
}

/// The host folder that may be brought in.
fn folder(
    approval: Approval,
    plan: &Plan,
    named: Option<&Path>,
) -> Result<Option<AbsPath>, Failure> {
    let Some(place) = &plan.session.workspace else { return Ok(None) };
    match (approval, named) {
        (Approval::Plan, None) => Ok(Some(place.host.clone())),
        (_, named) => {
            let folder = host_folder(named.unwrap_or(Path::new(".")))?;
            if folder == place.host {
                return Ok(Some(folder));
            }
            Err(Failure::new(
                Exit::Refused,
                format!("the plan brings in {}, expected {folder}", place.host),
            )
            .hint("a lock file does not say which folder; name it with --cwd DIR"))
        }
    }
}

/// What the plan was made from, if it makes this very plan again.
fn inputs(file: &Path, digest: &Digest) -> Result<String, Failure> {
    let inputs: bottle_planner::resolve::Inputs = crate::world::stored(file, "inputs of a plan")?;
    let made = bottle_planner::resolve::plan(&inputs.manifest, &inputs.spec, &inputs.snapshot)
        .map_err(Failure::from_plan)?;
    let found = bottle_planner::document::digest(&made)
        .map_err(|e| Failure::error("cannot digest the plan").because(&e))?;
    if found != *digest {
        return Err(Failure::error(format!(
            "{} makes plan {found}, expected {digest}",
            file.display()
        )));
    }
    super::pretty(&inputs)
}

#[cfg(test)]
mod tests {
    use bottle_planner::document::{Strictness, parse};

    use super::*;
    use crate::output::tests::printer;

    #[test]
    fn what_the_agent_is_asked_is_shown_before_the_question() {
        let text = include_str!("../../../golden/minimal/plan.json");
        let mut plan: Plan = parse(text, Strictness::Strict).unwrap().value;
        let summary = |plan: &Plan| {
            let (mut printer, sink) = printer(false);
            summarize(plan, &Sessions::of(Path::new("/nowhere")), &[], false, &mut printer);
            sink.text()
        };
        assert!(!summary(&plan).contains("It is asked"));
        plan.spec.task = Some(format!("fix it\u{1b}[2J\nthen{}", " more".repeat(1000)));
        plan.spec.args = vec!["--mcp-config".into(), "a b\u{202e}".into()];
        let told = summary(&plan);
        assert!(told.contains("It is asked: fix it\\u{1b}[2J\\u{a}then more"), "{told}");
        assert!(told.contains("… and 4615 characters more"), "{told}");
        assert!(told.contains(r#"arguments: "--mcp-config" "a b\u{202e}""#), "{told}");
        assert!(told.len() < 4000, "{told}");
        plan.intent = Intent::Destroy;
        assert!(!summary(&plan).contains("It is asked"));
    }
}
