//! The Docker engine against a real daemon: what a plan says, and what the daemon made of it.
//!
//! A daemon runs (`DOCKER_HOST` is not asked: the default socket), and a static busybox is on the
//! path of this machine. Everything made here is named `h2-…` and removed again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use bollard::query_parameters::InspectContainerOptions;
use bottle_executor::engine::docker::{Docker, is_permission_denied};
use bottle_executor::engine::memory::MemoryEngine;
use bottle_executor::engine::{Engine, EngineError, HostPaths};
use bottle_planner::plan::{
    BuildReach, ContainerLimits, ContainerSpec, LABEL_OWNER, Mount, NetworkSpec, User, VolumeSpec,
};
use bottle_planner::snapshot::ContainerState;
use bottle_planner::words::{AbsPath, Digest, Role};
use bytes::Bytes;
use zeroize::Zeroizing;

const OWNER: &str = "1000-h2";

#[tokio::test]
async fn facts_name_the_engine() {
    let facts = docker().await.facts().await.expect("facts");
    assert_eq!(facts.name, "docker");
    assert!(facts.api >= (1, 41), "{facts:?}");
    assert!(facts.runtimes.contains("runc"), "{facts:?}");
    assert!(facts.cgroup_version == 1 || facts.cgroup_version == 2);
}

#[tokio::test]
async fn a_container_is_lowered_as_documented() {
    let world = World::new("lower", 0).await;
    let folder = tempfile::tempdir().expect("a folder");
    let paths = world.host_paths(folder.path());
    let work = folder.path().join("work");
    std::fs::create_dir(&work).expect("a workspace");
    let work = AbsPath::new(work.to_str().expect("UTF-8")).expect("absolute");
    let mut spec = world.container("c", 5);
    spec.mounts = vec![
        Mount::In,
        Mount::Out,
        Mount::Bin { tool: tool() },
        Mount::ResolvConf,
        Mount::Workspace { path: work.clone() },
        Mount::Volume { name: world.name("v"), at: abs("/vol") },
    ];
    spec.tmpfs = BTreeMap::from([(abs("/tmp"), 1 << 20), (abs("/.bottle/run"), 65536)]);
    spec.extra_hosts = BTreeMap::from([
        ("zeta".to_owned(), Ipv4Addr::new(10, 0, 0, 9)),
        ("egress".to_owned(), Ipv4Addr::new(10, 0, 0, 2)),
    ]);
    spec.env = BTreeMap::from([("A".to_owned(), "b=c d".to_owned())]);
    spec.read_only = true;
    world.network("n", true).await;
    let id = world.create(&spec, &paths).await.expect("created");
    world.docker.start(&spec.name).await.expect("started");

    let raw = raw().inspect_container(&id, None::<InspectContainerOptions>).await.expect("there");
    let host = raw.host_config.expect("a host config");
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert!(host.cap_add.unwrap_or_default().is_empty());
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    assert_eq!(host.pid_mode.as_deref(), Some(""));
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(host.memory, Some(64 << 20));
    assert_eq!(host.memory_swap, Some(64 << 20));
    assert_eq!(host.nano_cpus, Some(500_000_000));
    assert_eq!(host.pids_limit, Some(64));
    assert_eq!(host.shm_size, Some(1 << 20));
    assert_eq!(host.dns, Some(vec![world.address(2).to_string()]));
    let hosts = vec!["egress:10.0.0.2".to_owned(), "zeta:10.0.0.9".to_owned()];
    assert_eq!(host.extra_hosts, Some(hosts));
    assert_eq!(host.auto_remove, Some(false));
    let log = host.log_config.expect("a log config");
    assert_eq!(log.typ.as_deref(), Some("json-file"));
    let log = log.config.expect("log options");
    assert_eq!((log["max-size"].as_str(), log["max-file"].as_str()), ("10m", "3"));
    let config = raw.config.expect("a config");
    assert_eq!(config.user.as_deref(), Some("1234:2345"));
    assert_eq!(config.entrypoint, Some(spec.argv.clone()));
    assert!(config.cmd.unwrap_or_default().is_empty());
    assert_eq!(config.healthcheck.and_then(|h| h.test), Some(vec!["NONE".to_owned()]));
    assert_eq!((config.tty, config.open_stdin), (Some(false), Some(false)));
    assert!(config.env.unwrap_or_default().contains(&"A=b=c d".to_owned()));
    let writable: BTreeMap<String, bool> = raw
        .mounts
        .unwrap_or_default()
        .into_iter()
        .map(|m| (m.destination.expect("a target"), m.rw.expect("a mode")))
        .collect();
    let expected = [
        ("/.bottle/in", false),
        ("/.bottle/out", true),
        ("/.bottle/bin", false),
        ("/etc/resolv.conf", false),
        (work.as_str(), true),
        ("/vol", true),
    ];
    assert_eq!(writable, expected.into_iter().map(|(p, w)| (p.to_owned(), w)).collect());

    let status = world.sh("c", "cat /proc/1/status").await;
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let mounts = world.sh("c", "cat /proc/mounts").await;
    let options = |at: &str| {
        let line = mounts.lines().find(|l| l.split(' ').nth(1) == Some(at)).expect("mounted");
        line.split(' ').nth(3).expect("options").split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    let run = options("/.bottle/run");
    for option in ["rw", "nosuid", "nodev", "mode=700", "size=64k", "uid=1234", "gid=2345"] {
        assert!(run.iter().any(|o| o == option), "{option} of {run:?}");
    }
    let tmp = options("/tmp");
    assert!(tmp.iter().any(|o| o == "rw") && !tmp.iter().any(|o| o == "noexec"), "{tmp:?}");
    assert!(world.sh("c", "cat /etc/resolv.conf").await.contains("nameserver 192.0.2.53"));
    world.clean().await;
}

#[tokio::test]
async fn an_internal_network_gives_the_host_no_address() {
    let world = World::new("bridge", 1).await;
    world.network("n", true).await;
    let open = NetworkSpec { internal: false, subnet: world.subnet(1), ..world.network_spec("o") };
    world.docker.create_network(&open, &open.labels).await.expect("created");
    let local = std::fs::read_to_string("/proc/net/fib_trie").expect("Linux");
    let has = |address: Ipv4Addr| local.lines().any(|l| l.ends_with(&format!("|-- {address}")));
    assert!(!has(world.address(1)), "the internal bridge has an address");
    assert!(has(world.subnet(1).nth(1).expect("an address")), "the way out has a gateway");
    let fact = world.docker.network(&world.name("n")).await.expect("asked").expect("there");
    assert_eq!(fact.subnets, BTreeSet::from([world.subnet(0)]));
    assert_eq!(fact.labels.get(LABEL_OWNER).map(String::as_str), Some(OWNER));
    world.clean().await;
}

#[tokio::test]
async fn observation_has_addresses_of_own_containers_also_when_stopped() {
    let world = World::new("observe", 2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let paths = world.host_paths(folder.path());
    world.network("n", true).await;
    let out = NetworkSpec { subnet: world.subnet(1), ..world.network_spec("o") };
    world.docker.create_network(&out, &out.labels).await.expect("created");
    let spec = world.container("c", 5);
    world.create(&spec, &paths).await.expect("created");
    let address = world.subnet(1).nth(6).expect("an address");
    world.docker.connect(&spec.name, &out.name, address).await.expect("connected");
    let expected = BTreeMap::from([
        (world.name("n"), Some(world.address(5))),
        (world.name("o"), Some(address)),
    ]);
    let images = BTreeSet::from([world.image(), "h2-not-there:1".to_owned()]);
    let mut starts = BTreeSet::new();
    for step in ["created", "running", "exited", "again"] {
        match step {
            "running" | "again" => world.docker.start(&spec.name).await.expect("started"),
            "exited" => world.docker.stop(&spec.name, 0).await.expect("stopped"),
            _ => {}
        }
        let seen = world.docker.observe(OWNER, &images).await.expect("observed");
        let own = &seen.containers[&spec.name];
        assert_eq!(own.networks, expected, "{step}");
        assert_eq!(own.started_at.is_empty(), step == "created", "{step}");
        starts.insert(own.started_at.clone());
        assert_eq!(seen.images.keys().collect::<Vec<_>>(), [&world.image()]);
        assert!(seen.networks.contains_key("bridge"));
        assert_eq!(world.docker.container(&spec.name).await.expect("asked").as_ref(), Some(own));
        let other = world.docker.observe("somebody", &images).await.expect("observed");
        assert_eq!(other.containers[&spec.name].networks[&world.name("n")], None);
        assert_eq!(other.containers[&spec.name].labels, own.labels);
    }
    assert_eq!(starts.len(), 3, "never, first, second: {starts:?}");
    world.clean().await;
}

#[tokio::test]
async fn a_program_gets_its_input_and_its_end() {
    let world = World::new("exec", 3).await;
    let folder = tempfile::tempdir().expect("a folder");
    world.network("n", true).await;
    let spec = world.container("c", 5);
    world.create(&spec, &world.host_paths(folder.path())).await.expect("created");
    let argv = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned);
    let run = |line: &str, input: Vec<u8>| {
        let (argv, name, input) = (argv(line), spec.name.clone(), Zeroizing::new(input));
        let docker = &world.docker;
        async move { docker.exec(&name, &argv, input).await }
    };
    let stopped = run("true", Vec::new()).await.expect_err("not running");
    assert!(matches!(stopped, EngineError::Conflict { .. }), "{stopped:?}");
    world.docker.start(&spec.name).await.expect("started");
    let counted = run("wc -c; echo err >&2; exit 7", vec![b'x'; 1 << 20]).await.expect("ran");
    assert_eq!(counted.code, 7);
    assert!(counted.output.contains("1048576") && counted.output.contains("err"));
    let echoed = run("cat", b"marrow\n".repeat(100_000)).await.expect("ran");
    assert_eq!((echoed.code, echoed.output.len()), (0, 64 << 10));
    let early = run("exec 0<&-; exit 3", vec![b'x'; 1 << 20]).await.expect("ran");
    assert_eq!(early.code, 3);
    let missing = world.docker.exec(&spec.name, &["/none".to_owned()], Zeroizing::default()).await;
    assert!(missing.is_err() || missing.is_ok_and(|r| r.code != 0));
    world.clean().await;
}

#[tokio::test]
async fn images_are_imported_built_and_assembled() {
    let world = World::new("image", 4).await;
    let labels = BTreeMap::from([("dev.bottle.test".to_owned(), "yes".to_owned())]);
    let again =
        world.docker.import_image(&world.name("again:1"), root(), &world.image_labels()).await;
    let first = world.docker.image(&world.image()).await.expect("asked").expect("there");
    assert_eq!(again.expect("imported"), first.id.to_string(), "one content, one id");
    assert_eq!(first.labels, world.image_labels());

    let dockerfile = format!(
        "FROM {}\nRUN /bin/sh -c 'echo made > /made'\nVOLUME /data\nONBUILD RUN exit 1\n\
         ENTRYPOINT [\"/bin/sh\"]\nUSER 7\n",
        world.image()
    );
    let lines = std::cell::RefCell::new(Vec::new());
    let note = |line: &str| lines.borrow_mut().push(line.to_owned());
    let built = world.name("built:1");
    let context = archive(&[("Dockerfile", dockerfile.as_bytes())]);
    let id = world
        .docker
        .build_image(&built, context.clone(), &BuildReach::None, None, &labels, &note)
        .await
        .expect("built");
    assert!(lines.borrow().iter().any(|l| l.starts_with("Step 1/7")), "{lines:?}");
    let fact = world.docker.image(&built).await.expect("asked").expect("there");
    assert_eq!(fact.id.to_string(), id);
    assert_eq!(fact.labels.get("dev.bottle.test").map(String::as_str), Some("yes"));
    let cached =
        world.docker.build_image(&built, context, &BuildReach::None, None, &labels, &|_| {}).await;
    assert_eq!(cached.expect("built"), id, "the cache is used");

    let broken = format!("FROM {}\nRUN /bin/sh -c 'echo the reason; exit 9'\n", world.image());
    let broken = archive(&[("Dockerfile", broken.as_bytes())]);
    let failed = world
        .docker
        .build_image(&world.name("broken:1"), broken, &BuildReach::None, None, &labels, &|_| {})
        .await
        .expect_err("fails");
    let text = failed.to_string();
    assert!(text.contains("non-zero code: 9") && text.contains("the reason"), "{text}");

    let assembled = world.name("assembled:1");
    let tree = archive(&[("home/agent/code/file", b"hello\n")]);
    let mut declared = Vec::new();
    let mut layer = |volumes| {
        declared = volumes;
        outgoing(tree.clone())
    };
    let made = world.docker.assemble_image(&assembled, &built, &mut layer, &labels).await;
    made.expect("assembled");
    assert_eq!(declared, Vec::<String>::new(), "what the base declares as volumes is none here");
    let raw_image = raw().inspect_image(&assembled).await.expect("there");
    let config = raw_image.config.expect("a config");
    assert_eq!(config.entrypoint, Some(vec!["/bin/sh".to_owned()]), "the base's own stays");
    assert_eq!(config.cmd.unwrap_or_default(), Vec::<String>::new());
    assert_eq!(config.user.as_deref(), Some("7"));
    let (to, mut read) = tokio::sync::mpsc::channel(64);
    assert!(world.docker.read_image(&assembled, "/home/agent", to).await.expect("read"));
    let mut back = Vec::new();
    while let Some(piece) = read.recv().await {
        back.extend_from_slice(&piece);
    }
    let mut entries = tar::Archive::new(&back[..]);
    let names = entries.entries().expect("an archive");
    let names: Vec<String> =
        names.map(|e| e.expect("whole").path().expect("a path").display().to_string()).collect();
    assert_eq!(names, ["agent/", "agent/code/", "agent/code/file"]);
    let (to, _read) = tokio::sync::mpsc::channel(64);
    assert!(!world.docker.read_image(&assembled, "/nowhere", to).await.expect("asked"));
    let half = archive(&[("x", b"hello\n")]).slice(..1024);
    let mut broken = |_| {
        let (to, pieces) = tokio::sync::mpsc::channel(2);
        to.try_send(Ok(half.clone())).expect("room");
        to.try_send(Err(std::io::Error::other("changed"))).expect("room");
        pieces
    };
    let name = world.name("half:1");
    let cut = world.docker.assemble_image(&name, &built, &mut broken, &labels).await;
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(world.docker.image(&name).await.expect("asked"), None);
    let kept = archive(&[("data/file", b"hello\n")]);
    let mut kept = |_| outgoing(kept.clone());
    let kept = world.docker.assemble_image(&world.name("kept:1"), &built, &mut kept, &labels).await;
    kept.expect("a VOLUME of the base swallows nothing");
    let none = archive(&[("x", b"")]);
    let mut none = |_| outgoing(none.clone());
    let none = world.docker.assemble_image("h2-none:1", "h2-none:0", &mut none, &labels).await;
    assert!(matches!(none, Err(EngineError::NotFound { .. })), "{none:?}");
    let mut bad = |_| outgoing(Bytes::from_static(b"no tar"));
    let bad = world.docker.assemble_image(&world.name("bad:1"), &built, &mut bad, &labels).await;
    assert!(bad.is_err(), "{bad:?}");
    let left = world.docker.observe("", &BTreeSet::new()).await.expect("observed").containers;
    let scaffold = |n: &String| n.starts_with("bottle-assemble-") || n.starts_with("bottle-look-");
    assert!(!left.keys().any(scaffold), "{left:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let paths = world.host_paths(folder.path());
    world.network("n", true).await;
    let spec = ContainerSpec {
        image: assembled.clone(),
        mounts: vec![Mount::Volume { name: world.name("v"), at: abs("/vol") }],
        ..world.container("c", 5)
    };
    let before = volumes(&world).await;
    world.create(&spec, &paths).await.expect("created");
    let during = volumes(&world).await;
    assert_eq!(during.difference(&before).count(), 1, "the named one, none the image declared");
    let used = world.docker.remove_volume(&world.name("v")).await.expect_err("in use");
    assert!(matches!(used, EngineError::Conflict { .. }), "{used:?}");
    world.docker.start(&spec.name).await.expect("started");
    assert_eq!(world.sh("c", "cat /made /home/agent/code/file").await, "made\nhello\n");
    world.docker.stop(&spec.name, 0).await.expect("stopped");
    world.docker.remove_container(&spec.name).await.expect("removed");
    let after: BTreeSet<String> = volumes(&world).await;
    let left: Vec<_> = after.difference(&before).collect();
    assert_eq!(left, [&world.name("v")], "it stays");
    let used = world.docker.remove_image(&world.name("nope:1")).await.expect_err("not there");
    assert!(matches!(used, EngineError::NotFound { .. }), "{used:?}");
    for image in [&assembled, &world.name("kept:1"), &built, &world.name("again:1")] {
        world.docker.remove_image(image).await.expect("removed");
    }
    world.clean().await;
}

#[tokio::test]
async fn files_go_in_and_come_out() {
    let world = World::new("files", 5).await;
    let folder = tempfile::tempdir().expect("a folder");
    world.network("n", true).await;
    let spec = world.container("c", 5);
    world.create(&spec, &world.host_paths(folder.path())).await.expect("created");
    let tar = archive(&[("etc/ssl/bundle.pem", b"roots\n")]);
    world.docker.upload(&spec.name, "/", tar).await.expect("uploaded");
    let back = world.docker.download(&spec.name, "/etc/ssl/bundle.pem").await.expect("asked");
    let back = back.expect("there");
    let mut entries = tar::Archive::new(&back[..]);
    let mut entry = entries.entries().expect("an archive").next().expect("one").expect("whole");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
    assert_eq!(text, "roots\n");
    assert!(world.docker.download(&spec.name, "/none").await.expect("asked").is_none());
    let gone = world.docker.download(&world.name("x"), "/none").await.expect_err("no container");
    assert!(matches!(gone, EngineError::NotFound { .. }), "{gone:?}");
    world.docker.start(&spec.name).await.expect("started");
    let logs = world.docker.logs(&spec.name, 10).await.expect("logs");
    assert_eq!(logs, "");
    world.clean().await;
}

#[tokio::test]
async fn an_engine_that_is_not_there_says_so() {
    let address = |host: &'static str| async move {
        let error = Docker::connect(Some(host)).await.expect_err("nothing answers");
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
        assert!(!is_permission_denied(&error));
        let source = std::error::Error::source(&error).expect("a source");
        format!("{error}: {source}")
    };
    assert!(address("unix:///nonexistent/h2.sock").await.contains("/nonexistent/h2.sock"));
    assert!(address("tcp://127.0.0.1:1").await.contains("tcp://127.0.0.1:1"));
    assert!(address("tcp://localhost:2375").await.contains("host names are not looked up"));
    assert!(address("ssh://me@host").await.contains("engine address"));
}

#[tokio::test]
async fn a_daemon_that_dies_in_the_middle_is_unreachable() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("engine.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let requests = seen.clone();
    let serve = async move {
        loop {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = vec![0; 65536];
            let n = stream.read(&mut request).await.expect("read");
            let request = String::from_utf8_lossy(&request[..n]).into_owned();
            let first = request.lines().next().expect("a request line").to_owned();
            requests.borrow_mut().push(request);
            let body = r#"{"ApiVersion":"1.41","Version":"20.10.24","Arch":"amd64"}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
            let answer = if first.contains("/version") {
                format!("{head} {}\r\n\r\n{body}", body.len())
            } else {
                // Half an answer, and the end.
                format!("{head} 1000\r\n\r\n[{{")
            };
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    };
    let host = format!("unix://{}", path.display());
    let ask = async {
        let docker = Docker::connect(Some(&host)).await.expect("negotiated");
        let error = docker.observe(OWNER, &BTreeSet::new()).await.expect_err("cut short");
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
        let spec = network_spec("h2-x", 9, 0);
        let error = docker.create_network(&spec, &spec.labels).await.expect_err("cut short");
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    };
    tokio::select! { () = serve => {}, () = ask => {} }
    let seen = seen.borrow();
    assert!(seen.iter().any(|r| r.starts_with("GET /v1.41/containers/json?all=true")), "{seen:?}");
    let network = seen.iter().find(|r| r.starts_with("POST /v1.41/networks/create"));
    assert!(network.expect("asked").contains("\"CheckDuplicate\":true"), "{network:?}");
}

/// An engine that answers everything with the same words, and what it was asked.
async fn network_made_by(heads: &str, answer: &str) -> (Result<String, EngineError>, Vec<String>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("engine.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    let seen = std::cell::RefCell::new(Vec::new());
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = vec![0; 65536];
            let n = stream.read(&mut request).await.expect("read");
            let line = String::from_utf8_lossy(&request[..n]);
            seen.borrow_mut().push(line.lines().next().unwrap_or_default().to_owned());
            let head = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nConnection: close\r\n\
                        Content-Type: application/json\r\n";
            let length = answer.len();
            let text = format!("{head}{heads}Content-Length: {length}\r\n\r\n{answer}");
            stream.write_all(text.as_bytes()).await.expect("written");
        }
    };
    let ask = async {
        let host = format!("unix://{}", path.display());
        let docker = Docker::connect(Some(&host)).await.expect("negotiated");
        let spec = network_spec("h3-x", 9, 0);
        docker.create_network(&spec, &spec.labels).await
    };
    let made =
        tokio::select! { () = serve => unreachable!("it serves for ever"), made = ask => made };
    (made, seen.into_inner())
}

#[tokio::test]
async fn a_network_that_leaves_the_host_within_reach_is_not_kept() {
    let (made, _) = network_made_by("", r#"{"Id":"n1","Warning":""}"#).await;
    assert_eq!(made.expect("made"), "n1");
    // As Podman 4.3.1 answers.
    let warning = r#"{"Id":"n1","Warning":"\"com.docker.network.bridge.inhibit_ipv4: true\" is not a recognized option"}"#;
    let (made, asked) = network_made_by("", warning).await;
    let error = made.expect_err("refused").to_string();
    assert!(error.contains("is not a recognized option"), "{error}");
    assert!(asked.last().expect("asked").starts_with("DELETE /v1.41/networks/n1"), "{asked:?}");
    let (made, asked) = network_made_by("Libpod-API-Version: 4.3.1\r\n", warning).await;
    assert!(made.expect_err("refused").to_string().contains("Podman"));
    assert!(!asked.iter().any(|line| line.starts_with("POST")), "{asked:?}");
}

/// One script of calls, run against both engines: they agree on what works and on how it fails.
#[tokio::test]
async fn the_engine_in_memory_agrees_with_docker() {
    let world = World::new("agree", 6).await;
    let folder = tempfile::tempdir().expect("a folder");
    let paths = world.host_paths(folder.path());
    let memory = MemoryEngine::new();
    memory.plant_image(&world.image(), &world.image_labels());
    let real = script(&world.docker, &world, &paths).await;
    let modelled = script(&memory, &world, &paths).await;
    let both: Vec<_> = real.iter().zip(&modelled).filter(|(r, m)| r != m).collect();
    assert!(both.is_empty() && real.len() == modelled.len(), "docker, memory: {both:#?}");
    world.clean().await;
}

async fn script(engine: &impl Engine, world: &World, paths: &HostPaths) -> Vec<(u32, String)> {
    let mut log = Vec::new();
    let net = world.network_spec("n");
    let (c, d, e) = (world.container("c", 5), world.container("d", 5), world.container("e", 6));
    let volume = VolumeSpec { name: world.name("v"), labels: own() };
    let with_volume = ContainerSpec {
        mounts: vec![Mount::Volume { name: volume.name.clone(), at: abs("/vol") }],
        ..world.container("f", 7)
    };
    let outside = ContainerSpec { address: Ipv4Addr::new(10, 99, 9, 9), ..world.container("g", 8) };
    let gateway = world.container("h", 1);
    let no_net = ContainerSpec { network: world.name("none"), ..world.container("i", 9) };
    let no_image = ContainerSpec { image: "h2-none:1".to_owned(), ..world.container("j", 9) };
    let overlap = NetworkSpec { name: world.name("n2"), ..net.clone() };
    let other = NetworkSpec { subnet: world.subnet(1), ..world.network_spec("o") };
    let same_name = NetworkSpec { subnet: world.subnet(2), ..world.network_spec("n") };
    let address = other.subnet.nth(5).expect("an address");
    macro_rules! step {
        ($call:expr) => {
            log.push((line!(), outcome(&$call.await)))
        };
    }
    step!(engine.create_network(&net, &net.labels));
    step!(engine.create_network(&net, &net.labels));
    step!(engine.create_network(&same_name, &net.labels));
    step!(engine.create_network(&overlap, &net.labels));
    step!(engine.create_network(&other, &net.labels));
    step!(engine.create_volume(&volume, &volume.labels));
    step!(engine.create_volume(&volume, &volume.labels));
    step!(engine.create_container(&c, &c.labels, paths));
    step!(engine.create_container(&c, &c.labels, paths));
    step!(engine.create_container(&no_image, &c.labels, paths));
    step!(engine.create_container(&no_net, &c.labels, paths));
    step!(engine.start(&no_net.name));
    step!(engine.create_container(&d, &d.labels, paths));
    step!(engine.create_container(&outside, &d.labels, paths));
    step!(engine.create_container(&gateway, &d.labels, paths));
    step!(engine.start(&outside.name));
    step!(engine.start(&gateway.name));
    step!(engine.exec(&c.name, &["/bin/busybox".to_owned()], Zeroizing::default()));
    step!(engine.signal(&c.name, "SIGHUP"));
    step!(engine.stop(&c.name, 0));
    step!(engine.start(&c.name));
    step!(engine.start(&c.name));
    step!(engine.start(&d.name));
    step!(engine.start("h2-none"));
    step!(engine.connect(&c.name, &other.name, address));
    step!(engine.connect(&c.name, &other.name, address));
    step!(engine.connect(&c.name, "h2-none", address));
    step!(engine.connect("h2-none", &other.name, address));
    step!(engine.create_container(&e, &e.labels, paths));
    step!(engine.connect(&e.name, &other.name, address));
    step!(engine.start(&e.name));
    step!(engine.remove_container(&c.name));
    step!(engine.remove_network(&net.name));
    step!(engine.remove_network("h2-none"));
    step!(engine.create_container(&with_volume, &with_volume.labels, paths));
    step!(engine.remove_volume(&volume.name));
    step!(engine.remove_container(&with_volume.name));
    step!(engine.remove_volume(&volume.name));
    step!(engine.remove_volume(&volume.name));
    step!(engine.signal(&c.name, "SIGKILL"));
    for _ in 0..100 {
        let fact = engine.container(&c.name).await.expect("asked").expect("there");
        if fact.state == ContainerState::Exited {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    step!(engine.stop(&c.name, 0));
    step!(engine.start(&e.name));
    step!(engine.stop(&e.name, 0));
    step!(engine.remove_network(&net.name));
    step!(engine.create_network(&net, &net.labels));
    // The network is another one now, although its name is the same.
    step!(engine.start(&c.name));
    step!(engine.start(&d.name));
    step!(engine.remove_image(&world.image()));
    step!(engine.remove_image("h2-none:1"));
    step!(engine.upload("h2-none", "/", archive(&[])));
    step!(engine.logs("h2-none", 3));
    for spec in [&c, &d, &e, &outside, &gateway, &no_net, &no_net] {
        drop(engine.stop(&spec.name, 0).await);
        step!(engine.remove_container(&spec.name));
    }
    step!(engine.remove_network(&net.name));
    step!(engine.remove_network(&other.name));
    log
}

fn outcome<T>(result: &Result<T, EngineError>) -> String {
    match result {
        Ok(_) => "ok",
        Err(EngineError::Unreachable { .. }) => "unreachable",
        Err(EngineError::Conflict { .. }) => "conflict",
        Err(EngineError::NotFound { .. }) => "not found",
        Err(EngineError::Refused { .. }) => "refused",
    }
    .to_owned()
}

/// One test's corner of the daemon: names and subnets of its own.
struct World {
    docker: Docker,
    test: &'static str,
    number: u8,
}

impl World {
    async fn new(test: &'static str, number: u8) -> Self {
        let world = Self { docker: docker().await, test, number };
        world.clean().await;
        let labels = world.image_labels();
        world.docker.import_image(&world.image(), root(), &labels).await.expect("imported");
        world
    }

    fn name(&self, name: &str) -> String {
        format!("h2-{}-{name}", self.test)
    }

    fn image(&self) -> String {
        self.name("busybox:1")
    }

    /// With a label of the test's own, so that no other test's image has the same id.
    fn image_labels(&self) -> BTreeMap<String, String> {
        // Its owner alone: containers are made of an image that says more by way of a twin.
        BTreeMap::from([(LABEL_OWNER.to_owned(), format!("h2-{}", self.test))])
    }

    fn subnet(&self, n: u8) -> bottle_planner::words::Subnet {
        subnet(self.number, n)
    }

    fn address(&self, n: u32) -> Ipv4Addr {
        self.subnet(0).nth(n).expect("an address")
    }

    fn network_spec(&self, name: &str) -> NetworkSpec {
        network_spec(&self.name(name), self.number, 0)
    }

    async fn network(&self, name: &str, internal: bool) {
        let spec = NetworkSpec { internal, ..self.network_spec(name) };
        self.docker.create_network(&spec, &spec.labels).await.expect("created");
    }

    fn container(&self, name: &str, address: u32) -> ContainerSpec {
        ContainerSpec {
            role: Role::Agent,
            name: self.name(name),
            image: self.image(),
            user: User { uid: 1234, gid: 2345 },
            argv: ["/bin/busybox", "sleep", "300"].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            workdir: abs("/"),
            network: self.name("n"),
            address: self.address(address),
            extra_hosts: BTreeMap::new(),
            dns: Some(self.address(2)),
            mounts: Vec::new(),
            tmpfs: BTreeMap::new(),
            limits: ContainerLimits {
                cpus_milli: 500,
                memory_bytes: 64 << 20,
                pids: 64,
                shm_bytes: 1 << 20,
            },
            runtime: None,
            read_only: false,
            terminal: false,
            inputs: BTreeMap::new(),
            labels: own(),
        }
    }

    async fn create(&self, spec: &ContainerSpec, paths: &HostPaths) -> Result<String, EngineError> {
        self.docker.create_container(spec, &spec.labels, paths).await
    }

    async fn sh(&self, name: &str, line: &str) -> String {
        let argv = ["/bin/sh", "-c", line].map(str::to_owned);
        let result = self.docker.exec(&self.name(name), &argv, Zeroizing::default()).await;
        let result = result.expect("ran");
        assert_eq!(result.code, 0, "{}", result.output);
        result.output
    }

    fn host_paths(&self, folder: &std::path::Path) -> HostPaths {
        let paths = HostPaths { state: folder.join("state"), bin: folder.join("bin") };
        for below in ["state/agent/in", "state/agent/out"] {
            std::fs::create_dir_all(folder.join(below)).expect("made");
        }
        std::fs::create_dir_all(paths.bin.join(tool().hex())).expect("made");
        let resolv = paths.state.join("agent/in/resolv.conf");
        std::fs::write(resolv, "nameserver 192.0.2.53\n").expect("written");
        paths
    }

    async fn clean(&self) {
        let prefix = self.name("");
        let mine = |name: &String| name.starts_with(&prefix);
        let seen = self.docker.observe("", &BTreeSet::new()).await.expect("observed");
        for name in seen.containers.into_keys().filter(mine) {
            self.docker.stop(&name, 0).await.expect("stopped");
            self.docker.remove_container(&name).await.expect("removed");
        }
        for name in seen.networks.into_keys().filter(mine) {
            self.docker.remove_network(&name).await.expect("removed");
        }
        for name in seen.volumes.into_keys().filter(mine) {
            self.docker.remove_volume(&name).await.expect("removed");
        }
        drop(self.docker.remove_image(&self.image()).await);
    }
}

async fn volumes(world: &World) -> BTreeSet<String> {
    // Other tests mount volumes with names at most.
    let seen = world.docker.observe("", &BTreeSet::new()).await.expect("observed").volumes;
    let mine = world.name("");
    let anonymous = |n: &String| n.len() == 64;
    seen.into_keys().filter(|n| n.starts_with(&mine) || anonymous(n)).collect()
}

async fn docker() -> Docker {
    Docker::connect(None).await.expect("a daemon at the default socket")
}

fn raw() -> bollard::Docker {
    bollard::Docker::connect_with_unix_defaults().expect("a daemon at the default socket")
}

fn own() -> BTreeMap<String, String> {
    BTreeMap::from([(LABEL_OWNER.to_owned(), OWNER.to_owned())])
}

fn tool() -> Digest {
    Digest::of(b"tool")
}

fn abs(path: &str) -> AbsPath {
    AbsPath::new(path).expect("absolute")
}

fn subnet(test: u8, n: u8) -> bottle_planner::words::Subnet {
    let text = format!("10.232.{test}.{}/28", 16 * n);
    text.parse().expect("a subnet")
}

fn network_spec(name: &str, test: u8, n: u8) -> NetworkSpec {
    NetworkSpec { name: name.to_owned(), subnet: subnet(test, n), internal: true, labels: own() }
}

/// A root file system of busybox alone.
fn root() -> Bytes {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let path = places.into_iter().find(|p| p.exists()).expect("a static busybox (busybox-static)");
    let busybox = std::fs::read(path).expect("readable");
    let mut files = vec![("bin/busybox", &busybox[..])];
    let links = ["sh", "cat", "wc", "sleep", "true"].map(|name| format!("bin/{name}"));
    for link in &links {
        files.push((link, &busybox[..]));
    }
    archive(&files)
}

fn outgoing(tar: Bytes) -> bottle_executor::engine::Outgoing {
    let (to, pieces) = tokio::sync::mpsc::channel(1);
    to.try_send(Ok(tar)).expect("room for one");
    pieces
}

fn archive(files: &[(&str, &[u8])]) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(0);
        archive.append_data(&mut header, name, *content).expect("packed");
    }
    archive.into_inner().expect("packed").into()
}
