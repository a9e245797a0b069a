//! Resolution: manifest + spec + snapshot in, one plan out, or every reason why not.
//!
//! The order of thought is that of the specification: who runs, what is granted, which names and
//! addresses this host gives it, what should therefore exist, and how that differs from what does.

mod amend;
mod destroy;
mod difference;
mod grant;
mod image;
mod place;

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document;
use crate::error::{ErrorCode, PlanError};
use crate::grants::{Grants, ImageGrant, SecretUse};
use crate::lower::lower;
use crate::plan::{
    Action, Effect, FORMAT_VERSION, Intent, Notice, Plan, Requirement, Session, Summary,
};
use crate::policy::{Agent, Approval, Bottle, GitCredential, Manifest, Origin, WorkspaceMode};
use crate::sidecar::PROTOCOL;
use crate::snapshot::Snapshot;
use crate::spec::{SessionRequest, Spec};
use crate::words::{Identity, slugify};

pub use amend::{Amendment, grants_with_image, plan_amended};
pub(crate) use destroy::what_is_saved;
pub use destroy::{Keep, plan_destroy};
pub(crate) use grant::is_container_folder;
use grant::secrets;
pub(crate) use place::{
    PREFIX, WORKSPACE, build_address, derived_tag, image_name, is_wanted, role_addresses,
};
pub use place::{
    RUNSC, agent_container_name, owner_label, pool, sidecar_container_name, sidecar_image,
};

/// Everything the planner is given, as one document: a bug report that replays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Inputs {
    /// The manifest, merged.
    pub manifest: Manifest,
    /// The launch request.
    pub spec: Spec,
    /// What was seen of the host.
    pub snapshot: Snapshot,
}

/// The oldest engine API a plan can be applied with: one network at creation, as of Docker 20.10.
pub const OLDEST_API: (u32, u32) = (1, 41);

/// Plans one launch.
///
/// # Errors
///
/// Every reason at once, sorted; never only the first.
pub fn plan(manifest: &Manifest, spec: &Spec, snapshot: &Snapshot) -> Result<Plan, Vec<PlanError>> {
    let mut ground = Ground::new(manifest, spec, snapshot);
    let made = ground.plan();
    let mut errors = ground.errors;
    errors.sort();
    errors.dedup();
    match made {
        Some(plan) if errors.is_empty() => Ok(plan),
        _ => Err(errors),
    }
}

/// What resolution stands on, and what it gathers on its way.
struct Ground<'a> {
    manifest: &'a Manifest,
    spec: &'a Spec,
    snapshot: &'a Snapshot,
    owner: String,
    errors: Vec<PlanError>,
    notices: BTreeSet<Notice>,
    requires: BTreeSet<Requirement>,
    /// What was approved for this session, and fits its routes.
    approvals: Vec<Approval>,
}

impl<'a> Ground<'a> {
    fn new(manifest: &'a Manifest, spec: &'a Spec, snapshot: &'a Snapshot) -> Self {
        Self {
            manifest,
            spec,
            snapshot,
            owner: owner_label(&snapshot.host),
            errors: Vec::new(),
            notices: BTreeSet::new(),
            requires: BTreeSet::new(),
            approvals: Vec::new(),
        }
    }

    fn error(&mut self, code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(PlanError { code, message: message.into(), hint: hint.into() });
    }

    fn notice(&mut self, code: &str, message: impl Into<String>) {
        self.notices.insert(Notice { code: code.to_string(), message: message.into() });
    }

    fn plan(&mut self) -> Option<Plan> {
        self.check_engine();
        let (agent, bottle) = self.who()?;
        let identity = self.identity()?;
        let mode = self.workspace_mode(bottle);
        let agent_image = self.image(&identity, bottle);
        let grants = self.grant(agent, bottle, mode, agent_image)?;
        let mut session = self.session(&identity, &grants)?;
        self.require(&grants, &session);
        let desired = lower(&identity, &grants, &session, self.spec, &agent.prompt);
        let mut actions = self.difference(&identity, &session, desired)?;
        // What is mounted over a folder is frozen with the container, and with nothing else.
        let fresh = match &session.workspace {
            Some(place) if mode == WorkspaceMode::Mount && makes_agent(&actions) => {
                self.mounted_place(&identity, place.clone())
            }
            _ => session.workspace.clone(),
        };
        if fresh != session.workspace {
            session.workspace = fresh;
            let desired = lower(&identity, &grants, &session, self.spec, &agent.prompt);
            actions = self.difference(&identity, &session, desired)?;
        }
        if !self.errors.is_empty() {
            return None;
        }
        Some(Plan {
            kind: "bottle/plan".to_string(),
            format_version: FORMAT_VERSION.to_string(),
            written_by: self.snapshot.tool.version.clone(),
            intent: Intent::Launch,
            identity,
            parent: self.applied().map(|a| a.plan.clone()),
            spec: self.spec_in_force(&session),
            grants,
            session,
            requires: core::mem::take(&mut self.requires),
            summary: summarize(&actions),
            actions,
            notices: core::mem::take(&mut self.notices).into_iter().collect(),
        })
    }

    /// The spec as it is stored: a plan for a session that is up keeps its time, so that the time
    /// of planning alone changes nothing.
    fn spec_in_force(&self, session: &Session) -> Spec {
        let mut spec = self.spec.clone();
        spec.at = session.started_at.clone();
        spec
    }

    fn check_engine(&mut self) {
        match &self.snapshot.engine {
            None if self.spec.offline => {}
            None => self.error(
                ErrorCode::EngineUnreachable,
                "no container engine answers",
                "start one (`systemctl start docker`, or `dockerd &`), see `bottle doctor`, or \
                 plan from a stored snapshot with --snapshot FILE",
            ),
            Some(engine) if engine.api < OLDEST_API => {
                let (name, version) = (engine.name.clone(), engine.version.clone());
                self.error(
                    ErrorCode::EngineTooOld,
                    format!(
                        "{name} {version} speaks API {}.{}, expected at least {}.{}",
                        engine.api.0, engine.api.1, OLDEST_API.0, OLDEST_API.1
                    ),
                    "install Docker 20.10 or newer",
                );
            }
            Some(engine) => {
                if let Some(why) = engine.is_unfit() {
                    let hint = "point DOCKER_HOST at Docker 20.10 or newer";
                    self.error(ErrorCode::EngineUnfit, why, hint);
                }
            }
        }
        self.requires.insert(Requirement::EngineApi { major: OLDEST_API.0, minor: OLDEST_API.1 });
        self.requires.insert(Requirement::SidecarProtocol { version: PROTOCOL });
    }

    fn who(&mut self) -> Option<(&'a Agent, &'a Bottle)> {
        let Some(agent) = self.manifest.agents.get(&self.spec.agent) else {
            let known: Vec<&str> = self.manifest.agents.keys().map(|n| n.as_str()).collect();
            self.error(
                ErrorCode::UnknownAgent,
                format!("there is no agent `{}`", self.spec.agent),
                if known.is_empty() {
                    "write one with `bottle init`".to_string()
                } else {
                    format!("known agents: {}", known.join(", "))
                },
            );
            return None;
        };
        let Some(bottle) = self.manifest.bottles.get(&agent.bottle) else {
            self.error(
                ErrorCode::UnknownBottle,
                format!(
                    "agent `{}` names bottle `{}`, which is not there",
                    agent.name, agent.bottle
                ),
                format!("write bottles/{}.md in the manifest folder", agent.bottle),
            );
            return None;
        };
        if agent.origin == Origin::Repository {
            self.check_repository_agent(agent, bottle);
        }
        Some((agent, bottle))
    }

    fn check_repository_agent(&mut self, agent: &Agent, bottle: &Bottle) {
        if !bottle.repo_agents {
            self.error(
                ErrorCode::RepositoryAgent,
                format!(
                    "agent `{}` comes from the repository, and bottle `{}` does not lend itself to \
                     such agents",
                    agent.name, bottle.name
                ),
                format!("if you trust it, say `repo_agents: true` in bottle `{}`", bottle.name),
            );
        }
        for skill in agent.skills.difference(&bottle.skills) {
            self.error(
                ErrorCode::RepositoryAgent,
                format!(
                    "agent `{}` comes from the repository and names skill `{skill}`, which bottle \
                     `{}` does not list",
                    agent.name, bottle.name
                ),
                format!("if you trust it, add `{skill}` to `skills` of bottle `{}`", bottle.name),
            );
        }
        self.notice(
            "agent_from_repository",
            format!("agent `{}` and its prompt are from the repository", agent.name),
        );
    }

    fn identity(&mut self) -> Option<Identity> {
        let identity = match &self.spec.session {
            SessionRequest::Named { identity } => Ok(identity.clone()),
            SessionRequest::New { suffix }
                if suffix.len() == 5
                    && suffix.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()) =>
            {
                Identity::new(format!("{}-{suffix}", slugify(self.spec.agent.as_str())))
            }
            SessionRequest::New { suffix } => {
                self.error(
                    ErrorCode::BadSession,
                    format!("expected a suffix of five characters [a-z0-9], found `{suffix}`"),
                    "leave the session out of the spec, or name it with --identity",
                );
                return None;
            }
        };
        match identity {
            Ok(identity) => {
                if let Some(applied) = self.applied()
                    && applied.spec.agent != self.spec.agent
                {
                    self.error(
                        ErrorCode::BadSession,
                        format!("session `{identity}` is of agent `{}`", applied.spec.agent),
                        "name another session, or leave --identity away for a new one",
                    );
                }
                Some(identity)
            }
            Err(error) => {
                self.error(ErrorCode::BadSession, error.to_string(), "choose a shorter name");
                None
            }
        }
    }

    fn applied(&self) -> Option<&'a crate::snapshot::Applied> {
        self.snapshot.session.as_ref().and_then(|s| s.applied.as_ref())
    }

    fn workspace_mode(&mut self, bottle: &Bottle) -> WorkspaceMode {
        let Some(request) = &self.spec.workspace else { return WorkspaceMode::None };
        let is_git = self.snapshot.workspace.as_ref().is_some_and(|w| w.commit.is_some());
        let by_folder = if is_git { WorkspaceMode::Clone } else { WorkspaceMode::Copy };
        let mode = request.mode.or(bottle.workspace.default).unwrap_or(by_folder);
        if !bottle.workspace.modes.contains(&mode) {
            let allowed: Vec<&str> = bottle.workspace.modes.iter().map(|m| m.as_str()).collect();
            self.error(
                ErrorCode::BadWorkspace,
                format!(
                    "bottle `{}` does not allow workspace mode `{}`",
                    bottle.name,
                    mode.as_str()
                ),
                format!("allowed: {}", allowed.join(", ")),
            );
        }
        mode
    }

    /// What must still hold when the plan is applied.
    fn require(&mut self, grants: &Grants, session: &Session) {
        self.requires.insert(Requirement::Owner { owner: session.owner.clone() });
        self.requires.insert(Requirement::Tool { digest: session.tool.clone() });
        self.requires.insert(upstream_proxy(session));
        self.requires.extend(upstream_ca(session));
        if let Some(name) = &session.runtime {
            self.requires.insert(Requirement::Runtime { name: name.clone() });
        }
        for (name, digest) in &grants.agent.skills {
            self.requires.insert(Requirement::Skill { name: name.clone(), digest: digest.clone() });
        }
        for (secret, uses) in &grants.secrets {
            self.requires.insert(Requirement::Secret { secret: secret.clone() });
            if !self.snapshot.secrets.contains(secret) && !self.spec.offline {
                let place = match uses.first() {
                    Some(SecretUse::Inject { host }) => format!("route {host}"),
                    Some(SecretUse::Env { name }) => format!("variable {name}"),
                    Some(SecretUse::Git { remote }) => format!("git remote {remote}"),
                    None => String::new(),
                };
                self.notice(
                    "secret_not_available",
                    format!("secret `{secret}` ({place}) has no source that answers here; apply needs it"),
                );
            }
        }
        for remote in grants.git.values() {
            if let GitCredential::IdentityFile { path } = &remote.credential {
                self.requires.insert(Requirement::IdentityFile { path: path.clone() });
            }
        }
        if let Some(place) = &session.workspace {
            self.requires.insert(Requirement::Workspace {
                path: place.host.clone(),
                digest: place.digest.clone(),
            });
        }
        if let ImageGrant::Reference { reference, digest, .. } = &grants.image {
            let pinned_elsewhere = reference.contains("@sha256:");
            self.requires.insert(Requirement::Image {
                reference: reference.clone(),
                id: if pinned_elsewhere { None } else { digest.clone() },
            });
        }
    }
}

/// The requirement that the applying host's own config names the session's proxy.
pub(crate) fn upstream_proxy(session: &Session) -> Requirement {
    let (proxy, no_proxy) = match &session.upstream_proxy {
        Some((proxy, no_proxy)) => (Some(proxy.clone()), no_proxy.clone()),
        None => (None, Vec::new()),
    };
    Requirement::UpstreamProxy { proxy, no_proxy }
}

/// The requirement that the applying host's own config names the certificate authorities that
/// egress trusts. Without any there is nothing to ask for.
pub(crate) fn upstream_ca(session: &Session) -> Option<Requirement> {
    let ca = session.upstream_ca.as_ref()?;
    Some(Requirement::UpstreamCa { digest: crate::words::Digest::of(ca.as_bytes()) })
}

fn makes_agent(actions: &[Action]) -> bool {
    actions.iter().any(|action| {
        matches!(&action.op, crate::plan::Operation::Container(spec) if spec.role == crate::words::Role::Agent)
            && action.effect != Effect::None
    })
}

/// Counts effects.
pub(crate) fn summarize(actions: &[Action]) -> Summary {
    let mut summary = Summary::default();
    for action in actions {
        match action.effect {
            Effect::Create => summary.create += 1,
            Effect::Update => summary.update += 1,
            Effect::Replace => summary.replace += 1,
            Effect::Delete => summary.delete += 1,
            Effect::None => summary.none += 1,
        }
        summary.destructive += u32::from(action.destructive);
    }
    summary
}

/// The digest of a plan: what approves it, names it, and is compared at apply.
pub fn plan_digest(plan: &Plan) -> Result<crate::words::Digest, document::DocumentError> {
    document::digest(plan)
}

/// The digest of the grants: the same on every host.
pub fn grants_digest(grants: &Grants) -> Result<crate::words::Digest, document::DocumentError> {
    document::digest(grants)
}
