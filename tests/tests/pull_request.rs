//! `examples/pull-request`, as a pull request would run it: two real commits, no engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use bottle_tests::host::{Host, Ran, bottle, ran};
use serde_json::Value;

const FILES: [&str; 4] = ["bottle.yaml", "bottle.lock", "snapshot.json", "plan-diff"];

/// A repository with the example in it, and a commit of it.
fn repository() -> Host {
    let host = Host::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pull-request");
    for file in FILES {
        fs::copy(example.join(file), host.at("work").join(file)).expect("the example has it");
    }
    git(&host, &["init", "-q", "-b", "main"]);
    commit(&host);
    host
}

#[track_caller]
fn git(host: &Host, words: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(words);
    git.current_dir(host.at("work")).env("HOME", host.at("home")).env("GIT_CONFIG_NOSYSTEM", "1");
    ran(&mut git, b"").code(0).out
}

#[track_caller]
fn commit(host: &Host) {
    git(host, &["add", "-A"]);
    git(host, &["commit", "-q", "--allow-empty", "-m", "a change"]);
}

/// Edits the manifest and commits that.
#[track_caller]
fn change(host: &Host, from: &str, to: &str) {
    let manifest = host.read("work/bottle.yaml");
    assert!(manifest.contains(from), "the example has no {from:?} any more");
    host.write("work/bottle.yaml", &manifest.replacen(from, to, 1));
    commit(host);
}

/// Runs the script, with neither an engine nor anything else of this host.
fn plan_diff(host: &Host, words: &[&str]) -> Ran {
    let mut script = Command::new(host.at("work/plan-diff"));
    script.args(words).current_dir(host.at("home")).env_clear();
    script.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", host.at("home"));
    script.env("BOTTLE", bottle()).env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    ran(&mut script, b"")
}

#[test]
fn nothing_changed() {
    let host = repository();
    host.write("work/README.md", "more words\n");
    commit(&host);
    let same = plan_diff(&host, &["HEAD~1", "HEAD"]).code(0).prints("### Grants: same");
    assert!(!same.out.contains("allowed"), "{}", same.out);
    assert_eq!(same.out, plan_diff(&host, &["HEAD~1", "HEAD"]).code(0).out);
}

#[test]
fn a_wider_route_is_said_with_its_credential() {
    let host = repository();
    let rule = "            - {methods: [POST], paths: [\"/repos/acme/web/pulls\"]}\n";
    change(&host, "        - host: registry", &format!("{rule}        - host: registry"));
    let ran = plan_diff(&host, &["HEAD~1", "HEAD"]).code(2).prints("### Grants: widened");
    let line = ran.out.lines().find(|line| line.contains("/repos/acme/web/pulls")).expect("named");
    for part in ["POST", "api.github.com:443", "credential GH\\_PAT"] {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    assert!(ran.out.contains("**Newly allowed**"), "{}", ran.out);
    plan_diff(&host, &["HEAD", "HEAD~1"]).code(0).prints("### Grants: narrowed");
}

#[test]
fn a_narrower_route_is_no_reason_to_stop() {
    let host = repository();
    change(&host, "        - host: registry.npmjs.org\n          allow: [{access: read}]\n", "");
    let ran = plan_diff(&host, &["HEAD~1", "HEAD"]).code(0).prints("### Grants: narrowed");
    ran.prints("**No longer allowed**").prints("registry.npmjs.org");
}

#[test]
fn what_cannot_be_planned_or_compared_is_an_error() {
    let host = repository();
    change(&host, "bottle: web", "bottle: webb");
    plan_diff(&host, &["HEAD~1", "HEAD"]).code(1).says("bottle.yaml:").says("webb");
    plan_diff(&host, &["HEAD~1"]).code(64).says("usage: plan-diff BASE HEAD");
    plan_diff(&host, &["nowhere", "HEAD"]).code(64).says("nowhere is no revision");
    plan_diff(&host, &["--output=/tmp/x", "HEAD"]).code(64).says("is no revision");
    plan_diff(&host, &["HEAD~1", "HEAD~1", "nobody"]).code(1).says("there is no agent `nobody`");
}

#[test]
fn the_lock_is_of_this_manifest_and_cannot_be_forged() {
    let host = repository();
    let snapshot = ["--manifest", "bottle.yaml", "--snapshot", "snapshot.json"];
    let check = [&["lock", "--check"], &snapshot[..]].concat();
    host.run(&check).code(0).says("fixer is as locked");
    let plan = [&["plan", "fixer", "-o", "plan.json"], &snapshot[..]].concat();
    let apply = ["apply", "plan.json", "--require-lock", "bottle.lock"];
    let rule = "            - {methods: [POST], paths: [\"/repos/acme/web/pulls\"]}\n";
    change(&host, "        - host: registry", &format!("{rule}        - host: registry"));
    host.run(&check).code(11).says("have it reviewed");
    host.run(&plan).code(0);
    let refused = host.run(&apply).code(11).says("granted something else than was approved");
    refused.says("POST").says("/repos/acme/web/pulls").says("credential GH_PAT");

    // The wider grants under the digest that was approved.
    let honest = host.read("work/bottle.lock");
    host.run(&[&["lock"], &snapshot[..]].concat()).code(0);
    let wider: Value = serde_json::from_str(&host.read("work/bottle.lock")).expect("JSON");
    let mut forged: Value = serde_json::from_str(&honest).expect("JSON");
    let locked = &mut forged["agents"]["fixer"]["none"];
    locked["grants"] = wider["agents"]["fixer"]["none"]["grants"].clone();
    host.write("work/bottle.lock", &forged.to_string());
    host.run(&apply).code(11).says("nothing is approved for agent fixer");
    host.run(&check).code(11);
    assert!(!host.has("root/state"), "nothing was begun");
}
