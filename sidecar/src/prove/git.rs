//! The git gate, from before it: a secret in a push, a way around it, and the key behind it. git's
//! own protocol is spoken by hand, since an agent's image need not have git.

use std::io;
use std::net::SocketAddr;

use bottle_planner::sidecar::{EGRESS_PORT, GIT_GATE_PORT};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::http::send;
use super::{Expected, Family, GitRemote, Outcome, Targets};

/// As much of an answer is read.
const LONGEST: u64 = 1 << 20;
/// The id of no object.
const NOTHING: &str = "0000000000000000000000000000000000000000";

pub(super) fn attempts(targets: &Targets) -> Family {
    let mut all = Family::new("git");
    let Some(gate) = targets.sidecars.iter().find(|(name, ..)| name == "git-gate") else {
        all.later(Expected::Refused, "git", "git's upstreams, their keys and the scan", async {
            Outcome::NotTried("no git gate here: `bottle prove ID` tries a session's".into())
        });
        return all;
    };
    let gate = SocketAddr::from((gate.1, GIT_GATE_PORT));
    let Some(remote) = targets.git.clone() else { return all };
    let name = remote.name.clone();
    let read = format!("git-upload-pack /{name}.git\0host=git-gate\0");
    all.patient(Expected::Allowed, "git-read", "read a git remote through the gate", async move {
        match asked(gate, &read, b"0000").await {
            Ok(answer) if is_refused(&answer) => Outcome::NotTried(words(&answer)),
            Ok(answer) if !answer.is_empty() => Outcome::Allowed("its refs are listed".into()),
            Ok(_) => Outcome::Refused("nothing is answered".into()),
            Err(error) => Outcome::Refused(error.to_string()),
        }
    });
    let planted = Planted::new(&targets.nonce, &remote.branch);
    let write = format!("git-receive-pack /{name}.git\0host=git-gate\0");
    all.patient(Expected::Refused, "git-secret", "push a secret through the gate", async move {
        match asked(gate, &write, &planted.push()).await {
            Ok(answer) if answer.contains(&format!("ok {}", planted.name)) => {
                Outcome::Allowed(format!("upstream has it, as {}", planted.name))
            }
            Ok(answer) if answer.contains("github-pat") => Outcome::Refused("it was found".into()),
            // Refused before it was looked at says nothing of the scan.
            Ok(answer) => Outcome::NotTried(words(&answer)),
            Err(error) => Outcome::NotTried(error.to_string()),
        }
    });
    for (id, what, path) in [
        ("git-keys", "read the gate's keys as a repository", "/../.bottle/run"),
        ("git-settings", "read the gate's settings as a repository", "/../.bottle/in"),
        ("git-objects", "read a repository by its inside", "/objects"),
    ] {
        let inside = if path == "/objects" { format!("/{name}.git{path}") } else { path.into() };
        let request = format!("git-upload-pack {inside}\0host=git-gate\0");
        all.later(Expected::Refused, id, what, async move { served(gate, &request).await });
    }
    let archive = format!("git-upload-archive /{name}.git\0host=git-gate\0");
    all.later(Expected::Refused, "git-archive", "another of git's services", async move {
        served(gate, &archive).await
    });
    past(&mut all, targets, &remote);
    all
}

/// Straight to upstream, where no route leads there anyway.
fn past(all: &mut Family, targets: &Targets, remote: &GitRemote) {
    let proxy = SocketAddr::from((targets.egress, EGRESS_PORT));
    let at = format!("{}:{}", remote.host, remote.port);
    let request = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    let (routed, what) = (remote.routed, "reach a git upstream past the gate");
    let answer = targets.answer.clone();
    all.later(Expected::Refused, "git-past", what, async move {
        if routed {
            return Outcome::NotTried("a route of the agent's own names that host".into());
        }
        send(proxy, request.into_bytes(), None).await.judged(&answer)
    });
}

async fn served(gate: SocketAddr, request: &str) -> Outcome {
    match asked(gate, request, b"0000").await {
        Ok(answer) if answer.is_empty() || is_refused(&answer) => Outcome::Refused(words(&answer)),
        Ok(answer) => Outcome::Allowed(words(&answer)),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

fn is_refused(answer: &str) -> bool {
    answer.get(4..).is_some_and(|rest| rest.starts_with("ERR "))
}

/// The last thing that was said, without git's framing.
fn words(answer: &str) -> String {
    let line = answer.lines().rev().find(|line| line.len() > 4).unwrap_or("the connection closed");
    line.chars().filter(|c| !c.is_control()).collect()
}

/// Asks git daemon (gitprotocol-pack(5)).
async fn asked(gate: SocketAddr, request: &str, more: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(gate).await?;
    stream.write_all(&line(request)).await?;
    stream.write_all(more).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn line(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

/// A branch with one commit, in it one file, in it a token that opens nothing.
struct Planted {
    name: String,
    tip: String,
    pack: Vec<u8>,
}

impl Planted {
    fn new(nonce: &str, branch: &str) -> Self {
        let made_up = hex(&Sha1::digest(nonce.as_bytes()));
        let file = Object::new("blob", 3, format!("token = ghp_{}\n", &made_up[..36]).as_bytes());
        let entry = [b"100644 planted\0".as_slice(), &file.id].concat();
        let tree = Object::new("tree", 2, &entry);
        let who = "bottle prove <prove@bottle.invalid> 0 +0000";
        let text = format!("tree {}\nauthor {who}\ncommitter {who}\n\nprove\n", hex(&tree.id));
        let commit = Object::new("commit", 1, text.as_bytes());
        let mut pack = b"PACK\0\0\0\x02\0\0\0\x03".to_vec();
        for object in [&commit, &tree, &file] {
            pack.extend_from_slice(&object.packed);
        }
        let sum = Sha1::digest(&pack);
        pack.extend_from_slice(&sum);
        let name = branch.replace("**", "*").replacen('*', &format!("bottle-prove-{nonce}"), 1);
        let name = format!("refs/heads/{}", name.replace('*', "x"));
        Self { name, tip: hex(&commit.id), pack }
    }

    fn push(&self) -> Vec<u8> {
        let Self { name, tip, pack } = self;
        let update = format!("{NOTHING} {tip} {name}\0report-status side-band-64k");
        [line(&update), b"0000".to_vec(), pack.clone()].concat()
    }
}

/// A git object: its id, and how a pack has it (gitformat-pack(5)), not compressed.
struct Object {
    id: Vec<u8>,
    packed: Vec<u8>,
}

impl Object {
    /// For fewer bytes than a block of RFC 1951 holds.
    fn new(kind: &str, number: u8, bytes: &[u8]) -> Self {
        let mut sum = Sha1::new_with_prefix(format!("{kind} {}\0", bytes.len()));
        sum.update(bytes);
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let (low, mut rest) = (length & 0xf, length >> 4);
        let mut packed = vec![(number << 4) | low as u8 | if rest > 0 { 0x80 } else { 0 }];
        while rest > 0 {
            let more = if rest > 0x7f { 0x80 } else { 0 };
            packed.push((rest & 0x7f) as u8 | more);
            rest >>= 7;
        }
        packed.extend_from_slice(&[0x78, 0x01, 0x01]);
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(&(!length).to_le_bytes());
        packed.extend_from_slice(bytes);
        packed.extend_from_slice(&adler32(bytes).to_be_bytes());
        Self { id: sum.finalize().to_vec(), packed }
    }
}

/// RFC 1950, section 9.
fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    (b << 16) | a
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn git_takes_the_pack_and_the_detector_finds_what_is_planted() {
        let planted = Planted::new("n0nce", "agent/**");
        assert_eq!(planted.name, "refs/heads/agent/bottle-prove-n0nce");
        let folder = tempfile::tempdir().unwrap();
        let git = |words: &[&str], input: &[u8]| {
            let mut git = Command::new("git");
            git.args(words).current_dir(folder.path());
            git.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut git = git.spawn().unwrap();
            git.stdin.take().unwrap().write_all(input).unwrap();
            let output = git.wait_with_output().unwrap();
            assert!(output.status.success(), "{words:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        git(&["init", "-q", "--bare"], b"");
        git(&["index-pack", "--strict", "--stdin"], &planted.pack);
        let text = git(&["show", &format!("{}:planted", planted.tip)], b"");
        let detector =
            bottle_detector::Detector::new(Some(bottle_detector::Rules::builtin()), None);
        assert_eq!(detector.scan(text.as_bytes()).len(), 1, "{text}");
    }
}
