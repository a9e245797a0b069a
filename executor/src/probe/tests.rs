//! A probe of a made-up host, and of an engine in memory.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use bottle_planner::document;
use bottle_planner::policy::Manifest;
use bottle_planner::snapshot::IdentityFile;
use bottle_planner::words::{Digest, Identity, Name, RelPath};

use super::*;
use crate::engine::docker::Docker;
use crate::engine::memory::MemoryEngine;
use crate::state::Ledger;

struct World {
    folder: tempfile::TempDir,
    engine: MemoryEngine,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), engine: MemoryEngine::new() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str, mode: u32) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        self
    }

    fn inputs(&self) -> HostInputs {
        let home = self.at("home");
        let root = home.join(".bottle");
        let abs = |path: &Path| AbsPath::new(path.to_str().unwrap()).unwrap();
        let host = Host {
            platform: "linux/amd64".to_owned(),
            uid: rustix::process::getuid().as_raw(),
            gid: 1000,
            home: abs(&home),
            state_root: abs(&root),
        };
        let roots =
            Roots { skills: home.join(".claude/skills"), manifest: root.clone(), root, home };
        let tool = Tool { version: "0.1.0".to_owned(), digest: Digest::of(b"tool") };
        let mut inputs = HostInputs::new(host, roots, tool, HostConfig::default());
        inputs.known_hosts.truncate(1);
        inputs.routes = self.at("route");
        inputs
    }

    async fn probe(&self, inputs: &HostInputs, wants: &Wants) -> ProbeReport {
        probe(Ok(&self.engine), inputs, wants).await.expect("a state folder in order")
    }
}

fn wants() -> Wants {
    let mut wants = Wants::default();
    wants.identity = Identity::new("dev-00000").ok();
    wants
}

fn set<T: std::str::FromStr + Ord>(texts: &[&str]) -> BTreeSet<T>
where
    T::Err: std::fmt::Debug,
{
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[tokio::test]
async fn an_empty_host_is_an_empty_snapshot() {
    let world = World::new();
    let report = world.probe(&world.inputs(), &wants()).await;
    assert!(report.engine_error.is_none() && report.problems.is_empty());
    assert_eq!(report.snapshot.engine.as_ref().unwrap().api, (1, 41));
    assert_eq!(report.snapshot.session, None);
    let again = world.probe(&world.inputs(), &wants()).await;
    assert_eq!(again.snapshot, report.snapshot);
}

#[tokio::test]
async fn an_engine_that_is_down_is_no_engine() {
    let world = World::new();
    world.engine.set_down(true);
    let report = world.probe(&world.inputs(), &wants()).await;
    assert_eq!(report.snapshot.engine, None);
    assert!(matches!(report.engine_error, Some(EngineError::Unreachable { .. })));
    let error = EngineError::Conflict { message: "x".to_owned() };
    let report = probe::<MemoryEngine>(Err(error), &world.inputs(), &wants()).await.unwrap();
    assert!(report.engine_error.is_some() && report.snapshot.engine.is_none());
}

#[tokio::test]
async fn secrets_are_named_and_never_read() {
    let world = World::new();
    let mut inputs = world.inputs();
    let bin = world.at("bin");
    world.write("bin/pass", "#!/bin/sh\ntouch ran\n", 0o755).write("bin/plain", "", 0o644);
    world.write("home/token", "planted-value", 0o600);
    inputs.path = vec![bin.clone()];
    inputs.env_names = set(&["HERE", "RENAMED", "PATH"]);
    let name = |n: &str| SecretName::new(n).unwrap();
    let command = |program: &str| SecretSource::Command { argv: vec![program.to_owned()] };
    inputs.config.secrets = BTreeMap::from([
        (name("BY_ENV"), SecretSource::Env { name: EnvName::new("RENAMED").unwrap() }),
        (name("BY_FILE"), SecretSource::File { path: "~/token".to_owned() }),
        (name("NO_FILE"), SecretSource::File { path: "~/none".to_owned() }),
        (name("BY_COMMAND"), command("pass")),
        (name("NO_COMMAND"), command("none")),
        (name("NOT_RUN"), command("plain")),
        (name("UNWANTED"), command("pass")),
    ]);
    let mut wants = wants();
    wants.secrets = set(&[
        "HERE",
        "GONE",
        "BY_ENV",
        "BY_FILE",
        "NO_FILE",
        "BY_COMMAND",
        "NO_COMMAND",
        "NOT_RUN",
    ]);
    wants.env_names = set(&["HERE", "GONE", "RENAMED"]);
    let snapshot = world.probe(&inputs, &wants).await.snapshot;
    assert_eq!(snapshot.secrets, set(&["HERE", "BY_ENV", "BY_FILE", "BY_COMMAND"]));
    assert_eq!(snapshot.env_names, set(&["HERE", "RENAMED"]), "PATH is nobody's affair");
    assert!(!snapshot.config.secrets.contains_key(&name("UNWANTED")));
    assert!(!document::pretty(&snapshot).unwrap().contains("planted-value"));
    assert!(!bin.join("ran").exists());
}

#[tokio::test]
async fn folders_and_files_that_are_wanted() {
    let world = World::new();
    let inputs = world.inputs();
    world
        .write("home/.claude/skills/lint/SKILL.md", "# Lint", 0o644)
        .write("home/.bottle/img/Dockerfile", "FROM x", 0o644)
        .write("home/.bottle/bad.toml", "", 0o644)
        .write("home/.ssh/id", "-----BEGIN PRIVATE KEY-----\n", 0o600)
        .write("home/.ssh/known_hosts", "git.example.com ssh-ed25519 QUJD\n", 0o644);
    fs::write(world.at("home/.bottle/bad.toml"), [0xff]).unwrap();
    symlink("img", world.at("home/.bottle/link")).unwrap();
    let mut wants = wants();
    wants.skills = set(&["lint", "none"]);
    wants.contexts = set(&["img", "link"]);
    wants.named_files = set(&["img/Dockerfile", "link/Dockerfile", "bad.toml"]);
    wants.identity_files = ["~/.ssh/id", "~/.ssh/none"].map(str::to_owned).into();
    wants.known_hosts = ["git.example.com", "other.example.com"].map(str::to_owned).into();
    let report = world.probe(&inputs, &wants).await;
    let snapshot = report.snapshot;
    assert_eq!(snapshot.skills.keys().collect::<Vec<_>>(), [&Name::new("lint").unwrap()]);
    assert_eq!(snapshot.contexts.keys().collect::<Vec<_>>(), [&RelPath::new("img").unwrap()]);
    let dockerfile = RelPath::new("img/Dockerfile").unwrap();
    assert_eq!(snapshot.named_files, BTreeMap::from([(dockerfile, "FROM x".to_owned())]));
    assert_eq!(snapshot.identity_files["~/.ssh/id"], IdentityFile::Ready);
    assert_eq!(snapshot.identity_files["~/.ssh/none"], IdentityFile::Missing);
    assert_eq!(snapshot.known_hosts.len(), 1);
    assert_eq!(report.problems.len(), 4, "{:?}", report.problems);
    assert!(report.problems.iter().any(|p| p.contains("skills/none")), "{:?}", report.problems);
}

#[tokio::test]
async fn the_workspace() {
    let world = World::new();
    let inputs = world.inputs();
    let commit = "a".repeat(40);
    world.write("work/file", "x", 0o644).write("work/.env", "planted-value", 0o600);
    symlink(world.at("work"), world.at("door")).unwrap();
    let mut wants = wants();
    let want = |path: &str, mode| {
        let path = AbsPath::new(world.at(path).to_str().unwrap()).unwrap();
        let hide = [".env*".to_owned()].into();
        Some(WorkspaceWant { path, mode, hide, protect: BTreeSet::new() })
    };
    wants.workspace = want("door", None);
    let plain = world.probe(&inputs, &wants).await.snapshot.workspace.unwrap();
    assert_eq!(plain.path.as_str(), world.at("work").canonicalize().unwrap().to_str().unwrap());
    assert_eq!(plain.tree.as_ref().unwrap().files, 1);
    assert!(plain.commit.is_none() && !plain.foreign);
    world.write("work/.git/HEAD", &commit, 0o644);
    let cloned = world.probe(&inputs, &wants).await.snapshot.workspace.unwrap();
    assert_eq!((cloned.tree, cloned.commit), (None, Some(commit.clone())));
    wants.workspace = want("work", Some(WorkspaceMode::Copy));
    let copied = world.probe(&inputs, &wants).await.snapshot.workspace.unwrap();
    assert_eq!(copied.tree.as_ref().unwrap().files, 2, "git's folder comes along");
    wants.workspace = want("none", None);
    let report = world.probe(&inputs, &wants).await;
    assert!(report.snapshot.workspace.is_none() && report.problems.len() == 1);
}

#[tokio::test]
async fn what_is_kept_of_the_engine() {
    let world = World::new();
    let mut inputs = world.inputs();
    inputs.host.uid = 7;
    let owner = owner_label(&inputs.host);
    let labels = |owner: &str, session: &str| {
        BTreeMap::from([
            (LABEL_OWNER.to_owned(), owner.to_owned()),
            (LABEL_IDENTITY.to_owned(), session.to_owned()),
            ("com.example.secret-project".to_owned(), "x".to_owned()),
        ])
    };
    let (own, other) = (labels(&owner, "dev-00000"), labels("8-other", "dev-00000"));
    world.engine.plant_container("renamed", &own);
    world.engine.plant_container("bottle-dev-00000", &other);
    world.engine.plant_container("pinned", &other);
    world.engine.plant_network("bottle-net-dev-00000", "10.201.9.0/28".parse().unwrap(), &own);
    world.engine.plant_volume("bottle-home-dev-00000", &own);
    world.engine.plant_volume("bottle-work-dev-00000", &other);
    world.engine.plant_image("debian:1", &BTreeMap::new());
    // Another session of the same user, somebody else's things, and what is nobody's.
    let sibling = labels(&owner, "secret-11111");
    for name in ["bottle-secret-11111", "bottle-egress-secret-11111"] {
        world.engine.plant_container(name, &sibling);
    }
    world.engine.plant_network(
        "bottle-net-secret-11111",
        "10.201.7.0/28".parse().unwrap(),
        &sibling,
    );
    world.engine.plant_volume("bottle-home-secret-11111", &sibling);
    world.engine.plant_container("database", &other);
    world.engine.plant_network("secret-net", "10.9.0.0/16".parse().unwrap(), &other);
    world.engine.plant_volume("secret-volume", &other);
    let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
        br-1\t0009C90A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0\n";
    world.write("route", routes, 0o644);
    let mut wants = wants();
    wants.container = Some("pinned".to_owned());
    wants.images = ["debian:1".to_owned(), "none:1".to_owned()].into();
    let snapshot = world.probe(&inputs, &wants).await.snapshot;
    let names: Vec<&String> = snapshot.containers.keys().collect();
    assert_eq!(names, ["bottle-dev-00000", "pinned", "renamed"]);
    assert_eq!(snapshot.containers["renamed"].labels.len(), 2);
    assert_eq!(snapshot.containers["pinned"].labels.len(), 0);
    assert_eq!(snapshot.containers["pinned"].started_at, "");
    assert_eq!(snapshot.networks.keys().collect::<Vec<_>>(), ["bottle-net-dev-00000"]);
    let volumes: Vec<&String> = snapshot.volumes.keys().collect();
    assert_eq!(volumes, ["bottle-home-dev-00000", "bottle-work-dev-00000"]);
    assert_eq!(snapshot.volumes["bottle-work-dev-00000"].labels.len(), 0);
    assert_eq!(snapshot.images.keys().collect::<Vec<_>>(), ["debian:1"]);
    // What is taken in the pool: a wide route, and the sibling's network without its name.
    assert_eq!(snapshot.host_routes, set(&["10.0.0.0/8", "10.201.7.0/28"]));
    let text = document::pretty(&snapshot).unwrap();
    for secret in ["secret-", "database", "8-other", "192.168"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    let all = Wants::everything(&Manifest::default(), &HostConfig::default());
    let all = world.probe(&inputs, &all).await.snapshot;
    assert_eq!((all.containers.len(), all.networks.len(), all.volumes.len()), (6, 3, 4));
    assert_eq!(all.containers["bottle-secret-11111"].labels.len(), 2);
    assert_eq!(all.host_routes, set(&["10.0.0.0/8", "192.168.2.0/24"]));
}

#[tokio::test]
async fn a_state_folder() {
    let world = World::new();
    let inputs = world.inputs();
    let identity = Identity::new("dev-00000").unwrap();
    let state = "home/.bottle/state/dev-00000";
    let written = Digest::of(b"A=b\n");
    let path = |p: &str| RelPath::new(p).unwrap();
    let ledger = Ledger {
        files: BTreeMap::from([(path("agent/in/agent.env"), written.clone())]),
        ..Ledger::default()
    };
    let ledger = document::pretty(&ledger).unwrap();
    for (file, text) in [
        ("ledger.json", ledger.as_str()),
        ("agent/in/agent.env", "A=edited\n"),
        ("agent/in/applied.json", "{}"),
        ("agent/out/huge.log", "not looked at"),
        ("egress/in/ca.key", "planted-value"),
        ("egress/in/ca.crt", "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"),
        ("Dockerfile", "FROM mine\n"),
        (".preserve", ""),
        ("approvals.json", "[]"),
    ] {
        world.write(&format!("{state}/{file}"), text, 0o600);
    }
    symlink("/etc/passwd", world.at(state).join("agent/in/link")).unwrap();
    let report = world.probe(&inputs, &wants()).await;
    let session = report.snapshot.session.expect("a session");
    assert_eq!(session.identity, identity);
    assert_eq!(session.applied, None);
    let files: Vec<&str> = session.files.keys().map(RelPath::as_str).collect();
    assert_eq!(
        files,
        [".preserve", "Dockerfile", "agent/in/agent.env", "approvals.json", "egress/in/ca.crt"]
    );
    let file = &session.files[&path("agent/in/agent.env")];
    assert_eq!((file.mode, &file.digest), (0o600, &Digest::of(b"A=edited\n")));
    assert_eq!(file.written.as_ref(), Some(&written));
    let folders: Vec<&str> = session.folders.keys().map(RelPath::as_str).collect();
    assert_eq!(folders, ["agent", "agent/in", "agent/out", "egress", "egress/in"]);
    assert_eq!(session.oddities, set(&["agent/in/link"]));
    assert_eq!(session.dockerfile.as_deref(), Some("FROM mine\n"));
    assert_eq!(session.ca_fingerprint, Some(Digest::of(b"ABC")));
    world.write(&format!("{state}/approvals.json"), "{", 0o600);
    let broken = probe(Ok(&world.engine), &inputs, &wants()).await.expect_err("damaged");
    assert!(broken.to_string().contains("approvals.json"), "{broken}");
}

/// Against the daemon at the default socket, which is there wherever the tests run.
#[tokio::test]
async fn a_probe_of_a_real_engine_takes_a_keystroke() {
    let world = World::new();
    let docker = Docker::connect(None).await.expect("a daemon at the default socket");
    let mut wants = Wants::everything(&Manifest::default(), &HostConfig::default());
    wants.images.insert("h2-none:1".to_owned());
    let mut best = std::time::Duration::MAX;
    for _ in 0..20 {
        let start = std::time::Instant::now();
        let report = probe(Ok(&docker), &world.inputs(), &wants).await.expect("probed");
        best = best.min(start.elapsed());
        assert!(report.engine_error.is_none() && report.snapshot.networks.contains_key("bridge"));
    }
    assert!(best.as_millis() < 100, "{best:?}");
}

#[tokio::test]
async fn extra_trust_is_read_for_a_launch_and_nothing_else() {
    let world = World::new();
    let mut inputs = world.inputs();
    let one = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    world.write("ca.pem", &format!("# ours\n{one}"), 0o644);
    inputs.config.network.ca = Some(world.at("ca.pem").to_str().expect("UTF-8").to_owned());
    let mut launch = wants();
    launch.upstream_ca = true;
    let seen = world.probe(&inputs, &launch).await.snapshot.upstream_ca;
    assert_eq!(seen.as_deref(), Some(one));
    assert_eq!(world.probe(&inputs, &wants()).await.snapshot.upstream_ca, None);
    world.write("ca.pem", "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", 0o600);
    let refused = probe(Ok(&world.engine), &inputs, &launch).await.expect_err("a key");
    assert!(refused.to_string().contains("network.ca"), "{refused}");
}
