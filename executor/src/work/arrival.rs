//! What a container holds, read from the archive that the engine packs of it.
//!
//! Everything in such an archive was chosen by an agent. Nothing of it is unpacked: names are taken
//! apart and refused where they could mean another place, contents are hashed as they pass, and
//! only those that somebody wants go on, into a [`Spool`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha1::Digest as _;
use sha2::Sha256;
use tar::EntryType;
use tokio::sync::mpsc;

use super::spool::{Kept, Spool};

/// The most that is read of one place in a container.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the whole archive.
    pub archive: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of their paths and of where links point to, which are held in memory.
    pub names: u64,
    /// Bytes of one content that is brought out.
    pub file: u64,
    /// Bytes of all contents that are brought out.
    pub kept: u64,
}

/// What `pull` and the end of a session keep to. They are in `bottle pull --help`.
pub const LIMITS: Limits = Limits {
    archive: 32 << 30,
    entries: 2_000_000,
    names: 256 << 20,
    file: 256 << 20,
    kept: 4 << 30,
};

/// Bytes of a path below the workspace (`PATH_MAX` of Linux).
const LONGEST_PATH: usize = 4096;
/// How deep folders may lie in each other.
const DEEPEST: usize = 256;
/// What is held in memory of a content before it is known whether it is wanted.
const HELD: u64 = 1 << 20;

/// Why what a container holds was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// The archive ended too soon or makes no sense: it changed while it was packed.
    #[error("expected an archive of the container's files, found it broken")]
    Broken(#[source] io::Error),
    /// A name or a kind of entry that means another place.
    #[error("expected files below the workspace, found {found}")]
    Hostile {
        /// What there is, its name made visible.
        found: String,
    },
    /// More than is read.
    #[error("expected at most {limit} {of}, found more")]
    TooMuch {
        /// The limit.
        limit: u64,
        /// Of what.
        of: &'static str,
    },
    /// The host has no room, or no right, for the spool.
    #[error("cannot keep what was read of the container")]
    Spool(#[source] io::Error),
}

/// A content's hash: SHA-256 of it, or its name as a blob of git, filled up with zeros.
pub(crate) type Hash = [u8; 32];

/// By what contents are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashing {
    /// SHA-256 of the bytes.
    Plain,
    /// SHA-1 as git names a blob.
    Blob,
}

/// One thing below a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Folder,
    File {
        hash: Hash,
        executable: bool,
        size: u64,
        kept: Option<Kept>,
    },
    Link {
        target: Vec<u8>,
    },
    /// A pipe, a device: it has no content.
    Other(&'static str),
}

impl Item {
    /// Whether two are the same but for where their content is kept.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { hash, executable, .. },
                Self::File { hash: other_hash, executable: other_executable, .. },
            ) => hash == other_hash && executable == other_executable,
            (one, other) => one == other,
        }
    }
}

/// All that lies in one folder of a container, by path below it.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    pub(crate) items: BTreeMap<PathBuf, Item>,
    /// Files that were setuid, setgid or sticky: those bits come to no host.
    pub(crate) special_bits: Vec<PathBuf>,
}

/// Which contents are wanted, asked once each content is known.
pub(crate) trait Wants {
    /// A thing that is not looked at, and nothing below it.
    fn skips(&mut self, path: &Path, folder: bool) -> bool;
    /// Whether a content is to be kept.
    fn keeps(&mut self, path: &Path, item: &Item) -> bool;
    /// A content that is kept and small.
    fn seen(&mut self, path: &Path, content: &[u8]);
}

/// Keeps every content.
pub(crate) struct All;

impl Wants for All {
    fn skips(&mut self, _: &Path, _: bool) -> bool {
        false
    }

    fn keeps(&mut self, _: &Path, _: &Item) -> bool {
        true
    }

    fn seen(&mut self, _: &Path, _: &[u8]) {}
}

/// Reads an archive whose entries all lie in one folder.
pub(crate) fn read(
    archive: impl Read,
    spool: &mut Spool,
    wants: &mut dyn Wants,
    hashing: Hashing,
    limits: Limits,
) -> Result<Arrival, ArrivalError> {
    let counted = Counted { inner: archive, left: limits.archive };
    let mut archive = tar::Archive::new(counted);
    let mut arrival = Arrival::default();
    let mut entries = 0;
    let mut names = 0;
    // A folder that is skipped: the engine packs what is in it next.
    let mut skipped: Option<PathBuf> = None;
    for entry in archive.entries().map_err(|e| broken(e, limits))? {
        let mut entry = entry.map_err(|e| broken(e, limits))?;
        entries += 1;
        if entries > limits.entries {
            return Err(ArrivalError::TooMuch { limit: limits.entries, of: "files" });
        }
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            continue;
        }
        let path = match below(&entry.path_bytes())? {
            Some(path) => path,
            None if kind == EntryType::Directory => continue,
            // A single file was asked for; it has the empty path.
            None => PathBuf::new(),
        };
        if skipped.as_ref().is_some_and(|folder| path.starts_with(folder)) {
            continue;
        }
        name(&mut names, path.as_os_str().as_bytes(), limits)?;
        let is_folder = kind == EntryType::Directory;
        if wants.skips(&path, is_folder) {
            skipped = is_folder.then_some(path);
            continue;
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        if parent.is_some_and(|p| arrival.items.get(p) != Some(&Item::Folder)) {
            return Err(hostile("something in what is no folder", path.as_os_str().as_bytes()));
        }
        let mode = entry.header().mode().map_err(|e| broken(e, limits))?;
        let item = match kind {
            EntryType::Directory => Item::Folder,
            EntryType::Regular | EntryType::Continuous => {
                if mode & 0o7000 != 0 {
                    arrival.special_bits.push(path.clone());
                }
                let executable = mode & 0o100 != 0;
                content(&mut entry, &path, executable, spool, wants, hashing, limits)?
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if target.is_empty() || target.len() > LONGEST_PATH || target.contains(&0) {
                    return Err(hostile("a link to nowhere", path.as_os_str().as_bytes()));
                }
                name(&mut names, &target, limits)?;
                Item::Link { target }
            }
            // A second name of a file: its content is the first one's.
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                match below(&target)?.and_then(|first| arrival.items.get(&first).cloned()) {
                    Some(first @ (Item::File { .. } | Item::Link { .. })) => {
                        if let Item::Link { target } = &first {
                            name(&mut names, target, limits)?;
                        }
                        again(first, &path, spool, wants)?
                    }
                    _ => return Err(hostile("a second name of what is not there", &target)),
                }
            }
            EntryType::Fifo => Item::Other("pipe"),
            EntryType::Char | EntryType::Block => Item::Other("device"),
            _ => return Err(hostile("an entry of unknown kind", path.as_os_str().as_bytes())),
        };
        if arrival.items.insert(path.clone(), item).is_some() {
            return Err(hostile("a name twice", path.as_os_str().as_bytes()));
        }
    }
    Ok(arrival)
}

/// Counts a name that is held.
fn name(names: &mut u64, name: &[u8], limits: Limits) -> Result<(), ArrivalError> {
    *names += name.len() as u64;
    if *names > limits.names {
        return Err(ArrivalError::TooMuch { limit: limits.names, of: "bytes of names" });
    }
    Ok(())
}

/// Hashes a content; keeps it where it is wanted and not too large.
fn content(
    entry: &mut tar::Entry<'_, impl Read>,
    path: &Path,
    executable: bool,
    spool: &mut Spool,
    wants: &mut dyn Wants,
    hashing: Hashing,
    limits: Limits,
) -> Result<Item, ArrivalError> {
    let size = entry.size();
    let begin = spool.end();
    let keepable = size <= limits.file && begin + size <= limits.kept;
    let mut hasher = Hasher::new(hashing, size);
    let mut held = Vec::new();
    let mut buffer = [0; 64 << 10];
    let mut read = 0_u64;
    loop {
        let n = entry.read(&mut buffer).map_err(|e| broken(e, limits))?;
        if n == 0 {
            break;
        }
        read += n as u64;
        hasher.update(&buffer[..n]);
        if size <= HELD {
            held.extend_from_slice(&buffer[..n]);
        } else if keepable {
            spool.append(&buffer[..n]).map_err(ArrivalError::Spool)?;
        }
    }
    if read != size {
        return Err(ArrivalError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    let item = Item::File { hash: hasher.finish(), executable, size, kept: None };
    let wanted = wants.keeps(path, &item);
    if size <= HELD {
        if wanted {
            wants.seen(path, &held);
            if keepable {
                spool.append(&held).map_err(ArrivalError::Spool)?;
            }
        }
    } else if !wanted && keepable {
        spool.forget(begin).map_err(ArrivalError::Spool)?;
    }
    let kept = (wanted && keepable).then(|| spool.since(begin));
    let Item::File { hash, .. } = item else { return Ok(item) };
    Ok(Item::File { hash, executable, size, kept })
}

/// A second name of a file: its content may be wanted there though it was not at the first.
fn again(
    first: Item,
    path: &Path,
    spool: &Spool,
    wants: &mut dyn Wants,
) -> Result<Item, ArrivalError> {
    if wants.keeps(path, &first)
        && let Item::File { kept: Some(kept), size, .. } = &first
        && *size <= HELD
    {
        let content = spool.read(*kept).map_err(ArrivalError::Spool)?;
        wants.seen(path, &content);
    }
    Ok(first)
}

/// The path of an entry below the folder that was asked for; `None` is the folder itself.
fn below(name: &[u8]) -> Result<Option<PathBuf>, ArrivalError> {
    let trimmed = name.strip_suffix(b"/").unwrap_or(name);
    let mut parts = trimmed.split(|byte| *byte == b'/');
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
    // The first is the folder's own name, which the engine gives.
    if !parts.next().is_some_and(plain) {
        return Err(hostile("a name from another place", name));
    }
    let mut path = PathBuf::new();
    for (depth, part) in parts.enumerate() {
        if !plain(part) || part.contains(&0) {
            return Err(hostile("a name that leads elsewhere", name));
        }
        if depth >= DEEPEST {
            return Err(ArrivalError::TooMuch {
                limit: DEEPEST as u64,
                of: "folders in each other",
            });
        }
        path.push(OsStr::from_bytes(part));
    }
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(ArrivalError::TooMuch { limit: LONGEST_PATH as u64, of: "bytes in a name" });
    }
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}

fn hostile(what: &str, name: &[u8]) -> ArrivalError {
    let name = bottle_planner::escape::visible(&String::from_utf8_lossy(name));
    let name: String = name.chars().take(200).collect();
    ArrivalError::Hostile { found: format!("{what}: `{name}`") }
}

fn broken(error: io::Error, limits: Limits) -> ArrivalError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            ArrivalError::TooMuch { limit: limits.archive, of: "bytes in all" }
        }
        _ => ArrivalError::Broken(error),
    }
}

/// The hash of a content as it passes.
pub(crate) enum Hasher {
    Plain(Sha256),
    Blob(sha1::Sha1),
}

impl Hasher {
    pub(crate) fn new(hashing: Hashing, size: u64) -> Self {
        match hashing {
            Hashing::Plain => Self::Plain(Sha256::new()),
            Hashing::Blob => Self::Blob(sha1::Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(hash) => hash.update(bytes),
            Self::Blob(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Hash {
        match self {
            Self::Plain(hash) => hash.finalize().into(),
            Self::Blob(hash) => {
                let mut filled = [0; 32];
                filled[..20].copy_from_slice(&hash.finalize());
                filled
            }
        }
    }
}

/// Reads at most so much, and says so where there is more.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}

/// Reads the pieces that an engine sends, on a thread that may wait for them.
pub(crate) struct Pieces {
    from: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Pieces {
    pub(crate) fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self { from, piece: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len());
        buffer[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}
