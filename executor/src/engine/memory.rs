//! An engine that is all memory: Docker's rules as far as executor and planner can tell them
//! apart, with faults on demand. It carries the properties of `docs/plan.md`, section 5.
//!
//! What Docker 20.10 checks late is checked late here too: a network's existence, and whether a
//! container's address is free and inside the subnet, at start; whether a network is in use, by
//! running containers alone.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::Ipv4Addr;

use bottle_planner::plan::{
    BuildPlace, BuildReach, ContainerSpec, LABEL_OWNER, Mount, NetworkSpec, VolumeSpec,
};
use bottle_planner::snapshot::{
    Container, ContainerState, Engine as EngineFacts, ImageFact, Network, Volume,
};
use bottle_planner::words::{Digest, Role, Subnet};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::{Engine, EngineError, ExecResult, HostPaths, Incoming, Observed, Outgoing};

/// An engine in memory.
pub struct MemoryEngine {
    inner: RefCell<Inner>,
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The engine does not answer.
    Unreachable,
    /// The engine refuses.
    Refused,
}

/// Whether a call took effect before its answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It did.
    Yes,
    /// It did not.
    No,
    /// The engine was still at it: what the call makes is there only after that many more calls.
    Late(usize),
}

/// One call, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method of [`Engine`].
    pub method: &'static str,
    /// The object's name.
    pub object: String,
}

/// The world less everything that differs between two runs that come to the same: ids and times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// Containers by name.
    pub containers: BTreeMap<String, WorldContainer>,
    /// Networks by name.
    pub networks: BTreeMap<String, WorldNetwork>,
    /// Volumes by name, with their labels.
    pub volumes: BTreeMap<String, BTreeMap<String, String>>,
    /// Images by reference, with their labels.
    pub images: BTreeMap<String, BTreeMap<String, String>>,
}

/// One container of a [`World`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldContainer {
    /// What it was created from; `None` for a foreign one.
    pub spec: Option<ContainerSpec>,
    /// Whether it runs.
    pub state: ContainerState,
    /// Its labels, the image's included.
    pub labels: BTreeMap<String, String>,
    /// Its networks with its addresses.
    pub networks: BTreeMap<String, Option<Ipv4Addr>>,
    /// Digests of the files that were uploaded, by path.
    pub files: BTreeMap<String, Digest>,
    /// Whether secrets were delivered since it was started.
    pub delivered: bool,
}

/// One network of a [`World`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldNetwork {
    /// Its subnets.
    pub subnets: BTreeSet<Subnet>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is cut off.
    pub internal: bool,
}

type Answer = dyn Fn(&str, &[String]) -> ExecResult;

struct Inner {
    facts: EngineFacts,
    containers: BTreeMap<String, Cell>,
    networks: BTreeMap<String, Wire>,
    volumes: BTreeMap<String, Volume>,
    images: BTreeMap<String, Picture>,
    pullable: BTreeMap<String, Picture>,
    ids: u64,
    clock: u64,
    calls: Vec<Call>,
    faults: BTreeMap<usize, Fault>,
    /// What is still being made, and how many calls it stays unseen.
    late: Vec<(usize, Late)>,
    down: bool,
    answer: Box<Answer>,
}

/// A container.
struct Cell {
    fact: Container,
    spec: Option<ContainerSpec>,
    /// The network's id, once a start has looked it up: a network made anew is another one.
    endpoints: BTreeMap<String, Option<String>>,
    files: BTreeMap<String, Bytes>,
    delivery: Option<Delivery>,
    log: String,
}

/// A hand-over of secrets: how much, never what.
struct Delivery {
    started_at: String,
    bytes: usize,
}

/// Objects that a call makes after its caller is gone.
struct Late {
    containers: BTreeMap<String, Cell>,
    networks: BTreeMap<String, Wire>,
    volumes: BTreeMap<String, Volume>,
}

struct Wire {
    fact: Network,
    internal: bool,
}

#[derive(Clone)]
struct Picture {
    fact: ImageFact,
    files: BTreeMap<String, Bytes>,
}

#[derive(Clone, Copy)]
enum Fault {
    Fail(FaultKind, Taken),
    Hang(Taken),
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryEngine {
    /// An engine like Docker 20.10 that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        let facts = EngineFacts {
            name: "docker".to_owned(),
            version: "20.10.24".to_owned(),
            api: (1, 41),
            rootless: false,
            runtimes: BTreeSet::from(["runc".to_owned()]),
            without_limits: BTreeSet::new(),
            cgroup_version: 2,
        };
        let answer = |_: &str, _: &[String]| ExecResult { code: 0, output: String::new() };
        Self {
            inner: RefCell::new(Inner {
                facts,
                containers: BTreeMap::new(),
                networks: BTreeMap::new(),
                volumes: BTreeMap::new(),
                images: BTreeMap::new(),
                pullable: BTreeMap::new(),
                ids: 0,
                clock: 0,
                calls: Vec::new(),
                faults: BTreeMap::new(),
                late: Vec::new(),
                down: false,
                answer: Box::new(answer),
            }),
        }
    }

    /// What the engine says of itself from now on.
    pub fn set_facts(&self, facts: EngineFacts) {
        self.inner.borrow_mut().facts = facts;
    }

    /// What programs run by `exec` answer from now on, by container and argv.
    pub fn set_exec(&self, answer: impl Fn(&str, &[String]) -> ExecResult + 'static) {
        self.inner.borrow_mut().answer = Box::new(answer);
    }

    /// The `n`th call from now (the next is 1) fails before it takes effect.
    pub fn fail_at(&self, n: usize, kind: FaultKind) {
        self.plan_fault(n, Fault::Fail(kind, Taken::No));
    }

    /// The `n`th call from now takes effect, but its answer is lost.
    pub fn lose_at(&self, n: usize) {
        self.plan_fault(n, Fault::Fail(FaultKind::Unreachable, Taken::Yes));
    }

    /// The `n`th call from now never returns: dropping its future is a SIGKILL.
    pub fn hang_at(&self, n: usize, taken: Taken) {
        self.plan_fault(n, Fault::Hang(taken));
    }

    /// Whether something is still being made that no call has seen yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.inner.borrow().late.is_empty()
    }

    /// Forgets faults that did not come about.
    pub fn clear_faults(&self) {
        self.inner.borrow_mut().faults.clear();
    }

    /// Whether every call fails from now on as if the engine were not running.
    pub fn set_down(&self, down: bool) {
        self.inner.borrow_mut().down = down;
    }

    /// Every call so far, in order, those that failed included.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.inner.borrow().calls.clone()
    }

    /// Forgets the calls so far. Faults that are still to come stay where they are.
    pub fn clear_calls(&self) {
        let mut inner = self.inner.borrow_mut();
        let gone = inner.calls.len();
        inner.calls.clear();
        inner.faults =
            inner.faults.iter().filter_map(|(n, f)| Some((n.checked_sub(gone)?, *f))).collect();
    }

    /// The world less ids and times.
    #[must_use]
    pub fn snapshot(&self) -> World {
        let inner = self.inner.borrow();
        World {
            containers: inner.containers.iter().map(|(n, c)| (n.clone(), c.view())).collect(),
            networks: inner.networks.iter().map(|(n, w)| (n.clone(), w.view())).collect(),
            volumes: inner.volumes.iter().map(|(n, v)| (n.clone(), v.labels.clone())).collect(),
            images: inner.images.iter().map(|(n, i)| (n.clone(), i.fact.labels.clone())).collect(),
        }
    }

    /// How many bytes were handed over to a container since it was started.
    #[must_use]
    pub fn delivered(&self, container: &str) -> Option<usize> {
        let inner = self.inner.borrow();
        let cell = inner.containers.get(container)?;
        cell.delivery.as_ref().filter(|d| d.started_at == cell.fact.started_at).map(|d| d.bytes)
    }

    /// The content of a file that was uploaded, or that the image had.
    #[must_use]
    pub fn file(&self, container: &str, path: &str) -> Option<Bytes> {
        self.inner.borrow().containers.get(container)?.files.get(path).cloned()
    }

    /// Puts an image there, as if somebody had pulled it; answers its id.
    pub fn plant_image(&self, reference: &str, labels: &BTreeMap<String, String>) -> Digest {
        let picture = picture(reference, &[], labels, BTreeMap::new());
        let id = picture.fact.id.clone();
        self.inner.borrow_mut().images.insert(reference.to_owned(), picture);
        id
    }

    /// Puts a file into an image that is there; containers created afterwards have it.
    pub fn plant_file(&self, reference: &str, path: &str, content: impl Into<Bytes>) {
        if let Some(image) = self.inner.borrow_mut().images.get_mut(reference) {
            image.files.insert(path.to_owned(), content.into());
        }
    }

    /// Lets `name@digest` be pulled.
    pub fn plant_registry(&self, reference: &str) {
        let mut picture = picture(reference, &[], &BTreeMap::new(), BTreeMap::new());
        picture.fact.repo_digests.insert(reference.to_owned());
        self.inner.borrow_mut().pullable.insert(reference.to_owned(), picture);
    }

    /// Puts somebody else's running container there.
    pub fn plant_container(&self, name: &str, labels: &BTreeMap<String, String>) {
        let mut inner = self.inner.borrow_mut();
        let fact = Container {
            id: inner.id("container"),
            image: Digest::of(b"foreign").to_string(),
            state: ContainerState::Running,
            labels: labels.clone(),
            networks: BTreeMap::new(),
            started_at: inner.now(),
        };
        inner.containers.insert(name.to_owned(), Cell::new(fact, None, BTreeMap::new()));
    }

    /// Puts somebody else's network there, overlap or not.
    pub fn plant_network(&self, name: &str, subnet: Subnet, labels: &BTreeMap<String, String>) {
        let mut inner = self.inner.borrow_mut();
        let id = inner.id("network");
        let fact = Network { id, subnets: BTreeSet::from([subnet]), labels: labels.clone() };
        inner.networks.insert(name.to_owned(), Wire { fact, internal: false });
    }

    /// Puts somebody else's volume there.
    pub fn plant_volume(&self, name: &str, labels: &BTreeMap<String, String>) {
        let volume = Volume { labels: labels.clone() };
        self.inner.borrow_mut().volumes.insert(name.to_owned(), volume);
    }

    /// Changes a container behind the executor's back; `None` if there is none.
    pub fn break_container<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Container) -> T,
    ) -> Option<T> {
        self.inner.borrow_mut().containers.get_mut(name).map(|cell| {
            let changed = change(&mut cell.fact);
            let networks = &cell.fact.networks;
            cell.endpoints.retain(|network, _| networks.contains_key(network));
            changed
        })
    }

    /// Changes a network behind the executor's back; `None` if there is none.
    pub fn break_network<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Network) -> T,
    ) -> Option<T> {
        self.inner.borrow_mut().networks.get_mut(name).map(|wire| change(&mut wire.fact))
    }

    /// Changes a volume behind the executor's back; `None` if there is none.
    pub fn break_volume<T>(&self, name: &str, change: impl FnOnce(&mut Volume) -> T) -> Option<T> {
        self.inner.borrow_mut().volumes.get_mut(name).map(change)
    }

    /// Changes an image behind the executor's back; `None` if there is none.
    pub fn break_image<T>(
        &self,
        reference: &str,
        change: impl FnOnce(&mut ImageFact) -> T,
    ) -> Option<T> {
        self.inner.borrow_mut().images.get_mut(reference).map(|image| change(&mut image.fact))
    }

    /// Takes a container away whatever its state; whether there was one.
    pub fn drop_container(&self, name: &str) -> bool {
        self.inner.borrow_mut().containers.remove(name).is_some()
    }

    /// Takes a network away whatever its use; whether there was one.
    pub fn drop_network(&self, name: &str) -> bool {
        self.inner.borrow_mut().networks.remove(name).is_some()
    }

    /// Takes a volume away whatever its use; whether there was one.
    pub fn drop_volume(&self, name: &str) -> bool {
        self.inner.borrow_mut().volumes.remove(name).is_some()
    }

    /// Takes an image away whatever its use; whether there was one.
    pub fn drop_image(&self, reference: &str) -> bool {
        self.inner.borrow_mut().images.remove(reference).is_some()
    }

    /// Lets a running container end by itself, as a reboot or a crash of its program does.
    pub fn crash_container(&self, name: &str) {
        if let Some(cell) = self.inner.borrow_mut().containers.get_mut(name) {
            cell.fact.state = ContainerState::Exited;
        }
    }

    /// The names of all that is there.
    fn names(&self) -> BTreeSet<String> {
        let inner = self.inner.borrow();
        let names =
            inner.containers.keys().chain(inner.networks.keys()).chain(inner.volumes.keys());
        names.cloned().collect()
    }

    /// Hides what was not there before for as many calls as the fault says.
    fn make_late(&self, before: &BTreeSet<String>, taken: Taken) {
        let Taken::Late(calls) = taken else { return };
        let mut inner = self.inner.borrow_mut();
        let late = Late {
            containers: inner.containers.extract_if(.., |name, _| !before.contains(name)).collect(),
            networks: inner.networks.extract_if(.., |name, _| !before.contains(name)).collect(),
            volumes: inner.volumes.extract_if(.., |name, _| !before.contains(name)).collect(),
        };
        inner.late.push((calls, late));
    }

    fn plan_fault(&self, n: usize, fault: Fault) {
        let mut inner = self.inner.borrow_mut();
        let at = inner.calls.len() + n;
        inner.faults.insert(at, fault);
    }

    /// One call: noted, perhaps made to fail or hang, else carried out.
    async fn call<T>(
        &self,
        method: &'static str,
        object: &str,
        effect: impl FnOnce(&mut Inner) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let fault = {
            let mut inner = self.inner.borrow_mut();
            inner.calls.push(Call { method, object: object.to_owned() });
            inner.finish_late();
            let at = inner.calls.len();
            let down = inner.down.then_some(Fault::Fail(FaultKind::Unreachable, Taken::No));
            inner.faults.remove(&at).or(down)
        };
        let effect = || effect(&mut self.inner.borrow_mut());
        match fault {
            None => effect(),
            Some(Fault::Fail(kind, Taken::No)) => Err(failure(method, object, kind)),
            Some(Fault::Fail(kind, taken)) => {
                let before = self.names();
                effect()?;
                self.make_late(&before, taken);
                Err(failure(method, object, kind))
            }
            Some(Fault::Hang(taken)) => {
                if taken != Taken::No {
                    let before = self.names();
                    drop(effect());
                    self.make_late(&before, taken);
                }
                std::future::pending().await
            }
        }
    }
}

impl Engine for MemoryEngine {
    fn api(&self) -> (u32, u32) {
        self.inner.borrow().facts.api
    }

    async fn facts(&self) -> Result<EngineFacts, EngineError> {
        self.call("facts", "", |inner| Ok(inner.facts.clone())).await
    }

    async fn observe(
        &self,
        owner: &str,
        images: &BTreeSet<String>,
    ) -> Result<Observed, EngineError> {
        self.call("observe", owner, |inner| {
            let container = |(name, cell): (&String, &Cell)| {
                let own = cell.fact.labels.get(LABEL_OWNER).is_some_and(|o| o == owner);
                let fact = if own { cell.fact.clone() } else { foreign(&cell.fact) };
                (name.clone(), fact)
            };
            Ok(Observed {
                containers: inner.containers.iter().map(container).collect(),
                networks: inner.networks.iter().map(|(n, w)| (n.clone(), w.fact.clone())).collect(),
                volumes: inner.volumes.clone(),
                images: images
                    .iter()
                    .filter_map(|r| Some((r.clone(), inner.picture(r)?.fact.clone())))
                    .collect(),
            })
        })
        .await
    }

    async fn container(&self, name: &str) -> Result<Option<Container>, EngineError> {
        self.call("container", name, |inner| Ok(inner.cell(name).ok().map(|c| c.fact.clone())))
            .await
    }

    async fn network(&self, name: &str) -> Result<Option<Network>, EngineError> {
        self.call("network", name, |inner| Ok(inner.networks.get(name).map(|w| w.fact.clone())))
            .await
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>, EngineError> {
        self.call("volume", name, |inner| Ok(inner.volumes.get(name).cloned())).await
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageFact>, EngineError> {
        self.call("image", reference, |inner| Ok(inner.picture(reference).map(|p| p.fact.clone())))
            .await
    }

    async fn create_network(
        &self,
        spec: &NetworkSpec,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        self.call("create_network", &spec.name, |inner| inner.create_network(spec, labels)).await
    }

    async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        self.call("remove_network", name, |inner| inner.remove_network(name)).await
    }

    async fn create_volume(
        &self,
        spec: &VolumeSpec,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), EngineError> {
        self.call("create_volume", &spec.name, |inner| {
            if inner.volumes.contains_key(&spec.name) {
                return Err(conflict(format!("a volume named `{}` already exists", spec.name)));
            }
            inner.volumes.insert(spec.name.clone(), Volume { labels: labels.clone() });
            Ok(())
        })
        .await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.call("remove_volume", name, |inner| inner.remove_volume(name)).await
    }

    async fn create_container(
        &self,
        spec: &ContainerSpec,
        labels: &BTreeMap<String, String>,
        _paths: &HostPaths,
    ) -> Result<String, EngineError> {
        self.call("create_container", &spec.name, |inner| inner.create_container(spec, labels))
            .await
    }

    async fn connect(
        &self,
        container: &str,
        network: &str,
        address: Ipv4Addr,
    ) -> Result<(), EngineError> {
        self.call("connect", container, |inner| inner.connect(container, network, address)).await
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        self.call("start", container, |inner| inner.start(container)).await
    }

    async fn stop(&self, container: &str, _grace_seconds: u32) -> Result<(), EngineError> {
        self.call("stop", container, |inner| {
            let cell = inner.cell_mut(container)?;
            // A container that never ran stays "created".
            if cell.runs() {
                cell.fact.state = ContainerState::Exited;
            }
            Ok(())
        })
        .await
    }

    async fn remove_container(&self, container: &str) -> Result<(), EngineError> {
        self.call("remove_container", container, |inner| {
            if inner.cell(container)?.runs() {
                return Err(conflict(format!("cannot remove running container {container}")));
            }
            let id = inner.cell(container)?.fact.id.clone();
            inner.containers.retain(|_, cell| cell.fact.id != id);
            Ok(())
        })
        .await
    }

    async fn signal(&self, container: &str, signal: &str) -> Result<(), EngineError> {
        self.call("signal", container, |inner| {
            let cell = inner.running(container)?;
            cell.log.push_str(signal);
            cell.log.push('\n');
            if signal == "SIGKILL" {
                cell.fact.state = ContainerState::Exited;
            }
            Ok(())
        })
        .await
    }

    async fn upload(&self, container: &str, below: &str, tar: Bytes) -> Result<(), EngineError> {
        self.call("upload", container, |inner| {
            let cell = inner.cell_mut(container)?;
            if cell.spec.as_ref().is_some_and(|s| s.read_only) {
                return Err(refused("upload", "container rootfs is marked read-only"));
            }
            cell.files.extend(unpack(below, &tar)?);
            Ok(())
        })
        .await
    }

    async fn download(&self, container: &str, path: &str) -> Result<Option<Bytes>, EngineError> {
        self.call("download", container, |inner| {
            let cell = inner.cell(container)?;
            cell.files.get(path).map(|content| pack_one(path, content)).transpose()
        })
        .await
    }

    async fn read_container(
        &self,
        container: &str,
        path: &str,
        to: Incoming,
    ) -> Result<bool, EngineError> {
        let packed = self
            .call("read_container", container, |inner| {
                Ok(pack_below(&inner.cell(container)?.files, path))
            })
            .await?;
        send(packed, to).await
    }

    async fn read_image(&self, image: &str, path: &str, to: Incoming) -> Result<bool, EngineError> {
        let packed = self
            .call("read_image", image, |inner| {
                let picture = inner.picture(image).ok_or_else(|| not_found("image", image))?;
                Ok(pack_below(&picture.files, path))
            })
            .await?;
        send(packed, to).await
    }

    async fn exec(
        &self,
        container: &str,
        argv: &[String],
        input: Zeroizing<Vec<u8>>,
    ) -> Result<ExecResult, EngineError> {
        self.call("exec", container, |inner| {
            inner.running(container)?;
            let result = (inner.answer)(container, argv);
            let cell = inner.running(container)?;
            if argv.iter().any(|a| a == "receive") && result.code == 0 {
                let started_at = cell.fact.started_at.clone();
                cell.delivery = Some(Delivery { started_at, bytes: input.len() });
            }
            Ok(result)
        })
        .await
    }

    async fn import_image(
        &self,
        tag: &str,
        tar: Bytes,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        self.call("import_image", tag, |inner| {
            let made = picture("import", &tar, labels, unpack("/", &tar)?);
            Ok(inner.tag(tag, made))
        })
        .await
    }

    async fn build_image(
        &self,
        tag: &str,
        context: Bytes,
        reach: &BuildReach,
        _proxy: Option<&(String, Vec<String>)>,
        labels: &BTreeMap<String, String>,
        progress: &dyn Fn(&str),
    ) -> Result<String, EngineError> {
        self.call("build_image", tag, |inner| {
            if let BuildReach::Session(place) = reach {
                inner.check_place(place)?;
            }
            let files = unpack("/", &context)?;
            let Some(dockerfile) = files.get("/Dockerfile") else {
                return Err(refused("build", "Cannot locate specified Dockerfile: Dockerfile"));
            };
            String::from_utf8_lossy(dockerfile).lines().for_each(progress);
            let made = picture("build", &context, labels, BTreeMap::new());
            Ok(inner.tag(tag, made))
        })
        .await
    }

    async fn resolve(&self, _reference: &str) -> Result<Option<Digest>, EngineError> {
        Ok(None)
    }

    async fn assemble_image(
        &self,
        tag: &str,
        base: &str,
        layer: &mut dyn FnMut(Vec<String>) -> Outgoing,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let mut pieces = layer(Vec::new());
        let mut tar = Vec::new();
        while let Some(piece) = pieces.recv().await {
            let piece = piece.map_err(|e| refused("assemble", &e.to_string()))?;
            tar.extend_from_slice(&piece);
        }
        self.call("assemble_image", tag, |inner| {
            let base = inner.picture(base).ok_or_else(|| not_found("image", base))?.clone();
            let mut merged = base.fact.labels;
            merged.extend(labels.clone());
            let mut files = base.files;
            files.extend(unpack("/", &tar)?);
            // A commit is dated, so that no two have one id.
            let seed = inner.id("commit");
            let made = picture(&seed, &tar, &merged, files);
            Ok(inner.tag(tag, made))
        })
        .await
    }

    async fn pull_image(
        &self,
        reference: &str,
        progress: &dyn Fn(&str),
    ) -> Result<String, EngineError> {
        self.call("pull_image", reference, |inner| {
            let found = inner.pullable.get(reference).cloned();
            let found = found.ok_or_else(|| not_found("manifest for", reference))?;
            progress("Pull complete");
            Ok(inner.tag(reference, found))
        })
        .await
    }

    async fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        self.call("remove_image", reference, |inner| inner.remove_image(reference)).await
    }

    async fn logs(&self, container: &str, lines: u32) -> Result<String, EngineError> {
        self.call("logs", container, |inner| {
            let log = &inner.cell(container)?.log;
            let all: Vec<&str> = log.lines().collect();
            let from = all.len().saturating_sub(lines as usize);
            Ok(all[from..].iter().map(|line| format!("{line}\n")).collect())
        })
        .await
    }
}

impl Inner {
    fn id(&mut self, kind: &str) -> String {
        self.ids += 1;
        Digest::of(format!("{kind} {}", self.ids).as_bytes()).hex().to_owned()
    }

    /// One more call has come: what has been in the making long enough is there.
    fn finish_late(&mut self) {
        for (left, late) in std::mem::take(&mut self.late) {
            if left > 1 {
                self.late.push((left - 1, late));
                continue;
            }
            // Whoever took the name meanwhile keeps it: the engine gives each once.
            for (name, cell) in late.containers {
                self.containers.entry(name).or_insert(cell);
            }
            for (name, wire) in late.networks {
                self.networks.entry(name).or_insert(wire);
            }
            for (name, volume) in late.volumes {
                self.volumes.entry(name).or_insert(volume);
            }
        }
    }

    fn now(&mut self) -> String {
        self.clock += 1;
        let (minutes, seconds) = (self.clock / 60 % 60, self.clock % 60);
        format!("2026-01-01T{:02}:{minutes:02}:{seconds:02}.000000001Z", self.clock / 3600 % 24)
    }

    fn cell(&self, name: &str) -> Result<&Cell, EngineError> {
        let by_id = || self.containers.values().find(|c| c.fact.id == name);
        self.containers.get(name).or_else(by_id).ok_or_else(|| not_found("container", name))
    }

    fn cell_mut(&mut self, name: &str) -> Result<&mut Cell, EngineError> {
        let mut all = self.containers.iter_mut();
        let found = all.find(|(n, c)| *n == name || c.fact.id == name).map(|(_, c)| c);
        found.ok_or_else(|| not_found("container", name))
    }

    fn running(&mut self, name: &str) -> Result<&mut Cell, EngineError> {
        let cell = self.cell_mut(name)?;
        if cell.fact.state == ContainerState::Running {
            Ok(cell)
        } else {
            Err(conflict(format!("container {name} is not running")))
        }
    }

    fn picture(&self, reference: &str) -> Option<&Picture> {
        let names = |p: &&Picture| {
            p.fact.id.as_str() == reference || p.fact.repo_digests.contains(reference)
        };
        self.images.get(reference).or_else(|| self.images.values().find(names))
    }

    fn tag(&mut self, tag: &str, picture: Picture) -> String {
        let id = picture.fact.id.to_string();
        self.images.insert(tag.to_owned(), picture);
        id
    }

    fn create_network(
        &mut self,
        spec: &NetworkSpec,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        if self.networks.contains_key(&spec.name) {
            return Err(conflict(format!("network with name {} already exists", spec.name)));
        }
        let mut taken = self.networks.values().flat_map(|w| &w.fact.subnets);
        if taken.any(|s| s.overlaps(spec.subnet)) {
            return Err(conflict("Pool overlaps with other one on this address space".to_owned()));
        }
        let id = self.id("network");
        let subnets = BTreeSet::from([spec.subnet]);
        let fact = Network { id: id.clone(), subnets, labels: labels.clone() };
        self.networks.insert(spec.name.clone(), Wire { fact, internal: spec.internal });
        Ok(id)
    }

    fn remove_network(&mut self, name: &str) -> Result<(), EngineError> {
        let id = &self.networks.get(name).ok_or_else(|| not_found("network", name))?.fact.id;
        let attached = |c: &Cell| c.endpoints.values().flatten().any(|e| e == id);
        if self.containers.values().any(|c| c.runs() && attached(c)) {
            return Err(conflict(format!("network {name} has active endpoints")));
        }
        self.networks.remove(name);
        Ok(())
    }

    fn remove_volume(&mut self, name: &str) -> Result<(), EngineError> {
        if !self.volumes.contains_key(name) {
            return Err(not_found("volume", name));
        }
        let uses = |m: &Mount| matches!(m, Mount::Volume { name: used, .. } if used == name);
        let specs = self.containers.values().filter_map(|c| c.spec.as_ref());
        if specs.flat_map(|s| &s.mounts).any(uses) {
            return Err(conflict(format!("remove {name}: volume is in use")));
        }
        self.volumes.remove(name);
        Ok(())
    }

    fn create_container(
        &mut self,
        spec: &ContainerSpec,
        given: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let image = self.picture(&spec.image).ok_or_else(|| not_found("image", &spec.image))?;
        let (image, files) = (image.fact.clone(), image.files.clone());
        if self.containers.contains_key(&spec.name) {
            return Err(conflict(format!("the container name {} is already in use", spec.name)));
        }
        if spec.runtime.as_ref().is_some_and(|r| !self.facts.runtimes.contains(r)) {
            return Err(refused("create a container", "unknown or invalid runtime name"));
        }
        // As Docker does: a volume that is mounted but not there comes to be.
        for mount in &spec.mounts {
            if let Mount::Volume { name, .. } = mount {
                let fresh = Volume { labels: BTreeMap::new() };
                self.volumes.entry(name.clone()).or_insert(fresh);
            }
        }
        let id = self.id("container");
        let mut labels = image.labels;
        labels.extend(given.clone());
        let fact = Container {
            id: id.clone(),
            image: image.id.to_string(),
            state: ContainerState::Created,
            labels,
            networks: BTreeMap::from([(spec.network.clone(), Some(spec.address))]),
            started_at: String::new(),
        };
        self.containers.insert(spec.name.clone(), Cell::new(fact, Some(spec.clone()), files));
        Ok(id)
    }

    fn connect(
        &mut self,
        container: &str,
        network: &str,
        address: Ipv4Addr,
    ) -> Result<(), EngineError> {
        let cell = self.cell(container)?;
        let (running, name) = (cell.runs(), cell.fact.id.clone());
        let wire = self.networks.get(network).ok_or_else(|| not_found("network", network))?;
        let id = wire.fact.id.clone();
        if running {
            if cell.endpoints.contains_key(network) {
                let message = format!("endpoint with name {container} already exists");
                return Err(conflict(message));
            }
            self.check_address(&name, network, address)?;
        }
        let cell = self.cell_mut(container)?;
        cell.fact.networks.insert(network.to_owned(), Some(address));
        cell.endpoints.insert(network.to_owned(), running.then_some(id));
        Ok(())
    }

    fn start(&mut self, container: &str) -> Result<(), EngineError> {
        let cell = self.cell(container)?;
        if cell.runs() {
            return Ok(());
        }
        let own = cell.fact.id.clone();
        let wanted = cell.fact.networks.clone();
        let known = cell.endpoints.clone();
        let mut endpoints = BTreeMap::new();
        for (network, address) in &wanted {
            let wire = self.networks.get(network).ok_or_else(|| not_found("network", network))?;
            let id = wire.fact.id.clone();
            if known.get(network).cloned().flatten().is_some_and(|old| old != id) {
                return Err(not_found("network", network));
            }
            if let Some(address) = address {
                self.check_address(&own, network, *address)?;
            }
            endpoints.insert(network.clone(), Some(id));
        }
        let now = self.now();
        let cell = self.cell_mut(container)?;
        cell.fact.state = ContainerState::Running;
        cell.fact.started_at = now;
        cell.endpoints = endpoints;
        Ok(())
    }

    /// The place of a build is on a network that is there, where no agent is.
    fn check_place(&self, place: &BuildPlace) -> Result<(), EngineError> {
        if !self.networks.contains_key(&place.network) {
            return Err(not_found("network", &place.network));
        }
        if self.picture(&place.image).is_none() {
            return Err(not_found("image", &place.image));
        }
        let agent = |cell: &&Cell| cell.spec.as_ref().is_some_and(|spec| spec.role == Role::Agent);
        let mut neighbours = self
            .containers
            .values()
            .filter(|cell| cell.fact.networks.contains_key(&place.network) && cell.runs());
        if neighbours.any(|cell| agent(&cell)) {
            return Err(refused("build", "an agent runs beside the build"));
        }
        self.check_address(&place.container, &place.network, place.address)
    }

    /// What Docker finds out when an endpoint is made: the address is the subnet's, and free.
    fn check_address(
        &self,
        own: &str,
        network: &str,
        address: Ipv4Addr,
    ) -> Result<(), EngineError> {
        let wire = self.networks.get(network).ok_or_else(|| not_found("network", network))?;
        let inside = |s: &&Subnet| s.contains(address);
        let Some(subnet) = wire.fact.subnets.iter().find(inside) else {
            let message = format!("Invalid address {address}: not of this network's subnets");
            return Err(refused("start a container", &message));
        };
        let last = 1u32.checked_shl(32 - u32::from(subnet.prefix())).unwrap_or(0).wrapping_sub(1);
        // The network's own, the gateway's (the first, by default) and the broadcast address.
        let reserved = [subnet.nth(0), subnet.nth(1), subnet.nth(last)].contains(&Some(address));
        let mut others = self.containers.values().filter(|c| c.runs() && c.fact.id != own);
        let taken =
            others.any(|c| c.fact.networks.get(network).is_some_and(|a| *a == Some(address)));
        if reserved || taken { Err(conflict("Address already in use".to_owned())) } else { Ok(()) }
    }

    fn remove_image(&mut self, reference: &str) -> Result<(), EngineError> {
        let image = self.picture(reference).ok_or_else(|| not_found("image", reference))?;
        let id = image.fact.id.clone();
        let tags = self.images.values().filter(|p| p.fact.id == id).count();
        let used = self.containers.values().any(|c| c.fact.image == id.as_str());
        if used && tags < 2 {
            return Err(conflict(format!("unable to remove {reference}: a container uses it")));
        }
        if self.images.remove(reference).is_none() {
            self.images.retain(|_, p| p.fact.id != id);
        }
        Ok(())
    }
}

impl Cell {
    fn new(fact: Container, spec: Option<ContainerSpec>, files: BTreeMap<String, Bytes>) -> Self {
        let endpoints = fact.networks.keys().map(|n| (n.clone(), None)).collect();
        Self { fact, spec, endpoints, files, delivery: None, log: String::new() }
    }

    fn runs(&self) -> bool {
        matches!(self.fact.state, ContainerState::Running | ContainerState::Paused)
    }

    fn view(&self) -> WorldContainer {
        let current = |d: &Delivery| d.started_at == self.fact.started_at;
        WorldContainer {
            spec: self.spec.clone(),
            state: self.fact.state,
            labels: self.fact.labels.clone(),
            networks: self.fact.networks.clone(),
            files: self.files.iter().map(|(p, c)| (p.clone(), Digest::of(c))).collect(),
            delivered: self.runs() && self.delivery.as_ref().is_some_and(current),
        }
    }
}

impl Wire {
    fn view(&self) -> WorldNetwork {
        WorldNetwork {
            subnets: self.fact.subnets.clone(),
            labels: self.fact.labels.clone(),
            internal: self.internal,
        }
    }
}

fn foreign(fact: &Container) -> Container {
    let networks = fact.networks.keys().map(|n| (n.clone(), None)).collect();
    Container { networks, started_at: String::new(), ..fact.clone() }
}

/// An image whose id is a digest of what it is made of, as a load or a cached build has it.
fn picture(
    kind: &str,
    content: &[u8],
    labels: &BTreeMap<String, String>,
    files: BTreeMap<String, Bytes>,
) -> Picture {
    let seed = format!("{kind} {} {labels:?}", Digest::of(content));
    let id = Digest::of(seed.as_bytes());
    let fact = ImageFact { id, repo_digests: BTreeSet::new(), labels: labels.clone() };
    Picture { fact, files }
}

fn unpack(below: &str, tar: &[u8]) -> Result<BTreeMap<String, Bytes>, EngineError> {
    let broken = |e: std::io::Error| refused("unpack an archive", &e.to_string());
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.display().to_string();
        let name = name.trim_start_matches("./").trim_matches('/');
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(broken)?;
        let path = format!("{}/{name}", below.trim_end_matches('/'));
        files.insert(path, content.into());
    }
    Ok(files)
}

fn pack_one(path: &str, content: &Bytes) -> Result<Bytes, EngineError> {
    let broken = |e: std::io::Error| refused("pack a file", &e.to_string());
    let name = path.rsplit('/').next().unwrap_or(path);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, &content[..]).map_err(broken)?;
    Ok(archive.into_inner().map_err(broken)?.into())
}

/// A folder of files as the engine packs it; `None` where there is none.
fn pack_below(files: &BTreeMap<String, Bytes>, path: &str) -> Option<Bytes> {
    let (_, top) = path.rsplit_once('/')?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for (file, content) in files {
        let Some(below) = file.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        let name = format!("{top}/{below}");
        for (at, _) in name.match_indices('/') {
            if folders.insert(name[..at].to_owned()) {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                let folder = format!("{}/", &name[..at]);
                archive.append_data(&mut header, folder, std::io::empty()).ok()?;
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &content[..]).ok()?;
    }
    (!folders.is_empty()).then(|| archive.into_inner().ok()).flatten().map(Bytes::from)
}

async fn send(packed: Option<Bytes>, to: Incoming) -> Result<bool, EngineError> {
    let Some(packed) = packed else { return Ok(false) };
    // A receiver that is gone wants no more.
    drop(to.send(packed).await);
    Ok(true)
}

fn failure(method: &str, object: &str, kind: FaultKind) -> EngineError {
    match kind {
        FaultKind::Unreachable => EngineError::Unreachable {
            address: "memory".to_owned(),
            source: format!("no answer to {method} {object}").into(),
        },
        FaultKind::Refused => refused(method, &format!("scripted for {object}")),
    }
}

fn conflict(message: String) -> EngineError {
    EngineError::Conflict { message }
}

fn not_found(kind: &str, name: &str) -> EngineError {
    EngineError::NotFound { message: format!("no such {kind}: {name}") }
}

fn refused(action: &str, message: &str) -> EngineError {
    EngineError::Refused { action: action.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn network(n: u8) -> NetworkSpec {
        NetworkSpec {
            name: format!("net{n}"),
            subnet: format!("10.0.{n}.0/28").parse().expect("a subnet"),
            internal: true,
            labels: BTreeMap::new(),
        }
    }

    async fn create(engine: &MemoryEngine, n: u8) -> Result<String, EngineError> {
        engine.create_network(&network(n), &BTreeMap::new()).await
    }

    #[tokio::test]
    async fn a_fault_comes_at_its_call_and_once() {
        let engine = MemoryEngine::new();
        engine.fail_at(2, FaultKind::Refused);
        create(&engine, 1).await.expect("the first call");
        let refused = create(&engine, 2).await.expect_err("the second");
        assert!(matches!(refused, EngineError::Refused { .. }), "{refused:?}");
        create(&engine, 2).await.expect("the third");
        engine.lose_at(1);
        let lost = create(&engine, 3).await.expect_err("no answer");
        assert!(matches!(lost, EngineError::Unreachable { .. }), "{lost:?}");
        assert!(engine.snapshot().networks.contains_key("net3"), "it took effect all the same");
        let methods: Vec<&str> = engine.calls().iter().map(|c| c.method).collect();
        assert_eq!(methods, ["create_network"; 4]);
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_dropped_before_or_after_it_took_effect() {
        for (taken, there) in [(Taken::No, false), (Taken::Yes, true)] {
            let engine = MemoryEngine::new();
            engine.hang_at(1, taken);
            assert!(create(&engine, 1).now_or_never().is_none(), "it never answers");
            assert_eq!(engine.snapshot().networks.contains_key("net1"), there);
            create(&engine, 2).await.expect("the engine itself goes on");
        }
    }

    #[tokio::test]
    async fn what_is_still_being_made_is_there_some_calls_later() {
        let engine = MemoryEngine::new();
        engine.hang_at(1, Taken::Late(3));
        assert!(create(&engine, 1).now_or_never().is_none(), "it never answers");
        let seen = async || engine.network("net1").await.expect("asked").is_some();
        assert!(!seen().await && !seen().await && engine.is_busy());
        assert!(seen().await && !engine.is_busy());
    }

    #[tokio::test]
    async fn two_worlds_are_equal_whatever_their_ids() {
        let (one, two) = (MemoryEngine::new(), MemoryEngine::new());
        create(&one, 1).await.expect("created");
        create(&one, 2).await.expect("created");
        create(&two, 2).await.expect("created");
        assert_ne!(one.snapshot(), two.snapshot());
        create(&two, 1).await.expect("created");
        assert_eq!(one.snapshot(), two.snapshot());
        let (a, b) = (one.network("net1").await.expect("asked"), two.network("net1").await);
        assert_ne!(a.expect("there").id, b.expect("asked").expect("there").id);
        two.break_network("net1", |n| n.labels.insert("x".to_owned(), "y".to_owned()));
        assert_ne!(one.snapshot(), two.snapshot());
    }
}
