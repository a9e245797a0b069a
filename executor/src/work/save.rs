//! What is kept of a session at its end, before anything of it goes: what the agent changed as a
//! patch, what it committed as a bundle, and its transcript.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use bottle_planner::plan::{Plan, Save};
use bottle_planner::words::{AbsPath, RelPath};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::arrival::{All, Hashing, Item, Limits};
use super::spool::Spool;
use super::{Of, PULLED, Pulled, Work, WorkError};
use crate::engine::{Engine, EngineError};
use crate::files::{FileError, Root};
use crate::ledger::own;

/// The folder of what was kept, in the state folder and later in history.
pub const SAVED: &str = "saved";
/// What is in it, as JSON ([`Saved`]).
pub(crate) const SUMMARY: &str = "saved/summary.json";
const PATCH: &str = "saved/work.patch";
const BUNDLE: &str = "saved/work.bundle";

/// The most that is kept of a patch, in bytes; a change beyond is left out and named.
const LONGEST_PATCH: u64 = 512 << 20;
/// The most that is kept of a transcript, in bytes; files beyond are left out and named.
const LONGEST_TRANSCRIPT: u64 = 512 << 20;

/// Why the work was not saved: nothing of the session goes then.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It could not be looked at.
    #[error("the agent's work was not saved, so nothing was removed")]
    Work(#[from] WorkError),
    /// It could not be written.
    #[error("the agent's work was not saved, so nothing was removed")]
    File(#[from] FileError),
    /// The same.
    #[error("the agent's work was not saved, so nothing was removed")]
    Io(#[from] std::io::Error),
}

/// What was kept, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Changed files in `work.patch`.
    pub files: u64,
    /// Of those, how many no pull brought.
    pub unpulled: u64,
    /// Commits in `work.bundle`.
    pub commits: u64,
    /// Files of the transcript.
    pub transcript: u64,
    /// What was left out, and why: `reason path`.
    pub left_out: Vec<String>,
}

/// Saves all of it to the state folder.
pub(crate) async fn save<E: Engine>(
    engine: &E,
    plan: &Plan,
    save: &Save,
    state: &Root,
    scratch: &Path,
    path: Option<OsString>,
) -> Result<Saved, SaveError> {
    let mut saved = Saved::default();
    make(state, SAVED)?;
    if save.workspace.is_some() {
        let of = Of { plan, container: &save.container, scratch, path };
        let work = super::look(engine, &of).await?;
        let (state, mut so_far) = (state.clone(), saved);
        saved = super::blocking(move || {
            keep_work(&work, &state, &mut so_far).map_err(|error| match error {
                SaveError::Work(error) => error,
                SaveError::File(error) => WorkError::Spool(std::io::Error::other(error)),
                SaveError::Io(error) => WorkError::Spool(error),
            })?;
            Ok(so_far)
        })
        .await?;
    }
    for at in &save.transcripts {
        transcript(engine, save, at, state, scratch, &mut saved).await?;
    }
    let text = serde_json::to_string_pretty(&saved).map_err(std::io::Error::other)?;
    state.write(&own(SUMMARY)?, text.as_bytes(), 0o600, None)?;
    Ok(saved)
}

pub(super) fn keep_work(work: &Work, state: &Root, saved: &mut Saved) -> Result<(), SaveError> {
    let pulled = read_pulled(state)?;
    saved.unpulled = work.unpulled(&pulled).len() as u64;
    let mut out = BufWriter::new(create(state, PATCH)?);
    let mut room = LONGEST_PATCH;
    for change in &work.changes {
        let text = work.text(change);
        let text = match text {
            Ok(text) => text,
            Err(WorkError::NoBase { .. }) => {
                saved.left_out.push(format!("unknown-base {}", change.name()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match room.checked_sub(text.patch.len() as u64) {
            Some(less) => {
                room = less;
                out.write_all(&text.patch)?;
                saved.files += 1;
            }
            None => saved.left_out.push(format!("too-large {}", change.name())),
        }
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    if let Some(commits) = &work.commits
        && commits.unknown_to(&std::collections::BTreeSet::new()).map_err(WorkError::from)?
    {
        let to = state.path().join(BUNDLE);
        commits.bundle(&to).map_err(WorkError::from)?;
        saved.commits = commits.count + commits.others.iter().map(|(_, n)| n).sum::<u64>();
    }
    if let Some(commits) = &work.commits {
        let name = |(name, _): &(String, String)| {
            format!("too-many {}", super::patch::quoted(Path::new(name)))
        };
        saved.left_out.extend(commits.beyond.iter().map(name));
    }
    let left = &work.left;
    for (why, paths) in [
        ("too-large", &left.large),
        ("special", &left.special),
        ("ignored", &left.ignored),
        ("hidden", &left.hidden),
    ] {
        let name = |path: &PathBuf| format!("{why} {}", super::patch::quoted(path));
        saved.left_out.extend(paths.iter().map(name));
    }
    Ok(())
}

/// What earlier pulls brought, by the state folder.
pub(crate) fn read_pulled(state: &Root) -> Result<Pulled, FileError> {
    let found = state.read(&own(PULLED)?)?;
    Ok(found.and_then(|file| serde_json::from_slice(&file.bytes).ok()).unwrap_or_default())
}

/// Copies the regular files of a transcript, none under a name that is not plain.
async fn transcript<E: Engine>(
    engine: &E,
    save: &Save,
    at: &AbsPath,
    state: &Root,
    scratch: &Path,
    saved: &mut Saved,
) -> Result<(), SaveError> {
    let spool = Spool::new(scratch)?;
    let limits = Limits { kept: LONGEST_TRANSCRIPT, ..super::LIMITS };
    let from = |to| engine.read_container(&save.container, at.as_str(), to);
    let read = super::read_within(spool, All, Hashing::Plain, limits, from).await;
    let (arrival, spool, _) = match read {
        Ok(read) => read,
        // An agent that never ran has none.
        Err(WorkError::Gone { .. } | WorkError::Engine(EngineError::NotFound { .. })) => {
            return Ok(());
        }
        // What an agent makes of its own transcript keeps nobody from ending it.
        Err(WorkError::Arrival(error)) => {
            saved.left_out.push(format!("transcript {at}: {error}"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    for (path, item) in &arrival.items {
        let Item::File { kept, .. } = item else { continue };
        let named = if path.as_os_str().is_empty() {
            at.as_str().rsplit('/').next()
        } else {
            path.to_str()
        };
        let to = named.and_then(|name| RelPath::new(format!("saved/transcript/{name}")).ok());
        let (Some(to), Some(kept)) = (to, kept) else {
            saved.left_out.push(format!("transcript {}", super::patch::quoted(path)));
            continue;
        };
        for folder in to.as_str().match_indices('/').map(|(end, _)| &to.as_str()[..end]) {
            make(state, folder)?;
        }
        let mut file = create(state, to.as_str())?;
        spool.copy(*kept, &mut file)?;
        saved.transcript += 1;
    }
    Ok(())
}

fn make(state: &Root, folder: &str) -> Result<(), FileError> {
    state.ensure_folder(&own(folder)?, 0o700)
}

/// Opens a file of our own to write it anew; never through a link.
fn create(state: &Root, path: &str) -> Result<File, SaveError> {
    let path = own(path)?;
    state.remove(&path)?;
    let (folder, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
    let below = state.below(&own(folder)?)?;
    let below = below.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(below.folder(), name, flags, Mode::RUSR | Mode::WUSR);
    Ok(File::from(file.map_err(std::io::Error::from)?))
}
