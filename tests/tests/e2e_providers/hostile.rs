//! An image that sets traps: what it says of its own accord changes nothing that the plan did not
//! say. A container made of it by hand shows that each trap would spring.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bottle_planner::plan::{LABEL_OWNER, LABEL_PLAN, Operation, Plan};
use bottle_planner::words::Role;
use bottle_tests::host::{Host, docker, inspect, ran, unique, until};
use serde_json::Value;

const TRAPS: &str = r#"FROM debian:bookworm-slim
COPY hosts /etc/hosts
RUN mkdir -p /planted/certs /home/agent/deep /data \
 && echo planted >/planted/file && echo kept >/data/kept \
 && ln -s /planted/file /home/agent/.gitconfig \
 && rm -rf /etc/ssl/certs && ln -s /planted/certs /etc/ssl/certs \
 && printf '[alias]\n\tx = !touch /tmp/aliased\n' >/root/.gitconfig \
 && cp /bin/dash /bin/rooted && chmod 4755 /bin/rooted
VOLUME /data /home/agent/deep
ENV LD_PRELOAD=/planted/none.so ALL_PROXY=http://evil.test:1 HTTP_PROXY=http://evil.test:1 COLOR=blue
LABEL dev.bottle.identity=other dev.bottle.role=egress dev.bottle.owner=other dev.bottle.evil=yes
LABEL com.example.other=1
EXPOSE 22
HEALTHCHECK --interval=1s CMD touch /tmp/checked
STOPSIGNAL SIGKILL
ONBUILD RUN touch /onbuild
ENTRYPOINT ["sh", "-c", "touch /tmp/entered; exec sleep 86400"]
USER root
"#;

/// The image, which goes with this.
struct Trap(String);

impl Trap {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("Dockerfile"), TRAPS).expect("written");
        fs::write(folder.path().join("hosts"), "10.9.8.7 egress evil.test\n").expect("written");
        let tag = format!("{}:1", unique("trap"));
        ran(Command::new("docker").args(["build", "-q", "-t", &tag]).arg(folder.path()), b"")
            .code(0);
        Self(tag)
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

fn inside(container: &str, script: &str) -> String {
    docker(&["exec", "-u", "1000:1000", container, "sh", "-c", script]).out
}

/// Volumes that nobody named.
fn anonymous(container: &Value) -> usize {
    let mounts = container["Mounts"].as_array().expect("mounts").iter();
    let names = mounts.filter(|m| m["Type"] == "volume").map(|m| m["Name"].as_str().unwrap_or(""));
    names.filter(|name| !name.starts_with("bottle-")).count()
}

fn label_names(container: &Value) -> BTreeSet<&str> {
    let labels = container["Config"]["Labels"].as_object().expect("labels");
    labels.keys().map(String::as_str).collect()
}

/// Each trap springs in a container that is made by hand.
fn springs(trap: &Trap) {
    let name = unique("sprung");
    docker(&["run", "-d", "--name", &name, "-e", "HOME=/root", &trap.0]).code(0);
    until("the health check runs", || inside(&name, "ls /tmp").contains("checked"));
    let container = inspect(&name);
    assert_eq!(anonymous(&container), 2);
    assert_eq!(container["Config"]["Labels"]["dev.bottle.evil"], "yes");
    assert_eq!(container["Config"]["StopSignal"], "SIGKILL");
    assert!(container["Config"]["ExposedPorts"]["22/tcp"].is_object());
    assert!(inside(&name, "ls /tmp").contains("entered"));
    assert_eq!(inside(&name, "rooted -p -c 'id -u'"), "0\n");
    let env = inside(&name, "env 2>/dev/null");
    assert!(env.contains("LD_PRELOAD=") && env.contains("ALL_PROXY="), "{env}");
    docker(&["rm", "-f", "-v", &name]).code(0);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("Dockerfile"), format!("FROM {}\n", trap.0)).expect("written");
    let child = format!("{}:1", unique("trap-child"));
    ran(Command::new("docker").args(["build", "-q", "-t", &child]).arg(folder.path()), b"").code(0);
    let found = docker(&["run", "--rm", "--entrypoint", "ls", &child, "/"]).out;
    assert!(found.contains("onbuild"), "{found}");
    docker(&["rmi", "-f", &child]);
}

fn host(image: &str) -> Host {
    let host = Host::with_manifest(&format!(
        "bottles:
  box:
    provider: {{command: [sleep, '86400']}}
    image: {image}
    isolation: container
    workspace: {{modes: [copy, none]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    ));
    host.write("work/code/file", "work\n");
    host
}

fn argv(plan: &Plan) -> (Vec<String>, BTreeSet<String>) {
    let spec = plan.actions.iter().find_map(|action| match &action.op {
        Operation::Container(spec) if spec.role == Role::Agent => Some(spec),
        _ => None,
    });
    let spec = spec.expect("an agent");
    let labels = spec.labels.keys().cloned().chain([LABEL_PLAN.to_owned()]).collect();
    (spec.argv.clone(), labels)
}

/// Checks one session whose image says all this.
fn nothing_springs(host: &Host, more: &[&str]) {
    let session = unique("trapped");
    let plan = host.plans(&session, "plan.json", more);
    host.run(&["apply", "plan.json", "--yes", "--manifest", "bottle.yaml"]).code(0);
    let name = format!("bottle-{session}");
    let container = inspect(&name);
    let (argv, labels) = argv(&plan);
    assert_eq!(label_names(&container), labels.iter().map(String::as_str).collect());
    assert_eq!(container["Config"]["Labels"]["dev.bottle.identity"], session.as_str());
    assert_eq!(anonymous(&container), 0, "{}", container["Mounts"]);
    assert_eq!(container["State"]["Health"], Value::Null);
    assert_eq!(container["Config"]["StopSignal"], "SIGTERM");
    assert_eq!(container["Config"]["ExposedPorts"], Value::Null);
    assert_eq!(container["Config"]["User"], "1000:1000");
    let path = container["Path"].as_str().expect("a path").to_owned();
    let arguments = container["Args"].as_array().expect("arguments").iter();
    let begun: Vec<String> = [path]
        .into_iter()
        .chain(arguments.map(|word| word.as_str().expect("text").to_owned()))
        .collect();
    assert_eq!(begun, argv);

    until("the agent runs", || inside(&name, "cat /proc/[0-9]*/comm").contains("sleep"));
    let env = inside(
        &name,
        "for p in /proc/[0-9]*; do [ $(cat $p/comm) = sleep ] && tr '\\0' '\\n' <$p/environ; done",
    );
    assert!(env.contains("COLOR=blue"), "what else the image says of variables stays: {env}");
    for trap in ["LD_PRELOAD", "ALL_PROXY", "evil.test"] {
        assert!(!env.contains(trap), "{env}");
    }
    assert_eq!(inside(&name, "ls /tmp; ls -d /onbuild"), "", "something ran");
    assert_eq!(inside(&name, "rooted -p -c 'id -u'"), "1000\n");
    assert!(!inside(&name, "cat /etc/hosts").contains("10.9.8.7"));
    // What is put there takes the link's place, and goes nowhere else.
    let found = inside(
        &name,
        "stat -c %F /home/agent/.gitconfig /etc/ssl/certs; cat /planted/file; ls /planted/certs; cat /data/kept",
    );
    assert_eq!(found, "regular file\ndirectory\nplanted\nkept\n");
    let bundle = inside(&name, "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt");
    assert!(bundle.trim().parse::<u32>().is_ok_and(|n| n > 0), "{bundle}");
    if !more.is_empty() {
        assert_eq!(inside(&name, "cat /workspace/file"), "work\n");
    }

    let words = ["plan", "--manifest", "bottle.yaml", "--name", &session, "--detailed-exitcode"];
    host.run(&[&words[..], more, &["-o", "again.json"]].concat()).code(0);
    host.run(&["destroy", &session, "--yes"]).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn what_an_image_says_of_its_own_accord_changes_nothing() {
    let trap = Trap::new();
    springs(&trap);
    let host = host(&format!("{{reference: '{}'}}", trap.0));
    let code: PathBuf = host.at("work/code");
    let code = code.display().to_string();
    let unnamed = || {
        let filter = format!("label={LABEL_OWNER}={}", host.owner());
        docker(&["images", "-q", "--filter", "dangling=true", "--filter", &filter]).out
    };
    nothing_springs(&host, &[]);
    assert_eq!(unnamed(), "", "what containers were made from is left");
    nothing_springs(&host, &["--workspace", "copy", "--cwd", &code]);
}
