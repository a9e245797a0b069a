//! The plan file: what will be done, why, and what must hold before.
//!
//! The types are the contract of `docs/plan.md`: there is no field in which privileged mode, a
//! host namespace, the engine's socket, an added capability or a mount outside the known roots
//! could be written down.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::grants::Grants;
use crate::policy::{Approval, PinnedImage, WorkspaceMode};
use crate::spec::Spec;
use crate::words::{
    AbsPath, Digest, EnvName, Identity, Name, RelPath, Role, SecretName, Subnet, Timestamp,
};

/// The format this crate writes, `major.minor`. A reader accepts its own major and any minor up to
/// its own.
pub const FORMAT_VERSION: &str = "1.0";

/// Prefix of every label.
pub const LABEL: &str = "dev.bottle.";
/// Label: the session.
pub const LABEL_IDENTITY: &str = "dev.bottle.identity";
/// Label: the role.
pub const LABEL_ROLE: &str = "dev.bottle.role";
/// Label: the digest of the plan that made the object (added by the executor).
pub const LABEL_PLAN: &str = "dev.bottle.plan";
/// Label: the digest of what was asked, so that a difference is seen without asking the engine.
pub const LABEL_SPEC: &str = "dev.bottle.spec";
/// Label: the folder of the host that a container mounts.
pub const LABEL_WORKSPACE: &str = "dev.bottle.workspace";
/// Label: the session whose agent proposed an image, on each of its layers.
pub const LABEL_BUILD: &str = "dev.bottle.build";
/// Label: user and state root; clean-up touches only its own.
pub const LABEL_OWNER: &str = "dev.bottle.owner";

/// One plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Plan {
    /// Always `bottle/plan`.
    pub kind: String,
    /// `major.minor`.
    pub format_version: String,
    /// The version of `bottle` that wrote it.
    pub written_by: String,
    /// What it is for.
    pub intent: Intent,
    /// The session.
    pub identity: Identity,
    /// The digest of the plan last applied to this session; `None` for the first.
    pub parent: Option<Digest>,
    /// The launch request it answers.
    pub spec: Spec,
    /// What the session may do: what is approved.
    pub grants: Grants,
    /// What this host chose and minted for it.
    pub session: Session,
    /// What must still be true of the host. Checked first, reported all together.
    pub requires: BTreeSet<Requirement>,
    /// What is done, in canonical topological order.
    pub actions: Vec<Action>,
    /// What was *not* done, and why.
    pub notices: Vec<Notice>,
    /// Counts of effects.
    pub summary: Summary,
}

impl Plan {
    /// The agent's system prompt, as the plan writes it.
    #[must_use]
    pub fn prompt(&self) -> Option<&str> {
        self.actions.iter().find_map(|action| match &action.op {
            Operation::File(file) if file.path.path.as_str() == "agent/in/prompt.md" => {
                Some(file.content.as_str())
            }
            _ => None,
        })
    }
}

/// What a plan is for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// To bring a session up, or bring it into line.
    Launch,
    /// To take a session down.
    Destroy,
}

/// What this host chose and minted for a session. Frozen while any of its containers exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Session {
    /// When it was first (or last resumed) asked for.
    pub started_at: Timestamp,
    /// `uid-digest` of the user and state root it belongs to.
    pub owner: String,
    /// Who the agent runs as.
    pub agent_user: User,
    /// Who the sidecars run as.
    pub sidecar_user: User,
    /// The internal network, everyone's.
    pub net: NetworkPlace,
    /// The way out, egress's alone.
    pub out: NetworkPlace,
    /// Container names and addresses of the roles this session has.
    pub places: BTreeMap<Role, Place>,
    /// The OCI runtime of the agent's container; `None` is the engine's default.
    pub runtime: Option<String>,
    /// The binary that is the sidecars and the agent's init.
    pub tool: Digest,
    /// The image that was granted, by this host's name for it.
    pub base_image: String,
    /// The image the agent's container is created from: `base_image`, or that with the workspace.
    pub agent_image: String,
    /// The image of the sidecars.
    pub sidecar_image: String,
    /// The host's folder, and where the agent sees it.
    pub workspace: Option<WorkspacePlace>,
    /// The build context, below the manifest's folder.
    pub context: Option<RelPath>,
    /// `http://host:port` of the corporate proxy, and who is reached without it.
    pub upstream_proxy: Option<(String, Vec<String>)>,
    /// The host config's extra certificate authorities, which egress trusts beside its own: PEM text
    /// of certificates alone.
    pub upstream_ca: Option<String>,
    /// What a person approved beyond the manifest, and the grants hold. Kept on resume.
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// Whether the session was resumed (the provider's resume command runs).
    pub resumed: bool,
}

/// A numeric user and group.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// One network's name and subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NetworkPlace {
    /// The engine's name for it.
    pub name: String,
    /// Its subnet.
    pub subnet: Subnet,
}

/// One container's name and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Place {
    /// The container's name.
    pub container: String,
    /// Its address on the internal network.
    #[schemars(with = "String")]
    pub net: Ipv4Addr,
    /// Its address on the way out; egress has one, and pipelock where it is used.
    #[schemars(with = "Option<String>")]
    pub out: Option<Ipv4Addr>,
}

/// The host's folder, and where the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkspacePlace {
    /// How it is brought in.
    pub mode: WorkspaceMode,
    /// The host folder; must equal the folder confirmed at apply.
    pub host: AbsPath,
    /// The folder inside the container.
    pub inside: AbsPath,
    /// The content that was seen, where the mode copies it.
    pub digest: Option<Digest>,
    /// The commit that is cloned, in `clone` mode, or that the private repository begins at.
    pub commit: Option<String>,
    /// What is mounted over parts of the folder, by path below it; in `mount` mode alone.
    pub guards: BTreeMap<RelPath, Guard>,
    /// Where git's own data is kept apart from the host's; in `mount` mode alone.
    pub git: Option<GitPlace>,
}

/// Something mounted over a part of a mounted folder, so that the agent cannot change or see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Guard {
    /// What it does.
    pub kind: GuardKind,
    /// Whether it is on a folder.
    pub folder: bool,
    /// Whether nothing was there: an empty file or folder stands there while the session lasts.
    pub made: bool,
}

/// What a guard does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GuardKind {
    /// Nothing but keep its place: a folder that is mounted over cannot be renamed, and with it what
    /// it holds.
    Hold,
    /// It is read-only.
    Protect,
    /// Something empty is seen in its place.
    Hide,
}

/// Where git's own data of a mounted folder is seen: a repository of the session's own, on a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct GitPlace {
    /// The folder it stands for: `.git`, or the common git folder of a linked worktree.
    pub folder: AbsPath,
    /// The name of the linked worktree, if the folder is one.
    pub worktree: Option<String>,
}

/// What must still be true of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Requirement {
    /// The engine speaks at least this API.
    EngineApi {
        /// Major.
        major: u32,
        /// Minor.
        minor: u32,
    },
    /// The engine has this runtime registered.
    Runtime {
        /// Its name.
        name: String,
    },
    /// A secret is available from its source.
    Secret {
        /// Its logical name.
        secret: SecretName,
    },
    /// An image is present, with this id if one is given.
    Image {
        /// The reference.
        reference: String,
        /// The engine's id.
        id: Option<Digest>,
    },
    /// A private key is there and readable by its owner alone.
    IdentityFile {
        /// As the manifest has it.
        path: String,
    },
    /// A skill's folder has this content.
    Skill {
        /// Its name.
        name: Name,
        /// Merkle digest.
        digest: Digest,
    },
    /// A build context has this content.
    Context {
        /// Below the manifest's folder.
        path: RelPath,
        /// Merkle digest.
        digest: Digest,
    },
    /// The workspace is this folder, with this content where the mode copies it.
    Workspace {
        /// The host folder.
        path: AbsPath,
        /// Merkle digest.
        digest: Option<Digest>,
    },
    /// Sidecars and executor speak this protocol.
    SidecarProtocol {
        /// Its number.
        version: u32,
    },
    /// The applying binary is this one, or its sidecar image is present.
    Tool {
        /// Digest of the binary.
        digest: Digest,
    },
    /// The host config names this corporate proxy: a plan from elsewhere cannot bring its own.
    UpstreamProxy {
        /// `http://host:port`; `None` is no proxy at all.
        proxy: Option<String>,
        /// Who is reached without it.
        no_proxy: Vec<String>,
    },
    /// The host config names extra certificate authorities of this content: a plan from elsewhere
    /// cannot bring its own.
    UpstreamCa {
        /// Of the certificates as PEM text, remarks left out.
        digest: Digest,
    },
    /// The applying user and state root.
    Owner {
        /// `uid-digest`.
        owner: String,
    },
}

/// A stable, role-based action name: `file:agent/agent.env`, `container:egress`.
///
/// Never holds the identity, so that two plans of one agent diff cleanly.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct ActionId(pub String);

/// So that maps by id are asked with text: its order and equality are the text's.
impl Borrow<str> for ActionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for ActionId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One engine call or one atomic file operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Action {
    /// Its name, unique in the plan.
    pub id: ActionId,
    /// What it does to the world.
    pub effect: Effect,
    /// Whether it may lose work. Required: its absence must never look safe.
    pub destructive: bool,
    /// Why.
    pub reason: Reason,
    /// What must be done before it.
    pub depends_on: BTreeSet<ActionId>,
    /// What must hold just before it.
    pub expect: Expect,
    /// What it is.
    pub op: Operation,
}

/// What an action does to the world.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Something comes to be.
    Create,
    /// Something is changed in place.
    Update,
    /// Something is made anew in the place of what was there.
    Replace,
    /// Something goes.
    Delete,
    /// It already is as it should be; checked, not touched.
    None,
}

/// Why an action is in the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Reason {
    /// From a closed list.
    pub code: ReasonCode,
    /// For people; may be empty.
    pub detail: String,
}

/// The closed list of reasons.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// It is not there.
    NotFound,
    /// It is as asked.
    Unchanged,
    /// What is asked has changed.
    Changed,
    /// It is not as the ledger says it was left: somebody else changed it.
    Drifted,
    /// Its container is not running.
    NotRunning,
    /// Its container has not had it since it started.
    NotDelivered,
    /// What it belongs to is made anew.
    OwnerReplaced,
    /// A marker of the last run is cleared.
    LeftOver,
    /// The person asked for it (`destroy`, `--refresh`, `--redeliver`).
    Requested,
    /// Nothing asks for it any more.
    NotWanted,
}

/// What must hold just before an action, beside its dependencies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Expect {
    /// The action's object does not exist.
    Absent,
    /// The file has this content.
    File {
        /// Of its bytes.
        digest: Digest,
    },
    /// The object exists under its name with this engine id.
    Object {
        /// The engine's id.
        id: String,
    },
    /// The container, network or volume exists and is this session's (by its labels).
    Ours,
    /// It is already as the action would leave it (every `none` action).
    Satisfied,
}

/// What an action is. File operations name paths below the session's state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Operation {
    /// Makes a folder.
    Folder(Folder),
    /// Writes a file, atomically.
    File(File),
    /// Deletes a file.
    RemoveFile(RemoveFile),
    /// Generates the session's certificate authority.
    MintCa(MintCa),
    /// Imports the running binary as a `FROM scratch` image.
    ImportImage(ImportImage),
    /// Builds an image.
    BuildImage(BuildImage),
    /// Layers the workspace onto an image by upload and commit; nothing of the base runs.
    AssembleImage(AssembleImage),
    /// Pulls an image by digest.
    PullImage(PullImage),
    /// Creates a network.
    Network(NetworkSpec),
    /// Creates a volume.
    Volume(VolumeSpec),
    /// Creates a container (does not start it).
    Container(ContainerSpec),
    /// Puts files into a created container.
    Upload(Upload),
    /// Connects a container to a second network.
    Connect(Connect),
    /// Starts a container.
    Start(ContainerRef),
    /// Hands secrets to a running container through its init.
    Deliver(Deliver),
    /// Makes a running sidecar read its files again.
    Reload(Reload),
    /// Stops a container.
    Stop(ContainerRef),
    /// Removes a stopped container.
    RemoveContainer(ContainerRef),
    /// Removes a network.
    RemoveNetwork(ObjectRef),
    /// Removes a volume and what is on it.
    RemoveVolume(ObjectRef),
    /// Puts something empty into a mounted folder, for a guard to be mounted on.
    Placeholder(Placeholder),
    /// Takes it away again if it still is empty.
    RemovePlaceholder(Placeholder),
    /// Saves what an agent did to the state folder, before anything of its session goes.
    Save(Save),
    /// Moves the state folder to history.
    Archive(Archive),
}

/// A folder below the state folder (`path` empty for the state folder itself is not possible:
/// the executor makes that one under its lock).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Folder {
    /// Where.
    pub path: StatePath,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it; `None` is whoever applies.
    pub owner: Option<User>,
}

/// A file below the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct File {
    /// Where.
    pub path: StatePath,
    /// Permission bits, set at creation.
    pub mode: u32,
    /// Who owns it; `None` is whoever applies.
    pub owner: Option<User>,
    /// The whole content.
    pub content: String,
}

/// An empty file or folder of a mounted folder. Nothing that is there is ever written over, and
/// nothing that is not empty is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Placeholder {
    /// The mounted folder; must equal the session's.
    pub workspace: AbsPath,
    /// Below it.
    pub path: RelPath,
    /// Whether it is a folder.
    pub folder: bool,
}

/// A file to delete below the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RemoveFile {
    /// Where.
    pub path: StatePath,
}

/// A path below a root that the executor binds from its own configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StatePath {
    /// The only root that may be written.
    pub root: StateRoot,
    /// Below it.
    pub path: RelPath,
}

/// The only root that may be written.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StateRoot {
    /// The session's state folder.
    State,
}

/// The session's certificate authority. The key is in no plan, ledger or digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct MintCa {
    /// Where the private key goes (PEM, PKCS#8, 0600).
    pub key: StatePath,
    /// Where the certificate goes (PEM, 0644).
    pub certificate: StatePath,
    /// The subject's common name.
    pub common_name: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// Days of validity.
    pub days: u32,
    /// The certificate that must be there already: SHA-256 of its DER.
    pub fingerprint: Option<Digest>,
}

/// The running binary as a `FROM scratch` image with it at `/bottle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ImportImage {
    /// The tag, of the binary's own digest.
    pub tag: String,
    /// The binary's digest.
    pub tool: Digest,
}

/// An image build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BuildImage {
    /// The content-addressed tag.
    pub tag: String,
    /// The whole Dockerfile.
    pub dockerfile: String,
    /// The context, copy-read below the manifest's folder; `None` is an empty one.
    pub context: Option<ContextRef>,
    /// What the build may reach.
    pub network: BuildReach,
    /// The proxy it reaches that by (egress, or the corporate one), and who is reached without it:
    /// variables of the build alone.
    #[serde(default)]
    pub proxy: Option<(String, Vec<String>)>,
    /// The host config's extra certificate authorities, as PEM text of certificates alone: the file
    /// `.bottle-upstream-ca.crt` of the context.
    #[serde(default)]
    pub ca: Option<String>,
    /// Image labels.
    pub labels: BTreeMap<String, String>,
}

/// Where a build stands, and what it may reach from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildReach {
    /// Whatever the engine's default network reaches.
    Open,
    /// Nothing.
    None,
    /// What egress lets it, at an address of its own. Nothing that other builds left is used.
    Session(BuildPlace),
}

/// The place of a build on a session's internal network. Its steps share the network of a container
/// that is there for as long as the build and no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BuildPlace {
    /// The name of the container that holds the place.
    pub container: String,
    /// What that container runs: a tag.
    pub image: String,
    /// Its user.
    pub user: User,
    /// The session's internal network.
    pub network: String,
    /// Its address there; egress knows the build by it.
    #[schemars(with = "String")]
    pub address: Ipv4Addr,
    /// The only resolver: egress.
    #[schemars(with = "String")]
    pub dns: Ipv4Addr,
    /// What each of its steps may use. Processes are not counted, since no builder lets anybody say how
    /// many; what the kernel keeps of them counts as memory.
    pub limits: BuildLimits,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
}

/// What the steps of a build may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BuildLimits {
    /// Thousandths of a core.
    pub cpus_milli: u32,
    /// Bytes, swap included.
    pub memory_bytes: u64,
    /// All steps together, in seconds.
    pub seconds: u64,
}

/// A build context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ContextRef {
    /// Below the manifest's folder.
    pub path: RelPath,
    /// Merkle digest.
    pub digest: Digest,
}

/// The workspace layered onto an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AssembleImage {
    /// The content-addressed tag.
    pub tag: String,
    /// The image below: a tag or an id.
    pub base: String,
    /// `copy` or `clone`.
    pub mode: WorkspaceMode,
    /// The content, in `copy` mode.
    pub digest: Option<Digest>,
    /// The commit, in `clone` mode.
    pub commit: Option<String>,
    /// The branch made at that commit, in `clone` mode.
    pub branch: Option<String>,
    /// Globs of files left out.
    pub hide: BTreeSet<String>,
    /// Where it goes.
    pub inside: AbsPath,
    /// Who owns the files.
    pub owner: User,
    /// Image labels.
    pub labels: BTreeMap<String, String>,
}

/// An image pull by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PullImage {
    /// Name and manifest digest.
    pub image: PinnedImage,
}

/// A bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Its only subnet.
    pub subnet: Subnet,
    /// Whether it is cut off: no route out, and no address of the host on its bridge.
    pub internal: bool,
    /// Labels, less the plan's digest.
    pub labels: BTreeMap<String, String>,
}

/// A named volume of the engine's local driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// Labels, less the plan's digest.
    pub labels: BTreeMap<String, String>,
}

/// A container. Every container has all capabilities dropped, no new privileges, a private IPC
/// namespace and the default seccomp profile; there is no field to say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Whose it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its image: a tag or an id.
    pub image: String,
    /// Who it runs as.
    pub user: User,
    /// The whole argv; replaces the image's entrypoint and command.
    pub argv: Vec<String>,
    /// Variables that are no secret.
    pub env: BTreeMap<String, String>,
    /// The working folder.
    pub workdir: AbsPath,
    /// The one network it is created on.
    pub network: String,
    /// Its address there.
    #[schemars(with = "String")]
    pub address: Ipv4Addr,
    /// Names it knows without a resolver.
    #[schemars(with = "BTreeMap<String, String>")]
    pub extra_hosts: BTreeMap<String, Ipv4Addr>,
    /// Its resolver; `None` is the engine's own (egress and pipelock alone).
    #[schemars(with = "Option<String>")]
    pub dns: Option<Ipv4Addr>,
    /// What it sees of the host and of volumes.
    pub mounts: Vec<Mount>,
    /// Scratch in memory: path to size in bytes.
    pub tmpfs: BTreeMap<AbsPath, u64>,
    /// Processor, memory and process limits.
    pub limits: ContainerLimits,
    /// The OCI runtime; `None` is the engine's default.
    pub runtime: Option<String>,
    /// Whether its root file system is read-only.
    pub read_only: bool,
    /// Whether it has a terminal and an open standard input.
    pub terminal: bool,
    /// Digests of files it reads once, at its start: a change replaces the container.
    pub inputs: BTreeMap<RelPath, Digest>,
    /// Labels, less the plan's digest.
    pub labels: BTreeMap<String, String>,
}

/// A container's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ContainerLimits {
    /// Thousandths of a core.
    pub cpus_milli: u32,
    /// Bytes, swap included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// `/dev/shm` in bytes.
    pub shm_bytes: u64,
}

/// The volume of a session that its work lies on, in `copy` and `clone` mode. It begins as its image has the
/// folder.
#[must_use]
pub fn work_volume(identity: &Identity) -> String {
    format!("bottle-work-{identity}")
}

/// A mount. Its host side is bound by the executor; no plan can name one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mount {
    /// `state/<role>/in`, read-only, at `/.bottle/in`.
    In,
    /// `state/<role>/out`, read-write, at `/.bottle/out`.
    Out,
    /// `bin/<digest>`, read-only, at `/.bottle/bin`.
    Bin {
        /// The binary's digest.
        tool: Digest,
    },
    /// `state/agent/in/resolv.conf`, read-only, at `/etc/resolv.conf`.
    ResolvConf,
    /// The workspace, read-write, at its own path.
    Workspace {
        /// Must equal the folder confirmed at apply.
        path: AbsPath,
    },
    /// A part of the workspace: itself, read-only or not, or something empty in its place.
    Guard {
        /// Where it is, on the host and in the container.
        path: AbsPath,
        /// What it does.
        guard: GuardKind,
        /// Whether it is on a folder.
        folder: bool,
    },
    /// A volume of the session.
    Volume {
        /// Its name.
        name: String,
        /// Where.
        at: AbsPath,
    },
}

/// Files put into a created container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Upload {
    /// The container.
    pub container: String,
    /// The volume the items end up on: they outlive the container then. `None` is the container.
    pub volume: Option<String>,
    /// What, in order.
    pub items: Vec<UploadItem>,
}

/// One thing put into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct UploadItem {
    /// Where it goes.
    pub at: AbsPath,
    /// Permission bits (of the folder itself, for a skill).
    pub mode: u32,
    /// Who owns it.
    pub owner: User,
    /// What it is.
    pub source: UploadSource,
}

/// What is put into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum UploadSource {
    /// An empty folder.
    Folder,
    /// This text.
    Text {
        /// The whole content.
        content: String,
    },
    /// The image's own trust roots, then the host config's, then the session's CA, as one PEM file.
    CaBundle,
    /// A skill's folder.
    Skill {
        /// Its name.
        name: Name,
        /// Merkle digest.
        digest: Digest,
    },
    /// What is in a `.git` of its own: the branches, remote branches and tags of the workspace's
    /// repository, less its configuration, hooks and stashes; remotes without credentials.
    Repository {
        /// Where `branch` begins; `None` in a repository without commits.
        commit: Option<String>,
        /// The branch that is checked out.
        branch: String,
        /// The linked worktree it is checked out in.
        worktree: Option<String>,
    },
}

/// A second network for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Connect {
    /// The container.
    pub container: String,
    /// The network.
    pub network: String,
    /// Its address there.
    #[schemars(with = "String")]
    pub address: Ipv4Addr,
}

/// A container by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ContainerRef {
    /// Its role.
    pub role: Role,
    /// Its name.
    pub container: String,
}

/// An engine object by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ObjectRef {
    /// Its name.
    pub name: String,
}

/// Secrets handed to one role. Values are resolved at apply and are never written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Deliver {
    /// The role.
    pub role: Role,
    /// Its container.
    pub container: String,
    /// What, by the key the role knows it by.
    pub items: BTreeMap<String, SecretRef>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SecretRef {
    /// From the source the host config names for this secret.
    Secret {
        /// Its logical name.
        secret: SecretName,
    },
    /// From a person, without echo, or `--secret NAME=fd:N`.
    Prompt {
        /// The variable it is for.
        name: EnvName,
        /// What the person is shown.
        message: String,
    },
    /// From a private key file.
    IdentityFile {
        /// As the manifest has it.
        path: String,
    },
}

/// A sidecar's reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Reload {
    /// The role.
    pub role: Role,
    /// Its container.
    pub container: String,
    /// The digest of the file that must be in force afterwards.
    pub digest: Digest,
}

/// What is saved of a session at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Save {
    /// The agent's container, which holds it.
    pub container: String,
    /// The folder it worked on, or the git folder of one that was mounted.
    pub workspace: Option<AbsPath>,
    /// Where its transcripts are: files, or folders of them.
    pub transcripts: BTreeSet<AbsPath>,
}

/// The end of a session's state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Archive {
    /// Whose.
    pub identity: Identity,
}

/// Something the planner did not do, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Notice {
    /// A stable code.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Counts of effects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Summary {
    /// Actions that create.
    pub create: u32,
    /// Actions that update.
    pub update: u32,
    /// Actions that replace.
    pub replace: u32,
    /// Actions that delete.
    pub delete: u32,
    /// Actions that find all well.
    pub none: u32,
    /// Actions that may lose work.
    pub destructive: u32,
}
