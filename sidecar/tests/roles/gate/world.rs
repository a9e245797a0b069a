//! A gate and its egress as processes, a real OpenSSH server with a real repository behind them,
//! and an agent's git before them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Process, Session, Who, wait_until};

/// The port of the OpenSSH server.
const SSH: u16 = 2222;

/// All of it. What is first here ends first.
pub struct World {
    pub gate: Option<Process>,
    _egress: Process,
    sshd: Option<Child>,
    /// The gate's own folder and address.
    pub inside: Session,
    /// Egress's.
    pub outside: Session,
    folder: TempDir,
}

/// What a run of git left.
#[derive(Debug)]
pub struct Ran {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        Self {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn good(self) -> Self {
        assert!(self.ok, "{}{}", self.out, self.err);
        self
    }

    /// That it failed, and said this.
    #[track_caller]
    pub fn refused(self, says: &str) -> Self {
        assert!(!self.ok, "it went through: {}{}", self.out, self.err);
        assert!(self.err.contains(says), "{says:?} is not in:\n{}", self.err);
        self
    }
}

impl World {
    /// One remote, `web`; branches `agent/*` may be pushed, and this changes what else.
    pub fn new(push: Value) -> Self {
        Self::with(push, &json!({}), json!({}))
    }

    /// The same with values to look for (`scan:NAME`), and changes to the gate's settings.
    /// `upstream` in them changes that of the remote.
    pub fn with(push: Value, values: &Value, mut changes: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (Session::new(), Session::new());
        let at = |name: &str| folder.path().join(name);
        for key in ["host", "other-host", "key", "other-key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key));
            assert!(keygen.status().unwrap().success());
        }
        let upstream = at("web.git");
        git_at(folder.path(), folder.path(), &["init", "-q", "--bare", "-b", "main", "web.git"])
            .good();
        outside.write_egress(&json!({}), json!({"gate": "127.0.0.1", "expects_delivery": false}));
        let egress = outside.start_ready("egress");

        let public = std::fs::read_to_string(at("host.pub")).unwrap();
        let public: Vec<&str> = public.split(' ').take(2).collect();
        inside.write("in/known_hosts", &format!("[git.test]:{SSH} {}\n", public.join(" ")));
        let user = Command::new("id").arg("-un").output().unwrap();
        let user = String::from_utf8(user.stdout).unwrap();
        let mut granted =
            json!({"branches": ["agent/*"], "tags": false, "force": false, "delete": false});
        crate::harness::merge(&mut granted, push);
        let mut address = json!({"transport": "ssh", "user": user.trim(), "host": "git.test",
                                 "port": SSH, "path": upstream.strip_prefix("/").unwrap()});
        if let Some(change) = changes.as_object_mut().unwrap().remove("upstream") {
            crate::harness::merge(&mut address, change);
        }
        let mut settings = json!({
            "protocol": 1, "listen": inside.address(Who::Gate),
            "egress": [outside.address(Who::Egress), 9099],
            "remotes": {"web": {
                "upstream": address,
                "credential": {"kind": "secret", "secret": "KEY"},
                "known_host_keys": [], "extra_hosts": {}, "push": granted,
            }},
            "use_at": {}, "expects_delivery": true,
        });
        crate::harness::merge(&mut settings, changes);
        inside.write("in/gate.json", &settings.to_string());
        let gate = inside.start_ready("git-gate");
        let mut world =
            Self { gate: Some(gate), _egress: egress, sshd: None, inside, outside, folder };
        world.start_sshd("host");
        world.deliver("key", values);
        world
    }

    /// Delivers a key of this folder, and values.
    #[track_caller]
    pub fn deliver(&self, key: &str, values: &Value) {
        let mut payload = json!({"git:web": std::fs::read_to_string(self.at(key)).unwrap()});
        crate::harness::merge(&mut payload, values.clone());
        let (code, said) = self.inside.receive(&payload.to_string());
        assert_eq!(code, 0, "{said}");
    }

    /// Starts the OpenSSH server with this host key.
    pub fn start_sshd(&mut self, host_key: &str) {
        self.stop_sshd();
        let address = self.outside.address(Who::Server);
        let config = format!(
            "Port {SSH}\nListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\nLogLevel VERBOSE\n",
            self.at(host_key).display(),
            self.at("key.pub").display()
        );
        std::fs::write(self.at("sshd_config"), config).unwrap();
        let log = std::fs::File::create(self.at("sshd.log")).unwrap();
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(self.at("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.sshd = Some(sshd);
        wait_until("sshd listens", || std::net::TcpStream::connect((address, SSH)).is_ok());
    }

    pub fn stop_sshd(&mut self) {
        if let Some(mut sshd) = self.sshd.take() {
            sshd.kill().unwrap();
            sshd.wait().unwrap();
        }
        // Connections that are open outlive the server, the gate's kept one among them.
        let socket = self.inside.path("run/web.ssh.sock");
        if socket.exists() {
            let mut ssh = Command::new("ssh");
            ssh.args(["-O", "exit", "-S"]).arg(socket).arg("x").stderr(Stdio::null());
            let _ = ssh.status();
        }
    }

    /// Asks the gate to end: git daemon goes with it.
    pub fn end_gate(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.signal(rustix::process::Signal::TERM);
            let _ = gate.end();
            let _ = std::fs::remove_file(self.inside.path("out/state.json"));
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the agent finds the remote.
    pub fn url(&self) -> String {
        format!("git://{}/web.git", self.inside.address(Who::Gate))
    }

    /// The agent's git, in a folder of its own.
    pub fn git(&self, folder: &str, words: &[&str]) -> Ran {
        git_at(self.folder.path(), &self.at(folder), words)
    }

    /// git beside upstream's repository, as whoever runs it.
    pub fn upstream(&self, words: &[&str]) -> String {
        git_at(self.folder.path(), &self.at("web.git"), words).good().out
    }

    /// All refs of upstream's.
    pub fn refs(&self) -> String {
        self.upstream(&["for-each-ref", "--format=%(refname) %(objectname)"])
    }

    /// Writes a file, its folders first.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let file = self.at(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }

    /// Puts a first commit upstream, past the gate, and clones it through the gate as `agent`.
    pub fn seeded(self) -> Self {
        let upstream = self.at("web.git").display().to_string();
        self.write("seed/README", "hello\n");
        self.git("seed", &["init", "-q", "-b", "main"]).good();
        self.commit("seed", "first");
        self.git("seed", &["push", "-q", &upstream, "main"]).good();
        self.clone_as("agent");
        self
    }

    pub fn clone_as(&self, folder: &str) {
        self.git(".", &["clone", "-q", &self.url(), folder]).good();
        self.git(folder, &["checkout", "-q", "-b", "agent/work"]).good();
    }

    /// Commits all there is.
    pub fn commit(&self, folder: &str, message: &str) -> String {
        self.git(folder, &["add", "-A"]).good();
        self.git(folder, &["commit", "-q", "--allow-empty", "-m", message]).good();
        self.git(folder, &["rev-parse", "HEAD"]).good().out.trim().to_owned()
    }

    pub fn push(&self, folder: &str) -> Ran {
        self.git(folder, &["push", "origin", "HEAD"])
    }

    /// The gate's pushes, as its decision log has them once there are so many.
    pub fn pushes(&self, count: usize) -> Vec<Value> {
        let all = || {
            let all = self.inside.decisions().into_iter();
            all.filter(|decision| decision["method"] == "push").collect::<Vec<_>>()
        };
        wait_until("the pushes are logged", || all().len() >= count);
        all()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop_sshd();
        self.end_gate();
    }
}

/// git with nothing of this user's.
fn git_at(home: &Path, folder: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"])
        .args(["-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false"])
        .args(["-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main"])
        .args(words)
        .current_dir(folder);
    Ran::of(&command.stdin(Stdio::null()).output().unwrap())
}
