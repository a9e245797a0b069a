//! What this host gives a session: names, addresses, users, a runtime, a workspace folder.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::Ground;
use super::grant::{is_container_folder, kept_folders};
use crate::document;
use crate::error::ErrorCode;
use crate::grants::{Grants, ImageGrant};
use crate::mounted;
use crate::plan::{
    GitPlace, LABEL_IDENTITY, LABEL_OWNER, LABEL_ROLE, NetworkPlace, Place, Requirement, Session,
    User, WorkspacePlace,
};
use crate::policy::{HostConfig, Isolation, WorkspaceMode};
use crate::snapshot::{Container, GitFolder, Host};
use crate::spec::Refresh;
use crate::words::{AbsPath, Digest, Identity, RelPath, Role, Subnet};

/// Bits of a session network: 14 usable addresses.
pub(crate) const PREFIX: u8 = 28;
/// The pool when the host config names none.
const DEFAULT_POOL: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 201, 0, 0), 16);
/// How many agent container names are tried.
const MOST_NAMES: u32 = 100;
/// The runtime that `gvisor` means.
pub const RUNSC: &str = "runsc";
/// The runtime of a plain container.
const DEFAULT_RUNTIME: &str = "runc";
/// Where a copied or cloned workspace is inside the agent's container.
pub(crate) const WORKSPACE: &str = "/workspace";

/// The label that says whose an object is: the user and the state root.
#[must_use]
pub fn owner_label(host: &Host) -> String {
    format!("{}-{}", host.uid, Digest::of(host.state_root.as_str().as_bytes()).short())
}

/// The `n`th name tried for an agent's container, counting from 1.
#[must_use]
pub fn agent_container_name(identity: &Identity, n: u32) -> String {
    if n <= 1 { format!("bottle-{identity}") } else { format!("bottle-{identity}-{n}") }
}

/// The name of a sidecar's container.
#[must_use]
pub fn sidecar_container_name(identity: &Identity, role: Role) -> String {
    format!("bottle-{role}-{identity}")
}

/// The tag of the image that a binary is imported as.
#[must_use]
pub fn sidecar_image(tool: &Digest) -> String {
    format!("bottle-sidecar:{}", tool.short())
}

/// Where the subnets of a host's sessions lie. Only the default could be no subnet, and it is one.
#[must_use]
pub fn pool(config: &HostConfig) -> Option<Subnet> {
    config.pool.or_else(|| Subnet::new(DEFAULT_POOL.0, DEFAULT_POOL.1).ok())
}

impl Ground<'_> {
    pub(super) fn session(&mut self, identity: &Identity, grants: &Grants) -> Option<Session> {
        let owner = self.owner.clone();
        let (agent_user, sidecar_user) = self.users();
        let net_name = format!("bottle-net-{identity}");
        let out_name = format!("bottle-out-{identity}");
        self.check_network_owner(identity, &net_name);
        self.check_network_owner(identity, &out_name);
        let (net, out) = self.subnets(identity, &net_name, &out_name)?;
        let workspace = self.workspace_place(identity, grants.workspace.mode);
        let tool = self.frozen_tool(identity);
        let base_image = image_name(identity, &grants.image);
        let agent_image = self.derived_image(identity, grants, &workspace, &base_image, agent_user);
        let started_at = match self.applied() {
            Some(applied) if !self.spec.resume => applied.session.started_at.clone(),
            _ => self.spec.at.clone(),
        };
        let resumed = match self.applied() {
            Some(applied) => self.spec.resume || applied.session.resumed,
            None => false,
        };
        Some(Session {
            started_at,
            agent_user,
            sidecar_user,
            places: self.places(identity, grants, net, out)?,
            net: NetworkPlace { name: net_name, subnet: net },
            out: NetworkPlace { name: out_name, subnet: out },
            runtime: self.runtime(grants.isolation),
            sidecar_image: sidecar_image(&tool),
            tool,
            base_image,
            agent_image,
            workspace,
            context: self.context_path(grants),
            upstream_proxy: self
                .snapshot
                .config
                .network
                .proxy
                .clone()
                .map(|proxy| (proxy, self.snapshot.config.network.no_proxy.clone())),
            upstream_ca: self.upstream_ca(),
            approvals: self.approvals.clone(),
            resumed,
            owner,
        })
    }

    /// The extra trust of the host config. Not frozen: it is the host's and not the session's, and
    /// what a host no longer trusts should not be trusted for as long as a session lives.
    fn upstream_ca(&mut self) -> Option<String> {
        let found = self.snapshot.upstream_ca.clone();
        if let (Some(path), None) = (&self.snapshot.config.network.ca, &found) {
            let message =
                format!("the certificates of `network.ca` ({path}) are not in the snapshot");
            if self.spec.offline {
                self.notice("no_upstream_ca", format!("{message}: egress does not trust them"));
            } else {
                let hint = "probe again with this version of bottle";
                self.error(ErrorCode::FileMissing, message, hint);
            }
        }
        found
    }

    /// Whether an object's labels say that it is this session's, of this user and state root.
    pub(super) fn is_ours(&self, identity: &Identity, labels: &BTreeMap<String, String>) -> bool {
        labels.get(LABEL_OWNER) == Some(&self.owner)
            && labels.get(LABEL_IDENTITY).map(String::as_str) == Some(identity.as_str())
    }

    /// This session's container of a role, whatever its name.
    pub(super) fn own_container(
        &self,
        identity: &Identity,
        role: Role,
    ) -> Option<(&String, &Container)> {
        self.snapshot.containers.iter().find(|(_, container)| {
            self.is_ours(identity, &container.labels)
                && container.labels.get(LABEL_ROLE).map(String::as_str) == Some(role.as_str())
        })
    }

    /// Whether what was minted stays: some container of the session exists, and a person did not
    /// ask for this part to be taken over.
    pub(super) fn is_frozen(&self, identity: &Identity, part: Refresh) -> bool {
        self.applied().is_some()
            && !self.spec.refresh.contains(&part)
            && Role::ALL.into_iter().any(|role| self.own_container(identity, role).is_some())
    }

    /// Sidecars run as the host's user, so that their 0600 files stay 0600; on a rootless engine
    /// that user is 0 inside. The agent is never user 0: Claude Code refuses its bypass flag there.
    fn users(&mut self) -> (User, User) {
        let host = &self.snapshot.host;
        let rootless = self.snapshot.engine.as_ref().is_some_and(|e| e.rootless);
        let sidecar =
            if rootless { User { uid: 0, gid: 0 } } else { User { uid: host.uid, gid: host.gid } };
        let agent = if sidecar.uid == 0 { User { uid: 1000, gid: 1000 } } else { sidecar };
        (agent, sidecar)
    }

    fn check_network_owner(&mut self, identity: &Identity, name: &str) {
        if let Some(network) = self.snapshot.networks.get(name)
            && !self.is_ours(identity, &network.labels)
        {
            self.orphan("network", name);
        }
    }

    fn orphan(&mut self, what: &str, name: &str) {
        self.error(
            ErrorCode::Orphan,
            format!("{what} `{name}` exists and does not belong to this session"),
            "`bottle cleanup` removes what ended sessions of yours left; otherwise it is somebody \
             else's: choose another --name",
        );
    }

    /// Two free subnets: those the session has, else the first free places behind a hash of the
    /// identity, past every network and host route.
    fn subnets(&mut self, identity: &Identity, net: &str, out: &str) -> Option<(Subnet, Subnet)> {
        if let Some(applied) = self.applied()
            && self.keeps_subnets(identity, net, out)
        {
            return Some((applied.session.net.subnet, applied.session.out.subnet));
        }
        let pool = pool(&self.snapshot.config)?;
        let taken: BTreeSet<Subnet> = self.taken(net, out).collect();
        let slots = pool.slots(PREFIX);
        let first = Digest::of(identity.as_str().as_bytes())
            .hex()
            .get(..8)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .unwrap_or(0);
        let mut free = (0..slots)
            .filter_map(|step| pool.slot(first.wrapping_add(step) % slots, PREFIX))
            .filter(|slot| !taken.iter().any(|other| other.overlaps(*slot)));
        match (free.next(), free.next()) {
            (Some(net), Some(out)) => Some((net, out)),
            _ => {
                drop(free);
                self.error(
                    ErrorCode::PoolExhausted,
                    format!("no two subnets of /{PREFIX} are free in {pool}"),
                    "end sessions (`bottle cleanup`), or give a larger `pool` in the host config",
                );
                None
            }
        }
    }

    /// What is taken by others: by networks that are not the session's, and by the host's routes.
    fn taken(&self, net: &str, out: &str) -> impl Iterator<Item = Subnet> {
        self.snapshot
            .networks
            .iter()
            .filter(move |(name, _)| *name != net && *name != out)
            .flat_map(|(_, network)| network.subnets.iter().copied())
            // A default route covers everything and takes nothing.
            .chain(self.snapshot.host_routes.iter().copied().filter(|r| r.prefix() > 0))
    }

    /// Subnets stay while a container or network of the session exists, or nobody took them.
    fn keeps_subnets(&self, identity: &Identity, net: &str, out: &str) -> bool {
        let Some(applied) = self.applied() else { return false };
        let exists = |name: &str| self.snapshot.networks.contains_key(name);
        let anybody_else = self.taken(net, out).any(|s| {
            s.overlaps(applied.session.net.subnet) || s.overlaps(applied.session.out.subnet)
        });
        let (own_net, own_out) = (applied.session.net.subnet, applied.session.out.subnet);
        let within = |pool: Subnet| own_net.is_within(pool) && own_out.is_within(pool);
        (exists(net) && exists(out))
            || (!anybody_else && pool(&self.snapshot.config).is_some_and(within))
            || (self.is_frozen(identity, Refresh::Tool) && (exists(net) || exists(out)))
    }

    fn places(
        &mut self,
        identity: &Identity,
        grants: &Grants,
        net: Subnet,
        out: Subnet,
    ) -> Option<BTreeMap<Role, Place>> {
        let mut places = BTreeMap::new();
        for (role, net, out) in role_addresses(net, out) {
            if !is_wanted(role, grants) {
                continue;
            }
            let container = if role == Role::Agent {
                self.agent_name(identity)?
            } else {
                self.sidecar_name(identity, role)
            };
            places.insert(role, Place { container, net: net?, out });
        }
        Some(places)
    }

    fn sidecar_name(&mut self, identity: &Identity, role: Role) -> String {
        let name = sidecar_container_name(identity, role);
        if let Some(container) = self.snapshot.containers.get(&name)
            && !self.is_ours(identity, &container.labels)
        {
            self.orphan("container", &name);
        }
        name
    }

    fn agent_name(&mut self, identity: &Identity) -> Option<String> {
        let held = |name: &str| {
            self.snapshot
                .containers
                .get(name)
                .is_some_and(|container| !self.is_ours(identity, &container.labels))
        };
        if let Some(pinned) = &self.spec.overrides.container {
            let valid = pinned.len() <= 128
                && pinned.starts_with(|c: char| c.is_ascii_alphanumeric())
                && pinned.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            if !valid {
                self.error(
                    ErrorCode::ContainerNameTaken,
                    format!("`{}` is no container name", pinned.escape_debug()),
                    "BOTTLE_CONTAINER takes letters, digits, `_`, `.` and `-`",
                );
            } else if held(pinned) {
                self.error(
                    ErrorCode::ContainerNameTaken,
                    format!("container `{pinned}` exists and does not belong to this session"),
                    format!("`docker rm -f {pinned}`, or unset BOTTLE_CONTAINER"),
                );
            }
            return Some(pinned.clone());
        }
        if let Some((name, _)) = self.own_container(identity, Role::Agent) {
            return Some(name.clone());
        }
        // A resumed session keeps its name where it can.
        let before = self
            .applied()
            .and_then(|a| a.session.places.get(&Role::Agent))
            .map(|place| place.container.clone());
        let free = before
            .into_iter()
            .chain((1..=MOST_NAMES).map(|n| agent_container_name(identity, n)))
            .find(|name| !held(name));
        if free.is_none() {
            self.error(
                ErrorCode::NoContainerName,
                format!(
                    "container names `{}` to `{}` are all taken",
                    agent_container_name(identity, 1),
                    agent_container_name(identity, MOST_NAMES)
                ),
                "`bottle cleanup` removes what ended sessions left",
            );
        }
        free
    }

    fn runtime(&mut self, isolation: Isolation) -> Option<String> {
        let engine = self.snapshot.engine.as_ref();
        let registered = engine.is_some_and(|engine| engine.runtimes.contains(RUNSC));
        let runs = match isolation {
            Isolation::Container => DEFAULT_RUNTIME,
            Isolation::Auto if !registered => DEFAULT_RUNTIME,
            Isolation::Auto | Isolation::Gvisor => RUNSC,
        };
        if engine.is_some_and(|engine| engine.without_limits.contains(runs)) {
            let why = if runs == RUNSC {
                "runsc is registered with --ignore-cgroups"
            } else {
                "the engine puts nothing into cgroups"
            };
            self.notice(
                "limits_not_held",
                format!(
                    "{why}: limits of memory, processes and processor do not hold for the agent"
                ),
            );
        }
        match isolation {
            Isolation::Container => None,
            Isolation::Auto if registered => Some(RUNSC.to_string()),
            Isolation::Auto => {
                self.notice(
                    "plain_container",
                    "runsc is not registered with the engine: the agent runs in a plain container",
                );
                None
            }
            Isolation::Gvisor => {
                if !registered && !self.spec.offline && self.snapshot.engine.is_some() {
                    self.error(
                        ErrorCode::NoGvisor,
                        "the bottle demands gVisor, and runtime `runsc` is not registered",
                        "install runsc and register it with the engine (`bottle doctor` shows how)",
                    );
                }
                Some(RUNSC.to_string())
            }
        }
    }

    fn workspace_place(
        &mut self,
        identity: &Identity,
        mode: WorkspaceMode,
    ) -> Option<WorkspacePlace> {
        let request = self.spec.workspace.as_ref()?;
        if mode == WorkspaceMode::None {
            return None;
        }
        self.check_workspace_folder(&request.path, mode);
        let frozen = self
            .applied()
            .filter(|_| self.is_frozen(identity, Refresh::Workspace))
            .and_then(|a| a.session.workspace.clone())
            .filter(|w| w.mode == mode && w.host == request.path);
        let seen = self.snapshot.workspace.as_ref();
        let digest = seen.and_then(|w| w.tree.as_ref()).map(|t| t.digest.clone());
        let commit = seen.and_then(|w| w.commit.clone());
        if let Some(frozen) = frozen {
            let differs = match mode {
                WorkspaceMode::Copy => digest.is_some() && frozen.digest != digest,
                WorkspaceMode::Clone => commit.is_some() && frozen.commit != commit,
                WorkspaceMode::Mount | WorkspaceMode::None => false,
            };
            if differs {
                self.notice(
                    "workspace_changed",
                    format!(
                        "{} has changed since the session began; --refresh workspace takes it over",
                        request.path
                    ),
                );
            }
            return Some(frozen);
        }
        if mode == WorkspaceMode::Copy && digest.is_none() && !self.spec.offline {
            self.error(
                ErrorCode::BadWorkspace,
                format!("workspace {} cannot be read", request.path),
                "name a folder that you can read",
            );
        }
        if mode == WorkspaceMode::Clone && commit.is_none() {
            self.error(
                ErrorCode::BadWorkspace,
                format!("workspace {} has no commit to clone", request.path),
                "commit something, or use --workspace copy",
            );
        }
        let inside = if mode == WorkspaceMode::Mount {
            request.path.clone()
        } else {
            AbsPath::new(WORKSPACE).ok()?
        };
        let place = WorkspacePlace {
            mode,
            host: request.path.clone(),
            inside,
            digest: if mode == WorkspaceMode::Copy { digest } else { None },
            commit: if mode == WorkspaceMode::Copy { None } else { commit },
            guards: BTreeMap::new(),
            git: None,
        };
        if mode == WorkspaceMode::Mount { self.mounted_place(identity, place) } else { Some(place) }
    }

    /// A mounted folder's place, with what is mounted over it as the folder is now.
    pub(super) fn mounted_place(
        &mut self,
        identity: &Identity,
        mut place: WorkspacePlace,
    ) -> Option<WorkspacePlace> {
        let applied = self.applied().and_then(|a| a.session.workspace.clone());
        let before = applied.filter(|w| w.mode == WorkspaceMode::Mount && w.host == place.host);
        let Some(seen) = self.snapshot.workspace.as_ref().and_then(|w| w.mounted.as_ref()) else {
            if before.is_none() && !self.spec.offline {
                self.error(
                    ErrorCode::BadWorkspace,
                    format!("workspace {} cannot be read", place.host),
                    "name a folder that you can read, all of it",
                );
            }
            return Some(before.unwrap_or(place));
        };
        let found = mounted::guards(seen, &self.bottle_protects());
        if found.guards.len() > mounted::MOST {
            self.error(
                ErrorCode::BadWorkspace,
                format!(
                    "{} parts of {} would be mounted over, expected at most {}",
                    found.guards.len(),
                    place.host,
                    mounted::MOST
                ),
                "narrow `hide` and `protect`, or use --workspace copy or clone",
            );
        }
        if !found.cannot.is_empty() {
            let names: Vec<&str> = found.cannot.iter().map(RelPath::as_str).collect();
            self.notice(
                "workspace_not_guarded",
                format!(
                    "links in {} are neither hidden nor protected: {}",
                    place.host,
                    names.join(", ")
                ),
            );
        }
        place.guards = found.guards;
        // What this session put there is still its own to take away.
        for (path, guard) in &mut place.guards {
            let was = before.as_ref().and_then(|w| w.guards.get(path));
            guard.made |= was.is_some_and(|g| g.made);
        }
        place.git = self.git_place(identity, &place.host, &seen.git);
        let made: Vec<&str> =
            place.guards.iter().filter(|(_, g)| g.made).map(|(path, _)| path.as_str()).collect();
        if !made.is_empty() {
            self.notice(
                "workspace_placeholders",
                format!(
                    "while the session lasts something empty stands in {} for what the agent \
                     is not to make there: {}",
                    place.host,
                    made.join(", ")
                ),
            );
        }
        self.check_mounted_once(&place.host);
        Some(place)
    }

    fn bottle_protects(&self) -> BTreeSet<String> {
        let agent = self.manifest.agents.get(&self.spec.agent);
        let bottle = agent.and_then(|agent| self.manifest.bottles.get(&agent.bottle));
        bottle.map(|bottle| bottle.workspace.protect.clone()).unwrap_or_default()
    }

    fn git_place(
        &mut self,
        identity: &Identity,
        host: &AbsPath,
        git: &GitFolder,
    ) -> Option<GitPlace> {
        let own = || RelPath::new(".git").ok().map(|git| host.join(&git));
        match git {
            GitFolder::None | GitFolder::Own => Some(GitPlace { folder: own()?, worktree: None }),
            GitFolder::Linked { common, name } => {
                let covered = is_container_folder(common).or_else(|| {
                    let kept = kept_folders(self.snapshot).into_iter();
                    kept.map(|(kept, _)| kept)
                        .find(|k| common.is_within(k) || k.is_within(common))
                        .map(|kept| kept.to_string())
                });
                if let Some(covered) = covered {
                    self.error(
                        ErrorCode::BadWorkspace,
                        format!(
                            "the git folder {common} of {identity}'s worktree would cover {covered}"
                        ),
                        "use --workspace clone",
                    );
                }
                Some(GitPlace { folder: common.clone(), worktree: Some(name.clone()) })
            }
            GitFolder::Odd => {
                self.error(
                    ErrorCode::BadWorkspace,
                    format!("{host}/.git is a link, or a file that names no linked worktree"),
                    "use --workspace clone, or copy",
                );
                None
            }
        }
    }

    /// Two agents that write one folder could move what is mounted for each other.
    fn check_mounted_once(&mut self, host: &AbsPath) {
        let other = self.snapshot.workspace.as_ref().and_then(|w| w.mounted_by.clone());
        if let Some(session) = other {
            self.error(
                ErrorCode::BadWorkspace,
                format!("session {session} has {host}, or part of it, mounted already"),
                format!("`bottle destroy {session}` first, or use --workspace copy or clone"),
            );
        }
    }

    fn check_workspace_folder(&mut self, path: &AbsPath, mode: WorkspaceMode) {
        for (kept, what) in kept_folders(self.snapshot) {
            if path.is_within(&kept) || kept.is_within(path) {
                self.error(
                    ErrorCode::BadWorkspace,
                    format!("workspace {path} equals, contains or lies in the {what} {kept}"),
                    "work in a folder of its own",
                );
            }
        }
        if mode == WorkspaceMode::Mount {
            if let Some(covered) = is_container_folder(path) {
                self.error(
                    ErrorCode::BadWorkspace,
                    format!("workspace {path} would cover {covered} inside the container"),
                    "use --workspace copy or clone, or a folder elsewhere",
                );
            }
            if self.snapshot.host.uid == 0 {
                self.notice(
                    "mounted_by_root",
                    format!("{path} is mounted by root; the agent writes there as 1000:1000"),
                );
            }
        }
        if self.snapshot.workspace.as_ref().is_some_and(|w| w.foreign) {
            self.notice("workspace_of_another_user", format!("{path} belongs to another user"));
        }
    }

    /// Where the build context lies: a fact of this host's manifest folder, not of the grants.
    fn context_path(&self, grants: &Grants) -> Option<crate::words::RelPath> {
        let ImageGrant::Build { context: Some(_), .. } = &grants.image else { return None };
        let agent = self.manifest.agents.get(&self.spec.agent)?;
        match &self.manifest.bottles.get(&agent.bottle)?.image {
            crate::policy::Image::Dockerfile { context, .. } => context.clone(),
            _ => None,
        }
    }

    fn frozen_tool(&mut self, identity: &Identity) -> Digest {
        let present = &self.snapshot.tool.digest;
        if let Some(applied) = self.applied()
            && self.is_frozen(identity, Refresh::Tool)
        {
            let frozen = applied.session.tool.clone();
            if frozen != *present {
                self.notice(
                    "tool_changed",
                    format!(
                        "the session runs bottle {}, this is {}; --refresh tool takes it over",
                        frozen.short(),
                        present.short()
                    ),
                );
            }
            return frozen;
        }
        present.clone()
    }

    /// The image with the workspace on it, tagged by what is in it, so that sessions on one folder
    /// share it.
    fn derived_image(
        &mut self,
        identity: &Identity,
        grants: &Grants,
        workspace: &Option<WorkspacePlace>,
        base: &str,
        owner: User,
    ) -> String {
        let Some(place) = workspace else { return base.to_string() };
        if !matches!(place.mode, WorkspaceMode::Copy | WorkspaceMode::Clone) {
            return base.to_string();
        }
        if let Some(tag) = &self.spec.overrides.derived_image {
            return tag.clone();
        }
        if place.mode == WorkspaceMode::Copy && place.digest.is_none() {
            self.requires.insert(Requirement::Workspace { path: place.host.clone(), digest: None });
        }
        derived_tag(identity, grants, place, base, owner)
    }
}

/// Whether a session with these grants has a container of this role.
pub(crate) fn is_wanted(role: Role, grants: &Grants) -> bool {
    match role {
        Role::Egress | Role::Agent => true,
        Role::GitGate => !grants.git.is_empty(),
        Role::Supervise => grants.supervise,
        Role::Pipelock => grants.egress.pipelock.is_some(),
    }
}

/// The address of each role on the internal network, and on the way out for those that have one.
pub(crate) fn role_addresses(
    net: Subnet,
    out: Subnet,
) -> impl Iterator<Item = (Role, Option<Ipv4Addr>, Option<Ipv4Addr>)> {
    (2u32..).zip(Role::ALL).map(move |(n, role)| {
        let has_way_out = matches!(role, Role::Egress | Role::Pipelock);
        (role, net.nth(n), if has_way_out { out.nth(n) } else { None })
    })
}

/// The address of a build on a session's network: behind those of the roles.
pub(crate) fn build_address(net: Subnet) -> Option<Ipv4Addr> {
    net.nth(2 + u32::try_from(Role::ALL.len()).ok()?)
}

/// What a granted image is called on a host: its id, its pinned name, or a tag by content.
pub(crate) fn image_name(identity: &Identity, image: &ImageGrant) -> String {
    match image {
        ImageGrant::Reference { reference, digest: Some(digest), .. }
            if !reference.contains('@') =>
        {
            digest.to_string()
        }
        ImageGrant::Reference { reference, .. } => reference.clone(),
        ImageGrant::Build { .. } => image_tag(identity, image),
    }
}

/// The tag of a built image: its inputs' digest. An approved change has a tag of its session's own.
fn image_tag(identity: &Identity, image: &ImageGrant) -> String {
    let inputs = document::digest(image).unwrap_or_else(|_| Digest::of(b""));
    match image {
        ImageGrant::Build { approved_change: true, .. } => {
            format!("bottle-agent:{identity}-{}", inputs.short())
        }
        _ => format!("bottle-agent:{}", inputs.short()),
    }
}

/// The tag of an image with a workspace: its inputs' digest. A clone is on a branch of the
/// session's own name, so it is the session's own too.
pub(crate) fn derived_tag(
    identity: &Identity,
    grants: &Grants,
    place: &WorkspacePlace,
    base: &str,
    owner: User,
) -> String {
    let branch = (place.mode == WorkspaceMode::Clone).then(|| identity.as_str());
    let inputs = document::digest(&(
        base,
        &place.digest,
        &place.commit,
        branch,
        &place.inside,
        &grants.workspace.hide,
        owner,
    ))
    .unwrap_or_else(|_| Digest::of(b""));
    format!("bottle:cwd-{}", inputs.short())
}
