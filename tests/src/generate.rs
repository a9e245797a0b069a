//! Worlds to plan in, drawn at random: manifest, spec and snapshot that belong together.
//!
//! Every world can be planned. Pools are small, so that names meet, and everything shrinks towards
//! the bare bottle of [`crate::fixture`].

use std::collections::{BTreeMap, BTreeSet};

use bottle_planner::policy::{
    Access, Approval, Auth, AuthScheme, BuildNetwork, Dlp, DlpAction, EnvValue, GitCredential,
    GitUser, HostPattern, Image, Isolation, Manifest, Origin, PinnedImage, Provider, Route,
    RouteRole, Rule, Tls, WorkspaceMode,
};
use bottle_planner::snapshot::{
    Container, ContainerState, Found, GitFolder, IdentityFile, Kind, Mounted, Network, Snapshot,
    Tree, Workspace,
};
use bottle_planner::spec::{Spec, WorkspaceRequest};
use bottle_planner::words::{
    AbsPath, Digest, EnvName, Identity, Name, RelPath, SecretName, Subnet,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::{fixture, word};

/// Manifest, spec and snapshot.
#[derive(Debug, Clone)]
pub struct World {
    /// What is granted.
    pub manifest: Manifest,
    /// What is asked.
    pub spec: Spec,
    /// What the host is.
    pub snapshot: Snapshot,
}

/// Any world that can be planned.
pub fn world() -> impl Strategy<Value = World> {
    (policy(), launch(), host()).prop_map(|(policy, launch, host)| build(policy, launch, host))
}

/// The part that grants.
#[derive(Debug, Clone)]
pub struct Policy {
    routes: BTreeMap<HostPattern, Route>,
    env: BTreeMap<EnvName, EnvValue>,
    remotes: BTreeSet<&'static str>,
    remote_by_secret: bool,
    supervise: bool,
    pipelock: bool,
    skills: BTreeSet<&'static str>,
    prompt: String,
    provider: Provider,
    image: u8,
    isolation: Isolation,
    git_user: bool,
    from_repository: bool,
    memory_mib: u64,
    approvals: Vec<Approval>,
}

/// The part that asks.
#[derive(Debug, Clone)]
pub struct Launch {
    workspace: WorkspaceMode,
    task: Option<String>,
    args: Vec<String>,
}

/// The part that is the host's.
#[derive(Debug, Clone)]
pub struct HostSide {
    root: bool,
    rootless: bool,
    runsc: bool,
    taken: BTreeSet<u32>,
    foreign: usize,
    proxy: bool,
    upstream_ca: bool,
}

/// Any policy.
pub fn policy() -> impl Strategy<Value = Policy> {
    let first = (routes(), env(), subsequence(vec!["web", "docs"], 0..=2), any::<bool>());
    let second = (any::<bool>(), any::<bool>(), subsequence(vec!["review", "test", "ship"], 0..=3));
    let third = (
        prop_oneof![Just(String::new()), "[ -~]{1,20}\n", ".{1,20}"],
        provider(),
        0u8..4,
        select(vec![Isolation::Auto, Isolation::Container, Isolation::Gvisor]),
    );
    let fourth = (any::<bool>(), any::<bool>(), 64u64..8192, approvals());
    (first, second, third, fourth).prop_map(|(a, b, c, d)| Policy {
        routes: a.0,
        env: a.1,
        remotes: a.2.into_iter().collect(),
        remote_by_secret: a.3,
        supervise: b.0,
        pipelock: b.1,
        skills: b.2.into_iter().collect(),
        prompt: c.0,
        provider: c.1,
        image: c.2,
        isolation: c.3,
        git_user: d.0,
        from_repository: d.1,
        memory_mib: d.2,
        approvals: d.3,
    })
}

/// Any launch.
pub fn launch() -> impl Strategy<Value = Launch> {
    let mode = select(vec![
        WorkspaceMode::None,
        WorkspaceMode::Copy,
        WorkspaceMode::Clone,
        WorkspaceMode::Mount,
    ]);
    (mode, proptest::option::of("[ -~]{1,12}"), proptest::collection::vec("[a-z-]{1,6}", 0..2))
        .prop_map(|(workspace, task, args)| Launch { workspace, task, args })
}

/// Any host.
pub fn host() -> impl Strategy<Value = HostSide> {
    (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::collection::btree_set(0u32..4096, 0..6),
        0usize..4,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(root, rootless, runsc, taken, foreign, proxy, upstream_ca)| HostSide {
            root,
            rootless,
            runsc,
            taken,
            foreign,
            proxy,
            upstream_ca,
        })
}

/// A world of these three parts.
#[must_use]
pub fn build(policy: Policy, launch: Launch, host: HostSide) -> World {
    let mut snapshot = snapshot(&host, policy.isolation == Isolation::Gvisor);
    let mut bottle = fixture::bottle();
    let mut agent = fixture::agent();
    for secret in policy.routes.values().filter_map(|r| r.auth.as_ref()).map(|a| &a.secret) {
        snapshot.secrets.insert(secret.clone());
    }
    bottle.egress.routes = policy.routes;
    bottle.env = policy.env;
    for name in policy.remotes {
        let mut remote = fixture::remote();
        remote.upstream.path = format!("acme/{name}.git");
        if policy.remote_by_secret {
            remote.credential = GitCredential::Secret { secret: word!(SecretName, "DEPLOY_KEY") };
        } else {
            snapshot.identity_files.insert("~/.ssh/id_ed25519".into(), IdentityFile::Ready);
        }
        bottle.git.insert(word!(Name, name), remote);
    }
    bottle.supervise = policy.supervise;
    bottle.pipelock = policy.pipelock.then(|| PinnedImage {
        name: "registry.example.com/pipelock".into(),
        digest: Digest::of(b"pipelock"),
    });
    for name in policy.skills {
        let name = word!(Name, name);
        let digest = Digest::of(name.as_str().as_bytes());
        snapshot.skills.insert(name.clone(), Tree { digest, files: 1, bytes: 10 });
        bottle.skills.insert(name.clone());
        agent.skills.insert(name);
    }
    agent.prompt = policy.prompt;
    bottle.provider = policy.provider;
    bottle.isolation = policy.isolation;
    bottle.limits.memory_bytes = policy.memory_mib << 20;
    bottle.git_user = policy.git_user.then(|| GitUser {
        name: "Ada \"the first\" Lovelace".into(),
        email: "ada@example.com".into(),
    });
    if policy.from_repository {
        agent.origin = Origin::Repository;
        bottle.repo_agents = true;
    }
    if !policy.approvals.is_empty() {
        let mut facts = fixture::facts(word!(Identity, "dev-00000"));
        facts.approvals = policy.approvals;
        snapshot.session = Some(facts);
    }
    image(policy.image, &mut bottle, &mut snapshot);
    let mut spec = fixture::spec();
    spec.task = launch.task;
    spec.args = launch.args;
    workspace(launch.workspace, &mut spec, &mut snapshot);
    World { manifest: fixture::manifest(bottle, agent), spec, snapshot }
}

fn snapshot(host: &HostSide, needs_runsc: bool) -> Snapshot {
    let mut snapshot = fixture::snapshot();
    if host.root {
        (snapshot.host.uid, snapshot.host.gid) = (0, 0);
        snapshot.host.home = word!(AbsPath, "/root");
        snapshot.host.state_root = word!(AbsPath, "/root/.bottle");
    }
    if let Some(engine) = &mut snapshot.engine {
        engine.rootless = host.rootless && !host.root;
        if host.runsc || needs_runsc {
            engine.runtimes.insert("runsc".into());
        }
    }
    let pool: Subnet = "10.201.0.0/16".parse().expect("a subnet");
    for slot in &host.taken {
        let subnet = pool.slot(*slot, 28).expect("a slot of the pool");
        let network =
            Network { id: format!("n{slot}"), subnets: [subnet].into(), labels: BTreeMap::new() };
        snapshot.networks.insert(format!("other-{slot}"), network);
    }
    for n in 0..host.foreign {
        let name =
            if n == 0 { "bottle-dev-00000".into() } else { format!("bottle-dev-00000-{}", n + 1) };
        let container = Container {
            id: format!("c{n}"),
            image: "sha256:0".into(),
            state: ContainerState::Running,
            labels: BTreeMap::new(),
            networks: BTreeMap::new(),
            started_at: String::new(),
        };
        snapshot.containers.insert(name, container);
    }
    if host.proxy {
        snapshot.config.network.proxy = Some("http://proxy.example.com:3128".into());
        snapshot.config.network.no_proxy = vec!["localhost".into()];
    }
    if host.upstream_ca {
        snapshot.config.network.ca = Some("~/extra-ca.pem".into());
        snapshot.upstream_ca = Some(fixture::CERTIFICATE.into());
    }
    snapshot
}

fn image(kind: u8, bottle: &mut bottle_planner::policy::Bottle, snapshot: &mut Snapshot) {
    let build = match &bottle.image {
        Image::Provider { build, .. } => build.clone(),
        _ => return,
    };
    match kind {
        1 => {
            let reference = "debian:bookworm-slim".to_string();
            bottle.image = Image::Reference { reference, build };
        }
        2 => {
            let digest = Digest::of(b"remote image");
            let reference = format!("registry.example.com/tools@{digest}");
            bottle.image = Image::Reference { reference, build };
        }
        3 => {
            let dockerfile = word!(RelPath, "images/Dockerfile");
            let context = word!(RelPath, "images");
            let text = "FROM debian:bookworm-slim\nRUN true\n";
            snapshot.named_files.insert(dockerfile.clone(), text.into());
            let tree = Tree { digest: Digest::of(b"context"), files: 1, bytes: 1 };
            snapshot.contexts.insert(context.clone(), tree);
            let mut build = build;
            build.network = BuildNetwork::None;
            bottle.image = Image::Dockerfile { dockerfile, context: Some(context), build };
        }
        _ => {}
    }
}

fn workspace(mode: WorkspaceMode, spec: &mut Spec, snapshot: &mut Snapshot) {
    if mode == WorkspaceMode::None {
        return;
    }
    let path = word!(AbsPath, "/srv/code/web");
    spec.workspace = Some(WorkspaceRequest { path: path.clone(), mode: Some(mode) });
    snapshot.workspace = Some(Workspace {
        path,
        tree: Some(Tree { digest: Digest::of(b"tree"), files: 7, bytes: 700 }),
        commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
        foreign: false,
        mounted: (mode == WorkspaceMode::Mount).then(mounted),
        mounted_by: None,
    });
}

/// A repository with a submodule, a hidden file, and one of the things that are protected.
fn mounted() -> Mounted {
    let rel = |path: &str| RelPath::new(path).expect("a valid path");
    let found = [("vendor/lib/.git", Kind::File, false), (".env", Kind::File, true)];
    let named = [(".vscode", Some(Kind::Folder)), (".envrc", None), (".husky", None)];
    Mounted {
        found: found.map(|(path, kind, hide)| (rel(path), Found { kind, hide })).into(),
        named: named.map(|(path, kind)| (rel(path), kind)).into(),
        git: GitFolder::Own,
        git_is_there: true,
    }
}

fn routes() -> impl Strategy<Value = BTreeMap<HostPattern, Route>> {
    let hosts = vec!["api.example.com", "*.example.org", "git.example.com", "c.test"];
    subsequence(hosts, 0..=3)
        .prop_flat_map(|hosts| {
            hosts.into_iter().map(|host| (Just(host), route())).collect::<Vec<_>>()
        })
        .prop_map(|routes| {
            let host = |text: &str| HostPattern::new(text).expect("a valid host");
            routes.into_iter().map(|(name, route)| (host(name), route)).collect()
        })
}

/// Approvals, some of them for hosts that have a route, or lie below a wildcard's.
fn approvals() -> impl Strategy<Value = Vec<Approval>> {
    let hosts = vec!["api.example.com", "x.example.org", "*.example.org", "new.test"];
    let one = (select(hosts), rule()).prop_map(|(host, rule)| fixture::approval(host, rule));
    proptest::collection::vec(one, 0..3)
}

fn route() -> impl Strategy<Value = Route> {
    let dlp = || select(vec![DlpAction::Block, DlpAction::Redact, DlpAction::Warn, DlpAction::Off]);
    (
        select(vec![443u16, 8443]),
        proptest::collection::vec(rule(), 1..3),
        proptest::collection::vec(rule(), 0..2),
        proptest::option::of(auth()),
        (dlp(), dlp()),
        any::<bool>(),
    )
        .prop_map(|(port, allow, deny, auth, (own_secrets, patterns), model)| Route {
            port,
            allow,
            deny,
            auth,
            role: model.then_some(RouteRole::ModelProvider),
            tls: Tls::Intercept,
            dlp: Dlp { own_secrets, patterns },
            address: None,
            allow_private: false,
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        subsequence(vec!["GET", "POST", "DELETE"], 0..=2),
        subsequence(vec!["/repos/**", "/repos/me/**", "/user"], 0..=2),
        select(vec![Access::All, Access::Read]),
    )
        .prop_map(|(methods, paths, access)| Rule {
            methods: methods.into_iter().map(String::from).collect(),
            paths: paths.into_iter().map(String::from).collect(),
            access,
            auth: None,
        })
}

fn auth() -> impl Strategy<Value = Auth> {
    let scheme = select(vec![AuthScheme::Bearer, AuthScheme::Token, AuthScheme::Basic]);
    (scheme, select(vec!["GH_PAT", "NPM_TOKEN"]), any::<bool>()).prop_map(
        |(scheme, secret, placeholder)| Auth {
            scheme,
            header: "authorization".into(),
            secret: word!(SecretName, secret),
            placeholder: placeholder.then(|| word!(EnvName, format!("{secret}_HOLDER"))),
        },
    )
}

fn env() -> impl Strategy<Value = BTreeMap<EnvName, EnvValue>> {
    let value = prop_oneof![
        "[ -~]{0,10}".prop_map(|value| EnvValue::Literal { value }),
        Just(EnvValue::Prompt { message: "a token".into() }),
        Just(EnvValue::Secret { secret: word!(SecretName, "DB_URL"), use_at: BTreeSet::new() }),
    ];
    proptest::collection::btree_map(
        select(vec!["LANG", "DB", "MODE"]).prop_map(|name| word!(EnvName, name)),
        value,
        0..3,
    )
}

fn provider() -> impl Strategy<Value = Provider> {
    select(vec![
        Provider::Command {
            command: vec!["sleep".into(), "86400".into()],
            resume_command: vec![],
            transcript: None,
        },
        Provider::Claude,
        Provider::Codex,
    ])
}
