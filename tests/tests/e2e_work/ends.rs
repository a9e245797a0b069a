//! Ends of every kind: transcript, patch, decisions and receipt are there afterwards, and the
//! session goes on from where it was.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bottle_tests::host::{Host, Ran, docker, ran, unique, until};
use bottle_tests::terminal::OnTerminal;

use crate::{host, start};

/// Work, a transcript, a refused request; then whatever the test is about.
fn works(then: &str) -> String {
    format!(
        "mkdir -p ~/log; echo said > ~/log/one; echo work > made; \
         exec 3<>/dev/tcp/egress/9099 && printf 'CONNECT nowhere.example:443 HTTP/1.1\\r\\nHost: nowhere.example\\r\\n\\r\\n' >&3 && head -c 12 <&3; \
         echo did > done; {then}"
    )
}

fn begun(session: &str) {
    until("the agent has worked", || {
        docker(&["exec", &format!("bottle-{session}"), "test", "-e", "/workspace/done"]).ok()
    });
}

/// Everything is there: the session goes on with the same volumes, and its end keeps all of it.
fn nothing_was_lost(host: &Host, session: &str) {
    let resume = ["resume", session, "--manifest", "bottle.yaml", "--yes", "--detach"];
    host.run(&resume).code(0);
    // What it lists is what it had before.
    until("it goes on", || host.run(&["logs", session]).out.contains("made"));
    kept_at_the_end(host, session);
}

/// The end of the session keeps patch, transcript, decisions and receipt.
fn kept_at_the_end(host: &Host, session: &str) {
    host.run(&["destroy", session, "--yes"]).code(0);
    let record = format!("root/history/{session}");
    assert_eq!(host.read(&format!("{record}/saved/transcript/one")), "said\n");
    assert!(host.read(&format!("{record}/saved/work.patch")).contains("+++ b/made\n"));
    let decisions = host.read(&format!("{record}/egress/out/decisions.jsonl"));
    assert!(decisions.contains("nowhere.example"), "{decisions}");
    assert!(host.read(&format!("{record}/receipt.json")).contains("save:work"));
    assert_eq!(host.leavings(), Vec::<String>::new());
}

fn with_project(script: &str, more: &str) -> Host {
    let host = host(&works(script), more);
    host.write("work/project/file", "one\n");
    host
}

#[test]
fn an_agent_that_ends_well_or_badly() {
    for (then, code) in [("exit 0", 0), ("exit 9", 9)] {
        let host = with_project(then, "");
        let session = unique("exit");
        host.run(&start(&session, "copy", &[])).code(code).says("is kept");
        nothing_was_lost(&host, &session);
    }
}

#[test]
fn an_agent_that_a_signal_ends() {
    let host = with_project("kill -SEGV $$", "");
    let session = unique("signal");
    host.run(&start(&session, "copy", &[])).code(139).says("is kept");
    nothing_was_lost(&host, &session);
}

#[test]
fn a_limit_of_time_and_one_of_idleness() {
    for limit in ["time: 3s", "idle: 2s"] {
        let host = with_project("sleep 86400", &format!("    limits: {{{limit}}}"));
        let session = unique("limit");
        host.run(&start(&session, "copy", &[])).code(124).says("is kept");
        // It would end the same way again; what there is is kept.
        kept_at_the_end(&host, &session);
    }
}

#[test]
fn a_terminal_that_is_closed() {
    let host = with_project("sleep 86400", "");
    let session = unique("closed");
    let words: Vec<String> = start(&session, "copy", &[]).into_iter().map(String::from).collect();
    let terminal = OnTerminal::run(&host, &words);
    begun(&session);
    terminal.closes();
    // The agent goes on without the person.
    docker(&["exec", &format!("bottle-{session}"), "test", "-e", "/workspace/made"]).code(0);
    host.run(&["stop", &session, "--grace", "1"]).code(0);
    nothing_was_lost(&host, &session);
}

#[test]
fn a_killed_command_line() {
    for signal in ["KILL", "HUP", "TERM"] {
        let host = with_project("sleep 86400", "");
        let session = unique("cli");
        let mut command = host.command(&start(&session, "copy", &[]));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        begun(&session);
        let kill = ["-s", signal, &child.id().to_string()].map(String::from);
        ran(Command::new("kill").args(kill), b"").code(0);
        child.wait().expect("it ended");
        docker(&["exec", &format!("bottle-{session}"), "test", "-e", "/workspace/made"]).code(0);
        nothing_was_lost_while_it_runs(&host, &session);
    }
}

/// An agent that goes on is stopped by the end itself.
fn nothing_was_lost_while_it_runs(host: &Host, session: &str) {
    assert!(host.run(&["pull", session, "--json"]).code(0).out.contains("made"));
    kept_at_the_end(host, session);
}

#[test]
fn an_agents_container_that_is_killed() {
    let host = with_project("sleep 86400", "");
    let session = unique("killed");
    host.run(&start(&session, "copy", &["--detach"])).code(0);
    begun(&session);
    docker(&["kill", &format!("bottle-{session}")]).code(0);
    nothing_was_lost(&host, &session);
}

/// An engine of the test's own, which it may stop.
struct Engine {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Engine {
    fn new() -> Self {
        // Sockets have short names.
        let folder =
            tempfile::Builder::new().prefix("bd").tempdir_in("/var/tmp").expect("a folder");
        let mut engine = Self { folder, daemon: None };
        engine.start();
        engine
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self) -> String {
        format!("unix://{}", self.at("s").display())
    }

    fn start(&mut self) {
        let log =
            fs::File::options().create(true).append(true).open(self.at("log")).expect("a log");
        // In a network of its own: two engines in one would undo each other's rules.
        let mut command = Command::new("setsid");
        command.args([
            "unshare",
            "--net",
            "sh",
            "-c",
            "ip link set lo up; exec dockerd \"$@\"",
            "sh",
        ]);
        command.args(["--bridge", "none", "--storage-driver", "overlay2", "-H"]);
        command.arg(self.address());
        for (flag, name) in [("--data-root", "d"), ("--exec-root", "e"), ("--pidfile", "p")] {
            command.arg(flag).arg(self.at(name));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("cloned")).stderr(log);
        self.daemon = Some(command.spawn().expect("it starts"));
        until("the engine answers", || self.docker(&["version"], b"").ok());
    }

    /// As a machine that goes down: the engine, and everything that it ran.
    fn dies(&mut self) {
        let pids = self.docker(&["ps", "-q", "--no-trunc"], b"").out;
        let inspect: Vec<&str> =
            ["inspect", "--format", "{{.State.Pid}}"].into_iter().chain(pids.lines()).collect();
        let pids = self.docker(&inspect, b"").code(0).out;
        for pid in pids.lines().map(str::to_owned).chain(self.processes()) {
            ran(Command::new("kill").args(["-KILL", pid.trim()]), b"");
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().expect("it ended");
        }
        // What a machine that comes up again does not have: the folder of what ran.
        self.unmount();
        fs::remove_dir_all(self.at("e")).expect("removed");
        let _ = fs::remove_file(self.at("p"));
    }

    /// The processes of the engine: its folder is in their arguments.
    fn processes(&self) -> Vec<String> {
        let own = self.folder.path().display().to_string();
        let is_own = |pid: &String| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&own)
        };
        let all = fs::read_dir("/proc").expect("readable").flatten();
        let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
        let me = std::process::id().to_string();
        pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && *pid != me)
            .filter(is_own)
            .collect()
    }

    /// What a killed engine left mounted would keep its folder.
    fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = self.folder.path().display().to_string();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| point.starts_with(&own)) {
            ran(Command::new("umount").args(["-l", point]), b"");
        }
    }

    fn docker(&self, words: &[&str], input: &[u8]) -> Ran {
        ran(Command::new("docker").arg("-H").arg(self.address()).args(words), input)
    }
}

#[expect(clippy::print_stdout, reason = "what a failed test prints is shown with its failure")]
impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.at("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!(
                "the engine's log ends:\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        if self.daemon.is_some() {
            let all = self.docker(&["ps", "-aq"], b"").out;
            for id in all.lines() {
                self.docker(&["rm", "-f", "-v", id], b"");
            }
            if let Ok(pid) = fs::read_to_string(self.at("p")) {
                ran(Command::new("kill").arg(pid.trim()), b"");
            }
            if let Some(mut daemon) = self.daemon.take() {
                let _ = daemon.wait();
            }
        }
        for pid in self.processes() {
            ran(Command::new("kill").args(["-KILL", &pid]), b"");
        }
        self.unmount();
    }
}

#[test]
fn an_engine_that_dies_with_everything_it_ran() {
    let mut engine = Engine::new();
    let image = docker(
        &["save", "debian:bookworm-slim", "-o"]
            .map(String::from)
            .into_iter()
            .chain([engine.at("image").display().to_string()])
            .collect::<Vec<_>>(),
    );
    image.code(0);
    engine.docker(&["load", "-i", engine.at("image").to_str().expect("text")], b"").code(0);
    let host = with_project("sleep 86400", "").set("DOCKER_HOST", &engine.address());
    let session = unique("reboot");
    host.run(&start(&session, "copy", &["--detach"])).code(0);
    let agent = format!("bottle-{session}");
    until("the agent has worked", || {
        engine.docker(&["exec", &agent, "test", "-e", "/workspace/done"], b"").ok()
    });
    engine.dies();
    host.run(&["pull", &session, "--yes"]).code(1).says("does not answer");
    engine.start();
    // Stopped, as it is: what was done can be had at once.
    assert!(host.run(&["pull", &session, "--json"]).code(0).out.contains("made"));
    let resume = ["resume", &session, "--manifest", "bottle.yaml", "--yes", "--detach"];
    host.run(&resume).code(0);
    until("it goes on", || host.run(&["logs", &session]).out.contains("made"));
    host.run(&["destroy", &session, "--yes"]).code(0);
    let record = format!("root/history/{session}");
    assert_eq!(host.read(&format!("{record}/saved/transcript/one")), "said\n");
    assert!(host.read(&format!("{record}/saved/work.patch")).contains("+++ b/made\n"));
    assert!(host.read(&format!("{record}/egress/out/decisions.jsonl")).contains("nowhere.example"));
    assert!(host.has(&format!("{record}/receipt.json")));
    let left = engine.docker(&["ps", "-aq"], b"").code(0).out;
    assert_eq!(left, "");
}
