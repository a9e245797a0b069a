//! A host of its own for one end-to-end test: a home, a state root, a folder to work in, the built
//! `bottle` binary, and the real engine; what was made on the engine goes when the host goes.
//!
//! Other tests use the same engine at the same time: every name is this host's own, and clean-up
//! goes by the owner's label, which holds the user and the state root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::{LABEL_OWNER, Plan};
use bottle_planner::resolve::owner_label;
use bottle_planner::snapshot::Host as HostFacts;
use bottle_planner::words::{AbsPath, Digest, Identity};
use serde_json::Value;

/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the engine's own socket is.
pub const ENGINE: &str = "unix:///var/run/docker.sock";

/// A home (`home`), a state root (`root`) and a current folder (`work`), all below one temporary
/// folder, and an environment of its own.
#[derive(Debug)]
pub struct Host {
    folder: tempfile::TempDir,
    env: BTreeMap<String, String>,
    user: Option<User>,
}

/// Somebody who runs `bottle` in place of the user who runs the tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The group that may talk to the engine.
    pub engine_group: u32,
}

impl User {
    /// One other than who runs the tests, in the engine's group, made if it is missing.
    ///
    /// # Panics
    ///
    /// If it cannot be made, or no engine has a socket.
    #[must_use]
    pub fn somebody() -> Self {
        const NAME: &str = "bottle-e2e";
        const IDS: [&str; 2] = ["-u", "-g"];
        let id = |what: &str| {
            let ran = ran(Command::new("id").args([what, NAME]), b"");
            ran.ok().then(|| ran.out.trim().parse::<u32>().expect("a number"))
        };
        if IDS.iter().any(|what| id(what).is_none()) {
            let made = ran(Command::new("useradd").args(["--system", "--user-group", NAME]), b"");
            // Another test's process may have been first.
            assert!(made.ok() || id("-u").is_some(), "{}", made.err);
        }
        let [uid, gid] = IDS.map(|what| id(what).expect("a user"));
        let engine_group = fs::metadata("/var/run/docker.sock").expect("an engine's socket").gid();
        Self { uid, gid, engine_group }
    }
}

/// What a run of a program left.
#[derive(Debug, Default)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// The built binary, which `cargo build -p bottle` leaves beside the tests' own folder.
///
/// # Panics
///
/// If it is not there.
#[must_use]
pub fn bottle() -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let folder = test.parent().and_then(Path::parent).expect("it is in target/…/deps");
    let binary = folder.join("bottle");
    assert!(
        binary.is_file(),
        "{} is missing: run `cargo build -p bottle` with the same profile and target folder first",
        binary.display()
    );
    binary
}

/// A session name that nothing else uses: the prefix, this process and a count.
///
/// # Panics
///
/// If the prefix does not make a name.
#[must_use]
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{prefix}-{:x}x{n}", std::process::id());
    Identity::new(&name).expect("a prefix that begins a name").into()
}

/// Waits until something is so.
///
/// # Panics
///
/// If it is not so after half a minute.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host that has used this binary before: its state root remembers the binary's digest and
    /// has the copy that containers mount. Both take a debug build longer than a whole session.
    ///
    /// # Panics
    ///
    /// If there is no room for one.
    #[must_use]
    pub fn new() -> Self {
        let host = Self::untouched();
        Seed::get().plant(&host.at("root"));
        host
    }

    /// A host on which nothing was written yet.
    ///
    /// # Panics
    ///
    /// If there is no room for one.
    #[must_use]
    pub fn untouched() -> Self {
        let folder = tempfile::Builder::new().prefix("bottle-e2e-").tempdir().expect("a folder");
        let host = Self { folder, env: BTreeMap::new(), user: None };
        for part in ["home", "root", "work"] {
            fs::create_dir(host.at(part)).expect("a folder");
            fs::set_permissions(host.at(part), fs::Permissions::from_mode(0o700)).expect("a mode");
        }
        host.set("PATH", "/usr/local/bin:/usr/bin:/bin").set("DOCKER_HOST", ENGINE)
    }

    /// A host on which this manifest is `work/bottle.yaml`.
    #[must_use]
    pub fn with_manifest(manifest: &str) -> Self {
        let host = Self::new();
        host.write("work/bottle.yaml", manifest);
        host
    }

    /// Sets a variable for all runs.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Gives the whole host to somebody else, who then runs `bottle`. Only root can.
    ///
    /// # Panics
    ///
    /// If the folders cannot be given away.
    #[must_use]
    pub fn owned_by(mut self, user: User) -> Self {
        chown(self.folder.path(), Some(user.uid), Some(user.gid)).expect("root gives it away");
        for part in ["home", "root", "work"] {
            chown(self.at(part), Some(user.uid), Some(user.gid)).expect("root gives it away");
        }
        for file in fs::read_dir(self.at("work")).expect("readable").flatten() {
            chown(file.path(), Some(user.uid), Some(user.gid)).expect("root gives it away");
        }
        self.user = Some(user);
        self
    }

    /// A second state root on the same host: another owner, as the engine's labels have it.
    ///
    /// # Panics
    ///
    /// If the current folder cannot be copied.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let mut other = Self::new();
        other.env = self.env.clone();
        for file in fs::read_dir(self.at("work")).expect("readable").flatten() {
            if file.path().is_file() {
                let copy = other.at("work").join(file.file_name());
                fs::copy(file.path(), copy).expect("copied");
            }
        }
        other
    }

    /// A path below this host's folder: `home/…`, `root/…` (the state root) or `work/…`.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file, its folders first.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> &Self {
        let file = self.at(path);
        fs::create_dir_all(file.parent().expect("below a folder")).expect("made");
        fs::write(&file, text).expect("written");
        if let Some(user) = &self.user {
            chown(&file, Some(user.uid), Some(user.gid)).expect("root gives it away");
        }
        self
    }

    /// Reads a file.
    ///
    /// # Panics
    ///
    /// If it is not text.
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
    }

    /// Whether anything is at a path.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    /// Reads a plan.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn plan(&self, path: &str) -> Plan {
        document::parse(&self.read(path), Strictness::Strict).expect("a plan").value
    }

    /// `bottle` with these words, this host's environment and no other, in `work`.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = match &self.user {
            None => Command::new(bottle()),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={}", user.uid),
                    format!("--regid={}", user.gid),
                    format!("--groups={}", user.engine_group),
                ]);
                command.arg("--").arg(bottle());
                command
            }
        };
        command
            .args(words)
            .env_clear()
            .env("HOME", self.at("home"))
            .env("BOTTLE_HOME", self.at("root"))
            .envs(&self.env)
            .current_dir(self.at("work"));
        command
    }

    /// Runs `bottle` with these words.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        ran(&mut self.command(words), b"")
    }

    /// Runs `bottle` with these words and this standard input.
    #[track_caller]
    pub fn run_with(&self, words: &[&str], input: &str) -> Ran {
        ran(&mut self.command(words), input.as_bytes())
    }

    /// Plans a session from `work/bottle.yaml` into `work/<file>`, and reads the plan back.
    #[track_caller]
    pub fn plans(&self, session: &str, file: &str, more: &[&str]) -> Plan {
        let words = ["plan", "--manifest", "bottle.yaml", "--name", session, "-o", file];
        let words: Vec<&str> = words.iter().chain(more).copied().collect();
        self.run(&words).code(0);
        self.plan(&format!("work/{file}"))
    }

    /// Plans a session and applies the plan, `work/plan.json`.
    #[track_caller]
    pub fn up(&self, session: &str) -> Plan {
        let plan = self.plans(session, "plan.json", &[]);
        self.run(&["apply", "plan.json", "--yes"]).code(0);
        plan
    }

    /// The label of what this host made: its user and state root.
    ///
    /// # Panics
    ///
    /// If the temporary folder has no usable name.
    #[must_use]
    pub fn owner(&self) -> String {
        let path = |part| AbsPath::new(self.at(part).to_str().expect("UTF-8")).expect("absolute");
        owner_label(&HostFacts {
            platform: String::new(),
            uid: self.user.as_ref().map_or_else(own_uid, |user| user.uid),
            gid: 0,
            home: path("home"),
            state_root: path("root"),
        })
    }

    /// The names of everything on the engine that carries this host's label, and keys that ended sessions left.
    #[must_use]
    pub fn leavings(&self) -> Vec<String> {
        let listed = |kind: Kind| kind.owned_by(&self.owner());
        let records = std::fs::read_dir(self.at("root/history")).into_iter().flatten().flatten();
        let keys = records.map(|record| record.path().join("egress/in/ca.key"));
        let keys = keys.filter(|key| key.exists()).map(|key| key.display().to_string());
        Kind::ALL.into_iter().flat_map(listed).chain(keys).collect()
    }
}

#[expect(clippy::print_stdout, reason = "what a failed test prints is shown with its failure")]
impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in Kind::Container.owned_by(&self.owner()) {
                let logs = Command::new("docker").args(["logs", "--tail", "20", &name]).output();
                let Ran { out, err, .. } = logs.map_or_else(|_| Ran::default(), |o| Ran::of(&o));
                println!("the log of {name} ends:\n{out}{err}");
            }
        }
        for kind in Kind::ALL {
            let names = kind.owned_by(&self.owner());
            if !names.is_empty() {
                // Best effort: a panic here would hide the test's own.
                let _ = Command::new("docker").args(kind.remove()).args(names).output();
            }
        }
    }
}

/// What a state root has after the first use of the binary.
#[derive(Debug)]
struct Seed {
    cache: Vec<u8>,
    digest: Digest,
    binary: PathBuf,
}

impl Seed {
    fn get() -> &'static Self {
        static SEED: OnceLock<Seed> = OnceLock::new();
        SEED.get_or_init(|| {
            let host = Host::untouched().set("DOCKER_HOST", "unix:///nonexistent/docker.sock");
            host.write("work/bottle.yaml", "bottles: {box: {}}\nagents: {dev: {bottle: box}}\n");
            // It ends with an error, for there is no engine, but looks at itself first.
            host.run(&["plan", "--manifest", "bottle.yaml"]);
            let cache = fs::read(host.at("root/cache/tool.json")).expect("the binary's digest");
            let known: Value = serde_json::from_slice(&cache).expect("JSON");
            let digest = known["digest"].as_str().and_then(|text| text.parse().ok());
            let digest: Digest = digest.expect("a digest");
            let binary = Self::copy(digest.hex()).expect("a copy of the binary");
            Self { cache, digest, binary }
        })
    }

    /// A copy beside the binary, to link to: a link to the binary itself would change its inode,
    /// by which its digest is remembered.
    fn copy(digest: &str) -> io::Result<PathBuf> {
        let place = bottle().with_file_name("e2e");
        let copy = place.join(digest);
        if copy.is_file() {
            return Ok(copy);
        }
        fs::create_dir_all(&place)?;
        // Those of older builds.
        for old in fs::read_dir(&place)?.flatten() {
            fs::remove_file(old.path())?;
        }
        let temporary = place.with_extension(std::process::id().to_string());
        fs::copy(bottle(), &temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        fs::rename(&temporary, &copy)?;
        Ok(copy)
    }

    fn plant(&self, root: &Path) {
        fs::create_dir(root.join("cache")).expect("a folder");
        fs::write(root.join("cache/tool.json"), &self.cache).expect("written");
        let folder = root.join("bin").join(self.digest.hex());
        fs::create_dir_all(&folder).expect("folders");
        let binary = folder.join("bottle");
        // A link costs nothing; where the temporary folder is on another file system, a copy.
        fs::hard_link(&self.binary, &binary)
            .or_else(|_| fs::copy(&self.binary, &binary).map(drop))
            .expect("the binary in its place");
        for path in [root.join("bin"), folder] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
    }
}

/// The kinds of objects a session leaves on the engine, in the order in which they can go.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Container,
    Network,
    Volume,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Container, Self::Network, Self::Volume];

    fn owned_by(self, owner: &str) -> Vec<String> {
        let (list, name): (&[&str], _) = match self {
            Self::Container => (&["ps", "-a"], "{{.Names}}"),
            Self::Network => (&["network", "ls"], "{{.Name}}"),
            Self::Volume => (&["volume", "ls"], "{{.Name}}"),
        };
        let filter = format!("label={LABEL_OWNER}={owner}");
        let output = Command::new("docker")
            .args(list)
            .args(["--filter", filter.as_str(), "--format", name])
            .output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        text.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn remove(self) -> &'static [&'static str] {
        match self {
            Self::Container => &["rm", "-f", "-v"],
            Self::Network => &["network", "rm"],
            Self::Volume => &["volume", "rm", "-f"],
        }
    }
}

/// The user who runs the tests: whoever owns this process.
fn own_uid() -> u32 {
    fs::metadata("/proc/self").expect("a process has a folder in /proc").uid()
}

/// Runs `docker` with these words: the real client of the real engine.
#[track_caller]
pub fn docker<S: AsRef<OsStr>>(words: &[S]) -> Ran {
    ran(Command::new("docker").args(words), b"")
}

/// What `docker inspect` says of one object.
///
/// # Panics
///
/// If there is no such object.
#[must_use]
#[track_caller]
pub fn inspect(name: &str) -> Value {
    let ran = docker(&["inspect", name]).code(0);
    let mut all: Vec<Value> = serde_json::from_str(&ran.out).expect("JSON");
    all.pop().expect("one object")
}

/// Runs a program to its end.
///
/// # Panics
///
/// If it cannot be started.
#[track_caller]
pub fn ran(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{:?} does not start: {e}", command.get_program()));
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // Beside reading, so that neither waits for the other; and a program that does not read its
        // input closes it: that is its affair.
        scope.spawn(move || drop(stdin.write_all(input)));
        Ran::of(&child.wait_with_output().expect("it ends"))
    })
}

impl Ran {
    /// What a finished program left.
    #[must_use]
    pub fn of(output: &Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks the exit code.
    ///
    /// # Panics
    ///
    /// If it is another.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.status, Some(expected), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Checks that standard error has this in it.
    ///
    /// # Panics
    ///
    /// If it has not.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{text:?} is not in:\n{}", self.err);
        self
    }

    /// Checks that standard output has this in it.
    ///
    /// # Panics
    ///
    /// If it has not.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.out.contains(text), "{text:?} is not in:\n{}", self.out);
        self
    }

    /// Whether it ended with code 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.status == Some(0)
    }
}
