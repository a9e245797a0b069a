//! The audit log on disk, `audit/decisions.jsonl` below the state root: appended to, never written
//! anew, outside every session's folder.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bottle_planner::audit::{Broken, Entry, Event, Verified, verify};
use bottle_planner::document::{self, DocumentError};
use bottle_planner::words::{Digest, Identity, Timestamp};

/// Where it lies below the state root.
pub const FOLDER: &str = "audit";
/// Its name there.
pub const FILE: &str = "decisions.jsonl";

/// Why the log could not be read or added to.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The operating system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The log.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// It does not hold together: nothing is added to it.
    #[error("the audit log {} was tampered with, or its disk lost something", path.display())]
    Broken {
        /// The log.
        path: PathBuf,
        /// The first line that does not follow.
        #[source]
        source: Broken,
    },
    /// An entry has no canonical form.
    #[error("an entry cannot be written")]
    Entry(#[from] DocumentError),
}

/// The log of one state root.
#[derive(Debug, Clone)]
pub struct Audit {
    path: PathBuf,
    who: String,
}

impl Audit {
    /// The log below a state root, written to in the name of the process's user.
    #[must_use]
    pub fn of(state_root: &Path) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let name = user_name(uid).unwrap_or_default();
        let who = format!("{uid} {name}").trim_end().to_owned();
        Self { path: state_root.join(FOLDER).join(FILE), who }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all of it; a log that is not there is empty.
    ///
    /// # Errors
    ///
    /// It cannot be read, or does not hold together.
    pub fn read(&self) -> Result<Verified, AuditError> {
        match File::open(&self.path) {
            Ok(mut file) => self.verified(&mut file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                verify("").map_err(|source| self.broken(source))
            }
            Err(source) => Err(self.failed("open", source)),
        }
    }

    /// Adds a line. It is on disk when this returns; its digest is the log's new head.
    ///
    /// # Errors
    ///
    /// It cannot be written, or the log does not hold together: then nothing is added.
    pub fn append(
        &self,
        session: &Identity,
        at: Timestamp,
        event: Event,
    ) -> Result<Digest, AuditError> {
        let mut file = self.open()?;
        file.lock().map_err(|source| self.failed("lock", source))?;
        let verified = self.verified(&mut file)?;
        let entry = Entry {
            number: verified.entries.len() as u64 + 1,
            before: verified.head,
            at,
            who: self.who.clone(),
            session: session.clone(),
            event,
        };
        let line = document::canonical(&entry)?;
        let write = |file: &mut File| {
            let end = file.seek(SeekFrom::End(0))?;
            // A line whose writing was cut short was never an entry.
            let whole = end - verified.torn as u64;
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            let written = file.write_all(format!("{line}\n").as_bytes());
            if written.is_err() {
                // Best effort: what is left of it would be torn, and count for nothing.
                let _ = file.set_len(whole);
            }
            written?;
            file.sync_all()
        };
        write(&mut file).map_err(|source| self.failed("write", source))?;
        Ok(Digest::of(line.as_bytes()))
    }

    fn open(&self) -> Result<File, AuditError> {
        if let Some(folder) = self.path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| self.failed("make the folder of", source))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        options.open(&self.path).map_err(|source| self.failed("open", source))
    }

    fn verified(&self, file: &mut File) -> Result<Verified, AuditError> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| self.failed("read", source))?;
        // What was cut short may end within a character.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let torn = bytes.len() - whole;
        bytes.truncate(whole);
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = e.as_bytes()[..e.utf8_error().valid_up_to()].split(|b| *b == b'\n').count();
            let why = "it is no text".to_owned();
            self.broken(Broken::Malformed { line: line as u64, why })
        })?;
        let verified = verify(&text).map_err(|source| self.broken(source))?;
        Ok(Verified { torn, ..verified })
    }

    fn failed(&self, action: &'static str, source: io::Error) -> AuditError {
        AuditError::Io { action, path: self.path.clone(), source }
    }

    fn broken(&self, source: Broken) -> AuditError {
        AuditError::Broken { path: self.path.clone(), source }
    }
}

/// The user's name, where the host has one for it.
fn user_name(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Event {
        Event::Allowed { plan: Digest::of(b"plan"), effect: vec!["more".to_owned()] }
    }

    fn add(audit: &Audit) -> Result<Digest, AuditError> {
        let session = Identity::new("dev-ab12c").expect("an identity");
        audit.append(&session, Timestamp::new("2026-01-31T12:00:00Z").expect("a time"), allowed())
    }

    #[test]
    fn lines_follow_each_other_also_after_a_torn_one() {
        let root = tempfile::tempdir().expect("a folder");
        let audit = Audit::of(root.path());
        assert!(audit.read().expect("empty").entries.is_empty());
        add(&audit).expect("added");
        let text = std::fs::read_to_string(audit.path()).expect("read");
        // Cut short in the middle of a character.
        let torn = [text.as_bytes(), &text.as_bytes()[..40], &"é".as_bytes()[..1]].concat();
        std::fs::write(audit.path(), torn).expect("torn");
        let head = add(&audit).expect("added");
        let verified = audit.read().expect("whole");
        assert_eq!((verified.entries.len(), verified.torn), (2, 0));
        assert_eq!(verified.head, head);
    }

    #[test]
    fn many_at_once_make_one_chain() {
        let root = tempfile::tempdir().expect("a folder");
        let audit = Audit::of(root.path());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| drop(add(&audit).expect("added"))));
            }
        });
        assert_eq!(audit.read().expect("whole").entries.len(), 40);
    }

    #[test]
    fn nothing_is_added_to_what_was_tampered_with() {
        let root = tempfile::tempdir().expect("a folder");
        let audit = Audit::of(root.path());
        (0..3).for_each(|_| drop(add(&audit).expect("added")));
        let text = std::fs::read_to_string(audit.path()).expect("read");
        let changed = text.replacen("more", "less", 1);
        std::fs::write(audit.path(), &changed).expect("written");
        assert!(matches!(add(&audit), Err(AuditError::Broken { .. })));
        assert_eq!(std::fs::read_to_string(audit.path()).expect("read"), changed);
    }
}
