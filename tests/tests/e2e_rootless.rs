//! A rootless Docker engine: a session runs under it, its walls hold, and nothing of it stays.
//!
//! The engine is the test's own and runs as a user without any right (`scripts/host-setup --tests`
//! installs what that takes). Root runs the test; `cargo build -p bottle` was run before.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bottle_tests::host::{Host, Ran, User, ran, unique, until};
use serde_json::Value;

const NAME: &str = "bottle-rootless";

/// The engine, its user and its folder.
struct Engine {
    folder: tempfile::TempDir,
    daemon: Child,
    user: User,
}

impl Engine {
    fn start() -> Self {
        let id = |what: &str| {
            let ran = ran(Command::new("id").args([what, NAME]), b"");
            ran.ok().then(|| ran.out.trim().parse::<u32>().expect("a number"))
        };
        if id("-u").is_none() {
            // With a home, which is what brings it subordinate ids.
            ran(Command::new("useradd").args(["--create-home", "--user-group", NAME]), b"").code(0);
        }
        let [uid, gid] = ["-u", "-g"].map(|what| id(what).expect("a user"));
        let user = User { uid, gid, engine_group: gid };
        // Sockets have short names.
        let folder =
            tempfile::Builder::new().prefix("br").tempdir_in("/var/tmp").expect("a folder");
        chown(folder.path(), Some(uid), Some(gid)).expect("root gives it away");
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
        let mut command = Command::new("setsid");
        command.arg("setpriv").args(ids).arg("/usr/share/docker.io/contrib/dockerd-rootless.sh");
        command.args(["--storage-driver", "fuse-overlayfs", "--data-root", &at("d")]);
        command.args(["--host", &format!("unix://{}", at("s"))]);
        command.env_clear().env("HOME", folder.path()).env("XDG_RUNTIME_DIR", folder.path());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("cloned")).stderr(log);
        let daemon = command.spawn().expect("it starts");
        let engine = Self { folder, daemon, user };
        until("the engine answers", || engine.docker(&["version"], b"").ok());
        let base = "debian:bookworm-slim";
        let saved = Command::new("docker").args(["save", base]).output().expect("docker is there");
        engine.docker(&["load"], &saved.stdout).code(0);
        engine
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self) -> String {
        format!("unix://{}", self.at("s").display())
    }

    fn docker(&self, words: &[&str], input: &[u8]) -> Ran {
        ran(Command::new("docker").args(["-H", &self.address()]).args(words), input)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // rootlesskit, which `setsid` and `setpriv` became, takes all it started with it.
        let pid = self.daemon.id().to_string();
        ran(Command::new("kill").args(["-TERM", &pid]), b"");
        let _ = self.daemon.wait();
    }
}

#[test]
fn a_session_under_a_rootless_engine_has_its_walls_and_leaves_nothing() {
    let engine = Engine::start();
    let host = Host::with_manifest(
        "bottles:
  box:
    egress: {routes: [{host: api.example.com, allow: [{access: read}]}]}
    provider: {command: [bash, -c, 'echo it runs as $(id -u); echo made >/workspace/new; exec sleep 86400']}
    image: {reference: 'debian:bookworm-slim'}
    workspace: {modes: [copy, none]}
agents:
  dev: {bottle: box, prompt: Be brief.}
",
    );
    host.write("work/project/file", "mine");
    let host = host.owned_by(engine.user.clone()).set("DOCKER_HOST", &engine.address());
    let probe = host.run(&["probe", "--manifest", "bottle.yaml"]).code(0);
    let probe: Value = serde_json::from_str(&probe.out).expect("JSON");
    assert_eq!(
        (&probe["engine"]["rootless"], &probe["engine"]["name"]),
        (&true.into(), &"docker".into())
    );

    let session = unique("rootless");
    // An engine without cgroups of its own holds no limits, and the plan says so.
    let driver = engine.docker(&["info", "--format", "{{.CgroupDriver}}"], b"").code(0).out;
    let without_limits = driver.trim() == "none";
    let more = ["--workspace", "copy", "--cwd", "project"];
    let plan = host.plans(&session, "plan.json", &more);
    let told = plan.notices.iter().any(|notice| notice.code == "limits_not_held");
    assert_eq!(told, without_limits, "{driver}: {:?}", plan.notices);
    let words = ["start", "dev", "--manifest", "bottle.yaml", "--yes", "--detach"];
    host.run(&[&words[..], &more, &["--name", &session]].concat()).code(0);
    until("the agent runs", || host.run(&["logs", &session]).out.contains("it runs as 1000"));
    host.run(&["exec", &session, "--", "cat", "/workspace/file"]).code(0).prints("mine");

    let proof = host.run(&["prove", &session, "--json"]);
    let proof: Value = serde_json::from_str(&proof.out)
        .unwrap_or_else(|e| panic!("{e}: {}\n{}", proof.out, proof.err));
    let all = proof["attempts"].as_array().expect("a list");
    assert!(all.len() > 100, "{}", all.len());
    let mut broken: Vec<&Value> = all.iter().filter(|row| row["held"] != true).collect();
    if without_limits {
        broken.retain(|row| row["family"] != "limits");
    }
    assert_eq!(broken, Vec::<&Value>::new());

    host.run(&["pull", &session, "--yes"]).code(0);
    assert_eq!(host.read("work/project/new"), "made\n");
    host.run(&["destroy", &session, "--yes"]).code(0);
    for list in [&["ps", "-aq"][..], &["volume", "ls", "-q"]] {
        assert_eq!(engine.docker(list, b"").code(0).out, "");
    }
    let networks = engine.docker(&["network", "ls", "--format", "{{.Name}}"], b"").code(0).out;
    assert!(!networks.contains("bottle"), "{networks}");
}
