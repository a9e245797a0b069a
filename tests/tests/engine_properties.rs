//! Properties of planner, executor and probe together, over generated worlds and an engine in
//! memory (docs/plan.md, section 5): P2, P4, P5, P6, P8 and P10.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use bottle_executor::apply::ApplyError;
use bottle_executor::engine::ExecResult;
use bottle_executor::engine::memory::{FaultKind, Taken};
use bottle_executor::receipt::Outcome;
use bottle_planner::document;
use bottle_planner::plan::{Effect, LABEL_OWNER, Operation, Plan, Requirement, SecretRef};
use bottle_planner::policy::SecretSource;
use bottle_planner::snapshot::ContainerState;
use bottle_planner::words::{Digest, EnvName, Role, SecretName};
use bottle_tests::generate::{HostSide, Launch, Policy, World, build, host, launch, policy};
use bottle_tests::memory_world::{Bench, KEY, Picture, Planned, Room, run, walk};
use bottle_tests::{fixture, word};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// How many worlds each property is held against.
const CASES: u32 = 1000;

/// A session and what becomes of it.
#[derive(Debug, Clone)]
struct Story {
    policy: Policy,
    launch: Launch,
    host: HostSide,
    then: Then,
}

/// What happened after the first plan was applied.
#[derive(Debug, Clone)]
enum Then {
    Nothing,
    Update(Box<Policy>),
    Drift(Vec<Drift>),
}

/// What somebody did behind our back; places count the session's things.
#[derive(Debug, Clone)]
enum Drift {
    Stop(Index),
    Remove(Index),
    Disconnect(Index),
    DropNetwork(Index),
    EditFile(Index),
    RemoveFile(Index),
    OpenFile(Index),
}

fn drift() -> impl Strategy<Value = Drift> {
    let kinds: Vec<fn(Index) -> Drift> = vec![
        Drift::Stop,
        Drift::Remove,
        Drift::Disconnect,
        Drift::DropNetwork,
        Drift::EditFile,
        Drift::RemoveFile,
        Drift::OpenFile,
    ];
    (select(kinds), any::<Index>()).prop_map(|(kind, at)| kind(at))
}

fn update() -> impl Strategy<Value = Then> {
    policy().prop_map(|policy| Then::Update(Box::new(policy)))
}

fn story() -> impl Strategy<Value = Story> {
    let drift = proptest::collection::vec(drift(), 1..4).prop_map(Then::Drift);
    let then = prop_oneof![Just(Then::Nothing), update(), drift];
    (policy(), launch(), host(), then).prop_map(|(policy, launch, host, then)| Story {
        policy,
        launch,
        host,
        then,
    })
}

impl Story {
    fn world(&self) -> World {
        build(self.policy.clone(), self.launch.clone(), self.host.clone())
    }

    /// Lets happen what comes before the plan in question; answers the plan applied before it.
    async fn prepare(&self, bench: &mut Bench) -> Option<Planned> {
        if matches!(self.then, Then::Nothing) {
            return None;
        }
        let first = bench.plan().await;
        bench.apply(&first).await.expect("applied");
        match &self.then {
            Then::Nothing => {}
            Then::Update(policy) => {
                bench.ask(&build((**policy).clone(), self.launch.clone(), self.host.clone()));
            }
            Then::Drift(drifts) => drifts.iter().for_each(|drift| happen(bench, &first, drift)),
        }
        Some(first)
    }
}

fn pick<'a>(at: &Index, names: &[&'a str]) -> &'a str {
    names[at.index(names.len())]
}

fn happen(bench: &Bench, first: &Planned, drift: &Drift) {
    let session = &first.plan.session;
    let containers: Vec<&str> = session.places.values().map(|p| p.container.as_str()).collect();
    let networks = [session.net.name.as_str(), session.out.name.as_str()];
    let files: Vec<_> = first.plan.actions.iter().filter_map(|a| file_of(bench, &a.op)).collect();
    match drift {
        Drift::Stop(at) => bench.engine.crash_container(pick(at, &containers)),
        Drift::Remove(at) => drop(bench.engine.drop_container(pick(at, &containers))),
        Drift::Disconnect(at) => {
            let gone = |c: &mut bottle_planner::snapshot::Container| {
                c.networks.pop_last();
            };
            bench.engine.break_container(pick(at, &containers), gone);
        }
        Drift::DropNetwork(at) => drop(bench.engine.drop_network(pick(at, &networks))),
        Drift::EditFile(at) if !files.is_empty() => {
            let (path, _) = at.get(&files);
            if path.exists() {
                fs::write(path, "edited by hand\n").expect("written");
            }
        }
        Drift::RemoveFile(at) if !files.is_empty() => drop(fs::remove_file(&at.get(&files).0)),
        Drift::OpenFile(at) if !files.is_empty() => {
            drop(fs::set_permissions(&at.get(&files).0, Permissions::from_mode(0o666)));
        }
        Drift::EditFile(_) | Drift::RemoveFile(_) | Drift::OpenFile(_) => {}
    }
}

fn file_of(bench: &Bench, op: &Operation) -> Option<(std::path::PathBuf, String)> {
    match op {
        Operation::File(file) => Some((bench.state(file.path.path.as_str()), file.content.clone())),
        _ => None,
    }
}

/// What a plan is to do, in words.
fn busy(planned: &Planned) -> Vec<String> {
    let busy = planned.plan.actions.iter().filter(|a| a.effect != Effect::None);
    busy.map(|a| format!("{} {:?}", a.id, a.reason)).collect()
}

/// The lines in which two worlds differ.
fn differences(one: &Picture, other: &Picture) -> Vec<String> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    differ.map(|name| format!("{name}: {:?} != {:?}", one.get(name), other.get(name))).collect()
}

/// An error with its causes, as it is printed and as it is debugged.
fn said(error: &ApplyError) -> String {
    let mut text = format!("{error:?}");
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        text.push_str(&format!("\n{error}"));
        next = error.source();
    }
    if let ApplyError::Partial(report) | ApplyError::Interrupted(report) = error {
        for failure in &report.failed {
            let mut next: Option<&dyn Error> = Some(failure);
            while let Some(error) = next {
                text.push_str(&format!("\n{error}"));
                next = error.source();
            }
        }
    }
    text
}

/// Whether a call of the engine changes anything.
fn mutates(method: &str) -> bool {
    !["facts", "observe", "container", "network", "volume", "image", "download", "logs"]
        .contains(&method)
}

/// One crash: at which call, whether it took effect, and how long the rest went on.
#[derive(Debug, Clone)]
struct Crash {
    at: Index,
    taken: Taken,
    linger: u64,
}

fn crash() -> impl Strategy<Value = Crash> {
    (any::<Index>(), select(vec![Taken::No, Taken::Yes]), 0u64..3)
        .prop_map(|(at, taken, linger)| Crash { at, taken, linger })
}

fn rest_of(bench: &Bench, first: Option<&Planned>, plan: &Planned) -> Picture {
    let mut plans = vec![("plan", plan)];
    plans.extend(first.map(|first| ("first", first)));
    bench.picture(&plans)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// P2: after a plan was carried out there is nothing to do: the first plan of a session, one
    /// for another policy, and one that repairs what drifted.
    #[test]
    fn p2_fixpoint(story in story()) {
        let room = Room::new();
        let mut bench = Bench::new(&room, &story.world());
        run(async {
            story.prepare(&mut bench).await;
            let plan = bench.plan().await;
            bench.apply(&plan).await.expect("applied");
            prop_assert_eq!(busy(&bench.plan().await), [""; 0]);
            Ok(())
        })?;
    }

    /// P4: after a crash at any call of the engine, or two, the same plan comes to the same world.
    #[test]
    fn p4_crash(story in story(), crashes in proptest::collection::vec(crash(), 1..3)) {
        let room = Room::new();
        let mut bench = Bench::new(&room, &story.world());
        let (wanted, calls) = run(async {
            let first = story.prepare(&mut bench).await;
            let plan = bench.plan().await;
            bench.engine.clear_calls();
            bench.apply(&plan).await.expect("applied");
            (rest_of(&bench, first.as_ref(), &plan), bench.engine.calls().len())
        });
        drop(bench);
        room.clear();
        let mut bench = Bench::new(&room, &story.world());
        let (first, plan) = run(async { (story.prepare(&mut bench).await, bench.plan().await) });
        for crash in &crashes {
            let n = 1 + crash.at.index(calls);
            bench.engine.hang_at(n, crash.taken);
            // Each in a process of its own: the threads of one are waited for.
            let ended = run(bench.apply_until(&plan, n, crash.linger));
            bench.engine.clear_faults();
            if let Some(Err(error)) = ended {
                prop_assert!(false, "after {:?}: {}", crash, said(&error));
            }
        }
        let applied = run(bench.apply(&plan));
        prop_assert!(applied.is_ok(), "{}", said(&applied.expect_err("an error")));
        let found = rest_of(&bench, first.as_ref(), &plan);
        prop_assert_eq!(differences(&found, &wanted), [""; 0]);
    }

    /// P5: a plan that was carried out is not carried out again.
    #[test]
    fn p5_never_twice(story in story()) {
        let room = Room::new();
        let mut bench = Bench::new(&room, &story.world());
        run(async {
            let first = story.prepare(&mut bench).await;
            let plan = bench.plan().await;
            bench.apply(&plan).await.expect("applied");
            let before = rest_of(&bench, first.as_ref(), &plan);
            bench.engine.clear_calls();
            let again = bench.apply(&plan).await.expect("verified");
            prop_assert_eq!(again.receipt.outcome, Outcome::Verified);
            let calls = bench.engine.calls();
            let calls: Vec<_> = calls.iter().filter(|c| mutates(c.method)).collect();
            prop_assert!(calls.is_empty(), "{:?}", calls);
            let after = rest_of(&bench, first.as_ref(), &plan);
            prop_assert_eq!(differences(&after, &before), [""; 0]);
            Ok(())
        })?;
    }
}

/// Where a secret comes from, and what goes wrong on the way.
#[derive(Debug, Clone)]
struct Leak {
    sources: Vec<u8>,
    seed: String,
    fault: Option<(Index, FaultKind)>,
    /// The init answers with what it was handed, after so many other characters.
    echo: Option<usize>,
}

fn leak() -> impl Strategy<Value = Leak> {
    let fault = (any::<Index>(), select(vec![FaultKind::Refused, FaultKind::Unreachable]));
    (
        proptest::collection::vec(0u8..3, 4),
        "[g-z]{12}",
        proptest::option::of(fault),
        proptest::option::weighted(0.3, 0usize..230),
    )
        .prop_map(|(sources, seed, fault, echo)| Leak { sources, seed, fault, echo })
}

/// Gives every secret a value that can be recognised and one of the kinds of source; answers the
/// values.
fn plant(bench: &mut Bench, leak: &Leak) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let names: Vec<String> = bench.variables.keys().cloned().collect();
    for (n, (name, kind)) in names.into_iter().zip(&leak.sources).enumerate() {
        let value = format!("{}q{n}", leak.seed);
        let path = bench.folder.join("home").join(format!("secret-{n}"));
        fs::write(&path, format!("{value}\n")).expect("written");
        bench.variables.remove(&name);
        let path = path.display().to_string();
        let source = match kind {
            0 => {
                let variable = format!("SET_{n}");
                bench.variables.insert(variable.clone(), value.clone());
                SecretSource::Env { name: word!(EnvName, variable) }
            }
            1 => SecretSource::File { path },
            _ => SecretSource::Command { argv: vec!["cat".into(), path] },
        };
        bench.inputs.config.secrets.insert(word!(SecretName, &name), source);
        values.insert(name, value);
    }
    bench.answer = format!("{}qa", leak.seed);
    values.insert("an answer".into(), bench.answer.clone());
    let key = format!("{}qk", leak.seed);
    let framed = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    fs::write(bench.folder.join(KEY), framed).expect("written");
    values.insert(KEY.into(), key);
    bench.know_variables();
    values
}

/// What each container is handed, of a key the line that matters.
fn handed(plan: &Plan, values: &BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
    let value = |item: &SecretRef| match item {
        SecretRef::Secret { secret } => values[secret.as_str()].clone(),
        SecretRef::Prompt { .. } => values["an answer"].clone(),
        SecretRef::IdentityFile { .. } => values[KEY].clone(),
    };
    let deliver = |op: &Operation| match op {
        Operation::Deliver(deliver) => {
            Some((deliver.container.clone(), deliver.items.values().map(value).collect()))
        }
        _ => None,
    };
    plan.actions.iter().filter_map(|action| deliver(&action.op)).collect()
}

/// A value as it is, in base64 with its alphabets, and in hex. What is cut off is looked for too.
fn forms(seed: &str) -> Vec<String> {
    let hex: String = seed.bytes().map(|b| format!("{b:02x}")).collect();
    // Twelve bytes are whole groups of base64, and so stand at the front of every longer value's.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let base64 = seed.as_bytes().chunks(3).flat_map(|group| {
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b));
        [18, 12, 6, 0].map(|shift| char::from(alphabet[(bits >> shift & 63) as usize]))
    });
    vec![seed[..8].to_owned(), base64.collect(), hex.to_uppercase(), hex]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// P6: the value of a secret is nowhere but where it was and where it is delivered to.
    #[test]
    fn p6_secrets(
        (policy, launch, host) in (policy(), launch(), host()),
        leak in leak(),
    ) {
        let room = Room::new();
        let mut bench = Bench::new(&room, &build(policy, launch, host));
        bench.stores_inputs = true;
        let values = plant(&mut bench, &leak);
        let mut told = String::new();
        run(async {
            let planned = bench.plan().await;
            if let Some(pad) = leak.echo {
                let handed = handed(&planned.plan, &values);
                bench.engine.set_exec(move |container, _| ExecResult {
                    code: 1,
                    output: format!("{}{}", "-".repeat(pad), handed[container].join(" ")),
                });
            }
            told.push_str(&planned.text);
            told.push_str(&document::pretty(&planned.inputs).expect("a document"));
            bench.engine.clear_calls();
            if let Some((at, kind)) = &leak.fault {
                bench.engine.fail_at(1 + at.index(100), *kind);
            }
            let mut observer = |event: &bottle_executor::events::Event| {
                told.push_str(&format!("{event:?}\n"));
            };
            let applied = bench.apply_observed(&planned, &mut observer).await;
            match applied {
                Ok(applied) => told.push_str(&format!("{:?}", applied.receipt)),
                Err(error) => told.push_str(&said(&error)),
            }
        });
        let world = bench.engine.snapshot();
        told.push_str(&format!("{:?}{world:?}", bench.engine.calls()));
        for (name, container) in &world.containers {
            for path in container.files.keys() {
                let bytes = bench.engine.file(name, path).expect("there");
                told.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        walk(&bench.inputs.roots.root, "", &mut |path, _, text| {
            if !path.ends_with("/ca.key") {
                told.push_str(path);
                told.push_str(text.unwrap_or_default());
            }
        });
        for form in forms(&leak.seed) {
            let Some(at) = told.find(&form) else { continue };
            let (from, to) = (at.saturating_sub(300), (at + 100).min(told.len()));
            let around = String::from_utf8_lossy(&told.as_bytes()[from..to]);
            prop_assert!(false, "{} is in …{}…", form, around);
        }
    }

    /// P8: a rollback restores the world, also of a plan that was carried out in part: a first
    /// launch, and an update of routes, variables and limits.
    #[test]
    fn p8_rollback(
        story in (policy(), launch(), host(), proptest::option::of(policy())),
        fails in proptest::option::of((any::<Index>(), select(vec![Taken::No, Taken::Yes]))),
    ) {
        let room = Room::new();
        let (policy, launch, host, other) = story;
        let mut world = build(policy, launch.clone(), host.clone());
        let mut bench = Bench::new(&room, &world);
        run(async {
            let mut first = None;
            if let Some(other) = other {
                let planned = bench.plan().await;
                bench.apply(&planned).await.expect("applied");
                first = Some(planned);
                let other = build(other, launch, host);
                for (name, bottle) in &mut world.manifest.bottles {
                    let other = &other.manifest.bottles[name];
                    bottle.egress = other.egress.clone();
                    bottle.env = other.env.clone();
                    bottle.limits = other.limits.clone();
                }
                bench.ask(&world);
            }
            let plan = bench.plan().await;
            let before = rest_of(&bench, first.as_ref(), &plan);
            if let Some((at, taken)) = fails {
                let n = 1 + at.index(120);
                match taken {
                    Taken::No => bench.engine.fail_at(n, FaultKind::Refused),
                    Taken::Yes | Taken::Late(_) => bench.engine.lose_at(n),
                }
            }
            let applied = bench.apply(&plan).await;
            bench.engine.clear_faults();
            match bench.rollback(&plan).await {
                Ok(_) => {}
                // Nothing was begun.
                Err(ApplyError::Stale { .. }) if busy(&plan).is_empty() || applied.is_err() => {}
                Err(error) => prop_assert!(false, "{}", said(&error)),
            }
            let mut after = rest_of(&bench, first.as_ref(), &plan);
            // Images are shared and stay.
            after.retain(|name, _| !name.starts_with("image ") || before.contains_key(name));
            after.retain(|name, _| !is_shared(name));
            let mut before = before;
            before.retain(|name, _| !is_shared(name));
            prop_assert_eq!(differences(&after, &before), [""; 0]);
            Ok(())
        })?;
    }
}

/// Folders of the state root that sessions share.
fn is_shared(name: &str) -> bool {
    ["bin", "tmp", "state"].contains(&name) || name.starts_with("bin/") || name.starts_with("tmp/")
}

/// One fact that a plan rests on, and how it comes to be otherwise.
#[derive(Debug, Clone)]
enum Break {
    ForeignContainer(String),
    ForeignNetwork(String),
    ForeignVolume(String),
    OtherOwner,
    OldApi,
    NoRuntime,
    NoImage(String),
    OtherImage(String),
    NoSecret(String),
    OpenKey,
    NoKey,
    ChangedSkill(String),
    ChangedContext,
    ChangedWorkspace,
    UnconfirmedWorkspace,
    OtherTool,
    FileInTheWay(String),
    ChangedFile(String),
    NoFile(String),
    NoFolder(String),
    OpenFolder(String),
    NoContainer(String),
    NewContainer(String),
    StoppedContainer(String),
    RestartedContainer(String),
    LostContainer(String),
    NoNetwork(String),
    LostVolume(String),
    OtherParent,
    OtherTrust,
    NoTrust,
}

/// Everything that a plan rests on and that can be broken by itself.
fn breaks(planned: &Planned) -> Vec<Break> {
    let plan = &planned.plan;
    let mut breaks = vec![Break::OtherOwner, Break::OldApi];
    let due: Vec<&Operation> =
        plan.actions.iter().filter(|a| a.effect != Effect::None).map(|a| &a.op).collect();
    breaks.extend(plan.session.runtime.iter().map(|_| Break::NoRuntime));
    if !due.is_empty() && plan.parent.is_some() {
        breaks.push(Break::OtherParent);
    }
    breaks.extend(plan.session.workspace.iter().map(|_| Break::UnconfirmedWorkspace));
    let delivered = |name: &str| {
        due.iter().any(|op| match op {
            Operation::Deliver(d) => serde_json::to_string(&d.items).expect("JSON").contains(name),
            _ => false,
        })
    };
    for requirement in &plan.requires {
        match requirement {
            Requirement::Secret { secret } if delivered(&format!("\"{secret}\"")) => {
                breaks.push(Break::NoSecret(secret.to_string()));
            }
            Requirement::IdentityFile { path } if delivered(path) => {
                breaks.extend([Break::OpenKey, Break::NoKey]);
            }
            Requirement::UpstreamCa { .. } => {
                breaks.extend([Break::OtherTrust, Break::NoTrust]);
            }
            Requirement::Image { reference, id } => {
                let made = due.iter().any(|op| matches!(op, Operation::PullImage(_)));
                if !made {
                    breaks.push(Break::NoImage(reference.clone()));
                }
                if !made && id.is_some() {
                    breaks.push(Break::OtherImage(reference.clone()));
                }
            }
            _ => {}
        }
    }
    if due.iter().any(|op| matches!(op, Operation::ImportImage(_))) {
        breaks.push(Break::OtherTool);
    }
    for action in &plan.actions {
        breaks.extend(breaks_of(plan, action));
    }
    breaks
}

fn breaks_of(plan: &Plan, action: &bottle_planner::plan::Action) -> Vec<Break> {
    let (held, created) = (action.effect == Effect::None, action.effect == Effect::Create);
    match &action.op {
        Operation::Folder(folder) if held => {
            let path = folder.path.path.to_string();
            let mut breaks = vec![Break::OpenFolder(path.clone())];
            // What a folder holds cannot be lost without it.
            if path.ends_with("/out") {
                breaks.push(Break::NoFolder(path));
            }
            breaks
        }
        Operation::File(file) => {
            let path = file.path.path.to_string();
            match action.effect {
                Effect::Create => vec![Break::FileInTheWay(path)],
                Effect::None => vec![Break::ChangedFile(path.clone()), Break::NoFile(path)],
                _ => vec![Break::ChangedFile(path)],
            }
        }
        Operation::BuildImage(image) if !held && image.context.is_some() => {
            vec![Break::ChangedContext]
        }
        Operation::AssembleImage(image) if !held && image.digest.is_some() => {
            vec![Break::ChangedWorkspace]
        }
        Operation::Network(network) if created => {
            vec![Break::ForeignNetwork(network.name.clone())]
        }
        Operation::Network(network) if held => vec![Break::NoNetwork(network.name.clone())],
        Operation::Volume(volume) if created => vec![Break::ForeignVolume(volume.name.clone())],
        Operation::Volume(volume) if held => vec![Break::LostVolume(volume.name.clone())],
        Operation::Container(spec) if created => vec![Break::ForeignContainer(spec.name.clone())],
        Operation::Container(spec) if held => {
            let name = || spec.name.clone();
            vec![
                Break::NoContainer(name()),
                Break::NewContainer(name()),
                Break::LostContainer(name()),
            ]
        }
        Operation::Start(at) if held && at.role != Role::Agent => {
            vec![Break::StoppedContainer(at.container.clone())]
        }
        Operation::Deliver(deliver) if held => {
            vec![Break::RestartedContainer(deliver.container.clone())]
        }
        Operation::RemoveContainer(at) => vec![Break::NewContainer(at.container.clone())],
        Operation::Upload(upload) if !held => {
            let skills = plan.grants.agent.skills.keys();
            let text = serde_json::to_string(upload).expect("JSON");
            skills
                .filter(|name| text.contains(&format!("\"{name}\"")))
                .map(|name| Break::ChangedSkill(name.to_string()))
                .collect()
        }
        _ => vec![],
    }
}

fn break_one(bench: &mut Bench, what: &Break) {
    let none = BTreeMap::new();
    let foreign = |labels: &mut BTreeMap<String, String>| {
        labels.insert(LABEL_OWNER.into(), "7-somebody-else".into());
    };
    let write = |path: std::path::PathBuf, text: &str| {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    };
    match what {
        Break::ForeignContainer(name) => bench.engine.plant_container(name, &none),
        Break::ForeignNetwork(name) => {
            let subnet = "192.168.77.0/24".parse().expect("a subnet");
            bench.engine.plant_network(name, subnet, &none);
        }
        Break::ForeignVolume(name) => bench.engine.plant_volume(name, &none),
        Break::OtherOwner => bench.owner.push('x'),
        Break::OldApi => bench.change_facts(|facts| facts.api = (1, 40)),
        Break::NoRuntime => bench.change_facts(|facts| {
            facts.runtimes.retain(|name| name == "runc");
        }),
        Break::NoImage(name) => drop(bench.engine.drop_image(name)),
        Break::OtherImage(name) => {
            bench.engine.break_image(name, |image| image.id = Digest::of(b"another"));
        }
        Break::NoSecret(name) => drop(bench.variables.remove(name)),
        Break::OpenKey => {
            let mode = Permissions::from_mode(0o644);
            fs::set_permissions(bench.folder.join(KEY), mode).expect("set");
        }
        Break::OtherTrust => {
            let two = fixture::CERTIFICATE.repeat(2);
            write(bench.folder.join("home/extra-ca.pem"), &two);
        }
        Break::NoTrust => bench.inputs.config.network.ca = None,
        Break::NoKey => fs::remove_file(bench.folder.join(KEY)).expect("removed"),
        Break::ChangedSkill(name) => write(bench.folder.join("skills").join(name).join("new"), "x"),
        Break::ChangedContext => write(bench.folder.join("manifest/images/new"), "x"),
        Break::ChangedWorkspace => write(bench.workspace.join("new"), "x"),
        Break::UnconfirmedWorkspace => bench.confirms_workspace = false,
        Break::OtherTool => bench.tool.digest = Digest::of(b"another build"),
        Break::FileInTheWay(path) | Break::ChangedFile(path) => {
            write(bench.state(path), "somebody else's\n");
        }
        Break::NoFile(path) => fs::remove_file(bench.state(path)).expect("removed"),
        Break::NoFolder(path) => fs::remove_dir_all(bench.state(path)).expect("removed"),
        Break::OpenFolder(path) => {
            let mode = Permissions::from_mode(0o777);
            fs::set_permissions(bench.state(path), mode).expect("set");
        }
        Break::NoContainer(name) => drop(bench.engine.drop_container(name)),
        Break::NewContainer(name) => {
            bench.engine.break_container(name, |c| {
                c.id = Digest::of(c.id.as_bytes()).hex().to_owned();
                c.labels.insert("dev.bottle.spec".into(), "another".into());
            });
        }
        Break::StoppedContainer(name) => bench.engine.crash_container(name),
        Break::RestartedContainer(name) => {
            bench.engine.break_container(name, |c| {
                c.state = ContainerState::Running;
                c.started_at.push('*');
            });
        }
        Break::LostContainer(name) => {
            bench.engine.break_container(name, |c| foreign(&mut c.labels));
        }
        Break::NoNetwork(name) => drop(bench.engine.drop_network(name)),
        Break::LostVolume(name) => {
            bench.engine.break_volume(name, |v| foreign(&mut v.labels));
        }
        Break::OtherParent => {
            // Somebody applied another plan in the meantime.
            let mut other = run(bench.plan());
            other.plan.spec.task = Some("another task".into());
            other.digest = document::digest(&other.plan).expect("a digest");
            other.text = document::pretty(&other.plan).expect("a document");
            run(bench.apply(&other)).expect("applied");
        }
    }
}

/// A change that a plan does not rest on.
#[derive(Debug, Clone, Copy)]
enum Unrelated {
    Container,
    Network,
    Volume,
    Image,
    Variable,
    Skill,
    FileOfAnotherSession,
    FileInOut,
    NewerApi,
}

fn change(bench: &mut Bench, unrelated: Unrelated) {
    let none = BTreeMap::new();
    let write = |path: std::path::PathBuf| {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, "x").expect("written");
    };
    match unrelated {
        Unrelated::Container => bench.engine.plant_container("bottle-other", &none),
        Unrelated::Network => {
            let subnet = "192.168.77.0/24".parse().expect("a subnet");
            bench.engine.plant_network("other", subnet, &none);
        }
        Unrelated::Volume => bench.engine.plant_volume("bottle-other", &none),
        Unrelated::Image => drop(bench.engine.plant_image("other:1", &none)),
        Unrelated::Variable => drop(bench.variables.insert("OTHER".into(), "x".into())),
        Unrelated::Skill => write(bench.folder.join("skills/other/SKILL.md")),
        Unrelated::FileOfAnotherSession => {
            write(bench.inputs.roots.root.join("state/other-00000/metadata.json"));
        }
        Unrelated::FileInOut => {
            if bench.state("egress/out").is_dir() {
                write(bench.state("egress/out/egress.log"));
            }
        }
        Unrelated::NewerApi => bench.change_facts(|facts| facts.api = (1, 50)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// P10, first half: where one fact does not hold, nothing at all is done.
    #[test]
    fn p10_one_fact_broken(story in story(), at in any::<Index>()) {
        let room = Room::new();
        let mut bench = Bench::new(&room, &story.world());
        let (first, plan) = run(async { (story.prepare(&mut bench).await, bench.plan().await) });
        let breaks = breaks(&plan);
        let broken = at.get(&breaks);
        break_one(&mut bench, broken);
        let before = rest_of(&bench, first.as_ref(), &plan);
        bench.engine.clear_calls();
        let error = match run(bench.apply(&plan)) {
            Ok(applied) => {
                prop_assert!(false, "{:?}: applied: {:?}", broken, applied.receipt.outcome);
                unreachable!()
            }
            Err(error) => error,
        };
        let wanted = if matches!(broken, Break::UnconfirmedWorkspace) { 11 } else { 10 };
        prop_assert_eq!(error.exit_code(), wanted, "{:?}: {}", broken, said(&error));
        let calls = bench.engine.calls();
        prop_assert!(!calls.iter().any(|c| mutates(c.method)), "{:?}: {:?}", broken, calls);
        let after = rest_of(&bench, first.as_ref(), &plan);
        prop_assert_eq!(differences(&after, &before), [""; 0], "{:?}", broken);
    }

    /// P10, second half: what a plan does not rest on may change, and it is carried out.
    #[test]
    fn p10_unrelated_changes(
        story in story(),
        changes in proptest::sample::subsequence(vec![
            Unrelated::Container,
            Unrelated::Network,
            Unrelated::Volume,
            Unrelated::Image,
            Unrelated::Variable,
            Unrelated::Skill,
            Unrelated::FileOfAnotherSession,
            Unrelated::FileInOut,
            Unrelated::NewerApi,
        ], 1..=9),
    ) {
        let room = Room::new();
        let mut bench = Bench::new(&room, &story.world());
        let plan = run(async { story.prepare(&mut bench).await; bench.plan().await });
        for unrelated in &changes {
            change(&mut bench, *unrelated);
        }
        let applied = run(bench.apply(&plan));
        prop_assert!(applied.is_ok(), "{}", said(&applied.expect_err("an error")));
    }
}
