//! A proxy behind egress (`pipelock`), in an image that comes from a registry by its digest. A
//! stand-in that obeys the rendered `pipelock.yaml` takes its place.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use bottle_outside::SAID;
use bottle_tests::host::{bottle, docker, ran, until};

use crate::{Bench, TOKEN};

/// A registry of this host's alone; it ends with the test.
struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Registry {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let store = folder.path().join("store");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n",
            store.display()
        );
        let file = folder.path().join("config.yml");
        fs::write(&file, config).expect("written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("scripts/host-setup --tests installs docker-registry");
        until("the registry listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        Self { child, folder, port }
    }

    /// Builds a stand-in for which names lead there, publishes it and forgets it; answers its
    /// reference with the digest.
    fn publish(&self, names: &str) -> String {
        let context = self.folder.path().join("context");
        fs::create_dir_all(&context).expect("a folder");
        let program = bottle().with_file_name("bottle-outside-hop");
        fs::copy(program, context.join("pipelock")).expect("the workspace was built");
        let recipe = format!("FROM scratch\nCOPY pipelock /pipelock\nENV HOP_NAMES=\"{names}\"\n");
        fs::write(context.join("Dockerfile"), recipe).expect("written");
        let name = format!("127.0.0.1:{}/pipelock", self.port);
        let tag = format!("{name}:stand-in");
        ran(Command::new("docker").args(["build", "-q", "-t", &tag]).arg(&context), b"").code(0);
        docker(&["push", &tag]).code(0);
        let digest = docker(&["inspect", &tag, "--format", "{{index .RepoDigests 0}}"]).code(0).out;
        docker(&["image", "rm", &tag]).code(0);
        digest.trim().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn all_goes_through_pipelock_with_credentials_put_in_before() {
    let registry = Registry::start();
    let mut image = String::new();
    let bench = Bench::with(|outside| {
        let names =
            ["api.test:443", "auth.test:443", "evil.test:443", "plain.test:80"].map(|name| {
                let port = name.rsplit(':').next().unwrap_or_default();
                format!("{name}={outside}:{port}")
            });
        let pinned = format!("{outside}:443");
        image = registry.publish(&format!("{} {pinned}={pinned}", names.join(" ")));
        (String::new(), format!("    pipelock: '{image}'"))
    });
    let pipelock = format!("bottle-pipelock-{}", bench.session);
    let told = || docker(&["logs", &pipelock]).code(0).out;

    let ran = bench.inside(
        "curl -sS -m 20 https://api.test/open/x http://plain.test/open/y https://a.wild.test/",
    );
    assert_eq!(ran.out.matches(SAID).count(), 3, "{} {} {}", ran.out, ran.err, told());
    let ran = bench.unaware("curl -sS -m 20 https://auth.test/z");
    assert!(ran.out.contains(SAID) && !ran.out.contains(TOKEN), "{} {}", ran.out, ran.err);
    let seen = bench.origin.requests();
    let seen = seen.iter().find(|r| r.path == "/z").expect("it arrived");
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {TOKEN}")));
    let all = ["CONNECT api.test:443 ", "GET http://plain.test/open/y ", "CONNECT auth.test:443 "];
    until("pipelock tells of all", || all.iter().all(|told_of| told().contains(told_of)));

    // What egress refuses does not come so far, and what pipelock does not carry goes nowhere else.
    let ran =
        bench.inside("curl -sS -m 20 https://evil.test/open/x; curl -sS -m 20 https://git.test/x");
    assert!(!ran.out.contains(SAID), "{} {}", ran.out, ran.err);
    until("pipelock tells of git.test", || told().contains("CONNECT git.test:443 "));
    assert!(!told().contains("evil.test"), "{}", told());
    docker(&["kill", &pipelock]).code(0);
    let ran = bench.inside("curl -sS -m 20 https://api.test/open/x");
    assert!(!ran.out.contains(SAID), "{} {}", ran.out, ran.err);

    bench.host.run(&["destroy", &bench.session, "--yes"]).code(0);
    docker(&["image", "rm", &image]);
}
