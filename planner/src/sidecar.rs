//! The files the containers of a session read: their formats and where they lie.
//!
//! Rendered by the planner from the grants and the session, parsed by the `sidecar` crate. Any
//! change of shape is a new [`PROTOCOL`].

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{BuildHost, GitRemote, HostPattern, Provider, Route};
use crate::words::{AbsPath, EnvName, Identity, Name, Role};

/// The number of the protocol between executor and sidecars.
pub const PROTOCOL: u32 = 1;
/// The port of egress's proxy on the internal network.
pub const EGRESS_PORT: u16 = 9099;
/// The port of the git gate (git daemon's own).
pub const GIT_GATE_PORT: u16 = 9418;
/// The port of supervise's MCP server.
pub const SUPERVISE_PORT: u16 = 9100;
/// That server, as agents are told of it.
pub const SUPERVISE_URL: &str = "http://supervise:9100/mcp";
/// The port of pipelock's proxy.
pub const PIPELOCK_PORT: u16 = 8888;
/// The file of `agent/in` that stands in for hidden files.
pub const HIDDEN_FILE: &str = "hidden";
/// The folder of `agent/in` that stands in for hidden folders.
pub const HIDDEN_FOLDER: &str = "hidden.d";
/// Where `state/<role>/in` is mounted.
pub const IN: &str = "/.bottle/in";
/// Where `state/<role>/out` is mounted.
pub const OUT: &str = "/.bottle/out";
/// The leak rules that the manifest adds, of egress and the git gate; not there where it adds none.
pub const LEAK_RULES: &str = "rules.toml";
/// Where the binary's folder is mounted in the agent's container, and in the git gate's.
pub const BIN: &str = "/.bottle/bin";
/// A tmpfs of mode 0700 that holds the socket secrets are handed over through.
pub const RUN: &str = "/.bottle/run";
/// The binary inside the sidecar image.
pub const SIDECAR_BINARY: &str = "/bottle";
/// The name of the binary inside `bin/<digest>/`.
pub const BINARY: &str = "bottle";

/// `egress/in/routes.json`: what may be reached. Reloaded in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RoutesFile {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Routes by host.
    pub routes: BTreeMap<HostPattern, Route>,
    /// Upstreams that the git gate alone may reach, as host and port.
    pub gate: BTreeSet<(HostPattern, u16)>,
    /// Fixed addresses of those upstreams.
    #[schemars(with = "BTreeMap<String, String>")]
    pub gate_addresses: BTreeMap<String, core::net::IpAddr>,
    /// Hosts to which the leak scan lets a value pass, by what it is delivered as (`scan:<name>`,
    /// less the `scan:`). A value that is not listed passes to no host.
    pub use_at: BTreeMap<String, BTreeSet<HostPattern>>,
    /// What the build of the agent's image may reach, and nobody else by this.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub build: BTreeSet<BuildHost>,
}

/// `egress/in/settings.json`: what egress reads once, at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct EgressSettings {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Its own address on the internal network; it listens nowhere else.
    #[schemars(with = "String")]
    pub listen: Ipv4Addr,
    /// The agent's address.
    #[schemars(with = "String")]
    pub agent: Ipv4Addr,
    /// The gate's address, if there is one.
    #[schemars(with = "Option<String>")]
    pub gate: Option<Ipv4Addr>,
    /// Supervise's address, if there is one: it may see the routes in force, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub supervise: Option<Ipv4Addr>,
    /// The address of the build of the agent's image, where that stands on the session's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub build: Option<Ipv4Addr>,
    /// `http://host:port` of the corporate proxy, and who is reached without it.
    pub upstream_proxy: Option<(String, Vec<String>)>,
    /// Address and port of pipelock, where it is used.
    #[schemars(with = "Option<(String, u16)>")]
    pub next_hop: Option<(Ipv4Addr, u16)>,
    /// Whether credentials are delivered after the start: until then requests that need one are
    /// refused.
    pub expects_delivery: bool,
    /// Whether there is a supervise container, which refusals tell the agent to ask.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub supervised: bool,
}

/// `upstream-ca.pem` of egress and the git gate: certificate authorities that they trust upstream
/// beside their own roots; not there where the host config names none. Read once, at the start.
pub const UPSTREAM_CA: &str = "upstream-ca.pem";

/// `exceptions.json` of the git gate: findings that a person lets through once, by the id of the
/// proposal that asked ([`crate::policy::PushException`]); not there where there are none.
pub const EXCEPTIONS: &str = "exceptions.json";
/// The folder of `git-gate/out` with one empty file for each exception that was used, by its id.
pub const USED_EXCEPTIONS: &str = "used-exceptions";

/// `git-gate/in/gate.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct GateSettings {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Its own address on the internal network.
    #[schemars(with = "String")]
    pub listen: Ipv4Addr,
    /// Egress, its only way out.
    #[schemars(with = "(String, u16)")]
    pub egress: (Ipv4Addr, u16),
    /// The remotes it serves.
    pub remotes: BTreeMap<Name, GitRemote>,
    /// Hosts to which the leak scan lets a value pass, as in `routes.json`.
    pub use_at: BTreeMap<String, BTreeSet<HostPattern>>,
    /// Whether keys, and values to look for, are delivered after the start.
    pub expects_delivery: bool,
    /// Whether there is a supervise container, which refusals tell the agent to ask.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub supervised: bool,
}

/// `supervise/in/supervise.json`. Routes are not in it: egress is asked for those in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SuperviseSettings {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Its own address on the internal network.
    #[schemars(with = "String")]
    pub listen: Ipv4Addr,
    /// The agent's address: nobody else is served.
    #[schemars(with = "String")]
    pub agent: Ipv4Addr,
    /// Egress, which shows the routes in force.
    #[schemars(with = "(String, u16)")]
    pub egress: (Ipv4Addr, u16),
    /// Whose requests it takes.
    pub identity: Identity,
    /// Bases that a proposed image may be built on, beside those of the image in force.
    pub allow_from: BTreeSet<String>,
    /// Seconds until an unanswered request is given up.
    pub timeout_seconds: u64,
}

/// A provider that is told to go on ends with an error where nothing was said yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct First {
    /// The folder that holds a file once something was said.
    pub transcript: AbsPath,
    /// The argv of a first start; never empty.
    pub argv: Vec<String>,
}

/// `agent/in/init.json`: what the agent's init runs, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct InitSettings {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// What runs as the agent.
    pub provider: Provider,
    /// The argv; never empty.
    pub argv: Vec<String>,
    /// What is run in its place while there is nothing to resume.
    #[serde(default)]
    pub first: Option<First>,
    /// Its working folder.
    pub workdir: AbsPath,
    /// Its home folder.
    pub home: AbsPath,
    /// Sidecars whose ports must answer first.
    #[schemars(with = "BTreeMap<Role, (String, u16)>")]
    pub wait_for: BTreeMap<Role, (Ipv4Addr, u16)>,
    /// Variables that are delivered after the start; the agent is not run without them.
    pub expects: BTreeSet<EnvName>,
    /// Seconds from start to a forced stop.
    pub time_seconds: u64,
    /// Seconds without output to a forced stop.
    pub idle_seconds: u64,
}
