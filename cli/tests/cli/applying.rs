//! `apply`, `destroy` and `lock` as far as they go without an engine: everything that is refused
//! is refused before one is looked for.

use crate::harness::{BOTTLE, Host, edited, exists};

const NO_ENGINE: &str = "/nonexistent/docker.sock";

#[test]
fn nobody_approved() {
    let host = Host::with_agent();
    host.plan(&[]);
    let ran = host.run(&["apply", "plan.json"]).code(11).prints_nothing();
    ran.says("nobody approved the plan")
        .says("say --yes, or approve the plan in a file: `bottle apply FILE` with --expect");
    assert!(!exists(&host.at("root/state")));
}

#[test]
fn an_approved_plan_goes_as_far_as_the_engine() {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    let digest = host.run(&["digest", "plan.json"]).code(0).out;
    let digest = digest.trim();
    host.run(&["apply", "plan.json", "--yes"]).code(1).says(NO_ENGINE).says("hint: start it");
    host.run(&["apply", "plan.json", "--expect", digest]).code(1).says(NO_ENGINE);
    host.run_with(&["apply", "-", "--expect", digest], &text).code(1).says(NO_ENGINE);
    let compact = serde_json::from_str::<serde_json::Value>(&text).unwrap().to_string();
    host.run_with(&["apply", "-", "--expect", digest], &compact).code(1).says(NO_ENGINE);
}

#[test]
fn an_edited_plan_is_not_the_one_that_was_approved() {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    let digest = host.run(&["digest", "plan.json"]).code(0).out;
    let other = edited(&text, |plan| plan["spec"]["task"] = "something else".into());
    host.write("work/plan.json", &other);
    let ran = host.run(&["apply", "plan.json", "--expect", digest.trim()]).code(11);
    ran.says("expected plan sha256:").says("not the plan that was approved");
    host.run(&["apply", "plan.json", "--expect", "sha256:short"]).code(64);
}

#[test]
fn what_is_no_plan_of_this_version_is_refused() {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    let apply = |text: &str| host.run_with(&["apply", "-", "--yes"], text);
    apply(&text[..text.len() - 100]).code(1).says("EOF while parsing").says("line");
    let twice = text.replacen('{', "{\"kind\": \"bottle/plan\",", 1);
    apply(&twice).code(1).says("duplicate key `kind`");
    let unknown = edited(&text, |plan| plan["session"]["privileged"] = true.into());
    apply(&unknown).code(1).says("unknown field `/session/privileged`");
    let newer = edited(&text, |plan| {
        plan["format_version"] = "1.7".into();
        plan["written_by"] = "9.1.0".into();
        plan["novelty"] = true.into();
    });
    apply(&newer).code(13).says("format version `1.7`").says("bottle 9.1.0 wrote it");
    let alien = edited(&text, |plan| plan["format_version"] = "2.0".into());
    apply(&alien).code(13);
    let broken = edited(&text, |plan| plan["actions"][0]["destructive"] = true.into());
    apply(&broken).code(11).says("breaks lint rules").says("destructive");
    apply("").code(1).says("EOF");
    host.run(&["apply", "none.json", "--yes"]).code(1).says("cannot read none.json");
    assert!(!exists(&host.at("root/state")));
}

#[test]
fn secrets_are_named_and_not_repeated() {
    let host = Host::with_agent();
    host.plan(&[]);
    let ran = host.run(&["apply", "plan.json", "--yes", "--secret", "TOKEN=hunter2"]).code(64);
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    let words = ["apply", "plan.json", "--yes", "--secret", "TOKEN=fd:3"];
    host.run(&words).code(64).says("the plan asks for no value of TOKEN");
}

#[test]
fn a_lock_file_approves_grants() {
    let host = Host::with_agent();
    host.plan(&[]);
    let lock = |more: &[&str]| {
        let words: Vec<&str> =
            ["lock", "--snapshot", "snapshot.json"].iter().chain(more).copied().collect();
        host.run(&words)
    };
    lock(&[]).code(0).says("dev (workspace none): sha256:");
    lock(&["--check"]).code(0).says("dev is as locked");
    let locked = ["apply", "plan.json", "--require-lock", "bottle.lock"];
    host.run(&locked).code(1).says(NO_ENGINE);

    host.write("root/bottles/dev.md", &BOTTLE.replace("access: read", "access: all"));
    host.plan(&[]);
    let newly = "any method on every path at api.example.com:443";
    host.run(&locked).code(11).says(newly);
    lock(&["--check"]).code(11).says(newly).says("have it reviewed");
    lock(&["--check", "nobody"]).code(11).says("nobody is not locked");

    let planted = edited(&host.read("work/bottle.lock"), |lock| {
        lock["agents"]["dev"]["none"]["grants"]["supervise"] = true.into();
    });
    host.write("work/bottle.lock", &planted);
    host.run(&locked).code(11).says("nothing is approved for agent dev");
    host.write("work/bottle.lock", "{\"kind\": \"bottle/lock\", \"format_version\": \"9.0\"}");
    host.run(&locked).code(13);
    host.write("work/bottle.lock", "{}");
    host.run(&locked).code(1).says("expected a lock file");
    host.run(&["lock", "--snapshot", "snapshot.json", "--workspace", "copy"]).code(0);
    assert!(host.read("work/bottle.lock").contains("\"copy\": {"));
    let mount = ["lock", "--snapshot", "snapshot.json", "--workspace", "mount"];
    host.run(&mount).code(1).says("does not allow workspace mode mount");
}

#[test]
fn a_state_root_that_cannot_be_written_to_is_told_first() {
    let host = Host::with_agent();
    host.plan(&[]);
    std::fs::remove_dir_all(host.at("root")).unwrap();
    host.write("root", "a file in the way");
    host.run(&["apply", "plan.json", "--yes"]).code(1).says("cannot write to");
}

#[test]
fn sessions_that_are_not_there_are_not_destroyed() {
    let host = Host::with_agent();
    host.run(&["destroy", "dev"]).code(1).says("there is no session `dev`");
    host.run(&["destroy", "@last"]).code(1).says("there is no session");
    host.run(&["destroy"]).code(64);
}
