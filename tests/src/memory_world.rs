//! A host of folders and an engine in memory, on which generated worlds come true: what the
//! properties that need an engine are held against.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::future::poll_fn;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::LazyLock;
use std::task::Poll;

use bottle_executor::apply::{Applied, ApplyError, Cancel, Confirmed, Request, apply};
use bottle_executor::ca;
use bottle_executor::engine::Engine as _;
use bottle_executor::engine::memory::MemoryEngine;
use bottle_executor::events::Event;
use bottle_executor::probe::{HostInputs, probe};
use bottle_executor::rollback::{RolledBack, rollback};
use bottle_executor::secrets::{Env, Prompter, Secret};
use bottle_executor::state::{Ledger, Roots};
use bottle_executor::tool::ToolBinary;
use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::{Effect, Mount, Operation, Plan};
use bottle_planner::policy::{HostConfig, Manifest};
use bottle_planner::resolve::{Inputs, owner_label, plan, plan_digest};
use bottle_planner::snapshot::{Host, Snapshot, Tool};
use bottle_planner::spec::Spec;
use bottle_planner::wants::Wants;
use bottle_planner::words::{AbsPath, Digest, EnvName, Identity};

use crate::generate::World;
use crate::{fixture, word};

/// Bytes of the binary that applies.
const BINARY: &[u8] = b"bottle";
/// The private key that git remotes name.
pub const KEY: &str = "home/.ssh/id_ed25519";
/// A private key's first and last line, in the form that says nothing of a cipher.
const KEY_FRAME: [&str; 2] = ["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"];

/// A host: folders, a binary, an engine, and what is asked of it.
pub struct Bench {
    /// Everything of it lies below, but for the workspace.
    pub folder: PathBuf,
    /// The folder that a launch brings in.
    pub workspace: PathBuf,
    /// Its engine.
    pub engine: MemoryEngine,
    /// What the probe is given.
    pub inputs: HostInputs,
    /// What is granted.
    pub manifest: Manifest,
    /// What is asked.
    pub spec: Spec,
    /// Host variables, `PATH` beside them.
    pub variables: BTreeMap<String, String>,
    /// What a person answers, by variable.
    pub answer: String,
    /// Who applies.
    pub owner: String,
    /// What applies.
    pub tool: ToolBinary,
    /// Whether the plan's workspace was confirmed.
    pub confirms_workspace: bool,
    /// Whether the planner's inputs are stored.
    pub stores_inputs: bool,
}

/// A plan with its text, its digest and what it was made from.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Its digest.
    pub digest: Digest,
    /// Its text.
    pub text: String,
    /// What the planner was given.
    pub inputs: Inputs,
}

/// The world in words, so that two can be held against each other line by line.
pub type Picture = BTreeMap<String, String>;

impl Bench {
    /// The host of a generated world, in an empty folder.
    #[must_use]
    pub fn new(room: &Room, world: &World) -> Self {
        let folder = room.folder.path();
        let at = |path: &str| folder.join(path);
        let write = |path: &str, text: &str, mode: u32| {
            let path = at(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
        };
        for skill in ["review", "test", "ship"] {
            write(&format!("skills/{skill}/SKILL.md"), &format!("# {skill}\n"), 0o644);
        }
        write("manifest/images/Dockerfile", "FROM debian:bookworm-slim\nRUN true\n", 0o644);
        write("binary", "bottle", 0o755);
        write("home/extra-ca.pem", fixture::CERTIFICATE, 0o644);
        write(KEY, &KEY_FRAME.join("\nQUJD\n"), 0o600);
        if world.spec.workspace.is_some() {
            copy(REPOSITORY.path(), room.workspace.path());
        }
        let path = |path: &str| word!(AbsPath, at(path).to_str().expect("text"));
        let host = Host {
            platform: "linux/amd64".into(),
            uid: fs::metadata(at("home")).expect("there").uid(),
            gid: fs::metadata(at("home")).expect("there").gid(),
            home: path("home"),
            state_root: path("root"),
        };
        let roots = Roots {
            root: at("root"),
            home: at("home"),
            skills: at("skills"),
            manifest: at("manifest"),
        };
        let tool = Tool { version: "0.1.0".into(), digest: Digest::of(BINARY) };
        let mut config = HostConfig::default();
        config.network = world.snapshot.config.network.clone();
        let mut inputs = HostInputs::new(host, roots, tool, config);
        inputs.known_hosts = Vec::new();
        inputs.routes = at("no-routes");
        inputs.path = PROGRAMS.iter().map(PathBuf::from).collect();
        let mut bench = Self {
            folder: folder.to_owned(),
            workspace: room.workspace.path().canonicalize().expect("there"),
            engine: MemoryEngine::new(),
            owner: owner_label(&inputs.host),
            inputs,
            manifest: Manifest::default(),
            spec: world.spec.clone(),
            variables: BTreeMap::new(),
            answer: "answered".into(),
            tool: ToolBinary { digest: Digest::of(BINARY), path: at("binary") },
            confirms_workspace: true,
            stores_inputs: false,
        };
        for name in ["GH_PAT", "NPM_TOKEN", "DB_URL", "DEPLOY_KEY"] {
            bench.variables.insert(name.into(), format!("value of {name}"));
        }
        bench.know_variables();
        bench.plant(&world.snapshot);
        bench.ask(world);
        bench
    }

    /// Grants what another world grants, on the same host.
    pub fn ask(&mut self, world: &World) {
        self.manifest = world.manifest.clone();
        self.spec = world.spec.clone();
        if let Some(workspace) = &mut self.spec.workspace {
            workspace.path = word!(AbsPath, self.workspace.to_str().expect("text"));
        }
        if let Some(mut facts) = world.snapshot.engine.clone() {
            // What an earlier world had registered stays.
            facts.runtimes.extend(["runc".into()]);
            self.engine.set_facts(facts);
        }
    }

    /// Changes what the engine says of itself.
    pub fn change_facts(&self, change: impl FnOnce(&mut bottle_planner::snapshot::Engine)) {
        let mut facts = run(self.engine.facts()).expect("it answers");
        change(&mut facts);
        self.engine.set_facts(facts);
    }

    /// Says which host variables there are.
    pub fn know_variables(&mut self) {
        self.inputs.env_names = self.variables.keys().map(|n| word!(EnvName, n)).collect();
    }

    fn plant(&self, snapshot: &Snapshot) {
        let none = BTreeMap::new();
        self.engine.plant_image("debian:bookworm-slim", &none);
        for (name, content) in [("pipelock", "pipelock"), ("tools", "remote image")] {
            let digest = Digest::of(content.as_bytes());
            self.engine.plant_registry(&format!("registry.example.com/{name}@{digest}"));
        }
        for (name, network) in &snapshot.networks {
            for subnet in &network.subnets {
                self.engine.plant_network(name, *subnet, &none);
            }
        }
        for name in snapshot.containers.keys() {
            self.engine.plant_container(name, &none);
        }
    }

    /// The session.
    #[must_use]
    pub fn identity(&self) -> Identity {
        word!(Identity, "dev-00000")
    }

    /// A path below the session's state folder.
    #[must_use]
    pub fn state(&self, path: &str) -> PathBuf {
        self.inputs.roots.state(&self.identity()).join(path)
    }

    /// Looks at the host.
    pub async fn probe(&self) -> Snapshot {
        let wants = Wants::for_agent(&self.manifest, &self.spec, &self.inputs.config);
        let report = probe(Ok(&self.engine), &self.inputs, &wants).await.expect("probed");
        assert!(report.engine_error.is_none(), "{:?}", report.engine_error);
        assert_eq!(report.problems, [""; 0]);
        report.snapshot
    }

    /// Plans on what a probe sees.
    pub async fn plan(&self) -> Planned {
        let snapshot = self.probe().await;
        let plan = match plan(&self.manifest, &self.spec, &snapshot) {
            Ok(plan) => plan,
            Err(errors) => panic!("expected a plan, found {errors:#?}"),
        };
        Planned {
            digest: plan_digest(&plan).expect("a digest"),
            text: document::pretty(&plan).expect("a document"),
            plan,
            inputs: Inputs { manifest: self.manifest.clone(), spec: self.spec.clone(), snapshot },
        }
    }

    /// Carries a plan out.
    pub async fn apply(&self, planned: &Planned) -> Result<Applied, ApplyError> {
        self.apply_observed(planned, &mut |_| {}).await
    }

    /// The same, telling what happens.
    pub async fn apply_observed(
        &self,
        planned: &Planned,
        observer: &mut dyn FnMut(&Event),
    ) -> Result<Applied, ApplyError> {
        for action in planned.plan.actions.iter().filter(|a| a.effect != Effect::None) {
            if let Operation::Reload(reload) = &action.op {
                self.sidecar_says(&reload.digest);
            }
        }
        let inputs = self.stores_inputs.then(|| document::pretty(&planned.inputs));
        let inputs = inputs.transpose().expect("a document");
        let mut person = Person(self.answer.clone());
        let env = |name: &str| self.variable(name);
        let confirmed = Confirmed::destructive("a test");
        let clock = || "2026-01-31T12:00:00.000Z".to_owned();
        let cancel = Cancel::new();
        loop {
            let inputs = inputs.as_deref();
            let asked = (&mut person as &mut dyn Prompter, &env as &Env<'_>);
            let request = self.request(planned, inputs, asked, &confirmed, &clock, &cancel);
            match apply(&self.engine, request, observer).await {
                // A program that another test is just starting holds what this process had open.
                Err(ApplyError::Locked(_)) => tokio::task::yield_now().await,
                result => return result,
            }
        }
    }

    /// Carries a plan out until the `n`th engine call from now, which never comes back: then
    /// everything is dropped, after `linger` milliseconds in which what runs side by side goes on.
    ///
    /// Answers what came of it where it ended before that.
    pub async fn apply_until(
        &self,
        planned: &Planned,
        n: usize,
        linger: u64,
    ) -> Option<Result<Applied, ApplyError>> {
        let target = self.engine.calls().len() + n;
        let mut applying = pin!(self.apply(planned));
        let ended = poll_fn(|context| match applying.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if self.engine.calls().len() >= target => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match ended.await {
            Some(result) => Some(result),
            None => {
                let lingering = std::time::Duration::from_millis(linger);
                tokio::time::timeout(lingering, applying).await.ok()
            }
        }
    }

    /// Undoes a plan.
    pub async fn rollback(&self, planned: &Planned) -> Result<RolledBack, ApplyError> {
        if let Some(session) = &planned.inputs.snapshot.session {
            let routes = session.files.iter().find(|(p, _)| p.as_str() == "egress/in/routes.json");
            if let Some((_, file)) = routes {
                self.sidecar_says(&file.digest);
            }
        }
        let mut person = Person(self.answer.clone());
        let env = |name: &str| self.variable(name);
        let confirmed = Confirmed::destructive("a test");
        let clock = || "2026-01-31T12:00:00.000Z".to_owned();
        let cancel = Cancel::new();
        loop {
            let asked = (&mut person as &mut dyn Prompter, &env as &Env<'_>);
            let request = self.request(planned, None, asked, &confirmed, &clock, &cancel);
            match rollback(&self.engine, request, &mut |_| {}).await {
                Err(ApplyError::Locked(_)) => tokio::task::yield_now().await,
                result => return result,
            }
        }
    }

    fn request<'a>(
        &'a self,
        planned: &'a Planned,
        inputs: Option<&'a str>,
        (prompter, env): (&'a mut dyn Prompter, &'a Env<'a>),
        confirmed: &'a Confirmed,
        clock: &'a dyn Fn() -> String,
        cancel: &'a Cancel,
    ) -> Request<'a> {
        let workspace = planned.plan.session.workspace.as_ref().map(|w| &w.host);
        Request {
            plan: &planned.plan,
            digest: &planned.digest,
            text: &planned.text,
            inputs,
            roots: &self.inputs.roots,
            config: &self.inputs.config,
            owner: &self.owner,
            tool: &self.tool,
            workspace: workspace.filter(|_| self.confirms_workspace),
            confirmed: Some(confirmed),
            redeliver: false,
            env,
            prompter,
            clock,
            cancel,
        }
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        match name {
            "PATH" => Some(PROGRAMS.join(":").into()),
            _ => self.variables.get(name).map(OsString::from),
        }
    }

    /// Stands in for egress, which says what it has in force.
    fn sidecar_says(&self, loaded: &Digest) {
        if self.state("egress/out").is_dir() {
            let said = format!("{{\"loaded\":\"{loaded}\",\"error\":null}}");
            fs::write(self.state("egress/out/state.json"), said).expect("written");
        }
    }

    /// The world in words. `plans` go by name, and so does the session's certificate: two runs
    /// mint two.
    #[must_use]
    pub fn picture(&self, plans: &[(&str, &Planned)]) -> Picture {
        let mut names: Vec<(String, String)> =
            plans.iter().map(|(name, p)| (p.digest.to_string(), format!("<{name}>"))).collect();
        let certificate = fs::read_to_string(self.state("egress/in/ca.crt")).ok();
        let fingerprint = certificate.as_deref().and_then(ca::fingerprint);
        names.extend(fingerprint.map(|f| (f.to_string(), "<ca>".to_owned())));
        let mut picture = Picture::new();
        let world = self.engine.snapshot();
        for (name, container) in &world.containers {
            // Each session mints a certificate of its own; and what lies on a volume stays there,
            // where this engine has it in the container.
            let on_volume = |path: &str| {
                let mut mounts = container.spec.iter().flat_map(|spec| &spec.mounts);
                mounts
                    .any(|m| matches!(m, Mount::Volume { at, .. } if path.starts_with(at.as_str())))
            };
            let kept = |path: &str| !path.ends_with("/ca-certificates.crt") && !on_volume(path);
            let files: BTreeMap<_, _> =
                container.files.iter().filter(|(path, _)| kept(path)).collect();
            let delivered = container.delivered;
            for (part, said) in [
                ("spec", format!("{:?}", container.spec)),
                ("state", format!("{:?}, delivered: {delivered}", container.state)),
                ("labels", format!("{:?}", container.labels)),
                ("networks", format!("{:?}", container.networks)),
                ("files", format!("{files:?}")),
            ] {
                picture.insert(format!("container {name} {part}"), said);
            }
        }
        for (name, network) in world.networks {
            picture.insert(format!("network {name}"), format!("{network:?}"));
        }
        for (name, labels) in world.volumes {
            picture.insert(format!("volume {name}"), format!("{labels:?}"));
        }
        for (name, labels) in world.images {
            picture.insert(format!("image {name}"), format!("{labels:?}"));
        }
        walk(&self.inputs.roots.root, "", &mut |path, meta, text| {
            if path == "locks" || path.starts_with("locks/") || path.contains("/backup") {
                return;
            }
            let said = match text {
                None => "a folder".to_owned(),
                Some(_) if path.contains("/out/") => return,
                Some(text) => content(path, text),
            };
            let line = format!("{:04o} {} {said}", meta.mode() & 0o7777, meta.uid());
            picture.insert(path.to_owned(), line);
        });
        for line in picture.values_mut() {
            for (digest, name) in &names {
                if line.contains(digest.as_str()) {
                    *line = line.replace(digest.as_str(), name);
                }
            }
        }
        picture
    }
}

/// What a file of the state root says, less what differs between two runs that come to the same.
fn content(path: &str, text: &str) -> String {
    match path.rsplit('/').next().unwrap_or_default() {
        "journal.jsonl" | "receipt.json" | "inputs.json" | "ca.key" | "ca.crt" => String::new(),
        "plan.json" | "plan.previous.json" => {
            let found = document::parse::<Plan>(text, Strictness::Strict);
            found.map_or_else(|e| e.to_string(), |p| p.digest.to_string())
        }
        "ledger.json" => match serde_json::from_str::<Ledger>(text) {
            Ok(ledger) => format!(
                "{:?} {:?} {} {:?} {:?} {:?} {:?}",
                ledger.plan,
                ledger.previous,
                ledger.complete,
                ledger.files,
                ledger.uploaded.iter().map(|(id, (_, digest))| (id, digest)).collect::<Vec<_>>(),
                ledger.delivered.keys(),
                ledger.loaded.iter().map(|(role, (_, _, d))| (role, d)).collect::<Vec<_>>(),
            ),
            Err(error) => error.to_string(),
        },
        _ => text.to_owned(),
    }
}

/// Where programs are that the host has.
const PROGRAMS: [&str; 2] = ["/usr/bin", "/bin"];

/// A git repository of one commit, made once.
static REPOSITORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("main.rs"), "fn main() {}\n").expect("written");
    fs::write(folder.path().join(".env"), "planted-in-the-workspace\n").expect("written");
    for arguments in [
        &["init", "--quiet", "--template=", "--initial-branch=main"][..],
        &["add", "main.rs"],
        &["-c", "user.name=A", "-c", "user.email=a@example.com", "commit", "--quiet", "-m", "x"],
    ] {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(folder.path());
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        assert!(git.status().expect("git runs").success(), "{arguments:?}");
    }
    folder
});

/// Empty folders for a host.
pub struct Room {
    /// In memory where the system has room there: the executor syncs every file.
    folder: tempfile::TempDir,
    /// Elsewhere: a container has a `/dev` of its own, over which nothing can be mounted.
    workspace: tempfile::TempDir,
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

impl Room {
    /// Two empty folders.
    #[must_use]
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self {
            folder: folder.expect("a temporary folder"),
            workspace: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Makes them empty again.
    pub fn clear(&self) {
        empty(self.folder.path());
        empty(self.workspace.path());
    }
}

fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.expect("removed");
    }
}

/// Runs to the end, threads that do blocking work included: like a process.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(work)
}

/// Every file and folder below one: its path, its metadata, and its text if it is a file.
pub fn walk(folder: &Path, below: &str, seen: &mut dyn FnMut(&str, &fs::Metadata, Option<&str>)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.expect("readable");
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let meta = entry.metadata().expect("known");
        if meta.is_dir() {
            seen(&name, &meta, None);
            walk(&entry.path(), &format!("{name}/"), seen);
        } else {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            seen(&name, &meta, Some(&String::from_utf8_lossy(&bytes)));
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Somebody who answers every question.
struct Person(String);

impl Prompter for Person {
    fn ask(&mut self, _: &EnvName, _: &str) -> Option<Secret> {
        Some(Secret::new(self.0.clone().into_bytes()))
    }
}
