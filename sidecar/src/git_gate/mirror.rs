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

use super::git::{Git, run};
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
    ) -> io::Result<Self> {
        let folder = layout.mirror(name);
        std::fs::create_dir_all(&folder)?;
        clear(&folder)?;
        let mut init = git.environment("git");
        init.args(["init", "--quiet", "--bare", "--template=", "--"]).arg(&folder);
        let done = run(&mut init, Vec::new(), LONGEST)?;
        if !done.ok {
            return Err(io::Error::other(format!("git init {name}: {}", done.words.trim())));
        }
        Ok(Self {
            name: name.clone(),
            remote: remote.clone(),
            folder,
            way: Way::to(layout, name, remote),
            git: git.clone(),
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

    /// The sole right to change refs, until it is dropped.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Refreshed> {
        self.refs.lock().await
    }

    fn fetch(&self, with_head: bool) -> Result<(), String> {
        let mut command = self.git.at(&self.folder, None);
        command.args(self.way.words());
        command.args(["fetch", "--quiet", "--prune", "--no-tags", "--atomic"]);
        command.args(["--no-write-fetch-head", "--no-auto-maintenance", "--"]);
        command.arg(&self.way.url).args(MIRRORED);
        let done = run(&mut command, Vec::new(), LONGEST).map_err(|error| error.to_string())?;
        if !done.ok {
            return Err(self.tell(&done.words));
        }
        if with_head {
            self.take_head()?;
        }
        self.put_packs_together();
        Ok(())
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
