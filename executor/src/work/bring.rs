//! Writes a reviewed patch into the host's folder, and nowhere else.
//!
//! Every path is walked from the open folder, part by part, without following a link: neither the
//! agent's nor one of the host's own. A file is written whole under another name and put in its
//! place at once, and only where what is there still is what the patch is for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::arrival::{Hasher, Hashing, Item};
use super::change::{Change, is_git, state};
use super::spool::Spool;

/// Why a change was not written.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// What is there is not what the patch is for.
    #[error("expected {expected} at {}, found {found}", path.display())]
    Conflict {
        /// Where.
        path: PathBuf,
        /// What the patch begins with.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The system said no.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A path that nothing is ever written to. It is a bug to get this far.
    #[error("internal: {} is not a patch's to write", path.display())]
    Forbidden {
        /// Which.
        path: PathBuf,
    },
}

/// What is to be done about one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    /// It is written.
    Written,
    /// It is so already.
    Already,
}

/// The host's folder.
#[derive(Debug)]
pub struct Host {
    folder: OwnedFd,
    path: PathBuf,
}

impl Host {
    /// Opens the folder that a person named: links in *its* path are theirs.
    pub fn open(path: &Path) -> Result<Self, BringError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty());
        let folder = folder.map_err(|e| failed("open", path, e))?;
        Ok(Self { folder, path: path.to_owned() })
    }

    /// What is at a path now. Something that is no folder on the way to it is in the way.
    pub(crate) fn look(&self, path: &Path) -> Result<Option<Item>, BringError> {
        match self.parent(path, false)? {
            Some((parent, name)) => self.look_at(parent.as_fd(), &name, path),
            None => Ok(None),
        }
    }

    /// The content at a path, if it has this hash.
    pub(crate) fn content(&self, path: &Path, item: &Item) -> Option<Vec<u8>> {
        let Item::File { hash, size, .. } = item else { return None };
        let (parent, name) = self.parent(path, false).ok()??;
        let mut file = open_file(parent.as_fd(), &name).ok()?;
        let mut bytes = Vec::new();
        file.by_ref().take(size + 1).read_to_end(&mut bytes).ok()?;
        let mut hasher = Hasher::new(Hashing::Plain, bytes.len() as u64);
        hasher.update(&bytes);
        (hasher.finish() == *hash).then_some(bytes)
    }

    /// Holds changes against what is there; answers what stands in the way. `pulled` is what
    /// earlier pulls left there.
    pub(crate) fn conflicts(
        &self,
        changes: &[&Change],
        pulled: &BTreeMap<String, String>,
    ) -> Vec<BringError> {
        let goes: BTreeSet<&Path> =
            changes.iter().filter(|c| c.after.is_none()).map(|c| c.path.as_path()).collect();
        let one = |change: &&Change| {
            refuse_forbidden(&change.path)?;
            let found = match self.look(&change.path) {
                // A folder that this very patch empties, and a file that it makes room of.
                Ok(Some(Item::Folder)) if change.before.is_none() => {
                    let below = |path: &&Path| path.starts_with(&change.path);
                    if goes.iter().any(below) { None } else { Some(Item::Folder) }
                }
                Err(BringError::Conflict { .. })
                    if change.path.ancestors().skip(1).any(|above| goes.contains(above)) =>
                {
                    None
                }
                found => found?,
            };
            self.judge(change, pulled.get(&change.name()), found.as_ref()).map(drop)
        };
        changes.iter().filter_map(|change| one(change).err()).collect()
    }

    fn judge(
        &self,
        change: &Change,
        pulled: Option<&String>,
        found: Option<&Item>,
    ) -> Result<Brought, BringError> {
        let now = match found {
            Some(Item::Folder) => "a folder".to_owned(),
            found => state(found),
        };
        let expected = state(change.before.as_ref());
        if now == change.state() {
            Ok(Brought::Already)
        } else if now == expected || pulled == Some(&now) {
            Ok(Brought::Written)
        } else {
            Err(BringError::Conflict { path: self.path.join(&change.path), expected, found: now })
        }
    }

    /// Writes the changes; answers each path that is so now. Ends at the first that cannot be.
    pub(crate) fn bring(
        &self,
        changes: &[&Change],
        pulled: &BTreeMap<String, String>,
        spool: &Spool,
    ) -> (Vec<PathBuf>, Result<(), BringError>) {
        let mut done = Vec::new();
        // What goes makes room for what comes: a file that becomes a folder.
        let (go, come): (Vec<&&Change>, Vec<&&Change>) =
            changes.iter().partition(|change| change.after.is_none());
        for change in go.into_iter().rev().chain(come) {
            let before = pulled.get(&change.name());
            let one = match &change.after {
                None => self.remove(change, before),
                Some(_) => self.put(change, before, spool),
            };
            match one {
                Ok(()) => done.push(change.path.clone()),
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }

    fn remove(&self, change: &Change, pulled: Option<&String>) -> Result<(), BringError> {
        refuse_forbidden(&change.path)?;
        let shown = self.path.join(&change.path);
        let Some((parent, name)) = self.parent(&change.path, false)? else { return Ok(()) };
        let found = self.look_at(parent.as_fd(), &name, &change.path)?;
        if self.judge(change, pulled, found.as_ref())? == Brought::Already {
            return Ok(());
        }
        rustix::fs::unlinkat(&parent, &name, AtFlags::empty())
            .map_err(|e| failed("delete", &shown, e))?;
        // Folders that are empty now had nothing else in them; one that has stays.
        let mut above = change.path.parent();
        while let Some(folder) = above.filter(|folder| !folder.as_os_str().is_empty()) {
            let Some((parent, name)) = self.parent(folder, false)? else { break };
            if rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            above = folder.parent();
        }
        Ok(())
    }

    fn put(
        &self,
        change: &Change,
        pulled: Option<&String>,
        spool: &Spool,
    ) -> Result<(), BringError> {
        refuse_forbidden(&change.path)?;
        let shown = self.path.join(&change.path);
        let Some((parent, name)) = self.parent(&change.path, true)? else {
            return Err(failed("make the folder of", &shown, Errno::NOENT));
        };
        let parent = parent.as_fd();
        let found = self.look_at(parent, &name, &change.path)?;
        if self.judge(change, pulled, found.as_ref())? == Brought::Already {
            return Ok(());
        }
        let temporary = temporary(&name);
        let cleared = rustix::fs::unlinkat(parent, &temporary, AtFlags::empty());
        if let Err(error) = cleared
            && error != Errno::NOENT
        {
            return Err(failed("clear the way for", &shown, error));
        }
        let placed = self.write(parent, &temporary, &name, change, spool, &shown).and_then(|()| {
            // What took this place since it was looked at is somebody's.
            let flags = match found {
                None => RenameFlags::NOREPLACE,
                Some(_) => {
                    let now = self.look_at(parent, &name, &change.path)?;
                    self.judge(change, pulled, now.as_ref())?;
                    RenameFlags::empty()
                }
            };
            match rustix::fs::renameat_with(parent, &temporary, parent, &name, flags) {
                Err(Errno::EXIST) => Err(BringError::Conflict {
                    path: shown.clone(),
                    expected: "absent".to_owned(),
                    found: "something new".to_owned(),
                }),
                renamed => renamed.map_err(|e| failed("write", &shown, e)),
            }
        });
        if placed.is_err() {
            // The first error is the one to tell.
            let _ = rustix::fs::unlinkat(parent, &temporary, AtFlags::empty());
        }
        placed
    }

    fn write(
        &self,
        parent: BorrowedFd<'_>,
        temporary: &OsStr,
        name: &OsStr,
        change: &Change,
        spool: &Spool,
        shown: &Path,
    ) -> Result<(), BringError> {
        let old = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        match &change.after {
            Some(Item::Link { target }) => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), parent, temporary)
                    .map_err(|e| failed("link", shown, e))
            }
            Some(Item::File { executable, kept: Some(kept), .. }) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file =
                    rustix::fs::openat(parent, temporary, flags | OFlags::CLOEXEC, Mode::RUSR)
                        .map_err(|e| failed("create", shown, e))?;
                let mut file = File::from(file);
                let copied = spool.copy(*kept, &mut file).and_then(|()| file.sync_all());
                copied.map_err(|source| BringError::Io {
                    action: "write",
                    path: shown.to_owned(),
                    source,
                })?;
                self.dress(&file, parent, old.as_ref(), *executable)
                    .map_err(|e| failed("set the mode of", shown, e))
            }
            _ => Err(BringError::Forbidden { path: shown.to_owned() }),
        }
    }

    /// Owner and mode as the file had them before, with the executable bit of now. A new one is
    /// whose folder it is in, where root writes.
    fn dress(
        &self,
        file: &File,
        parent: BorrowedFd<'_>,
        old: Option<&rustix::fs::Stat>,
        executable: bool,
    ) -> Result<(), Errno> {
        let old = old.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if rustix::process::geteuid().is_root() {
            let model = match old {
                Some(stat) => *stat,
                None => rustix::fs::fstat(parent)?,
            };
            let (uid, gid) = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
            rustix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        let mode = match old {
            // Who may read it may run it.
            Some(stat) if executable => (stat.st_mode & 0o666) | ((stat.st_mode & 0o444) >> 2),
            Some(stat) => stat.st_mode & 0o666,
            None if executable => 0o755,
            None => 0o644,
        };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
    }

    /// The folder that a path lies in, and its last part; `None` where a folder on the way is
    /// missing and not to be made.
    fn parent(&self, path: &Path, make: bool) -> Result<Option<(OwnedFd, OsString)>, BringError> {
        let Some(name) = path.file_name() else {
            return Err(BringError::Forbidden { path: path.to_owned() });
        };
        let again = |e| failed("open", &self.path, e);
        let mut folder = rustix::io::fcntl_dupfd_cloexec(&self.folder, 0).map_err(again)?;
        let mut below = PathBuf::new();
        for part in path.parent().into_iter().flat_map(Path::iter) {
            below.push(part);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || rustix::fs::openat(&folder, part, flags, Mode::empty());
            let shown = || self.path.join(&below);
            let next = match open() {
                Err(Errno::NOENT) if make => {
                    let made = rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755));
                    made.map_err(|e| failed("make", &shown(), e))?;
                    let made = open();
                    if let Ok(made) = &made
                        && rustix::process::geteuid().is_root()
                        && let Ok(model) = rustix::fs::fstat(&folder)
                    {
                        let (uid, gid) = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
                        rustix::fs::fchown(made, Some(uid), Some(gid))
                            .map_err(|e| failed("give away", &shown(), e))?;
                    }
                    made
                }
                Err(Errno::NOENT) => return Ok(None),
                opened => opened,
            };
            folder = next.map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP => BringError::Conflict {
                    path: shown(),
                    expected: "a folder".to_owned(),
                    found: "a link or a file".to_owned(),
                },
                error => failed("open", &shown(), error),
            })?;
        }
        Ok(Some((folder, name.to_owned())))
    }

    fn look_at(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<Option<Item>, BringError> {
        let shown = self.path.join(path);
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("inspect", &shown, error)),
        };
        let read = |e: io::Error| BringError::Io { action: "read", path: shown.clone(), source: e };
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Item::Folder,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new());
                let target = target.map_err(|e| failed("read", &shown, e))?;
                Item::Link { target: target.into_bytes() }
            }
            FileType::RegularFile => {
                let mut file = open_file(parent, name).map_err(read)?;
                let mut hasher = Hasher::new(Hashing::Plain, 0);
                let mut buffer = vec![0; 128 << 10];
                let mut size = 0;
                loop {
                    let n = file.read(&mut buffer).map_err(read)?;
                    if n == 0 {
                        break;
                    }
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
                let executable = stat.st_mode & 0o100 != 0;
                Item::File { hash: hasher.finish(), executable, size, kept: None }
            }
            _ => Item::Other("special file"),
        }))
    }
}

fn open_file(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(File::from(file))
}

fn refuse_forbidden(path: &Path) -> Result<(), BringError> {
    let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    if is_git(path) || !path.components().all(plain) {
        return Err(BringError::Forbidden { path: path.to_owned() });
    }
    Ok(())
}

/// The name that a file is written under before it is put in its place: always the same, so that a
/// crash leaves at most one.
fn temporary(name: &OsStr) -> OsString {
    let digest = bottle_planner::words::Digest::of(name.as_bytes());
    format!(".bottle-{}.tmp", digest.short()).into()
}

fn failed(action: &'static str, path: &Path, error: Errno) -> BringError {
    BringError::Io { action, path: path.to_owned(), source: error.into() }
}
