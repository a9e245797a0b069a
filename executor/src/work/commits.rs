//! An agent's commits, on their way into the host's repository.
//!
//! The agent's `.git` is data: of what the engine packs of it, objects and the values of refs alone
//! are put into a repository that is made here, with a configuration of ours. From there git fetches
//! what the branch leads to, checked (`fsckObjects`), into a quarantine, which is what is shown; and
//! from the quarantine, on a yes, into the host's repository. Configuration, hooks, alternates,
//! grafts, the index, commit graphs and the agent's own pack indexes are never looked at.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::arrival::{Arrival, Hash, Item, LIMITS, Limits};
use super::change::{self, Base};
use super::git::{Git, GitError};
use super::spool::Spool;
use crate::files::{FileError, Root};
use crate::ledger::own;

/// How many commits that the host does not have may stand for branches, stashes and tags.
const MOST_TIPS: usize = 200;
/// Bytes of a file of refs.
const LONGEST_REFS: u64 = 16 << 20;
/// Bytes of where a link points to (`PATH_MAX` of Linux).
const LONGEST_TARGET: u64 = 4096;
/// The agent's last stash; those before it are in its log alone.
const STASH: &str = "refs/stash";
const STASHES: &str = ".git/logs/refs/stash";
/// What a repository that is made here keeps to: a content beyond is shown by its name, and neither
/// it nor many at once are held in memory.
const BOUNDED: &str =
    "[core]\n\tbigFileThreshold = 2m\n[pack]\n\twindowMemory = 64m\n\tthreads = 4\n";
/// The ref in the quarantine that comes back.
const HEAD: &str = "refs/bottle/head";
/// The commit that the workspace began with, in the quarantine.
const START: &str = "refs/bottle/start";

/// Why an agent's commits do not come back.
#[derive(Debug, thiserror::Error)]
pub enum CommitsError {
    /// Its repository is not one that can be read.
    #[error("expected {expected} in the workspace, found {found}")]
    Repository {
        /// What was looked for.
        expected: &'static str,
        /// What there is.
        found: String,
    },
    /// git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The quarantine could not be made.
    #[error("cannot make the quarantine for commits")]
    Io(#[from] io::Error),
    /// The same.
    #[error(transparent)]
    File(#[from] FileError),
    /// More than is looked at.
    #[error("expected at most {limit} {of}, found more")]
    TooMuch {
        /// The limit.
        limit: u64,
        /// Of what.
        of: &'static str,
    },
    /// The host's branch is somewhere else than where the agent or an earlier pull left it.
    #[error("branch {branch} is at {found}, expected {expected}")]
    Moved {
        /// Which.
        branch: String,
        /// Where it would have to be.
        expected: String,
        /// Where it is.
        found: String,
    },
    /// The branch is checked out: its files would be out of step.
    #[error("branch {branch} is checked out in {place}")]
    CheckedOut {
        /// Which.
        branch: String,
        /// Where.
        place: String,
    },
}

/// The agent's commits in quarantine.
#[derive(Debug)]
pub struct Commits {
    scratch: Root,
    name: String,
    git: Git,
    /// What its `HEAD` stands at.
    pub head: String,
    /// The commit that the workspace began with.
    pub start: String,
    /// How many commits `HEAD` has that the start has not.
    pub count: u64,
    /// Other branches, stashes and tags with commits that neither has, nor a branch of the host's,
    /// and how many: they stay behind. What is no branch has its full name.
    pub others: Vec<(String, u64)>,
    /// Such that are not in quarantine, because there are too many, and the commit of each.
    pub beyond: Vec<(String, String)>,
    /// Every commit that a branch of the agent's stands at.
    pub tips: BTreeSet<String>,
}

/// A path that the commits change.
#[derive(Debug)]
pub struct Changed {
    /// Below the top of the repository.
    pub path: PathBuf,
    /// What is there after them.
    now: Option<Item>,
}

impl Changed {
    /// Why a host that checks the commits out would execute it; `None` where it would not.
    #[must_use]
    pub fn is_executed(&self) -> Option<String> {
        change::is_executed(&self.path, self.now.as_ref())
    }
}

/// A line of the list of commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its name, shortened.
    pub short: String,
    /// Who wrote it, as it says.
    pub author: String,
    /// Its first line.
    pub subject: String,
}

impl Commits {
    /// Whether a repository has no commit that anything names: one that was made anew.
    pub(crate) fn none(arrival: &Arrival, spool: &Spool) -> Result<bool, CommitsError> {
        let refs = Refs::read(arrival, spool)?;
        Ok(refs.head.is_none() && refs.all.is_empty())
    }

    /// Takes them out of what arrived.
    pub(crate) fn take(
        arrival: &Arrival,
        spool: &Spool,
        host: &Path,
        start: &str,
        scratch: &Path,
        path: Option<&OsString>,
    ) -> Result<Self, CommitsError> {
        match arrival.items.get(Path::new(".git")) {
            Some(Item::Folder) => {}
            None => return Err(repository("a folder .git", "none")),
            Some(_) => return Err(repository("a folder .git", "something else of that name")),
        }
        let refs = Refs::read(arrival, spool)?;
        let head = refs.head.clone().ok_or_else(|| repository("a commit in HEAD", "none"))?;
        let scratch = Root::open_or_make(scratch)?;
        let name = format!("commits-{}", std::process::id());
        scratch.remove_tree(&own(&name)?)?;
        let folder = scratch.path().join(&name);
        DirBuilder::new().mode(0o700).create(&folder)?;
        let made = Git::new(&folder, path);
        let mut commits = Self {
            scratch,
            name,
            git: Git::new(&folder.join("quarantine"), path),
            head: head.clone(),
            start: start.to_owned(),
            count: 0,
            others: Vec::new(),
            beyond: Vec::new(),
            tips: refs.all.values().cloned().chain([head.clone()]).collect(),
        };
        for bare in ["export", "quarantine"] {
            made.run(&["init", "--quiet", "--bare", "--template=", bare])?;
            let config = File::options().append(true).open(folder.join(bare).join("config"));
            config?.write_all(BOUNDED.as_bytes())?;
        }
        let export = Git::new(&folder.join("export"), path);
        objects(arrival, spool, &export)?;
        export.run(&["update-ref", HEAD, &head])?;
        let mut taken = refs.strange(&export, &Git::new(host, path), &[&head, start])?;
        commits.beyond = taken.split_off(taken.len().min(MOST_TIPS));
        for (n, (_, tip)) in taken.iter().enumerate() {
            export.run(&["update-ref", &format!("refs/bottle/{n}"), tip])?;
        }
        let of_host = Git::new(host, path).line(&["rev-parse", "--git-path", "objects"])?;
        let of_host = host.join(of_host);
        let info = folder.join("quarantine/objects/info");
        fs::create_dir_all(&info)?;
        let mut line = of_host.as_os_str().as_bytes().to_vec();
        line.push(b'\n');
        fs::write(info.join("alternates"), line)?;
        commits.git.run(&["update-ref", START, start])?;
        commits.git.run(&[
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "../export",
            "+refs/bottle/*:refs/bottle/*",
        ])?;
        commits.count = commits.counted(&head, &[start])?;
        for (n, (name, _)) in taken.into_iter().enumerate() {
            let more = commits.counted(&format!("refs/bottle/{n}"), &[start, &head])?;
            if more > 0 {
                let branch = name.strip_prefix("refs/heads/").map(str::to_owned);
                commits.others.push((branch.unwrap_or(name), more));
            }
        }
        Ok(commits)
    }

    fn counted(&self, of: &str, without: &[&str]) -> Result<u64, GitError> {
        let mut arguments = vec!["rev-list", "--count", of, "--not"];
        arguments.extend(without);
        Ok(self.git.line(&arguments)?.parse().unwrap_or(u64::MAX))
    }

    /// Whether any branch has commits that are reachable from none of these, which upstream has.
    pub(crate) fn unknown_to(&self, upstream: &BTreeSet<String>) -> Result<bool, GitError> {
        let there = found(&self.git, upstream.iter(), "^{commit}")?;
        let known: String = there.values().map(|oid| format!("^{oid}\n")).collect();
        let arguments = ["rev-list", "--count", "--stdin", "--glob=refs/bottle/*", "--not", START];
        let count = self.git.run_with(&arguments, known.as_bytes())?;
        Ok(count.trim_ascii() != b"0")
    }

    /// Whether there are more branches than are in quarantine, of which these are not the tips.
    pub(crate) fn is_beyond(&self, known: &BTreeSet<String>) -> bool {
        self.beyond.iter().any(|(_, tip)| !known.contains(tip))
    }

    /// The commits that come back, the newest first, at most `most`.
    pub fn log(&self, most: usize) -> Result<Vec<Commit>, GitError> {
        let range = format!("{}..{}", self.start, self.head);
        let most = format!("--max-count={most}");
        let out =
            self.git.run(&["log", "-z", "--format=%h%x01%an <%ae>%x01%s", &most, &range, "--"])?;
        let text = String::from_utf8_lossy(&out);
        let commit = |line: &str| {
            let mut parts = line.splitn(3, '\u{1}').map(str::to_owned);
            Some(Commit { short: parts.next()?, author: parts.next()?, subject: parts.next()? })
        };
        Ok(text.split('\0').filter_map(commit).collect())
    }

    /// What the commits change together, as a patch for people: of binaries and of what is too long
    /// to read the names alone.
    pub fn patch(&self) -> Result<Vec<u8>, GitError> {
        self.git.run(&[
            "diff",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--no-renames",
            &self.start,
            &self.head,
            "--",
        ])
    }

    /// The paths that the commits change.
    pub fn changed(&self) -> Result<Vec<Changed>, CommitsError> {
        changed(&self.git, &self.start, &self.head)
    }

    /// Everything that the agent committed on any branch, as a bundle of git.
    pub(crate) fn bundle(&self, to: &Path) -> Result<(), GitError> {
        let mut arguments: Vec<OsString> =
            ["bundle", "create", "--quiet"].into_iter().map(OsString::from).collect();
        arguments.push(to.into());
        arguments.extend(["--glob=refs/bottle/*", "--not", &self.start].map(OsString::from));
        self.git.run(&arguments).map(drop)
    }

    /// The files of the commit that `HEAD` stands at.
    pub(crate) fn files(&self) -> Result<Base, CommitsError> {
        files(&self.git, &self.head)
    }

    /// A content by its name as a blob.
    pub(crate) fn blob(&self, hash: &Hash) -> Result<Vec<u8>, GitError> {
        self.git.run(&["cat-file", "blob", &super::patch::hex(&hash[..20])])
    }

    /// Puts the commits into the host's repository as this branch. Its work tree, index and current
    /// branch are not touched. `pulled` is where an earlier pull left the branch.
    pub(crate) fn bring(
        &self,
        host: &Path,
        branch: &str,
        pulled: Option<&str>,
    ) -> Result<bool, CommitsError> {
        let git = Git::new(host, self.git_path());
        let full = format!("refs/heads/{branch}");
        let found = git.line(&["rev-parse", "--verify", "--quiet", &full]).ok();
        if found.as_deref() == Some(&self.head) {
            return Ok(false);
        }
        let trees = git.run(&["worktree", "list", "--porcelain", "-z"])?;
        let mut place = String::new();
        for line in String::from_utf8_lossy(&trees).split('\0') {
            if let Some(at) = line.strip_prefix("worktree ") {
                place = bottle_planner::escape::visible(at);
            } else if line.strip_prefix("branch ") == Some(&full) {
                return Err(CommitsError::CheckedOut { branch: branch.to_owned(), place });
            }
        }
        let quarantine = self.git.at().as_os_str().to_owned();
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--"];
        let mut arguments: Vec<OsString> = fetch.map(OsString::from).into();
        arguments.extend([quarantine, HEAD.into()]);
        git.run(&arguments)?;
        let old = match &found {
            None => "0".repeat(self.head.len()),
            Some(found) => {
                let ours = pulled == Some(found)
                    || git.run(&["merge-base", "--is-ancestor", found, &self.head]).is_ok();
                if !ours {
                    return Err(CommitsError::Moved {
                        branch: branch.to_owned(),
                        expected: pulled.unwrap_or("an ancestor of the agent's").to_owned(),
                        found: found.clone(),
                    });
                }
                found.clone()
            }
        };
        git.run(&["update-ref", "-m", "bottle pull", &full, &self.head, &old])?;
        Ok(true)
    }

    fn git_path(&self) -> Option<&OsString> {
        self.git.path()
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next.
        if let Ok(name) = own(&self.name) {
            drop(self.scratch.remove_tree(&name));
        }
    }
}

/// The files of one commit of a repository, contents by their names as blobs.
pub(crate) fn files(git: &Git, commit: &str) -> Result<Base, CommitsError> {
    files_within(git, commit, LIMITS)
}

fn files_within(git: &Git, commit: &str, limits: Limits) -> Result<Base, CommitsError> {
    let out = git.run(&["ls-tree", "-r", "-z", "--full-tree", commit])?;
    let mut base = Base::new();
    let mut room = Room::new(limits);
    let mut links = Vec::new();
    for line in out.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
        let (head, path) = (String::from_utf8_lossy(&line[..tab]).into_owned(), &line[tab + 1..]);
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        let mut words = head.split(' ');
        let (Some(mode), Some(_), Some(oid)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        for above in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            if base.contains_key(above) {
                break;
            }
            room.take(above.as_os_str().len())?;
            base.insert(above.to_owned(), Item::Folder);
        }
        room.take(path.as_os_str().len())?;
        if mode == "120000" {
            links.push((path, oid.to_owned()));
        } else {
            base.insert(path, item(mode, oid));
        }
    }
    let targets = targets(git, links.iter().map(|(_, oid)| oid))?;
    for (path, oid) in links {
        let target = targets.get(&oid).cloned().unwrap_or_default();
        room.take(target.len())?;
        base.insert(path, Item::Link { target });
    }
    Ok(base)
}

/// The paths in which two commits differ, and what the second has there.
fn changed(git: &Git, from: &str, to: &str) -> Result<Vec<Changed>, CommitsError> {
    let arguments =
        ["diff", "--no-ext-diff", "--no-renames", "--no-abbrev", "--raw", "-z", from, to, "--"];
    let out = git.run(&arguments)?;
    let mut parts = out.split(|byte| *byte == 0);
    let mut room = Room::new(LIMITS);
    let mut changes = Vec::new();
    while let (Some(head), Some(path)) = (parts.next(), parts.next()) {
        // `:<mode> <mode> <name> <name> <letter>`
        let head = String::from_utf8_lossy(head);
        let mut words = head.split(' ').skip(1);
        let (Some(mode), Some(_), Some(oid)) = (words.next(), words.next(), words.next()) else {
            return Err(repository("modes and names of what differs", "something else"));
        };
        room.take(path.len())?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        changes.push((path, mode.to_owned(), oid.to_owned()));
    }
    let links = changes.iter().filter(|(_, mode, _)| mode == "120000");
    let targets = targets(git, links.map(|(_, _, oid)| oid))?;
    let mut all = Vec::with_capacity(changes.len());
    for (path, mode, oid) in changes {
        let now = match mode.as_str() {
            "000000" => None,
            "120000" => {
                let target = targets.get(&oid).cloned().unwrap_or_default();
                room.take(target.len())?;
                Some(Item::Link { target })
            }
            mode => Some(item(mode, &oid)),
        };
        all.push(Changed { path, now });
    }
    Ok(all)
}

/// A file as git has it, or a submodule, which is a folder.
fn item(mode: &str, oid: &str) -> Item {
    match mode {
        "160000" => Item::Folder,
        _ => Item::File { hash: hash_of(oid), executable: mode == "100755", size: 0, kept: None },
    }
}

/// What was taken of the limits of names: trees are small where what they name is not.
struct Room {
    limits: Limits,
    entries: u64,
    names: u64,
}

impl Room {
    fn new(limits: Limits) -> Self {
        Self { limits, entries: 0, names: 0 }
    }

    fn take(&mut self, name: usize) -> Result<(), CommitsError> {
        self.entries += 1;
        self.names += name as u64;
        for (n, limit, of) in [
            (self.entries, self.limits.entries, "files in a commit"),
            (self.names, self.limits.names, "bytes of names in a commit"),
        ] {
            if n > limit {
                return Err(CommitsError::TooMuch { limit, of });
            }
        }
        Ok(())
    }
}

/// Where links point to, by the names of their blobs.
fn targets<'o>(
    git: &Git,
    oids: impl Iterator<Item = &'o String>,
) -> Result<BTreeMap<String, Vec<u8>>, CommitsError> {
    let oids: BTreeSet<&String> = oids.collect();
    let input: String = oids.iter().map(|oid| format!("{oid}\n")).collect();
    if input.is_empty() {
        return Ok(BTreeMap::new());
    }
    // Their sizes first: what is too long for a link is not read.
    let out = git.run_with(&["cat-file", "--batch-check=%(objectsize)"], input.as_bytes())?;
    for line in String::from_utf8_lossy(&out).lines() {
        if line.parse().is_ok_and(|size: u64| size > LONGEST_TARGET) {
            return Err(CommitsError::TooMuch { limit: LONGEST_TARGET, of: "bytes in a link" });
        }
    }
    let out =
        git.run_with(&["cat-file", "--batch=%(objectname) %(objectsize)"], input.as_bytes())?;
    let mut rest = out.as_slice();
    let mut targets = BTreeMap::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let head = String::from_utf8_lossy(&rest[..end]);
        let found = head.split_once(' ').and_then(|(oid, size)| Some((oid, size.parse().ok()?)));
        let Some((oid, size)) = found else {
            return Err(repository("where each link points to", "no such object"));
        };
        let size: usize = size;
        let (Some(target), Some(after)) =
            (rest.get(end + 1..end + 1 + size), rest.get(end + size + 2..))
        else {
            return Err(repository("where each link points to", "less"));
        };
        targets.insert(oid.to_owned(), target.to_vec());
        rest = after;
    }
    Ok(targets)
}

/// Which of these are commits or tags of a repository, and the name of each; with `^{commit}` behind
/// them those of the commits that they lead to.
fn found<'o>(
    git: &Git,
    oids: impl Iterator<Item = &'o String>,
    behind: &str,
) -> Result<BTreeMap<&'o String, String>, GitError> {
    let oids: Vec<&String> = oids.collect();
    let input: String = oids.iter().map(|oid| format!("{oid}{behind}\n")).collect();
    let check = ["cat-file", "--batch-check=%(objectname) %(objecttype)"];
    let out = git.run_with(&check, input.as_bytes())?;
    let text = String::from_utf8_lossy(&out);
    let is_there = |(oid, line): (&'o String, &str)| {
        let (name, kind) = line.split_once(' ')?;
        matches!(kind, "commit" | "tag").then(|| (oid, name.to_owned()))
    };
    Ok(oids.into_iter().zip(text.lines()).filter_map(is_there).collect())
}

/// Those of these commits and tags that a repository has, and reaches from one of its refs.
fn reached(git: &Git, oids: &BTreeSet<&String>) -> Result<BTreeSet<String>, GitError> {
    let there = found(git, oids.iter().copied(), "^{commit}")?;
    if there.is_empty() {
        return Ok(BTreeSet::new());
    }
    let input: String = there.values().map(|commit| format!("{commit}\n")).collect();
    let out = git.run_with(&["rev-list", "--stdin", "--not", "--all"], input.as_bytes())?;
    let text = String::from_utf8_lossy(&out);
    let unreached: BTreeSet<&str> = text.lines().collect();
    let is_reached = |(_, commit): &(&String, String)| !unreached.contains(commit.as_str());
    Ok(there.into_iter().filter(is_reached).map(|(oid, _)| oid.clone()).collect())
}

fn hash_of(oid: &str) -> Hash {
    let mut hash = [0; 32];
    let digits: Vec<u32> = oid.chars().filter_map(|c| c.to_digit(16)).collect();
    for (byte, pair) in hash[..20].iter_mut().zip(digits.chunks(2)) {
        *byte = pair.iter().fold(0, |value, digit| value << 4 | u8::try_from(*digit).unwrap_or(0));
    }
    hash
}

/// Copies objects, each named as an object is, and indexes packs anew.
fn objects(arrival: &Arrival, spool: &Spool, export: &Git) -> Result<(), CommitsError> {
    let mut packs = Vec::new();
    for (path, item) in arrival.items.range(PathBuf::from(".git/objects")..) {
        let Ok(below) = path.strip_prefix(".git/objects") else { break };
        let Item::File { kept, size, .. } = item else { continue };
        let Some(name) = object_name(below) else { continue };
        let Some(kept) = kept else {
            let found = format!("an object of {size} bytes");
            return Err(CommitsError::Repository { expected: "objects within the limits", found });
        };
        let to = export.at().join("objects").join(&name);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::options().write(true).create_new(true).open(&to)?;
        spool.copy(*kept, &mut file)?;
        if to.extension().is_some_and(|e| e == "pack") {
            packs.push(to);
        }
    }
    for pack in packs {
        let arguments: [OsString; 2] = ["index-pack".into(), pack.into()];
        export.run(&arguments)?;
    }
    Ok(())
}

/// The name of an object or a pack as git has it; everything else is nobody's.
fn object_name(below: &Path) -> Option<String> {
    let text = below.to_str()?;
    let hexadecimal = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (folder, file) = text.split_once('/')?;
    let loose = hexadecimal(folder, 2) && hexadecimal(file, 38);
    let pack = folder == "pack"
        && file
            .strip_prefix("pack-")
            .and_then(|f| f.strip_suffix(".pack"))
            .is_some_and(|f| hexadecimal(f, 40));
    (loose || pack).then(|| text.to_owned())
}

/// The values of the agent's refs.
struct Refs {
    head: Option<String>,
    /// Branches, stashes and tags by full name: in this order.
    all: BTreeMap<Vec<u8>, String>,
}

impl Refs {
    fn read(arrival: &Arrival, spool: &Spool) -> Result<Self, CommitsError> {
        let read = |path: &Path| -> Result<Vec<u8>, CommitsError> {
            match arrival.items.get(path) {
                None | Some(Item::Folder) => Ok(Vec::new()),
                Some(Item::File { kept: Some(kept), size, .. }) if *size < LONGEST_REFS => {
                    Ok(spool.read(*kept)?)
                }
                // As if it were not there, what it names would go unseen.
                Some(_) => {
                    let found = super::patch::quoted(path);
                    Err(repository("refs in files within the limits", &found))
                }
            }
        };
        let oid = |text: &[u8]| {
            let text = String::from_utf8_lossy(text.trim_ascii_end());
            is_oid(&text).then(|| text.into_owned())
        };
        let mut all = BTreeMap::new();
        let packed = read(Path::new(".git/packed-refs"))?;
        for line in packed.split(|byte| *byte == b'\n') {
            let mut parts = line.splitn(2, |byte| *byte == b' ');
            if let (Some(value), Some(name)) = (parts.next(), parts.next())
                && is_taken(name)
                && let Some(oid) = oid(value)
            {
                all.insert(name.to_owned(), oid);
            }
        }
        for path in arrival.items.range(PathBuf::from(".git/refs")..).map(|(path, _)| path) {
            let Ok(name) = path.strip_prefix(".git") else { break };
            let name = name.as_os_str().as_bytes();
            if is_taken(name)
                && let Some(oid) = oid(&read(path)?)
            {
                all.insert(name.to_owned(), oid);
            }
        }
        // The last line is the stash that the ref stands at.
        let stashes = read(Path::new(STASHES))?;
        let lines = stashes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (n, line) in lines.rev().enumerate().skip(1) {
            if let Some(oid) = line.split(|byte| *byte == b' ').nth(1).and_then(oid) {
                all.insert(format!("{STASH}@{{{n}}}").into_bytes(), oid);
            }
        }
        let head = read(Path::new(".git/HEAD"))?;
        let head = match head.trim_ascii_end().strip_prefix(b"ref: ") {
            Some(name) => all.get(name).cloned(),
            None => oid(&head),
        };
        Ok(Self { head, all })
    }

    /// What stands at commits that are none of these and that the host does not have, one name each.
    fn strange(
        self,
        export: &Git,
        host: &Git,
        known: &[&str],
    ) -> Result<Vec<(String, String)>, CommitsError> {
        // A tip that is not there, or no commit, is the agent's affair.
        let there: BTreeSet<String> =
            found(export, self.all.values(), "")?.into_keys().cloned().collect();
        // What the host cannot say it has counts as the agent's.
        let of_host = reached(host, &there.iter().collect()).unwrap_or_default();
        let mut seen: BTreeSet<String> = known.iter().map(|oid| (*oid).to_owned()).collect();
        let all = self.all.into_iter();
        let strange = all.filter(|(_, tip)| {
            there.contains(tip) && !of_host.contains(tip) && seen.insert(tip.clone())
        });
        Ok(strange.map(|(name, tip)| (String::from_utf8_lossy(&name).into_owned(), tip)).collect())
    }
}

/// Whether a ref of this name is looked at. Names are shown, and never given to git.
fn is_taken(name: &[u8]) -> bool {
    name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/") || name == STASH.as_bytes()
}

pub(crate) fn is_oid(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn repository(expected: &'static str, found: &str) -> CommitsError {
    CommitsError::Repository { expected, found: found.to_owned() }
}
