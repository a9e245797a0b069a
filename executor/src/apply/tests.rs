//! Plans carried out against the engine in memory and a state root in a temporary folder.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;

use bottle_planner::grants::{AgentGrant, EgressGrant, Grants, ImageGrant, WorkspaceGrant};
use bottle_planner::plan::{
    Action, ActionId, Archive, Connect, ContainerLimits, ContainerRef, ContainerSpec, Deliver,
    Effect, Expect, File, Folder, ImportImage, Intent, LABEL_IDENTITY, LABEL_OWNER, LABEL_PLAN,
    LABEL_ROLE, LABEL_SPEC, MintCa, Mount, NetworkPlace, NetworkSpec, ObjectRef, Operation, Plan,
    Reason, ReasonCode, Reload, RemoveFile, Requirement, SecretRef, Session, StatePath, StateRoot,
    Summary, Upload, UploadItem, UploadSource, User, VolumeSpec,
};
use bottle_planner::policy::{Isolation, Limits, Origin, Provider, WorkspaceMode};
use bottle_planner::snapshot::ContainerState;
use bottle_planner::spec::{Overrides, SessionRequest, Spec};
use bottle_planner::words::{EnvName, Name, RelPath, Role, SecretName, Subnet, Timestamp};

use super::*;
use crate::engine::ExecResult;
use crate::engine::memory::{FaultKind, MemoryEngine, Taken, World as EngineWorld};
use crate::receipt::{ActionOutcome, Outcome};
use crate::rollback::{RolledBack, rollback};
use crate::secrets::Secret;
use crate::state::{JOURNAL, RECEIPT};

const OWNER: &str = "0-aaaaaaaaaaaa";
const USER: User = User { uid: 0, gid: 0 };
const PLANTED: &str = "planted-secret-value";

/// A host: a state root, a binary, an engine.
struct Bench {
    folder: tempfile::TempDir,
    engine: MemoryEngine,
    roots: Roots,
    config: HostConfig,
    tool: ToolBinary,
    cancel: Cancel,
    set: bool,
}

/// What one apply is asked beside its plan.
#[derive(Default)]
struct Ask {
    redeliver: bool,
    confirmed: bool,
    without_inputs: bool,
}

struct Nobody;

impl Prompter for Nobody {
    fn ask(&mut self, _: &EnvName, _: &str) -> Option<Secret> {
        None
    }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("running");
        std::fs::write(&path, "program").expect("written");
        let roots = Roots {
            root: folder.path().join("root"),
            home: folder.path().to_owned(),
            skills: folder.path().join("skills"),
            manifest: folder.path().join("manifest"),
        };
        let engine = MemoryEngine::new();
        engine.plant_image("agent:1", &BTreeMap::new());
        engine.plant_file("agent:1", "/etc/ssl/certs/ca-certificates.crt", "the image's roots\n");
        let tool = ToolBinary { digest: Digest::of(b"program"), path };
        let (config, cancel) = (HostConfig::default(), Cancel::new());
        Self { folder, engine, roots, config, tool, cancel, set: true }
    }

    fn state(&self) -> std::path::PathBuf {
        self.roots.state(&identity())
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.state().join(path)).expect("readable")
    }

    fn ledger(&self) -> Ledger {
        let state = Root::open(&self.state()).expect("readable").expect("there");
        ledger::load(&state).expect("readable").expect("there")
    }

    async fn apply(&self, plan: &Plan) -> Result<Applied, ApplyError> {
        self.apply_asking(plan, Ask::default()).await.0
    }

    async fn apply_asking(
        &self,
        plan: &Plan,
        ask: Ask,
    ) -> (Result<Applied, ApplyError>, Vec<Event>) {
        let mut events = Vec::new();
        let mut observer = |event: &Event| events.push(event.clone());
        let digest = digest(plan);
        let text = document::pretty(plan).expect("a document");
        let env = |name: &str| match name {
            "TOKEN" if self.set => Some(OsString::from(PLANTED)),
            _ => None,
        };
        let clock = || "2026-01-31T12:00:00.000Z".to_owned();
        let confirmed = Confirmed::destructive("a test");
        let request = Request {
            plan,
            digest: &digest,
            text: &text,
            inputs: (!ask.without_inputs).then_some("{}"),
            roots: &self.roots,
            config: &self.config,
            owner: OWNER,
            tool: &self.tool,
            workspace: None,
            confirmed: ask.confirmed.then_some(&confirmed),
            redeliver: ask.redeliver,
            env: &env,
            prompter: &mut Nobody,
            clock: &clock,
            cancel: &self.cancel,
        };
        let result = apply(&self.engine, request, &mut observer).await;
        (result, events)
    }

    async fn rollback(&self, plan: &Plan, confirmed: bool) -> Result<RolledBack, ApplyError> {
        let digest = digest(plan);
        let env = |name: &str| (name == "TOKEN" && self.set).then(|| OsString::from(PLANTED));
        let clock = || "2026-01-31T12:00:00.000Z".to_owned();
        let word = Confirmed::destructive("a test");
        let request = Request {
            plan,
            digest: &digest,
            text: "",
            inputs: None,
            roots: &self.roots,
            config: &self.config,
            owner: OWNER,
            tool: &self.tool,
            workspace: None,
            confirmed: confirmed.then_some(&word),
            redeliver: false,
            env: &env,
            prompter: &mut Nobody,
            clock: &clock,
            cancel: &self.cancel,
        };
        rollback(&self.engine, request, &mut |_| {}).await
    }

    /// The world as two runs that come to the same have it.
    fn world(&self) -> Whole {
        let mut engine = self.engine.snapshot();
        // Each run mints a CA of its own.
        for container in engine.containers.values_mut() {
            container.files.remove("/etc/ssl/certs/bundle.crt");
        }
        let mut files = BTreeMap::new();
        walk(&self.roots.root, "", &mut files);
        files.retain(|path, _| {
            let own = [JOURNAL, RECEIPT, "ledger.json", "ca.key", "ca.crt", "backup"];
            let kept = path.contains("/backup/") || path.starts_with("locks");
            !kept && !own.iter().any(|name| path.ends_with(name))
        });
        (engine, files)
    }
}

fn walk(folder: &Path, below: &str, into: &mut BTreeMap<String, Option<Digest>>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.expect("readable");
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("known").is_dir() {
            into.insert(name.clone(), None);
            walk(&entry.path(), &format!("{name}/"), into);
        } else {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            into.insert(name, Some(Digest::of(&bytes)));
        }
    }
}

fn identity() -> Identity {
    Identity::new("dev-abcde").expect("valid")
}

fn digest(plan: &Plan) -> Digest {
    document::digest(plan).expect("a document")
}

fn rel(path: &str) -> RelPath {
    RelPath::new(path).expect("valid")
}

fn state_path(path: &str) -> StatePath {
    StatePath { root: StateRoot::State, path: rel(path) }
}

fn abs(path: &str) -> AbsPath {
    AbsPath::new(path).expect("valid")
}

fn place(name: &str, subnet: &str) -> NetworkPlace {
    NetworkPlace { name: name.into(), subnet: subnet.parse().expect("valid") }
}

fn labels(role: Option<Role>, spec: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (LABEL_IDENTITY.to_owned(), identity().to_string()),
        (LABEL_OWNER.to_owned(), OWNER.to_owned()),
        (LABEL_SPEC.to_owned(), Digest::of(spec.as_bytes()).to_string()),
    ]);
    if let Some(role) = role {
        labels.insert(LABEL_ROLE.to_owned(), role.to_string());
    }
    labels
}

fn container(role: Role, image: &str, last: u8, spec: &str) -> ContainerSpec {
    let mounts = match role {
        Role::Agent => vec![
            Mount::In,
            Mount::Bin { tool: Digest::of(b"program") },
            Mount::Volume { name: "bottle-home".into(), at: abs("/home/agent") },
        ],
        _ => vec![Mount::In, Mount::Out],
    };
    ContainerSpec {
        role,
        name: format!("bottle-{role}"),
        image: image.into(),
        user: USER,
        argv: vec!["/bottle".into()],
        env: BTreeMap::new(),
        workdir: abs("/"),
        network: "bottle-net".into(),
        address: Ipv4Addr::new(10, 201, 0, last),
        extra_hosts: BTreeMap::new(),
        dns: None,
        mounts,
        tmpfs: BTreeMap::new(),
        limits: ContainerLimits { cpus_milli: 1, memory_bytes: 1, pids: 1, shm_bytes: 1 },
        runtime: None,
        read_only: false,
        terminal: false,
        inputs: BTreeMap::new(),
        labels: labels(Some(role), spec),
    }
}

fn action(id: &str, op: Operation, after: &[&str]) -> Action {
    Action {
        id: ActionId(id.into()),
        effect: Effect::Create,
        destructive: false,
        reason: Reason { code: ReasonCode::NotFound, detail: String::new() },
        depends_on: after.iter().map(|a| ActionId((*a).into())).collect(),
        expect: match op {
            Operation::Upload(_)
            | Operation::Connect(_)
            | Operation::Start(_)
            | Operation::Deliver(_)
            | Operation::Reload(_)
            | Operation::Stop(_)
            | Operation::Archive(_) => Expect::Ours,
            _ => Expect::Absent,
        },
        op,
    }
}

fn folder(path: &str, after: &[&str]) -> Action {
    let op = Operation::Folder(Folder { path: state_path(path), mode: 0o700, owner: None });
    action(&format!("folder:{path}"), op, after)
}

fn file(path: &str, content: &str, after: &[&str]) -> Action {
    let op = Operation::File(File {
        path: state_path(path),
        mode: 0o600,
        owner: None,
        content: content.into(),
    });
    action(&format!("file:{path}"), op, after)
}

fn at(role: Role) -> ContainerRef {
    ContainerRef { role, container: format!("bottle-{role}") }
}

fn secret() -> SecretRef {
    SecretRef::Secret { secret: SecretName::new("TOKEN").expect("valid") }
}

/// The first plan of a session: two containers, two networks, a volume, a key pair, secrets.
fn first() -> Plan {
    let network = |name: &str, subnet: &str, internal: bool| {
        let subnet: Subnet = subnet.parse().expect("valid");
        let labels = labels(None, name);
        Operation::Network(NetworkSpec { name: name.into(), subnet, internal, labels })
    };
    let upload = Upload {
        container: "bottle-agent".into(),
        volume: None,
        items: vec![
            UploadItem {
                at: abs("/etc/bottle"),
                mode: 0o755,
                owner: USER,
                source: UploadSource::Folder,
            },
            UploadItem {
                at: abs("/etc/ssl/certs/bundle.crt"),
                mode: 0o644,
                owner: USER,
                source: UploadSource::CaBundle,
            },
            UploadItem {
                at: abs("/etc/bottle/text"),
                mode: 0o644,
                owner: USER,
                source: UploadSource::Text { content: "hello".into() },
            },
        ],
    };
    let deliver = |role: Role| {
        Operation::Deliver(Deliver {
            role,
            container: format!("bottle-{role}"),
            items: BTreeMap::from([("TOKEN".to_owned(), secret())]),
        })
    };
    let actions = vec![
        folder("agent", &[]),
        folder("agent/in", &["folder:agent"]),
        folder("egress", &[]),
        folder("egress/in", &["folder:egress"]),
        folder("egress/out", &["folder:egress"]),
        file("metadata.json", "{}", &[]),
        file("egress/in/routes.json", "routes 1", &["folder:egress/in"]),
        action(
            "mint:ca",
            Operation::MintCa(MintCa {
                key: state_path("egress/in/ca.key"),
                certificate: state_path("egress/in/ca.crt"),
                common_name: "bottle dev".into(),
                not_before: Timestamp::new("2026-01-31T12:00:00Z").expect("valid"),
                days: 30,
                fingerprint: None,
            }),
            &["folder:egress/in"],
        ),
        action(
            "image:sidecar",
            Operation::ImportImage(ImportImage {
                tag: "bottle-sidecar:1".into(),
                tool: Digest::of(b"program"),
            }),
            &[],
        ),
        action("network:net", network("bottle-net", "10.201.0.0/28", true), &[]),
        action("network:out", network("bottle-out", "10.201.0.16/28", false), &[]),
        action(
            "volume:home",
            Operation::Volume(VolumeSpec {
                name: "bottle-home".into(),
                labels: labels(None, "home"),
            }),
            &[],
        ),
        action(
            "container:agent",
            Operation::Container(container(Role::Agent, "agent:1", 3, "agent 1")),
            &["network:net", "volume:home", "folder:agent/in"],
        ),
        action(
            "container:egress",
            Operation::Container(container(Role::Egress, "bottle-sidecar:1", 2, "egress 1")),
            &[
                "network:net",
                "image:sidecar",
                "file:egress/in/routes.json",
                "folder:egress/out",
                "mint:ca",
            ],
        ),
        action("upload:agent/ca", Operation::Upload(upload), &["container:agent", "mint:ca"]),
        action(
            "connect:egress/out",
            Operation::Connect(Connect {
                container: "bottle-egress".into(),
                network: "bottle-out".into(),
                address: Ipv4Addr::new(10, 201, 0, 18),
            }),
            &["container:egress", "network:out"],
        ),
        action("start:egress", Operation::Start(at(Role::Egress)), &["connect:egress/out"]),
        action(
            "start:agent",
            Operation::Start(at(Role::Agent)),
            &["upload:agent/ca", "start:egress"],
        ),
        action("deliver:agent", deliver(Role::Agent), &["start:agent"]),
        action("deliver:egress", deliver(Role::Egress), &["start:egress"]),
    ];
    plan(None, actions)
}

fn plan(parent: Option<Digest>, actions: Vec<Action>) -> Plan {
    let limits = Limits::default();
    Plan {
        kind: "bottle/plan".into(),
        format_version: "1.0".into(),
        written_by: "0.1.0".into(),
        intent: Intent::Launch,
        identity: identity(),
        parent,
        spec: Spec {
            agent: Name::new("dev").expect("valid"),
            session: SessionRequest::Named { identity: identity() },
            at: Timestamp::new("2026-01-31T12:00:00Z").expect("valid"),
            workspace: None,
            resume: false,
            task: None,
            args: Vec::new(),
            overrides: Overrides::default(),
            refresh: BTreeSet::new(),
            offline: false,
        },
        grants: Grants {
            agent: AgentGrant {
                name: Name::new("dev").expect("valid"),
                origin: Origin::Home,
                prompt: Digest::of(b""),
                skills: BTreeMap::new(),
            },
            bottle: Name::new("dev").expect("valid"),
            provider: Provider::Claude,
            image: ImageGrant::Reference {
                reference: "agent:1".into(),
                digest: None,
                allow_from: BTreeSet::new(),
            },
            isolation: Isolation::Auto,
            limits,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            egress: EgressGrant { routes: BTreeMap::new(), rules: None, pipelock: None },
            gate_base: None,
            git: BTreeMap::new(),
            git_user: None,
            workspace: WorkspaceGrant {
                mode: WorkspaceMode::None,
                hide: BTreeSet::new(),
                protect: BTreeSet::new(),
            },
            supervise: false,
            push_exceptions: BTreeMap::new(),
        },
        session: Session {
            started_at: Timestamp::new("2026-01-31T12:00:00Z").expect("valid"),
            owner: OWNER.into(),
            agent_user: USER,
            sidecar_user: USER,
            net: place("bottle-net", "10.201.0.0/28"),
            out: place("bottle-out", "10.201.0.16/28"),
            places: BTreeMap::new(),
            runtime: None,
            tool: Digest::of(b"program"),
            base_image: "agent:1".into(),
            agent_image: "agent:1".into(),
            sidecar_image: "bottle-sidecar:1".into(),
            workspace: None,
            context: None,
            upstream_proxy: None,
            upstream_ca: None,
            approvals: Vec::new(),
            resumed: false,
        },
        requires: BTreeSet::from([
            Requirement::EngineApi { major: 1, minor: 41 },
            Requirement::Owner { owner: OWNER.into() },
            Requirement::Secret { secret: SecretName::new("TOKEN").expect("valid") },
        ]),
        actions,
        notices: Vec::new(),
        summary: Summary::default(),
    }
}

/// The plan that finds all well after [`first`].
fn idle(bench: &Bench, parent: &Plan) -> Plan {
    let mut next = parent.clone();
    next.parent = Some(digest(parent));
    for action in &mut next.actions {
        if let Operation::MintCa(mint) = &mut action.op {
            mint.fingerprint = crate::ca::fingerprint(&bench.read("egress/in/ca.crt"));
        }
        action.effect = Effect::None;
        action.expect = Expect::Satisfied;
    }
    next
}

/// A plan after `parent` that replaces egress and changes its routes.
async fn second(bench: &Bench, parent: &Plan) -> Plan {
    let mut next = idle(bench, parent);
    let old = bench.engine.container("bottle-egress").await.expect("ok").expect("there").id;
    let take = |op: Operation, id: &str, after: &[&str]| Action {
        effect: Effect::Delete,
        expect: Expect::Object { id: old.clone() },
        ..action(id, op, after)
    };
    for action in &mut next.actions {
        let changed = ["container:egress", "connect:egress/out", "start:egress", "deliver:egress"];
        if changed.contains(&action.id.0.as_str()) {
            action.effect = Effect::Replace;
            action.expect = Expect::Ours;
        }
        if action.id.0 == "container:egress" {
            action.expect = Expect::Absent;
            action.depends_on.insert(ActionId("remove:egress".into()));
            action.op =
                Operation::Container(container(Role::Egress, "bottle-sidecar:1", 2, "egress 2"));
        }
        if action.id.0 == "file:egress/in/routes.json" {
            action.effect = Effect::Update;
            action.expect = Expect::File { digest: Digest::of(b"routes 1") };
            if let Operation::File(file) = &mut action.op {
                file.content = "routes 2".into();
            }
        }
    }
    let at = || at(Role::Egress);
    next.actions.insert(0, take(Operation::Stop(at()), "stop:egress", &[]));
    next.actions
        .insert(1, take(Operation::RemoveContainer(at()), "remove:egress", &["stop:egress"]));
    next
}

fn findings(error: ApplyError) -> Vec<String> {
    match error {
        ApplyError::Stale { findings } => findings.iter().map(ToString::to_string).collect(),
        error => panic!("expected a stale plan, found {error:?}"),
    }
}

#[tokio::test]
async fn a_first_plan_comes_up_whole() {
    let bench = Bench::new();
    let plan = first();
    let (result, events) = bench.apply_asking(&plan, Ask::default()).await;
    let applied = result.expect("applied");
    assert_eq!(applied.receipt.outcome, Outcome::Complete);
    assert!(applied.receipt.actions.iter().all(|a| a.outcome == ActionOutcome::Done));
    let world = bench.engine.snapshot();
    for name in ["bottle-agent", "bottle-egress"] {
        let container = &world.containers[name];
        assert_eq!(container.state, ContainerState::Running, "{name}");
        assert_eq!(container.labels[LABEL_PLAN], digest(&plan).as_str());
        assert!(container.delivered, "{name}");
    }
    assert_eq!(world.containers["bottle-egress"].networks.len(), 2);
    let bundle = bench.engine.file("bottle-agent", "/etc/ssl/certs/bundle.crt").expect("there");
    let bundle = String::from_utf8_lossy(&bundle);
    assert!(bundle.starts_with("the image's roots\n-----BEGIN CERTIFICATE-----"), "{bundle}");
    let ledger = bench.ledger();
    assert!(ledger.complete);
    assert_eq!(ledger.plan, Some(digest(&plan)));
    assert_eq!(ledger.delivered.len(), 2);
    assert_eq!(ledger.loaded[&Role::Egress].2, Digest::of(b"routes 1"));
    assert!(bench.roots.bin(&bench.tool.digest).join("bottle").exists());
    assert!(bench.read("egress/in/applied.json").contains(digest(&plan).as_str()));
    assert!(matches!(events.first(), Some(Event::PlanStart { actions: 20, .. })));
    let done = Event::PlanDone { seq: events.len() as u64, outcome: Outcome::Complete };
    assert_eq!(events.last(), Some(&done));
    let mut stored = String::new();
    for name in [JOURNAL, RECEIPT, "ledger.json", "plan.json"] {
        stored.push_str(&bench.read(name));
    }
    assert!(!format!("{stored}{events:?}").contains(PLANTED));
}

#[tokio::test]
async fn one_inspection_an_action_at_most() {
    let bench = Bench::new();
    bench.apply(&first()).await.expect("applied");
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for call in bench.engine.calls() {
        *seen.entry((call.method.to_owned(), call.object)).or_default() += 1;
    }
    let count = |method: &str, object: &str| seen[&(method.to_owned(), object.to_owned())];
    assert_eq!(count("network", "bottle-net"), 1);
    assert_eq!(count("create_network", "bottle-net"), 1);
    assert_eq!(count("volume", "bottle-home"), 1);
    // Create, upload (and its own), start, deliver (and its own).
    assert!(count("container", "bottle-agent") <= 7, "{seen:?}");
}

#[tokio::test]
async fn the_same_plan_again_only_looks() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let (before, journal) = (bench.world(), bench.read(JOURNAL));
    bench.engine.clear_calls();
    let applied = bench.apply(&plan).await.expect("verified");
    assert_eq!(applied.receipt.outcome, Outcome::Verified);
    assert_eq!(bench.world(), before);
    assert_eq!(bench.read(JOURNAL), journal);
    let looks = ["container", "network", "volume", "image", "facts"];
    assert!(bench.engine.calls().iter().all(|c| looks.contains(&c.method)));
}

#[tokio::test]
async fn an_idle_plan_does_not_become_the_last_applied() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let mut next = idle(&bench, &plan);
    // As many actions as a large session has.
    for n in 0..25 {
        let held = Action {
            effect: Effect::None,
            expect: Expect::Satisfied,
            id: ActionId(format!("file:metadata-{n}.json")),
            ..file("metadata.json", "{}", &[])
        };
        next.actions.push(held);
    }
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        let again = bench.apply(&next).await.expect("verified");
        assert_eq!(again.receipt.outcome, Outcome::Verified);
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(40), "{fastest:?}");
    let applied = bench.apply(&next).await.expect("verified");
    assert_eq!(applied.receipt.outcome, Outcome::Verified);
    assert_eq!(bench.ledger().plan, Some(digest(&plan)));
}

#[tokio::test]
async fn drift_is_reported_whole_and_not_repaired() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    std::fs::write(bench.state().join("metadata.json"), "edited").expect("written");
    bench.engine.drop_container("bottle-egress");
    let before = bench.world();
    for plan in [plan.clone(), idle(&bench, &plan)] {
        let error = bench.apply(&plan).await.expect_err("drifted");
        assert_eq!(error.exit_code(), 10);
        let found = findings(error).join("\n");
        for wanted in ["file:metadata.json", "container:egress", "start:egress", "deliver:egress"] {
            assert!(found.contains(wanted), "{wanted} is missing in {found}");
        }
        assert!(!found.contains("container:agent"), "{found}");
    }
    assert_eq!(bench.world(), before);
}

#[tokio::test]
async fn redelivery_is_the_only_thing_a_verified_plan_does() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    bench.engine.clear_calls();
    let ask = Ask { redeliver: true, ..Ask::default() };
    let applied = bench.apply_asking(&plan, ask).await.0.expect("applied");
    let done = applied.receipt.actions.iter().filter(|a| a.outcome == ActionOutcome::Done);
    let done: Vec<&str> = done.map(|a| a.id.0.as_str()).collect();
    assert_eq!(done, ["deliver:egress"]);
    assert_eq!(bench.engine.calls().iter().filter(|c| c.method == "exec").count(), 1);
    assert!(bench.ledger().complete);
}

#[tokio::test]
async fn a_running_agent_keeps_its_environment_until_it_is_restarted() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    // The agent's init, once the agent runs.
    let refuses = |name: &str, _: &[String]| ExecResult {
        code: if name == "bottle-agent" { 77 } else { 0 },
        output: "the agent already runs".into(),
    };
    bench.engine.set_exec(refuses);
    let again = || Ask { redeliver: true, ..Ask::default() };
    let (applied, events) = bench.apply_asking(&plan, again()).await;
    applied.expect("rotated at the sidecars");
    let told = |events: &[Event]| {
        let left = events.iter().find_map(|event| match event {
            Event::ActionSkipped { id, left, .. } if id.0 == "deliver:agent" => left.clone(),
            _ => None,
        });
        left.unwrap_or_default()
    };
    assert!(told(&events).contains("`docker restart bottle-agent`"), "{events:?}");
    bench.engine.crash_container("bottle-agent");
    bench.engine.start("bottle-agent").await.expect("restarted");
    bench.engine.set_exec(|_, _| ExecResult { code: 0, output: String::new() });
    let (applied, events) = bench.apply_asking(&plan, again()).await;
    applied.expect("delivered to both");
    assert_eq!(told(&events), "");
    assert_eq!(bench.engine.delivered("bottle-agent"), bench.engine.delivered("bottle-egress"));
}

#[tokio::test]
async fn inputs_are_those_of_the_plan_in_force_or_not_there() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    assert_eq!(bench.read("inputs.json"), "{}");
    let next = second(&bench, &plan).await;
    let ask = Ask { without_inputs: true, ..Ask::default() };
    bench.apply_asking(&next, ask).await.0.expect("applied");
    assert!(!bench.state().join("inputs.json").exists(), "they would make another plan");
    bench.rollback(&next, true).await.expect("undone");
    assert_eq!(bench.read("inputs.json"), "{}");
}

#[tokio::test]
async fn a_plan_of_another_parent_is_stale() {
    let bench = Bench::new();
    let plan = first();
    let mut orphan = first();
    orphan.parent = Some(Digest::of(b"another"));
    let error = bench.apply(&orphan).await.expect_err("stale");
    assert!(findings(error)[0].starts_with("parent: "));
    assert!(!bench.state().exists());
    bench.apply(&plan).await.expect("applied");
    let mut rival = first();
    rival.written_by = "0.1.1".into();
    assert!(findings(bench.apply(&rival).await.expect_err("stale"))[0].starts_with("parent: "));
}

#[tokio::test]
async fn a_failure_in_the_middle_is_told_in_three_lists_and_carried_on() {
    let bench = Bench::new();
    let plan = first();
    bench.engine.set_exec(|name, _| match name {
        "bottle-egress" => ExecResult { code: 1, output: format!("bad key {PLANTED}\nmore") },
        _ => ExecResult { code: 0, output: String::new() },
    });
    let mut plan = plan;
    let agent = plan.actions.iter_mut().find(|a| a.id.0 == "start:agent").expect("there");
    agent.depends_on.insert(ActionId("deliver:egress".into()));
    let deliver = plan.actions.pop().expect("there");
    let before = plan.actions.iter().position(|a| a.id.0 == "start:agent").expect("there");
    plan.actions.insert(before, deliver);
    let error = bench.apply(&plan).await.expect_err("partial");
    assert_eq!(error.exit_code(), 12);
    let text = format!("{error:?}");
    let ApplyError::Partial(report) = error else { panic!("{text}") };
    assert_eq!(report.failed.len(), 1);
    assert_eq!(report.failed[0].action.0, "deliver:egress");
    let why = crate::run::chain(&report.failed[0]);
    assert!(why.contains("exit 1: bad key ***"), "{why}");
    let left: Vec<&str> = report.not_begun.iter().map(|id| id.0.as_str()).collect();
    assert_eq!(left, ["start:agent", "deliver:agent"]);
    assert_eq!(report.done.len(), 17);
    let receipt = bench.read(RECEIPT);
    assert!(receipt.contains("not_begun") && !receipt.contains(PLANTED));
    assert!(!bench.ledger().complete);
    bench.engine.set_exec(|_, _| ExecResult { code: 0, output: String::new() });
    let applied = bench.apply(&plan).await.expect("carried on");
    assert_eq!(applied.receipt.outcome, Outcome::Complete);
    let done = applied.receipt.actions.iter().filter(|a| a.outcome == ActionOutcome::Done).count();
    assert_eq!(done, 3);
    assert!(bench.ledger().complete);
}

#[tokio::test]
async fn a_delivery_waits_for_the_socket() {
    let bench = Bench::new();
    let tries = std::cell::Cell::new(0);
    bench.engine.set_exec(move |_, argv| {
        assert_eq!(&argv[1..], ["sidecar", "receive"]);
        tries.set(tries.get() + 1);
        ExecResult { code: if tries.get() < 5 { 75 } else { 0 }, output: String::new() }
    });
    bench.apply(&first()).await.expect("applied");
}

#[tokio::test]
async fn missing_secrets_cost_nothing() {
    let mut bench = Bench::new();
    bench.set = false;
    let mut plan = first();
    let error = bench.apply(&plan).await.expect_err("missing");
    assert_eq!(error.exit_code(), 10);
    assert!(matches!(&error, ApplyError::RequirementsFailed { unmet } if unmet.len() == 1));
    plan.requires.clear();
    let error = bench.apply(&plan).await.expect_err("missing");
    assert!(matches!(&error, ApplyError::SecretsMissing(m) if m.0.len() == 1), "{error:?}");
    assert!(!bench.state().exists());
    assert!(bench.engine.snapshot().networks.is_empty());
}

#[tokio::test]
async fn requirements_are_reported_together() {
    let bench = Bench::new();
    let mut plan = first();
    plan.requires.extend([
        Requirement::Runtime { name: "runsc".into() },
        Requirement::Owner { owner: "1000-bbbb".into() },
        Requirement::SidecarProtocol { version: 999 },
        Requirement::Image { reference: "absent:1".into(), id: None },
        Requirement::Tool { digest: Digest::of(b"another") },
        Requirement::Workspace { path: abs("/no/such/folder"), digest: None },
    ]);
    let error = bench.apply(&plan).await.expect_err("unmet");
    let ApplyError::RequirementsFailed { unmet } = error else { panic!("{error:?}") };
    assert_eq!(unmet.len(), 6);
    assert!(unmet.iter().all(|u| !u.found.is_empty() && !u.hint.is_empty()));
}

#[tokio::test]
async fn what_this_host_decides_needs_no_word_in_the_plan() {
    let bench = Bench::new();
    let mut facts = bench.engine.facts().await.expect("facts");
    facts.runtimes.insert("runsc".into());
    bench.engine.set_facts(facts);
    let mut plan = first();
    for action in &mut plan.actions {
        if let Operation::Network(network) = &mut action.op
            && !network.internal
        {
            network.subnet = "140.82.112.0/28".parse().expect("valid");
        }
    }
    let error = bench.apply(&plan).await.expect_err("unmet");
    let ApplyError::RequirementsFailed { unmet } = error else { panic!("{error:?}") };
    let told: Vec<String> = unmet.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "expected subnets of this host's pool 10.201.0.0/16, found 140.82.112.0/28 for \
             bottle-out",
            "expected isolation auto to use runtime runsc, which is registered, found a plain \
             container",
        ]
    );
    assert!(bench.engine.snapshot().networks.is_empty());
}

#[tokio::test]
async fn a_change_replaces_what_it_says_and_carries_on_after_it() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let next = second(&bench, &plan).await;
    bench.apply(&next).await.expect("applied");
    let world = bench.engine.snapshot();
    let egress = &world.containers["bottle-egress"];
    assert_eq!(egress.labels[LABEL_SPEC], Digest::of(b"egress 2").as_str());
    assert!(egress.delivered);
    let ledger = bench.ledger();
    assert_eq!(ledger.previous, Some(digest(&plan)));
    assert_eq!(ledger.loaded[&Role::Egress].2, Digest::of(b"routes 2"));
    let applied = bench.apply(&next).await.expect("verified");
    assert_eq!(applied.receipt.outcome, Outcome::Verified);
}

#[tokio::test]
async fn an_edited_file_is_not_overwritten() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let next = second(&bench, &plan).await;
    std::fs::write(bench.state().join("egress/in/routes.json"), "edited").expect("written");
    let error = bench.apply(&next).await.expect_err("stale");
    let found = findings(error);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("file:egress/in/routes.json: "), "{found:?}");
    assert_eq!(bench.read("egress/in/routes.json"), "edited");
    assert_eq!(bench.ledger().plan, Some(digest(&plan)));
}

#[tokio::test]
async fn a_planted_link_is_stale_and_is_not_followed() {
    let bench = Bench::new();
    let outside = bench.folder.path().join("outside");
    std::fs::create_dir(&outside).expect("made");
    std::fs::create_dir_all(bench.state()).expect("made");
    symlink(&outside, bench.state().join("egress")).expect("linked");
    let found = findings(bench.apply(&first()).await.expect_err("stale"));
    assert!(found.iter().any(|f| f.contains("symbolic link")), "{found:?}");
    assert_eq!(std::fs::read_dir(&outside).expect("readable").count(), 0);
    std::fs::remove_file(bench.state().join("egress")).expect("removed");
    std::fs::remove_dir(bench.state()).expect("removed");
    symlink(&outside, bench.state()).expect("linked");
    let error = bench.apply(&first()).await.expect_err("a link");
    assert_eq!(error.exit_code(), 1);
    assert!(crate::run::chain(&error).contains("symbolic link"));
    assert_eq!(std::fs::read_dir(&outside).expect("readable").count(), 0);
}

#[tokio::test]
async fn a_full_disk_stops_it_and_leaves_no_rest() {
    let mut bench = Bench::new();
    let small = bench.folder.path().join("small");
    std::fs::create_dir(&small).expect("made");
    let mount = |arguments: &[&str]| {
        let mut command = std::process::Command::new("mount");
        let done = command.args(arguments).arg(&small).status().expect("runs");
        assert!(done.success(), "this test mounts a file system, so it needs root");
    };
    mount(&["-t", "tmpfs", "-o", "size=128k,mode=700", "tmpfs"]);
    let _unmount = Unmount(small.clone());
    bench.roots.root = small.join("root");
    let mut plan = first();
    plan.actions.push(file("large", &"x".repeat(200 << 10), &["start:egress"]));
    // The plan itself is stored first: what does not fit at all is not begun.
    let whole = bench.apply(&plan).await.expect_err("full");
    let temporary = |folder: &Path| {
        let mut files = BTreeMap::new();
        walk(folder, "", &mut files);
        files.keys().filter(|f| f.contains(".bottle-")).count()
    };
    assert_eq!(whole.exit_code(), 1);
    assert_eq!(temporary(&small), 0);
    assert!(bench.engine.snapshot().networks.is_empty());
    mount(&["-o", "remount,size=360k"]);
    let part = bench.apply(&plan).await.expect_err("full");
    let ApplyError::Partial(report) = &part else { panic!("{part:?}") };
    assert!(report.failed.iter().any(|f| f.action.0 == "file:large"), "{report:?}");
    assert_eq!(temporary(&small), 0);
    mount(&["-o", "remount,size=4m"]);
    bench.apply(&plan).await.expect("carried on");
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_torn_ledger_stops_everything() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    std::fs::write(bench.state().join("ledger.json"), "{\"pl").expect("written");
    let error = bench.apply(&plan).await.expect_err("torn");
    assert_eq!(error.exit_code(), 1);
    assert!(crate::run::chain(&error).contains("ledger.json"));
}

#[tokio::test]
async fn a_torn_journal_is_carried_on() {
    let bench = Bench::new();
    let plan = first();
    bench.engine.fail_at(12, FaultKind::Refused);
    bench.apply(&plan).await.expect_err("partial");
    let path = bench.state().join(JOURNAL);
    if let Ok(text) = std::fs::read_to_string(&path) {
        std::fs::write(&path, &text[..text.len() - 20]).expect("written");
    }
    bench.apply(&plan).await.expect("carried on");
    assert!(bench.ledger().complete);
}

#[tokio::test]
async fn a_clash_at_creation_is_stale() {
    let bench = Bench::new();
    let taken: Subnet = "10.201.0.0/24".parse().expect("valid");
    bench.engine.plant_network("foreign", taken, &BTreeMap::new());
    let error = bench.apply(&first()).await.expect_err("a clash");
    assert!(error.is_stale(), "{error:?}");
}

#[tokio::test]
async fn a_lost_answer_is_looked_at_before_it_is_judged() {
    let plan = first();
    let bench = Bench::new();
    bench.apply(&plan).await.expect("applied");
    for n in 1..=bench.engine.calls().len() {
        let bench = Bench::new();
        bench.engine.lose_at(n);
        let applied = bench.apply(&plan).await;
        let lost = bench.engine.calls()[n - 1].method;
        let recovers =
            lost.starts_with("create_") || ["import_image", "connect", "start"].contains(&lost);
        assert_eq!(applied.is_ok(), recovers, "{lost}: {applied:?}");
    }
}

#[tokio::test]
async fn an_engine_that_is_down_touches_nothing() {
    let bench = Bench::new();
    bench.engine.set_down(true);
    let error = bench.apply(&first()).await.expect_err("down");
    assert_eq!(error.exit_code(), 1);
    assert!(!bench.state().exists());
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let bench = Bench::new();
    let root = Root::open_or_make(&bench.roots.root).expect("made");
    let _lock = Lock::session(&bench.roots, &root, &identity()).expect("free");
    let error = bench.apply(&first()).await.expect_err("locked");
    assert!(matches!(error, ApplyError::Locked(_)));
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test]
async fn told_to_stop_it_stops_between_actions() {
    let bench = Bench::new();
    let cancel = bench.cancel.clone();
    bench.engine.set_exec(move |_, _| {
        cancel.set();
        ExecResult { code: 0, output: String::new() }
    });
    let mut plan = first();
    let agent = plan.actions.iter_mut().find(|a| a.id.0 == "deliver:egress").expect("there");
    agent.depends_on.insert(ActionId("deliver:agent".into()));
    let error = bench.apply(&plan).await.expect_err("interrupted");
    assert_eq!(error.exit_code(), 130);
    let ApplyError::Interrupted(report) = error else { panic!("{error:?}") };
    assert_eq!(report.not_begun.len(), 1);
}

/// The session's end as a plan after `parent`.
async fn destroy(bench: &Bench, parent: &Plan) -> Plan {
    let mut actions = Vec::new();
    let delete = |op, id: &str, expect, after: &[&str]| Action {
        effect: Effect::Delete,
        expect,
        ..action(id, op, after)
    };
    let mut gone = Vec::new();
    for role in [Role::Egress, Role::Agent] {
        let found = bench.engine.container(&format!("bottle-{role}")).await.expect("ok");
        let expect = || Expect::Object { id: found.as_ref().expect("there").id.clone() };
        let (stop, remove) = (format!("stop:{role}"), format!("remove:{role}"));
        actions.push(delete(Operation::Stop(at(role)), &stop, expect(), &[]));
        let op = Operation::RemoveContainer(at(role));
        actions.push(delete(op, &remove, expect(), &[stop.as_str()]));
        gone.push(remove);
    }
    let mut last: Vec<String> = gone.clone();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    for key in ["net", "out"] {
        let op = Operation::RemoveNetwork(ObjectRef { name: format!("bottle-{key}") });
        let id = format!("remove-network:{key}");
        actions.push(delete(op, &id, Expect::Ours, &gone));
        last.push(id);
    }
    let op = Operation::RemoveVolume(ObjectRef { name: "bottle-home".into() });
    let mut volume = delete(op, "remove-volume:home", Expect::Ours, &gone);
    volume.destructive = true;
    actions.push(volume);
    last.push("remove-volume:home".into());
    let last: Vec<&str> = last.iter().map(String::as_str).collect();
    let op = Operation::Archive(Archive { identity: identity() });
    actions.push(delete(op, "archive:state", Expect::Ours, &last));
    let mut end = plan(Some(digest(parent)), actions);
    end.intent = Intent::Destroy;
    end.requires.clear();
    end
}

#[tokio::test]
async fn a_session_ends_in_history_and_only_with_a_word() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let end = destroy(&bench, &plan).await;
    let error = bench.apply(&end).await.expect_err("unconfirmed");
    assert_eq!(error.exit_code(), 11);
    std::fs::create_dir_all(bench.roots.history(&identity())).expect("made");
    let ask = || Ask { confirmed: true, ..Ask::default() };
    let applied = bench.apply_asking(&end, ask()).await.0.expect("applied");
    let record = bench.roots.root.join("history/dev-abcde-2");
    assert_eq!(applied.archived, Some(record.clone()));
    assert!(!bench.state().exists());
    assert!(record.join(RECEIPT).exists());
    let world = bench.engine.snapshot();
    assert!(world.containers.is_empty() && world.networks.is_empty() && world.volumes.is_empty());
    let again = bench.apply_asking(&end, ask()).await.0.expect("verified");
    assert_eq!(again.receipt.outcome, Outcome::Verified);
}

#[tokio::test]
async fn a_reload_waits_for_the_sidecars_word() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let wanted = Digest::of(b"routes 2");
    let mut next = idle(&bench, &plan);
    for action in &mut next.actions {
        if action.id.0 == "file:egress/in/routes.json" {
            action.effect = Effect::Update;
            action.expect = Expect::File { digest: Digest::of(b"routes 1") };
            if let Operation::File(file) = &mut action.op {
                file.content = "routes 2".into();
            }
        }
    }
    next.actions.push(Action {
        effect: Effect::Update,
        ..action(
            "reload:egress",
            Operation::Reload(Reload {
                role: Role::Egress,
                container: "bottle-egress".into(),
                digest: wanted.clone(),
            }),
            &["file:egress/in/routes.json", "start:egress"],
        )
    });
    let out = bench.state().join("egress/out/state.json");
    let bad = Digest::of(b"routes 1");
    std::fs::write(&out, format!("{{\"loaded\":\"{bad}\",\"error\":null}}")).expect("written");
    let path = out.clone();
    let sidecar = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(300));
        let word = format!("{{\"loaded\":\"{bad}\",\"error\":\"line 3: no host\"}}");
        std::fs::write(path, word).expect("written");
    });
    let error = bench.apply(&next).await.expect_err("a bad file");
    sidecar.await.expect("ran");
    let ApplyError::Partial(report) = error else { panic!("{error:?}") };
    let why = crate::run::chain(&report.failed[0]);
    assert!(why.contains("line 3: no host"), "{why}");
    std::fs::write(&out, format!("{{\"loaded\":\"{wanted}\"}}")).expect("written");
    bench.apply(&next).await.expect("carried on");
    assert_eq!(bench.ledger().loaded[&Role::Egress].2, wanted);
}

type Whole = (EngineWorld, BTreeMap<String, Option<Digest>>);

/// A world less the plan's digest, which holds the engine's ids and the CA's fingerprint.
fn less_plan((mut engine, mut files): Whole) -> Whole {
    for container in engine.containers.values_mut() {
        container.labels.remove(LABEL_PLAN);
    }
    engine.networks.values_mut().for_each(|n| drop(n.labels.remove(LABEL_PLAN)));
    engine.volumes.values_mut().for_each(|labels| drop(labels.remove(LABEL_PLAN)));
    let named = ["plan.json", "plan.previous.json", "applied.json"];
    files.retain(|path, _| !named.iter().any(|name| path.ends_with(name)));
    (engine, files)
}

/// Ends a run at each engine call, before it takes effect and after, and applies again.
fn crash_everywhere(prepare: impl AsyncFn(&Bench) -> Plan) {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let whole = Bench::new();
    let plan = runtime().block_on(prepare(&whole));
    whole.engine.clear_calls();
    runtime().block_on(whole.apply(&plan)).expect("applied");
    let calls = whole.engine.calls().len();
    let wanted = less_plan(whole.world());
    for taken in [Taken::No, Taken::Yes] {
        for n in 1..=calls {
            let bench = Bench::new();
            let plan = runtime().block_on(prepare(&bench));
            bench.engine.clear_calls();
            bench.engine.hang_at(n, taken);
            // What blocks on other threads ends before the runtime is gone: like a process.
            runtime().block_on(async {
                let applied = tokio::time::timeout(Duration::from_millis(150), bench.apply(&plan));
                assert!(applied.await.is_err(), "call {n} of {calls} was not made");
            });
            bench.engine.clear_faults();
            let again = runtime().block_on(bench.apply(&plan));
            let again = again.unwrap_or_else(|e| panic!("call {n}, {taken:?}: {e:?}"));
            assert!(matches!(again.receipt.outcome, Outcome::Complete | Outcome::Verified));
            assert_eq!(less_plan(bench.world()), wanted, "call {n}, {taken:?}");
            assert!(bench.ledger().complete);
            let more = runtime().block_on(bench.apply(&plan)).expect("verified");
            assert_eq!(more.receipt.outcome, Outcome::Verified);
        }
    }
}

#[test]
fn a_first_plan_survives_a_crash_at_every_call() {
    crash_everywhere(async |_| first());
}

#[test]
fn a_replacement_survives_a_crash_at_every_call() {
    crash_everywhere(async |bench| {
        let plan = first();
        bench.apply(&plan).await.expect("applied");
        second(bench, &plan).await
    });
}

#[tokio::test]
async fn a_rollback_of_the_first_plan_leaves_nothing() {
    let bench = Bench::new();
    let (engine, _) = bench.world();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    std::fs::write(bench.state().join("egress/out/decisions.jsonl"), "{}").expect("written");
    let error = bench.rollback(&plan, false).await.expect_err("an agent may have worked");
    assert_eq!(error.exit_code(), 11);
    let back = bench.rollback(&plan, true).await.expect("rolled back");
    assert_eq!(back.kept, []);
    assert_eq!(back.returned_to, None);
    let mut after = bench.engine.snapshot();
    after.images.remove("bottle-sidecar:1");
    assert_eq!(after, engine);
    assert!(!bench.state().exists());
    bench.apply(&plan).await.expect("applied again");
}

#[tokio::test]
async fn a_rollback_brings_back_what_was_replaced() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let before = bench.world();
    let next = second(&bench, &plan).await;
    bench.apply(&next).await.expect("applied");
    let back = bench.rollback(&next, false).await.expect("rolled back");
    assert_eq!(back.kept, []);
    assert_eq!(back.returned_to, Some(digest(&plan)));
    assert_eq!(bench.world(), before);
    let ledger = bench.ledger();
    assert!(ledger.complete);
    assert_eq!(ledger.plan, Some(digest(&plan)));
    let applied = bench.apply(&plan).await.expect("verified");
    assert_eq!(applied.receipt.outcome, Outcome::Verified);
    let next = second(&bench, &plan).await;
    bench.apply(&next).await.expect("applied again");
}

#[tokio::test]
async fn a_rollback_can_be_cut_short_anywhere() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    let before = bench.world();
    let next = second(&bench, &plan).await;
    bench.apply(&next).await.expect("applied");
    bench.engine.clear_calls();
    bench.rollback(&next, false).await.expect("rolled back");
    let calls = bench.engine.calls().len();
    for n in 1..=calls {
        let next = second(&bench, &plan).await;
        bench.apply(&next).await.expect("applied");
        bench.engine.clear_calls();
        bench.engine.fail_at(n, FaultKind::Unreachable);
        let cut = bench.rollback(&next, false).await;
        bench.engine.clear_faults();
        if cut.is_err() {
            bench.rollback(&next, false).await.unwrap_or_else(|e| panic!("call {n}: {e:?}"));
        }
        assert_eq!(bench.world(), before, "call {n}");
        let applied = bench.apply(&plan).await.expect("verified");
        assert_eq!(applied.receipt.outcome, Outcome::Verified);
    }
}

/// Kills an apply in each of these calls and undoes it; answers how long the longest undoing took.
fn killed_in(method: &str, taken: Taken) -> Duration {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let whole = Bench::new();
    runtime().block_on(whole.apply(&first())).expect("applied");
    let calls = whole.engine.calls();
    let made: Vec<usize> = (1..=calls.len()).filter(|n| calls[n - 1].method == method).collect();
    let took = made.into_iter().map(|n| {
        let bench = Bench::new();
        let (engine, _) = bench.world();
        let plan = first();
        bench.engine.hang_at(n, taken);
        // What blocks on other threads ends before the runtime is gone: like a process.
        runtime().block_on(async {
            let applied = tokio::time::timeout(Duration::from_millis(150), bench.apply(&plan));
            assert!(applied.await.is_err(), "call {n} was not made");
        });
        let begun = Instant::now();
        runtime().block_on(bench.rollback(&plan, true)).expect("rolled back");
        let took = begun.elapsed();
        // Whatever comes now comes to stay.
        while bench.engine.is_busy() {
            runtime().block_on(bench.engine.facts()).expect("asked");
        }
        let mut after = bench.engine.snapshot();
        after.images.remove("bottle-sidecar:1");
        assert_eq!(after, engine, "{taken:?}, call {n}: {:?}", calls[n - 1]);
        assert!(!bench.state().exists());
        took
    });
    took.max().expect("such a call")
}

#[test]
fn a_rollback_waits_for_what_the_engine_is_still_making() {
    for method in ["create_network", "create_volume", "create_container"] {
        // Sooner than a rollback without waiting would be through, and later.
        for calls in [2, 20] {
            killed_in(method, Taken::Late(calls));
        }
    }
}

#[test]
fn a_rollback_waits_no_longer_than_the_engine_can_take() {
    let took = killed_in("create_volume", Taken::No);
    assert!(took > Duration::from_secs(4), "it may have come: {took:?}");
    assert!(took < Duration::from_secs(30), "it does not come: {took:?}");
}

#[tokio::test]
async fn a_rollback_touches_nothing_it_did_not_make() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    std::fs::write(bench.state().join("metadata.json"), "edited").expect("written");
    std::fs::write(bench.state().join("Dockerfile"), "FROM x").expect("written");
    bench.engine.drop_container("bottle-egress");
    bench.engine.plant_container("bottle-egress", &BTreeMap::new());
    let back = bench.rollback(&plan, true).await.expect("rolled back");
    assert!(back.kept.iter().any(|k| k.action.0 == "file:metadata.json"), "{:?}", back.kept);
    assert_eq!(bench.read("metadata.json"), "edited");
    assert_eq!(bench.read("Dockerfile"), "FROM x");
    assert!(bench.engine.snapshot().containers.contains_key("bottle-egress"));
    assert!(!bench.state().join("ledger.json").exists());
}

#[tokio::test]
async fn a_marker_is_cleared_and_comes_back() {
    let bench = Bench::new();
    let plan = first();
    bench.apply(&plan).await.expect("applied");
    std::fs::write(bench.state().join(".preserve"), "why").expect("written");
    let mut next = idle(&bench, &plan);
    next.actions.push(Action {
        effect: Effect::Delete,
        expect: Expect::File { digest: Digest::of(b"why") },
        ..action(
            "remove-file:.preserve",
            Operation::RemoveFile(RemoveFile { path: state_path(".preserve") }),
            &[],
        )
    });
    bench.apply(&next).await.expect("applied");
    assert!(!bench.state().join(".preserve").exists());
    bench.rollback(&next, false).await.expect("rolled back");
    assert_eq!(bench.read(".preserve"), "why");
}
