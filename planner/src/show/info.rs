//! What an agent would be started with, before anything is started: names of variables and secrets,
//! never a value.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::Serialize;

use crate::escape::visible;
use crate::facts::rule_text;
use crate::grants::{EnvGrant, ImageGrant};
use crate::manifest::units::{bytes_text, seconds_text, thousandths_text};
use crate::plan::Plan;
use crate::policy::{Auth, HostConfig, Limits, Manifest, Origin, Provider, Route, SecretSource};
use crate::snapshot::Snapshot;
use crate::words::{Name, SecretName};

/// What an agent would be started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Info {
    /// The agent.
    pub agent: Name,
    /// Where it was defined.
    pub origin: Origin,
    /// The bottle it runs in.
    pub bottle: Name,
    /// What the bottle was made from, nearest last.
    pub lineage: Vec<String>,
    /// The program that runs.
    pub provider: String,
    /// The image it runs in, and how that comes about.
    pub image: String,
    /// The wall that was asked for and what this host has for it.
    pub isolation: String,
    /// What it may use up.
    pub limits: Limits,
    /// Its variables.
    pub env: Vec<Variable>,
    /// Where each secret comes from.
    pub secrets: Vec<Secret>,
    /// Its skills.
    pub skills: Vec<Name>,
    /// How a folder is brought in, and which.
    pub workspace: String,
    /// Its git remotes.
    pub git: Vec<Remote>,
    /// What it may reach.
    pub egress: Vec<Reach>,
    /// Whether it may ask a person for more.
    pub supervise: bool,
    /// What the planner did not do, and why.
    pub notices: Vec<String>,
}

/// A variable of the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it holds: `literal`, `asked for`, `secret NAME` or `placeholder`.
    pub holds: String,
}

/// A logical secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Secret {
    /// Its name.
    pub name: SecretName,
    /// Where it would come from: `variable NAME`, `file PATH` or `command PROGRAM`.
    pub source: String,
    /// Whether that answers here.
    pub available: bool,
}

/// A git remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Remote {
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub upstream: String,
    /// What may be pushed.
    pub push: Vec<String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reach {
    /// Host and port.
    pub at: String,
    /// The schemes of the credentials that egress puts in.
    pub auth: BTreeSet<String>,
    /// Its rules in words.
    pub rules: Vec<String>,
}

/// What a plan would start, and from what.
#[must_use]
pub fn info(plan: &Plan, manifest: &Manifest, snapshot: &Snapshot) -> Info {
    let grants = &plan.grants;
    let bottle = manifest.bottles.get(&grants.bottle);
    let mut lineage = bottle.map(|bottle| bottle.lineage.clone()).unwrap_or_default();
    lineage.extend(bottle.and_then(|bottle| bottle.overlay.clone()));
    let workspace = plan.session.workspace.as_ref();
    Info {
        agent: grants.agent.name.clone(),
        origin: grants.agent.origin,
        bottle: grants.bottle.clone(),
        lineage,
        provider: provider(&grants.provider),
        image: image(plan, snapshot),
        isolation: format!(
            "{} ({} here)",
            serde_json::to_value(grants.isolation)
                .ok()
                .and_then(|word| word.as_str().map(String::from))
                .unwrap_or_default(),
            plan.session.runtime.as_deref().unwrap_or("the engine's own runtime"),
        ),
        limits: grants.limits.clone(),
        env: grants.env.iter().map(|(name, grant)| variable(name.as_str(), grant)).collect(),
        secrets: grants
            .secrets
            .keys()
            .map(|name| Secret {
                source: source(name, &snapshot.config),
                available: snapshot.secrets.contains(name),
                name: name.clone(),
            })
            .collect(),
        skills: grants.agent.skills.keys().cloned().collect(),
        workspace: workspace.map_or_else(
            || "none".to_string(),
            |place| format!("{} of {}", place.mode.as_str(), place.host),
        ),
        git: grants
            .git
            .iter()
            .map(|(name, remote)| {
                let push = &remote.push;
                let mut may: Vec<String> = push.branches.iter().cloned().collect();
                let more = [(push.tags, "tags"), (push.force, "force"), (push.delete, "delete")];
                may.extend(more.iter().filter(|(may, _)| *may).map(|(_, what)| what.to_string()));
                Remote { name: name.clone(), upstream: remote.upstream.url(), push: may }
            })
            .collect(),
        egress: grants
            .egress
            .routes
            .iter()
            .map(|(host, route)| reach(format!("{host}:{}", route.port), route))
            .collect(),
        supervise: grants.supervise,
        notices: plan.notices.iter().map(|notice| notice.message.clone()).collect(),
    }
}

fn provider(provider: &Provider) -> String {
    match provider {
        Provider::Claude => "Claude Code".to_string(),
        Provider::Codex => "Codex".to_string(),
        Provider::Command { command, .. } => format!("{command:?}"),
    }
}

fn image(plan: &Plan, snapshot: &Snapshot) -> String {
    let name = &plan.session.base_image;
    let there = snapshot.images.contains_key(name);
    match &plan.grants.image {
        ImageGrant::Build { .. } if there => format!("{name} (built already)"),
        ImageGrant::Build { .. } => format!("{name} (to be built)"),
        ImageGrant::Reference { reference, .. }
            if there || snapshot.images.contains_key(reference) =>
        {
            format!("{reference} (present)")
        }
        ImageGrant::Reference { reference, .. } => format!("{reference} (to be pulled)"),
    }
}

fn variable(name: &str, grant: &EnvGrant) -> Variable {
    let holds = match grant {
        EnvGrant::Literal { .. } => "literal".to_string(),
        EnvGrant::Prompt { .. } => "asked for".to_string(),
        EnvGrant::Secret { secret, .. } => format!("secret {secret}"),
        EnvGrant::Placeholder => "placeholder".to_string(),
    };
    Variable { name: name.to_string(), holds }
}

fn source(name: &SecretName, config: &HostConfig) -> String {
    match config.secrets.get(name) {
        None => format!("variable {name}"),
        Some(SecretSource::Env { name }) => format!("variable {name}"),
        Some(SecretSource::File { path }) => format!("file {path}"),
        // Its arguments may be anybody's guess.
        Some(SecretSource::Command { argv }) => {
            format!("command {}", argv.first().map_or("", String::as_str))
        }
    }
}

fn reach(at: String, route: &Route) -> Reach {
    let schemes = |auth: &Auth| auth.scheme.name().to_string();
    let of_rules = route.allow.iter().filter_map(|rule| rule.auth.as_ref());
    let auth = route.auth.iter().chain(of_rules).map(schemes).collect();
    let mut rules: Vec<String> = route.allow.iter().map(rule_text).collect();
    rules.extend(route.deny.iter().map(|rule| format!("not {}", rule_text(rule))));
    Reach { at, auth, rules }
}

impl Info {
    /// For people, a line a fact.
    #[must_use]
    pub fn text(&self) -> String {
        let from = match self.origin {
            Origin::Home => "from the home manifest",
            Origin::Repository => "from the repository",
            Origin::File => "from the manifest file",
            Origin::Preset => "built in",
        };
        let mut lines = Lines(String::new());
        lines.add("agent", [format!("{} ({from})", self.agent)]);
        lines.add("bottle", [format!("{} ({})", self.bottle, self.lineage.join(", then "))]);
        lines.add("runs", [self.provider.clone()]);
        lines.add("image", [self.image.clone()]);
        lines.add("isolation", [self.isolation.clone()]);
        let l = &self.limits;
        lines.add(
            "limits",
            [format!(
                "{} cores, {} of memory, {} processes, {}, {} idle",
                thousandths_text(l.cpus_milli),
                bytes_text(l.memory_bytes),
                l.pids,
                seconds_text(l.time_seconds),
                seconds_text(l.idle_seconds)
            )],
        );
        lines.add("workspace", [self.workspace.clone()]);
        lines.add("env", self.env.iter().map(|v| format!("{} ({})", v.name, v.holds)));
        lines.add(
            "secrets",
            self.secrets.iter().map(|secret| {
                let answers = if secret.available { "available" } else { "NOT AVAILABLE" };
                format!("{} from {}: {answers}", secret.name, secret.source)
            }),
        );
        lines.add("skills", self.skills.iter().map(ToString::to_string));
        lines.add(
            "git gate",
            self.git.iter().map(|remote| {
                let push = if remote.push.is_empty() {
                    "nothing".to_string()
                } else {
                    remote.push.join(", ")
                };
                format!("{}: {} (push: {push})", remote.name, remote.upstream)
            }),
        );
        lines.add("egress", self.egress.iter().map(egress_line));
        lines.add("supervise", self.supervise.then(|| "it may ask you for more".to_string()));
        lines.add("notices", self.notices.iter().cloned());
        lines.0
    }
}

fn egress_line(reach: &Reach) -> String {
    let auth: String = reach.auth.iter().map(|scheme| format!(" [auth:{scheme}]")).collect();
    let rules = if reach.rules.is_empty() {
        String::new()
    } else {
        format!(": {}", reach.rules.join("; "))
    };
    format!("{}{auth}{rules}", reach.at)
}

struct Lines(String);

impl Lines {
    /// Lines below one title; where there are none, that is said too.
    fn add(&mut self, title: &str, lines: impl IntoIterator<Item = String>) {
        let mut title = title;
        for line in lines {
            self.0.push_str(&format!("{title:<10} {}\n", visible(&line)));
            title = "";
        }
        if !title.is_empty() {
            self.0.push_str(&format!("{title:<10} –\n"));
        }
    }
}
