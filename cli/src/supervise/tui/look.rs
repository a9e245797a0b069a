//! What the screen shows of the world: what approving would change, and what runs. On threads of
//! their own, since an engine may take its time, and heard by nobody, since the screen is drawn on.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant, SystemTime};

use bottle_executor::state::{PLAN, Roots};
use bottle_planner::diff::diff;
use bottle_planner::facts::rule_text;
use bottle_planner::plan::Plan;
use bottle_planner::show;
use bottle_planner::words::{Identity, Role};

use super::model::{Bottle, Event, Shown, Wanted};
use super::text;
use crate::args::ManifestArgs;
use crate::commands::blocked::{self, Refused};
use crate::commands::diff::unified;
use crate::commands::list::{self, Row};
use crate::commands::{pretty, supervise};
use crate::context::Context;
use crate::decision_log::folder;
use crate::env::Env;
use crate::failure::Failure;
use crate::output::Printer;
use crate::plan_file::PlanText;
use crate::sessions::Sessions;
use crate::supervise::pending::Found;
use crate::supervise::seen::{Effect, Seen};

/// How often it is looked what waits.
const PAUSE: Duration = Duration::from_millis(250);
/// How often it is looked what runs: the engine is asked.
const BETWEEN: Duration = Duration::from_secs(2);
/// As many kinds of refusals are shown of one bottle.
const REFUSALS: usize = 3;

/// Tells what waits, whenever it is something else.
pub fn watch(roots: Roots, tell: Sender<Event>) {
    spawn(move || {
        let mut before = None;
        loop {
            let (now, event) = match Found::of(&roots) {
                Ok(Found { pending, broken, .. }) => {
                    let keys: Vec<_> =
                        pending.iter().map(|p| (p.session.clone(), p.proposal.digest())).collect();
                    (Ok((keys, broken.clone())), Event::Found { pending, broken })
                }
                Err(failure) => (Err(told(&failure)), Event::Told(told(&failure))),
            };
            if before.as_ref() != Some(&now) {
                if tell.send(event).is_err() {
                    return;
                }
                before = Some(now);
            }
            sleep(PAUSE);
        }
    });
}

/// Looks at what is asked for, and now and then at what runs.
pub fn look(env: Env, wanted: Receiver<Wanted>, tell: Sender<Event>) {
    spawn(move || {
        let mut context = Context { env, printer: Printer::unheard() };
        let mut refusals = Refusals::default();
        let mut next = Instant::now() + BETWEEN / 4;
        loop {
            let event = match wanted.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    // Whoever moves down a list wants the last one.
                    let last = wanted.try_iter().last().unwrap_or(first);
                    let shown = shown(&last, &mut context).map_err(|failure| told(&failure));
                    Event::Looked(Box::new(last), shown)
                }
                Err(RecvTimeoutError::Timeout) => {
                    let found = bottles(&mut refusals, &mut context);
                    next = Instant::now() + BETWEEN;
                    Event::Bottles(found.map_err(|failure| text::line(&told(&failure))))
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if tell.send(event).is_err() {
                return;
            }
        }
    });
}

/// A failure on one line, with what to do about it.
pub fn told(failure: &Failure) -> String {
    let hint = failure.problems.first().and_then(|problem| problem.hint.as_deref());
    let hint = hint.map_or(String::new(), |hint| format!(" ({hint})"));
    failure.chain() + &hint
}

fn shown(wanted: &Wanted, context: &mut Context) -> Result<Shown, Failure> {
    let seen = Seen::look(&wanted.pending, &wanted.ask, context)?;
    let change = text::lines(&supervise::change(&seen));
    let full = match &seen.effect {
        Effect::InPlace(amended) => {
            let (before, after) = (&seen.applied, &amended.plan);
            let text = unified(&pretty(before)?, &pretty(after)?, |_, line| line.to_owned());
            let full = show::diff_human(&diff(before, after)) + "\nThe plan's text:\n" + &text;
            text::lines(&full)
        }
        Effect::Image { .. } | Effect::Nothing => change.clone(),
    };
    let words = text::line(&seen.ask.words());
    let keeps = seen.widening().is_some();
    Ok(Shown { digest: seen.digest, change, full, keeps, words })
}

fn bottles(refusals: &mut Refusals, context: &mut Context) -> Result<Vec<Bottle>, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let sessions = Sessions::of(&roots.root);
    let rows = list::rows(false, context)?;
    let bottle = |row: Row| {
        let plan = PlanText::of_session(row.session.as_str(), &sessions)?.lenient()?;
        let refused = refusals.of(&row, &sessions)?;
        let (routes, state) = (routes(&plan), row.state());
        Ok(Bottle { session: row.session, state, routes, refused })
    };
    rows.into_iter().filter(Row::is_running).map(bottle).collect()
}

/// What a bottle may reach, a line each.
fn routes(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for (host, route) in &plan.grants.egress.routes {
        let at = format!("{host}:{}", route.port);
        if route.allow.is_empty() {
            lines.push(text::line(&at));
        }
        for rule in &route.allow {
            lines.push(text::line(&format!("{at} {}", rule_text(rule))));
        }
    }
    lines
}

/// When files were last written, and how long they are.
type Stamp = Vec<Option<(SystemTime, u64)>>;

/// What bottles were refused, read again only where a log or the plan is another: logs are long.
#[derive(Default)]
struct Refusals(BTreeMap<Identity, (Stamp, Vec<String>)>);

impl Refusals {
    fn of(&mut self, row: &Row, sessions: &Sessions) -> Result<Vec<String>, Failure> {
        let record = row.record(sessions);
        let log = folder(&record.folder, Role::Egress);
        let files =
            [log.join("decisions.1.jsonl"), log.join("decisions.jsonl"), record.folder.join(PLAN)];
        let stamp = |file: &std::path::PathBuf| {
            let found = file.symlink_metadata().ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        let stamp: Stamp = files.iter().map(stamp).collect();
        if let Some((before, lines)) = self.0.get(&row.session)
            && *before == stamp
        {
            return Ok(lines.clone());
        }
        let mut kinds = Refused::read(&record)?.kinds;
        kinds.retain(|kind| !kind.allowed_now);
        kinds.sort_by(|a, b| b.group.last.cmp(&a.group.last));
        let line = |kind: &blocked::Kind| {
            let times = match kind.group.count {
                1 => String::new(),
                n => format!(" ×{n}"),
            };
            text::line(&format!("{}{times}", blocked::asked(&kind.group)))
        };
        let lines: Vec<String> = kinds.iter().take(REFUSALS).map(line).collect();
        self.0.insert(row.session.clone(), (stamp, lines.clone()));
        Ok(lines)
    }
}
