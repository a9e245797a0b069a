//! The boundary to a container engine: one method an engine call, nothing decided here.
//!
//! Two implementations: [`docker`], which is real, and [`memory`], which carries properties and
//! faults. Both take the plan's own types, so that what is asked is exactly what was reviewed.

pub mod console;
pub mod docker;
pub mod memory;
mod ping;
pub mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bottle_planner::plan::{BuildReach, ContainerSpec, NetworkSpec, VolumeSpec};
use bottle_planner::snapshot::{Container, Engine as EngineFacts, ImageFact, Network, Volume};
use bottle_planner::words::{Digest, Role};
use bytes::Bytes;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Why an engine call failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not answer (any more).
    #[error("the container engine at {address} does not answer")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The name is taken, or the object is in use, or two subnets clash.
    #[error("conflict: {message}")]
    Conflict {
        /// The engine's words.
        message: String,
    },
    /// There is no such object.
    #[error("not found: {message}")]
    NotFound {
        /// The engine's words.
        message: String,
    },
    /// The engine refused, or broke.
    #[error("the engine refused to {action}: {message}")]
    Refused {
        /// What was asked, as a verb phrase.
        action: String,
        /// The engine's words.
        message: String,
    },
}

/// What the engine makes of paths that a plan only names by symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPaths {
    /// The session's state folder.
    pub state: PathBuf,
    /// The folder that holds `bin/<digest>/`.
    pub bin: PathBuf,
}

/// What a program run inside a container left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Its exit code.
    pub code: i64,
    /// Standard output and error, interleaved, at most 64 KiB.
    pub output: String,
}

/// Everything of the engine that concerns one set of names: what the probe asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Containers by name.
    pub containers: BTreeMap<String, Container>,
    /// Networks by name.
    pub networks: BTreeMap<String, Network>,
    /// Volumes by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Images by tag, digest reference and id, of those asked for.
    pub images: BTreeMap<String, ImageFact>,
}

/// An archive on its way to the engine, piece by piece; an error ends it, and nothing is made of it.
pub type Outgoing = mpsc::Receiver<std::io::Result<Bytes>>;

/// Where an archive from the engine goes, piece by piece. A receiver that is gone ends it.
pub type Incoming = mpsc::Sender<Bytes>;

/// A container engine.
///
/// Calls are made side by side from one task; none blocks the thread.
#[expect(async_fn_in_trait, reason = "used through generics, on one thread; no `Send` needed")]
pub trait Engine {
    /// The newest API it speaks, as it said when it was connected to.
    fn api(&self) -> (u32, u32);

    /// Version, API and runtimes.
    async fn facts(&self) -> Result<EngineFacts, EngineError>;

    /// All containers, networks and volumes, and those of `images` that are present.
    ///
    /// Container addresses and start times are filled in for this owner's containers (label
    /// `dev.bottle.owner`) alone; others have names, ids and labels.
    async fn observe(
        &self,
        owner: &str,
        images: &BTreeSet<String>,
    ) -> Result<Observed, EngineError>;

    /// One container by name or id.
    async fn container(&self, name: &str) -> Result<Option<Container>, EngineError>;
    /// One network by name.
    async fn network(&self, name: &str) -> Result<Option<Network>, EngineError>;
    /// One volume by name.
    async fn volume(&self, name: &str) -> Result<Option<Volume>, EngineError>;
    /// One image by reference.
    async fn image(&self, reference: &str) -> Result<Option<ImageFact>, EngineError>;

    /// Creates a network; `labels` are those of the spec and the plan's digest.
    async fn create_network(
        &self,
        spec: &NetworkSpec,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError>;
    /// Removes a network.
    async fn remove_network(&self, name: &str) -> Result<(), EngineError>;
    /// Creates a volume of the local driver.
    async fn create_volume(
        &self,
        spec: &VolumeSpec,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), EngineError>;
    /// Removes a volume and its content.
    async fn remove_volume(&self, name: &str) -> Result<(), EngineError>;

    /// Creates a container; answers its id.
    async fn create_container(
        &self,
        spec: &ContainerSpec,
        labels: &BTreeMap<String, String>,
        paths: &HostPaths,
    ) -> Result<String, EngineError>;
    /// Connects a container to a further network.
    async fn connect(
        &self,
        container: &str,
        network: &str,
        address: std::net::Ipv4Addr,
    ) -> Result<(), EngineError>;
    /// Starts a container; already running is fine.
    async fn start(&self, container: &str) -> Result<(), EngineError>;
    /// Stops a container: SIGTERM, then SIGKILL after `grace_seconds`; not running is fine.
    async fn stop(&self, container: &str, grace_seconds: u32) -> Result<(), EngineError>;
    /// Removes a stopped container; its volumes stay.
    async fn remove_container(&self, container: &str) -> Result<(), EngineError>;
    /// Sends a signal to a container's init, by name (`SIGHUP`).
    async fn signal(&self, container: &str, signal: &str) -> Result<(), EngineError>;
    /// Unpacks a tar archive below a folder of a container (running or not).
    async fn upload(&self, container: &str, below: &str, tar: Bytes) -> Result<(), EngineError>;
    /// Packs a path of a container as a tar archive; `None` where there is no such path.
    async fn download(&self, container: &str, path: &str) -> Result<Option<Bytes>, EngineError>;
    /// The same, piece by piece; `false` where there is no such path.
    async fn read_container(
        &self,
        container: &str,
        path: &str,
        to: Incoming,
    ) -> Result<bool, EngineError>;
    /// Packs a path of an image as a tar archive, piece by piece; `false` where there is no such
    /// path. Nothing of the image runs.
    async fn read_image(&self, image: &str, path: &str, to: Incoming) -> Result<bool, EngineError>;
    /// Runs a program in a running container with this standard input, without a terminal.
    async fn exec(
        &self,
        container: &str,
        argv: &[String],
        input: Zeroizing<Vec<u8>>,
    ) -> Result<ExecResult, EngineError>;

    /// Imports a root file system (a tar archive) as an image under this tag; answers its id.
    async fn import_image(
        &self,
        tag: &str,
        tar: Bytes,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError>;
    /// Builds an image from a context (a tar archive with `Dockerfile` at its top). The proxy and who
    /// is reached without it are variables of the build's steps, and left in no image. A build on a
    /// session's network stands where a container of its own holds the place, which goes with it.
    async fn build_image(
        &self,
        tag: &str,
        context: Bytes,
        reach: &BuildReach,
        proxy: Option<&(String, Vec<String>)>,
        labels: &BTreeMap<String, String>,
        progress: &dyn Fn(&str),
    ) -> Result<String, EngineError>;
    /// Layers a tar archive (paths from `/`) onto an image; nothing of the base runs. `layer` is
    /// called once with the folders that the base declares a `VOLUME`: a commit would lose what lies
    /// in one of them, so it is for whoever packs to refuse that.
    async fn assemble_image(
        &self,
        tag: &str,
        base: &str,
        layer: &mut dyn FnMut(Vec<String>) -> Outgoing,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError>;
    /// Pulls `name@digest`.
    async fn pull_image(
        &self,
        reference: &str,
        progress: &dyn Fn(&str),
    ) -> Result<String, EngineError>;
    /// The digest of a reference's manifest, as its registry has it now; `None` where the engine
    /// cannot ask, or the registry does not know it.
    async fn resolve(&self, reference: &str) -> Result<Option<Digest>, EngineError>;
    /// Removes an image by tag.
    async fn remove_image(&self, reference: &str) -> Result<(), EngineError>;

    /// What a container wrote so far, at most the last `lines`.
    async fn logs(&self, container: &str, lines: u32) -> Result<String, EngineError>;
}

/// How a role is named in a message.
#[must_use]
pub fn role_of(container: &Container) -> Option<Role> {
    let role = container.labels.get(bottle_planner::plan::LABEL_ROLE)?;
    Role::ALL.into_iter().find(|r| r.as_str() == role)
}
