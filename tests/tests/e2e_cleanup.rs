//! Clean-up on the real engine: after everything was killed nothing is left, and nothing of anybody
//! else was touched.
//!
//! An engine is expected to answer (`scripts/host-setup`), and `cargo build -p bottle` to have been
//! run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bottle_planner::plan::LABEL_OWNER;
use bottle_tests::host::{Host, Ran, docker, inspect, ran, unique, until};
use serde_json::Value;

/// A host whose sessions have an image of their own, built and with a folder in it.
fn host() -> Host {
    let host = Host::with_manifest(
        "bottles:
  box:
    egress: {routes: [{host: api.example.com}]}
    provider: {command: [sleep, '86400'], resume_command: [sleep, '86400']}
    image: {dockerfile: image/Dockerfile, build: {network: none}}
    isolation: container
    workspace: {modes: [copy, none]}
agents:
  dev: {bottle: box, prompt: Be brief.}
",
    );
    let dockerfile = format!("FROM debian:bookworm-slim\nRUN echo {} >/built\n", unique("image"));
    host.write("work/image/Dockerfile", &dockerfile);
    host.write("work/folder/file", &unique("content"));
    host
}

/// Another state root of the same user, with a session that runs. The image of the sidecars is its
/// own from then on, or somebody else's: other tests stand on it, so no clean-up here may take it.
fn neighbour() -> (Host, String) {
    let host = Host::with_manifest(
        "bottles:
  box:
    provider: {command: [sleep, '86400']}
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    workspace: {modes: [none]}
agents:
  dev: {bottle: box, prompt: Be brief.}
",
    );
    let session = unique("near");
    host.up(&session);
    (host, session)
}

fn start(host: &Host, session: &str) {
    let words = ["start", "dev", "--manifest", "bottle.yaml", "--name", session, "--yes"];
    let more = ["--detach", "--workspace", "copy", "--cwd", "folder"];
    host.run(&[&words[..], &more].concat()).code(0);
}

/// Kills an apply as its `n`th action begins.
fn killed_at(host: &Host, session: &str, n: usize) {
    let words = ["plan", "--manifest", "bottle.yaml", "--name", session, "-o", "cut.json"];
    host.run(&[&words[..], &["--workspace", "copy", "--cwd", "folder"]].concat()).code(0);
    let words = ["apply", "cut.json", "--yes", "--json", "--manifest", "bottle.yaml"];
    let mut command = host.command(&words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let events = BufReader::new(child.stdout.take().expect("piped")).lines();
    let begins = |line: &String| line.starts_with("{\"event\":\"action_start\"");
    assert!(events.map_while(Result::ok).filter(begins).nth(n).is_some(), "too few actions");
    child.kill().expect("a process of ours");
    assert_eq!(child.wait().expect("it ended").code(), None);
}

fn images(host: &Host) -> BTreeSet<String> {
    let filter = format!("label={LABEL_OWNER}={}", host.owner());
    let listed = docker(&["images", "-a", "--filter", &filter, "--format", "{{.ID}}"]).code(0);
    listed.out.lines().map(str::to_owned).collect()
}

/// Every path below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            found.insert(entry.path().display().to_string());
            if entry.file_type().expect("a kind").is_dir() {
                left.push(entry.path());
            }
        }
    }
    found
}

/// What is there of a host, down to the engine's ids.
fn all_of(host: &Host) -> (Vec<String>, BTreeSet<String>, BTreeSet<String>) {
    let ids = host.leavings().into_iter().map(|name| {
        let found = inspect(&name);
        let id = found["Id"].as_str().or(found["CreatedAt"].as_str());
        format!("{name} {} {}", id.expect("an id"), found["State"]["StartedAt"])
    });
    (ids.collect(), images(host), files(&host.at("root")))
}

fn cleaned(host: &Host) -> Ran {
    host.run(&["cleanup", "--yes"])
}

/// Objects that are nobody's, and one that has inherited an owner's label.
struct Foreign(String);

impl Foreign {
    fn on(subnet: &str) -> Self {
        let foreign = Self(unique("foreign"));
        let name = &foreign.0;
        let volume = format!("{name}:/v");
        docker(&["network", "create", "--subnet", subnet, name]).code(0);
        docker(&["volume", "create", name]).code(0);
        docker(&["create", "--name", name, "-v", &volume, "debian:bookworm-slim", "true"]).code(0);
        foreign
    }

    fn there(&self) -> bool {
        let kinds = [["network", "inspect"], ["volume", "inspect"], ["container", "inspect"]];
        kinds.iter().all(|kind| docker(&[kind[0], kind[1], &self.0]).ok())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let name = &self.0;
        docker(&["rm", "-f", name]);
        docker(&["network", "rm", name]);
        docker(&["volume", "rm", name]);
        docker(&["rmi", &format!("{name}:latest")]);
    }
}

#[test]
fn after_everything_was_killed_nothing_is_left_and_nobody_else_was_touched() {
    let (near, near_session) = neighbour();
    let host = host();
    let foreign = Foreign::on("10.213.77.0/28");
    let [kept, gone, runs, cut] = ["kept", "gone", "runs", "cut"].map(unique);
    for session in [&kept, &gone, &runs] {
        start(&host, session);
    }
    // An image that a person made of ours has our label; it is theirs.
    let theirs = format!("{}:latest", foreign.0);
    docker(&["commit", &format!("bottle-{kept}"), &theirs]).code(0);

    host.run(&["stop", &kept]).code(0);
    for role in ["", "egress-"] {
        docker(&["rm", "-f", &format!("bottle-{role}{gone}")]).code(0);
    }
    for session in [&gone, &runs] {
        fs::remove_dir_all(host.at("root/state").join(session)).expect("removed");
    }
    killed_at(&host, &cut, 25);
    let theirs_before = inspect(&theirs);
    let near_before = all_of(&near);

    // Looking changes nothing, and nothing is done that nobody said.
    let before = all_of(&host);
    let shown = host.run(&["cleanup", "--dry-run"]).code(0);
    assert_eq!(all_of(&host), before);
    for name in [&gone, &runs, &cut] {
        assert!(shown.out.contains(name.as_str()), "{name} is not in:\n{}", shown.out);
    }
    assert!(!shown.out.contains(&kept), "{}", shown.out);
    assert!(shown.out.contains("work may be lost"), "{}", shown.out);
    host.run(&["cleanup"]).code(11).says("--dry-run");
    let json = host.run(&["cleanup", "--dry-run", "--json"]).code(0);
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    let rows = json["removals"].as_array().expect("rows");
    let volume = rows.iter().find(|row| row["name"] == format!("bottle-home-{gone}"));
    let volume = volume.expect("the home of what is gone");
    assert_eq!((&volume["loses_work"], &volume["removed"]), (&true.into(), &false.into()));
    assert!(rows.iter().filter(|row| row["kind"] == "image").all(|row| row["bytes"].is_u64()));
    assert_eq!(all_of(&host), before);

    // What may hold work can be left.
    host.run(&["cleanup", "--yes", "--keep-work"]).code(0);
    let left = host.leavings();
    let is_kept =
        |name: &String| name.contains(&kept) || name.contains("-home-") || name.contains("-work-");
    assert!(left.iter().all(is_kept), "{left:?}");
    assert!(left.contains(&format!("bottle-home-{gone}")), "{left:?}");

    // The engine may end what the killed apply had asked for a moment later.
    until("only what can be carried on is left", || {
        cleaned(&host).code(0);
        host.leavings().iter().all(|name| name.contains(&kept))
    });
    assert!(host.leavings().len() >= 6, "{:?}", host.leavings());
    let states: Vec<_> = fs::read_dir(host.at("root/state")).expect("there").flatten().collect();
    assert_eq!(states.len(), 1, "{states:?}");
    for lost in [&gone, &runs, &cut] {
        let left = files(&host.at("root"));
        assert!(!left.iter().any(|path| path.contains(lost.as_str())), "{left:?}");
    }
    host.run(&["resume", &kept, "--manifest", "bottle.yaml", "--yes", "--detach"]).code(0);

    // Its end, and then the rest.
    host.run(&["destroy", &kept, "--yes"]).code(0);
    cleaned(&host).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
    assert_eq!(inspect(&theirs)["RootFS"], theirs_before["RootFS"]);
    docker(&["rmi", &theirs]).code(0);
    assert_eq!(images(&host), BTreeSet::new(), "not even layers that only theirs stood on");
    let bin: Vec<_> = fs::read_dir(host.at("root/bin")).expect("there").flatten().collect();
    assert!(bin.is_empty(), "{bin:?}");
    assert!(host.has(&format!("root/history/{kept}/receipt.json")), "records are kept for a while");
    host.write("root/config.yaml", "history_days: 0\n");
    cleaned(&host).code(0).says("removed record");
    assert!(!host.has(&format!("root/history/{kept}")));
    cleaned(&host).code(0).says("nothing to clean up");

    assert_eq!(all_of(&near), near_before, "the neighbour's");
    docker(&["exec", &format!("bottle-{near_session}"), "true"]).code(0);
    assert!(foreign.there());
    // A clean-up of the neighbour's spares its session too.
    cleaned(&near).code(0);
    docker(&["exec", &format!("bottle-{near_session}"), "true"]).code(0);
}

#[test]
fn killed_in_the_middle_the_next_one_carries_on() {
    let (_near, _) = neighbour();
    let host = host();
    let session = unique("torn");
    start(&host, &session);
    fs::remove_dir_all(host.at("root/state").join(&session)).expect("removed");
    let mut steps = 0;
    loop {
        let mut command = host.command(&["cleanup", "--yes"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        child.kill().expect("a process of ours");
        child.wait().expect("it ended");
        if !first.starts_with("removed ") {
            assert!(first.contains("nothing to clean up"), "{first}");
            break;
        }
        steps += 1;
    }
    assert!(steps >= 3, "it was killed {steps} times");
    assert_eq!(host.leavings(), Vec::<String>::new());
    assert_eq!(images(&host), BTreeSet::new());
    assert!(!host.has(&format!("root/locks/{session}.lock")));
}

#[test]
fn what_cannot_be_removed_is_told_and_the_rest_goes() {
    let (_near, _) = neighbour();
    let host = host();
    let foreign = Foreign::on("10.213.77.16/28");
    let session = unique("held");
    start(&host, &session);
    let home = format!("bottle-home-{session}");
    let holder = unique("holder");
    docker(&[
        "create",
        "--name",
        &holder,
        "-v",
        &format!("{home}:/v"),
        "debian:bookworm-slim",
        "true",
    ])
    .code(0);
    fs::remove_dir_all(host.at("root/state").join(&session)).expect("removed");
    let ran = cleaned(&host).code(12).says(&format!("volume {home} is left")).says("1 left");
    assert!(ran.err.contains(&holder) || ran.err.contains("in use"), "{}", ran.err);
    assert_eq!(host.leavings(), std::slice::from_ref(&home));
    docker(&["rm", "-f", &holder]).code(0);
    cleaned(&host).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
    assert!(foreign.there());
}

#[test]
fn a_session_that_another_process_works_on_is_left_alone() {
    let (_near, _) = neighbour();
    let host = host();
    let session = unique("busy");
    killed_at(&host, &session, 12);
    // As a process that carries on with it would.
    let lock = host.at(&format!("root/locks/{session}.lock"));
    let held = fs::File::open(lock).expect("there");
    held.try_lock().expect("free");
    let ran = host.run(&["cleanup", "--yes"]).code(0).says("another bottle process");
    assert!(host.has(&format!("root/state/{session}")), "{}", ran.err);
    held.unlock().expect("held");
    until("it goes", || {
        cleaned(&host).code(0);
        host.leavings().is_empty()
    });
    assert!(!host.has(&format!("root/state/{session}")));
}

#[test]
fn a_twin_that_lost_its_container_goes_and_what_a_person_built_upon_one_stays() {
    let (_near, _) = neighbour();
    let host = host();
    // An image with words of its own: containers are made from its twin.
    let dockerfile = host.read("work/image/Dockerfile");
    host.write("work/image/Dockerfile", &format!("{dockerfile}LABEL says=something\n"));
    let session = unique("twin");
    host.up(&session);
    let agent = format!("bottle-{session}");
    let twin = inspect(&agent)["Image"].as_str().expect("an id").to_owned();
    let is_there = |id: &str| docker(&["image", "inspect", id]).ok();
    assert_eq!(inspect(&twin)["RepoTags"], Value::Array(vec![]), "it has no name");

    // A person's image on it has inherited the label, and has no name either.
    let person = unique("person");
    docker(&["create", "--name", &person, &twin, "true"]).code(0);
    let theirs = docker(&["commit", &person]).code(0).out.trim().to_owned();
    docker(&["rm", &person]).code(0);
    assert_eq!(inspect(&theirs)["Config"]["Labels"], inspect(&twin)["Config"]["Labels"]);
    // Removed by others, as after a crash nobody takes the twin along.
    for role in ["", "egress-"] {
        docker(&["rm", "-f", &format!("bottle-{role}{session}")]).code(0);
    }
    fs::remove_dir_all(host.at("root/state").join(&session)).expect("removed");
    cleaned(&host).code(0);
    assert!(is_there(&theirs) && is_there(&twin), "theirs, and what it stands on");
    // Without its parents, which would go with it.
    let save = format!("docker save {twin} -o {}", host.at("twin.tar").display());
    ran(Command::new("sh").args(["-c", &save]), b"").code(0);
    docker(&["rmi", &theirs]).code(0);
    docker(&["load", "-i", host.at("twin.tar").to_str().expect("UTF-8")]).code(0);
    assert!(is_there(&twin));
    let shown = cleaned(&host).code(0);
    assert!(shown.out.contains(&twin), "{}", shown.out);
    assert!(!is_there(&twin));
    assert_eq!(images(&host), BTreeSet::new());
}
