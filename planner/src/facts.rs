//! Grants in words: one sentence for each thing a session may do, each with its weight.
//!
//! The sentences are what a person approves and what two plans are compared by. A fact that has no
//! sentence of its own still counts: two grants that differ are never called the same.

use alloc::collections::BTreeMap;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::grants::{EnvGrant, Grants, ImageGrant, SecretUse};
use crate::manifest::units::{bytes_text, seconds_text, thousandths_text};
use crate::policy::{
    Access, Auth, BuildNetwork, DlpAction, HostPattern, Isolation, Provider, PushException, Route,
    RouteRole, Rule, Tls, WorkspaceMode,
};

/// One sentence about grants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// For people, in the infinitive: `reach api.github.com:443`.
    pub text: String,
    /// What more of it means.
    pub weight: Weight,
}

/// What having a fact means for how much a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Having it is more.
    Grant,
    /// Having it is less.
    Restriction,
    /// Two facts of one key compare by this number: higher is more.
    Level(u64),
    /// Any change may be more and less at once.
    Opaque,
}

/// All facts by a key that is the same on both sides of a comparison.
#[must_use]
pub fn facts(grants: &Grants) -> BTreeMap<String, Fact> {
    let mut facts = Facts(BTreeMap::new());
    facts.who(grants);
    facts.image(grants);
    facts.limits(grants);
    for (name, grant) in &grants.env {
        facts.env(name.as_str(), grant);
    }
    for (host, route) in &grants.egress.routes {
        facts.route(host, route);
    }
    for (secret, uses) in &grants.secrets {
        for usage in uses {
            let at = match usage {
                SecretUse::Inject { host } => format!("into requests to {host}"),
                SecretUse::Env { name } => format!("to the agent as {name}"),
                SecretUse::Git { remote } => format!("to git upstream {remote}"),
            };
            facts.grant(format!("secret/{secret}/{at}"), format!("give secret {secret} {at}"));
        }
    }
    if let Some(rules) = &grants.egress.rules {
        let digest = crate::words::Digest::of(rules.as_bytes());
        facts.opaque("rules", format!("scan with extra leak rules {}", digest.short()));
    }
    if let Some(pipelock) = &grants.egress.pipelock {
        let text = format!("send all traffic through {}@{}", pipelock.name, pipelock.digest);
        facts.opaque("pipelock", text);
    }
    facts.git(grants);
    facts.push_exceptions(grants);
    facts.workspace(grants);
    facts.0
}

struct Facts(BTreeMap<String, Fact>);

impl Facts {
    fn add(&mut self, key: impl Into<String>, text: impl Into<String>, weight: Weight) {
        self.0.insert(key.into(), Fact { text: text.into(), weight });
    }

    fn grant(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.add(key, text, Weight::Grant);
    }

    fn restriction(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.add(key, text, Weight::Restriction);
    }

    fn opaque(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.add(key, text, Weight::Opaque);
    }

    fn level(&mut self, key: impl Into<String>, text: impl Into<String>, level: u64) {
        self.add(key, text, Weight::Level(level));
    }

    fn who(&mut self, grants: &Grants) {
        let agent = &grants.agent;
        let from = match agent.origin {
            crate::policy::Origin::Repository => " (from the repository)",
            crate::policy::Origin::Preset => " (built in)",
            _ => "",
        };
        self.opaque("agent", format!("run agent {}{from} in bottle {}", agent.name, grants.bottle));
        self.opaque("prompt", format!("follow prompt {}", agent.prompt.short()));
        for (name, digest) in &agent.skills {
            self.opaque(format!("skill/{name}"), format!("use skill {name} {}", digest.short()));
        }
        let command = match &grants.provider {
            Provider::Claude => "Claude Code".to_string(),
            Provider::Codex => "Codex".to_string(),
            Provider::Command { command, resume_command, .. } => {
                format!("{command:?}, resumed by {resume_command:?}")
            }
        };
        self.opaque("provider", format!("execute {command}"));
        if let Some(user) = &grants.git_user {
            self.opaque("git_user", format!("commit as {} <{}>", user.name, user.email));
        }
        if grants.supervise {
            self.grant("supervise", "ask a person for more");
        }
    }

    fn image(&mut self, grants: &Grants) {
        let allow_from = match &grants.image {
            ImageGrant::Build {
                dockerfile,
                context,
                network,
                allow_from,
                approved_change,
                hosts,
            } => {
                let digest = crate::words::Digest::of(dockerfile.as_bytes());
                let context = context.as_ref().map_or("none", |c| c.short());
                let approved = if *approved_change { ", an approved change" } else { "" };
                let text = format!(
                    "run in an image built from Dockerfile {}, context {context}{approved}",
                    digest.short()
                );
                self.opaque("image", text);
                if *network == BuildNetwork::Open {
                    self.grant("build", "reach the network while its image is built");
                }
                // The engine's builder has no choice of a runtime.
                if *approved_change && grants.isolation != Isolation::Container {
                    self.grant("build/runtime", "have its image built outside of gVisor");
                }
                for at in hosts {
                    let text = format!("have the build of its image reach {at}");
                    self.grant(format!("build/{at}"), text);
                }
                allow_from
            }
            ImageGrant::Reference { reference, digest, allow_from } => {
                let digest = digest.as_ref().map_or("unresolved", |d| d.short());
                self.opaque("image", format!("run in image {reference} ({digest})"));
                allow_from
            }
        };
        for base in allow_from {
            self.grant(format!("from/{base}"), format!("propose images built on {base}"));
        }
        let (text, level) = match grants.isolation {
            Isolation::Gvisor => ("run under gVisor or not at all", 0),
            Isolation::Auto => ("run under gVisor where there is one", 1),
            Isolation::Container => ("run in a plain container", 2),
        };
        self.level("isolation", text, level);
    }

    fn limits(&mut self, grants: &Grants) {
        let l = &grants.limits;
        for (key, text, value) in [
            ("cpus", format!("use {} cores", thousandths_text(l.cpus_milli)), l.cpus_milli.into()),
            ("memory", format!("use {} of memory", bytes_text(l.memory_bytes)), l.memory_bytes),
            ("pids", format!("have {} processes", l.pids), l.pids.into()),
            ("shm", format!("have {} of shared memory", bytes_text(l.shm_bytes)), l.shm_bytes),
            ("time", format!("run for {}", seconds_text(l.time_seconds)), l.time_seconds),
            ("idle", format!("be idle for {}", seconds_text(l.idle_seconds)), l.idle_seconds),
        ] {
            self.level(format!("limit/{key}"), text, value);
        }
    }

    fn env(&mut self, name: &str, grant: &EnvGrant) {
        let text = match grant {
            EnvGrant::Literal { value } => format!("see {name}={value}"),
            EnvGrant::Prompt { .. } => format!("see {name}, asked for at apply"),
            EnvGrant::Secret { secret, .. } => format!("see secret {secret} as {name}"),
            EnvGrant::Placeholder => format!("see a placeholder as {name}"),
        };
        self.opaque(format!("env/{name}"), text);
        if let EnvGrant::Secret { use_at, .. } = grant {
            for host in use_at {
                self.grant(format!("env/{name}/at/{host}"), format!("send {name} to {host}"));
            }
        }
    }

    fn route(&mut self, host: &HostPattern, route: &Route) {
        let at = format!("{host}:{}", route.port);
        self.grant(format!("route/{at}"), format!("reach {at}"));
        for rule in &route.allow {
            let text = allow_text(&at, rule, rule.auth.as_ref().or(route.auth.as_ref()));
            self.grant(format!("route/{at}/allow/{text}"), text);
        }
        for rule in &route.deny {
            let text = format!("be refused {} at {at}", rule_text(rule));
            self.restriction(format!("route/{at}/deny/{text}"), text);
        }
        let (tls, level) = match route.tls {
            Tls::Intercept => ("with egress looking inside TLS", 0),
            Tls::Passthrough => ("with TLS that egress does not look into", 1),
        };
        self.level(format!("route/{at}/tls"), format!("talk to {at} {tls}"), level);
        for (what, action) in
            [("own secrets", route.dlp.own_secrets), ("token patterns", route.dlp.patterns)]
        {
            let (text, level) = match action {
                DlpAction::Block => ("blocked", 0),
                DlpAction::Redact => ("redacted", 1),
                DlpAction::Warn => ("only logged", 2),
                DlpAction::Off => ("not looked for", 3),
            };
            let text = format!("have {what} {text} in requests to {at}");
            self.level(format!("route/{at}/dlp/{what}"), text, level);
        }
        if let Some(address) = route.address {
            self.opaque(format!("route/{at}/address"), format!("find {at} at {address}"));
        }
        if route.allow_private {
            let text = format!("reach {at} also at a private address");
            self.grant(format!("route/{at}/private"), text);
        }
        if let Some(role) = route.role {
            let text = match role {
                RouteRole::ClaudeCodeOauth => "Claude's API, with a person's own token",
                RouteRole::ModelProvider => "its model provider's API",
            };
            self.opaque(format!("route/{at}/role"), format!("treat {at} as {text}"));
        }
    }

    fn git(&mut self, grants: &Grants) {
        if let Some(base) = &grants.gate_base {
            self.opaque("gate/base".to_string(), format!("build the git gate on {base}"));
        }
        for (name, remote) in &grants.git {
            let at = remote.upstream.url();
            self.opaque(format!("git/{name}"), format!("fetch from {at} as remote {name}"));
            self.opaque(
                format!("git/{name}/credential"),
                format!("have the gate use {:?} for {name}", remote.credential),
            );
            for key in &remote.known_host_keys {
                let text = format!("trust host key {key} for {name}");
                self.grant(format!("git/{name}/key/{key}"), text);
            }
            for (host, ip) in &remote.extra_hosts {
                let text = format!("find {host} at {ip} for {name}");
                self.opaque(format!("git/{name}/host/{host}"), text);
            }
            for glob in &remote.push.branches {
                let text = format!("push branches {glob} to {name}");
                self.grant(format!("git/{name}/push/{glob}"), text);
            }
            for (granted, what) in [
                (remote.push.tags, "push tags to"),
                (remote.push.force, "force-push to"),
                (remote.push.delete, "delete refs of"),
            ] {
                if granted {
                    self.grant(format!("git/{name}/{what}"), format!("{what} {name}"));
                }
            }
        }
    }

    fn push_exceptions(&mut self, grants: &Grants) {
        for (id, PushException { remote, fingerprint, rule, place }) in &grants.push_exceptions {
            let text =
                format!("push to {remote}, once, what {rule} finds in {place} [{fingerprint}]");
            self.grant(format!("exception/{id}"), text);
        }
    }

    fn workspace(&mut self, grants: &Grants) {
        let (text, level) = match grants.workspace.mode {
            WorkspaceMode::None => ("see no host folder", 0),
            WorkspaceMode::Clone => ("work on a clone of a host folder's commit", 1),
            WorkspaceMode::Copy => ("work on a copy of a host folder", 2),
            WorkspaceMode::Mount => ("write into a host folder", 3),
        };
        self.level("workspace", text, level);
        for glob in &grants.workspace.hide {
            self.restriction(format!("hide/{glob}"), format!("not see {glob} of the folder"));
        }
        for glob in &grants.workspace.protect {
            self.restriction(format!("protect/{glob}"), format!("not write {glob} of the folder"));
        }
    }
}

pub(crate) fn allow_text(at: &str, rule: &Rule, auth: Option<&Auth>) -> String {
    let with = auth.map_or(String::new(), |auth| {
        let scheme = auth.scheme.name();
        format!(" with credential {} in header {} [auth:{scheme}]", auth.secret, auth.header)
    });
    format!("{} at {at}{with}", rule_text(rule))
}

/// A rule's own words: `GET, POST on /repos/**`.
#[must_use]
pub fn rule_text(rule: &Rule) -> String {
    let methods = if rule.methods.is_empty() {
        match rule.access {
            Access::Read => "read (GET, HEAD, OPTIONS, git fetch)".to_string(),
            Access::All => "any method".to_string(),
        }
    } else {
        let methods: Vec<&str> = rule.methods.iter().map(String::as_str).collect();
        methods.join(", ")
    };
    if rule.paths.is_empty() {
        format!("{methods} on every path")
    } else {
        format!("{methods} on {}", rule.paths.join(", "))
    }
}

/// Whether every request the second rule allows was allowed by the first. May say no where the
/// answer is yes, never the other way.
#[must_use]
pub fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let methods = |rule: &Rule| -> Option<BTreeSet<String>> {
        match (rule.methods.is_empty(), rule.access) {
            (false, _) => Some(rule.methods.clone()),
            (true, Access::Read) => Some(["GET", "HEAD", "OPTIONS"].map(String::from).into()),
            (true, Access::All) => None,
        }
    };
    // Reading includes git's upload-pack, which is a POST: only `all` or `read` itself covers it.
    let reads = |rule: &Rule| rule.methods.is_empty() && rule.access == Access::Read;
    let by_method = match (methods(wide), methods(narrow)) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide_set), Some(narrow_set)) => {
            wide_set.is_superset(&narrow_set) && (!reads(narrow) || reads(wide))
        }
    };
    let by_path = wide.paths.is_empty()
        || (!narrow.paths.is_empty()
            && narrow.paths.iter().all(|path| wide.paths.iter().any(|w| glob_covers(w, path))));
    by_method && by_path && wide.auth == narrow.auth
}

fn glob_covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide.strip_suffix("/**").is_some_and(|head| {
            !head.contains(['*', '?', '[', '{'])
                && narrow.strip_prefix(head).is_some_and(|rest| rest.starts_with('/'))
        })
}
