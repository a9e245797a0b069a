//! Lowering: from grants and session to everything that should exist, as operations.
//!
//! A function of nothing but what the plan itself says. The difference turns its output into
//! actions; lint runs it again and refuses a plan whose actions say anything else.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use serde::Serialize;

use crate::document;
use crate::gate::{self, MIRRORS};
use crate::grants::{EnvGrant, Grants, ImageGrant, SecretUse};
use crate::plan::{
    ActionId, AssembleImage, BuildImage, BuildLimits, BuildPlace, BuildReach, Connect,
    ContainerLimits, ContainerRef, ContainerSpec, ContextRef, Deliver, File, Folder, GuardKind,
    ImportImage, LABEL_IDENTITY, LABEL_OWNER, LABEL_ROLE, LABEL_SPEC, LABEL_WORKSPACE, MintCa,
    Mount, NetworkSpec, Operation, Placeholder, PullImage, Reload, SecretRef, Session, StatePath,
    StateRoot, Upload, UploadItem, UploadSource, User, VolumeSpec, WorkspacePlace, work_volume,
};
use crate::policy::{
    BuildNetwork, GitCredential, GitTransport, HostPattern, PinnedImage, Provider, WorkspaceMode,
};
use crate::provider;
use crate::resolve::build_address;
use crate::sidecar::{
    BIN, BINARY, EGRESS_PORT, EXCEPTIONS, EgressSettings, First, GIT_GATE_PORT, GateSettings,
    HIDDEN_FILE, HIDDEN_FOLDER, IN, InitSettings, LEAK_RULES, PIPELOCK_PORT, PROTOCOL, RUN,
    RoutesFile, SIDECAR_BINARY, SUPERVISE_PORT, SuperviseSettings, UPSTREAM_CA,
};
use crate::spec::Spec;
use crate::trusted_build;
use crate::words::{AbsPath, Digest, EnvName, Identity, RelPath, Role};

/// Something that should exist or be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The action it is carried out by.
    pub id: ActionId,
    /// What it is.
    pub op: Operation,
    /// What must be before it.
    pub depends_on: BTreeSet<ActionId>,
}

/// More than a session consists of: a list of large things that grows is moved each time.
const MANY: usize = 64;
/// Scratch for sidecars.
const SIDECAR_TMP: u64 = 64 << 20;
/// How long an image that an agent proposed may build, in seconds: nobody sees whether it gets anywhere.
const LONGEST_BUILD: u64 = 3600;
/// The most memory of its steps in bytes, whatever the agent has: the largest number that the engine's
/// client takes there.
const LARGEST_BUILD: u64 = i32::MAX as u64;
/// git takes apart what is pushed, many clients at once.
const GATE_LIMITS: ContainerLimits =
    ContainerLimits { cpus_milli: 2000, memory_bytes: 1 << 30, pids: 512, shm_bytes: 1 << 20 };
/// Scratch that holds the socket for secrets.
const RUN_SIZE: u64 = 1 << 20;
/// The system's trust roots, where Debian and most others have them.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Days the session's CA is valid.
const CA_DAYS: u32 = 365;
/// Seconds an agent's request may wait for a person.
const SUPERVISE_TIMEOUT: u64 = 24 * 3600;

/// Variables that name the trust bundle to one kind of client each.
pub const CA_VARIABLES: [&str; 9] = [
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "DENO_CERT",
];

/// Everything a session should consist of, in no particular order.
#[must_use]
pub fn lower(
    identity: &Identity,
    grants: &Grants,
    session: &Session,
    spec: &Spec,
    prompt: &str,
) -> Vec<Desired> {
    let mut lowering = Lowering { identity, grants, session, spec, out: Vec::with_capacity(MANY) };
    lowering.metadata();
    lowering.images();
    lowering.networks();
    lowering.volumes();
    for role in session.places.keys() {
        lowering.role_folders(*role);
    }
    lowering.egress();
    lowering.git_gate();
    lowering.push_exceptions();
    lowering.supervise();
    lowering.pipelock();
    lowering.agent(prompt);
    lowering.out
}

struct Lowering<'a> {
    identity: &'a Identity,
    grants: &'a Grants,
    session: &'a Session,
    spec: &'a Spec,
    out: Vec<Desired>,
}

impl Lowering<'_> {
    fn add<const N: usize>(&mut self, id: String, op: Operation, depends_on: [String; N]) {
        self.add_after(id, op, depends_on);
    }

    fn add_after(
        &mut self,
        id: String,
        op: Operation,
        depends_on: impl IntoIterator<Item = String>,
    ) {
        let depends_on = depends_on.into_iter().map(ActionId).collect();
        self.out.push(Desired { id: ActionId(id), op, depends_on });
    }

    fn metadata(&mut self) {
        #[derive(Serialize)]
        struct Metadata<'a> {
            identity: &'a Identity,
            agent: &'a str,
            bottle: &'a str,
            cwd: &'a str,
            workspace: &'a str,
            task: &'a Option<String>,
            started_at: &'a str,
        }
        let content = json(&Metadata {
            identity: self.identity,
            agent: self.grants.agent.name.as_str(),
            bottle: self.grants.bottle.as_str(),
            cwd: self.session.workspace.as_ref().map_or("", |w| w.host.as_str()),
            workspace: self.grants.workspace.mode.as_str(),
            task: &self.spec.task,
            started_at: self.session.started_at.as_str(),
        });
        self.file("metadata.json", 0o600, None, content, None);
        if !self.session.approvals.is_empty() {
            self.file("approvals.json", 0o600, None, json(&self.session.approvals), None);
        }
    }

    fn file(
        &mut self,
        path: &str,
        mode: u32,
        owner: Option<User>,
        content: String,
        after: Option<String>,
    ) {
        let Some(path) = state_path(path) else { return };
        let id = format!("file:{}", path.path);
        self.add_after(id, Operation::File(File { path, mode, owner, content }), after);
    }

    /// `state/<role>/in` and `out`. The agent's own are its own user's: where the host's user is
    /// root, the agent is not, and must read its 0600 files; where ids are mapped (rootless) no
    /// owner can be given, and the modes are wider inside a state folder that stays 0700.
    fn role_folders(&mut self, role: Role) {
        let (owner, mode_in, mode_out) = self.role_access(role);
        for (name, mode, owner, after) in [
            (role.to_string(), 0o700, None, None),
            (format!("{role}/in"), mode_in, owner, Some(format!("folder:{role}"))),
            (format!("{role}/out"), mode_out, owner, Some(format!("folder:{role}"))),
        ] {
            if let Some(path) = state_path(&name) {
                self.add_after(
                    format!("folder:{name}"),
                    Operation::Folder(Folder { path, mode, owner }),
                    after,
                );
            }
        }
    }

    /// Owner and modes of a role's `in` and `out` folders.
    fn role_access(&self, role: Role) -> (Option<User>, u32, u32) {
        let other_user = self.session.agent_user != self.session.sidecar_user;
        if role != Role::Agent || !other_user {
            return (None, 0o700, 0o700);
        }
        if self.is_rootless() {
            return (None, 0o755, 0o777);
        }
        (Some(self.session.agent_user), 0o700, 0o700)
    }

    /// A rootless engine runs sidecars as 0 for a host user who is not 0; the owner label says who.
    fn is_rootless(&self) -> bool {
        self.session.sidecar_user.uid == 0 && !self.session.owner.starts_with("0-")
    }

    fn file_mode(&self, role: Role) -> (Option<User>, u32) {
        let (owner, mode_in, _) = self.role_access(role);
        (owner, if mode_in == 0o755 { 0o644 } else { 0o600 })
    }

    /// A file of a role, which may change while its container runs.
    fn in_file(&mut self, role: Role, name: &str, content: String) {
        let (owner, mode) = self.file_mode(role);
        let folder = Some(format!("folder:{role}/in"));
        self.file(&format!("{role}/in/{name}"), mode, owner, content, folder);
    }

    /// The same, of which a container reads what it held at its start.
    fn input(&mut self, role: Role, name: &str, content: String) -> Option<(RelPath, Digest)> {
        let path = RelPath::new(format!("{role}/in/{name}")).ok()?;
        let digest = Digest::of(content.as_bytes());
        self.in_file(role, name, content);
        Some((path, digest))
    }

    fn labels(&self, role: Option<Role>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            (LABEL_IDENTITY.to_string(), self.identity.to_string()),
            (LABEL_OWNER.to_string(), self.session.owner.clone()),
        ]);
        if let Some(role) = role {
            labels.insert(LABEL_ROLE.to_string(), role.to_string());
        }
        labels
    }

    /// Images are shared between sessions: they carry their owner alone.
    fn image_labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL_OWNER.to_string(), self.session.owner.clone())])
    }

    fn images(&mut self) {
        self.add(
            "image:sidecar".to_string(),
            Operation::ImportImage(ImportImage {
                tag: self.session.sidecar_image.clone(),
                tool: self.session.tool.clone(),
            }),
            [],
        );
        if !self.grants.git.is_empty() {
            let user = self.session.sidecar_user;
            let recipe = gate::dockerfile(user, self.grants.gate_base.as_deref());
            let op = self.build(self.gate_image(), &recipe, None, BuildReach::Open);
            self.add("image:gate".to_string(), op, []);
        }
        let base_id = "image:agent".to_string();
        let mut after = Vec::new();
        match &self.grants.image {
            ImageGrant::Build { dockerfile, context, network, .. } => {
                let context = self.context_ref(context.as_ref());
                let tag = self.session.base_image.clone();
                let (op, needs) = match network {
                    BuildNetwork::Open => {
                        (self.build(tag, dockerfile, context, BuildReach::Open), Vec::new())
                    }
                    BuildNetwork::None => {
                        (self.build(tag, dockerfile, context, BuildReach::None), Vec::new())
                    }
                    BuildNetwork::Session => self.build_in_session(tag, dockerfile),
                };
                self.add_after(base_id.clone(), op, needs);
                after.push(base_id);
            }
            ImageGrant::Reference { reference, digest: Some(digest), .. } => {
                if let Some((name, _)) = reference.split_once('@') {
                    let image = PinnedImage { name: name.to_string(), digest: digest.clone() };
                    self.add(base_id.clone(), Operation::PullImage(PullImage { image }), []);
                    after.push(base_id);
                }
            }
            ImageGrant::Reference { digest: None, .. } => {}
        }
        if let Some(pipelock) = &self.grants.egress.pipelock {
            self.add(
                "image:pipelock".to_string(),
                Operation::PullImage(PullImage { image: pipelock.clone() }),
                [],
            );
        }
        let Some(place) = &self.session.workspace else { return };
        if self.session.agent_image == self.session.base_image {
            return;
        }
        let clone = place.mode == WorkspaceMode::Clone;
        let op = Operation::AssembleImage(AssembleImage {
            tag: self.session.agent_image.clone(),
            base: self.session.base_image.clone(),
            mode: place.mode,
            digest: place.digest.clone(),
            commit: place.commit.clone(),
            branch: clone.then(|| format!("agent/{}", self.identity)),
            hide: self.grants.workspace.hide.clone(),
            inside: place.inside.clone(),
            owner: self.session.agent_user,
            labels: self.image_labels(),
        });
        self.add_after("image:workspace".to_string(), op, after);
    }

    /// A build that gets through the host's network as egress does: by its proxy, trusting its CA.
    fn build(
        &self,
        tag: String,
        recipe: &str,
        context: Option<ContextRef>,
        network: BuildReach,
    ) -> Operation {
        let ca = self.session.upstream_ca.clone();
        Operation::BuildImage(BuildImage {
            tag,
            dockerfile: match ca {
                Some(_) => trusted_build::trusting(recipe),
                None => recipe.to_string(),
            },
            context,
            network,
            proxy: self.session.upstream_proxy.clone(),
            ca,
            labels: self.image_labels(),
        })
    }

    /// The build of an image that the agent proposed, and what has to be there before it.
    ///
    /// It stands on the session's network, at an address of its own by which egress knows it. Its
    /// steps run with the engine's own set of capabilities, which no builder lets anybody choose,
    /// and with `NET_RAW` they could speak from any address of that network. So nothing is there
    /// that a neighbour's address would open: the agent and all else but the way out start after it,
    /// and no secret was delivered yet ([`Self::start_after`], [`Self::deliver`]; the difference
    /// makes every container anew). An agent itself has no capability and can take no address but
    /// its own, so nobody is taken for a build either.
    fn build_in_session(&self, tag: String, recipe: &str) -> (Operation, Vec<String>) {
        let mut needs = vec!["network:net".to_string()];
        let ways = [Role::Egress, Role::Pipelock].into_iter();
        let ways = ways.filter(|role| self.session.places.contains_key(role));
        needs.extend(ways.map(|role| format!("start:{role}")));
        let recipe = trusted_build::marked(recipe, self.identity);
        let place = build_address(self.session.net.subnet).zip(self.address(Role::Egress));
        let reach = match place {
            None => BuildReach::None,
            Some((address, egress)) => BuildReach::Session(BuildPlace {
                container: format!("bottle-build-{}", self.identity),
                image: self.session.sidecar_image.clone(),
                user: self.session.sidecar_user,
                network: self.session.net.name.clone(),
                address,
                dns: egress,
                limits: BuildLimits {
                    cpus_milli: self.grants.limits.cpus_milli,
                    memory_bytes: self.grants.limits.memory_bytes.min(LARGEST_BUILD),
                    seconds: LONGEST_BUILD,
                },
                labels: self.labels(None),
            }),
        };
        let mut op = self.build(tag, &recipe, None, reach);
        if let Operation::BuildImage(image) = &mut op {
            // Egress goes on to the corporate proxy, where there is one.
            let egress = self.address(Role::Egress);
            image.proxy = egress.map(|at| (format!("http://{at}:{EGRESS_PORT}"), Vec::new()));
        }
        (op, needs)
    }

    /// Whether the agent's image is built on the session's own network.
    fn builds_in_session(&self) -> bool {
        matches!(&self.grants.image, ImageGrant::Build { network: BuildNetwork::Session, .. })
    }

    /// What such a build waits for must not wait for it; all else does.
    fn start_after(&self, role: Role) -> Option<String> {
        let waits = self.builds_in_session() && !matches!(role, Role::Egress | Role::Pipelock);
        waits.then(|| "image:agent".to_string())
    }

    fn context_ref(&self, digest: Option<&Digest>) -> Option<ContextRef> {
        let path = self.session.context.clone()?;
        Some(ContextRef { path, digest: digest?.clone() })
    }

    fn networks(&mut self) {
        for (id, place, internal) in
            [("net", &self.session.net, true), ("out", &self.session.out, false)]
        {
            let mut spec = NetworkSpec {
                name: place.name.clone(),
                subnet: place.subnet,
                internal,
                labels: self.labels(None),
            };
            let digest = spec_digest(&spec);
            spec.labels.insert(LABEL_SPEC.to_string(), digest);
            self.add(format!("network:{id}"), Operation::Network(spec), []);
        }
    }

    fn volumes(&mut self) {
        for (id, name) in self.all_volumes() {
            let mut spec = VolumeSpec { name, labels: self.labels(None) };
            let digest = spec_digest(&spec);
            spec.labels.insert(LABEL_SPEC.to_string(), digest);
            self.add(format!("volume:{id}"), Operation::Volume(spec), []);
        }
    }

    fn all_volumes(&self) -> Vec<(&'static str, String)> {
        let mut names = self.agent_volumes();
        if !self.grants.git.is_empty() {
            names.push(("mirrors", gate::volume(self.identity)));
        }
        names
    }

    fn agent_volumes(&self) -> Vec<(&'static str, String)> {
        let mut names = vec![("home", format!("bottle-home-{}", self.identity))];
        if self.session.agent_image != self.session.base_image {
            names.push(("work", work_volume(self.identity)));
        }
        if self.mounted().is_some_and(|place| place.git.is_some()) {
            names.push(("git", format!("bottle-git-{}", self.identity)));
        }
        names
    }

    /// The workspace, where it is mounted.
    fn mounted(&self) -> Option<&WorkspacePlace> {
        self.session.workspace.as_ref().filter(|place| place.mode == WorkspaceMode::Mount)
    }

    /// What is mounted of the host's folder, and over it.
    fn workspace_mounts(&self) -> Vec<Mount> {
        let Some(place) = self.mounted() else { return Vec::new() };
        let mut mounts = vec![Mount::Workspace { path: place.host.clone() }];
        let git = place.git.as_ref().map(|git| &git.folder);
        for (path, guard) in &place.guards {
            let path = place.host.join(path);
            if git != Some(&path) {
                mounts.push(Mount::Guard { path, guard: guard.kind, folder: guard.folder });
            }
        }
        mounts
    }

    /// What has to be there for guards to be mounted on, and what hidden things are mounted over with.
    fn workspace_stands(&mut self) -> Vec<String> {
        let Some(place) = self.mounted().cloned() else { return Vec::new() };
        let mut before = Vec::new();
        for placeholder in placeholders(self.session) {
            let id = format!("placeholder:{}", placeholder.path);
            self.add(id.clone(), Operation::Placeholder(placeholder), []);
            before.push(id);
        }
        let hides =
            |folder| place.guards.values().any(|g| g.kind == GuardKind::Hide && g.folder == folder);
        let (owner, mode_in, _) = self.role_access(Role::Agent);
        if hides(false) {
            self.in_file(Role::Agent, HIDDEN_FILE, String::new());
            before.push(format!("file:agent/in/{HIDDEN_FILE}"));
        }
        if hides(true)
            && let Some(path) = state_path(&format!("agent/in/{HIDDEN_FOLDER}"))
        {
            let id = format!("folder:agent/in/{HIDDEN_FOLDER}");
            let op = Operation::Folder(Folder { path, mode: mode_in, owner });
            self.add(id.clone(), op, ["folder:agent/in".to_string()]);
            before.push(id);
        }
        before
    }

    fn address(&self, role: Role) -> Option<Ipv4Addr> {
        self.session.places.get(&role).map(|place| place.net)
    }

    /// Names that containers know without a resolver.
    fn extra_hosts(&self) -> BTreeMap<String, Ipv4Addr> {
        let mut hosts: BTreeMap<String, Ipv4Addr> = self
            .session
            .places
            .iter()
            .filter(|(role, _)| **role != Role::Agent)
            .map(|(role, place)| (role.to_string(), place.net))
            .collect();
        if let Some(egress) = self.address(Role::Egress) {
            hosts.insert("egress.local".to_string(), egress);
        }
        hosts
    }

    fn egress(&mut self) {
        let Some(listen) = self.address(Role::Egress) else { return };
        let Some(agent) = self.address(Role::Agent) else { return };
        let routes = routes_file(self.grants);
        let builds = self.builds_in_session();
        let routes_digest = Digest::of(routes.as_bytes());
        self.in_file(Role::Egress, "routes.json", routes);
        let items = self.egress_deliveries();
        let settings = EgressSettings {
            protocol: PROTOCOL,
            listen,
            agent,
            gate: self.address(Role::GitGate),
            supervise: self.address(Role::Supervise),
            build: build_address(self.session.net.subnet).filter(|_| builds),
            upstream_proxy: self.session.upstream_proxy.clone(),
            next_hop: self.address(Role::Pipelock).map(|address| (address, PIPELOCK_PORT)),
            expects_delivery: !items.is_empty(),
            supervised: self.address(Role::Supervise).is_some(),
        };
        let mut inputs = BTreeMap::new();
        inputs.extend(self.input(Role::Egress, "settings.json", json(&settings)));
        if let Some(rules) = &self.grants.egress.rules {
            inputs.extend(self.input(Role::Egress, LEAK_RULES, rules.clone()));
        }
        if let Some(ca) = &self.session.upstream_ca {
            inputs.extend(self.input(Role::Egress, UPSTREAM_CA, ca.clone()));
        }
        self.mint_ca();
        self.sidecar(Role::Egress, inputs, None);
        self.deliver(Role::Egress, items);
        if let Some(place) = self.session.places.get(&Role::Egress) {
            let op = Operation::Reload(Reload {
                role: Role::Egress,
                container: place.container.clone(),
                digest: routes_digest,
            });
            self.add(
                "reload:egress".to_string(),
                op,
                ["file:egress/in/routes.json".to_string(), "start:egress".to_string()],
            );
        }
    }

    fn mint_ca(&mut self) {
        let (Some(key), Some(certificate)) =
            (state_path("egress/in/ca.key"), state_path("egress/in/ca.crt"))
        else {
            return;
        };
        let op = Operation::MintCa(MintCa {
            key,
            certificate,
            common_name: format!("bottle {}", self.identity),
            not_before: self.session.started_at.clone(),
            days: CA_DAYS,
            fingerprint: None,
        });
        self.add("mint:ca".to_string(), op, ["folder:egress/in".to_string()]);
    }

    fn egress_deliveries(&self) -> BTreeMap<String, SecretRef> {
        let mut items = self.values_to_look_for();
        for (secret, uses) in &self.grants.secrets {
            if uses.iter().any(|u| matches!(u, SecretUse::Inject { .. })) {
                let value = SecretRef::Secret { secret: secret.clone() };
                items.insert(format!("inject:{secret}"), value);
            }
        }
        items
    }

    /// The session's own secrets, for the leak scans of egress and the git gate.
    fn values_to_look_for(&self) -> BTreeMap<String, SecretRef> {
        let mut items = BTreeMap::new();
        for secret in self.grants.secrets.keys() {
            let value = SecretRef::Secret { secret: secret.clone() };
            items.insert(format!("scan:{secret}"), value);
        }
        for (name, message) in self.grants.prompts() {
            items.insert(format!("scan:{name}"), prompt_ref(name, message));
        }
        items
    }

    fn gate_image(&self) -> String {
        gate::image(self.session.sidecar_user, self.grants.gate_base.as_deref())
    }

    fn git_gate(&mut self) {
        let (Some(listen), Some(egress)) =
            (self.address(Role::GitGate), self.address(Role::Egress))
        else {
            return;
        };
        let mut items = self.values_to_look_for();
        for (name, remote) in &self.grants.git {
            let value = match &remote.credential {
                GitCredential::None => continue,
                GitCredential::IdentityFile { path } => {
                    SecretRef::IdentityFile { path: path.clone() }
                }
                GitCredential::Secret { secret } => SecretRef::Secret { secret: secret.clone() },
            };
            items.insert(format!("git:{name}"), value);
        }
        let settings = GateSettings {
            protocol: PROTOCOL,
            listen,
            egress: (egress, EGRESS_PORT),
            remotes: self.grants.git.clone(),
            use_at: use_at(self.grants),
            expects_delivery: !items.is_empty(),
            supervised: self.address(Role::Supervise).is_some(),
        };
        let mut inputs = BTreeMap::new();
        inputs.extend(self.input(Role::GitGate, "gate.json", json(&settings)));
        inputs.extend(self.input(Role::GitGate, "known_hosts", known_hosts(self.grants)));
        if let Some(rules) = &self.grants.egress.rules {
            inputs.extend(self.input(Role::GitGate, LEAK_RULES, rules.clone()));
        }
        if let Some(ca) = &self.session.upstream_ca {
            inputs.extend(self.input(Role::GitGate, UPSTREAM_CA, ca.clone()));
        }
        let Some(place) = self.session.places.get(&Role::GitGate).cloned() else { return };
        let mut spec = self.sidecar_spec(Role::GitGate, &place.container, place.net, Some(egress));
        spec.image = self.gate_image();
        spec.argv = vec![format!("{BIN}/{BINARY}"), "sidecar".to_string(), "git-gate".to_string()];
        spec.mounts.push(Mount::Bin { tool: self.session.tool.clone() });
        spec.mounts.extend(
            AbsPath::new(MIRRORS)
                .ok()
                .map(|at| Mount::Volume { name: gate::volume(self.identity), at }),
        );
        spec.limits = GATE_LIMITS;
        spec.inputs = inputs;
        self.container(Role::GitGate, spec, ["image:gate".to_string()]);
        self.deliver(Role::GitGate, items);
    }

    /// What a person lets through once. Read whenever the scan finds something, so it takes effect
    /// without a reload; it is also where the next plan finds it again.
    fn push_exceptions(&mut self) {
        if !self.grants.push_exceptions.is_empty() {
            self.in_file(Role::GitGate, EXCEPTIONS, json(&self.grants.push_exceptions));
        }
    }

    fn supervise(&mut self) {
        let (Some(listen), Some(egress), Some(agent)) =
            (self.address(Role::Supervise), self.address(Role::Egress), self.address(Role::Agent))
        else {
            return;
        };
        let settings = SuperviseSettings {
            protocol: PROTOCOL,
            listen,
            agent,
            egress: (egress, EGRESS_PORT),
            identity: self.identity.clone(),
            allow_from: self.grants.image.allow_from().clone(),
            timeout_seconds: SUPERVISE_TIMEOUT,
        };
        let mut inputs = BTreeMap::new();
        inputs.extend(self.input(Role::Supervise, "supervise.json", json(&settings)));
        inputs.extend(self.input(Role::Supervise, "Dockerfile", self.grants.image.in_force()));
        self.sidecar(Role::Supervise, inputs, Some(egress));
    }

    fn pipelock(&mut self) {
        let Some(place) = self.session.places.get(&Role::Pipelock).cloned() else { return };
        let Some(image) = self.grants.egress.pipelock.clone() else { return };
        let mut inputs = BTreeMap::new();
        inputs.extend(self.input(Role::Pipelock, "pipelock.yaml", pipelock_yaml(self.grants)));
        let config = format!("{IN}/pipelock.yaml");
        let mut spec = self.sidecar_spec(Role::Pipelock, &place.container, place.net, None);
        spec.image = format!("{}@{}", image.name, image.digest);
        spec.argv = ["/pipelock", "run", "--config", config.as_str()].map(String::from).into();
        spec.inputs = inputs;
        self.container(Role::Pipelock, spec, ["image:pipelock".to_string()]);
    }

    fn sidecar_spec(
        &self,
        role: Role,
        name: &str,
        address: Ipv4Addr,
        dns: Option<Ipv4Addr>,
    ) -> ContainerSpec {
        ContainerSpec {
            role,
            name: name.to_string(),
            image: self.session.sidecar_image.clone(),
            user: self.session.sidecar_user,
            argv: vec![SIDECAR_BINARY.to_string(), "sidecar".to_string(), role.to_string()],
            env: BTreeMap::new(),
            workdir: AbsPath::root(),
            network: self.session.net.name.clone(),
            address,
            extra_hosts: self.extra_hosts(),
            dns,
            mounts: vec![Mount::In, Mount::Out],
            tmpfs: scratch(&[(RUN, RUN_SIZE), ("/tmp", SIDECAR_TMP)]),
            limits: ContainerLimits {
                cpus_milli: 1000,
                memory_bytes: 512 << 20,
                pids: 256,
                shm_bytes: 1 << 20,
            },
            runtime: None,
            read_only: true,
            terminal: false,
            inputs: BTreeMap::new(),
            labels: self.labels(Some(role)),
        }
    }

    fn sidecar(&mut self, role: Role, inputs: BTreeMap<RelPath, Digest>, dns: Option<Ipv4Addr>) {
        let Some(place) = self.session.places.get(&role).cloned() else { return };
        let mut spec = self.sidecar_spec(role, &place.container, place.net, dns);
        spec.inputs = inputs;
        self.container(role, spec, ["image:sidecar".to_string()]);
    }

    /// A container, its second network, and its start.
    fn container(
        &mut self,
        role: Role,
        mut spec: ContainerSpec,
        images: impl IntoIterator<Item = String>,
    ) {
        let digest = spec_digest(&spec);
        spec.labels.insert(LABEL_SPEC.to_string(), digest);
        let name = spec.name.clone();
        let create = format!("container:{role}");
        let mut after: BTreeSet<String> = images.into_iter().collect();
        // The engine wants the host side of every mount to be there at creation.
        after.extend([
            "network:net".to_string(),
            format!("folder:{role}/in"),
            format!("folder:{role}/out"),
        ]);
        if role == Role::Agent {
            after.insert("file:agent/in/resolv.conf".to_string());
        }
        let volumes = self.all_volumes();
        for mount in &spec.mounts {
            if let Mount::Volume { name, .. } = mount
                && let Some((id, _)) = volumes.iter().find(|(_, volume)| volume == name)
            {
                after.insert(format!("volume:{id}"));
            }
        }
        let mut before_start: BTreeSet<String> =
            spec.inputs.keys().map(|path| format!("file:{path}")).collect();
        before_start.insert(create.clone());
        self.add_after(create.clone(), Operation::Container(spec), after);
        if role == Role::Egress {
            before_start.extend(["file:egress/in/routes.json".to_string(), "mint:ca".to_string()]);
        }
        if let Some(out) = self.session.places.get(&role).and_then(|place| place.out) {
            let id = format!("connect:{role}/out");
            let op = Operation::Connect(Connect {
                container: name.clone(),
                network: self.session.out.name.clone(),
                address: out,
            });
            self.add(id.clone(), op, [create.clone(), "network:out".to_string()]);
            before_start.insert(id);
        }
        if role == Role::Agent {
            before_start.extend(
                self.out.iter().map(|d| &d.id.0).filter(|id| id.starts_with("upload:")).cloned(),
            );
            before_start.insert("file:agent/in/gitconfig".to_string());
        }
        before_start.extend(self.start_after(role));
        self.add_after(
            format!("start:{role}"),
            Operation::Start(ContainerRef { role, container: name }),
            before_start,
        );
    }

    fn deliver(&mut self, role: Role, items: BTreeMap<String, SecretRef>) {
        let Some(place) = self.session.places.get(&role) else { return };
        if items.is_empty() {
            return;
        }
        let op = Operation::Deliver(Deliver { role, container: place.container.clone(), items });
        let build = self.builds_in_session().then(|| "image:agent".to_string());
        self.add_after(
            format!("deliver:{role}"),
            op,
            [format!("start:{role}")].into_iter().chain(build),
        );
    }

    fn agent(&mut self, prompt: &str) {
        let Some(place) = self.session.places.get(&Role::Agent).cloned() else { return };
        let Some(egress) = self.address(Role::Egress) else { return };
        let workdir = self.workdir();
        let inputs = self.agent_files(prompt, egress, &workdir);
        self.uploads(&place.container, &workdir, prompt);
        let limits = &self.grants.limits;
        let mut mounts = vec![
            Mount::In,
            Mount::Out,
            Mount::Bin { tool: self.session.tool.clone() },
            Mount::ResolvConf,
        ];
        for (id, name) in self.agent_volumes() {
            let git = self.mounted().and_then(|place| place.git.as_ref());
            let at = match (id, git) {
                ("home", _) => home(),
                ("git", Some(git)) => git.folder.clone(),
                _ => workdir.clone(),
            };
            mounts.push(Mount::Volume { name, at });
        }
        mounts.extend(self.workspace_mounts());
        let stands = self.workspace_stands();
        let mut labels = self.labels(Some(Role::Agent));
        if let Some(place) = self.mounted() {
            labels.insert(LABEL_WORKSPACE.to_string(), place.host.to_string());
        }
        let spec = ContainerSpec {
            role: Role::Agent,
            name: place.container.clone(),
            image: self.session.agent_image.clone(),
            user: self.session.agent_user,
            argv: vec![format!("{BIN}/{BINARY}"), "sidecar".to_string(), "agent".to_string()],
            env: self.agent_env(),
            workdir: if self.session.workspace.is_some() { workdir } else { AbsPath::root() },
            network: self.session.net.name.clone(),
            address: place.net,
            extra_hosts: self.extra_hosts(),
            dns: Some(egress),
            mounts,
            tmpfs: scratch(&[(RUN, RUN_SIZE)]),
            limits: ContainerLimits {
                cpus_milli: limits.cpus_milli,
                memory_bytes: limits.memory_bytes,
                pids: limits.pids,
                shm_bytes: limits.shm_bytes,
            },
            runtime: self.session.runtime.clone(),
            read_only: false,
            terminal: self.spec.task.is_none(),
            inputs,
            labels,
        };
        let image = match (&self.grants.image, &self.session.workspace) {
            _ if self.session.agent_image != self.session.base_image => Some("image:workspace"),
            (ImageGrant::Build { .. }, _) => Some("image:agent"),
            (ImageGrant::Reference { reference, digest: Some(_), .. }, _)
                if reference.contains('@') =>
            {
                Some("image:agent")
            }
            _ => None,
        };
        self.container(Role::Agent, spec, image.map(String::from).into_iter().chain(stands));
        let items = self
            .grants
            .env
            .iter()
            .filter_map(|(name, grant)| {
                let value = match grant {
                    EnvGrant::Prompt { message } => prompt_ref(name, message),
                    EnvGrant::Secret { secret, .. } => SecretRef::Secret { secret: secret.clone() },
                    EnvGrant::Literal { .. } | EnvGrant::Placeholder => return None,
                };
                Some((name.to_string(), value))
            })
            .collect();
        self.deliver(Role::Agent, items);
    }

    fn workdir(&self) -> AbsPath {
        self.session.workspace.as_ref().map_or_else(home, |w| w.inside.clone())
    }

    fn agent_files(
        &mut self,
        prompt: &str,
        egress: Ipv4Addr,
        workdir: &AbsPath,
    ) -> BTreeMap<RelPath, Digest> {
        let mut inputs = BTreeMap::new();
        let env: String = self
            .grants
            .env
            .iter()
            .filter_map(|(name, grant)| match grant {
                EnvGrant::Literal { value } => Some(format!("{name}={value}\n")),
                EnvGrant::Placeholder => Some(format!("{name}={}\n", provider::PLACEHOLDER)),
                EnvGrant::Prompt { .. } | EnvGrant::Secret { .. } => None,
            })
            .collect();
        inputs.extend(self.input(Role::Agent, "agent.env", env));
        inputs.extend(self.input(Role::Agent, "prompt.md", prompt.to_string()));
        if let Some(ca) = &self.session.upstream_ca {
            // In its trust bundle, which is made with the container: what it is tunnelled to through
            // `passthrough` routes it checks itself.
            inputs.extend(self.input(Role::Agent, UPSTREAM_CA, ca.clone()));
        }
        let resolver = format!("nameserver {egress}\noptions ndots:0 timeout:2 attempts:2\n");
        // The C library of any user of the image reads it, so it is the one file others may read.
        let (owner, _) = self.file_mode(Role::Agent);
        let path = "agent/in/resolv.conf";
        inputs.extend(RelPath::new(path).ok().map(|at| (at, Digest::of(resolver.as_bytes()))));
        self.file(path, 0o644, owner, resolver, Some("folder:agent/in".to_string()));
        let asked = provider::Asked {
            has_prompt: !prompt.is_empty(),
            supervise: self.grants.supervise,
            task: self.spec.task.as_deref(),
            extra: &self.spec.args,
        };
        let kept = match &self.grants.provider {
            Provider::Claude | Provider::Codex if self.session.resumed => {
                provider::transcript(&self.grants.provider).and_then(|at| AbsPath::new(at).ok())
            }
            _ => None,
        };
        let first = kept.map(|transcript| First {
            transcript,
            argv: provider::argv(&self.grants.provider, false, asked),
        });
        let init = InitSettings {
            protocol: PROTOCOL,
            provider: self.grants.provider.clone(),
            argv: provider::argv(&self.grants.provider, self.session.resumed, asked),
            first,
            workdir: workdir.clone(),
            home: home(),
            wait_for: self.wait_for(),
            expects: self
                .grants
                .env
                .iter()
                .filter(|(_, g)| matches!(g, EnvGrant::Prompt { .. } | EnvGrant::Secret { .. }))
                .map(|(name, _)| name.clone())
                .collect(),
            time_seconds: self.grants.limits.time_seconds,
            idle_seconds: self.grants.limits.idle_seconds,
        };
        inputs.extend(self.input(Role::Agent, "init.json", json(&init)));
        // Git reads this at every call: it changes in place.
        let config = gitconfig(self.grants, self.mounted().map(|place| &place.host));
        self.in_file(Role::Agent, "gitconfig", config);
        inputs
    }

    fn wait_for(&self) -> BTreeMap<Role, (Ipv4Addr, u16)> {
        self.session
            .places
            .iter()
            .filter_map(|(role, place)| {
                let port = match role {
                    Role::Egress => EGRESS_PORT,
                    Role::GitGate => GIT_GATE_PORT,
                    Role::Supervise => SUPERVISE_PORT,
                    Role::Pipelock | Role::Agent => return None,
                };
                Some((*role, (place.net, port)))
            })
            .collect()
    }

    fn agent_env(&self) -> BTreeMap<String, String> {
        let proxy = format!("http://egress:{EGRESS_PORT}");
        let direct = "localhost,127.0.0.1,::1,supervise";
        let mut env: BTreeMap<String, String> = [
            ("HTTP_PROXY", proxy.as_str()),
            ("http_proxy", proxy.as_str()),
            ("HTTPS_PROXY", proxy.as_str()),
            ("https_proxy", proxy.as_str()),
            ("NO_PROXY", direct),
            ("no_proxy", direct),
            ("HOME", provider::HOME),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
        env.extend(CA_VARIABLES.map(|name| (name.to_string(), CA_BUNDLE.to_string())));
        env
    }

    /// Files inside the agent's container that no mount can bring: the trust bundle goes into the
    /// container, first-run settings and skills onto its home volume.
    fn uploads(&mut self, container: &str, workdir: &AbsPath, prompt: &str) {
        let agent = self.session.agent_user;
        let system = User { uid: 0, gid: 0 };
        let folder = |at: &str, mode: u32, owner: User| {
            AbsPath::new(at).ok().map(|at| UploadItem {
                at,
                mode,
                owner,
                source: UploadSource::Folder,
            })
        };
        let text = |at: &str, content: String| {
            AbsPath::new(at).ok().map(|at| UploadItem {
                at,
                mode: 0o600,
                owner: agent,
                source: UploadSource::Text { content },
            })
        };
        let bundle = AbsPath::new(CA_BUNDLE).ok().map(|at| UploadItem {
            at,
            mode: 0o644,
            owner: system,
            source: UploadSource::CaBundle,
        });
        let items =
            [folder("/etc/ssl", 0o755, system), folder("/etc/ssl/certs", 0o755, system), bundle];
        let create = "container:agent".to_string();
        self.upload("system", container, None, items, [create.clone(), "mint:ca".to_string()]);

        let home_volume = format!("bottle-home-{}", self.identity);
        let include = format!("[include]\n\tpath = {IN}/gitconfig\n");
        let mut items =
            vec![folder(provider::HOME, 0o755, agent), text("/home/agent/.gitconfig", include)];
        let placeholder = |(name, grant): (&EnvName, &EnvGrant)| {
            name.as_str() == "OPENAI_API_KEY" && *grant == EnvGrant::Placeholder
        };
        let settings = provider::Settings {
            workdir: workdir.as_str(),
            prompt,
            supervise: self.grants.supervise,
            openai_placeholder: self.grants.env.iter().any(placeholder),
        };
        let mut parents = BTreeSet::new();
        for (at, content) in provider::first_run(&self.grants.provider, settings) {
            let parent = at.rsplit_once('/').map_or(at, |(parent, _)| parent);
            if parent != provider::HOME && parents.insert(parent) {
                items.push(folder(parent, 0o755, agent));
            }
            items.push(text(at, content));
        }
        self.upload("home", container, Some(&home_volume), items, [create.clone()]);

        if let Some(place) = self.mounted()
            && let Some(git) = &place.git
        {
            // Where the host has no repository, neither has the agent until it makes one.
            let none = place.guards.iter().any(|(p, g)| p.as_str() == ".git" && g.folder);
            let source = if none {
                UploadSource::Folder
            } else {
                UploadSource::Repository {
                    commit: place.commit.clone(),
                    branch: format!("agent/{}", self.identity),
                    worktree: git.worktree.clone(),
                }
            };
            let at = git.folder.clone();
            let item = UploadItem { at, mode: 0o700, owner: agent, source };
            let volume = format!("bottle-git-{}", self.identity);
            self.upload("git", container, Some(&volume), [Some(item)], [create.clone()]);
        }

        let skills = provider::skills_folder(&self.grants.provider);
        let mut items = Vec::new();
        if !self.grants.agent.skills.is_empty() {
            let parent = skills.rsplit_once('/').map_or(skills, |(parent, _)| parent);
            items.extend([folder(parent, 0o755, agent), folder(skills, 0o755, agent)]);
        }
        for (name, digest) in &self.grants.agent.skills {
            items.push(AbsPath::new(format!("{skills}/{name}")).ok().map(|at| UploadItem {
                at,
                mode: 0o755,
                owner: agent,
                source: UploadSource::Skill { name: name.clone(), digest: digest.clone() },
            }));
        }
        if !items.is_empty() {
            let after = [create, "upload:agent/home".to_string()];
            self.upload("skills", container, Some(&home_volume), items, after);
        }
    }

    fn upload<const N: usize>(
        &mut self,
        name: &str,
        container: &str,
        volume: Option<&str>,
        items: impl IntoIterator<Item = Option<UploadItem>>,
        after: [String; N],
    ) {
        let op = Operation::Upload(Upload {
            container: container.to_string(),
            volume: volume.map(String::from),
            items: items.into_iter().flatten().collect(),
        });
        self.add(format!("upload:agent/{name}"), op, after);
    }
}

/// What a session puts into the folder it mounts.
pub(crate) fn placeholders(session: &Session) -> Vec<Placeholder> {
    let Some(place) = session.workspace.as_ref() else { return Vec::new() };
    let made = place.guards.iter().filter(|(_, guard)| guard.made);
    made.map(|(path, guard)| Placeholder {
        workspace: place.host.clone(),
        path: path.clone(),
        folder: guard.folder,
    })
    .collect()
}

/// `egress/in/routes.json`, as every plan with these grants has it.
fn routes_file(grants: &Grants) -> String {
    let upstreams = || grants.git.values().map(|remote| &remote.upstream);
    let build = match &grants.image {
        ImageGrant::Build { hosts, .. } => hosts.clone(),
        ImageGrant::Reference { .. } => BTreeSet::new(),
    };
    json(&RoutesFile {
        protocol: PROTOCOL,
        routes: grants.egress.routes.clone(),
        gate: upstreams().map(|u| (u.host.clone(), u.port)).collect(),
        gate_addresses: grants
            .git
            .values()
            .flat_map(|remote| remote.extra_hosts.iter().map(|(h, ip)| (h.clone(), *ip)))
            .collect(),
        use_at: use_at(grants),
        build,
    })
}

/// Where the manifest means a secret to be seen: two variables of one secret add up.
fn use_at(grants: &Grants) -> BTreeMap<String, BTreeSet<HostPattern>> {
    let mut all = BTreeMap::<String, BTreeSet<HostPattern>>::new();
    for grant in grants.env.values() {
        if let EnvGrant::Secret { secret, use_at } = grant
            && !use_at.is_empty()
        {
            all.entry(secret.to_string()).or_default().extend(use_at.iter().cloned());
        }
    }
    all
}

/// `known_hosts` as OpenSSH reads it: the pinned keys and nothing else.
fn known_hosts(grants: &Grants) -> String {
    let mut lines = BTreeSet::new();
    for remote in grants.git.values() {
        let upstream = &remote.upstream;
        let host = if upstream.port == 22 {
            upstream.host.to_string()
        } else {
            format!("[{}]:{}", upstream.host, upstream.port)
        };
        lines.extend(remote.known_host_keys.iter().map(|key| format!("{host} {key}\n")));
    }
    lines.into_iter().collect()
}

/// The agent's git configuration: who it is, and every spelling of each upstream led to the gate.
fn gitconfig(grants: &Grants, mounted: Option<&AbsPath>) -> String {
    let mut text = String::new();
    if let Some(folder) = mounted {
        // It is the host user's, who need not be the agent's (git-config(1), safe.directory).
        text.push_str(&format!("[safe]\n\tdirectory = {}\n", git_quote(folder.as_str())));
    }
    if let Some(user) = &grants.git_user {
        text.push_str(&format!(
            "[user]\n\tname = {}\n\temail = {}\n",
            git_quote(&user.name),
            git_quote(&user.email)
        ));
    }
    let mut led = BTreeMap::<String, BTreeSet<String>>::new();
    let mut claimed = BTreeSet::new();
    for (name, remote) in &grants.git {
        let spellings = spellings(&remote.upstream);
        claimed.extend(spellings.iter().cloned());
        led.entry(format!("git://git-gate/{name}.git")).or_default().extend(spellings);
    }
    for remote in grants.git.values() {
        for sibling in siblings(grants, &remote.upstream) {
            if !claimed.contains(&sibling) {
                led.entry(sibling.clone()).or_default().insert(sibling);
            }
        }
    }
    for (to, spellings) in led {
        text.push_str(&format!("[url {}]\n", git_quote(&to)));
        for spelling in spellings {
            text.push_str(&format!("\tinsteadOf = {}\n", git_quote(&spelling)));
        }
    }
    text
}

/// The beginnings of addresses that only begin like an upstream's: `insteadOf` matches prefixes, so
/// `acme/web-x` would be led to the gate as well. The longest match wins: led to themselves, they
/// stay what they are. Only over https and where a route names the host, since nothing else could
/// reach them; what the gate is asked for all the same, it refuses in words of its own.
fn siblings(grants: &Grants, upstream: &crate::policy::Upstream) -> Vec<String> {
    /// What names of repositories are made of at forges.
    const NAMES: &str = "-._0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let host = upstream.host.as_str();
    if !grants.egress.routes.keys().any(|route| route.matches(host)) {
        return Vec::new();
    }
    let bare = upstream.path.strip_suffix(".git").unwrap_or(&upstream.path);
    let next = |stem: String| NAMES.chars().map(move |next| format!("{stem}{next}"));
    let stem = format!("https://{host}/{bare}");
    next(stem.clone()).chain(next(format!("{stem}.git"))).collect()
}

/// Every way the same upstream is written. Longest first is git's own rule, so order is free.
///
/// A path from the login's home and one from `/` are one repository at a forge and two on plain
/// OpenSSH. Both lead to the gate: the one that is not the upstream could not be reached otherwise.
fn spellings(upstream: &crate::policy::Upstream) -> BTreeSet<String> {
    let host = &upstream.host;
    let bare = upstream.path.strip_suffix(".git").unwrap_or(&upstream.path);
    let user = if upstream.user.is_empty() { "git" } else { upstream.user.as_str() };
    let (ssh_port, https_port) = match upstream.transport {
        GitTransport::Ssh => (upstream.port, 443),
        GitTransport::Https => (22, upstream.port),
    };
    let mut all = BTreeSet::new();
    for path in [bare.to_string(), format!("{bare}.git")] {
        all.insert(format!("ssh://{user}@{host}:{ssh_port}/{path}"));
        if upstream.from_home {
            all.insert(format!("ssh://{user}@{host}:{ssh_port}/~/{path}"));
        }
        all.insert(format!("https://{host}:{https_port}/{path}"));
        all.insert(format!("https://{host}:{https_port}/{path}/"));
        if ssh_port == 22 {
            all.insert(format!("ssh://{user}@{host}/{path}"));
            all.insert(format!("{user}@{host}:{path}"));
            all.insert(format!("{user}@{host}:/{path}"));
            if upstream.from_home {
                all.insert(format!("ssh://{user}@{host}/~/{path}"));
                all.insert(format!("{user}@{host}:~/{path}"));
            }
        }
        if https_port == 443 {
            all.insert(format!("https://{host}/{path}"));
            all.insert(format!("https://{host}/{path}/"));
        }
    }
    all
}

fn git_quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `pipelock.yaml`: strict, with what egress may ask it for as its whole allow-list: the hosts of
/// routes and remotes, and the addresses they are pinned to, since a pinned host is asked for by that.
fn pipelock_yaml(grants: &Grants) -> String {
    let mut text = format!(
        "version: 1\nmode: strict\nenforce: true\nforward_proxy:\n  enabled: true\n  listen: \
         \"0.0.0.0:{PIPELOCK_PORT}\"\nrequest_body_scanning:\n  enabled: true\n  action: block\n  \
         scan_headers: true\n  header_mode: all\napi_allowlist:\n"
    );
    let mut allowed = BTreeSet::new();
    for (host, route) in &grants.egress.routes {
        allowed.insert(host.to_string());
        allowed.extend(route.address.map(|address| address.to_string()));
    }
    for remote in grants.git.values() {
        let host = remote.upstream.host.to_string();
        allowed.extend(remote.extra_hosts.get(&host).map(ToString::to_string));
        allowed.insert(host);
    }
    if allowed.is_empty() {
        text.truncate(text.len() - 1);
        text.push_str(" []\n");
    }
    for host in allowed {
        text.push_str(&format!("  - \"{host}\"\n"));
    }
    text
}

fn prompt_ref(name: &EnvName, message: &str) -> SecretRef {
    SecretRef::Prompt { name: name.clone(), message: message.to_string() }
}

fn state_path(path: &str) -> Option<StatePath> {
    Some(StatePath { root: StateRoot::State, path: RelPath::new(path).ok()? })
}

fn scratch(folders: &[(&str, u64)]) -> BTreeMap<AbsPath, u64> {
    folders.iter().filter_map(|(path, size)| Some((AbsPath::new(*path).ok()?, *size))).collect()
}

fn home() -> AbsPath {
    AbsPath::new(provider::HOME).unwrap_or_else(|_| AbsPath::root())
}

/// A file's JSON: in the order of its type, which is as fixed as a sorted one and costs less.
fn json<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// The digest of what is asked of an object: its label tells a difference without the engine.
fn spec_digest<T: Serialize>(spec: &T) -> String {
    document::fingerprint(spec).map(String::from).unwrap_or_default()
}
