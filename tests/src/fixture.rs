//! Manifests, specs and snapshots to plan from: small, complete, and the same every time.

use std::collections::{BTreeMap, BTreeSet};

use bottle_planner::policy::{
    Access, Agent, Approval, Auth, AuthScheme, Bottle, Build, BuildNetwork, Dlp, DlpAction, Egress,
    GitCredential, GitRemote, GitTransport, HostConfig, HostPattern, Image, Isolation, Limits,
    Manifest, Origin, Provider, Push, Route, Rule, Tls, Upstream, WorkspaceMode, WorkspacePolicy,
};
use bottle_planner::snapshot::{
    Engine, Host, IdentityFile, ImageFact, SessionFacts, Snapshot, Tool, Tree,
};
use bottle_planner::spec::{Overrides, SessionRequest, Spec};
use bottle_planner::words::{AbsPath, Digest, Identity, Name, SecretName, Timestamp};

/// A word of a test is right by construction.
#[macro_export]
macro_rules! word {
    ($kind:ty, $text:expr) => {
        <$kind>::new($text).expect("a valid word")
    };
}

/// A host of user 1000 with Docker 20.10, a base image and nothing else.
#[must_use]
pub fn snapshot() -> Snapshot {
    let base = ImageFact {
        id: Digest::of(b"debian:bookworm-slim"),
        repo_digests: BTreeSet::new(),
        labels: BTreeMap::new(),
    };
    Snapshot {
        format_version: "1.0".into(),
        host: Host {
            platform: "linux/amd64".into(),
            uid: 1000,
            gid: 1000,
            home: word!(AbsPath, "/home/ada"),
            state_root: word!(AbsPath, "/home/ada/.bottle"),
        },
        tool: Tool { version: "0.1.0".into(), digest: Digest::of(b"bottle") },
        engine: Some(Engine {
            name: "docker".into(),
            version: "20.10.24".into(),
            api: (1, 41),
            rootless: false,
            runtimes: ["runc".into()].into(),
            without_limits: [].into(),
            cgroup_version: 2,
        }),
        containers: BTreeMap::new(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        images: [("debian:bookworm-slim".to_string(), base)].into(),
        resolved: BTreeMap::new(),
        host_routes: BTreeSet::new(),
        config: HostConfig::default(),
        upstream_ca: None,
        env_names: BTreeSet::new(),
        secrets: BTreeSet::new(),
        skills: BTreeMap::new(),
        named_files: BTreeMap::new(),
        contexts: BTreeMap::new(),
        identity_files: BTreeMap::new(),
        known_hosts: BTreeMap::new(),
        workspace: None,
        session: None,
    }
}

/// A certificate, as far as a reader of PEM can tell.
pub const CERTIFICATE: &str =
    "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQUJD\n-----END CERTIFICATE-----\n";

/// A launch of agent `dev` as session `dev-00000` at a fixed time.
#[must_use]
pub fn spec() -> Spec {
    Spec {
        agent: word!(Name, "dev"),
        session: SessionRequest::Named { identity: word!(Identity, "dev-00000") },
        at: word!(Timestamp, "2026-01-31T12:00:00Z"),
        workspace: None,
        resume: false,
        task: None,
        args: vec![],
        overrides: Overrides::default(),
        refresh: BTreeSet::new(),
        offline: false,
    }
}

/// A bottle that runs `sleep` and may do nothing.
#[must_use]
pub fn bottle() -> Bottle {
    Bottle {
        name: word!(Name, "box"),
        lineage: vec!["bottles/box.md".into()],
        overlay: None,
        env: BTreeMap::new(),
        git: BTreeMap::new(),
        git_user: None,
        egress: Egress::default(),
        workspace: WorkspacePolicy {
            modes: [
                WorkspaceMode::Copy,
                WorkspaceMode::Clone,
                WorkspaceMode::Mount,
                WorkspaceMode::None,
            ]
            .into(),
            default: None,
            hide: [".env*".into()].into(),
            protect: [".bottle/**".into()].into(),
        },
        supervise: false,
        image: Image::Provider {
            version: None,
            packages: BTreeSet::new(),
            setup: String::new(),
            build: Build { network: BuildNetwork::Open, allow_from: BTreeSet::new() },
        },
        provider: Provider::Command {
            command: vec!["sleep".into(), "86400".into()],
            resume_command: vec![],
            transcript: None,
        },
        isolation: Isolation::Auto,
        limits: Limits::default(),
        repo_agents: false,
        skills: BTreeSet::new(),
        pipelock: None,
    }
}

/// An agent `dev` in that bottle.
#[must_use]
pub fn agent() -> Agent {
    Agent {
        name: word!(Name, "dev"),
        origin: Origin::Home,
        bottle: word!(Name, "box"),
        skills: BTreeSet::new(),
        git_user: None,
        prompt: "Be brief.\n".into(),
    }
}

/// A manifest of one bottle and one agent.
#[must_use]
pub fn manifest(bottle: Bottle, agent: Agent) -> Manifest {
    Manifest {
        bottles: [(bottle.name.clone(), bottle)].into(),
        agents: [(agent.name.clone(), agent)].into(),
    }
}

/// A route that allows everything on port 443 and blocks leaks.
#[must_use]
pub fn route() -> Route {
    Route {
        port: 443,
        allow: vec![rule()],
        deny: vec![],
        auth: None,
        role: None,
        tls: Tls::Intercept,
        dlp: Dlp { own_secrets: DlpAction::Block, patterns: DlpAction::Block },
        address: None,
        allow_private: false,
    }
}

/// What an empty state folder holds of a session.
#[must_use]
pub fn facts(identity: Identity) -> SessionFacts {
    SessionFacts {
        identity,
        applied: None,
        files: BTreeMap::new(),
        folders: BTreeMap::new(),
        oddities: BTreeSet::new(),
        dockerfile: None,
        build_hosts: Default::default(),
        push_exceptions: Default::default(),
        approvals: vec![],
        ca_fingerprint: None,
        uploaded: BTreeMap::new(),
        delivered: BTreeMap::new(),
        loaded: BTreeMap::new(),
        saved: false,
    }
}

/// An approval of one rule at port 443.
#[must_use]
pub fn approval(host: &str, rule: Rule) -> Approval {
    Approval {
        at: word!(Timestamp, "2026-01-31T13:00:00Z"),
        host: HostPattern::new(host).expect("a valid host"),
        port: 443,
        rule,
        by: Some("bottle allow".into()),
    }
}

/// A rule that allows everything.
#[must_use]
pub fn rule() -> Rule {
    Rule { methods: BTreeSet::new(), paths: vec![], access: Access::All, auth: None }
}

/// A git remote over ssh with a pinned key.
#[must_use]
pub fn remote() -> GitRemote {
    GitRemote {
        upstream: Upstream {
            transport: GitTransport::Ssh,
            user: "git".into(),
            host: HostPattern::new("git.example.com").expect("a valid host"),
            port: 22,
            path: "acme/web.git".into(),
            from_home: false,
        },
        credential: GitCredential::IdentityFile { path: "~/.ssh/id_ed25519".into() },
        known_host_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey".into()].into(),
        extra_hosts: BTreeMap::new(),
        push: Push {
            branches: ["agent/*".into()].into(),
            tags: false,
            force: false,
            delete: false,
        },
    }
}

/// A typical bottle: all four sidecars, `routes` routes (every third with a credential), five
/// skills, a git remote; and the snapshot that has what it needs.
#[must_use]
pub fn typical(routes: usize) -> (Manifest, Spec, Snapshot) {
    let mut bottle = bottle();
    let mut agent = agent();
    let mut snapshot = snapshot();
    bottle.supervise = true;
    bottle.pipelock = Some(bottle_planner::policy::PinnedImage {
        name: "registry.example.com/pipelock".into(),
        digest: Digest::of(b"pipelock"),
    });
    bottle.git.insert(word!(Name, "web"), remote());
    snapshot.identity_files.insert("~/.ssh/id_ed25519".into(), IdentityFile::Ready);
    for n in 0..routes {
        let mut route = route();
        if n % 3 == 0 {
            let secret = word!(SecretName, format!("TOKEN_{}", n % 30));
            snapshot.secrets.insert(secret.clone());
            route.auth = Some(Auth {
                scheme: AuthScheme::Bearer,
                header: "authorization".into(),
                secret,
                placeholder: None,
            });
        }
        let host = HostPattern::new(&format!("api{n}.example.com")).expect("a valid host");
        bottle.egress.routes.insert(host, route);
    }
    for n in 0..5 {
        let name = word!(Name, format!("skill-{n}"));
        let tree = Tree { digest: Digest::of(name.as_str().as_bytes()), files: 3, bytes: 4096 };
        snapshot.skills.insert(name.clone(), tree);
        agent.skills.insert(name);
    }
    (manifest(bottle, agent), spec(), snapshot)
}
