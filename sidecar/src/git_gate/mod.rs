//! The git gate: the only place that has keys for git upstreams, and what stands before them.
//!
//! A `git daemon` a connection serves a mirror of an upstream to the agent ([`front`]). It asks the gate before each request,
//! which refreshes that mirror; `receive-pack` asks it before any ref changes, and the gate looks at
//! what is new, scans it, and passes it on to upstream. Both ask through the `bottle` binary under
//! another name ([`tools`]). The gate reaches upstream through egress alone.
//!
//! ```text
//! agent ─ git daemon ─ access ──────► mirror ── refresh ──► egress ── upstream
//!              └ receive-pack ─ pre-receive ─► push ─ refs ─ objects ─ scan ─ forward ─┘
//! ```

mod ask;
mod connect;
mod exceptions;
mod forward;
mod front;
mod git;
mod kept;
mod keys;
mod layout;
mod mirror;
mod objects;
mod push;
mod refs;
mod scan;
mod setup;
mod tools;
mod views;
mod wide;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::decision::{Code, Outcome, Push, Via};
use bottle_planner::policy::GitTransport;
use bottle_planner::sidecar::{GIT_GATE_PORT, GateSettings};
use bottle_planner::words::{Digest, Name};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::decisions::{DecisionLog, Entry};
use crate::pid1::{self, Asked, Signals};
use crate::receive::Inbox;
use crate::settings::{Loaded, SettingsError, applied, load};
use crate::{Places, State, exit, log};

use ask::{Answer, Ask, send};
use exceptions::Exceptions;
use front::Daemon;
use git::Git;
use kept::Kept;
use keys::Keys;
use layout::Layout;
use mirror::Mirror;
use push::Verdict;

pub(crate) use tools::run_as_tool;

/// Pushes that are looked at at once: each takes the threads and the memory there are.
const PUSHES: usize = 2;
/// No question is longer: a thousand refs.
const LONGEST_QUESTION: u64 = 8 << 20;
/// How many seconds a push that upstream has may take to be seen in the mirror.
const SETTLING: i64 = 30;

/// Runs the gate until it is asked to end.
pub(crate) async fn run_gate(places: &Places) -> u8 {
    pid1::hide_memory();
    let settings = match read(&places.input) {
        Ok(settings) => settings,
        Err(error) => {
            let state = State { loaded: None, error: Some(error.to_string()) };
            // The log says the same; without a folder to write to that is all there is.
            let _ = state.write(&places.output);
            log::error("the git gate does not run", &[("error", &error)]);
            return exit::CONFIG;
        }
    };
    match serve(places, settings).await {
        Ok(()) => 0,
        Err(error) => {
            log::error("the git gate does not run", &[("error", &error)]);
            exit::UNAVAILABLE
        }
    }
}

fn read(input: &Path) -> Result<Loaded<GateSettings>, SettingsError> {
    let path = input.join("gate.json");
    let loaded = load::<GateSettings>(&path)?;
    if loaded.value.remotes.is_empty() {
        return Err(SettingsError::Value { path, reason: "no remote to serve".into() });
    }
    Ok(loaded)
}

async fn serve(places: &Places, first: Loaded<GateSettings>) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let layout = Layout::of(places);
    let settings = first.value;
    setup::write(&layout, &settings)?;
    let git = Git::new(&layout);
    let (mut mirrors, mut connections) = (BTreeMap::new(), BTreeMap::new());
    for (name, remote) in &settings.remotes {
        let kept = (remote.upstream.transport == GitTransport::Ssh)
            .then(|| Kept::new(&layout, &git, name, &remote.upstream));
        connections.extend(kept.clone().map(|kept| (name.clone(), kept)));
        let mirror = Mirror::open(&layout, &git, name, remote, kept)?;
        mirrors.insert(name.clone(), Arc::new(mirror));
    }
    let gate = Arc::new(Gate {
        mirrors,
        keys: Arc::new(Keys::new(&layout, &git, &settings, connections)),
        exceptions: Arc::new(Exceptions::of(places, settings.supervised)),
        decisions: Arc::new(DecisionLog::open(&places.output)?),
        plan: applied(&places.input),
        pushes: Semaphore::new(PUSHES),
    });
    let inbox = Inbox::bind(&places.socket())?;
    let keys = Arc::clone(&gate.keys);
    tokio::spawn(inbox.serve(move |delivery| keys.take(delivery)));
    tokio::spawn(Arc::clone(&gate.decisions).keep_written());
    tokio::spawn(answer_all(Arc::clone(&gate), bind(&layout.socket())?));

    let address = SocketAddr::from((settings.listen, GIT_GATE_PORT));
    let daemon = Arc::new(Daemon::new(&layout, &git)?);
    tokio::spawn(front::serve(Arc::clone(&gate), daemon, TcpListener::bind(address).await?));
    let mut state = State { loaded: Some(first.digest), error: None };
    state.write(&places.output)?;
    log::info("the git gate is ready", &[("address", &address)]);
    loop {
        match signals.next().await {
            Asked::End => {
                gate.decisions.flush();
                return Ok(());
            }
            // What it reads, it reads at its start: whatever changes is a new container.
            Asked::Reload => match read(&places.input) {
                Ok(loaded) if Some(&loaded.digest) == state.loaded.as_ref() => {}
                Ok(_) => state.error = Some("new settings take a new container".into()),
                Err(error) => state.error = Some(error.to_string()),
            },
        }
        if let Err(error) = state.write(&places.output) {
            log::error("the state is not up to date", &[("error", &error)]);
        }
    }
}

/// In place of one that an earlier run left; its folder is the gate's user's alone.
fn bind(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(socket),
    }
}

/// Everything a question is answered from.
struct Gate {
    mirrors: BTreeMap<Name, Arc<Mirror>>,
    keys: Arc<Keys>,
    exceptions: Arc<Exceptions>,
    decisions: Arc<DecisionLog>,
    plan: Option<Digest>,
    pushes: Semaphore,
}

async fn answer_all(gate: Arc<Gate>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    if let Err(error) = gate.answer(stream).await {
                        log::warn("a question was not answered", &[("error", &error)]);
                    }
                });
            }
            Err(error) => {
                log::warn("a question was not taken", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Gate {
    async fn answer(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut line = String::new();
        BufReader::new((&mut stream).take(LONGEST_QUESTION)).read_line(&mut line).await?;
        match serde_json::from_str(&line)? {
            Ask::Credential { remote } => {
                let credential = self.keys.credential(&remote);
                stream.write_all(credential.as_bytes()).await
            }
            Ask::Serve { service, mirror } => {
                let answer = match self.may_serve(&service, &mirror).await {
                    Ok(()) => Answer::Allow,
                    Err(reason) => Answer::Refuse { reason },
                };
                send(&mut stream, &answer).await
            }
            Ask::Push { mirror, quarantine, receive_pack, updates } => {
                let asked = push::Asked { quarantine, updates };
                self.push(&mut stream, &mirror, receive_pack, asked).await
            }
        }
    }

    fn mirror(&self, folder: &Path) -> Option<&Arc<Mirror>> {
        let folder = folder.canonicalize().ok()?;
        self.mirrors.values().find(|m| m.folder.canonicalize().is_ok_and(|own| own == folder))
    }

    /// Refreshes a mirror before it is served.
    async fn may_serve(&self, service: &str, folder: &Path) -> Result<(), String> {
        let pushes = match service {
            "upload-pack" => false,
            "receive-pack" => true,
            _ => return Err(format!("{service} is not served")),
        };
        let Some(mirror) = self.mirror(folder) else { return Err("no such remote".into()) };
        if pushes {
            // Compiling the rules takes a moment, which the refresh takes too.
            let keys = Arc::clone(&self.keys);
            spawn_blocking(move || drop(keys.detector()));
        }
        let (outcome, code, reason) = match self.keys.missing(&mirror.name) {
            Some(reason) => (Outcome::Refuse, Code::Credential, reason),
            None => match mirror.refresh().await {
                Ok(()) => (Outcome::Allow, Code::Granted, String::new()),
                Err(reason) => (Outcome::Failed, Code::Upstream, reason),
            },
        };
        if !pushes || outcome != Outcome::Allow {
            let method = if pushes { "push" } else { "fetch" };
            self.record(mirror, method, outcome, code, &reason, None);
        }
        if outcome == Outcome::Allow { Ok(()) } else { Err(reason) }
    }

    async fn push(
        &self,
        stream: &mut UnixStream,
        folder: &Path,
        receive_pack: i32,
        asked: push::Asked,
    ) -> io::Result<()> {
        let Some(mirror) = self.mirror(folder) else {
            return send(stream, &Answer::Refuse { reason: "no such remote".into() }).await;
        };
        if !asked.quarantine.as_deref().is_none_or(|at| is_quarantine(mirror, at)) {
            return send(stream, &Answer::Refuse { reason: "no such quarantine".into() }).await;
        }
        let process = Pid::from_raw(receive_pack);
        let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let looked = match self.keys.missing(&mirror.name) {
            Some(reason) => Err(Box::new(push::broke_off(mirror, &asked, &reason))),
            None => {
                let _one_of_few = self.pushes.acquire().await.map_err(io::Error::other)?;
                push::look(mirror, &self.keys, &self.exceptions, &asked, stream).await
            }
        };
        let push = match looked {
            Ok(push) => push,
            Err(verdict) => return self.tell(stream, mirror, &verdict).await,
        };
        let refs = mirror.lock().await;
        // Where nobody waits for the answer any more, nothing is passed on.
        let line = format!("bottle: passing it on to {}", mirror.name);
        send(stream, &Answer::Say { line }).await?;
        let verdict = push::pass_on(mirror, &self.exceptions, &asked, push).await;
        self.tell(stream, mirror, &verdict).await?;
        // The mirror's refs are receive-pack's to change now, and nobody else's.
        if let Some(process) = process.filter(|_| verdict.outcome.is_through()) {
            let _ = spawn_blocking(move || wait_for_end(&process)).await;
        }
        drop(refs);
        Ok(())
    }

    async fn tell(
        &self,
        stream: &mut UnixStream,
        mirror: &Mirror,
        verdict: &Verdict,
    ) -> io::Result<()> {
        let Verdict { outcome, code, reason, lines, push } = verdict;
        self.record(mirror, "push", *outcome, *code, reason, Some(push));
        let answer = if outcome.is_through() {
            for line in lines {
                send(stream, &Answer::Say { line: line.clone() }).await?;
            }
            Answer::Allow
        } else {
            Answer::Refuse { reason: lines.join("\n") }
        };
        send(stream, &answer).await
    }

    fn record(
        &self,
        mirror: &Mirror,
        method: &str,
        outcome: Outcome,
        code: Code,
        reason: &str,
        push: Option<&Push>,
    ) {
        let upstream = &mirror.remote.upstream;
        self.decisions.record(&Entry {
            plan: self.plan.as_ref(),
            client: "agent",
            via: Via::Gate,
            scheme: match upstream.transport {
                GitTransport::Ssh => "ssh",
                GitTransport::Https => "https",
            },
            method,
            host: upstream.host.as_str(),
            port: Some(upstream.port),
            path: Some(&upstream.path),
            outcome,
            code,
            rule: &format!("git {}", mirror.name),
            reason,
            push,
        });
    }
}

/// Quarantines lie below the mirror's own objects (git's `tmp-objdir.h`).
fn is_quarantine(mirror: &Mirror, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(folder).is_some_and(|at| at.parent() == real(&mirror.folder.join("objects")).as_deref())
}

/// Waits until a process has ended, within a bound.
fn wait_for_end(process: &OwnedFd) {
    let bound = Timespec { tv_sec: SETTLING, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&bound));
}
