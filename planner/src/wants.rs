//! What a plan can need to know of a host: so that the probe looks no further, and a committed
//! snapshot publishes nothing else.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};

use crate::plan::{Operation, Plan};
use crate::policy::{
    Bottle, EnvValue, GitCredential, GitTransport, HostConfig, Image, Manifest, Provider,
    SecretSource, Upstream, WorkspaceMode,
};
use crate::provider;
use crate::resolve::plan;
use crate::snapshot::Snapshot;
use crate::spec::{SessionRequest, Spec};
use crate::words::{AbsPath, EnvName, Identity, Name, RelPath, Role, SecretName, slugify};

/// What a plan can need to know of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Whether all names are wanted: variables, secrets' sources, containers.
    pub all: bool,
    /// The session to be planned.
    pub identity: Option<Identity>,
    /// The agent container's pinned name.
    pub container: Option<String>,
    /// Image references that the manifest or an override names.
    pub images: BTreeSet<String>,
    /// Those of them that a registry is asked for where they are not present.
    pub references: BTreeSet<String>,
    /// Logical secrets.
    pub secrets: BTreeSet<SecretName>,
    /// Host variables that secrets come from.
    pub env_names: BTreeSet<EnvName>,
    /// Skills.
    pub skills: BTreeSet<Name>,
    /// Files below the manifest's folder.
    pub named_files: BTreeSet<RelPath>,
    /// Build contexts below the manifest's folder.
    pub contexts: BTreeSet<RelPath>,
    /// Private keys, as the manifest has them.
    pub identity_files: BTreeSet<String>,
    /// Hosts whose keys are looked up, as `known_hosts` names them: `host` or `[host]:port`.
    pub known_hosts: BTreeSet<String>,
    /// The folder a launch asks for.
    pub workspace: Option<WorkspaceWant>,
    /// Whether the host config's extra trust is wanted.
    pub upstream_ca: bool,
    launch: Option<Box<(Manifest, Spec)>>,
}

/// A folder that a launch asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceWant {
    /// Where it is.
    pub path: AbsPath,
    /// How it is brought in; `None` is a clone of a git folder and else a copy.
    pub mode: Option<WorkspaceMode>,
    /// Globs of files that never enter.
    pub hide: BTreeSet<String>,
    /// Globs of files that a mount shows read-only.
    pub protect: BTreeSet<String>,
}

impl Wants {
    /// What one launch can need. An agent or bottle that does not exist needs nothing: saying so is
    /// the planner's affair.
    #[must_use]
    pub fn for_agent(manifest: &Manifest, spec: &Spec, config: &HostConfig) -> Self {
        let mut wants = Self {
            identity: identity(spec),
            container: spec.overrides.container.clone(),
            upstream_ca: true,
            launch: Some(Box::new((manifest.clone(), spec.clone()))),
            ..Self::default()
        };
        wants.references.extend(spec.overrides.image.clone());
        wants.images.extend(spec.overrides.image.clone());
        wants.images.extend(spec.overrides.derived_image.clone());
        let Some(agent) = manifest.agents.get(&spec.agent) else { return wants };
        wants.skills.extend(agent.skills.iter().cloned());
        let Some(bottle) = manifest.bottles.get(&agent.bottle) else { return wants };
        wants.bottle(bottle, config);
        wants.workspace = spec.workspace.as_ref().map(|request| WorkspaceWant {
            path: request.path.clone(),
            mode: request.mode.or(bottle.workspace.default),
            hide: bottle.workspace.hide.clone(),
            protect: bottle.workspace.protect.clone(),
        });
        wants
    }

    /// What a change to the session of this plan can need: what the plan itself names.
    #[must_use]
    pub fn for_plan(plan: &Plan) -> Self {
        Self {
            identity: Some(plan.identity.clone()),
            container: plan.spec.overrides.container.clone(),
            images: images(plan),
            ..Self::default()
        }
    }

    /// What any agent of a manifest can need, of no session and no folder.
    #[must_use]
    pub fn everything(manifest: &Manifest, config: &HostConfig) -> Self {
        let mut wants = Self { all: true, upstream_ca: true, ..Self::default() };
        for agent in manifest.agents.values() {
            wants.skills.extend(agent.skills.iter().cloned());
        }
        for bottle in manifest.bottles.values() {
            wants.bottle(bottle, config);
        }
        for name in config.secrets.keys() {
            wants.secret(name, config);
        }
        wants
    }

    /// Images whose names come out of planning: tags by content. Asked for once the rest of the
    /// snapshot is there; empty where planning fails, which then needs no image.
    #[must_use]
    pub fn planned_images(&self, snapshot: &Snapshot) -> BTreeSet<String> {
        let Some((manifest, spec)) = self.launch.as_deref() else { return BTreeSet::new() };
        let Ok(plan) = plan(manifest, spec, snapshot) else { return BTreeSet::new() };
        let mut images = images(&plan);
        images.retain(|image| !self.images.contains(image));
        images
    }

    /// Whether a plan for this session can name an engine object so, or pass over one of that name.
    #[must_use]
    pub fn may_name(&self, name: &str) -> bool {
        self.all
            || self.container.as_deref() == Some(name)
            || self.identity.as_ref().is_some_and(|identity| is_named_for(identity, name))
    }

    fn bottle(&mut self, bottle: &Bottle, config: &HostConfig) {
        for value in bottle.env.values() {
            if let EnvValue::Secret { secret, .. } = value {
                self.secret(secret, config);
            }
        }
        for route in bottle.egress.routes.values() {
            let rules = route.allow.iter().chain(&route.deny).filter_map(|r| r.auth.as_ref());
            for auth in route.auth.iter().chain(rules) {
                self.secret(&auth.secret, config);
            }
        }
        self.named_files.extend(bottle.egress.rules.as_ref().map(|rules| rules.path.clone()));
        for remote in bottle.git.values() {
            match &remote.credential {
                GitCredential::None => {}
                GitCredential::IdentityFile { path } => {
                    self.identity_files.insert(path.clone());
                }
                GitCredential::Secret { secret } => self.secret(secret, config),
            }
            if remote.upstream.transport == GitTransport::Ssh && remote.known_host_keys.is_empty() {
                self.known_hosts.insert(known_hosts_entry(&remote.upstream));
            }
        }
        match &bottle.image {
            Image::Reference { reference, .. } => {
                self.references.insert(reference.clone());
                self.images.insert(reference.clone());
            }
            Image::Dockerfile { dockerfile, context, .. } => {
                self.named_files.insert(dockerfile.clone());
                self.contexts.extend(context.clone());
            }
            Image::Provider { .. } => {
                if matches!(bottle.provider, Provider::Command { .. }) {
                    let base = config.base_image.clone();
                    let base = base.unwrap_or_else(|| provider::DEFAULT_BASE.to_string());
                    self.references.insert(base.clone());
                    self.images.insert(base);
                }
            }
        }
        let pipelock = bottle.pipelock.as_ref();
        self.images.extend(pipelock.map(|image| format!("{}@{}", image.name, image.digest)));
    }

    fn secret(&mut self, secret: &SecretName, config: &HostConfig) {
        self.secrets.insert(secret.clone());
        match config.secrets.get(secret) {
            Some(SecretSource::Env { name }) => {
                self.env_names.insert(name.clone());
            }
            Some(SecretSource::File { .. } | SecretSource::Command { .. }) => {}
            None => self.env_names.extend(EnvName::new(secret.as_str()).ok()),
        }
    }
}

/// Every image that a plan names.
fn images(plan: &Plan) -> BTreeSet<String> {
    let mut images: BTreeSet<String> = plan
        .actions
        .iter()
        .flat_map(|action| match &action.op {
            Operation::ImportImage(op) => [Some(op.tag.clone()), None],
            Operation::BuildImage(op) => [Some(op.tag.clone()), None],
            Operation::AssembleImage(op) => [Some(op.tag.clone()), Some(op.base.clone())],
            Operation::PullImage(op) => {
                [Some(format!("{}@{}", op.image.name, op.image.digest)), None]
            }
            Operation::Container(op) => [Some(op.image.clone()), None],
            _ => [None, None],
        })
        .flatten()
        .collect();
    let session = &plan.session;
    images.extend(
        [&session.base_image, &session.agent_image, &session.sidecar_image].map(String::clone),
    );
    images
}

/// Whether the planner gives this name to something of this session.
fn is_named_for(identity: &Identity, name: &str) -> bool {
    let Some(rest) = name.strip_prefix("bottle-") else { return false };
    let identity = identity.as_str();
    // `bottle-<identity>`, and `-2`, `-3`, … where that is taken.
    if let Some(number) = rest.strip_prefix(identity) {
        let counts = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        if number.is_empty() || number.strip_prefix('-').is_some_and(counts) {
            return true;
        }
    }
    let Some(part) = rest.strip_suffix(identity).and_then(|part| part.strip_suffix('-')) else {
        return false;
    };
    ["net", "out", "home", "work", "mirrors"].contains(&part)
        || Role::ALL.into_iter().any(|role| role.as_str() == part)
}

/// A host as `known_hosts` names it (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
#[must_use]
pub fn known_hosts_entry(upstream: &Upstream) -> String {
    match upstream.port {
        22 => upstream.host.to_string(),
        port => format!("[{}]:{port}", upstream.host),
    }
}

/// The session that a launch is for; `None` where its name would break the rule for names.
fn identity(spec: &Spec) -> Option<Identity> {
    match &spec.session {
        SessionRequest::Named { identity } => Some(identity.clone()),
        SessionRequest::New { suffix } => {
            Identity::new(format!("{}-{suffix}", slugify(spec.agent.as_str()))).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::document::{Strictness, parse};

    fn manifest() -> Manifest {
        let text = r#"{
          "agents": {"dev": {"bottle": "box", "git_user": null, "name": "dev", "origin": "home",
            "prompt": "", "skills": ["lint"]}},
          "bottles": {"box": {
            "egress": {"routes": {"api.example.com": {
              "address": null, "allow": [{"access": "all", "auth": {"header": "x-b",
                "placeholder": null, "scheme": "header", "secret": "B"}, "methods": [],
                "paths": []}],
              "allow_private": false, "auth": {"header": "authorization", "placeholder": null,
                "scheme": "Bearer", "secret": "A"},
              "deny": [], "dlp": {"own_secrets": "block", "patterns": "block"}, "port": 443,
              "role": null, "tls": "intercept"}}, "rules": {"path": "rules.toml"}},
            "env": {"X": {"kind": "secret", "secret": "C", "use_at": []},
              "Y": {"kind": "prompt", "message": ""}},
            "git": {"web": {"credential": {"kind": "identity_file", "path": "~/.ssh/id"},
              "extra_hosts": {}, "known_host_keys": [],
              "push": {"branches": [], "delete": false, "force": false, "tags": false},
              "upstream": {"host": "git.example.com", "path": "a", "port": 2222,
                "transport": "ssh", "user": "git"}}},
            "git_user": null,
            "image": {"build": {"allow_from": [], "network": "none"}, "context": "ctx",
              "dockerfile": "ctx/Dockerfile", "kind": "dockerfile"},
            "isolation": "auto", "limits": {"cpus_milli": 1, "idle_seconds": 1,
              "memory_bytes": 1, "pids": 1, "shm_bytes": 1, "time_seconds": 1},
            "lineage": [], "name": "box", "pipelock": null, "provider": {"kind": "claude"},
            "repo_agents": false, "skills": [], "supervise": false,
            "workspace": {"default": null, "hide": [".env*"], "modes": ["copy"], "protect": []}
          }}}"#;
        parse(text, Strictness::Strict).expect("a manifest").value
    }

    fn spec(agent: &str) -> Spec {
        let text = format!(
            r#"{{"agent": "{agent}", "args": [], "at": "2026-01-31T12:00:00Z", "offline": false,
              "overrides": {{"container": null, "derived_image": null, "image": "mine:1"}},
              "refresh": [], "resume": false, "session": {{"kind": "new", "suffix": "abc12"}},
              "task": null, "workspace": {{"mode": null, "path": "/srv/web"}}}}"#
        );
        parse(&text, Strictness::Strict).expect("a spec").value
    }

    fn texts<T: ToString>(set: &BTreeSet<T>) -> Vec<String> {
        set.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_agent_wants_what_its_bottle_names() {
        let mut config = HostConfig::default();
        let name = |n| SecretName::new(n).expect("a name");
        config.secrets.insert(name("A"), SecretSource::File { path: "~/a".into() });
        let source = SecretSource::Env { name: EnvName::new("OTHER").expect("a name") };
        config.secrets.insert(name("B"), source.clone());
        config.secrets.insert(name("UNUSED"), source);
        let wants = Wants::for_agent(&manifest(), &spec("dev"), &config);
        assert_eq!(texts(&wants.secrets), ["A", "B", "C"]);
        assert_eq!(texts(&wants.env_names), ["C", "OTHER"]);
        assert_eq!(texts(&wants.skills), ["lint"]);
        assert_eq!(texts(&wants.named_files), ["ctx/Dockerfile", "rules.toml"]);
        assert_eq!(texts(&wants.contexts), ["ctx"]);
        assert_eq!(texts(&wants.identity_files), ["~/.ssh/id"]);
        assert_eq!(texts(&wants.known_hosts), ["[git.example.com]:2222"]);
        assert_eq!(texts(&wants.images), ["mine:1"]);
        assert_eq!(wants.identity.expect("one").as_str(), "dev-abc12");
        let workspace = wants.workspace.expect("one");
        assert_eq!((workspace.path.as_str(), workspace.mode), ("/srv/web", None));
        assert_eq!(texts(&workspace.hide), [".env*"]);
    }

    #[test]
    fn a_session_names_its_own_and_what_it_passes_over() {
        let mut wants = Wants::for_agent(&manifest(), &spec("dev"), &HostConfig::default());
        wants.container = Some("pinned".into());
        for name in [
            "pinned",
            "bottle-dev-abc12",
            "bottle-dev-abc12-2",
            "bottle-egress-dev-abc12",
            "bottle-git-gate-dev-abc12",
            "bottle-net-dev-abc12",
            "bottle-work-dev-abc12",
        ] {
            assert!(wants.may_name(name), "{name}");
        }
        for name in [
            "database",
            "bottle-dev",
            "bottle-dev-abc123",
            "bottle-dev-abc12-x",
            "bottle-dev-abc12-",
            "bottle-other-dev-abc12",
            "bottle-egress-dev-00000",
            "dev-abc12",
        ] {
            assert!(!wants.may_name(name), "{name}");
        }
        assert!(!Wants::default().may_name("bottle-dev"));
    }

    #[test]
    fn an_agent_that_is_not_there_wants_next_to_nothing() {
        let wants = Wants::for_agent(&manifest(), &spec("other"), &HostConfig::default());
        assert!(wants.secrets.is_empty() && wants.workspace.is_none());
        let all = Wants::everything(&manifest(), &HostConfig::default());
        assert!(all.all && all.secrets.len() == 3 && all.identity.is_none());
    }
}
