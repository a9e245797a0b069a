//! The ledger of a session on disk: `ledger.json`, brought up to date from the journal where an
//! apply was cut short.

use bottle_planner::document;
use bottle_planner::plan::ActionId;
use bottle_planner::words::{Digest, RelPath};

use crate::files::{FileError, Root};
use crate::journal::{self, JournalError, Note, Record, Step};
use crate::state::{LEDGER, Ledger, PLAN, PREVIOUS_PLAN};

/// The folder below the state folder that holds what the plan in force replaced: contents of
/// files under their digest, and the executor's own files under their names.
pub const BACKUP: &str = "backup";
/// Written by the executor alone into every `<role>/in`: the digest of the plan in force.
pub const APPLIED: &str = "applied.json";

/// Why a ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It is damaged, and so nothing is known of what the executor left.
    #[error("expected a ledger in {}, found something else: {why}", path.display())]
    Malformed {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Reads the ledger of a state folder; `None` where nothing was ever applied. Blocks.
///
/// Where an apply was cut short, what its journal says was done is added.
pub fn load(state: &Root) -> Result<Option<Ledger>, LedgerError> {
    let Some(content) = state.read(&own(LEDGER)?)? else { return Ok(None) };
    let malformed = |why: String| LedgerError::Malformed { path: state.path().join(LEDGER), why };
    let mut ledger: Ledger =
        serde_json::from_slice(&content.bytes).map_err(|e| malformed(e.to_string()))?;
    if let (Some(plan), false) = (ledger.plan.clone(), ledger.complete) {
        let mut records = journal::read(state)?;
        records.retain(|record| record.plan == plan);
        // What was undone does not count any more, nor what was done before that.
        let from = records.iter().rposition(|r| r.event == Step::Undone).map_or(0, |at| at + 1);
        for record in &records[from..] {
            replay(state, &mut ledger, record)?;
        }
    }
    Ok(Some(ledger))
}

/// Writes the ledger, atomically. Blocks.
pub fn store(state: &Root, ledger: &Ledger) -> Result<(), LedgerError> {
    let text = document::pretty(ledger).map_err(|e| LedgerError::Malformed {
        path: state.path().join(LEDGER),
        why: e.to_string(),
    })?;
    state.write(&own(LEDGER)?, text.as_bytes(), 0o600, None)?;
    Ok(())
}

/// The stored plan of this digest, as text. Blocks.
///
/// Between the moment a plan is stored and the moment the ledger names it, `plan.json` is the
/// newer of the two: so the digest decides, never the file's name.
pub fn plan_text(state: &Root, plan: &Digest) -> Result<Option<String>, LedgerError> {
    let kept = format!("{BACKUP}/{PREVIOUS_PLAN}");
    for name in [PLAN, PREVIOUS_PLAN, kept.as_str()] {
        let Some(content) = state.read(&own(name)?)? else { continue };
        let Ok(text) = String::from_utf8(content.bytes) else { continue };
        let found = document::parse::<serde_json::Value>(&text, document::Strictness::Lenient);
        if found.is_ok_and(|found| found.digest == *plan) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// What a note does to the ledger.
pub(crate) fn note(ledger: &mut Ledger, action: &ActionId, note: &Note) {
    match note {
        Note::Wrote { path, digest } => {
            ledger.files.insert(path.clone(), digest.clone());
        }
        Note::Removed { path } => {
            ledger.files.remove(path);
        }
        Note::Minted { .. } => {}
        Note::Uploaded { container, digest } => {
            ledger.uploaded.insert(action.0.clone(), (container.clone(), digest.clone()));
        }
        Note::Delivered { role, container, started_at } => {
            ledger.delivered.insert(*role, (container.clone(), started_at.clone()));
        }
        Note::Loaded { role, container, started_at, digest } => {
            let loaded = (container.clone(), started_at.clone(), digest.clone());
            ledger.loaded.insert(*role, loaded);
        }
        Note::Gone { container } => {
            ledger.uploaded.retain(|_, (id, _)| id != container);
            ledger.delivered.retain(|_, (id, _)| id != container);
            ledger.loaded.retain(|_, (id, _, _)| id != container);
        }
    }
}

fn replay(state: &Root, ledger: &mut Ledger, record: &Record) -> Result<(), LedgerError> {
    for entry in &record.notes {
        // A start says what will be; whether it came to be, only the file itself can tell.
        let holds = match (record.event, entry) {
            (Step::Done | Step::Skipped, _) => true,
            (Step::Start, Note::Wrote { path, digest }) => {
                state.read(path)?.is_some_and(|content| content.digest == *digest)
            }
            (Step::Start, Note::Removed { path }) => state.entry(path)?.is_none(),
            _ => false,
        };
        if holds {
            note(ledger, &record.action, entry);
        }
    }
    Ok(())
}

/// A name of the executor's own as a path.
pub(crate) fn own(name: &str) -> Result<RelPath, FileError> {
    RelPath::new(name).map_err(|e| FileError::Io {
        action: "name",
        path: name.into(),
        source: std::io::Error::other(e.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Entry, Journal};

    fn state() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Root::open(folder.path()).expect("readable").expect("there");
        (folder, root)
    }

    #[test]
    fn stored_is_loaded() {
        let (_folder, state) = state();
        assert_eq!(load(&state).expect("ok"), None);
        let mut ledger = Ledger { plan: Some(Digest::of(b"plan")), ..Ledger::default() };
        ledger.complete = true;
        ledger.files.insert(own("egress/in/routes.json").expect("valid"), Digest::of(b"x"));
        store(&state, &ledger).expect("stored");
        assert_eq!(load(&state).expect("ok"), Some(ledger));
    }

    #[test]
    fn a_torn_ledger_is_an_error_that_names_the_file() {
        let (folder, state) = state();
        std::fs::write(folder.path().join(LEDGER), "{\"plan\": \"sha").expect("written");
        let text = load(&state).expect_err("torn").to_string();
        assert!(text.contains("ledger.json"), "{text}");
    }

    #[tokio::test]
    async fn what_the_journal_says_is_added_after_a_crash() {
        let (_folder, state) = state();
        let plan = Digest::of(b"plan");
        let ledger = Ledger { plan: Some(plan.clone()), ..Ledger::default() };
        store(&state, &ledger).expect("stored");
        let journal = Journal::open(&state, &plan).expect("opens");
        for (name, step, content) in
            [("done", Step::Done, "a"), ("begun", Step::Start, "b"), ("lost", Step::Start, "c")]
        {
            let mut entry = Entry::new(&ActionId(format!("file:{name}")), step);
            let digest = Digest::of(content.as_bytes());
            entry.notes = vec![Note::Wrote { path: own(name).expect("valid"), digest }];
            journal.begin(entry).await.expect("written");
        }
        state.write(&own("begun").expect("valid"), b"b", 0o600, None).expect("written");
        let ledger = load(&state).expect("ok").expect("there");
        let names: Vec<_> = ledger.files.keys().map(RelPath::as_str).collect();
        assert_eq!(names, ["begun", "done"]);
    }

    #[test]
    fn a_stored_plan_is_found_by_its_digest() {
        let (folder, state) = state();
        std::fs::write(folder.path().join(PLAN), "{\"b\": 1}").expect("written");
        std::fs::write(folder.path().join(PREVIOUS_PLAN), "{\"a\": 1}").expect("written");
        let digest = Digest::of(b"{\"a\":1}");
        assert_eq!(plan_text(&state, &digest).expect("ok").as_deref(), Some("{\"a\": 1}"));
        assert_eq!(plan_text(&state, &Digest::of(b"other")).expect("ok"), None);
    }
}
