//! The grants: what a session may do, free of host and time. This is what is approved.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{
    BuildHost, BuildNetwork, GitRemote, GitUser, HostPattern, Isolation, Limits, Origin,
    PinnedImage, Provider, PushException, Route, WorkspaceMode,
};
use crate::words::{Digest, EnvName, Name, SecretName};

/// What a session may do. Every sidecar file is rendered from this, so nothing can hide in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Grants {
    /// Who runs.
    pub agent: AgentGrant,
    /// The policy it runs under, by name.
    pub bottle: Name,
    /// What is executed.
    pub provider: Provider,
    /// The image it runs in.
    pub image: ImageGrant,
    /// The wall asked for (what a host chose is in the session).
    pub isolation: Isolation,
    /// What it may use up.
    pub limits: Limits,
    /// Its environment.
    pub env: BTreeMap<EnvName, EnvGrant>,
    /// Every secret by logical name, and where it goes.
    pub secrets: BTreeMap<SecretName, BTreeSet<SecretUse>>,
    /// What it may reach.
    pub egress: EgressGrant,
    /// Git remotes, keys literal.
    pub git: BTreeMap<Name, GitRemote>,
    /// What the git gate's image is built on, which sees its keys; `None` is `debian:bookworm-slim`,
    /// and a bottle without git.
    #[serde(default)]
    pub gate_base: Option<String>,
    /// Who its commits are by.
    pub git_user: Option<GitUser>,
    /// How the host's folder is brought in.
    pub workspace: WorkspaceGrant,
    /// Whether it may ask a person for more.
    pub supervise: bool,
    /// Findings that a person lets it push, once each, by the id of the proposal that asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub push_exceptions: BTreeMap<String, PushException>,
}

/// Who runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AgentGrant {
    /// The agent's name.
    pub name: Name,
    /// Where it was defined.
    pub origin: Origin,
    /// The digest of its system prompt.
    pub prompt: Digest,
    /// Its skills, each with the digest of its folder.
    pub skills: BTreeMap<Name, Digest>,
}

/// The image the agent runs in, pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImageGrant {
    /// Built from this Dockerfile.
    Build {
        /// The whole Dockerfile.
        dockerfile: String,
        /// The digest of the build context; `None` is an empty one.
        context: Option<Digest>,
        /// What the build may reach.
        network: BuildNetwork,
        /// Bases that a proposed image may name.
        allow_from: BTreeSet<String>,
        /// Whether a person approved it for this session (a capability change).
        approved_change: bool,
        /// What its build may reach on the session's own network.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        hosts: BTreeSet<BuildHost>,
    },
    /// Taken as it is.
    Reference {
        /// The name as written.
        reference: String,
        /// A registry's digest where there is one, else the local image's id; `None` where the
        /// snapshot could not tell.
        digest: Option<Digest>,
        /// Bases that a proposed image may name.
        allow_from: BTreeSet<String>,
    },
}

impl ImageGrant {
    /// The Dockerfile in force, as an agent is shown it and as a proposal is held against it.
    #[must_use]
    pub fn in_force(&self) -> String {
        match self {
            Self::Build { dockerfile, .. } => dockerfile.clone(),
            Self::Reference { reference, .. } => format!("FROM {reference}\n"),
        }
    }

    /// Bases that a proposed image may name, beside those of the Dockerfile in force.
    #[must_use]
    pub fn allow_from(&self) -> &BTreeSet<String> {
        let (Self::Build { allow_from, .. } | Self::Reference { allow_from, .. }) = self;
        allow_from
    }
}

/// One variable of the agent's environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EnvGrant {
    /// This text.
    Literal {
        /// The value.
        value: String,
    },
    /// Asked for at apply.
    Prompt {
        /// What the person is shown.
        message: String,
    },
    /// A logical secret.
    Secret {
        /// Its name.
        secret: SecretName,
        /// Hosts the leak scan lets it pass to.
        use_at: BTreeSet<HostPattern>,
    },
    /// A placeholder for a credential that egress injects; no secret.
    Placeholder,
}

/// Where a secret goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SecretUse {
    /// Into requests to this host, by egress.
    Inject {
        /// The route.
        host: HostPattern,
    },
    /// Into the agent's environment.
    Env {
        /// The variable.
        name: EnvName,
    },
    /// To a git upstream, by the gate.
    Git {
        /// The remote.
        remote: Name,
    },
}

/// What the agent may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct EgressGrant {
    /// Routes by host.
    pub routes: BTreeMap<HostPattern, Route>,
    /// Extra leak rules, whole (gitleaks' TOML); `None` is the built-in rules alone.
    pub rules: Option<String>,
    /// The proxy behind egress.
    pub pipelock: Option<PinnedImage>,
}

/// How the host's folder is brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkspaceGrant {
    /// The mode in force.
    pub mode: WorkspaceMode,
    /// Globs of files that never enter.
    pub hide: BTreeSet<String>,
    /// Globs of files that are read-only in `mount` mode.
    pub protect: BTreeSet<String>,
}

impl Grants {
    /// The logical secrets that one role needs delivered, as `Deliver` items are named.
    #[must_use]
    pub fn prompts(&self) -> Vec<(&EnvName, &str)> {
        self.env
            .iter()
            .filter_map(|(name, grant)| match grant {
                EnvGrant::Prompt { message } => Some((name, message.as_str())),
                _ => None,
            })
            .collect()
    }
}
