//! File operations below one folder that never follow a symbolic link.
//!
//! Every path is walked from an open folder, one segment at a time, with `O_NOFOLLOW`: a link or
//! any other oddity in the way is an error and never a way out. Functions here block; the
//! asynchronous layer runs them on threads of their own.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_planner::plan::User;
use bottle_planner::words::{Digest, RelPath};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

/// The most bytes [`Root::read`] takes in: no file that a plan or the executor writes is near it.
pub const READ_LIMIT: u64 = 64 << 20;

/// How deep [`Root::remove_tree`] goes before it brings what lies deeper up: every level costs a
/// descriptor.
const DEEP: usize = 64;

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Something else is where a file or folder is wanted.
    #[error("expected {expected} at {}, found {found}", path.display())]
    Kind {
        /// Where.
        path: PathBuf,
        /// What was wanted there.
        expected: Kind,
        /// What is there.
        found: Kind,
    },
    /// The file is larger than any this program writes.
    #[error("expected at most {limit} bytes in {}, found more", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The owner cannot be set without being root.
    #[error("cannot give {} to {}:{} without being root", path.display(), owner.uid, owner.gid)]
    Owner {
        /// Which file or folder.
        path: PathBuf,
        /// Who should own it.
        owner: User,
    },
    /// The operating system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A socket, a pipe or a device.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a regular file",
            Self::Folder => "a folder",
            Self::Link => "a symbolic link",
            Self::Other => "a special file",
        })
    }
}

/// One directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it.
    pub owner: User,
}

/// A regular file as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it.
    pub owner: User,
}

/// An open folder below which all is done. Clones share it; it stays the same folder when it is
/// renamed.
#[derive(Debug, Clone)]
pub struct Root {
    folder: Arc<OwnedFd>,
    path: PathBuf,
}

impl Root {
    /// Opens a folder by an ordinary path (links in it are followed: it is the user's own).
    /// `None` where there is none.
    pub fn open(path: &Path) -> Result<Option<Self>, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(folder) => Ok(Some(Self { folder: Arc::new(folder), path: path.to_owned() })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("open", path, error)),
        }
    }

    /// Opens a folder, making it (0700) and what leads to it where there is none.
    pub fn open_or_make(path: &Path) -> Result<Self, FileError> {
        if let Some(root) = Self::open(path)? {
            return Ok(root);
        }
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(path).map_err(|source| FileError::Io {
            action: "make",
            path: path.to_owned(),
            source,
        })?;
        Self::open(path)?.ok_or_else(|| failed("open", path, Errno::NOENT))
    }

    /// The open folder itself.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// The path it was opened by, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder below this one as a root of its own; `None` where there is none.
    pub fn below(&self, path: &RelPath) -> Result<Option<Self>, FileError> {
        Ok(self
            .walk(path)?
            .map(|folder| Self { folder: Arc::new(folder), path: self.path.join(path.as_str()) }))
    }

    /// What is at a path; `None` where there is nothing.
    pub fn entry(&self, path: &RelPath) -> Result<Option<Entry>, FileError> {
        let Some((folder, name)) = self.parent(path)? else { return Ok(None) };
        Ok(self.stat(&folder, name, path)?.as_ref().map(entry_of))
    }

    /// Reads a regular file; `None` where there is nothing.
    pub fn read(&self, path: &RelPath) -> Result<Option<Content>, FileError> {
        self.read_at_most(path, READ_LIMIT)
    }

    /// The same of a file that may have no more bytes than this.
    pub fn read_at_most(&self, path: &RelPath, limit: u64) -> Result<Option<Content>, FileError> {
        let Some((folder, name)) = self.parent(path)? else { return Ok(None) };
        // A pipe would block the open without `NONBLOCK`.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let full = || self.path.join(path.as_str());
        let file = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.in_the_way(&folder, name, path, Kind::File, error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| failed("inspect", &full(), e))?;
        let entry = entry_of(&stat);
        if entry.kind != Kind::File {
            return Err(FileError::Kind { path: full(), expected: Kind::File, found: entry.kind });
        }
        let mut bytes = Vec::new();
        let taken = File::from(file).take(limit + 1).read_to_end(&mut bytes);
        taken.map_err(|source| FileError::Io { action: "read", path: full(), source })?;
        if bytes.len() as u64 > limit {
            return Err(FileError::TooLarge { path: full(), limit });
        }
        let digest = Digest::of(&bytes);
        Ok(Some(Content { bytes, digest, mode: entry.mode, owner: entry.owner }))
    }

    /// Writes a file so that at every moment, a crash included, either the old content is there
    /// or the new: under a temporary name in the same folder with its mode and owner from the
    /// start, synced, renamed, the folder synced. On any error the temporary file is gone.
    pub fn write(
        &self,
        path: &RelPath,
        bytes: &[u8],
        mode: u32,
        owner: Option<User>,
    ) -> Result<(), FileError> {
        let full = self.path.join(path.as_str());
        let (folder, name) = self.existing_parent(path)?;
        if let Some(found) = self.stat(&folder, name, path)?.map(|s| entry_of(&s).kind)
            && found != Kind::File
        {
            return Err(FileError::Kind { path: full, expected: Kind::File, found });
        }
        let temporary = temporary_name(name);
        clear(&folder, &temporary).map_err(|e| failed("clear the way for", &full, e))?;
        let written = self.write_temporary(&folder, &temporary, &full, bytes, mode, owner);
        let renamed = written.and_then(|()| {
            rustix::fs::renameat(&folder, temporary.as_str(), &folder, name)
                .map_err(|e| failed("write", &full, e))
        });
        if let Err(error) = renamed {
            // The first error is the one to tell; a file that cannot be removed is cleared by
            // the next write of the same name.
            let _ = rustix::fs::unlinkat(&folder, temporary.as_str(), AtFlags::empty());
            return Err(error);
        }
        sync_folder(&folder, &full)
    }

    fn write_temporary(
        &self,
        folder: &OwnedFd,
        temporary: &str,
        full: &Path,
        bytes: &[u8],
        mode: u32,
        owner: Option<User>,
    ) -> Result<(), FileError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| failed("create", full, e))?;
        give(&file, full, mode, owner)?;
        let mut file = File::from(file);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| FileError::Io {
            action: "write",
            path: full.to_owned(),
            source,
        })
    }

    /// Deletes a regular file; answers whether there was one.
    pub fn remove(&self, path: &RelPath) -> Result<bool, FileError> {
        let full = self.path.join(path.as_str());
        let Some((folder, name)) = self.parent(path)? else { return Ok(false) };
        match self.stat(&folder, name, path)?.map(|s| entry_of(&s).kind) {
            None => return Ok(false),
            Some(Kind::File) => {}
            Some(found) => {
                return Err(FileError::Kind { path: full, expected: Kind::File, found });
            }
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(failed("delete", &full, error)),
        }
        sync_folder(&folder, &full)?;
        Ok(true)
    }

    /// Makes a folder with this mode and owner in one step, or gives them to the one that is
    /// there. What leads to it must exist.
    pub fn make_folder(
        &self,
        path: &RelPath,
        mode: u32,
        owner: Option<User>,
    ) -> Result<(), FileError> {
        let full = self.path.join(path.as_str());
        let (folder, name) = self.existing_parent(path)?;
        if self.stat(&folder, name, path)?.is_some() {
            let made = self.open_folder(&folder, name, path)?;
            return give(&made, &full, mode, owner);
        }
        let temporary = temporary_name(name);
        clear(&folder, &temporary).map_err(|e| failed("clear the way for", &full, e))?;
        rustix::fs::mkdirat(&folder, temporary.as_str(), Mode::from_raw_mode(0o700))
            .map_err(|e| failed("make", &full, e))?;
        let placed = self
            .open_folder(&folder, &temporary, path)
            .and_then(|made| give(&made, &full, mode, owner))
            .and_then(|()| {
                let (from, flags) = (temporary.as_str(), RenameFlags::NOREPLACE);
                rustix::fs::renameat_with(&folder, from, &folder, name, flags)
                    .map_err(|e| failed("make", &full, e))
            });
        if let Err(error) = placed {
            let _ = rustix::fs::unlinkat(&folder, temporary.as_str(), AtFlags::REMOVEDIR);
            return Err(error);
        }
        sync_folder(&folder, &full)
    }

    /// Makes a folder unless it is there, also where another process does the same right now.
    pub fn ensure_folder(&self, path: &RelPath, mode: u32) -> Result<(), FileError> {
        let there = |entry: Option<Entry>| entry.is_some_and(|e| e.kind == Kind::Folder);
        if there(self.entry(path)?) {
            return Ok(());
        }
        match self.make_folder(path, mode, None) {
            Err(_) if there(self.entry(path)?) => Ok(()),
            made => made,
        }
    }

    /// Deletes a folder if it is empty; answers whether it is gone. The rest of a write that was cut
    /// short counts for nothing.
    pub fn remove_folder_if_empty(&self, path: &RelPath) -> Result<bool, FileError> {
        let Some((folder, name)) = self.parent(path)? else { return Ok(true) };
        let full = self.path.join(path.as_str());
        if let Ok(inside) = open_folder_at(&folder, name) {
            let left = names(&inside).map_err(|e| failed("list", &full, e))?;
            for temporary in left.iter().filter_map(|n| n.to_str()).filter(|n| is_temporary(n)) {
                clear(&inside, temporary).map_err(|e| failed("clear", &full, e))?;
            }
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(self.in_the_way(&folder, name, path, Kind::Folder, error)),
        }
    }

    /// Deletes a folder and all below it, without following anything; nothing there is fine.
    pub fn remove_tree(&self, path: &RelPath) -> Result<(), FileError> {
        let Some((folder, name)) = self.parent(path)? else { return Ok(()) };
        if self.stat(&folder, name, path)?.is_none() {
            return Ok(());
        }
        let top = self.open_folder(&folder, name, path)?;
        let full = self.path.join(path.as_str());
        let mut raised = 0;
        while empty(&top, &top, 0, &mut raised).map_err(|e| failed("delete", &full, e))? {}
        rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR)
            .map_err(|e| failed("delete", &full, e))
    }

    /// Renames a file or folder below this root to a name that must be free.
    ///
    /// Answers false where the name is taken.
    pub fn rename(&self, from: &RelPath, to: &RelPath) -> Result<bool, FileError> {
        let full = self.path.join(from.as_str());
        let (old, old_name) = self.existing_parent(from)?;
        let (new, new_name) = self.existing_parent(to)?;
        match rustix::fs::renameat_with(&old, old_name, &new, new_name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Ok(false),
            Err(error) => return Err(failed("move", &full, error)),
        }
        sync_folder(&new, &full)?;
        sync_folder(&old, &full)?;
        Ok(true)
    }

    /// Names of what lies in a folder, sorted; empty where there is no such folder.
    pub fn list(&self, path: Option<&RelPath>) -> Result<Vec<String>, FileError> {
        let folder = match path {
            Some(path) => self.walk(path)?,
            None => Some(self.folder.try_clone().map_err(|source| FileError::Io {
                action: "list",
                path: self.path.clone(),
                source,
            })?),
        };
        let Some(folder) = folder else { return Ok(Vec::new()) };
        let names = names(&folder).map_err(|e| failed("list", &self.path, e))?;
        let mut names: Vec<String> =
            names.into_iter().map(|n| n.to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Opens a file for appending or locking, making it (0600) where there is none.
    pub(crate) fn open_file(&self, path: &RelPath) -> Result<File, FileError> {
        let (folder, name) = self.existing_parent(path)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| self.in_the_way(&folder, name, path, Kind::File, e))?;
        let full = self.path.join(path.as_str());
        let stat = rustix::fs::fstat(&file).map_err(|e| failed("inspect", &full, e))?;
        let found = entry_of(&stat).kind;
        if found != Kind::File {
            return Err(FileError::Kind { path: full, expected: Kind::File, found });
        }
        Ok(File::from(file))
    }

    /// Syncs the folder itself: after this a file just made in it is found again.
    pub(crate) fn sync(&self) -> Result<(), FileError> {
        sync_folder(&self.folder, &self.path)
    }

    /// The folder a path lies in, and the path's last segment; `None` where a folder on the way
    /// is missing.
    fn parent<'p>(&self, path: &'p RelPath) -> Result<Option<(OwnedFd, &'p str)>, FileError> {
        match path.as_str().rsplit_once('/') {
            None => {
                let folder = self.folder.try_clone().map_err(|source| FileError::Io {
                    action: "open",
                    path: self.path.clone(),
                    source,
                })?;
                Ok(Some((folder, path.as_str())))
            }
            Some((_, name)) => {
                let Some(parent) = path.parent() else { return Ok(None) };
                Ok(self.walk(&parent)?.map(|folder| (folder, name)))
            }
        }
    }

    fn existing_parent<'p>(&self, path: &'p RelPath) -> Result<(OwnedFd, &'p str), FileError> {
        self.parent(path)?.ok_or_else(|| {
            let full = self.path.join(path.as_str());
            failed("find the folder of", &full, Errno::NOENT)
        })
    }

    fn walk(&self, path: &RelPath) -> Result<Option<OwnedFd>, FileError> {
        let mut folder: Option<OwnedFd> = None;
        for segment in path.as_str().split('/') {
            let from = folder.as_ref().map_or_else(|| self.folder.as_fd(), |f| f.as_fd());
            match open_folder_at(from, segment) {
                Ok(next) => folder = Some(next),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => {
                    return Err(self.in_the_way(from, segment, path, Kind::Folder, error));
                }
            }
        }
        Ok(folder)
    }

    fn open_folder(&self, at: &OwnedFd, name: &str, path: &RelPath) -> Result<OwnedFd, FileError> {
        open_folder_at(at, name).map_err(|e| self.in_the_way(at, name, path, Kind::Folder, e))
    }

    fn stat(&self, at: &OwnedFd, name: &str, path: &RelPath) -> Result<Option<Stat>, FileError> {
        match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("inspect", &self.path.join(path.as_str()), error)),
        }
    }

    /// The error for an entry that could not be opened: what it is says more than the errno.
    fn in_the_way(
        &self,
        at: impl std::os::fd::AsFd,
        name: &str,
        path: &RelPath,
        expected: Kind,
        error: Errno,
    ) -> FileError {
        let full = self.path.join(path.as_str());
        match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| entry_of(&s).kind) {
            Ok(found) if found != expected => FileError::Kind { path: full, expected, found },
            _ => failed("open", &full, error),
        }
    }
}

/// Whether a name is one that [`Root::write`] leaves behind when the machine stops in its midst.
/// Such a file belongs to nobody and the next write clears it.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(".bottle-") && name.ends_with(".tmp")
}

/// The temporary name beside `name`: always the same, so that a crash leaves at most one.
fn temporary_name(name: &str) -> String {
    format!(".bottle-{}.tmp", Digest::of(name.as_bytes()).short())
}

fn clear(folder: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR),
        Err(error) => Err(error),
    }
}

fn give(file: &OwnedFd, full: &Path, mode: u32, owner: Option<User>) -> Result<(), FileError> {
    if let Some(owner) = owner {
        let stat = rustix::fs::fstat(file).map_err(|e| failed("inspect", full, e))?;
        if (stat.st_uid, stat.st_gid) != (owner.uid, owner.gid) {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(|error| match error {
                Errno::PERM => FileError::Owner { path: full.to_owned(), owner },
                error => failed("give away", full, error),
            })?;
        }
    }
    // After the owner: a change of owner clears bits of the mode.
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
        .map_err(|e| failed("set the mode of", full, e))
}

/// Empties a folder. What lies very deep is moved up to `top`; then the answer is true and the
/// caller begins again.
fn empty(folder: &OwnedFd, top: &OwnedFd, depth: usize, raised: &mut u64) -> Result<bool, Errno> {
    let mut again = false;
    for name in names(folder)? {
        let name = name.as_os_str();
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        if depth >= DEEP {
            *raised += 1;
            rustix::fs::renameat(folder, name, top, format!(".bottle-deep-{raised}"))?;
            again = true;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        again |= empty(&inner, top, depth + 1, raised)?;
        rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    }
    Ok(again)
}

fn names(folder: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

fn open_folder_at(at: impl std::os::fd::AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn sync_folder(folder: &OwnedFd, full: &Path) -> Result<(), FileError> {
    rustix::fs::fsync(folder).map_err(|e| failed("sync the folder of", full, e))
}

fn entry_of(stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    let owner = User { uid: stat.st_uid, gid: stat.st_gid };
    Entry { kind, mode: stat.st_mode & 0o7777, owner }
}

fn failed(action: &'static str, path: &Path, error: Errno) -> FileError {
    FileError::Io { action, path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    fn rel(path: &str) -> RelPath {
        RelPath::new(path).expect("valid")
    }

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Root::open(folder.path()).expect("readable").expect("there");
        (folder, root)
    }

    #[test]
    fn writes_reads_and_removes() {
        let (folder, root) = root();
        root.make_folder(&rel("in"), 0o750, None).expect("made");
        root.write(&rel("in/a"), b"one", 0o640, None).expect("written");
        root.write(&rel("in/a"), b"two", 0o600, None).expect("written again");
        let read = root.read(&rel("in/a")).expect("readable").expect("there");
        assert_eq!((read.bytes.as_slice(), read.mode), (b"two".as_slice(), 0o600));
        assert_eq!(read.digest, Digest::of(b"two"));
        assert_eq!(root.entry(&rel("in")).expect("ok").expect("there").mode, 0o750);
        assert_eq!(root.list(Some(&rel("in"))).expect("ok"), ["a"]);
        assert!(!root.remove_folder_if_empty(&rel("in")).expect("ok"));
        assert!(root.remove(&rel("in/a")).expect("ok"));
        assert!(!root.remove(&rel("in/a")).expect("ok"));
        assert!(root.remove_folder_if_empty(&rel("in")).expect("ok"));
        assert_eq!(std::fs::read_dir(folder.path()).expect("ok").count(), 0);
        assert_eq!(root.read(&rel("nowhere/a")).expect("ok"), None);
    }

    #[test]
    fn the_owner_is_set_at_creation() {
        let (folder, root) = root();
        let owner = User { uid: 1234, gid: 2345 };
        root.make_folder(&rel("in"), 0o700, Some(owner)).expect("made");
        root.write(&rel("in/a"), b"x", 0o600, Some(owner)).expect("written");
        for path in ["in", "in/a"] {
            let meta = std::fs::metadata(folder.path().join(path)).expect("there");
            assert_eq!((meta.uid(), meta.gid()), (1234, 2345), "{path}");
        }
        assert_eq!(root.read(&rel("in/a")).expect("ok").expect("there").owner, owner);
    }

    #[test]
    fn a_link_in_the_way_is_an_error_and_is_not_followed() {
        let (folder, root) = root();
        let outside = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(outside.path().join("a"), "untouched").expect("written");
        symlink(outside.path(), folder.path().join("in")).expect("linked");
        symlink(outside.path().join("a"), folder.path().join("b")).expect("linked");
        let texts = [
            root.write(&rel("in/a"), b"x", 0o600, None).expect_err("a link").to_string(),
            root.make_folder(&rel("in/sub"), 0o700, None).expect_err("a link").to_string(),
            root.make_folder(&rel("in"), 0o700, None).expect_err("a link").to_string(),
            root.remove(&rel("in/a")).expect_err("a link").to_string(),
            root.remove_tree(&rel("in")).expect_err("a link").to_string(),
            root.write(&rel("b"), b"x", 0o600, None).expect_err("a link").to_string(),
            root.read(&rel("b")).expect_err("a link").to_string(),
            root.remove(&rel("b")).expect_err("a link").to_string(),
            root.open_file(&rel("b")).expect_err("a link").to_string(),
        ];
        for text in texts {
            assert!(text.ends_with("found a symbolic link"), "{text}");
        }
        assert_eq!(std::fs::read_to_string(outside.path().join("a")).expect("ok"), "untouched");
        assert_eq!(std::fs::read_dir(outside.path()).expect("ok").count(), 1);
    }

    #[test]
    fn a_pipe_in_the_way_does_not_block() {
        let (folder, root) = root();
        let made = Command::new("mkfifo").arg(folder.path().join("p")).status().expect("ran");
        assert!(made.success());
        let text = root.read(&rel("p")).expect_err("a pipe").to_string();
        assert!(text.ends_with("found a special file"), "{text}");
    }

    #[test]
    fn a_tree_is_removed_without_leaving_it() {
        let (folder, root) = root();
        let outside = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(outside.path().join("a"), "untouched").expect("written");
        let mut deep = folder.path().join("t");
        for _ in 0..200 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).expect("made");
        std::fs::write(deep.join("f"), "x").expect("written");
        symlink(outside.path(), folder.path().join("t/link")).expect("linked");
        root.remove_tree(&rel("t")).expect("removed");
        root.remove_tree(&rel("t")).expect("nothing there");
        assert!(!folder.path().join("t").exists());
        assert!(outside.path().join("a").exists());
    }

    #[test]
    fn a_rename_takes_no_name_that_is_taken() {
        let (_folder, root) = root();
        for name in ["a", "b"] {
            root.make_folder(&rel(name), 0o700, None).expect("made");
        }
        assert!(!root.rename(&rel("a"), &rel("b")).expect("ok"));
        assert!(root.rename(&rel("a"), &rel("c")).expect("ok"));
        assert_eq!(root.list(None).expect("ok"), ["b", "c"]);
    }

    #[test]
    fn what_a_crash_left_is_cleared() {
        let (folder, root) = root();
        let temporary = folder.path().join(temporary_name("a"));
        std::fs::write(&temporary, "half").expect("written");
        root.write(&rel("a"), b"whole", 0o600, None).expect("written");
        assert_eq!(root.list(None).expect("ok"), ["a"]);
        std::fs::create_dir(&temporary).expect("made");
        root.write(&rel("a"), b"again", 0o600, None).expect("written");
        assert!(is_temporary(&temporary_name("a")));
        root.make_folder(&rel("in"), 0o700, None).expect("made");
        std::fs::write(folder.path().join("in").join(temporary_name("b")), "half")
            .expect("written");
        std::fs::create_dir(folder.path().join("in").join(temporary_name("c"))).expect("made");
        assert!(root.remove_folder_if_empty(&rel("in")).expect("ok"), "what is left is no content");
    }

    /// A file system of 64 KiB.
    struct Small(tempfile::TempDir);

    impl Small {
        fn mount() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"])
                .arg(folder.path())
                .status()
                .expect("ran");
            assert!(mounted.success(), "this test mounts a file system, so it needs root");
            Self(folder)
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_content_and_no_rest() {
        let small = Small::mount();
        let root = Root::open(small.0.path()).expect("readable").expect("there");
        root.write(&rel("a"), b"old", 0o600, None).expect("fits");
        let error = root.write(&rel("a"), &vec![7; 100 << 10], 0o600, None).expect_err("full");
        let FileError::Io { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(root.read(&rel("a")).expect("ok").expect("there").bytes, b"old");
        assert_eq!(root.list(None).expect("ok"), ["a"]);
        let mode = std::fs::metadata(small.0.path().join("a")).expect("ok").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
