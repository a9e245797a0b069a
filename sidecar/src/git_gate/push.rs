//! One push, from the hook's question to the answer: may these refs be written, what is new, is it
//! clean, does upstream take it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bottle_planner::decision::{Code, Outcome, Push, PushFinding, RefUpdate};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::interval;

use super::ask::{Answer, Update, send};
use super::forward::forward;
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

/// What was looked at and is clean.
struct Clean {
    push: Push,
}

/// Looks at a push as far as that goes without upstream, and tells the agent how far it is.
pub(super) async fn look(
    mirror: &Arc<Mirror>,
    keys: &Arc<Keys>,
    asked: &Asked,
    agent: &mut UnixStream,
) -> Result<Push, Box<Verdict>> {
    let progress = Arc::new(Progress::default());
    let looked = spawn_blocking({
        let (mirror, keys, asked) = (Arc::clone(mirror), Arc::clone(keys), asked.clone());
        let progress = Arc::clone(&progress);
        move || look_blocking(&mirror, &keys, &asked, &progress)
    });
    tokio::pin!(looked);
    let mut tick = interval(SAY_EVERY);
    tick.tick().await;
    loop {
        tokio::select! {
            done = &mut looked => {
                return match done {
                    Ok(Ok(clean)) => Ok(clean.push),
                    Ok(Err(verdict)) => Err(verdict),
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

/// Hands a clean push on to upstream.
pub(super) async fn pass_on(mirror: &Arc<Mirror>, asked: &Asked, push: Push) -> Verdict {
    mirror.connected().await;
    let forwarded = spawn_blocking({
        let (mirror, asked) = (Arc::clone(mirror), asked.clone());
        move || forward(&mirror, asked.quarantine.as_deref(), &asked.updates)
    });
    let name = &mirror.name;
    match forwarded.await {
        Ok(Ok(done)) if done.ok => {
            let mut lines = done.words;
            lines.push(format!("bottle: {} and passed on to {name}", counted(&push)));
            Verdict {
                outcome: Outcome::Allow,
                code: Code::Granted,
                reason: String::new(),
                lines,
                push,
            }
        }
        Ok(Ok(done)) => {
            let reason = done.words.last().cloned().unwrap_or_else(|| "it does not say why".into());
            let mut lines = done.words;
            lines.push(format!("bottle: {name} does not take the push; nothing was changed there"));
            Verdict { outcome: Outcome::Failed, code: Code::Upstream, reason, lines, push }
        }
        Ok(Err(error)) => Verdict::refuse(push, Code::Limit, error),
        Err(_) => Verdict::refuse(push, Code::Limit, "passing it on broke off".into()),
    }
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
    asked: &Asked,
    progress: &Progress,
) -> Result<Clean, Box<Verdict>> {
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
    let scan = Scan { mirror, quarantine, tips, detector, passing, done, bases };
    let mut push = record(mirror, asked, |name| scan.shown(name));
    let refuse = |mut push: Push, code, reason| {
        push.millis = millis(begun);
        Err(Box::new(Verdict::refuse(push, code, reason)))
    };

    for (update, shown) in asked.updates.iter().zip(push.refs.clone()) {
        if !update.is_well_formed() {
            return refuse(push, Code::Malformed, "an id is none".into());
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
    if found.is_empty() {
        return Ok(Clean { push });
    }
    push.findings = tell(&scan, &objects, &found);
    Err(Box::new(leak(push, found.len())))
}

/// Which commit brings each finding, for as many as are told.
fn tell(scan: &Scan<'_>, objects: &[Object], found: &[Found]) -> Vec<PushFinding> {
    let told = found.iter().take(MOST_FINDINGS).map(|found| {
        let kind = objects.iter().find(|object| object.id == found.object).map(|o| o.kind);
        PushFinding {
            rule: found.rule.clone(),
            place: found.place.clone(),
            line: found.line,
            commit: scan.commit(&found.object, kind.unwrap_or(Kind::Blob)),
            fingerprint: found.fingerprint(),
        }
    });
    told.collect()
}

fn leak(push: Push, count: usize) -> Verdict {
    let findings = if count == 1 { "1 finding" } else { "findings" };
    let number = if count == 1 { String::new() } else { format!("{count} ") };
    let reason = format!("{number}{findings} of the leak scan in what upstream does not have");
    let mut lines = vec![format!("bottle: the push is refused: {reason}")];
    for PushFinding { rule, place, line, commit, fingerprint } in &push.findings {
        let line = line.map_or(String::new(), |line| format!(", line {line}"));
        let commit = commit.as_ref().map_or(String::new(), |id| format!(", commit {}", short(id)));
        lines.push(format!("bottle:   {place}{line}: {rule}{commit} [{fingerprint}]"));
    }
    if count > push.findings.len() {
        lines.push(format!("bottle:   and {} more", count - push.findings.len()));
    }
    lines.push(
        "bottle: nothing was sent. Take it out of the commit that brings it; one more commit on \
         top still sends it."
            .into(),
    );
    Verdict { outcome: Outcome::Refuse, code: Code::Leak, reason, lines, push }
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
