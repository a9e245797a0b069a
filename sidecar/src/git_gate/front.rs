//! The port that the agent's git speaks to. Each connection gets a git daemon of its own once it has
//! asked for a remote that there is; who asks for anything else is told which there are.
//!
//! An agent comes to ask for others without meaning to: git's `insteadOf` matches beginnings, so the
//! address of `acme/web-x` leads to `web.git-x` where `acme/web` is a remote.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::decision::{Code, Outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Gate;
use super::git::{Git, run};
use super::layout::Layout;
use super::mirror::Mirror;
use super::setup::LARGEST_PACK;
use super::tools::Tool;
use crate::log;

/// Connections at once; more are turned away.
const CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long until a request that came in part is looked at again.
const LOOK: Duration = Duration::from_millis(10);
/// How long, and for how many bytes, a client may go on after it was answered.
const LINGER: Duration = Duration::from_secs(10);
const LONGEST_REST: u64 = LARGEST_PACK;
/// No request is longer: git's own limit on a packet is 65520.
const LONGEST_REQUEST: usize = 4 << 10;

/// How git daemon is started for a connection.
#[derive(Debug)]
pub(super) struct Daemon {
    git: Git,
    program: String,
    words: Vec<String>,
}

impl Daemon {
    pub(super) fn new(layout: &Layout, git: &Git) -> io::Result<Self> {
        // Not through `git`, which stays and would be what is ended in its place.
        let programs = run(git.environment("git").arg("--exec-path"), Vec::new(), 4096)?.out;
        let programs = String::from_utf8_lossy(&programs);
        let words = vec![
            "--inetd".into(),
            format!("--base-path={}", layout.mirrors.display()),
            "--strict-paths".into(),
            "--export-all".into(),
            "--informative-errors".into(),
            "--enable=receive-pack".into(),
            "--forbid-override=receive-pack".into(),
            "--disable=upload-archive".into(),
            "--forbid-override=upload-archive".into(),
            format!("--access-hook={}", layout.tool(Tool::Access).display()),
            "--init-timeout=30".into(),
            "--timeout=3600".into(),
            "--log-destination=none".into(),
            "--".into(),
        ];
        Ok(Self { git: git.clone(), program: format!("{}/git-daemon", programs.trim_end()), words })
    }

    /// With strict paths this mirror is served, and nothing beside or below it.
    fn command(&self, mirror: &Mirror) -> Command {
        let mut command = self.git.environment(&self.program);
        command.args(&self.words).arg(&mirror.folder);
        command
    }
}

/// Serves whoever connects.
pub(super) async fn serve(gate: Arc<Gate>, daemon: Arc<Daemon>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn("a connection was not taken", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (gate, daemon) = (Arc::clone(&gate), Arc::clone(&daemon));
        tokio::spawn(async move {
            if let Err(error) = connection(&gate, &daemon, stream).await {
                log::warn("a connection was not served", &[("error", &error)]);
            }
            drop(place);
        });
    }
}

async fn connection(gate: &Gate, daemon: &Daemon, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Ok(asked) = timeout(PATIENCE, request(&stream)).await else { return Ok(()) };
    let Some(asked) = asked? else { return Ok(()) };
    let Some(mirror) = gate.asked_for(&asked) else {
        let words = refusal(gate, &asked);
        let packet = format!("{:04x}ERR {words}", words.len() + 8);
        stream.write_all(packet.as_bytes()).await?;
        return let_go(stream).await;
    };
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let (input, output) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream.try_clone()?));
    let mut command = daemon.command(mirror);
    command.stdin(input).stdout(output);
    // With it go this process' own ends of both.
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    child.wait().await?;
    stream.set_nonblocking(true)?;
    let_go(TcpStream::from_std(stream)?).await
}

/// Ends a connection so that what was said last arrives. A socket that is closed with bytes unread
/// is reset, and a reset discards what the client has not read: the reason why receive-pack gave up
/// in the middle of a pack, for one.
async fn let_go(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(LONGEST_REST);
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}

/// The folder that is asked for, read without taking it from git daemon: the first packet is
/// `git-upload-pack /web.git`, NUL, and what else is said (gitprotocol-pack(5)). Empty where it is
/// something else, none where the client left: whoever only looks whether the gate is there.
async fn request(stream: &TcpStream) -> io::Result<Option<String>> {
    let mut head = vec![0; LONGEST_REQUEST];
    loop {
        let n = stream.peek(&mut head).await?;
        if n == 0 {
            return Ok(None);
        }
        match packet(&head[..n]) {
            Packet::Part if n < head.len() => sleep(LOOK).await,
            Packet::Part | Packet::Other => return Ok(Some(String::new())),
            Packet::Folder(folder) => return Ok(Some(folder)),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Packet {
    Part,
    Other,
    Folder(String),
}

fn packet(bytes: &[u8]) -> Packet {
    let Some(length) = bytes.get(..4) else { return Packet::Part };
    // A sign is no digit, whatever the standard library takes.
    let digits = length.iter().all(u8::is_ascii_hexdigit).then_some(length);
    let length = digits
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|text| usize::from_str_radix(text, 16).ok());
    let Some(length) = length.filter(|length| (5..=LONGEST_REQUEST).contains(length)) else {
        return Packet::Other;
    };
    let Some(text) = bytes.get(4..length) else { return Packet::Part };
    let text = text.split(|&b| b == 0 || b == b'\n').next().unwrap_or_default();
    match std::str::from_utf8(text).ok().and_then(|text| text.split_once(' ')) {
        Some((_, folder)) => Packet::Folder(folder.to_owned()),
        None => Packet::Other,
    }
}

fn refusal(gate: &Gate, asked: &str) -> String {
    let all = gate.mirrors.values().map(|m| format!("{} ({})", m.name, m.remote.upstream.url()));
    let all = all.collect::<Vec<_>>().join(", ");
    let Some((mirror, rest)) = gate.begins_like(asked) else {
        return format!("the git gate has no such repository. This bottle's git remotes: {all}");
    };
    let path = &mirror.remote.upstream.path;
    let path = format!("{}{rest}", path.strip_suffix(".git").unwrap_or(path));
    let reason = format!("{} is not one of this bottle's git remotes", path.escape_debug());
    gate.record(mirror, "fetch", Outcome::Refuse, Code::NoRoute, &reason, None);
    format!("{reason}: {all}")
}

impl Gate {
    fn asked_for(&self, folder: &str) -> Option<&Arc<Mirror>> {
        let name = folder.strip_prefix('/')?.strip_suffix(".git")?;
        self.mirrors.values().find(|mirror| mirror.name.as_str() == name)
    }

    /// The remote whose address another one begins like, and what follows there.
    fn begins_like<'a>(&self, folder: &'a str) -> Option<(&Arc<Mirror>, &'a str)> {
        let folder = folder.strip_prefix('/')?;
        let begins = self.mirrors.values().filter_map(|mirror| {
            let rest = folder.strip_prefix(mirror.name.as_str())?.strip_prefix(".git")?;
            Some((mirror, rest))
        });
        begins.filter(|(_, rest)| !rest.starts_with('/')).max_by_key(|(m, _)| m.name.as_str().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_is_read_in_any_piece() {
        let whole = b"0024git-upload-pack /web.git\0host=a\0more";
        assert_eq!(packet(&whole[..36]), Packet::Folder("/web.git".into()));
        for end in 0..36 {
            assert_eq!(packet(&whole[..end]), Packet::Part, "{end}");
        }
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"0000", b"ffff", b"+028git-x /y\0", b"0008abcd"]
        {
            assert_eq!(packet(other), Packet::Other, "{other:?}");
        }
    }
}
