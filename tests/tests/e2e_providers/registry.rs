//! Images from a registry that wants a login: Debian's docker-registry with a password file, the
//! logins of Docker's own client, and a credential helper.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use bottle_planner::grants::ImageGrant;
use bottle_planner::plan::{Effect, Operation, Plan};
use bottle_tests::host::{Host, docker, ran, unique, until};

/// Who may use the registry. The entry of the password file is bcrypt of the password.
const USER: &str = "ada";
const PASSWORD: &str = "pass-6Wq9Zr2Kx8Lm";
const ENTRY: &str = "$2b$05$abcdefghijklmnopqrstuubKK616ealQ6ZoPYDfFTyAyKFGwxxAM.";

/// A registry of this host's alone; it ends with the test.
struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    at: String,
}

impl Registry {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let (store, users) = (folder.path().join("store"), folder.path().join("users"));
        fs::write(&users, format!("{USER}:{ENTRY}\n")).expect("written");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\nauth: {{htpasswd: {{realm: test, path: '{}'}}}}\n",
            store.display(),
            users.display()
        );
        let file = folder.path().join("config.yml");
        fs::write(&file, config).expect("written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("scripts/host-setup --tests installs docker-registry");
        until("the registry listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Self { child, folder, at: format!("127.0.0.1:{port}") }
    }

    /// Publishes an image with a file `/which` and forgets it; answers its reference. What Docker's
    /// client writes down at its login is left in `login/config.json` of the registry's folder.
    fn publish(&self) -> String {
        let context = self.folder.path().join("context");
        fs::create_dir_all(&context).expect("a folder");
        let text = format!("FROM debian:bookworm-slim\nRUN echo {} >/which\n", self.at);
        fs::write(context.join("Dockerfile"), text).expect("written");
        let tag = format!("{}/tools/box:1", self.at);
        ran(Command::new("docker").args(["build", "-q", "-t", &tag]).arg(&context), b"").code(0);
        let client = |words: &[&str], input: &str| {
            let mut command = Command::new("docker");
            command.arg("--config").arg(self.login()).args(words);
            ran(&mut command, input.as_bytes()).code(0);
        };
        client(&["login", "-u", USER, "--password-stdin", &self.at], PASSWORD);
        client(&["push", "-q", &tag], "");
        docker(&["rmi", "-f", &tag]).code(0);
        tag
    }

    fn login(&self) -> std::path::PathBuf {
        self.folder.path().join("login")
    }

    /// Removes what was pulled, by whatever name.
    fn forget(&self) {
        let name = format!("{}/tools/box", self.at);
        let ids = docker(&["images", "-q", "--no-trunc", &name]).out;
        for id in ids.lines() {
            docker(&["rmi", "-f", id]);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.forget();
    }
}

fn manifest(image: &str) -> String {
    format!(
        "bottles:
  box:
    provider: {{command: [sleep, '86400']}}
    image: {image}
    isolation: container
    workspace: {{modes: [none]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    )
}

/// A host whose Docker client asks a helper, which says this.
fn with_helper(host: Host, registry: &Registry, says: &str, code: u8) -> Host {
    let folder = host.at("home/helpers");
    fs::create_dir_all(&folder).expect("a folder");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] || exit 9\nread -r server\n[ \"$server\" = {} ] || exit 8\n\
         echo asked >>'{}'\necho 'not to be told: {PASSWORD}' >&2\ncat <<'END'\n{says}\nEND\nexit {code}\n",
        registry.at,
        host.at("home/asked").display(),
    );
    let program = folder.join("docker-credential-fake");
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    let config = format!("{{\"credHelpers\": {{\"{}\": \"fake\"}}}}", registry.at);
    host.write("home/.docker/config.json", &config);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display());
    host.set("PATH", &path)
}

const PLAN: [&str; 6] = ["plan", "--manifest", "bottle.yaml", "-o", "plan.json", "--name"];

fn plan(host: &Host, session: &str) -> bottle_tests::host::Ran {
    host.run(&[&PLAN[..], &[session]].concat())
}

fn pull(plan: &Plan) -> (Effect, String) {
    let found = plan.actions.iter().find_map(|action| match &action.op {
        Operation::PullImage(pull) => {
            Some((action.effect, format!("{}@{}", pull.image.name, pull.image.digest)))
        }
        _ => None,
    });
    found.expect("a pull")
}

fn which(session: &str) -> String {
    docker(&["exec", &format!("bottle-{session}"), "cat", "/which"]).code(0).out
}

/// The password is in no file below the host's folder but the helper itself.
fn is_kept_quiet(host: &Host) {
    for folder in ["root", "work"] {
        let mut grep = Command::new("grep");
        grep.args(["-rlF", PASSWORD]).arg(host.at(folder));
        let found = ran(&mut grep, b"");
        assert_eq!(found.out, "", "the password was written down");
    }
}

#[test]
fn a_private_image_is_resolved_and_pulled_by_a_helpers_login() {
    let registry = Registry::start();
    let tag = registry.publish();
    let session = unique("private");
    let host = Host::with_manifest(&manifest(&format!("{{reference: '{tag}'}}")));
    // Nobody is logged in.
    let refused = plan(&host, &session).code(1).says("is not present").says("docker login");
    assert!(!refused.err.contains(PASSWORD));

    let login =
        format!("{{\"ServerURL\": \"\", \"Username\": \"{USER}\", \"Secret\": \"{PASSWORD}\"}}");
    let host = with_helper(host, &registry, &login, 0);
    let planned = plan(&host, &session).code(0);
    let made = host.plan("work/plan.json");
    let (effect, reference) = pull(&made);
    assert_eq!(effect, Effect::Create);
    assert!(reference.starts_with(&format!("{tag}@sha256:")), "{reference}");
    let ImageGrant::Reference { reference: granted, .. } = &made.grants.image else {
        panic!("{:?}", made.grants.image)
    };
    assert_eq!(*granted, reference);
    let applied = host.run(&["apply", "plan.json", "--yes"]).code(0);
    assert_eq!(which(&session), format!("{}\n", registry.at));
    assert!(host.read("home/asked").lines().count() >= 2, "once to resolve, once to pull");
    for said in [&planned, &applied] {
        assert!(!said.out.contains(PASSWORD) && !said.err.contains(PASSWORD));
    }
    is_kept_quiet(&host);
    let again = ["plan", "--manifest", "bottle.yaml", "-o", "again.json", "--detailed-exitcode"];
    host.run(&[&again[..], &["--name", &session]].concat()).code(0);
    // It went: the same plan pulls the same again.
    host.run(&["destroy", &session, "--yes"]).code(0);
    registry.forget();
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    assert_eq!(which(&session), format!("{}\n", registry.at));
    host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn logins_that_dockers_client_wrote_down_serve_pulls_and_builds() {
    let registry = Registry::start();
    let tag = registry.publish();
    let session = unique("private");
    let image = "{dockerfile: image/Dockerfile}";
    let host = Host::with_manifest(&manifest(image));
    host.write("work/image/Dockerfile", &format!("FROM {tag}\nRUN echo on top >>/which\n"));
    plan(&host, &session).code(0);
    let apply = ["apply", "plan.json", "--yes", "--manifest", "bottle.yaml"];
    host.run(&apply).code(12).says("basic auth");
    host.run(&["apply", "plan.json", "--rollback", "--yes"]).code(0);

    let login = registry.login();
    let host = host.set("DOCKER_CONFIG", login.to_str().expect("UTF-8"));
    plan(&host, &session).code(0);
    let made = host.plan("work/plan.json");
    host.run(&apply).code(0);
    assert_eq!(which(&session), format!("{}\non top\n", registry.at));
    is_kept_quiet(&host);
    host.run(&["destroy", &session, "--yes"]).code(0);
    docker(&["rmi", "-f", &made.session.base_image]);
}

#[test]
fn a_helper_that_fails_is_named_and_not_quoted() {
    let registry = Registry::start();
    let tag = registry.publish();
    let host = || Host::with_manifest(&manifest(&format!("{{reference: '{tag}'}}")));
    let broken = with_helper(host(), &registry, &format!("oh no {PASSWORD}"), 1);
    let refused = plan(&broken, &unique("private")).code(1);
    let refused = refused.says(&format!("no login for the registry {}", registry.at));
    let refused = refused.says("`docker-credential-fake` failed");
    assert!(!refused.err.contains(PASSWORD), "{}", refused.err);

    let strange = with_helper(host(), &registry, &format!("{{\"Secret\": \"{PASSWORD}\"}}"), 0);
    let refused = plan(&strange, &unique("private")).code(1).says("something else than a login");
    assert!(!refused.err.contains(PASSWORD), "{}", refused.err);

    // Docker's client takes these words for "nobody is logged in".
    let none = "credentials not found in native keychain";
    let none = with_helper(host(), &registry, none, 1);
    let refused = plan(&none, &unique("private")).code(1).says("is not present");
    assert!(!refused.err.contains("docker-credential-fake"), "{}", refused.err);
}
