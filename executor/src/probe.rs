//! The probe: looks at a host and writes down what a plan can need to know. It decides nothing,
//! changes nothing, and reads no secret. The only programs it runs are Docker's credential helpers, for
//! an image that is named by tag and not present.

mod git;
mod identity;
mod known_hosts;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bottle_planner::plan::{LABEL, LABEL_IDENTITY, LABEL_OWNER, LABEL_WORKSPACE};
use bottle_planner::policy::{HostConfig, SecretSource, WorkspaceMode};
use bottle_planner::resolve::{owner_label, pool};
use bottle_planner::snapshot::{
    Container, ContainerState, Engine as EngineFacts, Host, ImageFact, Mounted, Network,
    SessionFacts, Snapshot, Tool, Tree, Volume, Workspace,
};
use bottle_planner::wants::{Wants, WorkspaceWant};
use bottle_planner::words::{AbsPath, EnvName, Identity, SecretName, Subnet};
use futures_util::future::try_join_all;
use futures_util::{join, try_join};
use rustix::fs::{Access, access};

use crate::engine::{Engine, EngineError, Observed};
use crate::files::FileError;
use crate::ledger::LedgerError;
use crate::mounted;
use crate::sources;
use crate::state::Roots;
use crate::tree::{self, Hide};
use crate::upstream_ca::{self, UpstreamCaError};

/// The snapshot's format.
const FORMAT_VERSION: &str = "1.0";
/// The most bytes of a file that a manifest names.
const MOST_NAMED: u64 = 1 << 20;

/// What the edge captured of its surroundings; this crate reads no environment itself.
#[derive(Debug, Clone)]
pub struct HostInputs {
    /// The platform, the user, and where the user's things lie.
    pub host: Host,
    /// Where the state, skills and the manifest lie.
    pub roots: Roots,
    /// The running binary.
    pub tool: Tool,
    /// The host config, as loaded.
    pub config: HostConfig,
    /// Names of host variables that are set and not empty.
    pub env_names: BTreeSet<EnvName>,
    /// The folders of `PATH`, in which secret commands are looked for.
    pub path: Vec<PathBuf>,
    /// The user's ssh-agent (`SSH_AUTH_SOCK`).
    pub ssh_agent: Option<PathBuf>,
    /// Files of host keys: the user's and the system's.
    pub known_hosts: Vec<PathBuf>,
    /// The kernel's IPv4 routes.
    pub routes: PathBuf,
}

impl HostInputs {
    /// Inputs with the usual places of host keys and routes, and nothing of the environment.
    #[must_use]
    pub fn new(host: Host, roots: Roots, tool: Tool, config: HostConfig) -> Self {
        let known_hosts =
            vec![roots.home.join(".ssh/known_hosts"), PathBuf::from("/etc/ssh/ssh_known_hosts")];
        Self {
            host,
            roots,
            tool,
            config,
            env_names: BTreeSet::new(),
            path: Vec::new(),
            ssh_agent: None,
            known_hosts,
            routes: PathBuf::from("/proc/net/route"),
        }
    }
}

/// What a probe found, and what it could not look at.
#[derive(Debug)]
pub struct ProbeReport {
    /// What the planner is given.
    pub snapshot: Snapshot,
    /// Why the snapshot has no engine.
    pub engine_error: Option<EngineError>,
    /// What could not be read although a plan can need it, and why: one line each.
    pub problems: Vec<String>,
}

/// Why nothing can be planned on.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A file of the state folder could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The ledger of the session could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A record in the state folder is damaged.
    #[error("expected a record in {}, found something else: {why}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The extra trust of the host config cannot be used: a session without it would fail at every
    /// host behind it.
    #[error(transparent)]
    UpstreamCa(#[from] UpstreamCaError),
    /// The thread that read the files is gone.
    #[error("reading the host's files was cut short")]
    Interrupted,
}

/// Looks at the host. Files are read on a thread of their own while the engine answers.
///
/// An engine that does not answer is a snapshot without one, and the reason in the report.
///
/// # Errors
///
/// A state folder that cannot be read or understood: planning on a guess could lose work. A file of
/// extra trust that cannot be used.
pub async fn probe<E: Engine>(
    engine: Result<&E, EngineError>,
    host: &HostInputs,
    wants: &Wants,
) -> Result<ProbeReport, ProbeError> {
    let files = {
        let (host, wants) = (host.clone(), wants.clone());
        tokio::task::spawn_blocking(move || read_files(&host, &wants))
    };
    let owner = owner_label(&host.host);
    let ask = async {
        match engine {
            Ok(engine) => {
                let facts = try_join!(engine.facts(), engine.observe(&owner, &wants.images))?;
                Ok((engine, facts))
            }
            Err(error) => Err(error),
        }
    };
    let (asked, read) = join!(ask, files);
    let read = read.map_err(|_| ProbeError::Interrupted)??;
    let mut report = ProbeReport {
        snapshot: bare_snapshot(host, wants, read.facts),
        engine_error: None,
        problems: read.problems,
    };
    let engine = match asked {
        Ok((engine, (facts, observed))) => {
            add_observed(&mut report.snapshot, facts, observed, &owner, wants);
            engine
        }
        Err(error) => {
            report.engine_error = Some(error);
            return Ok(report);
        }
    };
    // Asked one after the other: there is one reference a launch, and a helper may ask a person.
    for reference in &wants.references {
        if reference.contains('@') || report.snapshot.images.contains_key(reference) {
            continue;
        }
        match engine.resolve(reference).await {
            Ok(Some(digest)) => {
                report.snapshot.resolved.insert(reference.clone(), digest);
            }
            Ok(None) => {}
            Err(error) => report.problems.push(error.to_string()),
        }
    }
    match planned_images(engine, wants, &report.snapshot).await {
        Ok(images) => report.snapshot.images.extend(images),
        Err(error) => {
            report.snapshot.engine = None;
            report.engine_error = Some(error);
        }
    }
    Ok(report)
}

/// Images whose tags are digests of what is in them are known only once the rest is.
async fn planned_images<E: Engine>(
    engine: &E,
    wants: &Wants,
    snapshot: &Snapshot,
) -> Result<BTreeMap<String, ImageFact>, EngineError> {
    let tags: Vec<String> = wants.planned_images(snapshot).into_iter().collect();
    let found = try_join_all(tags.iter().map(|tag| engine.image(tag))).await?;
    Ok(tags.into_iter().zip(found).filter_map(|(tag, fact)| Some((tag, fact?))).collect())
}

fn add_observed(
    snapshot: &mut Snapshot,
    facts: EngineFacts,
    observed: Observed,
    owner: &str,
    wants: &Wants,
) {
    let session = snapshot.session.as_ref().and_then(|s| s.applied.as_ref()).map(|a| &a.session);
    let places = session.iter().flat_map(|session| session.places.values());
    let before: BTreeSet<String> = places.map(|place| place.container.clone()).collect();
    let named = |name: &String| wants.may_name(name) || before.contains(name);
    let own = |labels: &BTreeMap<String, String>| {
        let of = |label: &str| labels.get(label).map(String::as_str);
        of(LABEL_OWNER) == Some(owner)
            && (wants.all || of(LABEL_IDENTITY) == wants.identity.as_ref().map(Identity::as_str))
    };
    // Who else works on this host, and on what, is nobody's affair.
    let labels = |found: BTreeMap<String, String>| match wants.all || own(&found) {
        true => ours(found),
        false => BTreeMap::new(),
    };
    snapshot.engine = Some(facts);
    if let Some(workspace) = snapshot.workspace.as_mut().filter(|w| w.mounted.is_some()) {
        workspace.mounted_by = observed.containers.values().find_map(|container| {
            let label = |name: &str| container.labels.get(name).map(String::as_str);
            let theirs = AbsPath::new(label(LABEL_WORKSPACE)?).ok()?;
            let session = Identity::new(label(LABEL_IDENTITY)?).ok()?;
            let overlaps = theirs.is_within(&workspace.path) || workspace.path.is_within(&theirs);
            let other =
                label(LABEL_OWNER) == Some(owner) && Some(&session) != wants.identity.as_ref();
            (overlaps && other).then_some(session)
        });
    }
    for (name, container) in observed.containers {
        if own(&container.labels) {
            let labels = labels(container.labels);
            snapshot.containers.insert(name, Container { labels, ..container });
        } else if named(&name) {
            let labels = labels(container.labels);
            snapshot.containers.insert(name, foreign_container(container.id, labels));
        }
    }
    let mut others = BTreeSet::new();
    for (name, network) in observed.networks {
        if own(&network.labels) || named(&name) {
            let labels = labels(network.labels);
            snapshot.networks.insert(name, Network { labels, ..network });
        } else {
            others.extend(network.subnets);
        }
    }
    for (name, volume) in observed.volumes {
        if own(&volume.labels) || named(&name) {
            snapshot.volumes.insert(name, Volume { labels: labels(volume.labels) });
        }
    }
    snapshot.images = observed.images;
    // A bridge's route says what its network says already, and comes and goes with its containers.
    let subnets: BTreeSet<Subnet> =
        snapshot.networks.values().flat_map(|n| n.subnets.iter().copied()).collect();
    snapshot.host_routes.retain(|route| !subnets.contains(route));
    // Of anybody else's network a plan needs to know no more than of a route: what is taken.
    snapshot.host_routes.extend(others);
    if let (false, Some(pool)) = (wants.all, pool(&snapshot.config)) {
        snapshot.host_routes.retain(|route| route.overlaps(pool));
    }
}

/// Of a container that is not this session's a plan needs to know that it holds its name.
fn foreign_container(id: String, labels: BTreeMap<String, String>) -> Container {
    Container {
        id,
        image: String::new(),
        state: ContainerState::Created,
        labels,
        networks: BTreeMap::new(),
        started_at: String::new(),
    }
}

fn ours(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.retain(|name, _| name.starts_with(LABEL));
    labels
}

fn bare_snapshot(host: &HostInputs, wants: &Wants, facts: FileFacts) -> Snapshot {
    let mut config = host.config.clone();
    config.secrets.retain(|name, _| wants.all || wants.secrets.contains(name));
    let mut env_names = host.env_names.clone();
    env_names.retain(|name| wants.all || wants.env_names.contains(name));
    Snapshot {
        format_version: FORMAT_VERSION.to_owned(),
        host: host.host.clone(),
        tool: host.tool.clone(),
        engine: None,
        containers: BTreeMap::new(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        images: BTreeMap::new(),
        resolved: BTreeMap::new(),
        host_routes: facts.host_routes,
        config,
        upstream_ca: facts.upstream_ca,
        env_names,
        secrets: facts.secrets,
        skills: facts.skills,
        named_files: facts.named_files,
        contexts: facts.contexts,
        identity_files: facts.identity_files,
        known_hosts: facts.known_hosts,
        workspace: facts.workspace,
        session: facts.session,
    }
}

/// What files say.
#[derive(Default)]
struct FileFacts {
    host_routes: BTreeSet<Subnet>,
    upstream_ca: Option<String>,
    secrets: BTreeSet<SecretName>,
    skills: BTreeMap<bottle_planner::words::Name, Tree>,
    named_files: BTreeMap<bottle_planner::words::RelPath, String>,
    contexts: BTreeMap<bottle_planner::words::RelPath, Tree>,
    identity_files: BTreeMap<String, bottle_planner::snapshot::IdentityFile>,
    known_hosts: BTreeMap<String, BTreeSet<String>>,
    workspace: Option<Workspace>,
    session: Option<SessionFacts>,
}

struct Read {
    facts: FileFacts,
    problems: Vec<String>,
}

fn read_files(host: &HostInputs, wants: &Wants) -> Result<Read, ProbeError> {
    let mut reader = Reader { host, facts: FileFacts::default(), problems: Vec::new() };
    if let Some(identity) = &wants.identity {
        reader.facts.session = session::facts(identity, &host.roots.state(identity))?;
    }
    reader.facts.host_routes = routes(&host.routes);
    if let Some(path) = host.config.network.ca.as_ref().filter(|_| wants.upstream_ca) {
        reader.facts.upstream_ca = Some(upstream_ca::read(path, &host.roots.home)?);
    }
    reader.facts.secrets =
        wants.secrets.iter().filter(|name| reader.has_secret(name)).cloned().collect();
    for name in &wants.skills {
        let folder = host.roots.skills.join(name.as_str());
        if let Some(tree) = reader.tree(&folder, &Hide::nothing()) {
            reader.facts.skills.insert(name.clone(), tree);
        }
    }
    for path in &wants.contexts {
        let folder = host.roots.manifest.join(path.as_str());
        if reader.is_plain(&host.roots.manifest, path.as_str())
            && let Some(tree) = reader.tree(&folder, &Hide::nothing())
        {
            reader.facts.contexts.insert(path.clone(), tree);
        }
    }
    for path in &wants.named_files {
        match sources::read_named(&host.roots.manifest, path, MOST_NAMED) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => drop(reader.facts.named_files.insert(path.clone(), text)),
                Err(_) => reader.problems.push(format!("`{path}` is not UTF-8 text")),
            },
            Err(error) => reader.problem(&error),
        }
    }
    for path in &wants.identity_files {
        let found = identity::look(&reader.expand(path), host.ssh_agent.as_deref());
        reader.facts.identity_files.insert(path.clone(), found);
    }
    if !wants.known_hosts.is_empty() {
        let files = host.known_hosts.iter().filter_map(|f| std::fs::read(f).ok());
        let files: Vec<String> =
            files.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        for entry in &wants.known_hosts {
            let keys = known_hosts::keys(files.iter().map(String::as_str), entry);
            if !keys.is_empty() {
                reader.facts.known_hosts.insert(entry.clone(), keys);
            }
        }
    }
    if let Some(want) = &wants.workspace {
        reader.facts.workspace = reader.workspace(want);
    }
    Ok(Read { facts: reader.facts, problems: reader.problems })
}

struct Reader<'h> {
    host: &'h HostInputs,
    facts: FileFacts,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// Whether a secret's source answers for it, as far as can be told without reading it.
    fn has_secret(&self, name: &SecretName) -> bool {
        match self.host.config.secrets.get(name) {
            None => EnvName::new(name.as_str()).is_ok_and(|n| self.host.env_names.contains(&n)),
            Some(SecretSource::Env { name }) => self.host.env_names.contains(name),
            Some(SecretSource::File { path }) => {
                let path = self.expand(path);
                path.is_file() && access(&path, Access::READ_OK).is_ok()
            }
            Some(SecretSource::Command { argv }) => {
                argv.first().is_some_and(|program| self.has_program(program))
            }
        }
    }

    fn has_program(&self, program: &str) -> bool {
        let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
        if program.contains('/') {
            return runs(&self.expand(program));
        }
        self.host.path.iter().any(|folder| runs(&folder.join(program)))
    }

    fn expand(&self, path: &str) -> PathBuf {
        match path.strip_prefix("~/") {
            Some(rest) => self.host.roots.home.join(rest),
            None => PathBuf::from(path),
        }
    }

    /// Whether no part of a path below the manifest's folder is a link.
    fn is_plain(&mut self, root: &Path, path: &str) -> bool {
        let mut at = root.to_owned();
        for part in path.split('/') {
            at.push(part);
            if at.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
                self.problems.push(format!("{} is a link, and none is followed", at.display()));
                return false;
            }
        }
        true
    }

    fn tree(&mut self, folder: &Path, hide: &Hide) -> Option<Tree> {
        match tree::digest(folder, hide) {
            Ok(tree) => Some(tree),
            Err(error) => {
                self.problem(&error);
                None
            }
        }
    }

    fn workspace(&mut self, want: &WorkspaceWant) -> Option<Workspace> {
        let given = Path::new(want.path.as_str());
        let seen = given.canonicalize().and_then(|path| Ok((path.metadata()?, path)));
        let (found, path) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                self.problems.push(format!("cannot read {}: {error}", want.path));
                return None;
            }
        };
        let name = path.to_str().and_then(|text| AbsPath::new(text).ok());
        let Some(name) = name.filter(|_| found.is_dir()) else {
            self.problems.push(format!("{} is not a folder a plan can name", want.path));
            return None;
        };
        let commit = git::head(&path);
        let copied = match want.mode {
            Some(mode) => mode == WorkspaceMode::Copy,
            None => commit.is_none(),
        };
        let tree = if copied { self.hidden_tree(&path, want) } else { None };
        let mounted =
            if want.mode == Some(WorkspaceMode::Mount) { self.mounted(&path, want) } else { None };
        let foreign = found.uid() != self.host.host.uid;
        Some(Workspace { path: name, tree, commit, foreign, mounted, mounted_by: None })
    }

    fn mounted(&mut self, path: &Path, want: &WorkspaceWant) -> Option<Mounted> {
        match mounted::look(path, &want.hide, &want.protect) {
            Ok(seen) => Some(seen),
            Err(error) => {
                self.problem(&error);
                None
            }
        }
    }

    fn hidden_tree(&mut self, path: &Path, want: &WorkspaceWant) -> Option<Tree> {
        match Hide::new(&want.hide) {
            Ok(hide) => self.tree(path, &hide),
            Err(error) => {
                self.problem(&error);
                None
            }
        }
    }

    fn problem(&mut self, error: &dyn std::error::Error) {
        let chain = std::iter::successors(Some(error), |e| e.source());
        self.problems.push(chain.map(ToString::to_string).collect::<Vec<_>>().join(": "));
    }
}

/// The kernel's routes less the default one: proc(5), `/proc/net/route`, addresses in host order.
fn routes(path: &Path) -> BTreeSet<Subnet> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |n: usize| u32::from_str_radix(fields.get(n)?, 16).ok();
        let (destination, mask) = (number(1)?, number(7)?);
        let prefix = u8::try_from(mask.count_ones()).ok().filter(|bits| *bits > 0)?;
        Subnet::new(std::net::Ipv4Addr::from(destination.to_ne_bytes()), prefix).ok()
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests;
