//! What an agent did to a copy or a clone of a folder, and how it comes back: read out of its
//! container, compared with what it began with, shown, and only then written.
//!
//! One pass over what the engine packs decides everything: what is shown is what was read then, and
//! what is shown is what is written, whatever the agent does meanwhile.

mod arrival;
mod bring;
mod change;
mod commits;
pub(crate) mod git;
mod mounted;
mod patch;
mod save;
mod spool;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_planner::gate::MIRRORS;
use bottle_planner::plan::{Plan, WorkspacePlace};
use bottle_planner::policy::WorkspaceMode;
use bottle_planner::words::Role;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use arrival::{ArrivalError, LIMITS, Limits};
pub use bring::BringError;
use bring::Host;
pub use change::{Change, How, Left};
pub use commits::{Changed, Commit, Commits, CommitsError};
pub use git::GitError;
pub use mounted::{NAMED, Planted, planted};
pub use patch::Text;
pub(crate) use save::SUMMARY;
pub(crate) use save::save;
pub use save::{SAVED, SaveError, Saved};

use crate::engine::{Engine, EngineError};
use crate::files::{FileError, Root};
use crate::ledger::own;
use crate::tree::{self, Hide, HideError, TreeError};
use arrival::{Arrival, Hashing, Item, Pieces, Wants};
use change::{Base, Sieve};
use git::Git;
use patch::Side;
use spool::Spool;

/// Pieces of an archive that were not read yet.
const PIECES: usize = 16;

/// The name of [`Pulled`] in the state folder.
pub const PULLED: &str = "pulled.json";

/// Why an agent's work could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The session works on no folder.
    #[error("the session has no folder")]
    NoWorkspace,
    /// What holds the work is not there.
    #[error("expected {what}, found nothing")]
    Gone {
        /// What was looked for.
        what: String,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The agent's files were not taken.
    #[error(transparent)]
    Arrival(#[from] ArrivalError),
    /// The host's folder could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A glob of the plan makes no sense.
    #[error(transparent)]
    Hide(#[from] HideError),
    /// The agent's commits were not taken.
    #[error(transparent)]
    Commits(#[from] CommitsError),
    /// The host's folder could not be written.
    #[error(transparent)]
    Bring(#[from] BringError),
    /// The spool failed.
    #[error("cannot keep what was read of the container")]
    Spool(#[from] io::Error),
    /// What a file began with is neither in the host's folder nor in the image.
    #[error("expected what {} began with, found neither the folder nor the image with it", path.display())]
    NoBase {
        /// Which file.
        path: PathBuf,
    },
    /// A thread ended in its midst.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl From<GitError> for WorkError {
    fn from(error: GitError) -> Self {
        Self::Commits(error.into())
    }
}

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Of<'a> {
    /// The plan last applied.
    pub plan: &'a Plan,
    /// The agent's container; it need not run.
    pub container: &'a str,
    /// A folder for what is read.
    pub scratch: &'a Path,
    /// Where programs are looked for.
    pub path: Option<OsString>,
}

/// What earlier pulls brought to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// What each path became, by its name ([`Change::name`], [`Change::state`]).
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Where the branch `agent/<identity>` of the host was left.
    #[serde(default)]
    pub commit: Option<String>,
    /// Commits that are on the host, or were given up.
    #[serde(default)]
    pub tips: BTreeSet<String>,
}

impl Pulled {
    /// Reads what a session's state folder remembers.
    pub fn load(state: &Root) -> Result<Self, FileError> {
        save::read_pulled(state)
    }

    /// Writes it there.
    pub fn store(&self, state: &Root) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        state.write(&own(PULLED)?, text.as_bytes(), 0o600, None)
    }
}

/// What an agent did.
#[derive(Debug)]
pub struct Work {
    /// Changed files. In `clone` mode those that are not committed.
    pub changes: Vec<Change>,
    /// What does not come back.
    pub left: Left,
    /// What was committed, in `clone` mode.
    pub commits: Option<Commits>,
    spool: Spool,
    host: PathBuf,
}

/// How often files are read that change as the engine packs them.
const ATTEMPTS: u32 = 5;

/// Reads what an agent did, and nothing of it runs.
pub async fn look<E: Engine>(engine: &E, of: &Of<'_>) -> Result<Work, WorkError> {
    whole(|| look_once(engine, of)).await
}

/// Begins anew where an archive is broken: a file that an agent shortens while it is packed ends the
/// engine's archive in its midst.
async fn whole<T, F: Future<Output = Result<T, WorkError>>>(
    mut once: impl FnMut() -> F,
) -> Result<T, WorkError> {
    for _ in 1..ATTEMPTS {
        match once().await {
            Err(WorkError::Arrival(ArrivalError::Broken(_))) => {}
            looked => return looked,
        }
    }
    once().await
}

async fn look_once<E: Engine>(engine: &E, of: &Of<'_>) -> Result<Work, WorkError> {
    let place = of.plan.session.workspace.clone().ok_or(WorkError::NoWorkspace)?;
    let hide = Hide::new(&of.plan.grants.workspace.hide)?;
    let spool = Spool::new(of.scratch)?;
    match place.mode {
        WorkspaceMode::Copy => copied(engine, of, &place, hide, spool).await,
        WorkspaceMode::Clone => cloned(engine, of, &place, hide, spool).await,
        WorkspaceMode::Mount => mounted::mounted(engine, of, &place, spool).await,
        WorkspaceMode::None => Err(WorkError::NoWorkspace),
    }
}

async fn copied<E: Engine>(
    engine: &E,
    of: &Of<'_>,
    place: &WorkspacePlace,
    hide: Hide,
    spool: Spool,
) -> Result<Work, WorkError> {
    let host = PathBuf::from(place.host.as_str());
    let image = of.plan.session.agent_image.as_str();
    let inside = place.inside.as_str();
    let (folder, globs, planned) = (host.clone(), hide.clone(), place.digest.clone());
    let as_planned = blocking(move || {
        let mut base = Base::new();
        let mut each = |path: PathBuf, kind: &tree::Kind, content: tree::Content| {
            let item = match kind {
                tree::Kind::Folder => Item::Folder,
                tree::Kind::File => {
                    let tree::Content { hash, size, executable } = content;
                    Item::File { hash, executable, size, kept: None }
                }
                tree::Kind::Link { target } => Item::Link { target: target.clone() },
            };
            base.insert(path, item);
        };
        // A folder that cannot be read is not the one that was copied.
        let found = tree::index(&folder, &globs, &mut each).ok();
        Ok((found.map(|tree| tree.digest) == planned && planned.is_some()).then_some(base))
    })
    .await?;
    let (base, spool) = match as_planned {
        Some(base) => (base, spool),
        None => {
            let wants = Nothing(hide.clone());
            let (arrival, spool, _) =
                read(spool, wants, Hashing::Plain, |to| engine.read_image(image, inside, to))
                    .await?;
            (arrival.items, spool)
        }
    };
    let (mut work, spool, base) = {
        let base = Arc::new(base);
        let wants = Sieve::new(Arc::clone(&base), hide, false);
        let from = |to| engine.read_container(of.container, inside, to);
        let (arrival, spool, wants) = read(spool, wants, Hashing::Plain, from).await?;
        let mut left = wants.left;
        let changes = change::compare(&base, &arrival, &mut left);
        (Found { changes, left }, spool, base)
    };
    // What files began with: the host's folder has it, or the image.
    let folder = host.clone();
    let (found, mut spool, missing) = blocking(move || {
        let (mut spool, mut missing) = (spool, BTreeSet::new());
        let host = Host::open(&folder).ok();
        let content = |path: &Path, item: &Item| host.as_ref().and_then(|h| h.content(path, item));
        let by_hash: BTreeMap<_, _> =
            if work.lacks_content() { hashes(&base) } else { BTreeMap::new() };
        for change in &mut work.changes {
            if let Some(before @ Item::File { kept: None, .. }) = &change.before {
                match content(&change.path, before) {
                    Some(bytes) => change.before = Some(kept(before, &bytes, &mut spool)?),
                    None => drop(missing.insert(change.path.clone())),
                }
            }
            // A second name of a file that did not change.
            if let Some(after @ Item::File { kept: None, hash, .. }) = &change.after
                && let Some((path, item)) = by_hash.get(hash)
                && let Some(bytes) = content(path, item)
            {
                change.after = Some(kept(after, &bytes, &mut spool)?);
            }
        }
        Ok((work, spool, missing))
    })
    .await?;
    work = found;
    if !missing.is_empty() {
        let (arrival, filled, _) =
            read(spool, These(missing), Hashing::Plain, |to| engine.read_image(image, inside, to))
                .await?;
        spool = filled;
        for change in &mut work.changes {
            if let (Some(before), Some(found)) = (&change.before, arrival.items.get(&change.path))
                && before.same(found)
                && matches!(before, Item::File { kept: None, .. })
            {
                change.before = Some(found.clone());
            }
        }
    }
    Ok(work.finish(None, spool, host))
}

async fn cloned<E: Engine>(
    engine: &E,
    of: &Of<'_>,
    place: &WorkspacePlace,
    hide: Hide,
    spool: Spool,
) -> Result<Work, WorkError> {
    let host = PathBuf::from(place.host.as_str());
    let start = place.commit.clone().ok_or(WorkError::Internal("a clone without a commit"))?;
    let (git, commit) = (Git::new(&host, of.path.as_ref()), start.clone());
    let base = blocking(move || Ok(commits::files(&git, &commit)?)).await?;
    let wants = Sieve::new(Arc::new(base), hide.clone(), true);
    let from = |to| engine.read_container(of.container, place.inside.as_str(), to);
    let (arrival, spool, wants) = read(spool, wants, Hashing::Blob, from).await?;
    let (scratch, path) = (of.scratch.to_owned(), of.path.clone());
    blocking(move || {
        let mut spool = spool;
        let commits = Commits::take(&arrival, &spool, &host, &start, &scratch, path.as_ref())?;
        let mut left = wants.left;
        let mut committed = commits.files()?;
        // What never came in is not deleted.
        committed.retain(|path, _| {
            !path.ancestors().any(|p| !p.as_os_str().is_empty() && hide.hides(p))
        });
        let changes = change::compare(&committed, &arrival, &mut left);
        let mut found = Found { changes, left };
        for change in &mut found.changes {
            for side in [&mut change.before, &mut change.after].into_iter().flatten() {
                if let Item::File { kept: None, hash, .. } = side
                    && let Ok(bytes) = commits.blob(hash)
                    && spool.end() + bytes.len() as u64 <= LIMITS.kept
                {
                    *side = kept(side, &bytes, &mut spool)?;
                }
            }
        }
        Ok(found.finish(Some(commits), spool, host))
    })
    .await
}

struct Found {
    changes: Vec<Change>,
    left: Left,
}

impl Found {
    fn lacks_content(&self) -> bool {
        self.changes.iter().any(|c| matches!(c.after, Some(Item::File { kept: None, .. })))
    }

    fn finish(mut self, commits: Option<Commits>, spool: Spool, host: PathBuf) -> Work {
        self.changes.retain(|change| {
            let large = matches!(change.after, Some(Item::File { kept: None, .. }));
            if large {
                self.left.large.push(change.path.clone());
            }
            !large
        });
        Work { changes: self.changes, left: self.left, commits, spool, host }
    }
}

impl Work {
    /// A change as a patch.
    pub fn text(&self, change: &Change) -> Result<Text, WorkError> {
        let (before, after) =
            (self.side(change, &change.before)?, self.side(change, &change.after)?);
        Ok(patch::write(&change.path, before.as_ref(), after.as_ref()))
    }

    fn side(&self, change: &Change, item: &Option<Item>) -> Result<Option<Side>, WorkError> {
        Ok(match item {
            None | Some(Item::Folder | Item::Other(_)) => None,
            Some(Item::Link { target }) => Some(Side { mode: "120000", content: target.clone() }),
            Some(Item::File { executable, kept: Some(kept), .. }) => Some(Side {
                mode: if *executable { "100755" } else { "100644" },
                content: self.spool.read(*kept)?,
            }),
            Some(Item::File { kept: None, .. }) => {
                return Err(WorkError::NoBase { path: change.path.clone() });
            }
        })
    }

    /// The changes that no pull brought yet.
    #[must_use]
    pub fn unpulled(&self, pulled: &Pulled) -> Vec<&Change> {
        let is_new = |c: &&Change| pulled.files.get(&c.name()) != Some(&c.state());
        self.changes.iter().filter(is_new).collect()
    }

    /// Whether a branch has commits that no pull brought, and no upstream has.
    pub fn has_new_commits(
        &self,
        pulled: &Pulled,
        upstream: &BTreeSet<String>,
    ) -> Result<bool, WorkError> {
        let Some(commits) = &self.commits else { return Ok(false) };
        let known = pulled.tips.union(upstream).cloned().collect();
        Ok(commits.is_beyond(&known) || commits.unknown_to(&known)?)
    }

    /// Holds every change against the host's folder; answers what stands in the way of each.
    pub fn conflicts(
        &self,
        changes: &[&Change],
        pulled: &Pulled,
    ) -> Result<Vec<BringError>, WorkError> {
        let host = Host::open(&self.host)?;
        Ok(host.conflicts(changes, &pulled.files))
    }

    /// Writes changes into the host's folder; answers what is so now, and what ended it early.
    pub fn bring(
        &self,
        changes: &[&Change],
        pulled: &Pulled,
    ) -> Result<(Vec<PathBuf>, Result<(), BringError>), WorkError> {
        let host = Host::open(&self.host)?;
        Ok(host.bring(changes, &pulled.files, &self.spool))
    }

    /// Puts the commits into the host's repository as a branch; answers whether it moved.
    pub fn bring_commits(&self, branch: &str, pulled: &Pulled) -> Result<bool, WorkError> {
        let Some(commits) = &self.commits else { return Ok(false) };
        Ok(commits.bring(&self.host, branch, pulled.commit.as_deref())?)
    }
}

/// The commits that the session's git gate knows upstream to have.
pub async fn upstream<E: Engine>(
    engine: &E,
    plan: &Plan,
    scratch: &Path,
) -> Result<BTreeSet<String>, WorkError> {
    let mut known = BTreeSet::new();
    let Some(gate) = plan.session.places.get(&Role::GitGate) else { return Ok(known) };
    for name in plan.grants.git.keys() {
        for part in ["packed-refs", "refs"] {
            let at = format!("{MIRRORS}/{name}.git/{part}");
            let spool = Spool::new(scratch)?;
            let from = |to| engine.read_container(&gate.container, &at, to);
            // A gate that is gone, or has mirrored nothing yet, knows nothing.
            let Ok((_, _, all)) = read(spool, Values::default(), Hashing::Plain, from).await else {
                continue;
            };
            known.extend(all.0);
        }
    }
    Ok(known)
}

/// Reads one archive: the engine sends, a thread reads.
async fn read<W, F>(
    spool: Spool,
    wants: W,
    hashing: Hashing,
    from: impl FnOnce(mpsc::Sender<bytes::Bytes>) -> F,
) -> Result<(Arrival, Spool, W), WorkError>
where
    W: Wants + Send + 'static,
    F: Future<Output = Result<bool, EngineError>>,
{
    read_within(spool, wants, hashing, LIMITS, from).await
}

async fn read_within<W, F>(
    mut spool: Spool,
    mut wants: W,
    hashing: Hashing,
    limits: Limits,
    from: impl FnOnce(mpsc::Sender<bytes::Bytes>) -> F,
) -> Result<(Arrival, Spool, W), WorkError>
where
    W: Wants + Send + 'static,
    F: Future<Output = Result<bool, EngineError>>,
{
    let (to, pieces) = mpsc::channel(PIECES);
    let reader = tokio::task::spawn_blocking(move || {
        let arrival = arrival::read(Pieces::new(pieces), &mut spool, &mut wants, hashing, limits);
        (arrival, spool, wants)
    });
    let (sent, read) = futures_util::join!(from(to), reader);
    let (arrival, spool, wants) = read.map_err(|_| WorkError::Internal("reading did not end"))?;
    match (sent, arrival) {
        // Half an archive is broken, too, but why it is half says more.
        (Err(error), Err(ArrivalError::Broken(_)) | Ok(_)) => Err(error.into()),
        (_, Err(error)) => Err(error.into()),
        (Ok(false), Ok(_)) => Err(WorkError::Gone { what: "the agent's folder".to_owned() }),
        (Ok(true), Ok(arrival)) => Ok((arrival, spool, wants)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkError> + Send + 'static,
) -> Result<T, WorkError> {
    let ran = tokio::task::spawn_blocking(work).await;
    ran.map_err(|_| WorkError::Internal("a thread did not end"))?
}

fn kept(item: &Item, bytes: &[u8], spool: &mut Spool) -> Result<Item, io::Error> {
    let begin = spool.end();
    spool.append(bytes)?;
    let Item::File { hash, executable, size, .. } = item else { return Ok(item.clone()) };
    Ok(Item::File {
        hash: *hash,
        executable: *executable,
        size: *size,
        kept: Some(spool.since(begin)),
    })
}

fn hashes(base: &Base) -> BTreeMap<arrival::Hash, (PathBuf, Item)> {
    let hash = |(path, item): (&PathBuf, &Item)| match item {
        Item::File { hash, .. } => Some((*hash, (path.clone(), item.clone()))),
        _ => None,
    };
    base.iter().filter_map(hash).collect()
}

/// Hashes all and keeps nothing: what a workspace began with.
struct Nothing(Hide);

impl Wants for Nothing {
    fn skips(&mut self, path: &Path, _: bool) -> bool {
        change::is_git(path) || self.0.hides(path)
    }

    fn keeps(&mut self, _: &Path, _: &Item) -> bool {
        false
    }

    fn seen(&mut self, _: &Path, _: &[u8]) {}
}

/// Keeps these contents.
struct These(BTreeSet<PathBuf>);

impl Wants for These {
    fn skips(&mut self, path: &Path, folder: bool) -> bool {
        !folder && !self.0.contains(path)
    }

    fn keeps(&mut self, _: &Path, _: &Item) -> bool {
        true
    }

    fn seen(&mut self, _: &Path, _: &[u8]) {}
}

/// Collects the values of refs.
#[derive(Default)]
struct Values(BTreeSet<String>);

impl Wants for Values {
    fn skips(&mut self, _: &Path, _: bool) -> bool {
        false
    }

    fn keeps(&mut self, _: &Path, _: &Item) -> bool {
        true
    }

    fn seen(&mut self, _: &Path, content: &[u8]) {
        let text = String::from_utf8_lossy(content);
        let words = text.split_ascii_whitespace().map(|word| word.trim_start_matches('^'));
        self.0.extend(words.filter(|word| commits::is_oid(word)).map(str::to_owned));
    }
}
