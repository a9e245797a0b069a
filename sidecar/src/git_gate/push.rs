//! One push, from the hook's question to the answer: may these refs be written, what is new, is it
//! clean, does upstream take it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bottle_planner::decision::{Code, Excepted, Outcome, Push, PushFinding, RefUpdate};
use bottle_planner::sidecar::SUPERVISE_URL;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::interval;

use super::ask::{Answer, Update, send};
use super::exceptions::{Exceptions, UseError, Used, sort_out};
use super::forward::{Forwarded, forward};
use super::git::run;
use super::keys::Keys;
use super::mirror::Mirror;
use super::objects::{Kind, Object, ObjectsError, new_objects};
use super::refs::{Change, judge};
use super::scan::{Found, MOST_FINDINGS, Scan, rule, short};

/// How often a long scan says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) quarantine: Option<PathBuf>,
    pub(super) updates: Vec<Update>,
}

/// What is answered, and logged.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) code: Code,
    /// In one clause.
    pub(super) reason: String,
    /// The whole of it, for the agent.
    pub(super) lines: Vec<String>,
    pub(super) push: Push,
}

impl Verdict {
    fn refuse(push: Push, code: Code, reason: String) -> Self {
        let lines = vec![format!("bottle: the push is refused: {reason}")];
        Self { outcome: Outcome::Refuse, code, reason, lines, push }
    }
}

/// Looks at a push as far as that goes without upstream, and tells the agent how far it is.
pub(super) async fn look(
    mirror: &Arc<Mirror>,
    keys: &Arc<Keys>,
    exceptions: &Arc<Exceptions>,
    asked: &Asked,
    agent: &mut UnixStream,
) -> Result<Push, Box<Verdict>> {
    let progress = Arc::new(Progress::default());
    let looked = spawn_blocking({
        let (mirror, keys, asked) = (Arc::clone(mirror), Arc::clone(keys), asked.clone());
        let (progress, exceptions) = (Arc::clone(&progress), Arc::clone(exceptions));
        move || look_blocking(&mirror, &keys, &exceptions, &asked, &progress)
    });
    tokio::pin!(looked);
    let mut tick = interval(SAY_EVERY);
    tick.tick().await;
    loop {
        tokio::select! {
            done = &mut looked => {
                return match done {
                    Ok(looked) => looked,
                    Err(_) => Err(Box::new(broke_off(mirror, asked, "the scan broke off"))),
                };
            }
            _ = tick.tick() => {
                if let Some(line) = progress.line() {
                    // A hook that is gone is noticed where it matters.
                    let _ = send(agent, &Answer::Say { line }).await;
                }
            }
        }
    }
}

/// Hands a push on to upstream that is clean, or whose findings a person lets through.
pub(super) async fn pass_on(
    mirror: &Arc<Mirror>,
    exceptions: &Arc<Exceptions>,
    asked: &Asked,
    push: Push,
) -> Verdict {
    mirror.connected().await;
    let ids: BTreeSet<String> = push.excepted.iter().map(|e| e.exception.clone()).collect();
    let forwarded = spawn_blocking({
        let (mirror, asked, exceptions) =
            (Arc::clone(mirror), asked.clone(), Arc::clone(exceptions));
        move || -> Result<_, UseError> {
            let used = exceptions.use_up(&ids)?;
            Ok(forward_or_give_back(&mirror, &asked, used))
        }
    });
    let name = &mirror.name;
    match forwarded.await {
        Ok(Ok(Ok(done))) if done.ok => {
            let mut lines = done.words;
            lines.extend(push.excepted.iter().map(|excepted| {
                format!("{}: let through once by a person", told(&excepted.finding))
            }));
            lines.push(format!("bottle: {} and passed on to {name}", counted(&push)));
            let (outcome, reason) = match push.excepted.len() {
                0 => (Outcome::Allow, String::new()),
                n => (Outcome::Warn, format!("{} let through once by a person", findings(n))),
            };
            Verdict { outcome, code: Code::Granted, reason, lines, push }
        }
        Ok(Ok(Ok(done))) => {
            let reason = done.words.last().cloned().unwrap_or_else(|| "it does not say why".into());
            let mut lines = done.words;
            lines.push(format!("bottle: {name} does not take the push; nothing was changed there"));
            if !push.excepted.is_empty() {
                lines.push(
                    "bottle: what a person lets through once may still be pushed once".into(),
                );
            }
            Verdict { outcome: Outcome::Failed, code: Code::Upstream, reason, lines, push }
        }
        Ok(Ok(Err(error))) => Verdict::refuse(unexcepted(push), Code::Limit, error),
        Ok(Err(UseError::Taken)) => {
            let push = unexcepted(push);
            let may_ask = exceptions.supervised;
            Leak { count: push.findings.len(), waiting: Vec::new(), cut: false, may_ask }
                .refuse(push)
        }
        Ok(Err(error)) => Verdict::refuse(unexcepted(push), Code::Limit, error.to_string()),
        // How far it got is not known: what was used stays used.
        Err(_) => Verdict::refuse(unexcepted(push), Code::Limit, "passing it on broke off".into()),
    }
}

/// Whatever upstream does not take lets nothing be used up.
fn forward_or_give_back(
    mirror: &Mirror,
    asked: &Asked,
    mut used: Used,
) -> Result<Forwarded, String> {
    let forwarded = forward(mirror, asked.quarantine.as_deref(), &asked.updates);
    if !forwarded.as_ref().is_ok_and(|done| done.ok) {
        used.give_back();
    }
    forwarded
}

/// A push that is refused: what would have been let through is what was found, like all else.
fn unexcepted(mut push: Push) -> Push {
    push.findings.extend(push.excepted.drain(..).map(|excepted| excepted.finding));
    push
}

/// A verdict on a push of which nothing is known.
pub(super) fn broke_off(mirror: &Mirror, asked: &Asked, why: &str) -> Verdict {
    Verdict::refuse(record(mirror, asked, |name| name.to_owned()), Code::Limit, why.to_owned())
}

fn record(mirror: &Mirror, asked: &Asked, shown: impl Fn(&str) -> String) -> Push {
    let refs = asked.updates.iter().map(|update| {
        let change = update.change();
        RefUpdate {
            name: shown(&update.name),
            old: (change != Change::Create).then(|| update.old.clone()),
            new: (change != Change::Delete).then(|| update.new.clone()),
        }
    });
    Push { remote: mirror.name.to_string(), refs: refs.collect(), ..Push::default() }
}

fn look_blocking(
    mirror: &Mirror,
    keys: &Keys,
    exceptions: &Exceptions,
    asked: &Asked,
    progress: &Progress,
) -> Result<Push, Box<Verdict>> {
    let begun = Instant::now();
    let quarantine = asked.quarantine.as_deref();
    let detector = match keys.detector() {
        Ok(detector) => detector,
        Err(error) => return Err(Box::new(broke_off(mirror, asked, &error))),
    };
    let tips: Vec<&str> = asked
        .updates
        .iter()
        .filter(|update| update.change() != Change::Delete)
        .map(|update| update.new.as_str())
        .collect();
    let passing = keys.passing(&mirror.name);
    let (tips, done, bases) = (tips.as_slice(), &progress.done, OnceLock::new());
    let cut = AtomicBool::new(false);
    let scan = Scan { mirror, quarantine, tips, detector, passing, done, bases, cut };
    let mut push = record(mirror, asked, |name| scan.shown(name));
    let refuse = |mut push: Push, code, reason| {
        push.millis = millis(begun);
        Err(Box::new(Verdict::refuse(push, code, reason)))
    };

    for (update, shown) in asked.updates.iter().zip(push.refs.clone()) {
        if !update.is_well_formed() {
            let reason = format!("{}: its name or an id is none to git", shown.name);
            return refuse(push, Code::Malformed, reason);
        }
        let descends = || descends(mirror, quarantine, &update.old, &update.new);
        if let Err(reason) = judge(update, &mirror.remote.push, descends) {
            return refuse(push, Code::GitPush, format!("{}: {reason}", shown.name));
        }
        if let Some(finding) = scan.text(&update.name).first() {
            let reason = format!("the name of ref {} matches {}", shown.name, rule(&finding.what));
            return refuse(push, Code::Leak, reason);
        }
    }

    let objects = match new_objects(mirror, quarantine, tips) {
        Ok(objects) => objects,
        Err(ObjectsError::Refused(reason)) => return refuse(push, Code::Limit, reason),
        Err(error) => return refuse(push, Code::Malformed, error.to_string()),
    };
    push.objects = objects.len() as u64;
    push.bytes = objects.iter().map(|object| object.size).sum();
    progress.all.store(push.bytes, Ordering::Relaxed);
    let found = match scan.objects(&objects) {
        Ok(found) => found,
        Err(error) => {
            return refuse(push, Code::Limit, format!("it cannot be looked into: {error}"));
        }
    };
    push.millis = millis(begun);
    let cut = scan.cut.load(Ordering::Relaxed);
    match (found.is_empty(), cut) {
        (true, false) => return Ok(push),
        // What was left out was left out for something: clean is only what was looked into.
        (true, true) => return refuse(push, Code::Limit, "not all of it was looked into".into()),
        (false, _) => {}
    }
    let (through, stopped) = sort_out(found, &exceptions.unused(&mirror.name));
    let tell = |found: &Found| tell(&scan, &objects, found);
    if stopped.is_empty() && !cut {
        let tell = |(exception, found)| Excepted { exception, finding: tell(&found) };
        push.excepted = through.into_iter().map(tell).collect();
        return Ok(push);
    }
    let through = through.into_iter().map(|(_, found)| found);
    // With more in it than was looked for, nothing of it is let through.
    let (stopped, waiting) = if cut {
        (stopped.into_iter().chain(through).collect(), Vec::new())
    } else {
        (stopped, through.collect())
    };
    push.findings = stopped.iter().take(MOST_FINDINGS).map(tell).collect();
    let leak = Leak {
        count: stopped.len(),
        waiting: waiting.iter().take(MOST_FINDINGS).map(tell).collect(),
        cut,
        may_ask: exceptions.supervised && !cut && !stopped.iter().any(Found::is_limit),
    };
    Err(Box::new(leak.refuse(push)))
}

/// Which commit brings a finding.
fn tell(scan: &Scan<'_>, objects: &[Object], found: &Found) -> PushFinding {
    let kind = objects.iter().find(|object| object.id == found.object).map(|o| o.kind);
    PushFinding {
        rule: found.rule.clone(),
        place: found.place.clone(),
        line: found.line,
        commit: scan.commit(&found.object, kind.unwrap_or(Kind::Blob)),
        fingerprint: found.fingerprint(),
    }
}

/// A refusal for what was found.
struct Leak {
    /// How much that is; told are those that are the push's findings.
    count: usize,
    /// What a person lets through, once nothing else stops the push.
    waiting: Vec<PushFinding>,
    /// Whether there may be more.
    cut: bool,
    /// Whether the agent can ask for an exception, and one could help.
    may_ask: bool,
}

impl Leak {
    fn refuse(self, push: Push) -> Verdict {
        let reason =
            format!("{} of the leak scan in what upstream does not have", findings(self.count));
        let mut lines = vec![format!("bottle: the push is refused: {reason}")];
        lines.extend(push.findings.iter().map(told));
        if self.count > push.findings.len() {
            lines.push(format!("bottle:   and {} more", self.count - push.findings.len()));
        }
        let waits = |finding| {
            format!("{}: let through once by a person, when the rest is gone", told(finding))
        };
        lines.extend(self.waiting.iter().map(waits));
        if self.cut {
            lines.push(
                "bottle: there may be more, and with so many nobody can let them through.".into(),
            );
        }
        lines.push(
            "bottle: nothing was sent. Take it out of the commit that brings it; one more commit on \
             top still sends it."
                .into(),
        );
        if let Some(first) = push.findings.first().filter(|_| self.may_ask) {
            lines.push(format!(
                "bottle: If it is no secret, ask for it to be let through once: call the tool \
                 `request-push-exception` of the MCP server `bottle` at {SUPERVISE_URL}, for each \
                 finding in [brackets], with {{\"remote\": \"{}\", \"finding\": \"{}\", \
                 \"justification\": \"why it is no secret\"}}.",
                push.remote, first.fingerprint
            ));
        }
        Verdict { outcome: Outcome::Refuse, code: Code::Leak, reason, lines, push }
    }
}

fn findings(count: usize) -> String {
    match count {
        1 => "1 finding".into(),
        n => format!("{n} findings"),
    }
}

/// The line of one finding.
fn told(finding: &PushFinding) -> String {
    let PushFinding { rule, place, line, commit, fingerprint } = finding;
    let line = line.map_or(String::new(), |line| format!(", line {line}"));
    let commit = commit.as_ref().map_or(String::new(), |id| format!(", commit {}", short(id)));
    format!("bottle:   {place}{line}: {rule}{commit} [{fingerprint}]")
}

fn descends(mirror: &Mirror, quarantine: Option<&Path>, old: &str, new: &str) -> bool {
    let mut command = mirror.git.at(&mirror.folder, quarantine);
    command.args(["merge-base", "--is-ancestor", old, new]);
    run(&mut command, Vec::new(), 0).is_ok_and(|done| done.ok)
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn counted(push: &Push) -> String {
    match push.objects {
        0 => "nothing new in it".into(),
        1 => "1 object looked into".into(),
        n => format!("{n} objects looked into"),
    }
}

/// How far a scan is, in bytes.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    all: AtomicU64,
}

impl Progress {
    fn line(&self) -> Option<String> {
        let (done, all) = (self.done.load(Ordering::Relaxed), self.all.load(Ordering::Relaxed));
        (all > 0).then(|| format!("bottle: {} of {} MB looked into", done >> 20, all >> 20))
    }
}
