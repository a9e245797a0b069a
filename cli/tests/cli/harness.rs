//! Runs the built binary in a home of its own, with nothing of this process's environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::Plan;
use bottle_planner::policy::HostConfig;
use bottle_planner::snapshot::{Engine, Host as HostFacts, ImageFact, Snapshot, Tool};
use bottle_planner::words::{AbsPath, Digest};
use serde_json::Value;

/// A host with a home, a state root and nothing in either.
pub struct Host {
    folder: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

/// What a run of the binary left.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Host {
    /// A host on which nothing was written yet.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("home")).expect("a home");
        fs::create_dir_all(folder.path().join("work")).expect("a folder to work in");
        Self { folder, env: BTreeMap::new() }
    }

    /// A host with one bottle and one agent, and a snapshot in `snapshot.json`.
    pub fn with_agent() -> Self {
        let host = Self::empty();
        host.write("root/bottles/dev.md", BOTTLE)
            .write("root/agents/dev.md", "---\nbottle: dev\n---\nBe careful.\n")
            .write("work/snapshot.json", &document::pretty(&host.snapshot()).expect("a document"));
        host
    }

    /// Sets a variable for all runs.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// A path below this host's folder: `root/…` is the state root, `work/…` the current folder.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) -> &Self {
        let file = self.at(path);
        fs::create_dir_all(file.parent().expect("below a folder")).expect("made");
        fs::write(file, text).expect("written");
        self
    }

    /// Reads a file.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).expect("readable")
    }

    /// Runs `bottle` with these words.
    pub fn run(&self, words: &[&str]) -> Ran {
        self.run_with(words, "")
    }

    /// Runs `bottle` with these words and this standard input.
    pub fn run_with(&self, words: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        // A program that does not read its input closes it: that is its affair.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        Ran {
            code: output.status.code().expect("it ends by itself"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The command with this host's environment and no other.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle"));
        command
            .args(words)
            .env_clear()
            .env("HOME", self.at("home"))
            .env("BOTTLE_HOME", self.at("root"))
            .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
            .envs(&self.env)
            .current_dir(self.at("work"));
        command
    }

    /// A plan of agent `dev` in `work/plan.json`, and its text.
    pub fn plan(&self, more: &[&str]) -> String {
        let mut words = vec![
            "plan",
            "dev",
            "--snapshot",
            "snapshot.json",
            "--identity",
            "dev-aaaaa",
            "--at",
            "2026-01-31T12:00:00Z",
            "-o",
            "plan.json",
        ];
        words.extend(more);
        self.run(&words).code(0);
        self.read("work/plan.json")
    }

    /// Makes a session that exists, as far as its stored plan goes.
    pub fn session(&self, identity: &str, plan: &str) -> &Self {
        self.write(&format!("root/state/{identity}/plan.json"), plan)
    }

    fn snapshot(&self) -> Snapshot {
        let base = ImageFact {
            id: Digest::of(b"base"),
            repo_digests: BTreeSet::new(),
            labels: BTreeMap::new(),
        };
        let path =
            |path: &str| AbsPath::new(self.at(path).to_str().expect("UTF-8")).expect("absolute");
        Snapshot {
            format_version: "1.0".into(),
            host: HostFacts {
                platform: "linux/amd64".into(),
                uid: 1000,
                gid: 1000,
                home: path("home"),
                state_root: path("root"),
            },
            tool: Tool { version: "0.1.0".into(), digest: Digest::of(b"tool") },
            engine: Some(Engine {
                name: "docker".into(),
                version: "20.10.24".into(),
                api: (1, 41),
                rootless: false,
                runtimes: ["runc".to_string()].into(),
                without_limits: [].into(),
                cgroup_version: 2,
            }),
            containers: BTreeMap::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            images: [("debian:bookworm-slim".to_string(), base)].into(),
            resolved: BTreeMap::new(),
            host_routes: BTreeSet::new(),
            config: HostConfig::default(),
            upstream_ca: None,
            env_names: BTreeSet::new(),
            secrets: BTreeSet::new(),
            skills: BTreeMap::new(),
            named_files: BTreeMap::new(),
            contexts: BTreeMap::new(),
            identity_files: BTreeMap::new(),
            known_hosts: BTreeMap::new(),
            workspace: None,
            session: None,
        }
    }
}

/// A bottle that reaches one host.
pub const BOTTLE: &str =
    "---\negress:\n  routes:\n    - host: api.example.com\n      allow: [{access: read}]\n---\n";

impl Ran {
    /// Checks the exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, expected, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Checks that standard error has this in it.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{text:?} is not in:\n{}", self.err);
        self
    }

    /// Checks that standard output has this in it.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.out.contains(text), "{text:?} is not in:\n{}", self.out);
        self
    }

    /// Checks that standard output is empty.
    #[track_caller]
    pub fn prints_nothing(self) -> Self {
        assert_eq!(self.out, "");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("JSON alone on standard output")
    }
}

/// A plan as a document.
pub fn parse(text: &str) -> Plan {
    document::parse(text, Strictness::Strict).expect("a plan").value
}

/// A plan's text with one field changed.
pub fn edited(text: &str, edit: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(text).expect("JSON");
    edit(&mut value);
    document::pretty_value(&value)
}

/// Whether a path is there.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
