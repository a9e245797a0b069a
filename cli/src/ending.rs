//! How an agent ended, put together from what the engine says, what its init wrote, and whether
//! somebody stopped it.

use std::io::Read as _;
use std::path::Path;

use bottle_executor::engine::console::Ending;
use bottle_executor::files::Root;
use bottle_executor::state::STOPPED;
use bottle_planner::ending::{ENDED, Ended, How, Known, how};
use bottle_planner::words::{Identity, RelPath, Role};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::decision_log;

/// The most bytes of what an init writes down.
const MOST: u64 = 64 << 10;

/// How an agent ended that does not run. `record` is the session's folder, live or in history.
#[must_use]
pub fn of_agent(record: &Path, engine: Option<&Ending>) -> (How, Option<i64>) {
    let ended = written(record);
    let stopped = match (time(record, STOPPED), engine) {
        // Since it was last started.
        (Some(stop), Some(ending)) => {
            DateTime::parse_from_rfc3339(&ending.started_at).is_ok_and(|started| stop >= started)
        }
        (Some(_), None) => true,
        (None, _) => false,
    };
    let code = engine.map(|ending| ending.code);
    let known = Known {
        code,
        out_of_memory: engine.is_some_and(|ending| ending.out_of_memory),
        stopped,
        ended,
    };
    let code = code.or_else(|| known.ended.as_ref().map(|ended| i64::from(ended.code)));
    (how(&known), code)
}

/// What the init wrote. The agent can write there, too: anything may be there.
fn written(record: &Path) -> Option<Ended> {
    let path = decision_log::folder(record, Role::Agent).join(ENDED);
    serde_json::from_str(&bounded(&path)?).ok()
}

fn time(record: &Path, name: &str) -> Option<DateTime<Utc>> {
    let text = bounded(&record.join(name))?;
    DateTime::parse_from_rfc3339(text.trim()).ok().map(|at| at.to_utc())
}

/// A small file's text, no link followed.
fn bounded(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    decision_log::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// Remembers that a person stops a session now. Best effort: a session can be stopped though its
/// folder cannot be written to.
pub fn note_stop(state_root: &Path, identity: &Identity) {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let path = RelPath::new(format!("state/{identity}/{STOPPED}"));
    if let (Ok(Some(root)), Ok(path)) = (Root::open(state_root), path) {
        let _ = root.write(&path, now.as_bytes(), 0o600, None);
    }
}
