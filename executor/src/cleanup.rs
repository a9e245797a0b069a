//! Clean-up: looks at what one user and state root have, and removes what the planner calls orphaned.
//!
//! Each removal is checked again right before it: the object is still the one that was seen and
//! still this owner's, its session is locked and was not begun again, and what sessions share is
//! still used by none. What fails is told, and the next clean-up finds what is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bottle_planner::cleanup::{HISTORY_DAYS, Removal, Seen, Sized, Standing, Target, Uses};
use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::{LABEL_IDENTITY, LABEL_OWNER, Plan};
use bottle_planner::policy::HostConfig;
use bottle_planner::snapshot::ContainerState;
use bottle_planner::words::{Digest, Identity, RelPath, WordError};
use chrono::{DateTime, Utc};

use crate::apply::Confirmed;
use crate::engine::upkeep::{Inventory, Upkeep};
use crate::engine::{Engine, EngineError};
use crate::files::{FileError, Kind, Root, is_temporary};
use crate::ledger;
use crate::lock::{Lock, LockError};
use crate::receipt::Receipt;
use crate::state::{JOURNAL, RECEIPT, Roots};

/// Seconds a container has to end.
const GRACE: u32 = 2;
/// The most entries of a folder that are counted for its size.
const MOST_ENTRIES: usize = 200_000;

/// Why a look or a removal failed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file or folder could not be read or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process works with it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A path cannot be.
    #[error(transparent)]
    Word(#[from] WordError),
    /// Somebody's work may be on it, and nobody confirmed that it may be lost.
    #[error("work may be lost and nobody confirmed it")]
    Unconfirmed,
    /// It is not what was seen any more.
    #[error("{0}")]
    Changed(&'static str),
}

/// Looks at everything that a clean-up of this owner can concern. Changes nothing. Blocks while it
/// reads the state root.
pub async fn look<E: Upkeep>(
    engine: &E,
    roots: &Roots,
    config: &HostConfig,
    owner: &str,
    now: DateTime<Utc>,
) -> Result<Seen, CleanupError> {
    // The engine first: a session that is begun after that has a folder and nothing seen of it.
    let Inventory { containers, networks, volumes, images } = engine.inventory(owner).await?;
    let mut seen = Seen {
        owner: owner.to_owned(),
        history_days: config.history_days.unwrap_or(HISTORY_DAYS),
        containers,
        networks,
        volumes,
        images,
        ..Seen::default()
    };
    if let Some(root) = Root::open(&roots.root)? {
        state_root(&root, roots, now, &mut seen)?;
    }
    Ok(seen)
}

fn state_root(
    root: &Root,
    roots: &Roots,
    now: DateTime<Utc>,
    seen: &mut Seen,
) -> Result<(), CleanupError> {
    for name in folders(root, "state")? {
        let Ok(identity) = Identity::new(name) else { continue };
        let what = if Lock::is_held(roots, root, &identity)? {
            Standing::Busy
        } else {
            standing(root, &identity).unwrap_or(Standing::Unreadable)
        };
        let bytes = size(&roots.state(&identity));
        seen.sessions.insert(identity, Sized { what, bytes });
    }
    for name in folders(root, "bin")? {
        if let Ok(digest) = Digest::new(format!("sha256:{name}")) {
            let bytes = size(&roots.bin(&digest));
            seen.binaries.insert(digest, bytes);
        }
    }
    for name in folders(root, "history")? {
        let Ok(name) = Identity::new(name) else { continue };
        let bytes = size(&roots.history(&name));
        let days = ended(root, &name)?.map_or(0, |at| (now - at).num_days());
        let what = u64::try_from(days).unwrap_or(0);
        seen.records.insert(name, Sized { what, bytes });
    }
    for name in folders(root, "tmp")? {
        if let Ok(identity) = Identity::new(name) {
            let bytes = size(&roots.root.join("tmp").join(identity.as_str()));
            seen.scratch.insert(identity, bytes);
        }
    }
    for name in root.list(Some(&RelPath::new("locks")?))? {
        let Some(identity) = name.strip_suffix(".lock").and_then(|n| Identity::new(n).ok()) else {
            continue;
        };
        // The lock of what sessions share has no session's name, or so it would seem.
        let shared = roots.session_lock(&identity) == roots.shared_lock();
        if !shared && !Lock::is_held(roots, root, &identity)? {
            seen.locks.insert(identity);
        }
    }
    for folder in [None, Some("state"), Some("history"), Some("bin"), Some("locks"), Some("cache")]
    {
        let below = folder.map(RelPath::new).transpose()?;
        for name in root.list(below.as_ref())? {
            let of_cache = folder == Some("cache") && name.starts_with(".tool.");
            if !(is_temporary(&name) || of_cache) {
                continue;
            }
            let path = folder.map_or_else(|| name.clone(), |folder| format!("{folder}/{name}"));
            let full = roots.root.join(&path);
            let age = modified(&full).map_or(0, |at| (now - at).num_seconds());
            let what = u64::try_from(age).unwrap_or(0);
            seen.leftovers.insert(RelPath::new(path)?, Sized { what, bytes: size(&full) });
        }
    }
    Ok(())
}

/// The names of the folders in a folder; what else lies there is none of ours.
fn folders(root: &Root, below: &str) -> Result<Vec<String>, CleanupError> {
    let below = RelPath::new(below)?;
    let mut found = Vec::new();
    for name in root.list(Some(&below))? {
        let Ok(path) = below.join(&name) else { continue };
        if root.entry(&path)?.is_some_and(|entry| entry.kind == Kind::Folder) {
            found.push(name);
        }
    }
    Ok(found)
}

/// How a session stands by its own record.
///
/// # Errors
///
/// Its record cannot be read.
fn standing(root: &Root, identity: &Identity) -> Result<Standing, CleanupError> {
    let unreadable = CleanupError::Changed("its record cannot be read");
    let Some(state) = root.below(&RelPath::new(format!("state/{identity}"))?)? else {
        return Ok(Standing::Unfinished);
    };
    let Some(ledger) = ledger::load(&state).map_err(|_| unreadable)? else {
        // The ledger is written before the first action is begun, and so before the journal.
        let begun = state.entry(&RelPath::new(JOURNAL)?)?.is_some();
        return Ok(if begun { Standing::Unreadable } else { Standing::Unfinished });
    };
    if !ledger.complete && ledger.previous.is_none() {
        return Ok(Standing::Unfinished);
    }
    let mut uses = Uses::default();
    // A change that was cut short leaves a world between two plans.
    let before = ledger.previous.filter(|_| !ledger.complete);
    for digest in ledger.plan.iter().chain(&before) {
        let text = ledger::plan_text(&state, digest).ok().flatten();
        let plan = text.and_then(|text| document::parse::<Plan>(&text, Strictness::Lenient).ok());
        let Some(plan) = plan else { return Ok(Standing::Unreadable) };
        let Uses { images, tools } = Uses::of(&plan.value);
        uses.images.extend(images);
        uses.tools.extend(tools);
    }
    Ok(Standing::Whole(uses))
}

/// When the session of a record in history ended.
fn ended(root: &Root, name: &Identity) -> Result<Option<DateTime<Utc>>, CleanupError> {
    let folder = format!("history/{name}");
    let receipt = root.read(&RelPath::new(format!("{folder}/{RECEIPT}"))?).ok().flatten();
    let receipt = receipt.and_then(|found| serde_json::from_slice::<Receipt>(&found.bytes).ok());
    let told = receipt.and_then(|r| DateTime::parse_from_rfc3339(&r.ended_at).ok());
    Ok(told.map(|at| at.to_utc()).or_else(|| modified(&root.path().join(folder))))
}

fn modified(path: &Path) -> Option<DateTime<Utc>> {
    let at: SystemTime = fs::symlink_metadata(path).ok()?.modified().ok()?;
    Some(at.into())
}

/// What a file or folder takes on the disk; `None` where not all of it can be looked at.
fn size(path: &Path) -> Option<u64> {
    let mut bytes = 0;
    let mut seen = 0;
    let mut left: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let found = fs::symlink_metadata(&path).ok()?;
        bytes += found.blocks() * 512;
        seen += 1;
        if seen > MOST_ENTRIES {
            return None;
        }
        if found.is_dir() {
            for entry in fs::read_dir(&path).ok()? {
                left.push(entry.ok()?.path());
            }
        }
    }
    Some(bytes)
}

/// Removes what it is given, one after the other, and tells of each how that went.
///
/// # Errors
///
/// The state root cannot be opened; what fails of one removal is told and no error.
pub async fn carry_out<E: Engine>(
    engine: &E,
    roots: &Roots,
    owner: &str,
    removals: &[Removal],
    confirmed: Option<&Confirmed>,
    told: &mut dyn FnMut(&Removal, &Result<(), CleanupError>),
) -> Result<(), CleanupError> {
    let root = Root::open_or_make(&roots.root)?;
    let mut cleaner =
        Cleaner { engine, roots, owner, root, sessions: BTreeMap::new(), shared: None };
    let mut failed = Vec::new();
    for removal in removals {
        let result = match &removal.session {
            // A folder that is gone would tell nobody of what is left of its session.
            Some(session) if is_record(&removal.target) && failed.contains(session) => {
                Err(CleanupError::Changed("something of its session is left"))
            }
            _ if removal.loses_work && confirmed.is_none() => Err(CleanupError::Unconfirmed),
            _ => cleaner.remove(removal).await,
        };
        if result.is_err() {
            failed.extend(removal.session.clone());
        }
        told(removal, &result);
    }
    cleaner.unlock();
    Ok(())
}

fn is_record(target: &Target) -> bool {
    matches!(target, Target::State { .. })
}

struct Cleaner<'a, E> {
    engine: &'a E,
    roots: &'a Roots,
    owner: &'a str,
    root: Root,
    /// Held to the end, so that no session is begun again meanwhile.
    sessions: BTreeMap<Identity, Lock>,
    shared: Option<Lock>,
}

impl<E: Engine> Cleaner<'_, E> {
    async fn remove(&mut self, removal: &Removal) -> Result<(), CleanupError> {
        if let Some(session) = &removal.session {
            let scratch = matches!(&removal.target, Target::Leftover { name } if name.as_str().starts_with("tmp/"));
            self.lock(session, scratch)?;
        }
        match &removal.target {
            Target::Container { name, id } => self.container(removal, name, id).await,
            Target::Network { name, id } => {
                let Some(found) = self.engine.network(name).await? else { return Ok(()) };
                self.same(removal, &found.labels, *id == found.id)?;
                Ok(self.engine.remove_network(name).await?)
            }
            Target::Volume { name } => {
                let Some(found) = self.engine.volume(name).await? else { return Ok(()) };
                self.same(removal, &found.labels, true)?;
                Ok(self.engine.remove_volume(name).await?)
            }
            Target::Image { name, id } => {
                self.unused(|uses| uses.images.contains(name) || uses.images.contains(id))?;
                let Some(found) = self.engine.image(name).await? else { return Ok(()) };
                self.same(removal, &found.labels, found.id.as_str() == id)?;
                match self.engine.remove_image(name).await {
                    // Its last tag went with the one before.
                    Err(EngineError::NotFound { .. }) => Ok(()),
                    removed => Ok(removed?),
                }
            }
            Target::State { name } => {
                Ok(self.root.remove_tree(&RelPath::new(format!("state/{name}"))?)?)
            }
            Target::Binary { name } => {
                self.unused(|uses| uses.tools.contains(name))?;
                Ok(self.root.remove_tree(&RelPath::new(format!("bin/{}", name.hex()))?)?)
            }
            Target::Record { name } => {
                Ok(self.root.remove_tree(&RelPath::new(format!("history/{name}"))?)?)
            }
            Target::Leftover { name } => match self.root.entry(name)? {
                Some(entry) if entry.kind == Kind::Folder => Ok(self.root.remove_tree(name)?),
                _ => Ok(self.root.remove(name).map(drop)?),
            },
        }
    }

    async fn container(&self, removal: &Removal, name: &str, id: &str) -> Result<(), CleanupError> {
        if removal.session.is_none() && self.shared.is_none() {
            // The scaffold of an image belongs to whoever holds the lock of what is shared.
            let held = Lock::shared(self.roots, &self.root)?;
            drop(held);
        }
        let Some(found) = self.engine.container(name).await? else { return Ok(()) };
        self.same(removal, &found.labels, found.id == id)?;
        match found.state {
            ContainerState::Running => self.engine.stop(id, GRACE).await?,
            // What is frozen hears of no other signal.
            ContainerState::Paused => self.engine.signal(id, "SIGKILL").await?,
            ContainerState::Created | ContainerState::Exited => {}
        }
        Ok(self.engine.remove_container(id).await?)
    }

    /// Whether an object is the one that was seen, and still this owner's and that session's.
    fn same(
        &self,
        removal: &Removal,
        labels: &BTreeMap<String, String>,
        same: bool,
    ) -> Result<(), CleanupError> {
        let owner = labels.get(LABEL_OWNER).map(String::as_str);
        let session = labels.get(LABEL_IDENTITY).map(String::as_str);
        let of_session = removal.session.as_ref().map(Identity::as_str);
        if !same || owner != Some(self.owner) || session != of_session {
            return Err(CleanupError::Changed("it is another one by now"));
        }
        Ok(())
    }

    /// Locks a session, which must not have been brought up since it was looked at.
    fn lock(&mut self, session: &Identity, scratch: bool) -> Result<(), CleanupError> {
        if !self.sessions.contains_key(session) {
            let lock = Lock::session(self.roots, &self.root, session)?;
            self.sessions.insert(session.clone(), lock);
        }
        match standing(&self.root, session)? {
            Standing::Unfinished => Ok(()),
            Standing::Whole(_) if scratch => Ok(()),
            _ => Err(CleanupError::Changed("its session was begun again")),
        }
    }

    /// Whether no session uses what sessions share. From then on to the end none can begin to.
    fn unused(&mut self, is_used: impl Fn(&Uses) -> bool) -> Result<(), CleanupError> {
        if self.shared.is_none() {
            self.shared = Some(Lock::shared(self.roots, &self.root)?);
        }
        for name in folders(&self.root, "state")? {
            let Ok(identity) = Identity::new(name) else { continue };
            let ours = self.sessions.contains_key(&identity);
            if !ours && Lock::is_held(self.roots, &self.root, &identity)? {
                return Err(CleanupError::Changed("another bottle process is at work"));
            }
            match standing(&self.root, &identity)? {
                Standing::Unfinished => {}
                Standing::Whole(uses) if !is_used(&uses) => {}
                _ => return Err(CleanupError::Changed("a session uses it by now")),
            }
        }
        Ok(())
    }

    /// Takes away the lock files of sessions that are gone, which taking their locks left.
    fn unlock(&mut self) {
        for (session, lock) in std::mem::take(&mut self.sessions) {
            let path = |folder: &str, end: &str| RelPath::new(format!("{folder}/{session}{end}"));
            if let (Ok(state), Ok(file)) = (path("state", ""), path("locks", ".lock"))
                && matches!(self.root.entry(&state), Ok(None))
            {
                // Best effort: the next clean-up finds it.
                let _ = self.root.remove(&file);
            }
            drop(lock);
        }
    }
}
