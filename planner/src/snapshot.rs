//! The snapshot: what the probe saw of the host before planning. Names of secrets, never values.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::grants::Grants;
use crate::plan::Session;
use crate::policy::{Approval, BuildHost, HostConfig, PushException};
use crate::spec::Spec;
use crate::words::{AbsPath, Digest, EnvName, Identity, Name, RelPath, Role, SecretName, Subnet};

/// Everything the planner may know of a host. What is not in here does not exist for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Snapshot {
    /// The snapshot's own format, `1.0`.
    pub format_version: String,
    /// The host and its user.
    pub host: Host,
    /// The `bottle` binary that will apply.
    pub tool: Tool,
    /// The engine, if one answered.
    pub engine: Option<Engine>,
    /// Containers by name; only names that could concern this plan.
    pub containers: BTreeMap<String, Container>,
    /// Networks by name; only names that could concern this plan.
    pub networks: BTreeMap<String, Network>,
    /// Volumes by name; only names that could concern this plan.
    pub volumes: BTreeMap<String, Volume>,
    /// Images by each reference the plan may name (tags, digests), present ones only.
    pub images: BTreeMap<String, ImageFact>,
    /// What registries say the references mean that are named by tag and not present.
    #[serde(default)]
    pub resolved: BTreeMap<String, Digest>,
    /// Subnets that are taken: by the host's own routes, and by networks that do not concern this
    /// plan.
    pub host_routes: BTreeSet<Subnet>,
    /// The host config, as loaded.
    pub config: HostConfig,
    /// The extra certificate authorities that the host config names (`network.ca`), as PEM text of
    /// certificates alone.
    pub upstream_ca: Option<String>,
    /// Names of the host variables that are set and not empty.
    pub env_names: BTreeSet<EnvName>,
    /// Logical secrets whose configured source answered for (file readable, command found).
    pub secrets: BTreeSet<SecretName>,
    /// Skills on the host, by name.
    pub skills: BTreeMap<Name, Tree>,
    /// Files that the manifest names, by path below the manifest's folder, as text.
    pub named_files: BTreeMap<RelPath, String>,
    /// Build contexts that the manifest names.
    pub contexts: BTreeMap<RelPath, Tree>,
    /// Private keys that the manifest names, by the path written there.
    pub identity_files: BTreeMap<String, IdentityFile>,
    /// Host keys of the user's own `known_hosts`, by `host` or `[host]:port`.
    pub known_hosts: BTreeMap<String, BTreeSet<String>>,
    /// The folder a launch asks for.
    pub workspace: Option<Workspace>,
    /// What the state folder holds of the session to be planned.
    pub session: Option<SessionFacts>,
}

/// The host and its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Host {
    /// `linux/amd64` and so on, as image platforms are written.
    pub platform: String,
    /// The user's id.
    pub uid: u32,
    /// The user's group id.
    pub gid: u32,
    /// The user's home folder.
    pub home: AbsPath,
    /// The state root, `~/.bottle` unless `BOTTLE_HOME` says otherwise.
    pub state_root: AbsPath,
}

/// The `bottle` binary that will apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Tool {
    /// Its version.
    pub version: String,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// The engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Engine {
    /// `docker` or `podman`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The newest API it speaks, major and minor.
    pub api: (u32, u32),
    /// Whether it runs without root (user ids are mapped).
    pub rootless: bool,
    /// Names of registered runtimes.
    pub runtimes: BTreeSet<String>,
    /// Those that put nothing into cgroups, as they are registered or as the engine runs: limits do not
    /// hold under them.
    #[serde(default)]
    pub without_limits: BTreeSet<String>,
    /// The cgroup version, 1 or 2.
    pub cgroup_version: u32,
}

impl Engine {
    /// Why no agent may be run on it; `None` where one may.
    ///
    /// Podman takes the bridge option without which the host's services are within reach for
    /// unknown and makes the network all the same, with an address of the host and with a resolver on
    /// it (measured on 4.3.1, as root).
    #[must_use]
    pub fn is_unfit(&self) -> Option<String> {
        (self.name == "podman").then(|| {
            format!(
                "podman {} gives a session's internal network an address of the host and a resolver, \
                 and can be told neither to leave out",
                self.version
            )
        })
    }
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Container {
    /// The engine's id.
    pub id: String,
    /// The id of its image.
    pub image: String,
    /// Whether it runs.
    pub state: ContainerState,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Networks it is connected to, with its address there (as configured, also when stopped).
    #[schemars(with = "BTreeMap<String, Option<String>>")]
    pub networks: BTreeMap<String, Option<Ipv4Addr>>,
    /// When it was last started, as the engine writes it; empty if never.
    pub started_at: String,
}

/// Whether a container runs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Never started.
    Created,
    /// Running (or restarting).
    Running,
    /// Frozen by the engine's pause.
    Paused,
    /// Ended.
    Exited,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Network {
    /// The engine's id.
    pub id: String,
    /// Its IPv4 subnets.
    pub subnets: BTreeSet<Subnet>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Volume {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ImageFact {
    /// The engine's id, `sha256:…`.
    pub id: Digest,
    /// Digests of the registries it was pulled from, `name@sha256:…`.
    pub repo_digests: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A folder's content in three facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Tree {
    /// Merkle digest over names, kinds, modes and contents.
    pub digest: Digest,
    /// Regular files and links.
    pub files: u64,
    /// Bytes of regular files.
    pub bytes: u64,
}

/// A private key on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum IdentityFile {
    /// Not there, or not a regular file.
    Missing,
    /// Readable by others than its owner.
    Exposed {
        /// Its permission bits.
        mode: u32,
    },
    /// Protected by a passphrase.
    Encrypted {
        /// Whether the user's ssh-agent holds this key.
        in_agent: bool,
    },
    /// Usable.
    Ready,
}

/// The folder a launch asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Workspace {
    /// Its absolute path, links resolved.
    pub path: AbsPath,
    /// Its content less what is hidden; `None` where the mode needs none.
    pub tree: Option<Tree>,
    /// The commit `HEAD` names, if it is a git work tree.
    pub commit: Option<String>,
    /// Whether another user owns it.
    pub foreign: bool,
    /// What is in it that a mount must not show or let change; `None` where the mode mounts nothing.
    pub mounted: Option<Mounted>,
    /// Another session of this user that mounts it, or a folder above or below it.
    pub mounted_by: Option<Identity>,
}

/// What matters of a folder that is to be mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Mounted {
    /// What `hide` and `protect` match, and each `.git` below the folder's own.
    pub found: BTreeMap<RelPath, Found>,
    /// Paths that `protect` names literally, and the folders on the way to them; `None` where nothing is.
    pub named: BTreeMap<RelPath, Option<Kind>>,
    /// The folder's own `.git`.
    pub git: GitFolder,
    /// Whether anything is called `.git` there, be it empty.
    pub git_is_there: bool,
}

/// Something in a folder that is to be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Whether it is to be hidden, and not only protected.
    pub hide: bool,
}

/// A kind of directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A folder with something in it.
    Folder,
    /// A folder with nothing in it.
    EmptyFolder,
    /// A regular file.
    File,
    /// A symbolic link, or what is no file and no folder: nothing can be mounted on it safely.
    Other,
}

/// The `.git` of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GitFolder {
    /// There is none, or one with nothing in it.
    #[default]
    None,
    /// A folder.
    Own,
    /// A file that names a linked worktree's.
    Linked {
        /// The common git folder.
        common: AbsPath,
        /// The worktree's name below its `worktrees`.
        name: String,
    },
    /// Something that cannot be mounted over safely: a link, or a file that names no worktree.
    Odd,
}

/// What the state folder holds of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SessionFacts {
    /// Whose it is.
    pub identity: Identity,
    /// The plan last applied or begun.
    pub applied: Option<Applied>,
    /// Files below the state folder, by path (`*/out/` left out).
    pub files: BTreeMap<RelPath, StateFile>,
    /// Folders below the state folder with their modes.
    pub folders: BTreeMap<RelPath, u32>,
    /// Things below the state folder that are neither (links, sockets): never written through.
    pub oddities: BTreeSet<RelPath>,
    /// The Dockerfile of an approved capability change.
    pub dockerfile: Option<String>,
    /// What was approved with it: the hosts its build may reach.
    #[serde(default)]
    pub build_hosts: BTreeSet<BuildHost>,
    /// Findings that a person lets through the git gate, once each, by proposal.
    #[serde(default)]
    pub push_exceptions: BTreeMap<String, PushException>,
    /// Egress changes that a person approved for this session.
    pub approvals: Vec<Approval>,
    /// SHA-256 of the session CA's certificate (DER), if it was minted.
    pub ca_fingerprint: Option<Digest>,
    /// What was uploaded into which container: action id to (container id, digest).
    pub uploaded: BTreeMap<String, (String, Digest)>,
    /// To which running containers secrets were delivered: (container id, started at).
    pub delivered: BTreeMap<Role, (String, String)>,
    /// The digest of the reloadable files in force: (container id, started at, digest).
    pub loaded: BTreeMap<Role, (String, String, Digest)>,
    /// Whether an end that was begun has saved what the agent did.
    #[serde(default)]
    pub saved: bool,
}

/// The plan last applied to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Applied {
    /// Its digest.
    pub plan: Digest,
    /// Whether every action of it was done.
    pub complete: bool,
    /// What it minted and chose.
    pub session: Box<Session>,
    /// What it granted.
    pub grants: Box<Grants>,
    /// What was asked.
    pub spec: Box<Spec>,
}

/// A file in the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StateFile {
    /// Of its content.
    pub digest: Digest,
    /// Permission bits.
    pub mode: u32,
    /// What the executor last wrote there, by its ledger.
    pub written: Option<Digest>,
}
