//! The decision log: what was let through and what was not, one JSON object a line in
//! `<role>/out/decisions.jsonl`. Sidecars write it, the command line reads it.
//!
//! Everything in it but the enumerations may come from an agent: it is escaped before a person
//! sees it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::words::Digest;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When, in UTC to the millisecond (RFC 3339).
    pub time: String,
    /// The plan in force; `None` where the sidecar was not told.
    pub plan: Option<Digest>,
    /// `agent`, `gate`, `supervise`, `build` (of the agent's image), or `stranger`, whose address is
    /// then the host.
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
    /// What was pushed, where that is what was asked of the git gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
}

/// A push, as the git gate looked at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The remote by its name in the manifest.
    pub remote: String,
    /// What it was to change.
    pub refs: Vec<RefUpdate>,
    /// Objects that upstream did not have, and their bytes unpacked.
    pub objects: u64,
    /// See `objects`.
    pub bytes: u64,
    /// What the leak scan found in them; no more than are told to the agent.
    pub findings: Vec<PushFinding>,
    /// What the leak scan found and a person lets through once: used up where the push went
    /// through, and left where upstream did not take it. Of a push that the gate itself refuses
    /// all is in `findings`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excepted: Vec<Excepted>,
    /// From the agent's last byte to the verdict, in milliseconds.
    pub millis: u64,
}

/// One ref of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefUpdate {
    /// Its whole name, what the leak scan found in it masked.
    pub name: String,
    /// The object it named before; none for a new ref.
    pub old: Option<String>,
    /// The object it is to name; none where it is to go.
    pub new: Option<String>,
}

/// Something that the leak scan found in a push. Never holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PushFinding {
    /// A rule's id, or the name of a value.
    pub rule: String,
    /// What it is in, as a clause: a file with its path, the message of a commit.
    pub place: String,
    /// The line within that, counted from 1, where it has lines.
    pub line: Option<u64>,
    /// The commit that brings it.
    pub commit: Option<String>,
    /// Names this finding and no other: of rule, object and place within it.
    pub fingerprint: String,
}

/// A finding that went through, once, because a person said so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Excepted {
    /// The id of the proposal that asked for it.
    pub exception: String,
    /// What was found.
    pub finding: PushFinding,
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

impl Outcome {
    /// Whether it went through, as it was or changed.
    #[must_use]
    pub fn is_through(self) -> bool {
        matches!(self, Self::Allow | Self::Warn | Self::Redact)
    }
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
    /// A git push that does not go through the gate; at the gate, a ref that may not be written.
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
