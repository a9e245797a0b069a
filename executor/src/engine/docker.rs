//! Docker's HTTP API (and Podman's imitation of it), spoken over a Unix socket or plain TCP.
//!
//! A [`ContainerSpec`] is lowered to Docker's own words in one place, `container_body`: what the
//! plan's types do not say (capabilities, privileges, namespaces) is fixed there and nowhere else.
//! Written against API 1.41 (Docker 20.10) and negotiated down from what bollard knows; never
//! above what the engine speaks.

mod console;
mod sealed;
mod upkeep;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models as api;
use bollard::query_parameters as query;
use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, body_full, body_try_stream};
use bottle_planner::plan::{
    BuildLimits, BuildPlace, BuildReach, ContainerSpec, GuardKind, LABEL_OWNER, Mount, NetworkSpec,
    VolumeSpec,
};
use bottle_planner::sidecar;
use bottle_planner::snapshot::{
    Container, ContainerState, Engine as EngineFacts, ImageFact, Network, Volume,
};
use bottle_planner::words::{Digest, Role, Subnet};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use futures_util::{FutureExt as _, Stream, StreamExt as _, join, try_join};
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::ping::{Ping, ping};
use super::{Engine, EngineError, ExecResult, HostPaths, Incoming, Observed, Outgoing};
use crate::logins::{HUB, Login, Logins, registry_of};

/// Where the engine listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Seconds a call may take that only looks or writes a record.
const QUICK_SECONDS: u64 = 60;
/// Seconds a call may take that moves or builds images.
const SLOW_SECONDS: u64 = 3600;
/// The most that is kept of what a program inside a container prints, in bytes.
const MAX_OUTPUT: usize = 64 << 10;
/// The most that is kept of a container's log, in bytes.
const MAX_LOG: usize = 4 << 20;
/// How long a registry may take to say what a tag means.
const REGISTRY: Duration = Duration::from_secs(15);
/// The last lines of a failed build that are repeated in its error.
const BUILD_TAIL: usize = 12;
/// What Docker writes for "never started".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A Docker engine.
#[derive(Debug)]
pub struct Docker {
    quick: bollard::Docker,
    slow: bollard::Docker,
    address: String,
    said: Ping,
    logins: Option<Logins>,
}

/// One build, as the engine is asked for it.
struct Build<'b> {
    tag: &'b str,
    /// The engine's word for the network of its steps.
    network: &'b str,
    /// What an image that an agent proposed may use. Such a build neither takes nor gives what other
    /// builds made.
    limits: Option<BuildLimits>,
    proxy: Option<&'b (String, Vec<String>)>,
    labels: &'b BTreeMap<String, String>,
    progress: &'b dyn Fn(&str),
}

/// A container that holds a build's place.
struct Held {
    container: String,
    /// Open for as long as the place is held.
    _input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
}

/// Where an engine listens, as `DOCKER_HOST` spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Socket(String),
    Tcp(SocketAddr),
}

impl Address {
    async fn ping(&self) -> io::Result<Option<Ping>> {
        match self {
            Self::Socket(path) => ping(UnixStream::connect(path).await?).await,
            Self::Tcp(socket) => ping(TcpStream::connect(socket).await?).await,
        }
    }

    fn client(&self, version: &ClientVersion) -> Result<bollard::Docker, bollard::errors::Error> {
        match self {
            Self::Socket(path) => bollard::Docker::connect_with_unix(path, QUICK_SECONDS, version),
            Self::Tcp(socket) => {
                let address = format!("tcp://{socket}");
                bollard::Docker::connect_with_http(&address, QUICK_SECONDS, version)
            }
        }
    }
}

/// The engine's newest API, or bollard's where that is older.
fn speak((major, minor): (u32, u32)) -> ClientVersion {
    let newest = (major as usize, minor as usize);
    let known = (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version);
    let (major_version, minor_version) = newest.min(known);
    ClientVersion { major_version, minor_version }
}

/// Why an engine address was refused.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, found `{}`", found.escape_debug())]
struct AddressError {
    expected: &'static str,
    found: String,
}

impl Docker {
    /// Connects to the engine at `host` (`unix:///path`, `tcp://IP:port`, `http://IP:port`; `None`
    /// is [`DEFAULT_SOCKET`]) and agrees on an API version.
    ///
    /// Host *names* are refused: the released binary is static and has no resolver of its own.
    pub async fn connect(host: Option<&str>) -> Result<Self, EngineError> {
        let shown = host.map_or_else(|| format!("unix://{DEFAULT_SOCKET}"), str::to_owned);
        let unreachable = |source| EngineError::Unreachable { address: shown.clone(), source };
        let address = parse_address(host).map_err(|e| unreachable(Box::new(e)))?;
        let said = tokio::time::timeout(Duration::from_secs(QUICK_SECONDS), address.ping()).await;
        let said = said.unwrap_or_else(|late| Err(late.into())).map_err(|e| {
            let denied = e.kind() == io::ErrorKind::PermissionDenied;
            unreachable(if denied { permission_denied() } else { Box::new(e) })
        })?;
        let failed = |e| engine_error(&shown, "tell its version", e);
        let (client, said) = match said {
            Some(said) => (address.client(&speak(said.api)).map_err(failed)?, said),
            // No engine known to us answers so; all of them answer this.
            None => {
                let client = address.client(API_DEFAULT_VERSION).map_err(failed)?;
                let client = client.negotiate_version().await.map_err(failed)?;
                let spoken = client.client_version();
                let api = (number(spoken.major_version), number(spoken.minor_version));
                (client, Ping { api, podman: false })
            }
        };
        let ClientVersion { major_version: major, minor_version: minor } = client.client_version();
        let client = client.with_request_modifier(move |r| amend(r, major, minor));
        let slow = client.clone().with_timeout(Duration::from_secs(SLOW_SECONDS));
        Ok(Self { quick: client, slow, address: shown, said, logins: None })
    }

    /// The same, that logs in where a registry wants it.
    #[must_use]
    pub fn with_logins(self, logins: Logins) -> Self {
        Self { logins: Some(logins), ..self }
    }

    /// The login for a reference's registry. A helper may take its time: it has a thread of its own.
    async fn login(&self, reference: &str) -> Result<Option<DockerCredentials>, EngineError> {
        let Some(logins) = self.logins.clone() else { return Ok(None) };
        let registry = registry_of(reference).to_owned();
        let looked = tokio::task::spawn_blocking(move || {
            let login = logins.of(&registry).map_err(|e| e.to_string())?;
            Ok::<_, String>(login.map(|login| credentials(login, registry)))
        });
        let refused = |message: String| EngineError::Refused {
            action: format!("use `{reference}`"),
            message,
        };
        looked.await.map_err(|e| refused(e.to_string()))?.map_err(refused)
    }

    /// Logins for the registries of all bases of a build, by their names in a registry header.
    async fn logins_of(
        &self,
        context: &[u8],
    ) -> Result<Option<HashMap<String, DockerCredentials>>, EngineError> {
        let mut all = HashMap::new();
        if self.logins.is_some() {
            for base in bases(context) {
                if let Some(login) = self.login(&base).await? {
                    all.insert(login.serveraddress.clone().unwrap_or_default(), login);
                }
            }
        }
        Ok((!all.is_empty()).then_some(all))
    }

    fn failed(&self, action: &str) -> impl Fn(bollard::errors::Error) -> EngineError {
        move |error| engine_error(&self.address, action, error)
    }

    async fn inspect(&self, name: &str) -> Result<Option<Container>, EngineError> {
        let options = None::<query::InspectContainerOptions>;
        let answer = self.quick.inspect_container(name, options).await;
        let found = present(answer.map_err(self.failed("inspect a container")))?;
        Ok(found.map(inspected_container))
    }

    async fn inspect_image(
        &self,
        reference: &str,
    ) -> Result<Option<api::ImageInspect>, EngineError> {
        let answer = self.quick.inspect_image(reference).await;
        present(answer.map_err(self.failed("inspect an image")))
    }

    async fn image_id(&self, tag: &str) -> Result<String, EngineError> {
        let image = self.inspect_image(tag).await?;
        image.and_then(|i| i.id).ok_or_else(|| EngineError::Refused {
            action: format!("keep the image `{tag}`"),
            message: "it is not there after it was made".to_owned(),
        })
    }

    async fn list_containers(&self) -> Result<Vec<api::ContainerSummary>, EngineError> {
        let all = query::ListContainersOptionsBuilder::default().all(true).build();
        self.quick.list_containers(Some(all)).await.map_err(self.failed("list containers"))
    }

    async fn list_networks(&self) -> Result<BTreeMap<String, Network>, EngineError> {
        let options = None::<query::ListNetworksOptions>;
        let listed =
            self.quick.list_networks(options).await.map_err(self.failed("list networks"))?;
        Ok(listed
            .into_iter()
            .filter_map(|n| Some((n.name?, network_fact(n.id, n.ipam, n.labels))))
            .collect())
    }

    async fn list_volumes(&self) -> Result<BTreeMap<String, Volume>, EngineError> {
        let options = None::<query::ListVolumesOptions>;
        let listed = self.quick.list_volumes(options).await.map_err(self.failed("list volumes"))?;
        let volumes = listed.volumes.unwrap_or_default();
        Ok(volumes
            .into_iter()
            .map(|v| (v.name, Volume { labels: v.labels.into_iter().collect() }))
            .collect())
    }

    /// Removes a container with the anonymous volumes that an image's `VOLUME` made for it
    /// (`v=true` spares every volume that was given a name; API 1.41, `ContainerDelete`).
    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        let options = query::RemoveContainerOptionsBuilder::default().v(true).build();
        let answer = self.quick.remove_container(container, Some(options)).await;
        answer.map_err(self.failed(&format!("remove the container `{container}`")))
    }

    /// Creates the container that an assembled image is committed from. It is never started.
    async fn create_scaffold(
        &self,
        name: &str,
        base: &str,
        config: &api::ImageConfig,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), EngineError> {
        // The engine wants some command; what is given here would be committed with the image, so
        // it is given only where the base has none.
        let bare = config.entrypoint.as_ref().is_none_or(Vec::is_empty)
            && config.cmd.as_ref().is_none_or(Vec::is_empty);
        let body = api::ContainerCreateBody {
            image: Some(base.to_owned()),
            cmd: bare.then(|| vec!["/never-run".to_owned()]),
            labels: Some(labels.clone().into_iter().collect()),
            host_config: Some(api::HostConfig {
                network_mode: Some("none".to_owned()),
                cap_drop: Some(vec!["ALL".to_owned()]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let action = format!("create a container from `{base}`");
        let create = || async {
            let options = query::CreateContainerOptionsBuilder::default().name(name).build();
            let answer = self.quick.create_container(Some(options), body.clone()).await;
            answer.map(drop).map_err(self.failed(&action))
        };
        match create().await {
            // Left by an apply that was killed in the middle; it never ran and holds nothing.
            Err(EngineError::Conflict { .. }) => {
                self.remove(name).await?;
                create().await
            }
            other => other,
        }
    }

    async fn fill_and_commit(
        &self,
        scaffold: &str,
        tag: &str,
        mut layer: Outgoing,
    ) -> Result<(), EngineError> {
        let pieces = futures_util::stream::poll_fn(move |context| layer.poll_recv(context));
        let options = query::UploadToContainerOptionsBuilder::default().path("/").build();
        let body = body_try_stream(pieces);
        let uploaded = self.slow.upload_to_container(scaffold, Some(options), body).await;
        uploaded.map_err(self.failed(&format!("upload into `{scaffold}`")))?;
        let (repo, version) = split_tag(tag);
        let options = query::CommitContainerOptionsBuilder::default()
            .container(scaffold)
            .repo(repo)
            .tag(version)
            .pause(false)
            .build();
        // With an empty body the engine commits the container's own configuration, which is the
        // base's with our labels. `ONBUILD` is a builder's affair: a commit runs none of it.
        let answer = self.slow.commit_container(options, api::ContainerConfig::default()).await;
        answer.map(drop).map_err(self.failed(&format!("commit the image `{tag}`")))
    }

    async fn run_build(&self, context: Bytes, build: &Build<'_>) -> Result<String, EngineError> {
        let Build { tag, network, limits, proxy, labels, progress } = build;
        let arguments = proxy.map(proxy_arguments).unwrap_or_default();
        let labels: HashMap<String, String> = (*labels).clone().into_iter().collect();
        let mut options = query::BuildImageOptionsBuilder::default()
            .dockerfile("Dockerfile")
            .t(tag)
            .rm(true)
            .forcerm(true)
            // What other builds left may be an agent's, and what this one leaves is.
            .nocache(limits.is_some())
            .networkmode(network)
            .labels(&labels)
            .buildargs(&arguments);
        if let Some(limits) = limits {
            let number = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
            options = options
                .memory(number(limits.memory_bytes))
                // Equal to `memory`: none of it is swap.
                .memswap(number(limits.memory_bytes))
                // Microseconds of a tenth of a second.
                .cpuperiod(100_000)
                .cpuquota(number(u64::from(limits.cpus_milli) * 100));
        }
        let logins = self.logins_of(&context).await?;
        let stream = self.slow.build_image(options.build(), logins, Some(body_full(context)));
        let made = RefCell::new(MadeByBuild::default());
        let note = |line: &str| {
            made.borrow_mut().note(line);
            progress(line);
        };
        let action = format!("build the image `{tag}`");
        let failed = self.failed(&action);
        let built = follow(stream, &failed, &note);
        let built = match limits {
            None => built.await,
            // The engine ends a build whose client is gone.
            Some(BuildLimits { seconds, .. }) => {
                tokio::time::timeout(Duration::from_secs(*seconds), built).await.unwrap_or_else(
                    |_| {
                        let message = format!("it took longer than {seconds} seconds");
                        Err(EngineError::Refused { action: action.clone(), message })
                    },
                )
            }
        };
        if let Err(error) = built {
            self.discard(&made.into_inner()).await;
            return Err(error);
        }
        self.image_id(tag).await
    }

    /// Holds a place on a session's network. The engine gives the steps of a build no address and no
    /// resolver of ours; what it lets them do is share those of a container. That one ends with its
    /// input, which is our connection: whatever becomes of us, nothing of it stays.
    async fn hold(&self, place: &BuildPlace) -> Result<Held, EngineError> {
        let name = &place.container;
        let action = format!("create the container `{name}`");
        let body = holder_body(place);
        let create = || async {
            let options = query::CreateContainerOptionsBuilder::default().name(name).build();
            let answer = self.quick.create_container(Some(options), body.clone()).await;
            answer.map(|made| made.id).map_err(self.failed(&action))
        };
        let id = match create().await {
            // Of an apply that was killed a moment ago, if it is this session's.
            Err(EngineError::Conflict { message }) => {
                let found = self.inspect(name).await?;
                let ours = |found: &Container| {
                    place.labels.iter().all(|(key, value)| found.labels.get(key) == Some(value))
                };
                if !found.as_ref().is_none_or(ours) {
                    return Err(EngineError::Conflict { message });
                }
                self.take_away(name).await;
                create().await?
            }
            made => made?,
        };
        let options =
            query::AttachContainerOptionsBuilder::default().stream(true).stdin(true).build();
        let attached = self.slow.attach_container(&id, Some(options)).await;
        let held = match attached.map_err(self.failed(&format!("attach to `{name}`"))) {
            Ok(attached) => Held { container: id, _input: attached.input },
            Err(error) => {
                self.take_away(&id).await;
                return Err(error);
            }
        };
        let options = None::<query::StartContainerOptions>;
        let started = self.quick.start_container(&held.container, options).await;
        if let Err(error) = started.map_err(self.failed(&format!("start `{name}`"))) {
            self.let_go(held).await;
            return Err(error);
        }
        Ok(held)
    }

    async fn let_go(&self, held: Held) {
        self.take_away(&held.container).await;
    }

    /// Removes what removes itself: that it is gone already, or just going, is as well.
    async fn take_away(&self, container: &str) {
        let options = query::RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let _ = self.quick.remove_container(container, Some(options)).await;
    }

    /// Removes what the steps of a failed build left: images without a name, newest first. The engine
    /// keeps what something else is built on.
    async fn discard(&self, made: &MadeByBuild) {
        for id in made.steps.iter().rev() {
            let found = self.inspect_image(id).await;
            let named = |i: &api::ImageInspect| i.repo_tags.as_ref().is_some_and(|t| !t.is_empty());
            if found.is_ok_and(|image| image.as_ref().is_some_and(|image| !named(image))) {
                let options = None::<query::RemoveImageOptions>;
                // Whoever builds the same at the same time may hold it.
                let _ = self.quick.remove_image(id, options, None).await;
            }
        }
    }

    async fn exec_code(&self, id: &str) -> Result<i64, EngineError> {
        // The stream ends a moment before the engine has noted the exit code.
        for wait in [0, 1, 5, 20, 50, 100, 200, 500, 1000, 2000] {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let state = self.quick.inspect_exec(id).await;
            let state = state.map_err(self.failed("inspect a program it ran"))?;
            if let (Some(false), Some(code)) = (state.running, state.exit_code) {
                return Ok(code);
            }
        }
        Err(EngineError::Refused {
            action: "tell a program's exit code".to_owned(),
            message: "its output ended but it still runs".to_owned(),
        })
    }
}

/// Runtimes with gVisor's flag `--ignore-cgroups`.
fn without_limits(runtimes: Option<&HashMap<String, api::Runtime>>) -> BTreeSet<String> {
    let ignores = |runtime: &api::Runtime| {
        let arguments = runtime.runtime_args.iter().flatten();
        arguments
            .map(|argument| argument.trim_start_matches('-'))
            .any(|a| a == "ignore-cgroups" || a == "ignore-cgroups=true")
    };
    let all = runtimes.into_iter().flatten();
    all.filter(|(_, runtime)| ignores(runtime)).map(|(name, _)| name.clone()).collect()
}

impl Engine for Docker {
    fn api(&self) -> (u32, u32) {
        self.said.api
    }

    async fn facts(&self) -> Result<EngineFacts, EngineError> {
        let info = self.quick.info().await.map_err(self.failed("describe itself"))?;
        Ok(EngineFacts {
            name: if self.said.podman { "podman" } else { "docker" }.to_owned(),
            version: info.server_version.unwrap_or_default(),
            api: self.said.api,
            rootless: info.security_options.iter().flatten().any(|o| o.contains("rootless")),
            // A rootless engine may hold none, except where systemd delegates cgroups to its user.
            without_limits: match info.cgroup_driver {
                Some(api::SystemInfoCgroupDriverEnum::NONE) => {
                    info.runtimes.iter().flatten().map(|(name, _)| name.clone()).collect()
                }
                _ => without_limits(info.runtimes.as_ref()),
            },
            runtimes: info.runtimes.unwrap_or_default().into_keys().collect(),
            cgroup_version: match info.cgroup_version {
                Some(api::SystemInfoCgroupVersionEnum::_2) => 2,
                _ => 1,
            },
        })
    }

    async fn observe(
        &self,
        owner: &str,
        images: &BTreeSet<String>,
    ) -> Result<Observed, EngineError> {
        let image = |reference: &String| {
            let reference = reference.clone();
            async move { Ok(self.image(&reference).await?.map(|fact| (reference, fact))) }
        };
        let (listed, networks, volumes, images) = try_join!(
            self.list_containers(),
            self.list_networks(),
            self.list_volumes(),
            try_join_all(images.iter().map(image)),
        )?;
        let mut containers = BTreeMap::new();
        let mut own = Vec::new();
        for summary in listed {
            let Some(name) = summary.names.as_deref().and_then(own_name) else { continue };
            let container = listed_container(summary);
            if container.labels.get(LABEL_OWNER).is_some_and(|o| o == owner) {
                own.push((name.clone(), container.id.clone()));
            }
            containers.insert(name, container);
        }
        let details = join_all(own.iter().map(|(_, id)| self.inspect(id))).await;
        for ((name, _), detail) in own.into_iter().zip(details) {
            match detail? {
                Some(container) => containers.insert(name, container),
                None => containers.remove(&name),
            };
        }
        Ok(Observed {
            containers,
            networks,
            volumes,
            images: images.into_iter().flatten().collect(),
        })
    }

    async fn container(&self, name: &str) -> Result<Option<Container>, EngineError> {
        self.inspect(name).await
    }

    async fn network(&self, name: &str) -> Result<Option<Network>, EngineError> {
        let options = None::<query::InspectNetworkOptions>;
        let answer = self.quick.inspect_network(name, options).await;
        let found = present(answer.map_err(self.failed("inspect a network")))?;
        Ok(found.map(|n| network_fact(n.id, n.ipam, n.labels)))
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>, EngineError> {
        let answer = self.quick.inspect_volume(name).await;
        let found = present(answer.map_err(self.failed("inspect a volume")))?;
        Ok(found.map(|v| Volume { labels: v.labels.into_iter().collect() }))
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageFact>, EngineError> {
        Ok(self.inspect_image(reference).await?.and_then(image_fact))
    }

    async fn create_network(
        &self,
        spec: &NetworkSpec,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let action = format!("create the network `{}`", spec.name);
        if self.said.podman {
            // No plan for it is made; this one was made for another engine.
            let message = "Podman does not keep containers from its host".to_owned();
            return Err(EngineError::Refused { action, message });
        }
        let answer = self.quick.create_network(network_body(spec, labels)).await;
        let created = answer.map_err(self.failed(&action))?;
        // An engine that does not know an option makes the network without it, and says so in passing.
        if !created.warning.is_empty() {
            self.remove_network(&created.id).await?;
            return Err(EngineError::Refused { action, message: created.warning });
        }
        Ok(created.id)
    }

    async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        let answer = self.quick.remove_network(name).await;
        answer.map_err(self.failed(&format!("remove the network `{name}`")))
    }

    async fn create_volume(
        &self,
        spec: &VolumeSpec,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), EngineError> {
        let action = format!("create the volume `{}`", spec.name);
        // The engine answers "created" for a volume that is already there, whoever made it.
        if self.volume(&spec.name).await?.is_some() {
            let message = format!("a volume named `{}` already exists", spec.name);
            return Err(EngineError::Conflict { message });
        }
        let body = api::VolumeCreateRequest {
            name: Some(spec.name.clone()),
            driver: Some("local".to_owned()),
            labels: Some(labels.clone().into_iter().collect()),
            ..Default::default()
        };
        self.quick.create_volume(body).await.map(drop).map_err(self.failed(&action))
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let answer = self.quick.remove_volume(name, None::<query::RemoveVolumeOptions>).await;
        answer.map_err(self.failed(&format!("remove the volume `{name}`")))
    }

    async fn create_container(
        &self,
        spec: &ContainerSpec,
        labels: &BTreeMap<String, String>,
        paths: &HostPaths,
    ) -> Result<String, EngineError> {
        let options = query::CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let mut body = container_body(spec, labels, paths)?;
        let mounts = body.host_config.as_ref().and_then(|host| host.mounts.as_ref());
        let mounted: Vec<&str> =
            mounts.into_iter().flatten().filter_map(|mount| mount.target.as_deref()).collect();
        body.image = Some(self.sealed(&spec.image, labels.get(LABEL_OWNER), &mounted).await?);
        let answer = self.quick.create_container(Some(options), body).await;
        let created =
            answer.map_err(self.failed(&format!("create the container `{}`", spec.name)))?;
        Ok(created.id)
    }

    async fn connect(
        &self,
        container: &str,
        network: &str,
        address: Ipv4Addr,
    ) -> Result<(), EngineError> {
        let body = api::NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(endpoint(address)),
        };
        let answer = self.quick.connect_network(network, body).await;
        answer.map_err(self.failed(&format!("connect `{container}` to `{network}`")))
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let options = None::<query::StartContainerOptions>;
        let answer = self.quick.start_container(container, options).await;
        answer.map_err(self.failed(&format!("start the container `{container}`")))
    }

    async fn stop(&self, container: &str, grace_seconds: u32) -> Result<(), EngineError> {
        let grace = i32::try_from(grace_seconds).unwrap_or(i32::MAX);
        let options = query::StopContainerOptionsBuilder::default().t(grace).build();
        let answer = self.slow.stop_container(container, Some(options)).await;
        answer.map_err(self.failed(&format!("stop the container `{container}`")))
    }

    async fn remove_container(&self, container: &str) -> Result<(), EngineError> {
        let found = self.inspect(container).await?;
        self.remove(container).await?;
        if let Some(found) = found {
            self.remove_twin(&found.image).await;
        }
        Ok(())
    }

    async fn signal(&self, container: &str, signal: &str) -> Result<(), EngineError> {
        let options = query::KillContainerOptionsBuilder::default().signal(signal).build();
        let answer = self.quick.kill_container(container, Some(options)).await;
        answer.map_err(self.failed(&format!("send {signal} to `{container}`")))
    }

    async fn upload(&self, container: &str, below: &str, tar: Bytes) -> Result<(), EngineError> {
        let options = query::UploadToContainerOptionsBuilder::default().path(below).build();
        let answer = self.slow.upload_to_container(container, Some(options), body_full(tar)).await;
        answer.map_err(self.failed(&format!("upload into `{container}`")))
    }

    async fn download(&self, container: &str, path: &str) -> Result<Option<Bytes>, EngineError> {
        let action = format!("download from `{container}`");
        let options = query::DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut stream = self.slow.download_from_container(container, Some(options));
        let mut archive = Vec::new();
        while let Some(chunk) = stream.next().await {
            match chunk.map_err(self.failed(&action)) {
                Ok(chunk) => archive.extend_from_slice(&chunk),
                Err(EngineError::NotFound { message }) if !no_container(&message) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(archive.into()))
    }

    async fn read_container(
        &self,
        container: &str,
        path: &str,
        to: Incoming,
    ) -> Result<bool, EngineError> {
        let action = format!("download from `{container}`");
        let options = query::DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut stream = self.slow.download_from_container(container, Some(options));
        while let Some(piece) = stream.next().await {
            match piece.map_err(self.failed(&action)) {
                Ok(piece) => {
                    if to.send(piece).await.is_err() {
                        return Ok(true);
                    }
                }
                Err(EngineError::NotFound { message }) if !no_container(&message) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    async fn read_image(&self, image: &str, path: &str, to: Incoming) -> Result<bool, EngineError> {
        let Some(found) = self.inspect_image(image).await? else {
            return Err(EngineError::NotFound { message: format!("no such image: {image}") });
        };
        let owner = found.config.as_ref().and_then(|c| c.labels.as_ref());
        let owner = owner.and_then(|labels| labels.get(LABEL_OWNER)).cloned();
        let labels = owner.map(|owner| (LABEL_OWNER.to_owned(), owner)).into_iter().collect();
        // Two that look at one image at once must not share it.
        let name =
            format!("bottle-look-{}-{}", Digest::of(image.as_bytes()).short(), std::process::id());
        let config = found.config.unwrap_or_default();
        self.create_scaffold(&name, image, &config, &labels).await?;
        let read = self.read_container(&name, path, to).await;
        let removed = self.remove(&name).await;
        let read = read?;
        removed.map(|()| read)
    }

    async fn exec(
        &self,
        container: &str,
        argv: &[String],
        input: Zeroizing<Vec<u8>>,
    ) -> Result<ExecResult, EngineError> {
        let action = format!("run a program in `{container}`");
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            cmd: Some(argv.to_vec()),
            ..Default::default()
        };
        let created = self.quick.create_exec(container, options).await;
        let id = created.map_err(self.failed(&action))?.id;
        let options = StartExecOptions { detach: false, tty: false, output_capacity: None };
        let started = self.quick.start_exec(&id, Some(options)).await;
        let (mut output, mut stdin) = match started.map_err(self.failed(&action))? {
            StartExecResults::Attached { output, input } => (output, input),
            StartExecResults::Detached => {
                return Err(EngineError::Refused { action, message: "it detached".to_owned() });
            }
        };
        // Both at once: a program that prints before it has read everything must not block us.
        let send = async {
            // A program that ends early closes its input; its exit code says what that meant.
            if stdin.write_all(&input).await.is_ok() {
                drop(stdin.shutdown().await);
            }
            drop(input);
        };
        let collect = async {
            let mut kept = Vec::new();
            while let Some(piece) = output.next().await {
                let piece = piece.map_err(self.failed(&action))?;
                let room = MAX_OUTPUT.saturating_sub(kept.len()).min(piece.as_ref().len());
                kept.extend_from_slice(&piece.as_ref()[..room]);
            }
            Ok::<_, EngineError>(kept)
        };
        let ((), kept) = join!(send, collect);
        let output = String::from_utf8_lossy(&kept?).into_owned();
        Ok(ExecResult { code: self.exec_code(&id).await?, output })
    }

    async fn import_image(
        &self,
        tag: &str,
        tar: Bytes,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let action = format!("import the image `{tag}`");
        let version = self.quick.version().await.map_err(self.failed(&action))?;
        let architecture = version.arch.as_deref().unwrap_or("amd64");
        let archive = image_archive(tag, &tar, labels, architecture)
            .map_err(|e| EngineError::Refused { action: action.clone(), message: e.to_string() })?;
        let options = query::ImportImageOptionsBuilder::default().quiet(true).build();
        let stream = self.slow.import_image(options, body_full(archive.into()), None);
        follow(stream, &self.failed(&action), &|_| {}).await?;
        self.image_id(tag).await
    }

    async fn build_image(
        &self,
        tag: &str,
        context: Bytes,
        reach: &BuildReach,
        proxy: Option<&(String, Vec<String>)>,
        labels: &BTreeMap<String, String>,
        progress: &dyn Fn(&str),
    ) -> Result<String, EngineError> {
        let network = match reach {
            BuildReach::Open => "default",
            BuildReach::None => "none",
            BuildReach::Session(place) => {
                let held = self.hold(place).await?;
                let network = format!("container:{}", held.container);
                let limits = Some(place.limits);
                let build = Build { tag, network: &network, limits, proxy, labels, progress };
                let built = self.run_build(context, &build).await;
                self.let_go(held).await;
                return built;
            }
        };
        let build = Build { tag, network, limits: None, proxy, labels, progress };
        self.run_build(context, &build).await
    }

    async fn assemble_image(
        &self,
        tag: &str,
        base: &str,
        layer: &mut dyn FnMut(Vec<String>) -> Outgoing,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let base = &self.sealed(base, labels.get(LABEL_OWNER), &[]).await?;
        let image = self.inspect_image(base).await?;
        let Some(image) = image else {
            return Err(EngineError::NotFound { message: format!("no such image: {base}") });
        };
        let config = image.config.unwrap_or_default();
        let layer = layer(config.volumes.clone().unwrap_or_default());
        // Of this owner's own: another may assemble the same folder's image right now, under another lock.
        let owner = labels.get(LABEL_OWNER).map_or("", String::as_str);
        let name = Digest::of(format!("{tag}\0{owner}").as_bytes());
        let scaffold = format!("bottle-assemble-{}", name.short());
        self.create_scaffold(&scaffold, base, &config, labels).await?;
        let done = self.fill_and_commit(&scaffold, tag, layer).await;
        let removed = self.remove(&scaffold).await;
        done?;
        removed?;
        self.image_id(tag).await
    }

    async fn pull_image(
        &self,
        reference: &str,
        progress: &dyn Fn(&str),
    ) -> Result<String, EngineError> {
        let options = query::CreateImageOptionsBuilder::default().from_image(reference).build();
        let login = self.login(reference).await?;
        let stream = self.slow.create_image(Some(options), None, login);
        follow(stream, &self.failed(&format!("pull `{reference}`")), progress).await?;
        self.image_id(reference).await
    }

    async fn resolve(&self, reference: &str) -> Result<Option<Digest>, EngineError> {
        let login = self.login(reference).await?;
        let ask = self.quick.inspect_registry_image(reference, login);
        let action = format!("ask the registry for `{reference}`");
        let refused = |message: &str| EngineError::Refused {
            action: action.clone(),
            message: message.to_owned(),
        };
        let answer = tokio::time::timeout(REGISTRY, ask).await;
        let answer = answer.map_err(|_| refused("its registry does not answer"))?;
        let found = present(answer.map_err(self.failed(&action)))?;
        Ok(found.and_then(|found| Digest::new(found.descriptor.digest?).ok()))
    }

    async fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        let options = None::<query::RemoveImageOptions>;
        let answer = self.quick.remove_image(reference, options, None).await;
        answer.map(drop).map_err(self.failed(&format!("remove the image `{reference}`")))
    }

    async fn logs(&self, container: &str, lines: u32) -> Result<String, EngineError> {
        let options = query::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        let mut stream = self.quick.logs(container, Some(options));
        let mut text = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(self.failed(&format!("read the log of `{container}`")))?;
            text.extend_from_slice(piece.as_ref());
            if text.len() > 2 * MAX_LOG {
                text.drain(..text.len() - MAX_LOG);
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn credentials(login: Login, registry: String) -> DockerCredentials {
    let server = if registry == "docker.io" { HUB.to_owned() } else { registry };
    let mut credentials =
        DockerCredentials { serveraddress: Some(server), ..DockerCredentials::default() };
    match login {
        Login::Password { user, password } => {
            credentials.username = Some(user);
            credentials.password = Some(password.to_string());
        }
        Login::Token(token) => credentials.identitytoken = Some(token.to_string()),
    }
    credentials
}

/// What a context's Dockerfile builds on: the last file of that name, as the engine takes it.
fn bases(context: &[u8]) -> BTreeSet<String> {
    let mut text = String::new();
    let mut archive = tar::Archive::new(context);
    for mut entry in archive.entries().into_iter().flatten().flatten() {
        if entry.path().is_ok_and(|path| path == Path::new("Dockerfile")) {
            text.clear();
            let _ = io::Read::read_to_string(&mut entry, &mut text);
        }
    }
    let base = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| word.eq_ignore_ascii_case("FROM"))?;
        words.find(|word| !word.starts_with("--")).map(str::to_owned)
    };
    text.lines().filter_map(base).collect()
}

/// Arguments that every builder knows without being told, and keeps out of an image's history and
/// of what its cache compares (Dockerfile reference, "Predefined ARGs").
fn proxy_arguments((proxy, direct): &(String, Vec<String>)) -> HashMap<String, String> {
    let direct = direct.join(",");
    let pairs = [("HTTP_PROXY", proxy), ("HTTPS_PROXY", proxy), ("NO_PROXY", &direct)];
    let both = |(name, value): (&str, &String)| {
        [(name.to_ascii_lowercase(), value.clone()), (name.to_owned(), value.clone())]
    };
    pairs.into_iter().filter(|(_, value)| !value.is_empty()).flat_map(both).collect()
}

/// Whether the engine could not be asked because its socket is not this user's to open.
#[must_use]
pub fn is_permission_denied(error: &EngineError) -> bool {
    let EngineError::Unreachable { source, .. } = error else { return false };
    caused_by_permission(source.as_ref())
}

/// Docker's words for a container. The only place where they are chosen.
fn container_body(
    spec: &ContainerSpec,
    labels: &BTreeMap<String, String>,
    paths: &HostPaths,
) -> Result<api::ContainerCreateBody, EngineError> {
    let endpoints = HashMap::from([(spec.network.clone(), endpoint(spec.address))]);
    Ok(api::ContainerCreateBody {
        image: Some(spec.image.clone()),
        user: Some(format!("{}:{}", spec.user.uid, spec.user.gid)),
        // The argv is all entrypoint: with an entrypoint given, the image's `CMD` is not appended.
        entrypoint: Some(spec.argv.clone()),
        cmd: Some(Vec::new()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: Some(spec.workdir.to_string()),
        labels: Some(labels.clone().into_iter().collect()),
        tty: Some(spec.terminal),
        open_stdin: Some(spec.terminal),
        healthcheck: Some(api::HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(10),
        host_config: Some(host_config(spec, paths)?),
        networking_config: Some(api::NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..Default::default()
    })
}

/// The container that holds a build's place: the binary, which waits for the end of its input.
fn holder_body(place: &BuildPlace) -> api::ContainerCreateBody {
    let endpoints = HashMap::from([(place.network.clone(), endpoint(place.address))]);
    api::ContainerCreateBody {
        image: Some(place.image.clone()),
        user: Some(format!("{}:{}", place.user.uid, place.user.gid)),
        entrypoint: Some([sidecar::SIDECAR_BINARY, "sidecar", "hold"].map(str::to_owned).into()),
        cmd: Some(Vec::new()),
        labels: Some(place.labels.clone().into_iter().collect()),
        attach_stdin: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        host_config: Some(api::HostConfig {
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            memory: Some(64 << 20),
            pids_limit: Some(64),
            network_mode: Some(place.network.clone()),
            dns: Some(vec![place.dns.to_string()]),
            extra_hosts: Some(vec![format!("egress:{}", place.dns)]),
            auto_remove: Some(true),
            ..Default::default()
        }),
        networking_config: Some(api::NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..Default::default()
    }
}

fn host_config(spec: &ContainerSpec, paths: &HostPaths) -> Result<api::HostConfig, EngineError> {
    let limits = &spec.limits;
    let mounts = spec.mounts.iter().map(|m| mount(spec.role, m, paths));
    Ok(api::HostConfig {
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(Vec::new()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        ipc_mode: Some("private".to_owned()),
        readonly_rootfs: Some(spec.read_only),
        mounts: Some(mounts.collect::<Result<_, _>>()?),
        tmpfs: Some(spec.tmpfs.iter().map(|(at, size)| tmpfs(spec, at.as_str(), *size)).collect()),
        memory: Some(signed(limits.memory_bytes)),
        // Equal to `memory`: none of it is swap.
        memory_swap: Some(signed(limits.memory_bytes)),
        nano_cpus: Some(i64::from(limits.cpus_milli) * 1_000_000),
        pids_limit: Some(i64::from(limits.pids)),
        shm_size: Some(signed(limits.shm_bytes)),
        network_mode: Some(spec.network.clone()),
        // `None` leaves the engine's own choice: what a way out needs to find its upstreams.
        dns: spec.dns.map(|dns| vec![dns.to_string()]),
        extra_hosts: Some(
            spec.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect(),
        ),
        runtime: spec.runtime.clone(),
        init: Some(false),
        auto_remove: Some(false),
        restart_policy: Some(api::RestartPolicy {
            name: Some(api::RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(api::HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }),
        ..Default::default()
    })
}

fn mount(role: Role, mount: &Mount, paths: &HostPaths) -> Result<api::Mount, EngineError> {
    let own = paths.state.join(role.as_str());
    let bind = |source: &Path, target: &str, read_only| {
        let Some(source) = source.to_str() else {
            return Err(EngineError::Refused {
                action: format!("mount {}", source.display()),
                message: "the path is not UTF-8".to_owned(),
            });
        };
        Ok(api::Mount {
            typ: Some(api::MountType::BIND),
            source: Some(source.to_owned()),
            target: Some(target.to_owned()),
            read_only: Some(read_only),
            ..Default::default()
        })
    };
    match mount {
        Mount::In => bind(&own.join("in"), sidecar::IN, true),
        Mount::Out => bind(&own.join("out"), sidecar::OUT, false),
        Mount::Bin { tool } => bind(&paths.bin.join(tool.hex()), sidecar::BIN, true),
        Mount::ResolvConf => {
            let file = paths.state.join(Role::Agent.as_str()).join("in/resolv.conf");
            bind(&file, "/etc/resolv.conf", true)
        }
        Mount::Workspace { path } => bind(Path::new(path.as_str()), path.as_str(), false),
        Mount::Guard { path, guard, folder } => match guard {
            GuardKind::Hold => bind(Path::new(path.as_str()), path.as_str(), false),
            GuardKind::Protect => bind(Path::new(path.as_str()), path.as_str(), true),
            GuardKind::Hide => {
                let empty = if *folder { sidecar::HIDDEN_FOLDER } else { sidecar::HIDDEN_FILE };
                bind(&own.join("in").join(empty), path.as_str(), true)
            }
        },
        Mount::Volume { name, at } => Ok(api::Mount {
            typ: Some(api::MountType::VOLUME),
            source: Some(name.clone()),
            target: Some(at.to_string()),
            read_only: Some(false),
            ..Default::default()
        }),
    }
}

/// `/tmp` is everybody's and may hold programs, as on any host; other scratch is the user's own
/// and keeps Docker's default of `noexec`.
fn tmpfs(spec: &ContainerSpec, at: &str, size: u64) -> (String, String) {
    let (mode, exec) = if at == "/tmp" { ("1777", ",exec") } else { ("0700", "") };
    let (uid, gid) = (spec.user.uid, spec.user.gid);
    let options = format!("rw,nosuid,nodev{exec},size={size},mode={mode},uid={uid},gid={gid}");
    (at.to_owned(), options)
}

fn endpoint(address: Ipv4Addr) -> api::EndpointSettings {
    api::EndpointSettings {
        ipam_config: Some(api::EndpointIpamConfig {
            ipv4_address: Some(address.to_string()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn network_body(
    spec: &NetworkSpec,
    labels: &BTreeMap<String, String>,
) -> api::NetworkCreateRequest {
    // Without it the host has an address on the bridge, and every service bound to 0.0.0.0 on the
    // host is within the containers' reach (measured on Docker 20.10, `--internal` or not).
    let options = spec
        .internal
        .then(|| ("com.docker.network.bridge.inhibit_ipv4".to_owned(), "true".to_owned()));
    api::NetworkCreateRequest {
        name: spec.name.clone(),
        driver: Some("bridge".to_owned()),
        internal: Some(spec.internal),
        attachable: Some(false),
        enable_ipv6: Some(false),
        ipam: Some(api::Ipam {
            driver: Some("default".to_owned()),
            config: Some(vec![api::IpamConfig {
                subnet: Some(spec.subnet.to_string()),
                ..Default::default()
            }]),
            options: None,
        }),
        options: Some(options.into_iter().collect()),
        labels: Some(labels.clone().into_iter().collect()),
        ..Default::default()
    }
}

/// Puts back what bollard 0.21 leaves out of its requests: the agreed API version in the path
/// (its URL joining drops it, so the engine would answer in its newest), and `CheckDuplicate` at
/// network creation (engines before API 1.44 otherwise make a second network of the same name).
fn amend(mut request: BollardRequest, major: usize, minor: usize) -> BollardRequest {
    let uri = request.uri().clone();
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return request;
    };
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    if !path.starts_with("/v1.") {
        let versioned = format!("{scheme}://{authority}/v{major}.{minor}{path}");
        if let Ok(versioned) = versioned.parse() {
            *request.uri_mut() = versioned;
        }
    }
    // And its header of logins is base64 of another alphabet than engines read (RFC 4648, 5).
    for name in ["x-registry-auth", "x-registry-config"] {
        if let Some(value) = request.headers_mut().get_mut(name)
            && let Ok(text) = value.to_str()
            && let Ok(amended) = text.replace('+', "-").replace('/', "_").parse()
        {
            *value = amended;
            value.set_sensitive(true);
        }
    }
    if uri.path().ends_with("/networks/create") { check_duplicate(request) } else { request }
}

fn check_duplicate(request: BollardRequest) -> BollardRequest {
    let (parts, body) = request.into_parts();
    // The body is in memory, so it is ready at once.
    let bytes = match body.collect().now_or_never() {
        Some(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    let amended = match serde_json::from_slice(&bytes) {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.insert("CheckDuplicate".to_owned(), true.into());
            serde_json::Value::Object(fields).to_string().into()
        }
        _ => bytes,
    };
    BollardRequest::from_parts(parts, body_full(amended))
}

fn parse_address(host: Option<&str>) -> Result<Address, AddressError> {
    let Some(host) = host else { return Ok(Address::Socket(DEFAULT_SOCKET.to_owned())) };
    let wrong = |expected| AddressError { expected, found: host.to_owned() };
    if let Some(path) = host.strip_prefix("unix://") {
        return if path.starts_with('/') {
            Ok(Address::Socket(path.to_owned()))
        } else {
            Err(wrong("`unix://` and an absolute path"))
        };
    }
    let Some(rest) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) else {
        return Err(wrong("an engine address like unix:///var/run/docker.sock or tcp://IP:port"));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let socket = rest.parse().or_else(|_| rest.parse().map(|ip| SocketAddr::new(ip, 2375)));
    socket
        .map(Address::Tcp)
        .map_err(|_| wrong("an IP address and port after `tcp://` (host names are not looked up)"))
}

/// Sorts the engine's answer into the four kinds that the executor can act on.
fn engine_error(address: &str, action: &str, error: bollard::errors::Error) -> EngineError {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError { status_code: 404, message } => {
            EngineError::NotFound { message }
        }
        Error::DockerResponseServerError { status_code, message }
            if status_code == 409 || is_conflict(&message) =>
        {
            EngineError::Conflict { message }
        }
        Error::DockerResponseServerError { message, .. }
        | Error::DockerStreamError { error: message } => {
            EngineError::Refused { action: action.to_owned(), message }
        }
        Error::IOError { .. }
        | Error::HyperLegacyError { .. }
        | Error::HyperResponseError { .. }
        | Error::RequestTimeoutError
        | Error::SocketNotFoundError(_) => {
            let source: Box<dyn std::error::Error + Send + Sync> =
                if caused_by_permission(&error) { permission_denied() } else { Box::new(error) };
            EngineError::Unreachable { address: address.to_owned(), source }
        }
        other => EngineError::Refused { action: action.to_owned(), message: other.to_string() },
    }
}

/// The clashes that Docker reports with 400, 403 or 500 instead of 409.
fn is_conflict(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "already exists",
        "pool overlaps with other one on this address space",
        "address already in use",
        "has active endpoints",
        "volume is in use",
        "is already in use",
        "cannot overlap",
    ]
    .iter()
    .any(|clash| message.contains(clash))
}

fn permission_denied() -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "permission denied; is this user in the `docker` group?",
    ))
}

fn caused_by_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| {
        let kind = e.downcast_ref::<io::Error>().map(io::Error::kind);
        kind == Some(io::ErrorKind::PermissionDenied)
    })
}

fn present<T>(answer: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(EngineError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn no_container(message: &str) -> bool {
    message.to_ascii_lowercase().contains("no such container")
}

/// One line of progress, whichever call it comes from.
trait Progress {
    fn line(&self) -> Option<String>;
    fn error(&self) -> Option<String>;
}

impl Progress for api::BuildInfo {
    fn line(&self) -> Option<String> {
        self.stream.clone().or_else(|| self.status.clone())
    }
    fn error(&self) -> Option<String> {
        self.error_detail.as_ref().and_then(|e| e.message.clone())
    }
}

impl Progress for api::CreateImageInfo {
    fn line(&self) -> Option<String> {
        let status = self.status.clone()?;
        Some(self.id.as_ref().map_or_else(|| status.clone(), |id| format!("{id}: {status}")))
    }
    fn error(&self) -> Option<String> {
        self.error_detail.as_ref().and_then(|e| e.message.clone())
    }
}

/// The digits of an image's id as the builder tells them: no step can name an image by fewer.
const SHORT_ID: usize = 12;
/// As many steps' images are remembered: a step may print whatever it likes.
const MOST_STEPS: usize = 1_000;

/// The images that the steps of a build made, as the builder tells of them: neither bases nor what
/// its cache had.
#[derive(Debug, Default)]
struct MadeByBuild {
    steps: Vec<String>,
    known: bool,
}

impl MadeByBuild {
    fn note(&mut self, line: &str) {
        if let Some((_, instruction)) =
            line.strip_prefix("Step ").and_then(|rest| rest.split_once(" : "))
        {
            self.known = instruction.to_ascii_uppercase().starts_with("FROM");
        } else if let Some(said) = line.trim_start().strip_prefix("---> ") {
            if said == "Using cache" {
                self.known = true;
            } else if said.len() == SHORT_ID
                && said.bytes().all(|b| b.is_ascii_hexdigit())
                && !self.known
                && self.steps.len() < MOST_STEPS
            {
                self.steps.push(said.to_owned());
            }
        }
    }
}

/// Passes progress on line by line; an error carries the last lines with it.
async fn follow<T: Progress>(
    stream: impl Stream<Item = Result<T, bollard::errors::Error>>,
    failed: &impl Fn(bollard::errors::Error) -> EngineError,
    progress: &dyn Fn(&str),
) -> Result<(), EngineError> {
    let mut tail: Vec<String> = Vec::new();
    let mut stream = std::pin::pin!(stream);
    while let Some(step) = stream.next().await {
        let step = step.and_then(|step| match step.error() {
            Some(error) => Err(bollard::errors::Error::DockerStreamError { error }),
            None => Ok(step),
        });
        let step = match step.map_err(failed) {
            Ok(step) => step,
            Err(EngineError::Refused { action, message }) if !tail.is_empty() => {
                let message = format!("{message}\n{}", tail.join("\n"));
                return Err(EngineError::Refused { action, message });
            }
            Err(error) => return Err(error),
        };
        for line in step.line().iter().flat_map(|text| text.lines()).map(str::trim_end) {
            if !line.is_empty() {
                progress(line);
                tail.push(line.to_owned());
            }
        }
        let surplus = tail.len().saturating_sub(BUILD_TAIL);
        tail.drain(..surplus);
    }
    Ok(())
}

/// A `docker save` archive of one layer. Nothing in it depends on a clock, so that one root file
/// system and one set of labels have one image id everywhere.
fn image_archive(
    tag: &str,
    layer: &[u8],
    labels: &BTreeMap<String, String>,
    architecture: &str,
) -> io::Result<Vec<u8>> {
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer).as_str()] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "bottle" }],
    })
    .to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let (repo, version) = split_tag(tag);
    let manifest = serde_json::json!([{
        "Config": name,
        "RepoTags": [format!("{repo}:{version}")],
        "Layers": ["layer.tar"],
    }])
    .to_string();
    let mut archive = tar::Builder::new(Vec::with_capacity(layer.len() + (16 << 10)));
    for (name, content) in [
        (name.as_str(), config.as_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.as_bytes()),
    ] {
        append(&mut archive, name, content)?;
    }
    archive.into_inner()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, content)
}

fn split_tag(tag: &str) -> (&str, &str) {
    match tag.rsplit_once(':') {
        Some((repo, version)) if !version.contains('/') => (repo, version),
        _ => (tag, "latest"),
    }
}

/// A container's own name: links add others, which have a second slash.
fn own_name(names: &[String]) -> Option<String> {
    names.iter().filter_map(|n| n.strip_prefix('/')).find(|n| !n.contains('/')).map(str::to_owned)
}

fn listed_container(summary: api::ContainerSummary) -> Container {
    use api::ContainerSummaryStateEnum as S;
    let networks = summary.network_settings.and_then(|s| s.networks).unwrap_or_default();
    Container {
        id: summary.id.unwrap_or_default(),
        image: summary.image_id.unwrap_or_default(),
        state: match summary.state {
            Some(S::CREATED) => ContainerState::Created,
            Some(S::RUNNING | S::RESTARTING | S::STOPPING) => ContainerState::Running,
            Some(S::PAUSED) => ContainerState::Paused,
            _ => ContainerState::Exited,
        },
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
        networks: networks.into_keys().map(|name| (name, None)).collect(),
        started_at: String::new(),
    }
}

fn inspected_container(found: api::ContainerInspectResponse) -> Container {
    use api::ContainerStateStatusEnum as S;
    let state = found.state.unwrap_or_default();
    let networks = found.network_settings.and_then(|s| s.networks).unwrap_or_default();
    let labels = found.config.and_then(|c| c.labels).unwrap_or_default();
    Container {
        id: found.id.unwrap_or_default(),
        image: found.image.unwrap_or_default(),
        state: match state.status {
            Some(S::CREATED) => ContainerState::Created,
            Some(S::RUNNING | S::RESTARTING | S::STOPPING) => ContainerState::Running,
            Some(S::PAUSED) => ContainerState::Paused,
            _ => ContainerState::Exited,
        },
        labels: labels.into_iter().collect(),
        networks: networks.into_iter().map(|(name, e)| (name, configured_address(&e))).collect(),
        started_at: state.started_at.filter(|at| at != NEVER).unwrap_or_default(),
    }
}

/// The address asked for, which a stopped container keeps; else the one it was given.
fn configured_address(endpoint: &api::EndpointSettings) -> Option<Ipv4Addr> {
    let configured = endpoint.ipam_config.as_ref().and_then(|c| c.ipv4_address.as_deref());
    [configured, endpoint.ip_address.as_deref()].into_iter().flatten().find_map(|a| a.parse().ok())
}

fn network_fact(
    id: Option<String>,
    ipam: Option<api::Ipam>,
    labels: Option<HashMap<String, String>>,
) -> Network {
    let pools = ipam.and_then(|i| i.config).unwrap_or_default();
    Network {
        id: id.unwrap_or_default(),
        // IPv6 pools do not parse, and are no concern of an IPv4 plan.
        subnets: pools.iter().filter_map(|p| parse_subnet(p.subnet.as_deref()?)).collect(),
        labels: labels.unwrap_or_default().into_iter().collect(),
    }
}

/// A pool as the engine has it: host bits may be set (`172.17.0.1/16`).
fn parse_subnet(text: &str) -> Option<Subnet> {
    let (address, prefix) = text.split_once('/')?;
    Subnet::new(address.parse().ok()?, prefix.parse().ok()?).ok()
}

fn image_fact(image: api::ImageInspect) -> Option<ImageFact> {
    let labels = image.config.and_then(|c| c.labels).unwrap_or_default();
    Some(ImageFact {
        id: Digest::new(image.id?).ok()?,
        repo_digests: image.repo_digests.unwrap_or_default().into_iter().collect(),
        labels: labels.into_iter().collect(),
    })
}

/// `1.41` as numbers.
pub(super) fn parse_api(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
