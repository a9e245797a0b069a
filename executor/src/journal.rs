//! The journal of a session: one line of JSON for the start and the end of each action.
//!
//! A start is on disk before the action begins. Starts that come together share one sync, and
//! ends ride along with the next one: a lost end only means that the action is looked at again.

use std::cell::RefCell;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use bottle_planner::plan::{ActionId, User};
use bottle_planner::words::{Digest, RelPath, Role};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::files::{FileError, READ_LIMIT, Root};
use crate::state::JOURNAL;

/// Why the journal could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A line that is not the last cannot be read: this is no torn write.
    #[error("expected a record in line {line} of journal.jsonl, found `{}`", found.escape_debug())]
    Corrupt {
        /// Counted from one.
        line: usize,
        /// How it begins.
        found: String,
    },
    /// The file could not be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A record could not be written; nothing is begun after that.
    #[error("could not write journal.jsonl: {0}")]
    Write(String),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts the records of a session, from one.
    pub seq: u64,
    /// The plan that is carried out.
    pub plan: Digest,
    /// The action.
    pub action: ActionId,
    /// What happened to it.
    pub event: Step,
    /// The engine's id of what was made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub object: Option<String>,
    /// The file that is overwritten or deleted (its content is kept in `backup/`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Previous>,
    /// What this does to the ledger; at a start, what it will do.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<Note>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// What happened to an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is about to begin.
    Start,
    /// It was done.
    Done,
    /// It was so already.
    Skipped,
    /// It failed.
    Failed,
    /// A rollback undid it.
    Undone,
}

/// A file before it was overwritten or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Of its content.
    pub digest: Digest,
    /// Permission bits.
    pub mode: u32,
    /// Who owned it.
    pub owner: User,
}

/// What an action changes in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Note {
    /// A file was written.
    Wrote {
        /// Below the state folder.
        path: RelPath,
        /// Of its content.
        digest: Digest,
    },
    /// A file was deleted.
    Removed {
        /// Below the state folder.
        path: RelPath,
    },
    /// A certificate authority was generated.
    Minted {
        /// SHA-256 of the certificate's DER.
        fingerprint: Digest,
    },
    /// Files were put into a container.
    Uploaded {
        /// The container's id.
        container: String,
        /// Of the upload's canonical form.
        digest: Digest,
    },
    /// Secrets were delivered.
    Delivered {
        /// To whom.
        role: Role,
        /// The container's id.
        container: String,
        /// Since when it runs.
        started_at: String,
    },
    /// A container read this file.
    Loaded {
        /// Which.
        role: Role,
        /// The container's id.
        container: String,
        /// Since when it runs.
        started_at: String,
        /// Of the file.
        digest: Digest,
    },
    /// A container is gone.
    Gone {
        /// The container's id.
        container: String,
    },
}

/// A record before it has its number and its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The action.
    pub action: ActionId,
    /// What happened to it.
    pub event: Step,
    /// See [`Record::object`].
    pub object: Option<String>,
    /// See [`Record::previous`].
    pub previous: Option<Previous>,
    /// See [`Record::notes`].
    pub notes: Vec<Note>,
    /// See [`Record::error`].
    pub error: Option<String>,
}

impl Entry {
    /// A bare entry.
    #[must_use]
    pub fn new(action: &ActionId, event: Step) -> Self {
        Self {
            action: action.clone(),
            event,
            object: None,
            previous: None,
            notes: Vec::new(),
            error: None,
        }
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: Arc<std::fs::File>,
    plan: Digest,
    inner: RefCell<Inner>,
    synced: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Lines not yet handed to a writer.
    pending: Vec<u8>,
    /// The number of the last record, pending ones included.
    last: u64,
    /// The number of the last record that is on disk.
    durable: u64,
    /// Whether a writer is at work.
    syncing: bool,
    failed: Option<String>,
}

impl Journal {
    /// Opens the journal for records of one plan, making it where there is none. A torn last
    /// line is cut off. Blocks.
    pub fn open(state: &Root, plan: &Digest) -> Result<Self, JournalError> {
        let write = |e: std::io::Error| JournalError::Write(e.to_string());
        let mut file = state.open_file(&path()?)?;
        let mut bytes = Vec::new();
        (&file).take(READ_LIMIT).read_to_end(&mut bytes).map_err(write)?;
        if bytes.len() as u64 == READ_LIMIT {
            let path = state.path().join(JOURNAL);
            return Err(FileError::TooLarge { path, limit: READ_LIMIT }.into());
        }
        let (records, whole) = parse(&bytes)?;
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(write)?;
        }
        file.seek(SeekFrom::End(0)).map_err(write)?;
        if bytes.is_empty() {
            state.sync()?;
        }
        let last = records.last().map_or(0, |r| r.seq);
        Ok(Self {
            file: Arc::new(file),
            plan: plan.clone(),
            inner: RefCell::new(Inner { last, durable: last, ..Inner::default() }),
            synced: Notify::new(),
        })
    }

    /// Notes a start and returns once it is on disk.
    pub async fn begin(&self, entry: Entry) -> Result<(), JournalError> {
        let seq = self.push(entry)?;
        self.durable(seq).await
    }

    /// Notes an end; it is on disk with the next start or at [`Journal::finish`].
    pub fn end(&self, entry: Entry) -> Result<(), JournalError> {
        self.push(entry).map(|_| ())
    }

    /// Returns once all records are on disk.
    pub async fn finish(&self) -> Result<(), JournalError> {
        let seq = self.inner.borrow().last;
        self.durable(seq).await
    }

    fn push(&self, entry: Entry) -> Result<u64, JournalError> {
        let mut inner = self.inner.borrow_mut();
        let record = Record {
            seq: inner.last + 1,
            plan: self.plan.clone(),
            action: entry.action,
            event: entry.event,
            object: entry.object,
            previous: entry.previous,
            notes: entry.notes,
            error: entry.error,
        };
        let line =
            serde_json::to_string(&record).map_err(|e| JournalError::Write(e.to_string()))?;
        inner.last = record.seq;
        inner.pending.extend_from_slice(line.as_bytes());
        inner.pending.push(b'\n');
        Ok(record.seq)
    }

    async fn durable(&self, seq: u64) -> Result<(), JournalError> {
        loop {
            let synced = self.synced.notified();
            let lead = {
                let mut inner = self.inner.borrow_mut();
                if let Some(why) = &inner.failed {
                    return Err(JournalError::Write(why.clone()));
                }
                if inner.durable >= seq {
                    return Ok(());
                }
                !std::mem::replace(&mut inner.syncing, true)
            };
            if lead {
                self.sync().await;
            } else {
                synced.await;
            }
        }
    }

    /// Writes and syncs everything pending, for all who wait.
    async fn sync(&self) {
        // Whoever becomes ready together with the caller gets to push its record first.
        tokio::task::yield_now().await;
        let (bytes, upto) = {
            let mut inner = self.inner.borrow_mut();
            (std::mem::take(&mut inner.pending), inner.last)
        };
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || {
            (&*file).write_all(&bytes).and_then(|()| file.sync_data())
        });
        let result = written.await;
        let mut inner = self.inner.borrow_mut();
        inner.syncing = false;
        match result {
            Ok(Ok(())) => inner.durable = upto,
            Ok(Err(error)) => inner.failed = Some(error.to_string()),
            Err(error) => inner.failed = Some(error.to_string()),
        }
        self.synced.notify_waiters();
    }
}

/// Reads all records of a session; none where there is no journal. A torn last line is passed
/// over. Blocks.
pub fn read(state: &Root) -> Result<Vec<Record>, JournalError> {
    let Some(content) = state.read(&path()?)? else { return Ok(Vec::new()) };
    parse(&content.bytes).map(|(records, _)| records)
}

/// The records, and how many bytes they take up from the beginning.
fn parse(bytes: &[u8]) -> Result<(Vec<Record>, usize), JournalError> {
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let mut records = Vec::new();
    let mut used = 0;
    for (index, line) in bytes[..whole].split_inclusive(|&b| b == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            // Blocks of one write may reach the disk out of order, the newline before the rest.
            Err(_) if used + line.len() == whole => return Ok((records, used)),
            Err(_) => {
                let found = String::from_utf8_lossy(line).chars().take(40).collect();
                return Err(JournalError::Corrupt { line: index + 1, found });
            }
        }
        used += line.len();
    }
    Ok((records, used))
}

fn path() -> Result<RelPath, JournalError> {
    RelPath::new(JOURNAL).map_err(|e| JournalError::Write(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Digest {
        Digest::of(b"plan")
    }

    fn entry(name: &str, event: Step) -> Entry {
        Entry::new(&ActionId(name.into()), event)
    }

    fn state() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Root::open(folder.path()).expect("readable").expect("there");
        (folder, root)
    }

    #[tokio::test]
    async fn records_are_numbered_on_across_openings() {
        let (_folder, state) = state();
        for _ in 0..2 {
            let journal = Journal::open(&state, &plan()).expect("opens");
            let (a, b) = (entry("a", Step::Start), entry("b", Step::Start));
            let (a, b) = futures_util::join!(journal.begin(a), journal.begin(b));
            a.and(b).expect("written");
            journal.end(entry("a", Step::Done)).expect("noted");
            journal.finish().await.expect("synced");
        }
        let records = read(&state).expect("readable");
        let seen: Vec<_> = records.iter().map(|r| (r.seq, r.action.0.as_str(), r.event)).collect();
        assert_eq!(seen[..3], [(1, "a", Step::Start), (2, "b", Step::Start), (3, "a", Step::Done)]);
        assert_eq!(seen[5], (6, "a", Step::Done));
    }

    #[tokio::test]
    async fn a_torn_last_line_is_cut_off() {
        for torn in ["{\"seq\":2,\"pl", "\0\0\0\0\n"] {
            let (folder, state) = state();
            let journal = Journal::open(&state, &plan()).expect("opens");
            journal.begin(entry("a", Step::Start)).await.expect("written");
            let path = folder.path().join(JOURNAL);
            let whole = std::fs::read_to_string(&path).expect("there");
            std::fs::write(&path, format!("{whole}{torn}")).expect("written");
            assert_eq!(read(&state).expect("readable").len(), 1);
            let journal = Journal::open(&state, &plan()).expect("opens");
            journal.begin(entry("b", Step::Start)).await.expect("written");
            let seqs: Vec<_> = read(&state).expect("readable").iter().map(|r| r.seq).collect();
            assert_eq!(seqs, [1, 2]);
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error() {
        let (folder, state) = state();
        std::fs::write(folder.path().join(JOURNAL), "rubbish\nmore\n").expect("written");
        let text = read(&state).expect_err("corrupt").to_string();
        assert!(text.contains("line 1"), "{text}");
    }
}
