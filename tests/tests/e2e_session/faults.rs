//! What breaks in the middle: killed processes, an engine that goes away, a world that is not as
//! the plan expects, and plans that are undone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use bottle_planner::plan::Plan;
use bottle_tests::host::{ENGINE, Host, docker, inspect, ran, unique};
use serde_json::Value;

use crate::between::{Between, Goes};
use crate::{agent, changes, egress, manifest};

/// Fields of `docker inspect` that differ between two runs of the same thing.
const PASSING: [&str; 10] = [
    "Created",
    "CreatedAt",
    "EndpointID",
    "FinishedAt",
    "GraphDriver",
    "Id",
    "Pid",
    "SandboxID",
    "SandboxKey",
    "StartedAt",
];

/// All that a host has on the engine and in its state folder, less what passes.
fn world(host: &Host, session: &str) -> BTreeMap<String, String> {
    let mut world = BTreeMap::new();
    for name in host.leavings() {
        let mut found = inspect(&name);
        settle(&mut found);
        world.insert(name, found.to_string());
    }
    files(&host.at("root/state").join(session), Path::new(""), &mut world);
    world
}

/// Takes out what passes, and the ids that stand in names and values.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !PASSING.contains(&name.as_str()));
            let old = std::mem::take(fields);
            for (name, mut field) in old {
                settle(&mut field);
                let settled = without_ids(&name);
                // Two that differ by their ids alone are told apart by what they are.
                let name = if settled == name { name } else { format!("{settled} {field}") };
                fields.insert(name, field);
            }
        }
        Value::Array(items) => {
            items.iter_mut().for_each(settle);
            items.sort_by_key(ToString::to_string);
        }
        Value::String(text) => *text = without_ids(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text in which every run of 12 or 64 hexadecimal digits is one word.
fn without_ids(text: &str) -> String {
    let is_id = |part: &str| [12, 64].contains(&part.len());
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        out.push_str(if is_id(&run) { "ID" } else { &run });
        run.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// The planned files of a state folder: names, and contents where they do not pass.
fn files(folder: &Path, below: &Path, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        let name = below.join(entry.file_name());
        if entry.path().is_dir() {
            if !name.ends_with("out") && !name.ends_with("backup") {
                files(&entry.path(), &name, into);
            }
            continue;
        }
        let shown = name.display().to_string();
        // Keys are minted anew, and what is told of an apply is another matter.
        let passes = ["ca.", "journal", "receipt", "ledger", "inputs"];
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let content = if passes.iter().any(|p| file_name.starts_with(p)) {
            String::new()
        } else {
            fs::read_to_string(entry.path()).expect("text")
        };
        into.insert(shown, content);
    }
}

/// Checks that a plan made now would do nothing.
#[track_caller]
fn nothing_to_do(host: &Host, session: &str) {
    assert_eq!(changes(&host.plans(session, "again.json", &[])), Vec::<String>::new());
}

/// Undoes `work/plan.json` and checks that nothing is left of a first plan.
#[track_caller]
fn roll_back_to_nothing(host: &Host, session: &str) {
    host.run(&["apply", "plan.json", "--rollback", "--yes"]).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
    assert!(!host.has(&format!("root/state/{session}")));
}

/// Applies `work/plan.json` and kills the process when the `n`th event of this kind arrives;
/// answers whether the kill came before its end.
///
/// The engine finishes what it was asked: it is waited for, as nothing tells of it afterwards.
fn killed_at(host: &Host, event: &str, n: usize) -> bool {
    let socket = host.at(&format!("work/{}.sock", unique("engine")));
    let engine = Between::listen(&socket, None);
    let killed = killed_on(host, &engine.address(), event, n);
    engine.settle();
    killed
}

/// The same, and the engine may still be at what it was asked.
fn killed_on(host: &Host, engine: &str, event: &str, n: usize) -> bool {
    let mut command = host.command(&["apply", "plan.json", "--yes", "--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env("DOCKER_HOST", engine);
    let mut child = command.spawn().expect("it starts");
    let events = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mark = format!("{{\"event\":\"{event}\"");
    let mut left = n;
    for line in events {
        if line.expect("text").starts_with(&mark) {
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    assert_eq!(left, 0, "the events ended before the {n}th {event}");
    child.kill().expect("a process of ours");
    child.wait().expect("it ended").code().is_none()
}

/// Kills an apply at every event of one kind, and carries on each time.
fn survives_every(event: &str) {
    let host = Host::with_manifest(&manifest("COLOR: red", "{host: api.example.test}"));
    let session = unique("crash");
    host.plans(&session, "plan.json", &[]);
    let whole = host.run(&["apply", "plan.json", "--yes", "--json"]).code(0);
    let mark = format!("{{\"event\":\"{event}\"");
    let boundaries = whole.out.lines().filter(|line| line.starts_with(&mark)).count();
    assert!(boundaries > 20, "{}", whole.out);
    let planned = world(&host, &session);
    roll_back_to_nothing(&host, &session);
    for n in 1..=boundaries {
        let killed = killed_at(&host, event, n);
        assert!(killed || n == boundaries, "it ended before the kill at {event} {n}");
        let again = host.run(&["apply", "plan.json", "--yes"]);
        assert!(again.ok(), "after {event} {n}: {:?}\n{}", again.status, again.err);
        let found = world(&host, &session);
        for (name, wanted) in &planned {
            assert_eq!(found.get(name), Some(wanted), "{name} after {event} {n}");
        }
        assert_eq!(found.len(), planned.len(), "after {event} {n}: {:?}", found.keys());
        nothing_to_do(&host, &session);
        roll_back_to_nothing(&host, &session);
    }
}

#[test]
fn killed_at_every_start_it_carries_on() {
    survives_every("action_start");
}

#[test]
fn killed_at_every_end_it_carries_on() {
    survives_every("action_done");
}

#[test]
fn killed_in_a_change_it_carries_on() {
    let red = manifest("COLOR: red", "{host: api.example.test}");
    let blue = manifest("COLOR: blue", "{host: api.example.test}, {host: b.example.test}");
    let host = Host::with_manifest(&red);
    let session = unique("crash");
    host.up(&session);
    host.write("work/bottle.yaml", &blue);
    host.up(&session);
    let boundaries = changes(&host.plan("work/plan.json")).len();
    // The same change there and back, killed one action later each time.
    for n in 1..boundaries {
        host.write("work/bottle.yaml", if n % 2 == 1 { &red } else { &blue });
        host.plans(&session, "plan.json", &[]);
        killed_at(&host, "action_start", n);
        let again = host.run(&["apply", "plan.json", "--yes"]);
        assert!(again.ok(), "after start {n}: {:?}\n{}", again.status, again.err);
        nothing_to_do(&host, &session);
        assert_eq!(host.leavings().len(), 5);
    }
}

#[test]
fn a_first_plan_that_is_undone_leaves_nothing() {
    let host = Host::with_manifest(&manifest("", "{host: api.example.test}"));
    let session = unique("undo");
    host.up(&session);
    roll_back_to_nothing(&host, &session);
    // Cut short anywhere, too, whatever the engine is still making then.
    for n in [1, 8, 12, 16, 20, 22] {
        assert!(killed_on(&host, ENGINE, "action_start", n));
        roll_back_to_nothing(&host, &session);
    }
}

#[test]
fn a_change_that_is_undone_leaves_what_was() {
    let red = manifest("COLOR: red", "{host: a.example.test}");
    let host = Host::with_manifest(&red);
    let session = unique("undo");
    host.up(&session);
    docker(&["exec", &agent(&session), "bash", "-c", "echo work >~/notes"]).code(0);
    let before = world(&host, &session);
    host.write("work/bottle.yaml", &manifest("COLOR: blue", "{host: b.example.test}"));
    let plan = host.up(&session);
    assert!(changes(&plan).len() > 4, "{:?}", changes(&plan));
    let changed = world(&host, &session);
    assert_ne!(changed, before);

    host.run(&["apply", "plan.json", "--rollback", "--yes"]).code(0);
    let after = world(&host, &session);
    for (name, wanted) in before.iter().filter(|(name, _)| !name.ends_with("applied.json")) {
        assert_eq!(after.get(name), Some(wanted), "{name}");
    }
    docker(&["exec", &agent(&session), "bash", "-c", "cat ~/notes"]).code(0).prints("work");
    host.write("work/bottle.yaml", &red);
    nothing_to_do(&host, &session);
}

/// Something on the engine that is not the session's; it goes with the test.
struct Foreign(Vec<String>);

impl Foreign {
    fn network(name: &str, more: &[&str]) -> Self {
        docker(&[&["network", "create"], more, &[name]].concat()).code(0);
        Self::to_remove(&["network", "rm", name])
    }

    fn volume(name: &str) -> Self {
        docker(&["volume", "create", name]).code(0);
        Self::to_remove(&["volume", "rm", name])
    }

    fn container(name: &str) -> Self {
        docker(&["create", "--name", name, "debian:bookworm-slim", "true"]).code(0);
        Self::to_remove(&["rm", "-f", name])
    }

    fn tag(name: &str, of: &str) -> Self {
        docker(&["tag", of, name]).code(0);
        Self::to_remove(&["rmi", name])
    }

    fn to_remove(words: &[&str]) -> Self {
        Self(words.iter().map(ToString::to_string).collect())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        docker(&self.0);
    }
}

#[test]
fn what_a_plan_expects_to_be_absent_is_absent_or_it_is_refused() {
    let host = Host::with_manifest(&manifest("", "{host: api.example.test}"));
    let session = unique("expect");
    let plan = host.plans(&session, "plan.json", &[]);
    let (net, agent_name, egress_name) =
        (plan.session.net.name.clone(), agent(&session), egress(&session));
    let volume = plan.actions.iter().find_map(|a| a.id.0.strip_prefix("volume:"));
    let volume = format!("bottle-{}-{session}", volume.expect("a volume"));
    let breaks: [(&dyn Fn() -> Foreign, &str); 4] = [
        (&|| Foreign::network(&net, &[]), "network:net"),
        (&|| Foreign::volume(&volume), "volume:home"),
        (&|| Foreign::container(&agent_name), "container:agent"),
        (&|| Foreign::container(&egress_name), "container:egress"),
    ];
    for (broken, told) in breaks {
        let foreign = broken();
        host.run(&["apply", "plan.json", "--yes"]).code(10).says(told);
        assert_eq!(host.leavings(), Vec::<String>::new(), "{told}");
        assert!(!host.has(&format!("root/state/{session}")), "{told}");
        drop(foreign);
    }
    // Something else that came to be meanwhile is nobody's business.
    let others = [
        Foreign::network(&unique("other"), &[]),
        Foreign::volume(&unique("other")),
        Foreign::container(&unique("other")),
    ];
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    drop(others);
}

#[test]
fn a_subnet_that_somebody_took_stops_the_plan_and_it_carries_on() {
    let host = Host::with_manifest(&manifest("", "{host: api.example.test}"));
    let session = unique("expect");
    let plan = host.plans(&session, "plan.json", &[]);
    let subnet = plan.session.out.subnet.to_string();
    let rival = Foreign::network(&unique("rival"), &["--subnet", &subnet]);
    let ran = host.run(&["apply", "plan.json", "--yes"]);
    assert!([Some(10), Some(12)].contains(&ran.status), "{ran:?}");
    ran.says("network:out");
    drop(rival);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    nothing_to_do(&host, &session);
}

#[test]
fn an_image_that_means_something_else_now_is_refused() {
    let tag = format!("{}:1", unique("e2e-image"));
    let text = manifest("", "").replace("debian:bookworm-slim", &tag);
    let host = Host::with_manifest(&text);
    let session = unique("expect");
    let base = Foreign::tag(&tag, "debian:bookworm-slim");
    let plan = host.plans(&session, "plan.json", &[]);
    let sidecar = plan.session.sidecar_image.as_str();
    // Its own image has to be there before it can stand for another.
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    host.run(&["apply", "plan.json", "--rollback", "--yes"]).code(0);
    docker(&["tag", sidecar, &tag]).code(0);
    host.run(&["apply", "plan.json", "--yes"]).code(10).says(&tag);
    drop(base);
    host.run(&["apply", "plan.json", "--yes"]).code(10).says(&tag);
    assert_eq!(host.leavings(), Vec::<String>::new());
    let _base = Foreign::tag(&tag, "debian:bookworm-slim");
    host.run(&["apply", "plan.json", "--yes"]).code(0);
}

#[test]
fn what_goes_between_plan_and_apply_is_missed() {
    let host = Host::with_manifest(&manifest("", "{host: a.example.test}"));
    let session = unique("expect");
    host.up(&session);
    host.write("work/bottle.yaml", &manifest("", "{host: b.example.test}"));
    host.plans(&session, "plan.json", &[]);
    docker(&["rm", "-f", &egress(&session)]).code(0);
    host.run(&["apply", "plan.json", "--yes"]).code(10).says("egress");
    let plan = host.up(&session);
    assert!(changes(&plan).contains(&"create container:egress".into()), "{:?}", changes(&plan));
    nothing_to_do(&host, &session);
}

#[test]
fn without_an_engine_it_says_how_to_start_one() {
    let host = Host::with_manifest(&manifest("", ""));
    let session = unique("engine");
    host.plans(&session, "plan.json", &[]);
    let nobody = "unix:///nonexistent/docker.sock";
    for words in [
        &["apply", "plan.json", "--yes"][..],
        &["plan", "--manifest", "bottle.yaml", "--name", session.as_str()],
    ] {
        let mut command = host.command(words);
        let ran = ran(command.env("DOCKER_HOST", nobody), b"").code(1);
        ran.says("/nonexistent/docker.sock").says("hint: start ");
    }
    assert!(!host.has(&format!("root/state/{session}")));
}

/// An apply whose engine goes away at these words is told in three lists, and carried on.
fn survives_an_engine_that_goes(cases: &[(&'static str, Goes)]) {
    let host = Host::with_manifest(&manifest("TOKEN: '${TOKEN}'", "{host: api.example.test}"))
        .set("TOKEN", "not-told-to-anybody");
    let session = unique("engine");
    let plan: Plan = host.plans(&session, "plan.json", &[]);
    for (n, (words, goes)) in cases.iter().enumerate() {
        let socket = host.at(&format!("work/engine{n}.sock"));
        let engine = Between::listen(&socket, Some((words, *goes)));
        let mut command = host.command(&["apply", "plan.json", "--yes"]);
        let ran = ran(command.env("DOCKER_HOST", engine.address()), b"");
        assert!(engine.is_gone(), "nobody said {words:?}: {ran:?}");
        let ran = ran.code(12).says("partly applied").says("not begun: ").says("done: ");
        let ran = ran.says("apply the same plan again");
        assert!(ran.err.contains("failed"), "{}", ran.err);
        let again = host.run(&["apply", "plan.json", "--yes"]);
        assert!(again.ok(), "after {words:?} {goes:?}: {:?}\n{}", again.status, again.err);
        assert_eq!(host.leavings().len(), 5, "{words:?}: {:?}", changes(&plan));
        nothing_to_do(&host, &session);
        roll_back_to_nothing(&host, &session);
    }
}

#[test]
fn an_engine_that_goes_away_is_carried_on_from() {
    survives_an_engine_that_goes(&[
        ("/networks/create", Goes::Before),
        ("/containers/create", Goes::Before),
        ("/archive", Goes::Before),
        ("/start", Goes::Before),
        ("/exec", Goes::Before),
    ]);
}

#[test]
fn a_lost_answer_is_carried_on_from() {
    survives_an_engine_that_goes(&[
        ("/networks/create", Goes::After),
        ("/volumes/create", Goes::After),
        ("/containers/create", Goes::After),
        ("/connect", Goes::After),
        ("/start", Goes::After),
    ]);
}
