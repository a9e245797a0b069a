//! A host whose sessions reach an API that the test serves.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use bottle_outside::{Answer, Authority, Origin};
use bottle_tests::host::{Host, Ran, docker, ran};
use bottle_tests::outside::Network;

use crate::api::MADE;

/// What the prompt of the manifest says.
pub const PROMPT: &str = "You are the caretaker of \"blue\" things.\nBe brief.";
/// A skill, and what its description says.
pub const SKILL: (&str, &str) = ("greet", "greets people in seven languages");
/// The key that egress puts into requests and the agent never sees.
pub const KEY: &str = "key-7Hq2Zt9Lm4Xw8Rb3";

/// A host, and an API that its sessions reach under a real name.
pub struct World {
    pub host: Host,
    pub api: Origin,
    _network: Network,
}

impl World {
    /// Serves an API under this name to the agent `dev` of a manifest, which is told the address.
    pub fn new(name: &str, answer: Box<Answer>, manifest: impl FnOnce(Ipv4Addr) -> String) -> Self {
        let (network, outside) = Network::new();
        let authority = Authority::new("the outside");
        let config = authority.server(&[name], &["h2", "http/1.1"]);
        let api = Origin::answering((outside, 443), config, answer);
        let host = Host::with_manifest(&manifest(outside)).set("KEY", KEY);
        let skill = format!("---\nname: {}\ndescription: {}\n---\nSay hello.\n", SKILL.0, SKILL.1);
        host.write(&format!("home/.claude/skills/{}/SKILL.md", SKILL.0), &skill);
        host.write("work/code/README.md", "nothing yet\n");
        trust(&host, &authority.pem());
        Self { host, api, _network: network }
    }

    /// `bottle start dev` with this name, a copy of `work/code` and further words.
    pub fn start<'w>(&self, session: &'w str, more: &[&'w str]) -> Vec<&'w str> {
        let words = ["start", "dev", "--manifest", "bottle.yaml", "--yes", "--name", session];
        let workspace = ["--workspace", "copy", "--cwd", "code"];
        words.into_iter().chain(workspace).chain(more.iter().copied()).collect()
    }

    /// Pulls what the agent made into the folder it began with.
    #[track_caller]
    pub fn pulls(&self, session: &str) {
        let name = MADE.0.rsplit('/').next().expect("a name");
        let pulled = self.host.run(&["pull", session, "--yes"]).code(0);
        pulled.prints(&format!("+++ b/{name}")).prints(&format!("+{}", MADE.1.trim_end()));
        assert_eq!(self.host.read(&format!("work/code/{name}")), MADE.1);
    }

    /// The bodies of the requests to a path, oldest first.
    pub fn asked(&self, path: &str) -> Vec<String> {
        let requests = self.api.requests();
        let all = requests.iter().filter(|r| r.path.split('?').next() == Some(path));
        all.map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect()
    }
}

/// `bottle resume` with this name and further words.
pub fn resume<'w>(session: &'w str, more: &[&'w str]) -> Vec<&'w str> {
    let words = ["resume", session, "--manifest", "bottle.yaml", "--yes"];
    words.into_iter().chain(more.iter().copied()).collect()
}

/// Makes the host trust these certificates, and what stands between it and the registries.
pub fn trust(host: &Host, pem: &str) {
    host.write("home/outside.pem", &format!("{pem}{}", extra_authorities()));
    let file = host.at("home/outside.pem");
    host.write("root/config.yaml", &format!("network: {{ca: '{}'}}\n", file.display()));
}

/// What this machine trusts beyond Debian's own list: an image build is behind the same network.
fn extra_authorities() -> String {
    let blocks = |text: &str| -> Vec<String> {
        let begin = "-----BEGIN CERTIFICATE-----";
        let end = "-----END CERTIFICATE-----";
        let body = |rest: &str| rest.split(end).next().unwrap_or_default().trim().to_owned();
        text.split(begin).skip(1).map(|rest| format!("{begin}\n{}\n{end}\n", body(rest))).collect()
    };
    let mut usual = BTreeSet::new();
    let folder = fs::read_dir("/usr/share/ca-certificates/mozilla");
    for file in folder.into_iter().flatten().flatten() {
        usual.extend(blocks(&fs::read_to_string(file.path()).unwrap_or_default()));
    }
    let bundle = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    blocks(&bundle).into_iter().filter(|block| !usual.contains(block)).collect()
}

/// A file of a container, running or not.
pub fn file(session: &str, path: &str) -> String {
    let script = format!("docker cp 'bottle-{session}:{path}' - | tar -xO");
    ran(Command::new("sh").args(["-c", &script]), b"").out
}

/// The names below a folder of a container, running or not.
pub fn names(session: &str, folder: &str) -> Vec<String> {
    let script = format!("docker cp 'bottle-{session}:{folder}' - | tar -t");
    let Ran { out, .. } = ran(Command::new("sh").args(["-c", &script]), b"");
    out.lines().map(str::to_owned).collect()
}

/// The id of a session's agent container.
pub fn container(session: &str) -> String {
    docker(&["inspect", "--format", "{{.Id}}", &format!("bottle-{session}")]).code(0).out
}
