//! What a bottle grants, as typed policy: the vocabulary shared by the manifest (which says it),
//! the grants (which are approved) and the sidecar files (which are rendered from it).
//!
//! Nothing here names a host, a time or a user. Maps and sets are ordered; lists keep the order
//! in which they were written.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::words::{AbsPath, Digest, EnvName, Name, RelPath, SecretName, Timestamp};

/// One bottle after `extends` and presets were merged and every default was filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Bottle {
    /// The bottle's name (presets keep their `@`).
    pub name: Name,
    /// Where each part came from, nearest last: `["@claude", "bottles/dev.md"]`.
    pub lineage: Vec<String>,
    /// The overlay that widens it, if one does: `overlays/dev.yaml`.
    pub overlay: Option<String>,
    /// The agent's environment.
    pub env: BTreeMap<EnvName, EnvValue>,
    /// Git remotes the agent may reach through the gate, by name.
    pub git: BTreeMap<Name, GitRemote>,
    /// Who the agent's commits are by.
    pub git_user: Option<GitUser>,
    /// What the agent may reach over the network.
    pub egress: Egress,
    /// How a host folder may be brought in.
    pub workspace: WorkspacePolicy,
    /// Whether the agent may ask a person for more.
    pub supervise: bool,
    /// The image the agent runs in.
    pub image: Image,
    /// What runs as the agent.
    pub provider: Provider,
    /// How strongly the agent's container is walled off.
    pub isolation: Isolation,
    /// What the agent's container may use up.
    pub limits: Limits,
    /// Whether agents from a repository may use this bottle.
    pub repo_agents: bool,
    /// The skills that agents from a repository may name.
    pub skills: BTreeSet<Name>,
    /// An optional proxy image behind egress, pinned by digest.
    pub pipelock: Option<PinnedImage>,
}

/// The value of one environment variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EnvValue {
    /// In the manifest as it stands; no secret.
    Literal {
        /// The value itself. One line.
        value: String,
    },
    /// Asked for at apply without echo (`?` or `?message`).
    Prompt {
        /// What the person is shown; empty means the variable's name.
        message: String,
    },
    /// Taken from the secret source of this name at apply (`${NAME}` or `{secret: NAME}`).
    Secret {
        /// The logical secret.
        secret: SecretName,
        /// Hosts the leak scan lets the value pass to; empty means none.
        use_at: BTreeSet<HostPattern>,
    },
}

/// A host as a route names it: `example.com`, or `*.example.com` for one or more labels before it.
///
/// Always lower case without a trailing dot.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct HostPattern(String);

impl HostPattern {
    /// Parses a host name or a `*.` pattern; IP literals are refused.
    pub fn new(text: &str) -> Result<Self, crate::words::WordError> {
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix('.').unwrap_or(&lower);
        let name = lower.strip_prefix("*.").unwrap_or(lower);
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let numeric = name.rsplit('.').next().is_some_and(|l| {
            l.bytes().all(|b| b.is_ascii_digit())
                || l.strip_prefix("0x").is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        if name.len() <= 253 && name.split('.').all(label) && !numeric {
            Ok(Self(lower.into()))
        } else {
            Err(crate::words::WordError {
                expected: "a host name, or `*.` and a host name (no IP address, port or path)",
                found: text.chars().take(80).collect(),
            })
        }
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a host name (any case, an optional trailing dot) is one this pattern means.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.0,
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = crate::words::WordError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<HostPattern> for String {
    fn from(host: HostPattern) -> String {
        host.0
    }
}

impl core::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the agent may reach. Nothing that is not listed is reachable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Egress {
    /// One route a host pattern.
    pub routes: BTreeMap<HostPattern, Route>,
    /// A file of extra leak rules in gitleaks' TOML format.
    pub rules: Option<NamedFile>,
}

/// A file that a manifest names, read by the probe: its digest binds what was reviewed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NamedFile {
    /// Where it lies, below the manifest's own folder.
    pub path: RelPath,
}

/// How one host may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Route {
    /// The TCP port, 443 unless the manifest says otherwise.
    pub port: u16,
    /// What is allowed; never empty. A route without rules in the manifest has one that allows all.
    pub allow: Vec<Rule>,
    /// What is refused although a rule above allows it.
    pub deny: Vec<Rule>,
    /// The credential egress puts into each request.
    pub auth: Option<Auth>,
    /// What the host is to the agent.
    pub role: Option<RouteRole>,
    /// Whether egress looks inside TLS.
    pub tls: Tls,
    /// What the leak scan does on this route.
    pub dlp: Dlp,
    /// Pins the host to an address and exempts it from the private-address guard.
    #[schemars(with = "Option<String>")]
    pub address: Option<IpAddr>,
    /// Whether the host may resolve to a private address.
    pub allow_private: bool,
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Rule {
    /// Upper-case methods; empty means whatever `access` says.
    pub methods: BTreeSet<String>,
    /// Globs over whole path segments, each beginning with `/`; empty means every path.
    pub paths: Vec<String>,
    /// The class of requests meant when `methods` is empty.
    pub access: Access,
    /// A credential for requests this rule allows, in place of the route's.
    pub auth: Option<Auth>,
}

/// A class of requests.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// GET, HEAD, OPTIONS, and git's upload-pack.
    Read,
    /// Every method.
    All,
}

/// A credential that egress injects and the agent never sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Auth {
    /// How the credential is written into the request.
    pub scheme: AuthScheme,
    /// The header it goes into (lower case).
    pub header: String,
    /// The logical secret.
    pub secret: SecretName,
    /// A variable that holds a placeholder in the agent's environment, so that clients start.
    pub placeholder: Option<EnvName>,
}

/// How a credential is written.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum AuthScheme {
    /// `Authorization: Bearer VALUE` (RFC 6750).
    #[serde(rename = "Bearer")]
    Bearer,
    /// `Authorization: token VALUE`, as GitHub spells it.
    Token,
    /// `Authorization: Basic BASE64(VALUE)` (RFC 7617); the value is `user:password`.
    Basic,
    /// The bare value in the named header.
    Header,
}

impl AuthScheme {
    /// As a manifest spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Token => "token",
            Self::Basic => "basic",
            Self::Header => "header",
        }
    }
}

/// What a route's host is to the agent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RouteRole {
    /// Claude's API with an OAuth token; at most one a bottle.
    ClaudeCodeOauth,
    /// A model provider's API.
    ModelProvider,
}

/// Whether egress looks inside TLS.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// Terminated with the session's CA, so that every rule applies.
    Intercept,
    /// Tunnelled; only host and port are checked.
    Passthrough,
}

/// What the leak scan does with a finding on one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Dlp {
    /// Exact values of this session's secrets.
    pub own_secrets: DlpAction,
    /// Token patterns.
    pub patterns: DlpAction,
}

/// One answer of the leak scan, from the strictest to the laxest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DlpAction {
    /// The request is refused before its last byte leaves.
    Block,
    /// The finding is replaced and the request forwarded.
    Redact,
    /// The request is forwarded and logged.
    Warn,
    /// Not scanned.
    Off,
}

/// One git remote behind the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct GitRemote {
    /// Where the gate fetches from and pushes to.
    pub upstream: Upstream,
    /// How the gate proves who it is.
    pub credential: GitCredential,
    /// The upstream's public host keys as `known_hosts` has them after the host: `ssh-ed25519 AAAA…`.
    /// Empty in a manifest that leaves them to the user's own `known_hosts`.
    pub known_host_keys: BTreeSet<String>,
    /// Fixed addresses for host names.
    #[schemars(with = "BTreeMap<String, String>")]
    pub extra_hosts: BTreeMap<String, IpAddr>,
    /// What may be pushed.
    pub push: Push,
}

/// The address of a git repository, parsed from any of its spellings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Upstream {
    /// How it is reached.
    pub transport: GitTransport,
    /// The login name for ssh; empty for https.
    pub user: String,
    /// The host, lower case.
    pub host: HostPattern,
    /// The TCP port, 22 or 443 unless the manifest says otherwise.
    pub port: u16,
    /// The path without a leading slash, as written: `acme/web.git`.
    pub path: String,
    /// Whether the path begins at the login's home and not at `/`, as that of `user@host:path` and
    /// of `ssh://user@host/~/path` does. Forges take both for the same; plain OpenSSH does not.
    #[serde(default)]
    pub from_home: bool,
}

impl Upstream {
    /// The address, its port always said.
    #[must_use]
    pub fn url(&self) -> String {
        let Self { user, host, port, path, .. } = self;
        match self.transport {
            GitTransport::Https => format!("https://{host}:{port}/{path}"),
            GitTransport::Ssh if self.from_home => format!("ssh://{user}@{host}:{port}/~/{path}"),
            GitTransport::Ssh => format!("ssh://{user}@{host}:{port}/{path}"),
        }
    }
}

/// How a git upstream is reached.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GitTransport {
    /// `ssh://user@host:port/path` or `user@host:path`.
    Ssh,
    /// `https://host/path`.
    Https,
}

/// How the gate proves who it is to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GitCredential {
    /// Not at all: a public repository over https.
    None,
    /// With a private key from this file of the host (`~` is the user's home).
    IdentityFile {
        /// The path as the manifest has it.
        path: String,
    },
    /// With a logical secret (a token for https, a private key for ssh).
    Secret {
        /// The logical secret.
        secret: SecretName,
    },
}

/// Which refs may be written through the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Push {
    /// Globs over branch names; `agent/*` unless the manifest says otherwise.
    pub branches: BTreeSet<String>,
    /// Whether tags may be pushed.
    pub tags: bool,
    /// Whether a branch may be moved to a commit that does not descend from its old one.
    pub force: bool,
    /// Whether refs may be deleted.
    pub delete: bool,
}

/// Who commits are by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct GitUser {
    /// `user.name`; one line.
    pub name: String,
    /// `user.email`; one line.
    pub email: String,
}

/// How a host folder may be brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkspacePolicy {
    /// The modes a launch may ask for; never empty.
    pub modes: BTreeSet<WorkspaceMode>,
    /// The mode when the launch names none; `None` means `clone` for a git folder, else `copy`.
    pub default: Option<WorkspaceMode>,
    /// Globs of files that never enter.
    pub hide: BTreeSet<String>,
    /// Globs of files that are read-only in `mount` mode.
    pub protect: BTreeSet<String>,
}

/// How the workspace reaches the agent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceMode {
    /// The folder's files as they are, in a derived image.
    Copy,
    /// A fresh clone of the folder's commit.
    Clone,
    /// A bind mount at the same path.
    Mount,
    /// No workspace.
    None,
}

impl WorkspaceMode {
    /// The mode as the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Clone => "clone",
            Self::Mount => "mount",
            Self::None => "none",
        }
    }
}

/// The image the agent runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Image {
    /// The provider's own, with packages and a setup script on top.
    Provider {
        /// The version of the provider's program; `None` is the one this version of `bottle` takes.
        #[serde(default)]
        version: Option<String>,
        /// Debian packages to add.
        packages: BTreeSet<String>,
        /// Shell lines run at build time.
        setup: String,
        /// What the build may reach, and what a proposed image may be built on.
        build: Build,
    },
    /// Built from a Dockerfile.
    Dockerfile {
        /// The Dockerfile, below the manifest's folder.
        dockerfile: RelPath,
        /// The build context, below the manifest's folder; `None` is an empty one.
        context: Option<RelPath>,
        /// What the build may reach, and what a proposed image may be built on.
        build: Build,
    },
    /// Taken as it is: a tag, or a name with a digest.
    Reference {
        /// As the manifest has it.
        reference: String,
        /// What a proposed image may be built on.
        build: Build,
    },
}

/// How images are built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Build {
    /// What the build may reach.
    pub network: BuildNetwork,
    /// Bases that an image proposed by the agent may name in `FROM`.
    pub allow_from: BTreeSet<String>,
}

/// What an image build may reach.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BuildNetwork {
    /// The engine's default network.
    Open,
    /// Nothing.
    None,
    /// The session's own, where egress lets it through to the hosts that were approved with it. A
    /// manifest cannot say so: it is how images that an agent proposed are built.
    Session,
}

/// A host and port that the build of a proposed image may reach: `deb.debian.org:80`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct BuildHost {
    /// One name.
    pub host: HostPattern,
    /// Its port.
    pub port: u16,
}

impl BuildHost {
    /// Parses `host` or `host:port`; the port is 443 unless it is there.
    pub fn new(text: &str) -> Result<Self, crate::words::WordError> {
        let (host, port) = match text.split_once(':') {
            None => (text, Some(crate::approvals::DEFAULT_PORT)),
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)),
        };
        let host = HostPattern::new(host).ok().filter(|host| !host.as_str().starts_with('*'));
        host.zip(port).map(|(host, port)| Self { host, port }).ok_or_else(|| {
            crate::words::WordError {
                expected: "a host name, or `host:port`",
                found: text.chars().take(80).collect(),
            }
        })
    }
}

impl TryFrom<String> for BuildHost {
    type Error = crate::words::WordError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<BuildHost> for String {
    fn from(at: BuildHost) -> String {
        alloc::format!("{at}")
    }
}

impl core::fmt::Display for BuildHost {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One finding of the git gate's leak scan that a person lets through, once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PushException {
    /// The remote it may go to.
    pub remote: Name,
    /// Names the finding: of rule, object and place within it.
    pub fingerprint: String,
    /// The rule that found it, as the gate logged it.
    pub rule: String,
    /// Where it is, as the gate logged it: holds what the agent chose.
    pub place: String,
}

/// What runs as the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Provider {
    /// Claude Code.
    Claude,
    /// OpenAI Codex.
    Codex,
    /// Any command.
    Command {
        /// The argv of a first start; never empty.
        command: Vec<String>,
        /// The argv of a resumed session; empty means `command`.
        resume_command: Vec<String>,
        /// Where the transcript is written, inside the container.
        transcript: Option<AbsPath>,
    },
}

/// How strongly the agent's container is walled off.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// gVisor where the engine has it, else a plain container.
    Auto,
    /// gVisor, or not at all.
    Gvisor,
    /// A plain container.
    Container,
}

/// What the agent's container may use up. Always all set: absence never means "unlimited".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Limits {
    /// Processor time in thousandths of a core. Default 2000.
    pub cpus_milli: u32,
    /// Memory in bytes, swap included. Default 4 GiB.
    pub memory_bytes: u64,
    /// Processes and threads. Default 1024.
    pub pids: u32,
    /// `/dev/shm` in bytes. Default 256 MiB.
    pub shm_bytes: u64,
    /// Seconds from start to a forced stop. Default 12 hours.
    pub time_seconds: u64,
    /// Seconds without output to a forced stop. Default 1 hour.
    pub idle_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpus_milli: 2000,
            memory_bytes: 4 << 30,
            pids: 1024,
            shm_bytes: 256 << 20,
            time_seconds: 12 * 3600,
            idle_seconds: 3600,
        }
    }
}

/// An image reference with its digest: `name@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PinnedImage {
    /// Registry, repository and optional tag, without the digest.
    pub name: String,
    /// The manifest digest.
    pub digest: Digest,
}

/// One agent: who runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Agent {
    /// The agent's name.
    pub name: Name,
    /// Where it was defined.
    pub origin: Origin,
    /// The bottle it runs in.
    pub bottle: Name,
    /// Skills to bring, by folder name.
    pub skills: BTreeSet<Name>,
    /// Overrides the bottle's.
    pub git_user: Option<GitUser>,
    /// The system prompt; may be empty.
    pub prompt: String,
}

/// Where an agent was defined: the trust it has.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The user's own manifest folder.
    Home,
    /// `.bottle/agents` of the current folder: untrusted.
    Repository,
    /// A single file named with `--manifest`.
    File,
    /// Built in.
    Preset,
}

/// The set of bottles and agents a host knows, merged and complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Manifest {
    /// Bottles by name, presets included where something extends or names them.
    pub bottles: BTreeMap<Name, Bottle>,
    /// Agents by name.
    pub agents: BTreeMap<Name, Agent>,
}

/// What belongs to this machine and not to a policy (`~/.bottle/config.yaml`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct HostConfig {
    /// Where secrets come from; a name without an entry is the host variable of that name.
    pub secrets: BTreeMap<SecretName, SecretSource>,
    /// The address pool for session networks; `None` is `10.201.0.0/16`.
    pub pool: Option<crate::words::Subnet>,
    /// The corporate proxy and extra trust.
    pub network: NetworkConfig,
    /// The base image of built-in Dockerfiles; `None` is `debian:bookworm-slim`.
    pub base_image: Option<String>,
    /// Days an ended session's record is kept; `None` is 30.
    pub history_days: Option<u32>,
}

/// Where one secret's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SecretSource {
    /// A host variable.
    Env {
        /// Its name.
        name: EnvName,
    },
    /// The contents of a file, less one trailing newline.
    File {
        /// Its path; `~` is the user's home.
        path: String,
    },
    /// The standard output of a command, less one trailing newline.
    Command {
        /// The argv; no shell.
        argv: Vec<String>,
    },
}

/// A corporate proxy and extra trust, for egress and image builds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NetworkConfig {
    /// `http://host:port` of the upstream proxy.
    pub proxy: Option<String>,
    /// Hosts and suffixes reached without it.
    pub no_proxy: Vec<String>,
    /// A PEM file with extra certificate authorities (path on this host).
    pub ca: Option<String>,
}

/// An approval of an egress change that a running session was given: a planner input, and what the
/// plan that carries it out writes to `approvals.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Approval {
    /// When it was given.
    pub at: Timestamp,
    /// The route added or widened.
    pub host: HostPattern,
    /// The port of the route: that of the host's own, or of one that is not there yet.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The rule that was approved; it brings no credential of its own.
    pub rule: Rule,
    /// How it was given, for people: `bottle allow`.
    pub by: Option<String>,
}

fn default_port() -> u16 {
    crate::approvals::DEFAULT_PORT
}

impl Approval {
    /// Whether the two approve the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.host, self.port, &self.rule) == (&other.host, other.port, &other.rule)
    }
}
