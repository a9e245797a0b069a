//! What each kind of action means: whether it is so already, whether what it expects holds, and
//! how it is done. Nothing here decides; a difference from what the plan expects is reported.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bottle_planner::document;
use bottle_planner::plan::{
    Action, ActionId, AssembleImage, BuildImage, BuildReach, Connect, ContainerRef, ContainerSpec,
    Deliver, Effect, Expect, File, Folder, ImportImage, LABEL_IDENTITY, LABEL_OWNER, LABEL_PLAN,
    LABEL_SPEC, MintCa, Mount, NetworkSpec, Operation, Placeholder, Plan, PullImage, Reload,
    RemoveFile, Save, Upload, UploadSource, VolumeSpec,
};
use bottle_planner::policy::HostConfig;
use bottle_planner::sidecar::{BIN, BINARY, SIDECAR_BINARY};
use bottle_planner::snapshot::{Container, ContainerState, ImageFact};
use bottle_planner::trusted_build;
use bottle_planner::words::{AbsPath, Digest, RelPath, Role};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::apply::Cancel;
use crate::archive::{self, One};
use crate::ca;
use crate::engine::{Engine, EngineError, HostPaths};
use crate::files::{Entry, FileError, Kind, Root};
use crate::journal::{JournalError, Note, Previous};
use crate::ledger::{APPLIED, BACKUP, LedgerError, own};
use crate::lock::{Lock, LockError};
use crate::mounted;
use crate::pack;
use crate::repository;
use crate::secrets::{Env, Gathered};
use crate::state::{CA_KEY, Ledger, Roots};
use crate::tool::{self, ToolBinary, ToolError};
use crate::tree::TreeError;
use crate::work::{self, SaveError};
use crate::workspace::{self, Layer, WorkspaceError};

/// Seconds a container has between SIGTERM and SIGKILL.
const GRACE_SECONDS: u32 = 10;
/// How long an init may take to take its secrets after the start.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a sidecar may take to read its files again.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(10);
/// `EX_TEMPFAIL` of sysexits.h: the init's socket is not up yet.
const NOT_READY: i64 = 75;
/// How old an inspection that several checks share may be.
const FRESH: Duration = Duration::from_millis(100);

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The world is not as the plan expects.
    #[error("expected {expected}, found {found}")]
    Stale {
        /// What the plan expects.
        expected: String,
        /// What there is.
        found: String,
    },
    /// The engine failed or refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal cannot be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger cannot be kept.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The certificate authority was not made.
    #[error(transparent)]
    Ca(#[from] ca::CaError),
    /// The binary was not put in place.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The lock of shared objects was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A folder of the host could not be packed.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// A folder that is to be mounted could not be looked through.
    #[error(transparent)]
    Mounted(#[from] mounted::MountedError),
    /// A container did not take its secrets.
    #[error("expected {role} to take its secrets, found {why}")]
    Delivery {
        /// Which.
        role: Role,
        /// Its words, or that it said nothing.
        why: String,
    },
    /// A container did not read its files again.
    #[error("expected {role} to load {digest}, found {why}")]
    Reload {
        /// Which.
        role: Role,
        /// What it should have in force.
        digest: Digest,
        /// Its words, or that it said nothing.
        why: String,
    },
    /// What an agent did could not be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// An archive could not be made.
    #[error("could not pack an archive")]
    Pack(#[source] std::io::Error),
    /// The plan says something that cannot be, or this program is wrong.
    #[error("internal: {0}")]
    Internal(String),
}

impl OpError {
    /// Whether the world differs from what the plan expects: planning again helps.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::File(FileError::Kind { .. }))
    }

    fn stale(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Stale { expected: expected.into(), found: found.into() }
    }
}

/// What a check found.
#[derive(Debug)]
pub(crate) enum Check {
    /// It is so already.
    Satisfied(Made),
    /// What is expected holds.
    Ready(Basis),
    /// It does not.
    Stale {
        /// What the plan expects.
        expected: String,
        /// What there is.
        found: String,
    },
}

/// What an action is done to, as the check saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Basis {
    /// The engine's id of what is stopped or removed.
    pub(crate) object: Option<String>,
    /// The file that is overwritten or deleted.
    pub(crate) previous: Option<Previous>,
}

/// What came of an action.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    /// The engine's id of it.
    pub(crate) object: Option<String>,
    /// What it changes in the ledger.
    pub(crate) notes: Vec<Note>,
    /// Why it was left although it was asked for, and how to get there.
    pub(crate) left: Option<String>,
}

impl Made {
    fn object(id: impl Into<String>) -> Self {
        Self { object: Some(id.into()), ..Self::default() }
    }

    fn noted(note: Note) -> Self {
        Self { notes: vec![note], ..Self::default() }
    }
}

/// Everything actions are checked and done with.
pub(crate) struct World<'a, E> {
    pub(crate) engine: &'a E,
    pub(crate) plan: &'a Plan,
    pub(crate) digest: &'a Digest,
    pub(crate) roots: &'a Roots,
    pub(crate) config: &'a HostConfig,
    pub(crate) tool: &'a ToolBinary,
    pub(crate) env: &'a Env<'a>,
    pub(crate) cancel: &'a Cancel,
    /// The state root.
    pub(crate) root: Root,
    /// The session's lock, also held by threads that outlive a dropped apply.
    pub(crate) lock: Arc<Lock>,
    /// The state folder, once it is there.
    pub(crate) state: RefCell<Option<Root>>,
    pub(crate) ledger: RefCell<Ledger>,
    /// What an earlier apply of this very plan began, and what it finished.
    pub(crate) begun: BTreeSet<ActionId>,
    pub(crate) done: BTreeSet<ActionId>,
    pub(crate) secrets: RefCell<Gathered>,
    pub(crate) redeliver: bool,
    pub(crate) shared: Shared,
    pub(crate) inspections: Inspections,
    pub(crate) installing: Installing,
}

/// The binaries that are in `bin`, or on their way there.
#[derive(Default)]
pub(crate) struct Installing(RefCell<BTreeMap<Digest, Rc<OnceCell<()>>>>);

/// The lock of objects that sessions share: held as long as any action needs it.
#[derive(Default)]
pub(crate) struct Shared(tokio::sync::Mutex<Weak<Lock>>);

/// Inspections of containers that checks running side by side share.
#[derive(Default)]
pub(crate) struct Inspections(RefCell<BTreeMap<String, (Instant, Rc<Inspected>)>>);

type Inspected = OnceCell<Option<Container>>;

/// The object an action is about: two actions with the same one are seen in order.
#[must_use]
pub(crate) fn subject(op: &Operation) -> String {
    let container = |name: &str| format!("container {name}");
    match op {
        Operation::Folder(folder) => format!("path {}", folder.path.path),
        Operation::File(file) => format!("path {}", file.path.path),
        Operation::RemoveFile(file) => format!("path {}", file.path.path),
        Operation::MintCa(mint) => format!("path {}", mint.certificate.path),
        Operation::ImportImage(image) => format!("image {}", image.tag),
        Operation::BuildImage(image) => format!("image {}", image.tag),
        Operation::AssembleImage(image) => format!("image {}", image.tag),
        Operation::PullImage(pull) => format!("image {}", reference(pull)),
        Operation::Network(network) => format!("network {}", network.name),
        Operation::RemoveNetwork(network) => format!("network {}", network.name),
        Operation::Volume(volume) => format!("volume {}", volume.name),
        Operation::RemoveVolume(volume) => format!("volume {}", volume.name),
        Operation::Container(spec) => container(&spec.name),
        Operation::Upload(upload) => container(&upload.container),
        Operation::Connect(connect) => container(&connect.container),
        Operation::Start(at) | Operation::Stop(at) | Operation::RemoveContainer(at) => {
            container(&at.container)
        }
        Operation::Deliver(deliver) => container(&deliver.container),
        Operation::Reload(reload) => container(&reload.container),
        Operation::Placeholder(stand) | Operation::RemovePlaceholder(stand) => {
            stand.workspace.join(&stand.path).to_string()
        }
        Operation::Save(_) => "work".to_owned(),
        Operation::Archive(_) => "state".to_owned(),
    }
}

impl<E: Engine> World<'_, E> {
    /// Looks at one action's object: is it so already, does what is expected hold?
    pub(crate) async fn check(&self, action: &Action) -> Result<Check, OpError> {
        let checked = match &action.op {
            Operation::Folder(folder) => self.check_folder(action, folder).await,
            Operation::File(file) => self.check_file(action, file).await,
            Operation::RemoveFile(file) => self.check_remove_file(action, file).await,
            Operation::MintCa(mint) => self.check_mint(action, mint).await,
            Operation::ImportImage(image) => {
                self.check_image(action, &image.tag, &BTreeMap::new()).await
            }
            Operation::BuildImage(image) => {
                self.check_image(action, &image.tag, &image.labels).await
            }
            Operation::AssembleImage(image) => {
                self.check_image(action, &image.tag, &image.labels).await
            }
            Operation::PullImage(pull) => {
                self.check_image(action, &reference(pull), &BTreeMap::new()).await
            }
            Operation::Network(spec) => self.check_network(action, spec).await,
            Operation::Volume(spec) => self.check_volume(action, spec).await,
            Operation::Container(spec) => self.check_container(action, spec).await,
            Operation::Upload(upload) => self.check_upload(action, upload).await,
            Operation::Connect(connect) => self.check_connect(action, connect).await,
            Operation::Start(at) => self.check_start(action, at).await,
            Operation::Deliver(deliver) => self.check_deliver(action, deliver).await,
            Operation::Reload(reload) => self.check_reload(action, reload).await,
            Operation::Stop(at) => self.check_going(action, &at.container, true).await,
            Operation::RemoveContainer(at) => {
                let check = self.check_going(action, &at.container, false).await?;
                Ok(match (check, &action.expect) {
                    // Where this very apply was cut short after it went, the ledger missed it.
                    (Check::Satisfied(_), Expect::Object { id }) => {
                        Check::Satisfied(Made::noted(Note::Gone { container: id.clone() }))
                    }
                    (check, _) => check,
                })
            }
            Operation::RemoveNetwork(object) => {
                let found = self.engine.network(&object.name).await?;
                Ok(self.judge_going(action, found.map(|n| (n.id, n.labels))))
            }
            Operation::RemoveVolume(object) => {
                let found = self.engine.volume(&object.name).await?;
                let id = object.name.clone();
                Ok(self.judge_going(action, found.map(|v| (id, v.labels))))
            }
            Operation::Placeholder(stand) => self.check_placeholder(action, stand).await,
            Operation::RemovePlaceholder(stand) => Ok(match self.placeholder(stand).await? {
                None => Check::Satisfied(Made::default()),
                Some(_) => Check::Ready(Basis::default()),
            }),
            Operation::Save(save) => self.check_save(action, save).await,
            Operation::Archive(_) => Ok(match &*self.state.borrow() {
                None => Check::Satisfied(Made::default()),
                Some(_) => Check::Ready(Basis::default()),
            }),
        };
        match checked {
            // What stands in the way of looking stands in the way of doing.
            Err(OpError::File(FileError::Kind { path, expected, found })) => Ok(Check::Stale {
                expected: format!("{expected} at {}", path.display()),
                found: found.to_string(),
            }),
            checked => checked,
        }
    }

    /// Does one action that a check found ready.
    pub(crate) async fn carry_out(
        &self,
        action: &Action,
        basis: &Basis,
        progress: &dyn Fn(&str),
    ) -> Result<Made, OpError> {
        match &action.op {
            Operation::Folder(folder) => {
                let (state, folder) = (self.state()?, folder.clone());
                self.blocking(move || {
                    state.make_folder(&folder.path.path, folder.mode, folder.owner)?;
                    Ok::<_, FileError>(Made::default())
                })
                .await
            }
            Operation::File(file) => self.write_file(file, basis).await,
            Operation::RemoveFile(file) => self.remove_file(file, basis).await,
            Operation::MintCa(mint) => {
                let (state, mint) = (self.state()?, mint.clone());
                self.blocking(move || {
                    let fingerprint = ca::mint(&state, &mint)?;
                    let object = Some(fingerprint.to_string());
                    Ok::<_, ca::CaError>(Made {
                        object,
                        notes: vec![Note::Minted { fingerprint }],
                        left: None,
                    })
                })
                .await
            }
            Operation::ImportImage(image) => self.import_image(image).await,
            Operation::BuildImage(image) => self.build_image(image, progress).await,
            Operation::AssembleImage(image) => self.assemble_image(image).await,
            Operation::PullImage(pull) => {
                let reference = reference(pull);
                let _shared = self.shared().await?;
                match self.image_made_meanwhile(&reference).await? {
                    Some(made) => Ok(made),
                    None => {
                        let pulled = self.engine.pull_image(&reference, progress).await;
                        self.image_after(&reference, pulled).await
                    }
                }
            }
            Operation::Network(spec) => self.create_network(spec).await,
            Operation::Volume(spec) => self.create_volume(spec).await,
            Operation::Container(spec) => self.create_container(spec).await,
            Operation::Upload(upload) => self.upload(upload).await,
            Operation::Connect(connect) => self.connect(connect).await,
            Operation::Start(at) => self.start(at).await,
            Operation::Deliver(deliver) => self.deliver(deliver).await,
            Operation::Reload(reload) => self.reload(reload).await,
            Operation::Stop(at) => {
                let target = basis.object.as_ref().unwrap_or(&at.container);
                self.forget(&at.container);
                gone(self.engine.stop(target, GRACE_SECONDS).await)
            }
            Operation::RemoveContainer(at) => {
                let target = basis.object.as_ref().unwrap_or(&at.container);
                self.forget(&at.container);
                gone(self.engine.remove_container(target).await)?;
                let note = |id: &String| Note::Gone { container: id.clone() };
                Ok(Made { notes: basis.object.iter().map(note).collect(), ..Made::default() })
            }
            Operation::RemoveNetwork(object) => {
                gone(self.engine.remove_network(&object.name).await)
            }
            Operation::RemoveVolume(object) => {
                gone(self.engine.remove_volume(&object.name).await)?;
                let container = on_volume(&object.name);
                Ok(Made::noted(Note::Gone { container }))
            }
            Operation::Placeholder(stand) => self.put_placeholder(stand).await,
            Operation::RemovePlaceholder(stand) => {
                self.remove_placeholder(stand).await?;
                Ok(Made::default())
            }
            Operation::Save(save) => self.save(save).await,
            Operation::Archive(_) => self.archive().await,
        }
    }

    /// What a start record says an action will do.
    pub(crate) fn intent(&self, action: &Action) -> Vec<Note> {
        match &action.op {
            Operation::File(file) => vec![wrote(file)],
            Operation::RemoveFile(file) => vec![Note::Removed { path: file.path.path.clone() }],
            _ => Vec::new(),
        }
    }

    /// Runs a blocking function on a thread of its own. The session stays locked until it ends,
    /// also where nobody waits for it any more.
    pub(crate) async fn blocking<T: Send + 'static, F: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, F> + Send + 'static,
    ) -> Result<T, OpError>
    where
        OpError: From<F>,
    {
        let lock = Arc::clone(&self.lock);
        let ran = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(lock);
            result
        });
        let result = ran.await.map_err(|e| OpError::Internal(e.to_string()))?;
        Ok(result?)
    }

    pub(crate) fn state(&self) -> Result<Root, OpError> {
        let state = self.state.borrow().clone();
        state.ok_or_else(|| OpError::stale("a state folder", "none"))
    }

    /// Whether labels say that an object belongs to this session of this user.
    pub(crate) fn ours(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(LABEL_IDENTITY).map(String::as_str) == Some(self.plan.identity.as_str())
            && labels.get(LABEL_OWNER) == Some(&self.plan.session.owner)
    }

    fn labelled(&self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut labels = labels.clone();
        labels.insert(LABEL_PLAN.to_owned(), self.digest.to_string());
        labels
    }

    /// An inspection of a container. Checks of actions that find all well share one.
    async fn container(&self, name: &str, effect: Effect) -> Result<Option<Container>, OpError> {
        if effect != Effect::None {
            return Ok(self.engine.container(name).await?);
        }
        let cell = {
            let mut known = self.inspections.0.borrow_mut();
            known.retain(|_, (at, _)| at.elapsed() < FRESH);
            let fresh = || (Instant::now(), Rc::default());
            Rc::clone(&known.entry(name.to_owned()).or_insert_with(fresh).1)
        };
        Ok(cell.get_or_try_init(|| self.engine.container(name)).await?.clone())
    }

    fn forget(&self, name: &str) {
        self.inspections.0.borrow_mut().remove(name);
    }

    // The mounted workspace.

    async fn placeholder(&self, stand: &Placeholder) -> Result<Option<Entry>, OpError> {
        let stand = stand.clone();
        self.blocking(move || match Root::open(stand.workspace.as_str().as_ref())? {
            Some(folder) => folder.entry(&stand.path),
            None => Ok(None),
        })
        .await
    }

    async fn check_placeholder(
        &self,
        action: &Action,
        stand: &Placeholder,
    ) -> Result<Check, OpError> {
        let expected = if stand.folder { Kind::Folder } else { Kind::File };
        Ok(match self.placeholder(stand).await? {
            None => judge(action, None),
            Some(found) if found.kind == expected => Check::Satisfied(Made::default()),
            Some(found) => {
                Check::Stale { expected: expected.to_string(), found: found.kind.to_string() }
            }
        })
    }

    async fn put_placeholder(&self, stand: &Placeholder) -> Result<Made, OpError> {
        let stand = stand.clone();
        self.blocking(move || {
            let folder = Root::open(stand.workspace.as_str().as_ref())?;
            let folder = folder.ok_or_else(|| OpError::stale("a workspace", "none"))?;
            if folder.entry(&stand.path)?.is_some() {
                return Err(OpError::stale("nothing", format!("something at {}", stand.path)));
            }
            if stand.folder {
                folder.make_folder(&stand.path, 0o755, None)?;
            } else {
                folder.write(&stand.path, b"", 0o644, None)?;
            }
            Ok(Made::default())
        })
        .await
    }

    /// Takes a placeholder away, unless somebody has put something into it.
    pub(crate) async fn remove_placeholder(&self, stand: &Placeholder) -> Result<bool, OpError> {
        let stand = stand.clone();
        self.blocking(move || {
            let Some(folder) = Root::open(stand.workspace.as_str().as_ref())? else {
                return Ok(false);
            };
            match folder.entry(&stand.path)? {
                Some(found) if found.kind == Kind::Folder && stand.folder => {
                    folder.remove_folder_if_empty(&stand.path)
                }
                Some(found) if found.kind == Kind::File && !stand.folder => {
                    let content = folder.read(&stand.path)?;
                    let is_empty = content.is_some_and(|content| content.bytes.is_empty());
                    if is_empty { folder.remove(&stand.path) } else { Ok(false) }
                }
                _ => Ok(false),
            }
        })
        .await
    }

    /// Whether this plan makes a container that mounts the workspace.
    pub(crate) fn mounts_anew(&self) -> bool {
        self.plan.actions.iter().any(|action| {
            action.effect != Effect::None
                && matches!(&action.op, Operation::Container(c) if mounts_workspace(c).is_some())
        })
    }

    /// What is mounted over the workspace was decided from what it held when the plan was made.
    pub(crate) async fn guards_fit(&self) -> Result<(), OpError> {
        let Some(place) = self.plan.session.workspace.clone() else { return Ok(()) };
        let granted = self.plan.grants.workspace.clone();
        self.blocking(move || {
            let host = place.host.as_str();
            let seen = mounted::look(host.as_ref(), &granted.hide, &granted.protect)?;
            match bottle_planner::mounted::misfit(&place, &seen, &granted.protect) {
                None => Ok(()),
                Some(path) => {
                    let expected = format!("what is hidden and protected in {host} as planned");
                    Err(OpError::stale(expected, format!("another {path}")))
                }
            }
        })
        .await
    }

    // Files.

    async fn check_folder(&self, action: &Action, folder: &Folder) -> Result<Check, OpError> {
        let found = self.entry(&folder.path.path).await?;
        Ok(match found {
            None => judge(action, None),
            Some(Entry { kind: Kind::Folder, mode, owner })
                if mode == folder.mode && folder.owner.is_none_or(|o| o == owner) =>
            {
                Check::Satisfied(Made::default())
            }
            Some(Entry { kind: Kind::Folder, mode, .. }) => {
                judge(action, Some(Found::own("", format!("a folder of mode {mode:03o}"))))
            }
            Some(Entry { kind, .. }) => {
                Check::Stale { expected: "a folder".into(), found: kind.to_string() }
            }
        })
    }

    async fn check_file(&self, action: &Action, file: &File) -> Result<Check, OpError> {
        let Some(state) = self.state.borrow().clone() else { return Ok(judge(action, None)) };
        let (path, wanted) = (file.path.path.clone(), file.clone());
        let found = self.blocking(move || state.read(&path)).await?;
        let Some(found) = found else { return Ok(judge(action, None)) };
        let same = found.digest == Digest::of(wanted.content.as_bytes())
            && found.mode == wanted.mode
            && wanted.owner.is_none_or(|o| o == found.owner);
        if same {
            return Ok(Check::Satisfied(Made::noted(wrote(file))));
        }
        let previous = Previous { digest: found.digest, mode: found.mode, owner: found.owner };
        Ok(judge_file(action, previous))
    }

    async fn check_remove_file(
        &self,
        action: &Action,
        file: &RemoveFile,
    ) -> Result<Check, OpError> {
        let gone = Check::Satisfied(Made::noted(Note::Removed { path: file.path.path.clone() }));
        let Some(state) = self.state.borrow().clone() else { return Ok(gone) };
        let path = file.path.path.clone();
        let Some(found) = self.blocking(move || state.read(&path)).await? else { return Ok(gone) };
        let previous = Previous { digest: found.digest, mode: found.mode, owner: found.owner };
        Ok(judge_file(action, previous))
    }

    async fn check_mint(&self, action: &Action, mint: &MintCa) -> Result<Check, OpError> {
        let Some(state) = self.state.borrow().clone() else { return Ok(judge(action, None)) };
        let (key, certificate) = (mint.key.path.clone(), mint.certificate.path.clone());
        let looked = move || Ok::<_, FileError>((state.entry(&key)?, state.read(&certificate)?));
        let (key, certificate) = self.blocking(looked).await?;
        let safe_key = key.is_some_and(|k| k.kind == Kind::File && k.mode & 0o077 == 0);
        let fingerprint = certificate
            .as_ref()
            .and_then(|c| std::str::from_utf8(&c.bytes).ok())
            .and_then(ca::fingerprint);
        let begun = self.begun.contains(&action.id);
        Ok(match (&mint.fingerprint, fingerprint) {
            (Some(wanted), Some(found)) if *wanted == found && safe_key => {
                Check::Satisfied(Made::object(found.to_string()))
            }
            (None, Some(fingerprint)) if safe_key && begun => Check::Satisfied(Made {
                object: Some(fingerprint.to_string()),
                notes: vec![Note::Minted { fingerprint }],
                left: None,
            }),
            (None, _) if begun => Check::Ready(Basis::default()),
            (_, Some(found)) => {
                let key = if safe_key { "its key" } else { "no safe key" };
                judge(action, Some(Found::own("", format!("certificate {found} with {key}"))))
            }
            (_, None) if key.is_some() || certificate.is_some() => {
                judge(action, Some(Found::own("", "a key without a certificate, or the reverse")))
            }
            (_, None) => judge(action, None),
        })
    }

    async fn entry(&self, path: &RelPath) -> Result<Option<Entry>, OpError> {
        let Some(state) = self.state.borrow().clone() else { return Ok(None) };
        let path = path.clone();
        self.blocking(move || state.entry(&path)).await
    }

    async fn write_file(&self, file: &File, basis: &Basis) -> Result<Made, OpError> {
        let (state, file, previous) = (self.state()?, file.clone(), basis.previous.clone());
        self.blocking(move || {
            let path = &file.path.path;
            keep_previous(&state, path, previous.as_ref())?;
            state.write(path, file.content.as_bytes(), file.mode, file.owner)?;
            Ok::<_, OpError>(Made::noted(wrote(&file)))
        })
        .await
    }

    async fn remove_file(&self, file: &RemoveFile, basis: &Basis) -> Result<Made, OpError> {
        let (state, file, previous) = (self.state()?, file.clone(), basis.previous.clone());
        self.blocking(move || {
            let path = file.path.path;
            keep_previous(&state, &path, previous.as_ref())?;
            state.remove(&path)?;
            Ok::<_, OpError>(Made::noted(Note::Removed { path }))
        })
        .await
    }

    /// What is saved is saved once: after that this very plan may have removed what held it.
    async fn check_save(&self, action: &Action, save: &Save) -> Result<Check, OpError> {
        if self.done.contains(&action.id) {
            return Ok(Check::Satisfied(Made::default()));
        }
        Ok(match self.own_container(action, &save.container).await? {
            Ok(container) => judge_part(action, &container, "not saved"),
            Err(stale) => stale,
        })
    }

    async fn save(&self, save: &Save) -> Result<Made, OpError> {
        let state = self.state()?;
        let scratch = self.roots.root.join("tmp").join(self.plan.identity.as_str());
        let path = (self.env)("PATH");
        work::save(self.engine, self.plan, save, &state, &scratch, path).await?;
        Ok(Made::object(work::SAVED))
    }

    async fn archive(&self) -> Result<Made, OpError> {
        let identity = self.plan.identity.clone();
        let root = self.root.clone();
        let to = self
            .blocking(move || {
                let from = own(&format!("state/{identity}"))?;
                // Nothing that trusts it is left.
                root.remove(&own(&format!("state/{identity}/{CA_KEY}"))?)?;
                root.ensure_folder(&own("history")?, 0o700)?;
                for n in 1_u32.. {
                    let to = own(&history_name(identity.as_str(), n))?;
                    if root.rename(&from, &to)? {
                        return Ok(to);
                    }
                }
                Err(OpError::Internal("no free name in history".into()))
            })
            .await?;
        Ok(Made::object(to.to_string()))
    }

    // Images.

    async fn check_image(
        &self,
        action: &Action,
        reference: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Check, OpError> {
        let found = self.engine.image(reference).await?;
        let same = |image: &ImageFact| match labels.get(LABEL_SPEC) {
            Some(spec) => image.labels.get(LABEL_SPEC) == Some(spec),
            None => true,
        };
        Ok(match found {
            None => judge(action, None),
            Some(image) if same(&image) => Check::Satisfied(Made::object(image.id.to_string())),
            Some(image) => {
                judge(action, Some(Found::own(image.id.as_str(), "an image of another make")))
            }
        })
    }

    async fn import_image(&self, image: &ImportImage) -> Result<Made, OpError> {
        if image.tool != self.tool.digest {
            let expected = format!("the binary {}", image.tool);
            return Err(OpError::stale(expected, self.tool.digest.to_string()));
        }
        let tool = self.tool.clone();
        let tar = self.blocking(move || tool::root_file_system(&tool)).await?;
        let owner = self.plan.session.owner.clone();
        let labels = BTreeMap::from([(LABEL_OWNER.to_owned(), owner)]);
        let _shared = self.shared().await?;
        match self.image_made_meanwhile(&image.tag).await? {
            Some(made) => Ok(made),
            None => {
                let imported = self.engine.import_image(&image.tag, tar, &labels).await;
                self.image_after(&image.tag, imported).await
            }
        }
    }

    async fn build_image(
        &self,
        image: &BuildImage,
        progress: &dyn Fn(&str),
    ) -> Result<Made, OpError> {
        let (roots, wanted) = (self.roots.clone(), image.clone());
        let tar = self.blocking(move || workspace::build_context(&roots, &wanted)).await?;
        // An image that an agent proposed is its session's own, and its steps may last for as long as
        // the agent wants them to: nobody else waits for them.
        let _shared = match &image.network {
            BuildReach::Session(_) => None,
            BuildReach::Open | BuildReach::None => Some(self.shared().await?),
        };
        if let Some(made) = self.image_made_meanwhile(&image.tag).await? {
            return Ok(made);
        }
        let BuildImage { tag, network, proxy, labels, .. } = image;
        let built =
            self.engine.build_image(tag, tar, network, proxy.as_ref(), labels, progress).await;
        self.image_after(tag, built).await
    }

    async fn assemble_image(&self, image: &AssembleImage) -> Result<Made, OpError> {
        let host = self.plan.session.workspace.as_ref().map(|w| w.host.clone());
        let host = host.ok_or_else(|| OpError::Internal("an image with no workspace".into()))?;
        let scratch = self.roots.root.join("tmp").join(self.plan.identity.as_str());
        let path = (self.env)("PATH");
        let _shared = self.shared().await?;
        if let Some(made) = self.image_made_meanwhile(&image.tag).await? {
            return Ok(made);
        }
        let AssembleImage { tag, base, labels, .. } = image;
        let mut packing = None;
        let mut layer = |volumes| {
            let (host, scratch) = (PathBuf::from(host.as_str()), scratch.clone());
            let (layer, pieces) = Layer::begin(image.clone(), host, scratch, path.clone(), volumes);
            packing = Some(layer);
            pieces
        };
        let made = self.engine.assemble_image(tag, base, &mut layer, labels).await;
        if let Some(packing) = packing {
            match packing.ended().await {
                // The engine took no more: it knows why.
                Err(WorkspaceError::Tree(TreeError::Write(_))) if made.is_err() => {}
                ended => ended?,
            }
        }
        self.image_after(&image.tag, made).await
    }

    /// The lock of shared objects; waits for another process that has it.
    async fn shared(&self) -> Result<Rc<Lock>, OpError> {
        let mut held = self.shared.0.lock().await;
        if let Some(lock) = held.upgrade() {
            return Ok(lock);
        }
        loop {
            match Lock::shared(self.roots, &self.root) {
                Ok(lock) => {
                    let lock = Rc::new(lock);
                    *held = Rc::downgrade(&lock);
                    return Ok(lock);
                }
                Err(error @ LockError::Held { .. }) if self.cancel.is_set() => {
                    return Err(error.into());
                }
                Err(LockError::Held { .. }) => tokio::time::sleep(POLL).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An image that was just made, or whose making lost its answer.
    async fn image_after(
        &self,
        reference: &str,
        made: Result<String, EngineError>,
    ) -> Result<Made, OpError> {
        match made {
            Ok(id) => Ok(Made::object(id)),
            Err(error) if is_doubtful(&error) => {
                let found = self.engine.image(reference).await?;
                found.map(|image| Made::object(image.id.to_string())).ok_or_else(|| error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// An image that another session made while this one waited for the lock.
    async fn image_made_meanwhile(&self, reference: &str) -> Result<Option<Made>, OpError> {
        Ok(self.engine.image(reference).await?.map(|image| Made::object(image.id.to_string())))
    }

    // Networks and volumes.

    async fn check_network(&self, action: &Action, spec: &NetworkSpec) -> Result<Check, OpError> {
        let found = self.engine.network(&spec.name).await?;
        Ok(match found {
            None => judge(action, None),
            Some(n) if carries(&n.labels, &spec.labels) && n.subnets.contains(&spec.subnet) => {
                Check::Satisfied(Made::object(n.id))
            }
            Some(n) => judge(action, Some(self.found(n.id, &n.labels, "network", &spec.name))),
        })
    }

    async fn create_network(&self, spec: &NetworkSpec) -> Result<Made, OpError> {
        let error = match self.engine.create_network(spec, &self.labelled(&spec.labels)).await {
            Ok(id) => return Ok(Made::object(id)),
            Err(error) if is_doubtful(&error) => error,
            Err(error) => return Err(error.into()),
        };
        match self.engine.network(&spec.name).await? {
            Some(n) if carries(&n.labels, &spec.labels) && n.subnets.contains(&spec.subnet) => {
                Ok(Made::object(n.id))
            }
            _ => Err(clash(error, &format!("network {} with {}", spec.name, spec.subnet))),
        }
    }

    async fn check_volume(&self, action: &Action, spec: &VolumeSpec) -> Result<Check, OpError> {
        let found = self.engine.volume(&spec.name).await?;
        Ok(match found {
            None => judge(action, None),
            Some(v) if self.ours(&v.labels) => Check::Satisfied(Made::object(&spec.name)),
            Some(v) => {
                let id = spec.name.clone();
                judge(action, Some(self.found(id, &v.labels, "volume", &spec.name)))
            }
        })
    }

    async fn create_volume(&self, spec: &VolumeSpec) -> Result<Made, OpError> {
        let error = match self.engine.create_volume(spec, &self.labelled(&spec.labels)).await {
            Ok(()) => return Ok(Made::object(&spec.name)),
            Err(error) if is_doubtful(&error) => error,
            Err(error) => return Err(error.into()),
        };
        match self.engine.volume(&spec.name).await? {
            Some(v) if self.ours(&v.labels) => Ok(Made::object(&spec.name)),
            _ => Err(clash(error, &format!("volume {}", spec.name))),
        }
    }

    // Containers.

    async fn check_container(
        &self,
        action: &Action,
        spec: &ContainerSpec,
    ) -> Result<Check, OpError> {
        let found = self.container(&spec.name, action.effect).await?;
        Ok(match found {
            None => judge(action, None),
            Some(c) if as_asked(&c, spec) => Check::Satisfied(Made::object(c.id)),
            Some(c) => judge(action, Some(self.found(c.id, &c.labels, "container", &spec.name))),
        })
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<Made, OpError> {
        for mount in &spec.mounts {
            if let Mount::Bin { tool } = mount {
                self.install_tool(tool).await?;
            }
        }
        if mounts_workspace(spec).is_some() {
            self.guards_fit().await?;
        }
        let paths = HostPaths {
            state: self.roots.state(&self.plan.identity),
            bin: self.roots.root.join("bin"),
        };
        self.forget(&spec.name);
        let labels = self.labelled(&spec.labels);
        let error = match self.engine.create_container(spec, &labels, &paths).await {
            Ok(id) => return Ok(Made::object(id)),
            Err(error) if is_doubtful(&error) => error,
            Err(error) => return Err(error.into()),
        };
        match self.engine.container(&spec.name).await? {
            Some(c) if as_asked(&c, spec) => Ok(Made::object(c.id)),
            _ => Err(clash(error, &format!("container {}", spec.name))),
        }
    }

    /// Puts the binaries in place that containers will mount, so that none waits for it. What goes
    /// wrong is told by the action that needs the binary.
    pub(crate) async fn install_tools(&self, due: impl Iterator<Item = &Action>) {
        let tools: BTreeSet<&Digest> = due
            .filter_map(|action| match &action.op {
                Operation::Container(spec) => Some(&spec.mounts),
                _ => None,
            })
            .flatten()
            .filter_map(|mount| match mount {
                Mount::Bin { tool } => Some(tool),
                _ => None,
            })
            .collect();
        for tool in tools {
            drop(self.install_tool(tool).await);
        }
    }

    async fn install_tool(&self, wanted: &Digest) -> Result<(), OpError> {
        let cell = Rc::clone(self.installing.0.borrow_mut().entry(wanted.clone()).or_default());
        cell.get_or_try_init(|| self.install(wanted)).await.copied()
    }

    async fn install(&self, wanted: &Digest) -> Result<(), OpError> {
        let (root, digest) = (self.root.clone(), wanted.clone());
        if self.blocking(move || tool::installed(&root, &digest)).await? {
            return Ok(());
        }
        if *wanted != self.tool.digest {
            let expected = format!("the binary {wanted} in bin or running");
            return Err(OpError::stale(expected, self.tool.digest.to_string()));
        }
        let _shared = self.shared().await?;
        let (root, tool) = (self.root.clone(), self.tool.clone());
        self.blocking(move || tool::install(&root, &tool)).await
    }

    async fn check_upload(&self, action: &Action, upload: &Upload) -> Result<Check, OpError> {
        if let (Effect::None, Some(volume)) = (action.effect, &upload.volume) {
            // It outlives the container, which may be made anew by this very plan.
            let there = (on_volume(volume), digest_of(upload)?);
            let found = self.ledger.borrow().uploaded.get(&action.id.0) == Some(&there);
            return Ok(if found {
                Check::Satisfied(Made::default())
            } else {
                Check::Stale {
                    expected: format!("{} to hold already", action.id),
                    found: "not uploaded".into(),
                }
            });
        }
        let container = match self.own_container(action, &upload.container).await? {
            Ok(container) => container,
            Err(stale) => return Ok(stale),
        };
        let digest = digest_of(upload)?;
        let onto = upload.volume.as_deref().map_or(container.id.clone(), on_volume);
        let uploaded = self.ledger.borrow().uploaded.get(&action.id.0) == Some(&(onto, digest));
        Ok(self.told_or_ready(action, uploaded, "uploaded", &container))
    }

    async fn upload(&self, upload: &Upload) -> Result<Made, OpError> {
        let container = self.present(&upload.container).await?;
        let mut bundle = String::new();
        if upload.items.iter().any(|i| i.source == UploadSource::CaBundle) {
            bundle = self.bundle(&upload.container).await?;
        }
        let (skills, items) = (self.roots.skills.clone(), upload.items.clone());
        let host = self.plan.session.workspace.as_ref().map(|w| w.host.clone());
        let scratch = self.roots.root.join("tmp").join(self.plan.identity.as_str());
        let path = (self.env)("PATH");
        let no_workspace = || OpError::Internal("a repository of no workspace".into());
        let packed = move || {
            let mut tar = tar::Builder::new(Vec::new());
            for item in &items {
                let (at, mode, owner) = (workspace::inside(&item.at), item.mode, item.owner);
                match &item.source {
                    UploadSource::Folder => pack::append_folder(&mut tar, at, mode, owner),
                    UploadSource::Text { content } => {
                        pack::append_file(&mut tar, at, mode, owner, content.as_bytes())
                    }
                    UploadSource::CaBundle => {
                        pack::append_file(&mut tar, at, mode, owner, bundle.as_bytes())
                    }
                    UploadSource::Skill { name, digest } => {
                        let folder = skills.join(name.as_str());
                        workspace::pack_skill(&mut tar, &folder, &item.at, mode, owner, digest)?;
                        Ok(())
                    }
                    UploadSource::Repository { commit, branch, worktree } => {
                        let host = host.as_ref().ok_or_else(no_workspace)?;
                        let wanted = repository::Wanted {
                            host: host.as_str().as_ref(),
                            commit: commit.as_deref(),
                            branch,
                            worktree: worktree.as_deref(),
                        };
                        let place = (&item.at, mode, owner);
                        workspace::pack_repository(
                            &mut tar,
                            &wanted,
                            &scratch,
                            path.as_ref(),
                            place,
                        )?;
                        Ok(())
                    }
                }
                .map_err(WorkspaceError::from)?;
            }
            tar.into_inner().map_err(OpError::Pack)
        };
        let tar = self.blocking(packed).await?;
        self.forget(&upload.container);
        self.engine.upload(&upload.container, "/", tar.into()).await?;
        let digest = digest_of(upload)?;
        let onto = upload.volume.as_deref().map_or(container.id, on_volume);
        Ok(Made::noted(Note::Uploaded { container: onto, digest }))
    }

    /// The image's own trust roots, the host config's, and the session's.
    async fn bundle(&self, container: &str) -> Result<String, OpError> {
        let mint = self.plan.actions.iter().find_map(|a| match &a.op {
            Operation::MintCa(mint) => Some(mint.certificate.path.clone()),
            _ => None,
        });
        let certificate = mint.ok_or_else(|| OpError::Internal("a bundle without a CA".into()))?;
        let state = self.state()?;
        let session = self.blocking(move || {
            let session = state.read(&certificate)?.map(|c| c.bytes).unwrap_or_default();
            Ok::<_, OpError>(String::from_utf8_lossy(&session).into_owned())
        });
        let (session, image) = futures_util::try_join!(session, self.image_roots(container))?;
        // As planned: the file was held against it before the first action, and is not read again.
        let host = self.plan.session.upstream_ca.as_deref().unwrap_or_default();
        if session.is_empty() {
            return Err(OpError::stale("the session's certificate", "none"));
        }
        Ok(ca::bundle(&image, host, &session))
    }

    /// The image's own trust roots, without what only its build was to trust.
    async fn image_roots(&self, container: &str) -> Result<String, OpError> {
        let (roots, built) =
            futures_util::try_join!(self.system_roots(container), self.build_roots(container))?;
        Ok(if built.is_empty() { roots } else { ca::without(&roots, &built) })
    }

    async fn build_roots(&self, container: &str) -> Result<String, OpError> {
        let Some(tar) = self.engine.download(container, trusted_build::IMAGE_FILE).await? else {
            return Ok(String::new());
        };
        Ok(match archive::one(&tar).map_err(OpError::Pack)? {
            Some(One::Text(text)) => text,
            Some(One::Link(_)) | None => String::new(),
        })
    }

    async fn system_roots(&self, container: &str) -> Result<String, OpError> {
        for path in ca::IMAGE_ROOTS {
            let mut at = path.to_owned();
            // A link is followed once: images link to where the file really is.
            for _ in 0..2 {
                let Some(tar) = self.engine.download(container, &at).await? else { break };
                match archive::one(&tar).map_err(OpError::Pack)? {
                    Some(One::Text(text)) => return Ok(text),
                    Some(One::Link(target)) => at = resolve(&at, &target),
                    None => break,
                }
            }
        }
        Ok(String::new())
    }

    async fn check_connect(&self, action: &Action, connect: &Connect) -> Result<Check, OpError> {
        let container = match self.own_container(action, &connect.container).await? {
            Ok(container) => container,
            Err(stale) => return Ok(stale),
        };
        Ok(match container.networks.get(&connect.network) {
            Some(Some(address)) if *address == connect.address => Check::Satisfied(Made::default()),
            Some(other) => Check::Stale {
                expected: format!("{} at {}", connect.container, connect.address),
                found: other.map_or("another address".into(), |a| a.to_string()),
            },
            None => judge_part(action, &container, "not connected"),
        })
    }

    async fn connect(&self, connect: &Connect) -> Result<Made, OpError> {
        self.forget(&connect.container);
        let Connect { container, network, address } = connect;
        let Err(error) = self.engine.connect(container, network, *address).await else {
            return Ok(Made::default());
        };
        if !is_doubtful(&error) {
            return Err(error.into());
        }
        let found = self.engine.container(container).await?;
        match found.and_then(|c| c.networks.get(network).copied().flatten()) {
            Some(found) if found == *address => Ok(Made::default()),
            _ => Err(clash(error, &format!("{address} on {network} for {container}"))),
        }
    }

    async fn check_start(&self, action: &Action, at: &ContainerRef) -> Result<Check, OpError> {
        let container = match self.own_container(action, &at.container).await? {
            Ok(container) => container,
            Err(stale) => return Ok(stale),
        };
        let none = action.effect == Effect::None;
        Ok(match container.state {
            ContainerState::Running => {
                // Where this very apply was cut short after the start, the ledger missed it.
                let notes =
                    if none { Vec::new() } else { self.loaded(at.role, &container).await? };
                Check::Satisfied(Made { notes, ..Made::object(container.id) })
            }
            // An agent that ran to its end is ended, not drifted.
            ContainerState::Exited if none && at.role == Role::Agent => {
                Check::Satisfied(Made::object(container.id))
            }
            state => judge_part(action, &container, state_name(state)),
        })
    }

    async fn start(&self, at: &ContainerRef) -> Result<Made, OpError> {
        self.note_plan(at.role).await?;
        self.forget(&at.container);
        if let Err(error) = self.engine.start(&at.container).await {
            let found = match &error {
                error if is_doubtful(error) => self.engine.container(&at.container).await?,
                _ => None,
            };
            if found.is_none_or(|c| c.state != ContainerState::Running) {
                return Err(match error {
                    error @ EngineError::NotFound { .. } => OpError::stale(
                        format!("container {} and its networks", at.container),
                        error.to_string(),
                    ),
                    error => clash(error, &format!("container {} to start", at.container)),
                });
            }
        }
        if reloadable(at.role).is_none() {
            return Ok(Made::default());
        }
        let container = self.present(&at.container).await?;
        let notes = self.loaded(at.role, &container).await?;
        Ok(Made { notes, ..Made::object(container.id) })
    }

    /// What a container that was just started has read.
    async fn loaded(&self, role: Role, container: &Container) -> Result<Vec<Note>, OpError> {
        let Some(digest) = self.reloadable_digest(role).await? else { return Ok(Vec::new()) };
        Ok(vec![Note::Loaded {
            role,
            container: container.id.clone(),
            started_at: container.started_at.clone(),
            digest,
        }])
    }

    /// The digest of the file that a role reads again when told to, as it is on disk.
    pub(crate) async fn reloadable_digest(&self, role: Role) -> Result<Option<Digest>, OpError> {
        let Some(file) = reloadable(role) else { return Ok(None) };
        let (state, path) = (self.state()?, own(file)?);
        let content = self.blocking(move || state.read(&path)).await?;
        Ok(content.map(|c| c.digest))
    }

    /// Tells a container which plan is in force: the plan itself cannot hold its own digest.
    async fn note_plan(&self, role: Role) -> Result<(), OpError> {
        let state = self.state()?;
        let text = format!("{{\"plan\":\"{}\"}}\n", self.digest);
        self.blocking(move || {
            if state.entry(&own(&format!("{role}/in"))?)?.is_some() {
                let path = own(&format!("{role}/in/{APPLIED}"))?;
                state.write(&path, text.as_bytes(), 0o644, None)?;
            }
            Ok::<_, FileError>(())
        })
        .await
    }

    async fn check_deliver(&self, action: &Action, deliver: &Deliver) -> Result<Check, OpError> {
        let container = match self.own_container(action, &deliver.container).await? {
            Ok(container) => container,
            Err(stale) => return Ok(stale),
        };
        let none = action.effect == Effect::None;
        if none && container.state == ContainerState::Exited {
            return Ok(Check::Satisfied(Made::default()));
        }
        let now = (container.id.clone(), container.started_at.clone());
        let delivered = self.ledger.borrow().delivered.get(&deliver.role) == Some(&now);
        // Sidecars take a value in the place of another; the environment of a process is its own
        // from its start.
        if self.redeliver && delivered && deliver.role == Role::Agent {
            let name = &deliver.container;
            let left = format!(
                "the agent runs and keeps the environment it was started with; to give it the \
                 values of now, `docker restart {name}` and redeliver again"
            );
            return Ok(Check::Satisfied(Made { left: Some(left), ..Made::default() }));
        }
        if none && self.redeliver {
            return Ok(Check::Ready(Basis::default()));
        }
        Ok(self.told_or_ready(action, delivered && !self.redeliver, "delivered", &container))
    }

    async fn deliver(&self, deliver: &Deliver) -> Result<Made, OpError> {
        let binary = match deliver.role {
            Role::Agent | Role::GitGate => format!("{BIN}/{BINARY}"),
            _ => SIDECAR_BINARY.to_owned(),
        };
        let argv = [binary, "sidecar".to_owned(), "receive".to_owned()];
        let failed = |why: String| OpError::Delivery { role: deliver.role, why };
        let deadline = Instant::now() + DELIVERY_TIMEOUT;
        let mut wait = POLL;
        loop {
            let payload = self.secrets.borrow().payload(&deliver.items);
            let payload = payload.map_err(|m| failed(format!("{}: {}", m.name, m.why)))?;
            let result = self.engine.exec(&deliver.container, &argv, payload).await?;
            match result.code {
                0 => break,
                NOT_READY if Instant::now() < deadline => {
                    tokio::time::sleep(wait).await;
                    wait = (2 * wait).min(Duration::from_millis(200));
                }
                NOT_READY => {
                    let seconds = DELIVERY_TIMEOUT.as_secs();
                    return Err(failed(format!("no init that listens after {seconds} s")));
                }
                code => {
                    let line = result.output.lines().next().unwrap_or_default();
                    // Before it is cut: half a value would not be found.
                    let line = self.secrets.borrow().redact(line);
                    let line: String = line.chars().take(200).collect();
                    return Err(failed(format!("exit {code}: {}", line.escape_debug())));
                }
            }
        }
        self.forget(&deliver.container);
        let Container { id, started_at, .. } = self.present(&deliver.container).await?;
        Ok(Made::noted(Note::Delivered { role: deliver.role, container: id, started_at }))
    }

    async fn check_reload(&self, action: &Action, reload: &Reload) -> Result<Check, OpError> {
        let container = match self.own_container(action, &reload.container).await? {
            Ok(container) => container,
            Err(stale) => return Ok(stale),
        };
        let now = (container.id.clone(), container.started_at.clone(), reload.digest.clone());
        let loaded = self.ledger.borrow().loaded.get(&reload.role) == Some(&now);
        Ok(self.told_or_ready(action, loaded, "loaded", &container))
    }

    async fn reload(&self, reload: &Reload) -> Result<Made, OpError> {
        self.reload_to(reload).await.map(Made::noted)
    }

    /// Makes a running sidecar read its files again and waits until it says that it did.
    pub(crate) async fn reload_to(&self, reload: &Reload) -> Result<Note, OpError> {
        let Reload { role, container, digest } = reload;
        self.note_plan(*role).await?;
        let before = self.sidecar_state(*role).await?;
        self.engine.signal(container, "SIGHUP").await?;
        let deadline = Instant::now() + RELOAD_TIMEOUT;
        loop {
            let now = self.sidecar_state(*role).await?;
            if now.loaded.as_ref() == Some(digest) {
                break;
            }
            let failed = |why| OpError::Reload { role: *role, digest: digest.clone(), why };
            match &now.error {
                Some(error) if now != before => return Err(failed(error.clone())),
                _ if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Some(error) => return Err(failed(error.clone())),
                None => {
                    return Err(failed(match now.loaded {
                        Some(loaded) => format!("{loaded} still in force"),
                        None => "no word from it".into(),
                    }));
                }
            }
        }
        self.forget(container);
        let found = self.present(container).await?;
        Ok(Note::Loaded {
            role: *role,
            container: found.id,
            started_at: found.started_at,
            digest: digest.clone(),
        })
    }

    /// What a sidecar says of itself. It is the sidecar's own file: anything may be in it.
    async fn sidecar_state(&self, role: Role) -> Result<SidecarState, OpError> {
        let state = self.state()?;
        let path = own(&format!("{role}/out/state.json"))?;
        let found = self.blocking(move || state.read(&path)).await?;
        Ok(found.and_then(|c| serde_json::from_slice(&c.bytes).ok()).unwrap_or_default())
    }

    async fn check_going(
        &self,
        action: &Action,
        name: &str,
        stopped_is_enough: bool,
    ) -> Result<Check, OpError> {
        let found = self.engine.container(name).await?;
        let running =
            |c: &Container| matches!(c.state, ContainerState::Running | ContainerState::Paused);
        Ok(match found {
            Some(c) if stopped_is_enough && !running(&c) => Check::Satisfied(Made::default()),
            found => self.judge_going(action, found.map(|c| (c.id, c.labels))),
        })
    }

    /// Something that is to go. What carries this very plan's label came after it went.
    fn judge_going(
        &self,
        action: &Action,
        found: Option<(String, BTreeMap<String, String>)>,
    ) -> Check {
        let Some((id, labels)) = found else { return Check::Satisfied(Made::default()) };
        if labels.get(LABEL_PLAN).map(String::as_str) == Some(self.digest.as_str()) {
            return Check::Satisfied(Made::default());
        }
        if !self.ours(&labels) {
            return Check::Stale {
                expected: format!("a {} of this session", subject(&action.op)),
                found: "somebody else's".into(),
            };
        }
        judge(action, Some(Found::own(&id, "another of this session")))
    }

    /// The container an action is done to: there, and this session's.
    async fn own_container(
        &self,
        action: &Action,
        name: &str,
    ) -> Result<Result<Container, Check>, OpError> {
        let expected = || format!("container {name} of this session");
        Ok(match self.container(name, action.effect).await? {
            Some(c) if self.ours(&c.labels) => Ok(c),
            Some(_) => Err(Check::Stale { expected: expected(), found: "somebody else's".into() }),
            None => Err(Check::Stale { expected: expected(), found: "none".into() }),
        })
    }

    async fn present(&self, name: &str) -> Result<Container, OpError> {
        let found = self.engine.container(name).await?;
        found.ok_or_else(|| OpError::stale(format!("container {name}"), "none"))
    }

    /// Something that leaves no trace in the world: the ledger's word for it counts, but for an
    /// action that is to be done only if this very plan did it.
    fn told_or_ready(
        &self,
        action: &Action,
        told: bool,
        what: &str,
        container: &Container,
    ) -> Check {
        if told && (action.effect == Effect::None || self.done.contains(&action.id)) {
            return Check::Satisfied(Made::default());
        }
        judge_part(action, container, &format!("not {what}"))
    }

    fn found(
        &self,
        id: String,
        labels: &BTreeMap<String, String>,
        kind: &str,
        name: &str,
    ) -> Found {
        let ours = self.ours(labels);
        let whose = if ours { "this session's, made differently" } else { "somebody else's" };
        Found { id, ours, what: format!("{kind} {name}, {whose}") }
    }
}

/// What a sidecar says of itself in `out/state.json`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct SidecarState {
    #[serde(default)]
    loaded: Option<Digest>,
    #[serde(default)]
    error: Option<String>,
}

/// An object that is there, but not as the action would leave it.
struct Found {
    id: String,
    ours: bool,
    what: String,
}

impl Found {
    fn own(id: &str, what: impl Into<String>) -> Self {
        Self { id: id.to_owned(), ours: true, what: what.into() }
    }
}

/// Holds what an action expects against what there is.
fn judge(action: &Action, found: Option<Found>) -> Check {
    let stale = |expected: String| Check::Stale {
        expected,
        found: found.as_ref().map_or("nothing".to_owned(), |f| f.what.clone()),
    };
    let basis = || Basis {
        object: found.as_ref().map(|f| f.id.clone()).filter(|id| !id.is_empty()),
        previous: None,
    };
    match (&action.expect, &found) {
        (Expect::Absent, None) => Check::Ready(basis()),
        (Expect::Absent, Some(_)) => stale(format!("no {}", subject(&action.op))),
        (Expect::Object { id }, Some(f)) if f.id == *id => Check::Ready(basis()),
        (Expect::Object { id }, _) => stale(format!("{} with id {id}", subject(&action.op))),
        (Expect::Ours, Some(f)) if f.ours => Check::Ready(basis()),
        (Expect::Ours, _) => stale(format!("{} of this session", subject(&action.op))),
        (Expect::File { digest }, _) => stale(format!("content {digest}")),
        (Expect::Satisfied, _) => stale(format!("{} as the plan has it", subject(&action.op))),
    }
}

/// The same for something done to a container that is there and this session's.
fn judge_part(action: &Action, container: &Container, found: &str) -> Check {
    let basis = Basis { object: Some(container.id.clone()), previous: None };
    match &action.expect {
        Expect::Absent | Expect::Ours => Check::Ready(basis),
        Expect::Object { id } if *id == container.id => Check::Ready(basis),
        Expect::Object { id } => Check::Stale {
            expected: format!("{} with id {id}", subject(&action.op)),
            found: container.id.clone(),
        },
        Expect::File { .. } | Expect::Satisfied => Check::Stale {
            expected: format!("{} to hold already", action.id),
            found: found.to_owned(),
        },
    }
}

fn judge_file(action: &Action, previous: Previous) -> Check {
    let found = format!("content {} of mode {:03o}", previous.digest, previous.mode);
    match &action.expect {
        Expect::File { digest } if *digest == previous.digest => {
            Check::Ready(Basis { object: None, previous: Some(previous) })
        }
        Expect::File { digest } => Check::Stale { expected: format!("content {digest}"), found },
        Expect::Ours => Check::Ready(Basis { object: None, previous: Some(previous) }),
        Expect::Absent => Check::Stale { expected: format!("no {}", subject(&action.op)), found },
        Expect::Object { .. } | Expect::Satisfied => {
            Check::Stale { expected: format!("{} as the plan has it", subject(&action.op)), found }
        }
    }
}

/// Puts what a file holds into `backup/`, if it still is what the check saw.
fn keep_previous(state: &Root, path: &RelPath, previous: Option<&Previous>) -> Result<(), OpError> {
    // Two files of one content have one backup.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let found = state.read(path)?;
    match (previous, found) {
        (None, None) => Ok(()),
        (Some(previous), Some(found)) if found.digest == previous.digest => {
            let backup = own(&format!("{BACKUP}/{}", found.digest.hex()))?;
            if state.entry(&backup)?.is_none() {
                state.write(&backup, &found.bytes, 0o600, None)?;
            }
            Ok(())
        }
        (previous, found) => {
            let name = |digest: Option<&Digest>| digest.map_or("nothing".into(), Digest::to_string);
            Err(OpError::stale(
                format!("{path} to hold {}", name(previous.map(|p| &p.digest))),
                name(found.as_ref().map(|f| &f.digest)),
            ))
        }
    }
}

fn wrote(file: &File) -> Note {
    Note::Wrote { path: file.path.path.clone(), digest: Digest::of(file.content.as_bytes()) }
}

/// The file a role reads again when told to.
fn reloadable(role: Role) -> Option<&'static str> {
    (role == Role::Egress).then_some("egress/in/routes.json")
}

/// The name an ended session's record gets, by how many had the name before.
pub(crate) fn history_name(identity: &str, n: u32) -> String {
    if n == 1 { format!("history/{identity}") } else { format!("history/{identity}-{n}") }
}

/// How an upload onto a volume is written down: it outlives the container.
pub(crate) fn on_volume(name: &str) -> String {
    format!("volume:{name}")
}

fn reference(pull: &PullImage) -> String {
    format!("{}@{}", pull.image.name, pull.image.digest)
}

fn digest_of(upload: &Upload) -> Result<Digest, OpError> {
    document::digest(upload).map_err(|e| OpError::Internal(e.to_string()))
}

fn carries(found: &BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> bool {
    asked.iter().all(|(key, value)| found.get(key) == Some(value))
}

/// A container made from this very spec, at its address.
fn as_asked(container: &Container, spec: &ContainerSpec) -> bool {
    let at = container.networks.get(&spec.network);
    carries(&container.labels, &spec.labels)
        && matches!(at, Some(address) if address.is_none_or(|a| a == spec.address))
}

fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "never started",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Exited => "exited",
    }
}

/// Whether a call may have taken effect although it failed.
fn is_doubtful(error: &EngineError) -> bool {
    matches!(error, EngineError::Unreachable { .. } | EngineError::Conflict { .. })
}

/// A conflict with something that is not ours is stale; anything else stays what it is.
fn clash(error: EngineError, expected: &str) -> OpError {
    match error {
        EngineError::Conflict { message } => {
            OpError::stale(format!("{expected} to be free"), message)
        }
        error => error.into(),
    }
}

/// Taking something away that is gone is done.
fn gone(result: Result<(), EngineError>) -> Result<Made, OpError> {
    match result {
        Ok(()) | Err(EngineError::NotFound { .. }) => Ok(Made::default()),
        Err(error) => Err(error.into()),
    }
}

/// Where a link in a container points to.
fn resolve(link: &str, target: &str) -> String {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => link.split('/').filter(|p| !p.is_empty()).collect(),
    };
    if !target.starts_with('/') {
        parts.pop();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether a path mounted into a container is the one a person confirmed.
pub(crate) fn mounts_workspace(spec: &ContainerSpec) -> Option<&AbsPath> {
    spec.mounts.iter().find_map(|mount| match mount {
        Mount::Workspace { path } => Some(path),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn links_resolve_as_the_container_would() {
        assert_eq!(resolve("/etc/ssl/cert.pem", "certs/ca.crt"), "/etc/ssl/certs/ca.crt");
        assert_eq!(resolve("/etc/ssl/cert.pem", "../pki/x"), "/etc/pki/x");
        assert_eq!(resolve("/etc/ssl/cert.pem", "/a/./b"), "/a/b");
        assert_eq!(resolve("/a", "../../../b"), "/b");
    }
}
