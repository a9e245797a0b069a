//! Exclusive locks: one session is changed by one process at a time, and so are shared images.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bottle_planner::words::{Identity, RelPath};

use crate::files::{FileError, Root};
use crate::state::Roots;

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another bottle process{} holds {}", pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), path.display())]
    Held {
        /// Which process, by its own word in the file.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operating system refused.
    #[error("could not lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// A held lock; dropping it, or the end of the process, lets it go.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of one session, or says who has it.
    pub fn session(roots: &Roots, root: &Root, identity: &Identity) -> Result<Self, LockError> {
        Self::take(root, &roots.session_lock(identity))
    }

    /// Takes the lock of what is decided about one session, or says who has it: a decision takes the
    /// session's own lock on its way.
    pub fn decisions(roots: &Roots, root: &Root, identity: &Identity) -> Result<Self, LockError> {
        Self::take(root, &roots.decisions_lock(identity))
    }

    /// Takes the lock of what sessions share, or says who has it.
    pub fn shared(roots: &Roots, root: &Root) -> Result<Self, LockError> {
        Self::take(root, &roots.shared_lock())
    }

    /// Takes the lock of the manifest's overlays, or says who has it.
    pub fn overlays(roots: &Roots, root: &Root) -> Result<Self, LockError> {
        Self::take(root, &roots.overlays_lock())
    }

    /// Whether another process has the lock of one session. Makes no file.
    pub fn is_held(roots: &Roots, root: &Root, identity: &Identity) -> Result<bool, LockError> {
        let path = roots.session_lock(identity);
        let below = below(root, &path)?;
        if root.entry(&below)?.is_none() {
            return Ok(false);
        }
        match root.open_file(&below)?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
        }
    }

    fn take(root: &Root, path: &Path) -> Result<Self, LockError> {
        let below = below(root, path)?;
        if let Some(folder) = below.parent() {
            root.ensure_folder(&folder, 0o700)?;
        }
        loop {
            let lock = Self::take_file(root.open_file(&below)?, path)?;
            // A clean-up may have taken the file away between the opening and the locking; then
            // the next process would lock another one.
            let named =
                std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
            let held = lock.file.metadata().ok().map(|found| (found.dev(), found.ino()));
            if named == held {
                return Ok(lock);
            }
        }
    }

    fn take_file(mut file: File, path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = match file.take(32).read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(LockError::Held { pid, path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { file })
    }
}

fn below(root: &Root, path: &Path) -> Result<RelPath, LockError> {
    let outside = || LockError::Io {
        path: path.to_owned(),
        source: std::io::Error::other("a lock file outside the state root"),
    };
    let text = path.strip_prefix(root.path()).ok().and_then(Path::to_str).ok_or_else(outside)?;
    RelPath::new(text).map_err(|_| outside())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_was_first() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let roots = Roots {
            root: folder.path().to_owned(),
            home: folder.path().to_owned(),
            skills: folder.path().to_owned(),
            manifest: folder.path().to_owned(),
        };
        let root = Root::open(folder.path()).expect("readable").expect("there");
        let dev = Identity::new("dev").expect("valid");
        let first = Lock::session(&roots, &root, &dev).expect("free");
        let second = Lock::session(&roots, &root, &dev).expect_err("held").to_string();
        let pid = format!("(pid {})", std::process::id());
        assert!(second.contains(&pid), "{second}");
        Lock::session(&roots, &root, &Identity::new("other").expect("valid")).expect("free");
        Lock::shared(&roots, &root).expect("free");
        assert!(Lock::is_held(&roots, &root, &dev).expect("ok"));
        let third = Identity::new("third").expect("valid");
        assert!(!Lock::is_held(&roots, &root, &third).expect("ok"));
        assert!(!roots.session_lock(&third).exists(), "asking makes no file");
        std::fs::remove_file(roots.session_lock(&dev)).expect("removed");
        drop(Lock::session(&roots, &root, &dev).expect("another file is another lock"));
        drop(first);
        Lock::session(&roots, &root, &dev).expect("free again");
    }
}
