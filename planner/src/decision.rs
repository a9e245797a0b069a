//! The decision log: what was let through and what was not, one JSON object a line in
//! `<role>/out/decisions.jsonl`. Sidecars write it, the command line reads it.
//!
//! Everything in it but the enumerations may come from an agent: it is escaped before a person
//! sees it.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::words::Digest;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When, in UTC to the millisecond (RFC 3339).
    pub time: String,
    /// The plan in force; `None` where the sidecar was not told.
    pub plan: Option<Digest>,
    /// `agent`, `gate`, or `stranger`, whose address is then the host.
    pub client: String,
    /// How it was asked.
    pub via: Via,
    /// `http` or `https`; empty for names and tunnels.
    pub scheme: String,
    /// The method; `CONNECT` for a tunnel, the record type for a name.
    pub method: String,
    /// The host asked for, as it was spelled.
    pub host: String,
    /// The port, where one was named.
    pub port: Option<u16>,
    /// The path without its query, what the leak scan found in it masked; `None` where there is
    /// none.
    pub path: Option<String>,
    /// What was decided.
    pub outcome: Outcome,
    /// Why, as a class.
    pub code: Code,
    /// Which rule decided: `api.github.com allow[0]`, `default`, `leak github-pat`.
    pub rule: String,
    /// Why, as a clause for people. Never a secret.
    pub reason: String,
}

/// How something was asked of egress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// Through the proxy.
    Proxy,
    /// By a program that knows of no proxy.
    Transparent,
    /// A name was looked up.
    Dns,
    /// Whatever the git gate does.
    Gate,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Let through.
    Allow,
    /// Let through, with a finding of the leak scan in it.
    Warn,
    /// Let through, the leak scan's findings replaced.
    Redact,
    /// Not let through.
    Refuse,
    /// Let through, and then it did not work out there.
    Failed,
}

/// Why, as a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A rule allows it.
    Granted,
    /// No route names the host.
    NoRoute,
    /// The route grants another port.
    Port,
    /// No rule of the route allows method and path.
    NoRule,
    /// A deny rule matches.
    Denied,
    /// The leak scan found something.
    Leak,
    /// The host's address may not be dialled.
    Address,
    /// A credential is missing, or the agent brought one of its own.
    Credential,
    /// A git push that does not go through the gate.
    GitPush,
    /// The request cannot be read in one way alone, or says two things at once.
    Malformed,
    /// More than egress takes.
    Limit,
    /// A client that is not served, or may not do this.
    Client,
    /// Upstream did not answer, or broke off.
    Upstream,
}
