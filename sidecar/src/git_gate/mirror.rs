//! One upstream's mirror: a bare repository that holds upstream's branches and tags and nothing
//! else, and is brought up to date before each use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bottle_planner::policy::GitRemote;
use bottle_planner::words::Name;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::git::{Done, Git, run};
use super::kept::Kept;
use super::layout::Layout;
use super::setup::Way;
use crate::log;

/// How long upstream may take for a refresh: a first one brings everything.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Nothing that is asked of upstream here has a longer answer.
const LONGEST: u64 = 64 << 20;
/// With more packs than this, reading gets slow: they are put together.
const MOST_PACKS: usize = 50;
/// What lies below upstream and is mirrored. Anything else is an object that no scan counts as
/// known, and no agent sees.
const MIRRORED: [&str; 2] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];

/// A mirror.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) name: Name,
    pub(super) remote: GitRemote,
    pub(super) folder: PathBuf,
    pub(super) way: Way,
    pub(super) git: Git,
    /// What git's ssh goes over; none for https.
    kept: Option<Kept>,
    /// Held by whoever changes refs.
    refs: Mutex<Refreshed>,
    /// Refreshes begun so far.
    begun: AtomicU64,
}

/// What became of the newest refresh.
#[derive(Debug, Default)]
pub(super) struct Refreshed {
    number: u64,
    outcome: Option<Result<(), String>>,
    /// Whether the default branch was asked for since the start.
    has_head: bool,
}

impl Mirror {
    /// Opens a mirror, makes it where there is none, and clears what a killed gate left in it.
    pub(super) fn open(
        layout: &Layout,
        git: &Git,
        name: &Name,
        remote: &GitRemote,
        kept: Option<Kept>,
    ) -> io::Result<Self> {
        let folder = layout.mirror(name);
        std::fs::create_dir_all(&folder)?;
        clear(&folder)?;
        init(git, &folder, None)?;
        Ok(Self {
            name: name.clone(),
            remote: remote.clone(),
            folder,
            way: Way::to(layout, name, remote),
            git: git.clone(),
            kept,
            refs: Mutex::default(),
            begun: AtomicU64::new(0),
        })
    }

    /// Brings it up to date: as of now or later. Requests that arrive while a refresh runs share
    /// the next one.
    ///
    /// # Errors
    ///
    /// Upstream's words, or git's about it.
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<(), String> {
        let arrived = self.begun.load(Ordering::SeqCst);
        let mut refs = self.refs.lock().await;
        if refs.number > arrived
            && let Some(outcome) = &refs.outcome
        {
            return outcome.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.connected().await;
        let (mirror, with_head) = (Arc::clone(self), !refs.has_head);
        let fetched = spawn_blocking(move || mirror.fetch(with_head));
        let outcome = match timeout(PATIENCE, fetched).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("the refresh broke off".to_owned()),
            Err(_) => Err("upstream took too long".to_owned()),
        };
        refs.has_head |= outcome.is_ok();
        refs.number = number;
        refs.outcome = Some(outcome.clone());
        outcome
    }

    /// Returns once upstream can be asked without a handshake, or cannot be.
    pub(super) async fn connected(&self) {
        if let Some(kept) = &self.kept {
            kept.ready().await;
        }
    }

    /// The sole right to change refs, until it is dropped.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Refreshed> {
        self.refs.lock().await
    }

    fn fetch(&self, with_head: bool) -> Result<(), String> {
        let mut done = self.fetch_refs().map_err(|error| error.to_string())?;
        if done.words.lines().any(is_of_format) {
            let format = self.other_format().map_err(|error| error.to_string())?;
            // Nothing is in a mirror that upstream does not have. The folder itself stays: git daemon
            // is in it already.
            empty(&self.folder)
                .and_then(|()| init(&self.git, &self.folder, Some(format)))
                .and_then(|()| self.fetch_refs())
                .map(|again| done = again)
                .map_err(|error| error.to_string())?;
        }
        if !done.ok {
            return Err(self.tell(&done.words));
        }
        if with_head {
            self.take_head()?;
        }
        self.put_packs_together();
        Ok(())
    }

    /// The format that the mirror does not have.
    fn other_format(&self) -> io::Result<&'static str> {
        let mut command = self.git.at(&self.folder, None);
        let done = run(command.args(["rev-parse", "--show-object-format"]), Vec::new(), LONGEST)?;
        Ok(if done.out.starts_with(b"sha256") { "sha1" } else { "sha256" })
    }

    fn fetch_refs(&self) -> io::Result<Done> {
        let mut command = self.git.at(&self.folder, None);
        command.args(self.way.words());
        command.args(["fetch", "--quiet", "--prune", "--no-tags", "--atomic"]);
        command.args(["--no-write-fetch-head", "--no-auto-maintenance", "--"]);
        command.arg(&self.way.url).args(MIRRORED);
        run(&mut command, Vec::new(), LONGEST)
    }

    /// Which branch a clone begins on.
    fn take_head(&self) -> Result<(), String> {
        let mut command = self.git.at(&self.folder, None);
        command.args(self.way.words()).args(["ls-remote", "--symref", "--"]);
        command.arg(&self.way.url).arg("HEAD");
        let done = run(&mut command, Vec::new(), LONGEST).map_err(|error| error.to_string())?;
        if !done.ok {
            return Err(self.tell(&done.words));
        }
        let text = String::from_utf8_lossy(&done.out);
        let head = text.lines().find_map(|line| line.strip_prefix("ref: ")?.split('\t').next());
        let Some(head) = head.filter(|head| head.starts_with("refs/heads/")) else { return Ok(()) };
        let mut set = self.git.at(&self.folder, None);
        set.args(["symbolic-ref", "HEAD", head]);
        match run(&mut set, Vec::new(), LONGEST) {
            Ok(done) if done.ok => Ok(()),
            Ok(done) => Err(done.words),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Upstream's and git's words, less what git says whatever the cause.
    fn tell(&self, words: &str) -> String {
        if let Some(trouble) = self.way.trouble() {
            return trouble;
        }
        const ALWAYS: [&str; 2] =
            ["Please make sure you have the correct access rights", "and the repository exists."];
        let lines = words.lines().map(str::trim);
        let lines: Vec<&str> =
            lines.filter(|line| !line.is_empty() && !ALWAYS.contains(line)).collect();
        if lines.is_empty() { format!("{} does not answer", self.name) } else { lines.join("\n") }
    }

    /// Each fetch and push leaves a pack.
    fn put_packs_together(&self) {
        let packs = std::fs::read_dir(self.folder.join("objects/pack"));
        let packs = packs.into_iter().flatten().flatten();
        let many = packs.filter(|file| file.path().extension() == Some("pack".as_ref())).count();
        if many <= MOST_PACKS {
            return;
        }
        let mut command = self.git.at(&self.folder, None);
        command.args(["repack", "-d", "-l", "--quiet", "--geometric=2"]);
        match run(&mut command, Vec::new(), LONGEST) {
            Ok(done) if done.ok => {}
            Ok(done) => log::warn("packs stay as they are", &[("why", &done.words.trim())]),
            Err(error) => log::warn("packs stay as they are", &[("why", &error)]),
        }
    }
}

/// Makes a mirror, or leaves it as it is.
fn init(git: &Git, folder: &Path, format: Option<&str>) -> io::Result<()> {
    let mut command = git.environment("git");
    command.args(["init", "--quiet", "--bare", "--template="]);
    command.args(format.map(|format| format!("--object-format={format}")));
    let done = run(command.arg("--").arg(folder), Vec::new(), LONGEST)?;
    match done.ok {
        true => Ok(()),
        false => Err(io::Error::other(format!("git init: {}", done.words.trim()))),
    }
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether git says that upstream names its objects by another hash: over either of its protocols.
fn is_of_format(words: &str) -> bool {
    words.starts_with("fatal: mismatched algorithms")
        || words == "fatal: Server does not support this repository's object format"
}

/// Removes locks and half-written objects. The gate is the only one who writes here, and has just
/// started: nobody can hold them. (No ref can be called so: git-check-ref-format(1).)
fn clear(folder: &Path) -> io::Result<()> {
    clear_below(folder, false)
}

fn clear_below(folder: &Path, in_objects: bool) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let half = in_objects && (name.starts_with("tmp_") || name.starts_with(".tmp-"));
        if !entry.file_type()?.is_dir() {
            if half || name.ends_with(".lock") {
                std::fs::remove_file(path)?;
            }
        } else if half || (in_objects && name.starts_with("incoming-")) {
            std::fs::remove_dir_all(path)?;
        } else {
            clear_below(&path, in_objects || name == "objects")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_gate_left_goes_and_refs_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in [
            "refs/heads/tmp_x",
            "refs/heads/incoming-1/a",
            "objects/pack/pack-1.pack",
            "packed-refs.lock",
            "refs/heads/a.lock",
            "objects/pack/tmp_pack_1",
            "objects/tmp_objdir-incoming-1/pack/a",
        ] {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), "").unwrap();
        }
        clear(folder.path()).unwrap();
        for kept in ["refs/heads/tmp_x", "refs/heads/incoming-1/a", "objects/pack/pack-1.pack"] {
            assert!(at(kept).exists(), "{kept}");
        }
        for gone in [
            "packed-refs.lock",
            "refs/heads/a.lock",
            "objects/pack/tmp_pack_1",
            "objects/tmp_objdir-incoming-1",
        ] {
            assert!(!at(gone).exists(), "{gone}");
        }
    }
}
