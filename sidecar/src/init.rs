//! The init of the agent's container: waits for what the agent needs, runs it on the container's
//! terminal, and ends as it ends.
//!
//! It needs nothing in the image: no shell, no libc, no `/bin`. While the agent runs it
//!
//! - passes signals on: SIGTERM, SIGINT, SIGQUIT and SIGWINCH to the agent's process group (what a
//!   terminal does), SIGHUP, SIGUSR1 and SIGUSR2 to the agent alone (by default they end whoever
//!   has no handler);
//! - reaps every orphan;
//! - wakes the agent when it is stopped, since nobody here could say `fg`;
//! - enforces `time_seconds` and `idle_seconds`: SIGTERM, ten seconds later SIGKILL, exit 124.
//!
//! Last it writes down how it ended, `out/ended.json`, which an exit code alone does not tell.
//!
//! Idleness is measured without standing between the agent and its terminal: the bytes that the
//! processes below the init wrote (`wchar` in `/proc/<pid>/io`, see proc_pid_io(5)) are compared
//! every few seconds, and any difference is activity. That counts files and sockets as output, too,
//! so it errs on the side of a working agent. Where the kernel does not tell, the limit is not
//! enforced and the log says so once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_planner::ending::{ENDED, Ended, Reason};
use bottle_planner::sidecar::InitSettings;
use bottle_planner::words::{EnvName, Role};
use futures_util::future::{join_all, try_join};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::net::TcpStream;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::receive::Inbox;
use crate::secret::{Delivery, Refused, refuse_unknown};
use crate::{Places, exit, log, pid1, settings};

/// How long the sidecars have to answer.
const SIDECARS: Duration = Duration::from_secs(60);
/// How long the delivery may take: a person may be typing.
const DELIVERY: Duration = Duration::from_secs(10 * 60);
/// Between two attempts to reach a sidecar.
const POLL: Duration = Duration::from_millis(20);
/// Folders between a provider's transcripts and their own folder: year, month and day.
const DEPTH: u32 = 3;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// Why the agent was not run, or cannot be watched.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    #[error("{file}, line {line}: expected NAME=VALUE")]
    EnvLine { file: String, line: usize },
    #[error("the workdir {0} is not a folder in this container")]
    Workdir(String),
    #[error("{0} cannot be zero")]
    Zero(&'static str),
    #[error("the argv of the agent is empty")]
    EmptyArgv,
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("the socket for secrets cannot be created: {0}")]
    Socket(io::Error),
    #[error("no answer within {wait} s from {silent}", wait = SIDECARS.as_secs())]
    Sidecars { silent: String },
    #[error("not delivered within {wait} s: {missing}", wait = DELIVERY.as_secs())]
    Undelivered { missing: String },
    #[error("the agent's program {program} cannot be started: {source}")]
    Spawn { program: String, source: io::Error },
    #[error("ended by signal {0} before the agent ran")]
    Ended(i32),
}

impl InitError {
    fn code(&self) -> u8 {
        match self {
            Self::Settings(_)
            | Self::EnvLine { .. }
            | Self::Workdir(_)
            | Self::Zero(_)
            | Self::EmptyArgv => exit::CONFIG,
            Self::Signals(_) | Self::Sidecars { .. } => exit::UNAVAILABLE,
            Self::Socket(_) => exit::CANNOT_CREATE,
            Self::Undelivered { .. } => exit::TEMPORARY,
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                exit::NOT_FOUND
            }
            Self::Spawn { .. } => exit::NOT_EXECUTABLE,
            Self::Ended(signal) => signal_code(*signal),
        }
    }
}

/// Runs the agent; the answer is its exit code, or why there was none.
pub(crate) async fn run(places: &Places) -> u8 {
    // What another run left must not be taken for this one's.
    let _ = std::fs::remove_file(places.output.join(ENDED));
    let ended = match run_agent(places).await {
        Ok(ended) => ended,
        Err(error) => {
            log::error("the agent was not run", &[("error", &error)]);
            let reason =
                if matches!(error, InitError::Ended(_)) { Reason::Told } else { Reason::NotRun };
            Ended { reason, code: error.code(), message: error.to_string() }
        }
    };
    let told = write_down(&places.output, &ended);
    if let Err(error) = told {
        log::warn("how the agent ended is not written down", &[("error", &error)]);
    }
    ended.code
}

/// Puts down how it ended, whole or not at all, for `bottle list`. The agent may write in the same
/// folder, as the same user: nothing of its making is followed.
fn write_down(folder: &Path, ended: &Ended) -> io::Result<()> {
    let temporary = folder.join(".ended.json.tmp");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::create_new(&temporary)?;
    file.write_all(serde_json::to_string(ended)?.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, folder.join(ENDED))
}

async fn run_agent(places: &Places) -> Result<Ended, InitError> {
    pid1::hide_memory();
    become_reaper();
    let mut signals = Signals::new().map_err(InitError::Signals)?;
    let settings: InitSettings = settings::load(&places.input.join("init.json"))?.value;
    check(&settings)?;
    let literals = read_env(&places.input.join("agent.env"))?;

    let mailbox = Arc::new(Mailbox::new(&settings));
    let inbox = Inbox::bind(&places.socket()).map_err(InitError::Socket)?;
    tokio::spawn(inbox.serve({
        let mailbox = Arc::clone(&mailbox);
        move |delivery| mailbox.take(delivery)
    }));

    {
        let ready = try_join(sidecars(&settings.wait_for), delivered(&mailbox));
        tokio::pin!(ready);
        loop {
            tokio::select! {
                outcome = &mut ready => break outcome.map(|_| ())?,
                event = signals.next() => match event {
                    Event::Child => drop(reap(None)),
                    Event::Forward(signal) if ends(signal) => {
                        return Err(InitError::Ended(signal.as_raw()));
                    }
                    Event::Forward(_) => {}
                },
            }
        }
    }

    let argv = match &settings.first {
        Some(first) if !holds_a_file(Path::new(first.transcript.as_str()), DEPTH) => &first.argv,
        _ => &settings.argv,
    };
    let agent = spawn(argv, &settings, literals, mailbox.close())?;
    Ok(watch(agent, &settings, signals).await)
}

/// As pid 1 the kernel gives every orphan to this process; elsewhere it has to be asked.
fn become_reaper() {
    let me = rustix::process::getpid();
    if !me.is_init()
        && let Err(error) = rustix::process::set_child_subreaper(Some(me))
    {
        log::warn("orphans are not reaped", &[("error", &error)]);
    }
}

fn check(settings: &InitSettings) -> Result<(), InitError> {
    if settings.argv.is_empty() || settings.first.as_ref().is_some_and(|f| f.argv.is_empty()) {
        return Err(InitError::EmptyArgv);
    }
    for (name, seconds) in
        [("time_seconds", settings.time_seconds), ("idle_seconds", settings.idle_seconds)]
    {
        if seconds == 0 {
            return Err(InitError::Zero(name));
        }
    }
    if Path::new(settings.workdir.as_str()).is_dir() {
        Ok(())
    } else {
        Err(InitError::Workdir(settings.workdir.to_string()))
    }
}

/// Reads `NAME=VALUE` lines; a file that is not there holds none. Errors do not quote the line.
fn read_env(path: &Path) -> Result<Vec<(EnvName, String)>, InitError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = settings::read(path)?;
    text.split(|&b| b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            std::str::from_utf8(line)
                .ok()
                .filter(|line| !line.contains('\0'))
                .and_then(|line| line.split_once('='))
                .and_then(|(name, value)| Some((EnvName::new(name).ok()?, value.to_owned())))
                .ok_or_else(|| InitError::EnvLine {
                    file: path.display().to_string(),
                    line: index + 1,
                })
        })
        .collect()
}

async fn sidecars(wait_for: &BTreeMap<Role, (Ipv4Addr, u16)>) -> Result<(), InitError> {
    let missing = Mutex::new(wait_for.clone());
    let lock = || missing.lock().unwrap_or_else(PoisonError::into_inner);
    let all = join_all(wait_for.iter().map(async |(role, address)| {
        let address = SocketAddr::from(*address);
        while !matches!(timeout(GRACE, TcpStream::connect(address)).await, Ok(Ok(_))) {
            sleep(POLL).await;
        }
        lock().remove(role);
    }));
    if timeout(SIDECARS, all).await.is_ok() {
        return Ok(());
    }
    let silent: Vec<String> =
        lock().iter().map(|(role, (ip, port))| format!("{role} ({ip}:{port})")).collect();
    Err(InitError::Sidecars { silent: silent.join(", ") })
}

async fn delivered(mailbox: &Mailbox) -> Result<(), InitError> {
    let all = async {
        while !mailbox.missing().is_empty() {
            mailbox.changed.notified().await;
        }
    };
    let late = |_| InitError::Undelivered { missing: mailbox.missing().join(", ") };
    timeout(DELIVERY, all).await.map_err(late)
}

/// The secrets that came in until the agent was started.
struct Mailbox {
    expects: Vec<String>,
    /// `None` once the agent runs: its environment cannot be changed any more.
    held: Mutex<Option<Delivery>>,
    changed: Notify,
}

impl Mailbox {
    fn new(settings: &InitSettings) -> Self {
        Self {
            expects: settings.expects.iter().map(ToString::to_string).collect(),
            held: Mutex::new(Some(Delivery::new())),
            changed: Notify::new(),
        }
    }

    fn take(&self, delivery: Delivery) -> Result<(), Refused> {
        refuse_unknown(&delivery, |key| self.expects.iter().any(|name| name == key))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = held.as_mut() else {
            let names: Vec<&str> = delivery.keys().map(String::as_str).collect();
            return Err(Refused(format!(
                "the agent already runs and keeps the {} it was started with",
                names.join(", ")
            )));
        };
        held.extend(delivery);
        self.changed.notify_one();
        Ok(())
    }

    fn missing(&self) -> Vec<&str> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |name: &str| held.as_ref().is_none_or(|held| held.contains_key(name));
        self.expects.iter().map(String::as_str).filter(|name| !has(name)).collect()
    }

    fn close(&self) -> Delivery {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

/// Starts the agent in a process group of its own and gives that group the terminal.
fn spawn(
    argv: &[String],
    settings: &InitSettings,
    literals: Vec<(EnvName, String)>,
    secrets: Delivery,
) -> Result<Pid, InitError> {
    let program = OsString::from(&argv[0]);
    let mut command = Command::new(&program);
    command
        .args(&argv[1..])
        .envs(literals.iter().map(|(name, value)| (name.as_str(), value)))
        .envs(secrets.iter().map(|(name, value)| (name, value.expose())))
        .env("HOME", settings.home.as_str())
        .current_dir(settings.workdir.as_str())
        .process_group(0);
    let failed = |source| InitError::Spawn { program: argv[0].clone(), source };
    let child = command.spawn().map_err(failed)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    let stdin = io::stdin();
    if stdin.is_terminal() {
        match rustix::termios::tcsetpgrp(&stdin, pid) {
            // The agent may have touched the terminal a moment too early and been stopped for it.
            Ok(()) => send(Target::Group(pid), Signal::CONT),
            Err(error) => log::warn("the agent has no job control", &[("error", &error)]),
        }
    }
    Ok(pid)
}

/// Whether a file lies in a folder or below it, as deep as providers put theirs. Links are neither
/// files nor folders here.
fn holds_a_file(folder: &Path, depth: u32) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => depth > 0 && holds_a_file(&entry.path(), depth - 1),
        Ok(kind) => kind.is_file(),
        Err(_) => false,
    })
}

/// Stays with the agent until it is gone; the answer is the exit code.
async fn watch(agent: Pid, settings: &InitSettings, mut signals: Signals) -> Ended {
    let time_up = sleep(Duration::from_secs(settings.time_seconds));
    tokio::pin!(time_up);
    let mut idle = Idle::new(Duration::from_secs(settings.idle_seconds));
    let (mut limit, mut told) = (None, false);
    let mut kill_at: Option<Instant> = None;
    // The agent may have ended before anyone listened.
    let mut ended = reap(Some(agent));
    while ended.is_none() {
        let over = tokio::select! {
            event = signals.next() => {
                match event {
                    Event::Child => ended = reap(Some(agent)),
                    Event::Forward(signal) => {
                        told |= ends(signal);
                        send(target(signal, agent), signal);
                    }
                }
                None
            }
            () = &mut time_up, if limit.is_none() => {
                let text = format!("time limit of {} s reached", settings.time_seconds);
                Some((Reason::TimeLimit, text))
            }
            () = idle.reached(), if limit.is_none() => {
                Some((Reason::IdleLimit, format!("no output for {} s", settings.idle_seconds)))
            }
            () = until(kill_at), if kill_at.is_some() => {
                kill_at = None;
                send(Target::Group(agent), Signal::KILL);
                None
            }
        };
        if let Some((reason, text)) = over {
            log::error("the agent is stopped", &[("reason", &text)]);
            send(Target::Group(agent), Signal::TERM);
            limit = Some(reason);
            kill_at = Some(Instant::now() + GRACE);
        }
    }
    let (reason, code) = match (limit, ended) {
        (Some(reason), _) => (reason, exit::LIMIT),
        // The loop ends with one of the two.
        (None, None) => (Reason::TimeLimit, exit::LIMIT),
        (None, Some((code, _))) if told => (Reason::Told, code),
        (None, Some((code, reason))) => (reason, code),
    };
    Ended { reason, code, message: String::new() }
}

async fn until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant).await;
    }
}

/// Reaps all that ended; the exit code, and whose doing it was, when the agent is among them.
fn reap(agent: Option<Pid>) -> Option<(u8, Reason)> {
    let mut ended = None;
    while let Ok(Some((pid, status))) =
        rustix::process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED)
    {
        if Some(pid) != agent {
            continue;
        }
        if status.stopped() {
            send(Target::Group(pid), Signal::CONT);
        } else {
            let by_signal = status.terminating_signal().is_some();
            let reason = if by_signal { Reason::Signalled } else { Reason::Exited };
            ended = Some((code_of(status), reason));
        }
    }
    ended
}

fn code_of(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        (None, Some(signal)) => signal_code(signal),
        (None, None) => u8::MAX,
    }
}

fn signal_code(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| exit::SIGNAL.saturating_add(signal))
}

enum Target {
    One(Pid),
    Group(Pid),
}

fn target(signal: Signal, agent: Pid) -> Target {
    if [Signal::HUP, Signal::USR1, Signal::USR2].contains(&signal) {
        Target::One(agent)
    } else {
        Target::Group(agent)
    }
}

fn ends(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP].contains(&signal)
}

fn send(target: Target, signal: Signal) {
    let sent = match target {
        Target::One(pid) => rustix::process::kill_process(pid, signal),
        Target::Group(pid) => rustix::process::kill_process_group(pid, signal),
    };
    match sent {
        // Gone already; the next SIGCHLD tells.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            log::warn(
                "a signal was not passed on",
                &[("signal", &signal.as_raw()), ("error", &error)],
            );
        }
    }
}

enum Event {
    Child,
    Forward(Signal),
}

struct Signals {
    child: unix::Signal,
    forwarded: Vec<(unix::Signal, Signal)>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let forwarded = [
            Signal::TERM,
            Signal::INT,
            Signal::HUP,
            Signal::QUIT,
            Signal::USR1,
            Signal::USR2,
            Signal::WINCH,
        ];
        Ok(Self {
            child: unix::signal(SignalKind::child())?,
            forwarded: forwarded
                .into_iter()
                .map(|s| Ok((unix::signal(SignalKind::from_raw(s.as_raw()))?, s)))
                .collect::<io::Result<_>>()?,
        })
    }

    async fn next(&mut self) -> Event {
        std::future::poll_fn(|context| {
            for (stream, signal) in &mut self.forwarded {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Event::Forward(*signal));
                }
            }
            self.child.poll_recv(context).map(|_| Event::Child)
        })
        .await
    }
}

/// Tells when nothing was written for a while.
struct Idle {
    limit: Duration,
    since: Instant,
    written: Option<BTreeMap<u32, u64>>,
    blind: bool,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), written: None, blind: false }
    }

    async fn reached(&mut self) {
        let pause = (self.limit / 4).clamp(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            sleep(pause).await;
            let written = written_by_descendants();
            if written.is_empty() && !self.blind {
                self.blind = true;
                log::warn("idleness cannot be measured here; the idle limit is not enforced", &[]);
            }
            if written.is_empty() || self.written.as_ref() != Some(&written) {
                self.written = Some(written);
                self.since = Instant::now();
            } else if self.since.elapsed() >= self.limit {
                return;
            }
        }
    }
}

/// The bytes written so far by every process below this one that lets itself be asked.
///
/// What exec starts in the container is nobody's child here and does not count.
fn written_by_descendants() -> BTreeMap<u32, u64> {
    let parents: BTreeMap<u32, u32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let me = std::process::id();
    let below = |mut pid: u32| {
        // A depth no process tree has; the table is not read in one instant and could hold a loop.
        for _ in 0..4096 {
            match parents.get(&pid) {
                Some(&parent) if parent == me => return true,
                Some(&parent) => pid = parent,
                None => return false,
            }
        }
        false
    };
    parents
        .keys()
        .filter(|&&pid| below(pid))
        .filter_map(|&pid| Some((pid, written_by(pid)?)))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let after = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(stat.get(after + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn written_by(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_lines_keep_their_value_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.env");
        assert!(read_env(&file).unwrap().is_empty());
        std::fs::write(&file, "A=1\nB= x=\"y\" # z\n\nEMPTY=\n").unwrap();
        let env: Vec<(String, String)> =
            read_env(&file).unwrap().into_iter().map(|(n, v)| (n.to_string(), v)).collect();
        let expected = [("A", "1"), ("B", " x=\"y\" # z"), ("EMPTY", "")];
        assert_eq!(env, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_bad_env_line_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.env");
        std::fs::write(&file, "A=1\nhunter2\n").unwrap();
        let error = read_env(&file).unwrap_err();
        assert_eq!(error.code(), exit::CONFIG);
        assert!(error.to_string().ends_with("line 2: expected NAME=VALUE"), "{error}");
    }

    #[test]
    fn something_to_resume_is_a_file_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        assert!(!holds_a_file(&at("none"), DEPTH));
        std::fs::create_dir_all(at("2026/01/31/deep/deeper")).unwrap();
        std::os::unix::fs::symlink("/etc", at("link")).unwrap();
        std::fs::write(at("2026/01/31/deep/deeper/x"), "").unwrap();
        assert!(!holds_a_file(folder.path(), DEPTH), "a link, and a file out of reach");
        std::fs::write(at("2026/01/31/said.jsonl"), "").unwrap();
        assert!(holds_a_file(folder.path(), DEPTH));
    }

    #[test]
    fn codes_of_signals_are_those_of_a_shell() {
        assert_eq!(signal_code(15), 143);
        assert_eq!(signal_code(9), 137);
    }

    #[test]
    fn a_process_that_writes_is_seen() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "echo x >/dev/null; read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while written_by_descendants().get(&child.id()).is_none_or(|&n| n < 2) {
            std::thread::yield_now();
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
