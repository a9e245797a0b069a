//! Carrying out a plan that was approved: the part that `apply` and `destroy` share.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use bottle_executor::apply::{Applied, ApplyError, Cancel, Confirmed, Report, Request, apply};
use bottle_executor::engine::docker::Docker;
use bottle_executor::events::Event;
use bottle_executor::receipt::Outcome;
use bottle_executor::rollback::{RolledBack, rollback};
use bottle_executor::secrets::{MAX_BYTES, Missing, Prompter, Secret, Sources, available};
use bottle_executor::sources::host_config;
use bottle_executor::state::Roots;
use bottle_executor::tool::ToolBinary;
use bottle_executor::work::{SAVED, Saved};
use bottle_planner::escape::visible;
use bottle_planner::plan::{Effect, Operation, Plan, SecretRef};
use bottle_planner::resolve::owner_label;
use bottle_planner::words::{AbsPath, Digest, EnvName};
use chrono::{SecondsFormat, Utc};
use rustix::fs::{Access, access};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::live::Live;
use crate::load;
use crate::output::Printer;
use crate::own_binary;
use crate::terminal;
use crate::world;

/// What is carried out, and what a person said about it.
pub struct Job<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The very bytes that were checked.
    pub text: &'a str,
    /// Their digest.
    pub digest: &'a Digest,
    /// What the planner was given, if that is known.
    pub inputs: Option<&'a str>,
    /// Where things lie.
    pub roots: &'a Roots,
    /// The folder that may be brought in.
    pub workspace: Option<&'a AbsPath>,
    /// The word that work may be lost.
    pub confirmed: Option<&'a Confirmed>,
    /// Whether to undo the plan.
    pub rollback: bool,
    /// Whether secrets are delivered again.
    pub redeliver: bool,
    /// Whether events go to standard output as JSON.
    pub json: bool,
    /// Where values come from that nobody is asked for.
    pub secrets: &'a [SecretFd],
}

/// `NAME=fd:N`: the value of a variable, to be read from an open file descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFd {
    name: EnvName,
    fd: u32,
}

impl FromStr for SecretFd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (name, from) = text.split_once('=')?;
            let fd = from.strip_prefix("fd:")?.parse().ok()?;
            Some(Self { name: EnvName::new(name).ok()?, fd })
        };
        // What was given may be a value: it is not repeated.
        parse().ok_or_else(|| "expected NAME=fd:N".to_owned())
    }
}

/// Refuses, before anything is asked, what could not be carried out.
pub fn check(job: &Job<'_>) -> Result<(), Failure> {
    writable(&job.roots.root)?;
    let asked = |name: &EnvName| {
        job.plan.actions.iter().any(|action| match &action.op {
            Operation::Deliver(deliver) => deliver.items.values().any(
                |item| matches!(item, SecretRef::Prompt { name: wanted, .. } if wanted == name),
            ),
            _ => false,
        })
    };
    match job.secrets.iter().find(|secret| !asked(&secret.name)) {
        Some(secret) => {
            Err(Failure::usage(format!("the plan asks for no value of {}", secret.name)))
        }
        None => Ok(()),
    }
}

/// Says which secrets are missing, before anybody reads and approves what could not be done.
pub fn check_secrets(job: &Job<'_>, context: &Context) -> Result<(), Failure> {
    // What is wrong with the config was told when it was planned.
    let config = host_config(&job.roots.root.join("config.yaml")).config;
    let env = |name: &str| context.env.secret(name);
    let sources = Sources { config: &config.secrets, home: &job.roots.home, env: &env };
    let due = job.plan.actions.iter().filter(|action| action.effect != Effect::None);
    let wanted: BTreeSet<_> = due
        .flat_map(|action| match &action.op {
            Operation::Deliver(deliver) => deliver.items.values().collect(),
            _ => Vec::new(),
        })
        .filter_map(|item| match item {
            SecretRef::Secret { secret } => Some(secret),
            _ => None,
        })
        .collect();
    let missing = wanted.into_iter().filter_map(|secret| available(secret, &sources).err());
    let problems: Vec<Problem> = missing.map(of_secret).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure { exit: Exit::Stale, problems, again: false })
}

fn of_secret(missing: Missing) -> Problem {
    let hint = Some(missing.hint).filter(|hint| !hint.is_empty());
    let message = format!("secret {} is missing: {}", missing.name, missing.why);
    Problem { message, causes: Vec::new(), hint }
}

/// Whether the state root, or the folder it would be made in, can be written to.
fn writable(root: &Path) -> Result<(), Failure> {
    let there = root.ancestors().find(|folder| folder.exists()).unwrap_or(root);
    let right = if there.is_dir() {
        access(there, Access::WRITE_OK | Access::EXEC_OK)
    } else {
        Err(rustix::io::Errno::NOTDIR)
    };
    right.map_err(|error| {
        Failure::error(format!("cannot write to {}", there.display()))
            .because(&error)
            .hint("sessions keep their state there; BOTTLE_HOME names another folder")
    })
}

/// Carries out the plan and tells how it goes.
pub fn carry_out(job: &Job<'_>, context: &mut Context) -> Result<Exit, Failure> {
    let config = world::config(&mut context.printer, job.roots)?;
    let owner = owner_label(&world::host(job.roots)?);
    let env = context.env;
    let address = env.engine()?;
    let runtime = world::runtime()?;
    let engine = runtime
        .block_on(Docker::connect(address.as_deref()))
        .map_err(|error| world::engine_failure(&error))?
        .with_logins(env.logins()?);
    let own = own_binary::find(&job.roots.root)?;
    let tool = ToolBinary { digest: own.digest, path: own.path };
    let printer = RefCell::new(&mut context.printer);
    let cancel = Cancel::new();
    let begun = Notify::new();
    let mut prompter = Asker::new(&printer, job.secrets);
    let mut live = Live::new(&printer, job.json, job.rollback);
    let mut observer = |event: &Event| {
        if matches!(event, Event::PlanStart { .. }) {
            begun.notify_one();
        }
        live.tell(event);
    };
    let result = runtime.block_on(async {
        let request = Request {
            plan: job.plan,
            digest: job.digest,
            text: job.text,
            inputs: job.inputs,
            roots: job.roots,
            config: &config,
            owner: &owner,
            tool: &tool,
            workspace: job.workspace,
            confirmed: job.confirmed,
            redeliver: job.redeliver,
            env: &|name: &str| env.secret(name),
            prompter: &mut prompter,
            clock: &|| Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            cancel: &cancel,
        };
        let work = async {
            if job.rollback {
                rollback(&engine, request, &mut observer).await.map(Done::RolledBack)
            } else {
                apply(&engine, request, &mut observer).await.map(Done::Applied)
            }
        };
        // Before the first action Ctrl-C just ends the program: nothing was touched, and a
        // question for a secret must not swallow it.
        let interrupts = async {
            begun.notified().await;
            terminal::leave_signals();
            interrupted(&cancel, &printer).await
        };
        tokio::select! {
            biased;
            done = work => done.map_err(|error| told(error, job.plan)),
            failure = interrupts => Err(failure),
        }
    });
    live.end();
    drop(live);
    // A thread that still blocks must not keep the program from ending.
    runtime.shutdown_background();
    match result? {
        Done::Applied(applied) => report_applied(&applied, job, &mut context.printer),
        Done::RolledBack(back) => report_rolled_back(&back, &mut context.printer),
    }
}

enum Done {
    Applied(Applied),
    RolledBack(RolledBack),
}

/// Waits for Ctrl-C (or SIGTERM): the first asks to stop, the second ends all at once.
async fn interrupted(cancel: &Cancel, printer: &RefCell<&mut Printer>) -> Failure {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        // Without handlers a signal ends the program, which every apply survives.
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if cancel.is_set() {
            return Failure::new(Exit::Interrupted, "stopped in the middle of an action")
                .hint("apply the same plan again to carry on, or undo it with --rollback");
        }
        cancel.set();
        if let Ok(mut printer) = printer.try_borrow_mut() {
            printer.say("stopping after what is in flight; once more stops at once");
        }
    }
}

fn report_applied(
    applied: &Applied,
    job: &Job<'_>,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let identity = &job.plan.identity;
    match (&applied.archived, applied.receipt.outcome) {
        (Some(place), _) => {
            printer
                .say(&format!("Session {identity} has ended; its record is {}", place.display()));
            tell_saved(place, printer);
        }
        (None, Outcome::Verified) => {
            printer.say(&format!("Session {identity} is as the plan says; nothing was touched"));
        }
        (None, _) => printer.say(&format!("Session {identity} is as the plan says")),
    }
    Ok(Exit::Ok)
}

/// What is in the record of the agent's work, and what is not.
fn tell_saved(record: &Path, printer: &mut Printer) {
    let text = load::text(&record.join(SAVED).join("summary.json")).unwrap_or_default();
    let Ok(saved) = serde_json::from_str::<Saved>(&text) else { return };
    let mut parts = Vec::new();
    for (n, what) in [
        (saved.files, "changed files as work.patch"),
        (saved.commits, "commits as work.bundle"),
        (saved.transcript, "files of its transcript"),
    ] {
        if n > 0 {
            parts.push(format!("{n} {what}"));
        }
    }
    if !parts.is_empty() {
        printer.say(&format!("Its folder `{SAVED}` has {}", parts.join(", ")));
    }
    if saved.unpulled > 0 {
        printer.say(&format!("not pulled of these files: {}", saved.unpulled));
    }
    let large: Vec<String> = saved.left_out.iter().map(|line| visible(line)).collect();
    if !large.is_empty() {
        printer
            .say(&format!("left out: {}", large.join(", ").chars().take(400).collect::<String>()));
    }
}

fn report_rolled_back(back: &RolledBack, printer: &mut Printer) -> Result<Exit, Failure> {
    printer.say(&format!("{} undone, {} brought back", back.undone.len(), back.restored.len()));
    for kept in &back.kept {
        printer.warn(&format!("{} was left: {}", kept.action, kept.why));
    }
    match &back.returned_to {
        Some(plan) => printer.say(&format!("The plan last applied is {plan} again")),
        None => printer.say("No plan is applied to this session any more"),
    }
    Ok(if back.kept.is_empty() { Exit::Ok } else { Exit::Partial })
}

/// An apply's error as it is told.
pub fn told(error: ApplyError, plan: &Plan) -> Failure {
    let code = error.exit_code();
    let stale = error.is_stale();
    let exit = Exit::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Exit::Bug);
    let replan = format!("plan again: `bottle plan --identity {}`", plan.identity);
    let problem = |message: String, hint: String| Problem {
        message,
        causes: Vec::new(),
        hint: Some(hint).filter(|hint| !hint.is_empty()),
    };
    let failure = match error {
        ApplyError::Stale { findings } => {
            let problems = findings.iter().map(|f| problem(f.to_string(), String::new())).collect();
            Failure { exit, problems, again: true }.hint(replan)
        }
        ApplyError::RequirementsFailed { unmet } => {
            let problems = unmet.iter().map(|u| problem(u.to_string(), u.hint.clone())).collect();
            Failure { exit, problems, again: true }
        }
        ApplyError::SecretsMissing(missing) => {
            let problems = missing.0.into_iter().map(of_secret).collect();
            Failure { exit, problems, again: false }
        }
        ApplyError::Engine(error) => world::engine_failure(&error),
        ApplyError::Partial(report) => stopped(exit, "partly applied", &report),
        ApplyError::Interrupted(report) => stopped(exit, "interrupted", &report),
        error => Failure::from_error(exit, &error),
    };
    Failure { again: failure.again || stale, ..failure }
}

/// What was done, what failed and why, and what was not begun.
fn stopped(exit: Exit, what: &str, report: &Report) -> Failure {
    let list = |ids: &[bottle_planner::plan::ActionId]| {
        let ids: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
        if ids.is_empty() { "nothing".to_owned() } else { ids.join(", ") }
    };
    let mut failure = Failure::silent(exit);
    for failed in &report.failed {
        failure.problems.extend(Failure::from_error(exit, failed).problems);
    }
    let summary = Problem {
        message: format!(
            "{what}: {} done, {} failed, {} not begun",
            report.done.len(),
            report.failed.len(),
            report.not_begun.len()
        ),
        causes: Vec::new(),
        hint: Some(format!(
            "done: {}\nnot begun: {}\napply the same plan again to carry on, or undo it with \
             --rollback",
            list(&report.done),
            list(&report.not_begun)
        )),
    };
    failure.problems.push(summary);
    failure
}

/// Answers for secrets: from the descriptors that were given, else from a person.
struct Asker<'a, 'p> {
    printer: &'a RefCell<&'p mut Printer>,
    given: BTreeMap<EnvName, u32>,
}

impl<'a, 'p> Asker<'a, 'p> {
    fn new(printer: &'a RefCell<&'p mut Printer>, secrets: &[SecretFd]) -> Self {
        let given = secrets.iter().map(|secret| (secret.name.clone(), secret.fd)).collect();
        Self { printer, given }
    }
}

impl Prompter for Asker<'_, '_> {
    fn ask(&mut self, name: &EnvName, message: &str) -> Option<Secret> {
        let mut printer = self.printer.borrow_mut();
        if let Some(fd) = self.given.get(name) {
            return match from_descriptor(*fd) {
                Ok(secret) => Some(secret),
                Err(error) => {
                    printer.warn(&format!("cannot read {name} from descriptor {fd}: {error}"));
                    None
                }
            };
        }
        if !printer.is_interactive() {
            return None;
        }
        let message = if message.is_empty() { name.as_str() } else { message };
        let question = format!("{} ({name}): ", visible(message));
        let mut typed = terminal::read_hidden(|| printer.ask(&question)).ok()?;
        Some(Secret::new(std::mem::take(&mut typed).into_bytes()))
            .filter(|s| !s.expose().is_empty())
    }
}

/// Reads a value, less one trailing newline.
fn from_descriptor(fd: u32) -> std::io::Result<Secret> {
    let file = File::open(format!("/proc/self/fd/{fd}"))?;
    // Room for all of it: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 2));
    file.take(MAX_BYTES as u64 + 2).read_to_end(&mut bytes)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.len() > MAX_BYTES {
        return Err(std::io::Error::other("it has more than 1 MiB"));
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_named_and_values_are_not_repeated() {
        let secret: SecretFd = "TOKEN=fd:3".parse().unwrap();
        assert_eq!((secret.name.as_str(), secret.fd), ("TOKEN", 3));
        for wrong in ["TOKEN", "TOKEN=hunter2", "TOKEN=fd:x", "=fd:3", "TOKEN=fd:-1"] {
            assert_eq!(wrong.parse::<SecretFd>().unwrap_err(), "expected NAME=fd:N");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let failure = writable(&file.join("root")).unwrap_err();
        assert_eq!(failure.to_string(), format!("cannot write to {}", file.display()));
        writable(&folder.path().join("not/there/yet")).unwrap();
    }

    #[test]
    fn values_from_descriptors() {
        use std::io::{Seek as _, Write as _};
        use std::os::fd::AsRawFd as _;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"value\n\n").unwrap();
        file.rewind().unwrap();
        let fd = u32::try_from(file.as_raw_fd()).unwrap();
        assert_eq!(from_descriptor(fd).unwrap().expose(), b"value\n");
        assert!(from_descriptor(999_999).is_err());
    }
}
