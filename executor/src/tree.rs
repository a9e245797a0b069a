//! A folder's content as one digest: what a plan binds when it copies a folder.
//!
//! A Merkle digest over names, kinds, executable bits, link targets and contents. Links are never
//! followed, from the first component below the root on; owners, times and other permission bits
//! are left out, because packing ([`crate::pack`]) does not keep them either.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bottle_planner::snapshot::Tree;
use bottle_planner::words::Digest;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat, openat2, readlinkat,
    statat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Begins the hash of every folder: another format is another prefix.
const FORMAT: &[u8] = b"bottle-tree-1\n";
/// Files that one thread takes at a time.
const CHUNK: usize = 128;
/// The most threads that hash; more would wait for the disk.
const MOST_THREADS: usize = 8;

/// Why a folder could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The system said no.
    #[error("cannot read {}", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that has no content to copy.
    #[error("{} is a {kind}: only files, folders and links can be copied", path.display())]
    Special {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It changed while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// What changed.
        path: PathBuf,
    },
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// A glob that could not be understood.
#[derive(Debug, thiserror::Error)]
#[error("expected a glob over files, found `{}`", glob.escape_debug())]
pub struct HideError {
    /// The glob as it was written.
    pub glob: String,
    /// What is wrong with it.
    pub source: globset::Error,
}

/// Which files of a folder are left out.
///
/// A glob without a slash is matched with the last part of a path, at any depth; one with a slash,
/// with the whole path below the root. `*` never crosses a slash, `**` stands for whole parts. A
/// folder that matches is left out with all that is in it.
#[derive(Debug, Clone, Default)]
pub struct Hide {
    names: GlobSet,
    paths: GlobSet,
}

impl Hide {
    /// Nothing is left out.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// What these globs match is left out.
    pub fn new<S: AsRef<str>>(globs: impl IntoIterator<Item = S>) -> Result<Self, HideError> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for glob in globs {
            let text = glob.as_ref();
            let wrong = |source| HideError { glob: text.to_owned(), source };
            let body = text.strip_suffix('/').unwrap_or(text);
            let glob = GlobBuilder::new(body).literal_separator(true).build().map_err(wrong)?;
            if body.contains('/') {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let wrong = |source| HideError { glob: String::new(), source };
        Ok(Self { names: names.build().map_err(wrong)?, paths: paths.build().map_err(wrong)? })
    }

    /// Whether a path below the root is left out. (What lies in a folder that is left out is
    /// never asked for.)
    #[must_use]
    pub fn hides(&self, path: &Path) -> bool {
        self.paths.is_match(path) || path.file_name().is_some_and(|n| self.names.is_match(n))
    }
}

/// Reads a folder and answers its digest, and how much is in it. Blocks; several threads hash.
pub fn digest(root: &Path, hide: &Hide) -> Result<Tree, TreeError> {
    let folders = walk(root, hide)?;
    let mut sum = Sum::default();
    let raw = fold(&folders, Path::new(""), &mut sum, &mut |_, _, _| {});
    Ok(sum.tree(raw))
}

/// The same, and everything that was found: its path, what it is, and what is in a file.
pub(crate) fn index(root: &Path, hide: &Hide, each: &mut Each<'_>) -> Result<Tree, TreeError> {
    let folders = walk(root, hide)?;
    let mut sum = Sum::default();
    let raw = fold(&folders, Path::new(""), &mut sum, each);
    Ok(sum.tree(raw))
}

/// Whom [`index`] tells.
pub(crate) type Each<'e> = dyn FnMut(PathBuf, &Kind, Content) + 'e;

fn walk(root: &Path, hide: &Hide) -> Result<BTreeMap<PathBuf, Found>, TreeError> {
    let fd = open_root(root)?;
    let work = Work::new(Job::Folder(PathBuf::new()));
    let threads =
        std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, MOST_THREADS));
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| work.run(root, fd.as_fd(), hide));
        }
        work.run(root, fd.as_fd(), hide);
    });
    let state = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.error {
        Some(error) => Err(error),
        None => Ok(state.folders),
    }
}

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: OsString,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    /// What its mode is, is known once it was opened: a listing does not ask for it.
    File,
    Link {
        target: Vec<u8>,
    },
}

/// Opens the folder that a person named: links in *its* path are theirs.
pub(crate) fn open_root(root: &Path) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(root, flags, Mode::empty()).map_err(|e| read_error(root, e))
}

/// Opens a folder below an open one by its whole path: no part of it may be a link. For walks that
/// keep paths of what they have not seen yet, since a descriptor each would soon be too many.
pub(crate) fn open_below(
    top: BorrowedFd<'_>,
    below: &Path,
    shown: &Path,
) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    openat2(top, path, flags, Mode::empty(), resolve).map_err(|e| read_error(shown, e))
}

pub(crate) fn open_folder(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    shown: &Path,
) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|e| read_error(shown, e))
}

/// A regular file that was opened.
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) executable: bool,
}

/// Opens a regular file, whatever took its place since it was listed.
pub(crate) fn open_file(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    shown: &dyn Fn() -> PathBuf,
) -> Result<Opened, TreeError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty()).map_err(|e| read_error(&shown(), e))?;
    let stat = fstat(&fd).map_err(|e| read_error(&shown(), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(TreeError::Changed { path: shown() });
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(Opened { file: File::from(fd), size, executable: stat.st_mode & 0o100 != 0 })
}

/// What is in an open folder less what is hidden, sorted bytewise by name.
pub(crate) fn list(
    root: &Path,
    folder: BorrowedFd<'_>,
    below: &Path,
    hide: &Hide,
) -> Result<Vec<Entry>, TreeError> {
    let shown = root.join(below);
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder).map_err(|e| read_error(&shown, e))? {
        let entry = entry.map_err(|e| read_error(&shown, e))?;
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        let path = below.join(&name);
        if name == "." || name == ".." || hide.hides(&path) {
            continue;
        }
        let shown = || root.join(&path);
        // The listing says what it is, but on a few file systems.
        let listed = match entry.file_type() {
            FileType::Unknown => match statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                // Gone since it was listed.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(read_error(&shown(), error)),
            },
            listed => listed,
        };
        let kind = match listed {
            FileType::Directory => Kind::Folder,
            FileType::RegularFile => Kind::File,
            FileType::Symlink => {
                let target = readlinkat(folder, &name, Vec::new());
                Kind::Link { target: target.map_err(|e| read_error(&shown(), e))?.into_bytes() }
            }
            other => return Err(TreeError::Special { path: shown(), kind: kind_name(other) }),
        };
        entries.push(Entry { name, kind });
    }
    entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(entries)
}

/// The first thing in a folder below the root that is not hidden; `None` where there is none.
pub(crate) fn first(root: &Path, below: &Path, hide: &Hide) -> Result<Option<OsString>, TreeError> {
    let top = open_root(root)?;
    let folder = match descend(root, top.as_fd(), below) {
        Ok(folder) => folder,
        Err(TreeError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        // A file or a link at that place is something, too.
        Err(_) if hide.hides(below) => return Ok(None),
        // A file or a link at that place is something, too.
        Err(TreeError::Read { source, .. })
            if [Errno::NOTDIR, Errno::LOOP]
                .map(Errno::raw_os_error)
                .map(Some)
                .contains(&source.raw_os_error()) =>
        {
            return Ok(Some(OsString::new()));
        }
        Err(error) => return Err(error),
    };
    let folder = folder.as_ref().map_or(top.as_fd(), |f| f.as_fd());
    Ok(list(root, folder, below, hide)?.into_iter().next().map(|entry| entry.name))
}

/// The hash of a folder, from its entries in order.
pub(crate) struct FolderHash(Sha256);

impl FolderHash {
    pub(crate) fn new() -> Self {
        Self(Sha256::new_with_prefix(FORMAT))
    }

    /// Adds an entry with the hash of what it holds: a folder's, a content's, or a target's.
    pub(crate) fn add(&mut self, entry: &Entry, executable: bool, hash: &[u8]) {
        let kind: &[u8] = match entry.kind {
            Kind::Folder => b"d",
            Kind::File if executable => b"x",
            Kind::File => b"f",
            Kind::Link { .. } => b"l",
        };
        let name = entry.name.as_bytes();
        self.0.update(kind);
        self.0.update((name.len() as u64).to_be_bytes());
        self.0.update(name);
        self.0.update(hash);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Counts on the way.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Sum {
    pub(crate) fn tree(self, raw: [u8; 32]) -> Tree {
        Tree { digest: Digest::from_raw(&raw), files: self.files, bytes: self.bytes }
    }
}

pub(crate) type Hash = [u8; 32];

/// What is in a file, once it is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Content {
    pub(crate) hash: Hash,
    pub(crate) size: u64,
    pub(crate) executable: bool,
}

/// What was found in one folder: entries, and what is in its files once known.
#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    hashes: HashMap<OsString, Content>,
}

enum Job {
    Folder(PathBuf),
    Files(PathBuf, Vec<OsString>),
}

struct State {
    jobs: Vec<Job>,
    /// Jobs that are waiting or under way.
    open: usize,
    folders: BTreeMap<PathBuf, Found>,
    error: Option<TreeError>,
}

/// The jobs of one digest, shared by its threads.
struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

impl Work {
    fn new(first: Job) -> Self {
        let state = State { jobs: vec![first], open: 1, folders: BTreeMap::new(), error: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, root: &Path, top: BorrowedFd<'_>, hide: &Hide) {
        let mut buffer = vec![0; 128 << 10];
        while let Some(job) = self.next() {
            let done = match job {
                Job::Folder(below) => self.folder(root, top, below, hide),
                Job::Files(below, names) => self.files(root, top, &below, names, &mut buffer),
            };
            let mut state = self.lock();
            state.open -= 1;
            if let Err(error) = done {
                // The first by path, so that one folder has one error.
                let first = state.error.take().filter(|e| shown(e) <= shown(&error));
                state.error = Some(first.unwrap_or(error));
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop() {
                return Some(job);
            }
            if state.open == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn folder(
        &self,
        root: &Path,
        top: BorrowedFd<'_>,
        below: PathBuf,
        hide: &Hide,
    ) -> Result<(), TreeError> {
        let folder = descend(root, top, &below)?;
        let entries = list(root, folder.as_ref().map_or(top, |f| f.as_fd()), &below, hide)?;
        let files = entries.iter().filter(|e| e.kind == Kind::File);
        let names: Vec<OsString> = files.map(|e| e.name.clone()).collect();
        let folders = entries.iter().filter(|e| e.kind == Kind::Folder);
        let mut jobs: Vec<Job> = folders.map(|e| Job::Folder(below.join(&e.name))).collect();
        jobs.extend(names.chunks(CHUNK).map(|c| Job::Files(below.clone(), c.to_vec())));
        let mut state = self.lock();
        state.open += jobs.len();
        state.jobs.extend(jobs);
        state.folders.insert(below, Found { entries, hashes: HashMap::new() });
        Ok(())
    }

    fn files(
        &self,
        root: &Path,
        top: BorrowedFd<'_>,
        below: &Path,
        names: Vec<OsString>,
        buffer: &mut [u8],
    ) -> Result<(), TreeError> {
        let folder = descend(root, top, below)?;
        let folder = folder.as_ref().map_or(top, |f| f.as_fd());
        let mut hashes = Vec::with_capacity(names.len());
        for name in names {
            let shown = || root.join(below).join(&name);
            let mut opened = open_file(folder, &name, &shown)?;
            let mut hash = Sha256::new();
            let mut size = 0;
            // One that is as long as it was said to be needs no further read to find its end.
            while size < opened.size {
                let read = |source| TreeError::Read { path: shown(), source };
                let n = opened.file.read(buffer).map_err(read)?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                size += n as u64;
            }
            let executable = opened.executable;
            hashes.push((name, Content { hash: hash.finalize().into(), size, executable }));
        }
        if let Some(found) = self.lock().folders.get_mut(below) {
            found.hashes.extend(hashes);
        }
        Ok(())
    }
}

/// Opens a folder below the root part by part; `None` is the root itself.
fn descend(root: &Path, top: BorrowedFd<'_>, below: &Path) -> Result<Option<OwnedFd>, TreeError> {
    let mut folder: Option<OwnedFd> = None;
    for part in below {
        let parent = folder.as_ref().map_or(top, |f| f.as_fd());
        folder = Some(open_folder(parent, part, &root.join(below))?);
    }
    Ok(folder)
}

fn fold(
    folders: &BTreeMap<PathBuf, Found>,
    below: &Path,
    sum: &mut Sum,
    each: &mut Each<'_>,
) -> Hash {
    let mut hash = FolderHash::new();
    let empty = Found::default();
    let found = folders.get(below).unwrap_or(&empty);
    for entry in &found.entries {
        let path = below.join(&entry.name);
        let content = match &entry.kind {
            Kind::Folder => Content { hash: fold(folders, &path, sum, each), ..Content::default() },
            Kind::Link { target } => {
                sum.files += 1;
                Content { hash: Sha256::digest(target).into(), ..Content::default() }
            }
            Kind::File => {
                let content = found.hashes.get(&entry.name).copied().unwrap_or_default();
                sum.files += 1;
                sum.bytes += content.size;
                content
            }
        };
        hash.add(entry, content.executable, &content.hash);
        each(path, &entry.kind, content);
    }
    hash.finish()
}

fn shown(error: &TreeError) -> Option<&Path> {
    match error {
        TreeError::Read { path, .. }
        | TreeError::Special { path, .. }
        | TreeError::Changed { path } => Some(path),
        TreeError::Write(_) => None,
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "special file",
    }
}

pub(crate) fn read_error(path: &Path, error: Errno) -> TreeError {
    TreeError::Read { path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        folder
    }

    fn tree(folder: &tempfile::TempDir, hide: &[&str]) -> Tree {
        digest(folder.path(), &Hide::new(hide).expect("globs")).expect("read")
    }

    #[test]
    fn content_names_kinds_and_the_executable_bit_count() {
        let files = [("a", "1"), ("b/c", "22"), ("b/d", "")];
        let base = tree(&folder(&files), &[]);
        assert_eq!((base.files, base.bytes), (3, 3));
        assert_eq!(tree(&folder(&files), &[]), base, "no clock, no inode");
        assert_ne!(
            tree(&folder(&[("a", "2"), ("b/c", "22"), ("b/d", "")]), &[]).digest,
            base.digest
        );
        assert_ne!(
            tree(&folder(&[("x", "1"), ("b/c", "22"), ("b/d", "")]), &[]).digest,
            base.digest
        );
        assert_ne!(
            tree(&folder(&[("a", "1"), ("bc", "22"), ("b/d", "")]), &[]).digest,
            base.digest
        );
        let other = folder(&files);
        let mode = |mode| {
            fs::set_permissions(other.path().join("a"), fs::Permissions::from_mode(mode)).unwrap();
            tree(&other, &[]).digest
        };
        assert_ne!(mode(0o755), base.digest);
        assert_eq!(mode(0o600), base.digest, "only the executable bit counts");
        fs::create_dir(other.path().join("empty")).unwrap();
        assert_ne!(tree(&other, &[]).digest, base.digest, "an empty folder is there too");
    }

    #[test]
    fn links_are_not_followed() {
        let folder = folder(&[("a", "1")]);
        symlink("/etc", folder.path().join("out")).unwrap();
        symlink("a", folder.path().join("in")).unwrap();
        let before = tree(&folder, &[]);
        assert_eq!((before.files, before.bytes), (3, 1));
        fs::remove_file(folder.path().join("in")).unwrap();
        symlink("b", folder.path().join("in")).unwrap();
        assert_ne!(tree(&folder, &[]).digest, before.digest, "the target counts");
    }

    #[test]
    fn hidden_files_leave_no_trace() {
        let plain = folder(&[("a", "1"), ("b/c", "2")]);
        let more = folder(&[
            ("a", "1"),
            (".env", "s"),
            ("b/c", "2"),
            ("b/.env.local", "s"),
            ("node/x/y", "3"),
            ("b/deep/keep.pem", "s"),
        ]);
        fs::create_dir(plain.path().join("b/deep")).unwrap();
        assert_eq!(tree(&more, &[".env*", "node/", "b/**/*.pem"]), tree(&plain, &[]));
        let hide = Hide::new(["b/*"]).unwrap();
        assert!(hide.hides(Path::new("b/c")) && !hide.hides(Path::new("b/c/d")));
        assert!(!hide.hides(Path::new("x/b/c")));
        assert!(Hide::new(["[z-a]"]).unwrap_err().to_string().contains("[z-a]"));
    }

    #[test]
    fn special_files_are_refused_by_name() {
        let folder = folder(&[("a", "1")]);
        let socket = folder.path().join("s");
        let _kept = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let refused = digest(folder.path(), &Hide::nothing()).expect_err("a socket");
        assert_eq!(
            refused.to_string(),
            format!(
                "{} is a socket: only files, folders and links can be copied",
                socket.display()
            )
        );
        assert_eq!(tree(&folder, &["s"]).files, 1);
        let missing = digest(Path::new("/nonexistent"), &Hide::nothing()).expect_err("missing");
        assert_eq!(missing.to_string(), "cannot read /nonexistent");
    }

    #[test]
    fn many_files_in_many_folders() {
        let names: Vec<String> = (0..2000).map(|n| format!("{}/{}/f{n}", n % 7, n % 11)).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), n.as_str())).collect();
        let (one, two) = (folder(&files), folder(&files));
        let tree_of_one = tree(&one, &[]);
        assert_eq!(tree_of_one.files, 2000);
        assert_eq!(tree_of_one, tree(&two, &[]));
    }
}
