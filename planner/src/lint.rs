//! Lint: an independent check of what every plan must keep to, whoever wrote it.
//!
//! Run before each apply. The sidecar files are rendered again from the grants and compared byte
//! by byte, so that a plan from a pull request cannot hide a rule in a file's text; and each
//! security invariant is checked on the actions themselves, without asking how they came about.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::approvals::is_allowed;
use crate::document;
use crate::gate;
use crate::grants::{Grants, ImageGrant};
use crate::lower::{Desired, lower};
use crate::manifest::globs::is_image_reference;
use crate::pem;
use crate::plan::{
    Action, ActionId, BuildImage, BuildReach, ContainerSpec, Effect, Expect, FORMAT_VERSION,
    Intent, LABEL_IDENTITY, LABEL_OWNER, LABEL_ROLE, LABEL_SPEC, Mount, NetworkPlace, Operation,
    Plan, Requirement, Save, SecretRef, Session, User,
};
use crate::policy::{Approval, BuildNetwork, GitCredential, Isolation, WorkspaceMode};
use crate::proposed_image;
use crate::resolve::{
    OLDEST_API, PREFIX, RUNSC, WORKSPACE, build_address, is_container_folder, is_wanted,
    role_addresses, sidecar_container_name, summarize, what_is_saved,
};
use crate::sidecar::PROTOCOL;
use crate::spec::SessionRequest;
use crate::words::{AbsPath, Digest, Role, slugify};

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Finding {
    /// Which rule.
    pub rule: LintRule,
    /// Where, if it is about one action.
    pub action: Option<ActionId>,
    /// What was expected and what was found.
    pub message: String,
}

/// The rules. Each has a mutation in the tests that it, and it above all, rejects.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LintRule {
    /// It is a plan, of a format that this version writes.
    Format,
    /// Ids are unique and begin with the kind they name.
    Ids,
    /// Dependencies exist and come before what depends on them.
    Order,
    /// Effect, expectation and kind belong together.
    Effects,
    /// Whatever may lose work says so, and nothing else does.
    Destructive,
    /// The summary counts what is there.
    Summary,
    /// A launch does not tear down; an end does not build.
    Intent,
    /// An agent's work is saved whole, and before anything of its session goes.
    Saved,
    /// Files, containers and all else are exactly what the grants lower to.
    Rendered,
    /// Nothing that the grants lower to is missing.
    Complete,
    /// Files stay out of what the executor and the containers keep for themselves.
    Paths,
    /// No file is setuid or writable by others.
    Modes,
    /// Objects bear this session's names.
    Names,
    /// Objects bear this session's labels, and the digest of what was asked.
    Labels,
    /// The agent has one network, which is internal; the way out is egress's alone.
    Networks,
    /// Image names are the content addresses of what was granted.
    Images,
    /// Each role mounts what it may, and the agent alone the workspace.
    Mounts,
    /// Addresses lie in their subnets and are given once.
    Addresses,
    /// Secrets go where the grants say and nowhere else.
    Secrets,
    /// The prompt is the one that was granted.
    Prompt,
    /// What must hold before apply is all there.
    Requires,
    /// What the host chose is a choice that the grants leave open.
    Session,
    /// The launch request is the one that the grants and the session answer.
    Spec,
}

/// Every broken rule of a plan, sorted; empty is clean.
#[must_use]
pub fn lint(plan: &Plan) -> Vec<Finding> {
    let mut lint = Lint { plan, findings: Vec::new() };
    lint.format();
    lint.ids();
    lint.order();
    lint.summary();
    lint.addresses();
    lint.requires();
    for action in &plan.actions {
        lint.effect(action);
        lint.intent(action);
        lint.operation(action);
    }
    if plan.intent == Intent::Launch {
        lint.rendered();
        lint.session();
        lint.spec();
    }
    let mut findings = lint.findings;
    findings.sort();
    findings.dedup();
    findings
}

struct Lint<'a> {
    plan: &'a Plan,
    findings: Vec<Finding>,
}

impl Lint<'_> {
    fn say(&mut self, rule: LintRule, message: impl Into<String>) {
        self.findings.push(Finding { rule, action: None, message: message.into() });
    }

    fn say_of(&mut self, rule: LintRule, action: &Action, message: impl Into<String>) {
        let action = Some(action.id.clone());
        self.findings.push(Finding { rule, action, message: message.into() });
    }

    fn format(&mut self) {
        if self.plan.kind != "bottle/plan" {
            self.say(
                LintRule::Format,
                format!("expected kind bottle/plan, found {:?}", self.plan.kind),
            );
        }
        let major = |version: &str| version.split('.').next().map(String::from);
        if major(&self.plan.format_version) != major(FORMAT_VERSION) {
            let found = &self.plan.format_version;
            self.say(
                LintRule::Format,
                format!("expected format {FORMAT_VERSION}, found {found:?}"),
            );
        }
    }

    fn ids(&mut self) {
        let mut seen = BTreeSet::new();
        for action in &self.plan.actions {
            if !seen.insert(&action.id) {
                self.say_of(LintRule::Ids, action, "the id occurs twice");
            }
            let kind = kind(&action.op);
            let fits =
                action.id.0.strip_prefix(kind).is_some_and(|rest| {
                    rest.strip_prefix(':').is_some_and(|name| !name.is_empty())
                });
            if !fits {
                self.say_of(
                    LintRule::Ids,
                    action,
                    format!("expected an id that begins with {kind}:"),
                );
            }
        }
    }

    fn order(&mut self) {
        let mut before: BTreeSet<&ActionId> = BTreeSet::new();
        for action in &self.plan.actions {
            for dependency in &action.depends_on {
                if !before.contains(dependency) {
                    let message = format!("depends on {dependency}, which does not come before it");
                    self.say_of(LintRule::Order, action, message);
                }
            }
            before.insert(&action.id);
        }
    }

    fn summary(&mut self) {
        let counted = summarize(&self.plan.actions);
        if counted != self.plan.summary {
            let message = format!("expected {counted:?}, found {:?}", self.plan.summary);
            self.say(LintRule::Summary, message);
        }
    }

    fn effect(&mut self, action: &Action) {
        if (action.effect == Effect::None) != (action.expect == Expect::Satisfied) {
            self.say_of(
                LintRule::Effects,
                action,
                "effect `none` and expectation `satisfied` go together",
            );
        }
        let deletes = matches!(
            action.op,
            Operation::RemoveFile(_)
                | Operation::RemoveContainer(_)
                | Operation::RemoveNetwork(_)
                | Operation::RemoveVolume(_)
                | Operation::RemovePlaceholder(_)
                | Operation::Archive(_)
        );
        if deletes != (action.effect == Effect::Delete) {
            self.say_of(
                LintRule::Effects,
                action,
                format!("effect {:?} does not fit the kind", action.effect),
            );
        }
        let loses = matches!(action.op, Operation::RemoveVolume(_));
        if loses != action.destructive {
            let message = format!("expected destructive: {loses}, found {}", action.destructive);
            self.say_of(LintRule::Destructive, action, message);
        }
    }

    fn intent(&mut self, action: &Action) {
        let tears_down = matches!(
            action.op,
            Operation::Stop(_)
                | Operation::RemoveContainer(_)
                | Operation::RemoveNetwork(_)
                | Operation::RemoveVolume(_)
                | Operation::RemovePlaceholder(_)
                | Operation::Save(_)
                | Operation::Archive(_)
        );
        let ends = matches!(
            action.op,
            Operation::RemoveVolume(_)
                | Operation::RemovePlaceholder(_)
                | Operation::Save(_)
                | Operation::Archive(_)
        );
        match self.plan.intent {
            Intent::Launch if ends => {
                self.say_of(
                    LintRule::Intent,
                    action,
                    "a launch removes nothing of a workspace and archives nothing",
                );
            }
            Intent::Destroy if !tears_down => {
                self.say_of(LintRule::Intent, action, "the end of a session makes nothing");
            }
            _ => {}
        }
    }

    fn operation(&mut self, action: &Action) {
        match &action.op {
            Operation::Folder(folder) => {
                self.path(action, folder.path.path.as_str());
                // A rootless engine cannot give the agent's folder an owner: see `lower`.
                let shared = folder.path.path.as_str() == "agent/out";
                if folder.mode & !0o777 != 0 || (folder.mode & 0o022 != 0 && !shared) {
                    self.say_of(LintRule::Modes, action, format!("mode {:o}", folder.mode));
                }
            }
            Operation::File(file) => {
                self.path(action, file.path.path.as_str());
                if file.mode & !0o644 != 0 {
                    self.say_of(LintRule::Modes, action, format!("mode {:o}", file.mode));
                }
            }
            Operation::RemoveFile(file) => self.path(action, file.path.path.as_str()),
            Operation::MintCa(mint) => {
                self.path(action, mint.key.path.as_str());
                self.path(action, mint.certificate.path.as_str());
            }
            Operation::Network(network) => {
                self.labels(action, &network.labels, None);
                let mut bare = network.clone();
                bare.labels.remove(LABEL_SPEC);
                self.spec_label(action, &network.labels, document::fingerprint(&bare).ok());
                let expected = if network.name == self.plan.session.net.name {
                    Some(true)
                } else if network.name == self.plan.session.out.name {
                    Some(false)
                } else {
                    None
                };
                match expected {
                    None => self.name(action, &network.name),
                    Some(internal) if internal != network.internal => {
                        let message = format!("{} must have internal: {internal}", network.name);
                        self.say_of(LintRule::Networks, action, message);
                    }
                    Some(_) => {}
                }
            }
            Operation::Volume(volume) => {
                self.labels(action, &volume.labels, None);
                let mut bare = volume.clone();
                bare.labels.remove(LABEL_SPEC);
                self.spec_label(action, &volume.labels, document::fingerprint(&bare).ok());
                self.volume_name(action, &volume.name);
            }
            Operation::Container(spec) => self.container(action, spec),
            Operation::Connect(connect) => {
                let out = &self.plan.session.out.name;
                let allowed = self.plan.session.places.iter().any(|(role, place)| {
                    matches!(role, Role::Egress | Role::Pipelock)
                        && place.container == connect.container
                });
                if !allowed || connect.network != *out {
                    let message = format!(
                        "{} may not be connected to {}",
                        connect.container, connect.network
                    );
                    self.say_of(LintRule::Networks, action, message);
                }
            }
            Operation::Upload(upload) => {
                self.container_name(action, Role::Agent, &upload.container);
                if let Some(volume) = &upload.volume {
                    self.volume_name(action, volume);
                }
            }
            Operation::Start(reference)
            | Operation::Stop(reference)
            | Operation::RemoveContainer(reference) => {
                self.session_container(action, reference.role, &reference.container);
            }
            Operation::Reload(reload) => {
                self.container_name(action, reload.role, &reload.container);
            }
            Operation::Deliver(deliver) => {
                self.container_name(action, deliver.role, &deliver.container);
                self.deliveries(action, deliver.role, &deliver.items);
            }
            Operation::RemoveNetwork(reference) => {
                let session = &self.plan.session;
                if reference.name != session.net.name && reference.name != session.out.name {
                    self.name(action, &reference.name);
                }
            }
            Operation::RemoveVolume(reference) => self.volume_name(action, &reference.name),
            Operation::Placeholder(stand) | Operation::RemovePlaceholder(stand) => {
                if self.mounted() != Some(&stand.workspace) {
                    let message = format!("{} is not mounted by this session", stand.workspace);
                    self.say_of(LintRule::Paths, action, message);
                }
            }
            Operation::Save(save) => self.save(action, save),
            Operation::Archive(archive) => {
                if archive.identity != self.plan.identity {
                    self.name(action, archive.identity.as_str());
                }
            }
            Operation::ImportImage(image) => {
                let expected = format!("bottle-sidecar:{}", image.tool.short());
                if image.tag != expected || image.tool != self.plan.session.tool {
                    self.say_of(LintRule::Names, action, format!("expected tag {expected}"));
                }
            }
            Operation::BuildImage(image) => {
                self.image_name(action, &image.tag);
                self.build(action, image);
            }
            Operation::AssembleImage(image) => self.image_name(action, &image.tag),
            Operation::PullImage(_) => {}
        }
    }

    /// A build stands on this session's network or on none of a session's; what an agent proposed is
    /// built nowhere else.
    fn build(&mut self, action: &Action, image: &BuildImage) {
        let session = &self.plan.session;
        if image.tag == gate::image(session.sidecar_user, self.plan.grants.gate_base.as_deref()) {
            if image.network != BuildReach::Open {
                self.say_of(
                    LintRule::Networks,
                    action,
                    "the git gate is built on no session's network",
                );
            }
            return;
        }
        let approved =
            matches!(self.plan.grants.image, ImageGrant::Build { approved_change: true, .. });
        match &image.network {
            BuildReach::Session(place) => {
                let good = place.network == session.net.name
                    && Some(place.address) == build_address(session.net.subnet)
                    && !session.places.values().any(|other| other.net == place.address);
                if !good || !approved || image.context.is_some() {
                    let message = format!("{} is no place for this build", place.network);
                    self.say_of(LintRule::Networks, action, message);
                }
                self.labels(action, &place.labels, None);
            }
            BuildReach::Open | BuildReach::None if approved => {
                let message = "what an agent proposed is built on its session's network";
                self.say_of(LintRule::Networks, action, message);
            }
            BuildReach::Open | BuildReach::None => {}
        }
    }

    /// The folder of the host that this session mounts.
    fn mounted(&self) -> Option<&AbsPath> {
        let place = self.plan.session.workspace.as_ref();
        place.filter(|place| place.mode == WorkspaceMode::Mount).map(|place| &place.host)
    }

    /// What is saved is this agent's, all of it, and before anything goes.
    fn save(&mut self, action: &Action, save: &Save) {
        self.session_container(action, Role::Agent, &save.container);
        let expected = what_is_saved(&self.plan.session, &self.plan.grants, &save.container);
        if *save != expected {
            self.say_of(LintRule::Saved, action, "saves something else than the agent's work");
        }
        for other in self.plan.actions.iter().filter(|a| a.effect == Effect::Delete) {
            if !other.depends_on.contains(&action.id) {
                let message = format!("{} does not wait for it", other.id);
                self.say_of(LintRule::Saved, action, message);
            }
        }
    }

    fn path(&mut self, action: &Action, path: &str) {
        const TOP: [&str; 3] = ["metadata.json", "approvals.json", ".preserve"];
        let mut parts = path.split('/');
        let role = parts.next().unwrap_or_default();
        let kind = parts.next();
        let of_role = Role::ALL.iter().any(|r| r.as_str() == role);
        let folder = matches!(action.op, Operation::Folder(_));
        let allowed = match kind {
            None => TOP.contains(&path) || (folder && of_role),
            Some("in") => of_role && !path.ends_with("/applied.json"),
            Some("out") => of_role && folder,
            Some(_) => false,
        };
        if !allowed {
            self.say_of(LintRule::Paths, action, format!("{path} is not a plan's to touch"));
        }
    }

    fn name(&mut self, action: &Action, name: &str) {
        let identity = &self.plan.identity;
        self.say_of(LintRule::Names, action, format!("{name} is no name of session {identity}"));
    }

    fn image_name(&mut self, action: &Action, tag: &str) {
        let session = &self.plan.session;
        let gate = gate::image(session.sidecar_user, self.plan.grants.gate_base.as_deref());
        if tag != session.base_image && tag != session.agent_image && tag != gate {
            self.name(action, tag);
        }
    }

    fn volume_name(&mut self, action: &Action, name: &str) {
        let identity = &self.plan.identity;
        let agents = ["home", "work", "git"].map(|key| format!("bottle-{key}-{identity}"));
        if !agents.iter().any(|known| known == name) && name != gate::volume(identity) {
            self.name(action, name);
        }
    }

    fn container_name(&mut self, action: &Action, role: Role, name: &str) {
        let known = self.plan.session.places.get(&role).map(|place| place.container.as_str());
        if known != Some(name) {
            self.name(action, name);
        }
    }

    /// Containers that go may bear a name this session had before.
    fn session_container(&mut self, action: &Action, role: Role, name: &str) {
        let identity = &self.plan.identity;
        let known = self.plan.session.places.get(&role).map(|p| p.container.as_str()) == Some(name);
        let goes = matches!(
            action.op,
            Operation::Stop(_) | Operation::RemoveContainer(_) | Operation::Save(_)
        );
        let by_id = matches!(action.expect, Expect::Object { .. } | Expect::Satisfied);
        let ours = name.starts_with("bottle-") && name.contains(identity.as_str());
        let pinned = self.plan.spec.overrides.container.as_deref() == Some(name);
        if !(known || (goes && by_id && (ours || pinned))) {
            self.name(action, name);
        }
    }

    fn labels(&mut self, action: &Action, labels: &BTreeMap<String, String>, role: Option<Role>) {
        let session = &self.plan.session;
        let good = labels.get(LABEL_IDENTITY).map(String::as_str)
            == Some(self.plan.identity.as_str())
            && labels.get(LABEL_OWNER) == Some(&session.owner)
            && labels.get(LABEL_ROLE).map(String::as_str) == role.map(Role::as_str);
        if !good {
            self.say_of(
                LintRule::Labels,
                action,
                "identity, owner or role label is not this session's",
            );
        }
    }

    fn spec_label(
        &mut self,
        action: &Action,
        labels: &BTreeMap<String, String>,
        digest: Option<Digest>,
    ) {
        if labels.get(LABEL_SPEC).map(String::as_str) != digest.as_ref().map(Digest::as_str) {
            self.say_of(
                LintRule::Labels,
                action,
                "the spec label is not the digest of what is asked",
            );
        }
    }

    fn container(&mut self, action: &Action, spec: &ContainerSpec) {
        self.container_name(action, spec.role, &spec.name);
        self.labels(action, &spec.labels, Some(spec.role));
        let mut bare = spec.clone();
        bare.labels.remove(LABEL_SPEC);
        self.spec_label(action, &spec.labels, document::fingerprint(&bare).ok());
        if spec.network != self.plan.session.net.name {
            let message = format!("created on {}, not on the internal network", spec.network);
            self.say_of(LintRule::Networks, action, message);
        }
        let egress = self.plan.session.places.get(&Role::Egress).map(|place| place.net);
        let own_resolver = matches!(spec.role, Role::Egress | Role::Pipelock);
        if spec.dns != if own_resolver { None } else { egress } {
            self.say_of(LintRule::Networks, action, "its resolver is not egress");
        }
        for mount in &spec.mounts {
            let allowed = match mount {
                Mount::In | Mount::Out => true,
                Mount::Bin { tool } => {
                    matches!(spec.role, Role::Agent | Role::GitGate)
                        && *tool == self.plan.session.tool
                }
                Mount::ResolvConf => spec.role == Role::Agent,
                Mount::Workspace { path } => {
                    spec.role == Role::Agent && self.mounted() == Some(path)
                }
                Mount::Guard { path, .. } => {
                    spec.role == Role::Agent
                        && self.mounted().is_some_and(|host| path != host && path.is_within(host))
                }
                Mount::Volume { name, .. } => {
                    self.volume_name(action, name);
                    let mirrors = *name == gate::volume(&self.plan.identity);
                    spec.role == if mirrors { Role::GitGate } else { Role::Agent }
                }
            };
            if !allowed {
                self.say_of(
                    LintRule::Mounts,
                    action,
                    format!("{} may not mount {mount:?}", spec.role),
                );
            }
        }
        if spec.role == Role::Agent && spec.user.uid == 0 {
            self.say_of(LintRule::Modes, action, "the agent runs as user 0");
        }
    }

    fn addresses(&mut self) {
        let session = &self.plan.session;
        if session.net.subnet.overlaps(session.out.subnet) {
            self.say(LintRule::Addresses, "the two networks overlap");
        }
        let mut given = BTreeSet::new();
        for (role, place) in &self.plan.session.places {
            if !session.net.subnet.contains(place.net)
                || place.out.is_some_and(|out| !session.out.subnet.contains(out))
            {
                self.say(LintRule::Addresses, format!("{role} lies outside its subnet"));
            }
            if !given.insert(place.net) || place.out.is_some_and(|out| !given.insert(out)) {
                self.say(LintRule::Addresses, format!("{role}'s address is given twice"));
            }
            let has_way_out = matches!(role, Role::Egress | Role::Pipelock);
            if place.out.is_some() != has_way_out {
                self.say(
                    LintRule::Networks,
                    format!("{role} has a way out of its own, or egress none"),
                );
            }
        }
    }

    fn deliveries(&mut self, action: &Action, role: Role, items: &BTreeMap<String, SecretRef>) {
        let grants = &self.plan.grants;
        for (key, value) in items {
            let granted = match value {
                SecretRef::Secret { secret } => grants.secrets.contains_key(secret),
                SecretRef::Prompt { name, .. } => grants.prompts().iter().any(|(n, _)| *n == name),
                SecretRef::IdentityFile { path } => {
                    role == Role::GitGate
                        && grants.git.values().any(|remote| {
                            remote.credential == GitCredential::IdentityFile { path: path.clone() }
                        })
                }
            };
            let fits = match role {
                Role::Egress => key.starts_with("inject:") || key.starts_with("scan:"),
                Role::GitGate => key.starts_with("git:") || key.starts_with("scan:"),
                Role::Agent => grants.env.keys().any(|name| name.as_str() == key),
                Role::Supervise | Role::Pipelock => false,
            };
            if !granted || !fits {
                let message = format!("{key} is not granted to {role}");
                self.say_of(LintRule::Secrets, action, message);
            }
        }
    }

    fn requires(&mut self) {
        let mut expected = Vec::from([
            Requirement::EngineApi { major: OLDEST_API.0, minor: OLDEST_API.1 },
            Requirement::Owner { owner: self.plan.session.owner.clone() },
        ]);
        if self.plan.intent == Intent::Launch {
            expected.extend(launch_requirements(&self.plan.grants));
            expected.push(Requirement::SidecarProtocol { version: PROTOCOL });
            expected.push(Requirement::Tool { digest: self.plan.session.tool.clone() });
            expected.push(crate::resolve::upstream_proxy(&self.plan.session));
            expected.extend(crate::resolve::upstream_ca(&self.plan.session));
            if let Some(name) = &self.plan.session.runtime {
                expected.push(Requirement::Runtime { name: name.clone() });
            }
            if let Some(w) = &self.plan.session.workspace {
                expected.push(Requirement::Workspace {
                    path: w.host.clone(),
                    digest: w.digest.clone(),
                });
            }
        }
        for requirement in expected {
            if !self.plan.requires.contains(&requirement) {
                self.say(LintRule::Requires, format!("{requirement:?} is missing"));
            }
        }
    }

    /// Everything again from the grants, and byte by byte the same.
    fn rendered(&mut self) {
        let plan = self.plan;
        let prompt = plan.prompt();
        if prompt.map(|p| Digest::of(p.as_bytes())).as_ref() != Some(&plan.grants.agent.prompt) {
            self.say(LintRule::Prompt, "the prompt file is not the prompt that was granted");
        }
        self.images();
        let desired: BTreeMap<ActionId, Desired> =
            lower(&plan.identity, &plan.grants, &plan.session, &plan.spec, prompt.unwrap_or(""))
                .into_iter()
                .map(|desired| (desired.id.clone(), desired))
                .collect();
        let present: BTreeSet<&ActionId> = plan.actions.iter().map(|a| &a.id).collect();
        for action in &plan.actions {
            match desired.get(&action.id) {
                Some(wanted) => self.same(action, wanted, &present),
                None => self.unasked(action, &desired),
            }
        }
        for id in desired.keys() {
            // A sidecar that is started reads its files then; there is nothing to reload.
            if !present.contains(id) && !id.0.starts_with("reload:") {
                self.say(LintRule::Complete, format!("{id} is missing"));
            }
        }
    }

    /// The images' names are facts of the session, so they are derived from the grants once more.
    fn images(&mut self) {
        let plan = self.plan;
        let session = &plan.session;
        let gate_base = plan.grants.gate_base.as_deref();
        if gate_base.is_some_and(|base| !is_image_reference(base)) {
            self.say(LintRule::Images, "the git gate's base is no image reference".to_string());
        }
        if let ImageGrant::Build { dockerfile, context, network, hosts, approved_change, .. } =
            &plan.grants.image
        {
            let in_session = *network == BuildNetwork::Session;
            if in_session != *approved_change || (*approved_change && context.is_some()) {
                self.say(LintRule::Images, "only an approved change is built in its session");
            }
            if !*approved_change && !hosts.is_empty() {
                self.say(LintRule::Images, "only an approved change names hosts of its build");
            }
            // What it may build on only the planner could know; all else can be seen again here.
            if *approved_change
                && let Err(findings) =
                    proposed_image::check(dockerfile, &BTreeSet::new(), dockerfile)
            {
                self.say(
                    LintRule::Images,
                    format!("the approved Dockerfile, {}", findings.join("; ")),
                );
            }
        }
        let base = crate::resolve::image_name(&plan.identity, &plan.grants.image);
        if session.base_image != base {
            let found = &session.base_image;
            self.say(LintRule::Images, format!("expected base image {base}, found {found}"));
        }
        let derived = match &session.workspace {
            Some(place) if matches!(place.mode, WorkspaceMode::Copy | WorkspaceMode::Clone) => {
                plan.spec.overrides.derived_image.clone().unwrap_or_else(|| {
                    crate::resolve::derived_tag(
                        &plan.identity,
                        &plan.grants,
                        place,
                        &base,
                        session.agent_user,
                    )
                })
            }
            _ => base,
        };
        if session.agent_image != derived {
            let found = &session.agent_image;
            self.say(LintRule::Images, format!("expected agent image {derived}, found {found}"));
        }
    }

    fn same(&mut self, action: &Action, wanted: &Desired, present: &BTreeSet<&ActionId>) {
        let mut op = action.op.clone();
        if let Operation::MintCa(mint) = &mut op {
            mint.fingerprint = None;
        }
        if op != wanted.op {
            self.say_of(LintRule::Rendered, action, "is not what the grants lower to");
        }
        let missing = wanted
            .depends_on
            .iter()
            .filter(|id| present.contains(id))
            .any(|id| !action.depends_on.contains(id));
        if missing {
            self.say_of(LintRule::Order, action, "lacks a dependency");
        }
    }

    /// What the grants do not lower to may only take away, and no file that they lower to.
    fn unasked(&mut self, action: &Action, desired: &BTreeMap<ActionId, Desired>) {
        let takes_away = match &action.op {
            Operation::Stop(_) | Operation::RemoveContainer(_) | Operation::RemoveNetwork(_) => {
                true
            }
            Operation::RemoveFile(file) => !desired.values().any(|wanted| match &wanted.op {
                Operation::File(kept) => kept.path == file.path,
                Operation::MintCa(mint) => mint.key == file.path || mint.certificate == file.path,
                _ => false,
            }),
            _ => false,
        };
        if !takes_away {
            self.say_of(LintRule::Rendered, action, "is nothing that the grants ask for");
        }
    }

    /// The session is not part of what is approved, so it may hold nothing that would weaken it.
    fn session(&mut self) {
        let (session, grants) = (&self.plan.session, &self.plan.grants);
        let runsc = session.runtime.as_deref() == Some(RUNSC);
        let walled = match grants.isolation {
            Isolation::Gvisor => runsc,
            Isolation::Auto => runsc || session.runtime.is_none(),
            Isolation::Container => session.runtime.is_none(),
        };
        if !walled {
            let (wall, runtime) = (grants.isolation, &session.runtime);
            let message = format!("isolation {wall:?} does not go with runtime {runtime:?}");
            self.say(LintRule::Session, message);
        }
        if let Some(ca) = &session.upstream_ca
            && pem::certificates(ca).as_ref() != Ok(ca)
        {
            self.say(LintRule::Session, "the upstream CA is not certificates alone");
        }
        self.approvals();
        self.roles();
        self.users();
        self.workspace();
    }

    /// The next plan takes approvals up again, so each must be one that these grants show.
    fn approvals(&mut self) {
        let routes = &self.plan.grants.egress.routes;
        for Approval { host, port, rule, .. } in &self.plan.session.approvals {
            if rule.auth.is_some() {
                self.say(LintRule::Session, format!("an approval for {host} brings a credential"));
            } else if !is_allowed(routes, host, *port, rule) {
                let message = format!("an approval for {host}:{port} is not in the grants");
                self.say(LintRule::Session, message);
            }
        }
    }

    /// Every role that the grants ask for and no other, under its own name and at its own place.
    fn roles(&mut self) {
        let (session, identity) = (&self.plan.session, &self.plan.identity);
        let networks = [("net", &session.net), ("out", &session.out)];
        for (key, network) in networks {
            let expected = format!("bottle-{key}-{identity}");
            if network.name != expected || network.subnet.prefix() != PREFIX {
                let NetworkPlace { name, subnet } = network;
                let message = format!("expected {expected} of /{PREFIX}, found {name} {subnet}");
                self.say(LintRule::Session, message);
            }
        }
        for (role, net, out) in role_addresses(session.net.subnet, session.out.subnet) {
            let place = session.places.get(&role);
            if place.is_some() != is_wanted(role, &self.plan.grants) {
                let found = if place.is_some() { "there" } else { "missing" };
                self.say(LintRule::Session, format!("{role} is {found}, against the grants"));
            }
            let Some(place) = place else { continue };
            if Some(place.net) != net || place.out != out {
                self.say(LintRule::Session, format!("{role} is not at its address"));
            }
            let found = &place.container;
            // An agent's may be pinned or be the first of many that is free.
            let named = match role {
                Role::Agent => is_object_name(found, "_.-"),
                role => *found == sidecar_container_name(identity, role),
            };
            if !named {
                self.say(LintRule::Session, format!("{found} is no container name of {role}"));
            }
        }
    }

    /// The owner's user, or what stands for it; see `Ground::users`.
    fn users(&mut self) {
        let Session { owner, agent_user, sidecar_user, .. } = &self.plan.session;
        let uid = owner.split_once('-').and_then(|(uid, _)| uid.parse().ok());
        let rootless = *sidecar_user == User { uid: 0, gid: 0 };
        if !rootless && uid != Some(sidecar_user.uid) {
            let message = format!("user {} is not the owner's, {owner}", sidecar_user.uid);
            self.say(LintRule::Session, message);
        }
        let expected =
            if sidecar_user.uid == 0 { User { uid: 1000, gid: 1000 } } else { *sidecar_user };
        if *agent_user != expected {
            let message = format!("expected agent user {expected:?}, found {agent_user:?}");
            self.say(LintRule::Session, message);
        }
    }

    fn workspace(&mut self) {
        let (place, granted) = (&self.plan.session.workspace, self.plan.grants.workspace.mode);
        let mode = place.as_ref().map_or(WorkspaceMode::None, |w| w.mode);
        if mode != granted {
            let (mode, granted) = (mode.as_str(), granted.as_str());
            let message = format!("expected workspace mode {granted}, found {mode}");
            self.say(LintRule::Session, message);
        }
        let Some(place) = place else { return };
        let mounted = place.mode == WorkspaceMode::Mount;
        let inside = if mounted { place.host.as_str() } else { WORKSPACE };
        if place.inside.as_str() != inside {
            let found = &place.inside;
            self.say(LintRule::Session, format!("expected a workspace at {inside}, found {found}"));
        }
        if mounted && let Some(covered) = is_container_folder(&place.host) {
            let host = &place.host;
            self.say(LintRule::Mounts, format!("{host} would cover {covered}"));
        }
        if let Some(covered) = place.git.as_ref().and_then(|git| is_container_folder(&git.folder)) {
            self.say(LintRule::Mounts, format!("its git folder would cover {covered}"));
        }
        if !mounted && (place.git.is_some() || !place.guards.is_empty()) {
            self.say(LintRule::Session, "only a mounted workspace has guards");
        }
    }

    /// The request is stored with the session and answered again by later plans, so it may ask for
    /// nothing that this plan does not show.
    fn spec(&mut self) {
        let Plan { spec, grants, session, identity, .. } = self.plan;
        let named = match &spec.session {
            SessionRequest::Named { identity } => identity.to_string(),
            SessionRequest::New { suffix } => format!("{}-{suffix}", slugify(spec.agent.as_str())),
        };
        if spec.agent != grants.agent.name || named != identity.as_str() {
            let message = format!("asks for {named} of agent {}", spec.agent);
            self.say(LintRule::Spec, message);
        }
        if spec.at != session.started_at {
            self.say(LintRule::Spec, format!("asks for a session begun at {}", spec.at));
        }
        let asked = spec.workspace.as_ref();
        let fits = match (asked, &session.workspace) {
            (Some(asked), Some(place)) => {
                asked.path == place.host && asked.mode.is_none_or(|mode| mode == place.mode)
            }
            (Some(asked), None) => asked.mode.is_none_or(|mode| mode == WorkspaceMode::None),
            (None, place) => place.is_none(),
        };
        if !fits {
            self.say(LintRule::Spec, "asks for another workspace than the session has");
        }
        if spec.overrides.derived_image.as_ref().is_some_and(|tag| !is_object_name(tag, "_.-/:@")) {
            self.say(LintRule::Spec, "asks for an image of no name");
        }
        let pinned = spec.overrides.container.as_ref();
        let agent = session.places.get(&Role::Agent).map(|place| &place.container);
        if pinned.is_some() && pinned != agent {
            self.say(LintRule::Spec, "asks for another container name than the agent has");
        }
    }
}

fn launch_requirements(grants: &Grants) -> Vec<Requirement> {
    let mut expected = Vec::new();
    expected.extend(grants.secrets.keys().map(|s| Requirement::Secret { secret: s.clone() }));
    expected.extend(
        grants.agent.skills.iter().map(|(name, digest)| Requirement::Skill {
            name: name.clone(),
            digest: digest.clone(),
        }),
    );
    for remote in grants.git.values() {
        if let GitCredential::IdentityFile { path } = &remote.credential {
            expected.push(Requirement::IdentityFile { path: path.clone() });
        }
    }
    if let ImageGrant::Reference { reference, digest, .. } = &grants.image {
        let id = if reference.contains("@sha256:") { None } else { digest.clone() };
        expected.push(Requirement::Image { reference: reference.clone(), id });
    }
    expected
}

/// Whether the engine could take a name: names are parts of the paths of its API.
fn is_object_name(name: &str, marks: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
        && !name.split('/').any(|part| part == "..")
}

/// The word an action's id begins with, by its kind.
fn kind(op: &Operation) -> &'static str {
    match op {
        Operation::Folder(_) => "folder",
        Operation::File(_) => "file",
        Operation::RemoveFile(_) => "remove-file",
        Operation::MintCa(_) => "mint",
        Operation::ImportImage(_)
        | Operation::BuildImage(_)
        | Operation::AssembleImage(_)
        | Operation::PullImage(_) => "image",
        Operation::Network(_) => "network",
        Operation::Volume(_) => "volume",
        Operation::Container(_) => "container",
        Operation::Upload(_) => "upload",
        Operation::Connect(_) => "connect",
        Operation::Start(_) => "start",
        Operation::Deliver(_) => "deliver",
        Operation::Reload(_) => "reload",
        Operation::Stop(_) => "stop",
        Operation::RemoveContainer(_) => "remove",
        Operation::RemoveNetwork(_) => "remove-network",
        Operation::RemoveVolume(_) => "remove-volume",
        Operation::Placeholder(_) => "placeholder",
        Operation::RemovePlaceholder(_) => "remove-placeholder",
        Operation::Save(_) => "save",
        Operation::Archive(_) => "archive",
    }
}

impl core::fmt::Display for Finding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let rule = serde_json::to_value(self.rule).ok();
        let rule = rule.as_ref().and_then(|v| v.as_str()).unwrap_or("lint").to_string();
        match &self.action {
            Some(action) => {
                write!(f, "{rule}: {action}: {}", crate::escape::visible(&self.message))
            }
            None => write!(f, "{rule}: {}", crate::escape::visible(&self.message)),
        }
    }
}
