//! Findings that a person lets through: each once, and nothing else with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::world::{Ran, World};
use crate::harness::wait_until;

const ID: &str = "0123456789ab";
const OTHER: &str = "ba9876543210";
const ONCE: &str = ": let through once by a person";

/// Made here, so that no token stands whole in this file.
fn token(last: char) -> String {
    format!("ghp_{}{last}", "Zx8Qm2Lr7Tn4Vb9Kc3Hj6Gf1Dp5Ws0YaEuR")
}

/// A session whose gate has a supervise container beside it.
fn world() -> World {
    World::with(json!({}), &json!({}), json!({"supervised": true})).seeded()
}

/// Commits a token in a file, and pushes it in vain: the finding as the log has it.
fn found(world: &World, file: &str, token: &str) -> Value {
    world.write(&format!("agent/{file}"), format!("key = {token}\n"));
    world.commit("agent", "work");
    world.push("agent").refused("the push is refused");
    newest(world)["push"]["findings"][0].clone()
}

/// The newest push of the log.
fn newest(world: &World) -> Value {
    world.pushes(1).pop().unwrap()
}

/// The exception for a finding.
fn exception(finding: &Value, remote: &str) -> Value {
    json!({"remote": remote, "fingerprint": finding["fingerprint"], "rule": finding["rule"],
           "place": finding["place"]})
}

fn grant(world: &World, exceptions: &Value) {
    world.inside.write("in/exceptions.json", &exceptions.to_string());
}

/// The ids of the exceptions that are used up.
fn used(world: &World) -> Vec<String> {
    let all = fs::read_dir(world.inside.path("out/used-exceptions")).into_iter().flatten();
    let mut ids: Vec<_> = all.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    ids.sort();
    ids
}

/// Shell that upstream runs before it takes a push.
fn upstreams_hook(world: &World, line: &str) {
    hook(&world.at("web.git/hooks/pre-receive"), line);
}

/// Shell that the agent's git runs once it knows upstream's refs and before it pushes.
fn agents_hook(world: &World, line: &str) {
    hook(&world.at("agent/.git/hooks/pre-push"), line);
}

fn hook(file: &Path, line: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, format!("#!/bin/sh\n{line}\n")).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_a_person_lets_through_goes_through_once() {
    let mut world = world();
    let finding = found(&world, "s", &token('i'));
    grant(&world, &json!({ID: exception(&finding, "web")}));
    let fingerprint = finding["fingerprint"].as_str().unwrap();
    let said = world.push("agent").good().err;
    assert!(said.contains("remote: bottle:   s, line 1: github-pat, commit "), "{said}");
    assert!(said.contains(&format!(" [{fingerprint}]{ONCE}")), "{said}");
    assert_eq!(used(&world), [ID]);
    let logged = newest(&world);
    assert_eq!((&logged["outcome"], &logged["code"]), (&json!("warn"), &json!("granted")));
    assert_eq!(logged["reason"], "1 finding let through once by a person");
    assert_eq!(logged["push"]["excepted"], json!([{"exception": ID, "finding": finding}]));
    assert_eq!(logged["push"]["findings"], json!([]));
    assert!(!world.inside.read("out/decisions.jsonl").contains(&token('i')));

    // Upstream has it now; what is new is looked at as ever.
    world.write("agent/s2", format!("key = {}\n", token('j')));
    world.commit("agent", "another");
    world.push("agent").refused("s2, line 1: github-pat");
    world.git("agent", &["reset", "-q", "--hard", "HEAD~1"]).good();
    // And the very same, once neither upstream nor its mirror has it: an exception is for one push.
    world.upstream(&["update-ref", "-d", "refs/heads/agent/work"]);
    world.end_gate();
    fs::remove_dir_all(world.inside.path("mirrors")).unwrap();
    world.gate = Some(world.inside.start_ready("git-gate"));
    world.deliver("key", &json!({}));
    world.push("agent").refused(fingerprint);
    assert_eq!(used(&world), [ID]);
    assert!(newest(&world)["push"].get("excepted").is_none());
}

#[test]
fn it_lets_through_nothing_else() {
    let world = world();
    let finding = found(&world, "s", &token('i'));
    let before = world.refs();
    let refused = || {
        let refused = world.push("agent").refused("the push is refused");
        assert_eq!(world.refs(), before);
        assert!(used(&world).is_empty());
        refused.err
    };
    // Another remote's.
    grant(&world, &json!({ID: exception(&finding, "other")}));
    refused();
    // Of another place, or rule, as whoever let it through saw it.
    for (key, value) in [("place", "elsewhere"), ("rule", "gitlab-pat"), ("fingerprint", OTHER)] {
        let mut of_another = exception(&finding, "web");
        of_another[key] = value.into();
        grant(&world, &json!({ID: of_another}));
        refused();
    }
    // A second one beside it, in another file and then on the same line of the same file.
    grant(&world, &json!({ID: exception(&finding, "web")}));
    world.write("agent/t", format!("key = {}\n", token('j')));
    world.commit("agent", "more");
    let said = refused();
    assert!(said.contains("1 finding of the leak scan"), "{said}");
    assert!(said.contains("t, line 1: github-pat"), "{said}");
    assert!(said.contains(&format!("{ONCE}, when the rest is gone")), "{said}");
    assert_eq!(newest(&world)["push"]["findings"].as_array().unwrap().len(), 1);
    world.git("agent", &["reset", "-q", "--hard", "origin/main"]).good();
    world.write("agent/s", format!("key = {} {}\n", token('i'), token('j')));
    world.commit("agent", "two in a line");
    refused();
    let both = newest(&world)["push"]["findings"].clone();
    assert_eq!(both.as_array().unwrap().len(), 2, "{both}");
    grant(&world, &json!({ID: exception(&both[0], "web")}));
    refused();
    grant(&world, &json!({ID: exception(&both[0], "web"), OTHER: exception(&both[1], "web")}));
    world.push("agent").good();
    assert_eq!(used(&world), [ID, OTHER]);
}

#[test]
fn of_more_than_is_looked_for_nothing_is_let_through() {
    let world = world();
    let lines: Vec<String> = ('A'..='Z').map(|c| format!("key = {}\n", token(c))).collect();
    world.write("agent/s", lines.concat());
    world.commit("agent", "many");
    let refused = world.push("agent").refused("there may be more");
    assert!(!refused.err.contains("request-push-exception"), "{}", refused.err);
    let told = newest(&world)["push"]["findings"].as_array().unwrap().clone();
    let all = told.iter().enumerate();
    let all = all.map(|(n, finding)| (format!("{n:012}"), exception(finding, "web")));
    grant(&world, &Value::Object(all.collect()));
    world.push("agent").refused("there may be more");
    assert!(used(&world).is_empty());
}

#[test]
fn what_upstream_does_not_take_may_be_pushed_again() {
    let world = world();
    let finding = found(&world, "s", &token('i'));
    grant(&world, &json!({ID: exception(&finding, "web")}));
    let seen = world.at("seen");
    let mark = world.inside.path("out/used-exceptions").join(ID);
    upstreams_hook(&world, &format!("cp {} {}; exit 1", mark.display(), seen.display()));
    let refused = world.push("agent").refused("web does not take the push");
    assert!(refused.err.contains("may still be pushed once"), "{}", refused.err);
    assert!(seen.exists(), "it was marked before upstream had it");
    assert!(used(&world).is_empty());
    let logged = newest(&world);
    assert_eq!((&logged["outcome"], &logged["code"]), (&json!("failed"), &json!("upstream")));
    assert_eq!(logged["push"]["excepted"][0]["exception"], ID);
    fs::remove_file(world.at("web.git/hooks/pre-receive")).unwrap();
    world.push("agent").good();
    assert_eq!(used(&world), [ID]);
}

#[test]
fn an_upstream_that_is_gone_meanwhile_uses_nothing_up() {
    let world = world();
    let finding = found(&world, "s", &token('i'));
    grant(&world, &json!({ID: exception(&finding, "web")}));
    let (there, away) = (world.at("web.git"), world.at("away.git"));
    agents_hook(&world, &format!("mv {} {}", there.display(), away.display()));
    world.push("agent").refused("web does not take the push");
    assert!(used(&world).is_empty());
    fs::rename(away, there).unwrap();
    agents_hook(&world, "");
    world.push("agent").good();
    assert_eq!(used(&world), [ID]);
}

#[test]
fn a_gate_that_is_killed_on_the_way_to_upstream_lets_nothing_through_twice() {
    let mut world = world();
    let finding = found(&world, "s", &token('i'));
    grant(&world, &json!({ID: exception(&finding, "web")}));
    let (begun, go) = (world.at("begun"), world.at("go"));
    upstreams_hook(
        &world,
        &format!(
            "touch {}; until [ -e {} ]; do sleep 0.05; done; exit 1",
            begun.display(),
            go.display()
        ),
    );
    let gate = world.gate.take().unwrap();
    thread::scope(|scope| {
        let pushing = scope.spawn(|| world.push("agent"));
        wait_until("upstream has it", || begun.exists());
        gate.signal(Signal::KILL);
        assert!(!pushing.join().unwrap().ok);
    });
    fs::write(&go, "").unwrap();
    let _ = gate.end();
    fs::remove_file(world.at("web.git/hooks/pre-receive")).unwrap();
    fs::remove_file(world.inside.path("out/state.json")).unwrap();
    world.gate = Some(world.inside.start_ready("git-gate"));
    world.deliver("key", &json!({}));
    assert_eq!(used(&world), [ID]);
    world.push("agent").refused(finding["fingerprint"].as_str().unwrap());
    assert!(!world.refs().contains("agent/work"));
}

#[test]
fn of_pushes_at_once_that_need_it_one_gets_it() {
    const PUSHES: usize = 3;
    let world = world();
    let finding = found(&world, "s", &token('i'));
    grant(&world, &json!({ID: exception(&finding, "web")}));
    // All are told of upstream's refs before the first is passed on, and that one waits for the
    // others as long as they are looked at: what upstream has is no finding any more.
    let (ready, go) = (world.at("ready"), world.at("go"));
    fs::create_dir(&ready).unwrap();
    upstreams_hook(&world, &format!("until [ -e {} ]; do sleep 0.05; done", go.display()));
    let count = format!("ls {} | wc -l", ready.display());
    let wait = format!("until [ $({count}) -ge {PUSHES} ]; do sleep 0.01; done");
    agents_hook(&world, &format!("touch {}/$$; {wait}", ready.display()));
    let ran: Vec<Ran> = thread::scope(|scope| {
        let world = &world;
        let push = move |n| world.git("agent", &["push", "origin", &format!("HEAD:agent/p{n}")]);
        let pushing: Vec<_> = (0..PUSHES).map(|n| scope.spawn(move || push(n))).collect();
        // One that was looked at before the mark was there waits for the first to end.
        let begun = Instant::now();
        let ended = || pushing.iter().filter(|push| push.is_finished()).count();
        wait_until("all were looked at", || {
            ended() == PUSHES - 1 || begun.elapsed() > Duration::from_secs(5)
        });
        fs::write(&go, "").unwrap();
        pushing.into_iter().map(|push| push.join().unwrap()).collect()
    });
    assert_eq!(ran.iter().filter(|ran| ran.ok).count(), 1, "{ran:?}");
    assert_eq!(world.refs().matches("refs/heads/agent/p").count(), 1);
    assert_eq!(used(&world), [ID]);
    let leaks = world.pushes(1 + PUSHES).into_iter().filter(|push| push["code"] == "leak").count();
    assert_eq!(leaks, PUSHES);
}

#[test]
fn a_file_that_cannot_be_read_lets_nothing_through() {
    let mut world = world();
    let finding = found(&world, "s", &token('i'));
    let file = world.inside.path("in/exceptions.json");
    let whole = json!({ID: exception(&finding, "web")}).to_string();
    let outside = json!({"../../in/x": exception(&finding, "web")}).to_string();
    for text in [&whole[..whole.len() - 1], "[]", "", &outside] {
        fs::write(&file, text).unwrap();
        world.push("agent").refused("the push is refused");
        assert!(used(&world).is_empty() && !Path::new(&world.inside.path("in/x")).exists());
    }
    // It is read anew each time, and said of each that cannot be, but not of one that is not there.
    fs::write(&file, &whole).unwrap();
    world.push("agent").good();
    let gate = world.gate.take().unwrap();
    gate.signal(Signal::TERM);
    let said = gate.end();
    assert_eq!(said.stderr().matches("no finding is let through").count(), 4, "{}", said.stderr());
}

#[test]
fn a_refusal_names_the_tool_where_there_is_one() {
    let world = world();
    let finding = found(&world, "s", &token('i'));
    let said = world.push("agent").refused("the push is refused").err;
    let call = format!(
        "with {{\"remote\": \"web\", \"finding\": {}, \"justification\": ",
        finding["fingerprint"]
    );
    let last = said.lines().rfind(|line| line.contains("bottle:")).unwrap();
    assert!(last.contains("`request-push-exception` of the MCP server `bottle`"), "{said}");
    assert!(last.contains("http://supervise:9100/mcp") && last.contains(&call), "{said}");
    // Of what could not be looked at there is nothing that a person could let through.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![0; 64 << 20]).unwrap();
    world.write("agent/bomb.gz", bomb.finish().unwrap());
    world.commit("agent", "bomb");
    let said = world.push("agent").refused("limit-unpack").err;
    assert!(!said.contains("request-push-exception"), "{said}");

    let world = World::new(json!({})).seeded();
    found(&world, "s", &token('i'));
    let said = world.push("agent").refused("the push is refused").err;
    assert!(!said.contains("request-push-exception"), "{said}");
}
