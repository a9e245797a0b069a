//! A person's terminal while an agent has it: in tmux, over ssh, without one; and put back however
//! that ends.
//!
//! An engine is expected to answer, tmux and OpenSSH to be there (`scripts/host-setup` sees to it),
//! and `cargo build -p bottle` to have been run.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bottle_tests::host::{Host, bottle, docker, ran, unique, until};

/// Says its terminal's size with every line it reads, hears Ctrl-C, and ends with 9 when told to.
const AGENT: &str = "trap 'echo got-int' INT; echo ready; while :; do read line || continue; \
                     echo said-$line-$(stty size | tr ' ' x); [ $line = end ] && exit 9; done";

fn up() -> (Host, String) {
    let script = serde_json::to_string(AGENT).expect("text");
    let host = Host::with_manifest(&format!(
        "bottles:
  box:
    provider: {{command: [bash, -c, {script}]}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    ));
    let session = unique("term");
    let words = ["start", "dev", "--manifest", "bottle.yaml", "--yes", "--detach", "--name"];
    host.run(&[&words[..], &[&session]].concat()).code(0);
    until("the agent is ready", || host.run(&["logs", &session]).out.contains("ready"));
    (host, session)
}

/// A shell in a tmux of its own, on a terminal of 100 by 30.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn open(host: &Host, folder: &Path) -> Self {
        let tmux = Self { socket: folder.join("tmux").to_str().expect("UTF-8").to_owned() };
        let of_host = host.command(&[]);
        let mut command = tmux.command();
        command.args(["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"]);
        command.arg("bash --norc --noprofile").env_clear().env("TERM", "xterm").env("PS1", "> ");
        for (name, value) in of_host.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.current_dir(host.at("work"));
        ran(&mut command, b"").code(0);
        tmux
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket]);
        command
    }

    fn does(&self, words: &[&str]) -> String {
        ran(self.command().args(words), b"").code(0).out
    }

    fn types(&self, text: &str) {
        self.does(&["send-keys", "-l", text]);
        self.does(&["send-keys", "Enter"]);
    }

    fn presses(&self, keys: &[&str]) {
        self.does(&[&["send-keys"], keys].concat());
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        // Lines that were broken at the edge are one.
        until(text, || self.does(&["capture-pane", "-p", "-J", "-S", "-200"]).contains(text));
    }

    /// Sends a signal to what the shell runs.
    fn kill_child(&self, signal: &str) {
        let shell = self.does(&["display-message", "-p", "#{pane_pid}"]);
        let child = ran(Command::new("pgrep").args(["-P", shell.trim()]), b"").code(0).out;
        ran(Command::new("kill").args([&format!("-{signal}"), child.trim()]), b"").code(0);
    }

    /// Leaves nothing of what was shown before.
    fn clears(&self) {
        let mark = unique("clear");
        // In two parts, so that what was typed is not taken for the answer.
        self.types(&format!("clear; echo {mark}'='"));
        self.shows(&format!("{mark}="));
        self.does(&["clear-history"]);
    }

    /// The settings of the shell's terminal; a shell that answers has it back.
    fn settings(&self) -> String {
        let mark = unique("mark");
        // In two parts, so that what was typed is not taken for the answer.
        self.types(&format!("echo; echo {mark}'='$(stty -g)'='"));
        let before = format!("\n{mark}=");
        self.shows(&before);
        let screen = self.does(&["capture-pane", "-p", "-J", "-S", "-200"]);
        let after = screen.rsplit_once(&before).expect("shown").1;
        after.split('=').next().expect("a part").to_owned()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(screen) = self.command().args(["capture-pane", "-p", "-J"]).output()
        {
            let screen = String::from_utf8_lossy(&screen.stdout).into_owned();
            let _ = writeln!(std::io::stderr(), "on the screen:\n{}", screen.trim_end());
        }
        // Best effort: it may be gone.
        let _ = self.command().arg("kill-server").output();
    }
}

fn attach(session: &str) -> String {
    format!("{} attach {session}; echo code'='$?", bottle().display())
}

#[test]
fn in_tmux_size_and_keys_are_the_agents_and_the_terminal_comes_back() {
    let (host, session) = up();
    let folder = tempfile::tempdir().expect("a folder");
    let tmux = Tmux::open(&host, folder.path());
    let before = tmux.settings();
    tmux.types(&attach(&session));
    until("it is joined", || {
        tmux.types("one");
        tmux.does(&["capture-pane", "-p"]).contains("said-one-30x100")
    });
    tmux.does(&["resize-window", "-x", "80", "-y", "20"]);
    until("the new size is inside", || {
        tmux.types("two");
        tmux.does(&["capture-pane", "-p"]).contains("said-two-20x80")
    });
    tmux.presses(&["C-c"]);
    tmux.shows("got-int");
    tmux.presses(&["C-z"]);
    tmux.types("three");
    tmux.shows("said-three-20x80");
    tmux.presses(&["C-p", "C-q"]);
    tmux.shows("code=0");
    assert_eq!(tmux.settings(), before);

    // Asked to end by somebody else, it puts the terminal back itself: this shell is told to keep
    // its hands off, and what it finds is what it is left with.
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130), ("QUIT", 131)] {
        tmux.clears();
        tmux.types(&format!("{}; stty -g | sed 's/^/left=/'", attach(&session)));
        until("it is joined again", || {
            tmux.types(signal);
            tmux.does(&["capture-pane", "-p"]).contains(&format!("said-{signal}-"))
        });
        tmux.kill_child(signal);
        tmux.shows(&format!("code={code}"));
        tmux.shows(&format!("left={before}"));
    }

    // Killed outright nobody can put anything back but the shell, which does.
    tmux.clears();
    tmux.types(&attach(&session));
    until("it is joined again", || {
        tmux.types("four");
        tmux.does(&["capture-pane", "-p"]).contains("said-four-")
    });
    tmux.kill_child("KILL");
    tmux.shows("code=137");
    assert_eq!(tmux.settings(), before);
    tmux.types(&attach(&session));
    until("it went on", || {
        tmux.types("five");
        tmux.does(&["capture-pane", "-p"]).contains("said-five-")
    });
    tmux.types("end");
    tmux.shows("code=9");
    assert_eq!(tmux.settings(), before);
}

/// A way to the engine that can be cut.
struct Wire {
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Wire {
    fn lay(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let streams: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let kept = Arc::clone(&streams);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = UnixStream::connect("/var/run/docker.sock").expect("an engine");
                let pairs = [(&near, &far), (&far, &near)];
                for (from, to) in pairs {
                    let (mut from, mut to) =
                        (from.try_clone().expect("open"), to.try_clone().expect("open"));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                kept.lock().expect("whole").extend([near, far]);
            }
        });
        Self { streams }
    }

    fn cut(&self) {
        for stream in self.streams.lock().expect("whole").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn an_engine_that_goes_away_leaves_the_terminal_as_it_was() {
    let (host, session) = up();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("engine.sock");
    let wire = Wire::lay(&socket);
    let host = host.set("DOCKER_HOST", &format!("unix://{}", socket.display()));
    let tmux = Tmux::open(&host, folder.path());
    let before = tmux.settings();
    tmux.types(&attach(&session));
    until("it is joined", || {
        tmux.types("one");
        tmux.does(&["capture-pane", "-p"]).contains("said-one-")
    });
    // It waits for the agent's end then; asked again, the engine cannot say.
    std::fs::remove_file(&socket).expect("there");
    wire.cut();
    tmux.shows("code=1");
    assert_eq!(tmux.settings(), before);
    assert_eq!(
        docker(&["inspect", "-f", "{{.State.Running}}", &format!("bottle-{session}")]).out,
        "true\n"
    );
}

/// An sshd of this user's own on loopback.
struct Sshd {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Sshd {
    fn run() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        for key in ["host", "user"] {
            let words = ["-q", "-t", "ed25519", "-N", "", "-f", &at(key)];
            ran(Command::new("ssh-keygen").args(words), b"").code(0);
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n",
            at("host"),
            at("user.pub")
        );
        std::fs::write(at("config"), config).expect("written");
        // Its parent makes it where the service never ran.
        let _ = std::fs::create_dir("/run/sshd");
        let mut command = Command::new("/usr/sbin/sshd");
        let child = command.args(["-D", "-e", "-f", &at("config")]).stderr(Stdio::null()).spawn();
        let child = child.expect("sshd is there");
        let sshd = Self { child, folder, port };
        until("sshd answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        sshd
    }

    fn ssh(&self, host: &Host, words: &str) -> Command {
        let of_host = host.command(&[]);
        let env: Vec<String> = of_host
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)))
            .collect();
        let line = format!("env {} {} {words}", env.join(" "), bottle().display());
        let key = self.folder.path().join("user");
        let mut command = Command::new("ssh");
        command.args(["-tt", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i"]);
        command.arg(key).args(["-p", &self.port.to_string(), "127.0.0.1", &line]);
        command
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn over_ssh_and_without_any_terminal() {
    let (host, session) = up();
    let sshd = Sshd::run();
    let mut command = sshd.ssh(&host, &format!("attach {session}"));
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut person = command.spawn().expect("ssh is there");
    let (mut keys, mut screen) =
        (person.stdin.take().expect("piped"), person.stdout.take().expect("piped"));
    let shown: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = Arc::clone(&shown);
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = screen.read(&mut bytes) {
            kept.lock().expect("whole").extend_from_slice(&bytes[..n]);
        }
    });
    let shows = |text: &str| String::from_utf8_lossy(&shown.lock().expect("whole")).contains(text);
    until("it is joined", || {
        keys.write_all(b"far\r").expect("open");
        shows("said-far-")
    });
    keys.write_all(b"\x03").expect("open");
    until("Ctrl-C came through", || shows("got-int"));
    keys.write_all(b"\x10\x11").expect("open");
    assert_eq!(person.wait().expect("it ends").code(), Some(0), "the detach keys leave");
    reader.join().expect("it ends");

    // No terminal anywhere: a session of its own has none to open.
    let mut command = Command::new("setsid");
    let of_host = host.command(&[]);
    command.arg("--wait").arg(bottle()).args(["attach", &session]).env_clear();
    for (name, value) in of_host.get_envs() {
        command.env(name, value.expect("set"));
    }
    let ran = ran(&mut command, b"end\n").code(9);
    assert!(ran.out.contains("said-end-"), "{ran:?}");
}

#[test]
fn what_is_asked_is_shown_first_and_answered_one_by_one() {
    // Whose the image of the sidecars is: no clean-up of the other host takes it.
    let (_near, _) = up();
    let folder = tempfile::tempdir().expect("a folder");
    let image = unique("asked");
    let text = "FROM debian:bookworm-slim\nRUN ln -s /bin/true /usr/local/bin/claude\n";
    std::fs::write(folder.path().join("Dockerfile"), text).expect("written");
    docker(&[
        "build",
        "-q",
        "--network",
        "none",
        "-t",
        &image,
        folder.path().to_str().expect("UTF-8"),
    ])
    .code(0);
    let host =
        Host::new().set("BOTTLE_IMAGE", &image).set("CLAUDE_CODE_OAUTH_TOKEN", "not-a-token");
    let tmux = Tmux::open(&host, folder.path());
    let session = unique("asked");
    let bottle = bottle().display().to_string();
    tmux.types(&format!(
        "{bottle} run @claude --workspace none --detach --name {session}; echo code'='$?"
    ));
    tmux.shows("Carry out this plan? [y/N]");
    for told in ["reach api.anthropic.com:443", "[auth:Bearer]", "run agent claude (built in)"] {
        tmux.shows(told);
    }
    assert!(host.leavings().is_empty(), "nothing before the answer");
    tmux.types("y");
    tmux.shows("agents/claude.md? [y/N]");
    tmux.types("y");
    tmux.shows("code=0");
    assert!(host.has("root/bottles/claude.md") && host.has("root/agents/claude.md"));

    std::fs::remove_dir_all(host.at("root/state").join(&session)).expect("there");
    let home = format!("bottle-home-{session}");
    docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &format!("{home}:/v"),
        "debian:bookworm-slim",
        "sh",
        "-c",
        "echo work >/v/work",
    ])
    .code(0);
    tmux.types(&format!("clear; {bottle} cleanup; echo first'='$?"));
    tmux.shows("things? [y/N]");
    tmux.types("y");
    tmux.shows("This loses work for good");
    tmux.types("n");
    tmux.shows("first=0");
    assert_eq!(host.leavings(), std::slice::from_ref(&home));
    tmux.types(&format!("clear; {bottle} cleanup; echo second'='$?"));
    tmux.shows("this volume? [y/N]");
    tmux.types("y");
    tmux.shows("second=0");
    assert!(host.leavings().is_empty());
    docker(&["rmi", "-f", &image]);
}

const ASKS: &str = "bottles:
  box:
    env: {TOKEN: '?your token'}
    provider: {command: [sleep, '86400']}
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    workspace: {modes: [copy, none]}
  plain:
    provider: {command: [sleep, '86400']}
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    workspace: {modes: [copy, none]}
agents:
  asks: {bottle: box, prompt: Be brief.}
  dev: {bottle: plain, prompt: Be brief.}
";

#[test]
fn a_question_for_a_secret_that_is_cut_short_leaves_the_terminal_as_it_was() {
    let host = Host::with_manifest(ASKS);
    let folder = tempfile::tempdir().expect("a folder");
    let tmux = Tmux::open(&host, folder.path());
    let before = tmux.settings();
    for (signal, code) in [("^C", 130), ("TERM", 143), ("HUP", 129), ("INT", 130)] {
        tmux.clears();
        tmux.types(&format!(
            "{} start asks --manifest bottle.yaml --yes --detach; echo code'='$?; \
             stty -g | sed 's/^/left=/'",
            bottle().display()
        ));
        tmux.shows("your token (TOKEN):");
        match signal {
            "^C" => tmux.presses(&["C-c"]),
            signal => tmux.kill_child(signal),
        }
        tmux.shows(&format!("code={code}"));
        tmux.shows(&format!("left={before}"));
        assert!(host.leavings().is_empty(), "nothing was begun");
    }
}

#[test]
fn what_changed_since_the_question_is_asked_again_and_what_is_minted_is_not() {
    let host = Host::with_manifest(ASKS);
    let folder = tempfile::tempdir().expect("a folder");
    let tmux = Tmux::open(&host, folder.path());
    host.write("work/project/file", "as it was");
    let start = |session: &str| {
        tmux.clears();
        tmux.types(&format!(
            "{} start dev --manifest bottle.yaml --workspace copy --cwd project --detach \
             --name {session}; echo code'='$?",
            bottle().display()
        ));
        tmux.shows("Carry out this plan? [y/N]");
    };
    let asked = || {
        let screen = tmux.does(&["capture-pane", "-p", "-J", "-S", "-200"]);
        screen.matches("Carry out this plan? [y/N]").count()
    };

    // Another content is another plan.
    let changed = unique("changed");
    start(&changed);
    host.write("work/project/file", "as somebody left it meanwhile");
    tmux.types("y");
    tmux.shows("planning again");
    until("it is asked again", || asked() == 2);
    assert!(host.leavings().is_empty(), "nothing before the answer");
    tmux.types("y");
    tmux.shows("code=0");
    let words = ["exec", &changed, "--", "cat", "/workspace/file"];
    assert_eq!(host.run(&words).code(0).out, "as somebody left it meanwhile");

    // And may be refused. What an earlier session brought in is there and would not be read again.
    let refused = unique("refused");
    host.write("work/project/file", "what no session has brought in yet");
    start(&refused);
    host.write("work/project/file", "and once more");
    tmux.types("y");
    until("it is asked again", || asked() == 2);
    tmux.types("n");
    tmux.shows("code=11");
    assert!(!host.has(&format!("root/state/{refused}")));

    // A subnet that somebody took is none of a person's affair.
    let minted = unique("minted");
    start(&minted);
    let words = ["plan", "dev", "--manifest", "bottle.yaml", "--workspace", "copy"];
    let more = ["--cwd", "project", "--name", &minted, "-o", "would.json"];
    host.run(&[&words[..], &more].concat()).code(0);
    let subnet = host.plan("work/would.json").session.net.subnet.to_string();
    let thief = unique("thief");
    docker(&["network", "create", "--subnet", &subnet, &thief]).code(0);
    tmux.types("y");
    tmux.shows("planning again");
    tmux.shows("code=0");
    assert_eq!(asked(), 1, "it was approved already");
    docker(&["network", "rm", &thief]).code(0);
    let up = host.plan(&format!("root/state/{minted}/plan.json")).session.net.subnet.to_string();
    assert_ne!(up, subnet);
}
