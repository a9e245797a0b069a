//! `plan` and what only reads plans, run without an engine.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::harness::{BOTTLE, Host, edited, exists, parse};

const AT: &str = "2026-01-31T12:00:00Z";
const OFFLINE: [&str; 3] = ["plan", "--snapshot", "snapshot.json"];

fn offline(more: &[&'static str]) -> Vec<&'static str> {
    OFFLINE.iter().chain(more).copied().collect()
}

#[test]
fn a_plan_is_all_that_standard_output_holds() {
    let host = Host::with_agent();
    let ran = host.run(&offline(&[])).code(0).says("to create");
    let plan = parse(&ran.out);
    assert!(plan.identity.as_str().starts_with("dev-"), "{}", plan.identity);
    assert_eq!(plan.spec.workspace, None, "the current folder is never brought in unasked");
    assert!(plan.spec.offline);
}

#[test]
fn time_and_name_fixed_the_bytes_are_the_same() {
    let host = Host::with_agent().set("SOURCE_DATE_EPOCH", "1769860800");
    let words = offline(&["--identity", "dev-aaaaa"]);
    let one = host.run(&words).code(0);
    assert_eq!(one.out, host.run(&words).code(0).out);
    assert_eq!(parse(&one.out).spec.at.as_str(), AT);
    let named = host.run(&offline(&["--name", "dev-aaaaa", "--at", AT])).code(0);
    assert_eq!(one.out, named.out);
}

#[test]
fn a_plan_in_a_file_is_private() {
    let host = Host::with_agent();
    let ran = host.run(&offline(&["-o", "plan.json"])).code(0).prints_nothing();
    ran.says("Next: bottle apply plan.json");
    let mode = host.at("work/plan.json").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    host.run(&offline(&["-o", "none/plan.json"])).code(1).says("could not write none/plan.json");
}

#[test]
fn changes_have_an_exit_code_if_asked_for() {
    let host = Host::with_agent();
    host.run(&offline(&["--detailed-exitcode"])).code(2);
    host.run(&offline(&["--format", "human"])).code(0).prints("The agent may:");
}

#[test]
fn the_request_can_be_printed_and_given_back() {
    let host = Host::with_agent();
    let words = ["plan", "--print-spec", "--task", "fix it", "--workspace", "copy", "--at", AT];
    let spec = host.run(&words).code(0);
    assert_eq!(spec.json()["task"], "fix it");
    assert_eq!(spec.json()["workspace"]["mode"], "copy");
    host.write("work/spec.json", &spec.out);
    let again = host.run(&["plan", "--print-spec", "--spec", "spec.json"]).code(0);
    assert_eq!(again.out, spec.out);
    host.write("work/spec.yaml", "agent: dev\nworkspace: {path: /srv}\n");
    let yaml = host.run(&["plan", "--print-spec", "--spec", "spec.yaml"]).code(0);
    assert_eq!(yaml.json()["workspace"]["path"], "/srv");
    let none = ["plan", "--print-spec", "--spec", "spec.yaml", "--workspace", "none"];
    assert!(host.run(&none).code(0).json()["workspace"].is_null());
}

#[test]
fn variables_become_overrides() {
    let host = Host::with_agent()
        .set("BOTTLE_IMAGE", "")
        .set("CLAUDE_BOTTLE_IMAGE", "old:1")
        .set("BOTTLE_CONTAINER", "mine");
    let spec = host.run(&["plan", "--print-spec"]).code(0).json();
    assert_eq!(spec["overrides"]["image"], "old:1");
    assert_eq!(spec["overrides"]["container"], "mine");
}

#[test]
fn inputs_replay() {
    let host = Host::with_agent();
    let first = host.run(&offline(&["--dump-inputs", "inputs.json"])).code(0);
    std::fs::remove_dir_all(host.at("root")).unwrap();
    let again = host.run(&["plan", "--inputs", "inputs.json"]).code(0);
    assert_eq!(first.out, again.out);
    host.run(&["plan", "--inputs", "inputs.json", "--task", "x"]).code(64);
    host.run(&["plan", "--inputs", "snapshot.json"]).code(1).says("expected inputs of a plan");
}

#[test]
fn an_existing_session_keeps_what_was_asked_for_it() {
    let host = Host::with_agent();
    let text = host.plan(&["--task", "fix it", "--", "--model", "opus"]);
    host.session("dev-aaaaa", &text);
    let spec = host.run(&["plan", "--print-spec", "--identity", "dev-aaaaa"]).code(0).json();
    assert_eq!(spec["task"], "fix it");
    assert_eq!(spec["args"][1], "opus");
    assert_eq!(spec["offline"], false);
    let spec = host
        .run(&["plan", "--print-spec", "--identity", "@last", "--refresh", "tool", "--resume"])
        .code(0)
        .json();
    assert_eq!((&spec["refresh"][0], &spec["resume"]), (&"tool".into(), &true.into()));
}

#[test]
fn several_agents_are_listed_and_none_is_explained() {
    let host = Host::with_agent();
    host.write("root/agents/review.md", "---\nbottle: dev\n---\n");
    host.run(&offline(&[])).code(64).says("hint: agents: dev, review").prints_nothing();
    host.run(&offline(&["review"])).code(0);
    host.run(&offline(&["nobody"])).code(1).says("there is no agent `nobody`");
    host.run(&offline(&["No_Body"])).code(64);
    let empty = Host::empty();
    empty.run(&["plan"]).code(1).says("no agent is known in").says("bottle init");
}

#[test]
fn a_broken_manifest_is_told_with_its_place() {
    let host = Host::with_agent();
    host.write("root/bottles/other.md", "---\negres: {}\n---\n")
        .write("root/agents/other.md", "---\nbottle: other\n---\n");
    let ran = host.run(&offline(&[])).code(1);
    ran.says("bottles/other.md:2:1: error:").says(" 2 | egres: {}\n   | ^").says("egress");
    host.run(&offline(&["other"])).code(1).says("agent `other` is not there");
    host.run(&offline(&["dev"])).code(0).says("note: agent dev does not build on what has errors");
}

#[test]
fn one_file_and_another_folder() {
    let host = Host::with_agent();
    host.write("work/one.yaml", "bottles: {b: {}}\nagents: {solo: {bottle: b}}\n")
        .write("work/m/bottles/b.md", "---\n{}\n---\n")
        .write("work/m/agents/far.md", "---\nbottle: b\n---\n");
    let solo = host.run(&offline(&["--manifest", "one.yaml"])).code(0);
    assert_eq!(parse(&solo.out).grants.agent.name.as_str(), "solo");
    let far = host.run(&offline(&["--manifest-dir", "m"])).code(0);
    assert_eq!(parse(&far.out).grants.agent.name.as_str(), "far");
    host.run(&offline(&["--manifest", "one.yaml", "--manifest-dir", "m"])).code(64);
    host.run(&offline(&["--manifest", "none.yaml"])).code(1).says("none.yaml:1:1: error:");
}

#[test]
fn every_planning_error_is_told() {
    let host = Host::with_agent();
    let text = edited(&host.read("work/snapshot.json"), |s| s["engine"]["api"][1] = 40.into());
    host.write("work/old.json", &text)
        .write("work/spec.yaml", "agent: dev\nsession: {kind: new, suffix: NO}\n");
    let ran = host.run(&["plan", "--snapshot", "old.json", "--spec", "spec.yaml"]);
    let ran = ran.code(1).prints_nothing().says("expected a suffix of five characters");
    let ran = ran.says("speaks API 1.40").says("hint: install Docker 20.10");
    assert_eq!(ran.err.matches("error:").count(), 2, "{}", ran.err);
}

#[test]
fn no_engine_is_explained() {
    let host = Host::with_agent();
    let ran = host.run(&["plan"]).code(1).prints_nothing();
    ran.says("error: no container engine answers").says("/nonexistent/docker.sock").says("hint:");
}

#[test]
fn homes_that_are_not_there() {
    let host = Host::with_agent();
    let run = |set: &dyn Fn(&mut std::process::Command)| {
        let mut command = host.command(&["plan"]);
        set(&mut command);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = run(&|c| {
        c.env_remove("HOME").env_remove("BOTTLE_HOME");
    });
    assert_eq!(code, Some(1));
    assert!(err.contains("error: HOME is not set\nhint: set HOME"), "{err}");
    let (code, err) = run(&|c| {
        c.env("HOME", "relative");
    });
    assert_eq!(code, Some(1));
    assert!(err.contains("expected an absolute path in HOME, found \"relative\""), "{err}");
}

#[test]
fn a_plan_needs_no_place_to_write() {
    let host = Host::with_agent();
    host.write("root/cache", "a file where a folder would be");
    host.run(&offline(&[])).code(0);
}

#[test]
fn plans_are_shown() {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    let show = |format: &str| host.run(&["show", "plan.json", "--format", format]).code(0).out;
    assert!(
        show("human")
            .contains("read (GET, HEAD, OPTIONS, git fetch) on every path at api.example.com")
    );
    assert!(show("markdown").starts_with("### Session dev-aaaaa"));
    assert!(show("dot").starts_with("digraph plan {"));
    assert!(show("compose").contains("\nservices:\n"));
    assert_eq!(show("json"), text);
    assert_eq!(host.run_with(&["show", "-"], &text).code(0).out, show("human"));
    host.run(&["show"]).code(64).says("no session is there");
    host.session("dev-aaaaa", &text);
    assert_eq!(host.run(&["show"]).code(0).out, show("human"));
    assert_eq!(host.run(&["show", "dev"]).code(0).out, show("human"));
    host.session("dev-bbbbb", &text);
    host.run(&["show"]).code(64).says("hint: sessions: dev-aaaaa, dev-bbbbb");
    host.run(&["show", "dev"]).code(64).says("any of 2 sessions");
    host.run(&["show", "nope"]).code(1).says("there is no session `nope`");
    host.run(&["show", "nope.json"]).code(1).says("cannot read nope.json");
}

#[test]
fn a_newer_plan_is_shown_and_not_acted_upon() {
    let host = Host::with_agent();
    let newer = edited(&host.plan(&[]), |plan| {
        plan["format_version"] = "1.9".into();
        plan["written_by"] = "7.7.7".into();
        plan["hologram"] = true.into();
    });
    host.write("work/newer.json", &newer);
    host.run(&["show", "newer.json"]).code(0).prints("Session dev-aaaaa");
    host.run(&["diff", "plan.json", "newer.json"]).code(0).prints("+  \"hologram\": true");
    host.run(&["digest", "newer.json"]).code(0);
    host.run(&["lint", "newer.json"]).code(13).says("bottle 7.7.7 wrote it");
    let alien = edited(&newer, |plan| {
        plan["format_version"] = "2.0".into();
        plan["actions"] = "none".into();
    });
    host.write("work/alien.json", &alien);
    host.run(&["show", "alien.json"]).code(13).says("has format version `2.0`");
}

#[test]
fn documents_that_are_no_plans() {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    host.write("work/cut.json", &text[..text.len() / 2])
        .write("work/twice.json", "{\"kind\": \"bottle/plan\", \"kind\": \"bottle/plan\"}")
        .write("work/typo.json", &edited(&text, |plan| plan["intent"] = "lunch".into()));
    for command in ["show", "lint", "digest"] {
        host.run(&[command, "cut.json"]).code(1).says("EOF").prints_nothing();
        host.run(&[command, "twice.json"]).code(1).says("duplicate key `kind`");
        host.run(&[command, "snapshot.json"]).code(1).says("found another document");
    }
    let line = host.run(&["show", "typo.json"]).code(1);
    line.says("unknown variant `lunch`").says("line");
}

#[test]
fn plans_are_compared() {
    let host = Host::with_agent();
    host.plan(&[]);
    std::fs::rename(host.at("work/plan.json"), host.at("work/old.json")).unwrap();
    let wider = BOTTLE.replace("access: read", "access: all");
    host.write("root/bottles/dev.md", &wider);
    host.plan(&[]);
    let ran = host.run(&["diff", "old.json", "plan.json"]).code(0);
    ran.prints("Grants: widened").prints("--- old.json\n+++ plan.json\n@@");
    let words = ["diff", "old.json", "plan.json", "--fail-on", "widened"];
    host.run(&words).code(2);
    host.run(&["diff", "plan.json", "old.json", "--fail-on", "widened"]).code(0);
    host.run(&["diff", "plan.json", "plan.json"]).code(0).prints("The plans are the same.");
    let json = host.run(&["diff", "old.json", "plan.json", "--format", "json"]).code(0).json();
    assert_eq!(json["grants"]["verdict"], "widened");
    host.run(&["diff", "old.json", "plan.json", "--format", "markdown"])
        .code(0)
        .prints("### Grants: widened");
    host.session("dev-aaaaa", &host.read("work/old.json"));
    host.run_with(&["diff", "dev-aaaaa", "-"], &host.read("work/plan.json"))
        .code(0)
        .prints("Grants: widened");
    host.run(&["diff", "-", "-"]).code(64);
}

#[test]
fn plans_are_linted_and_digested() {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    host.run(&["lint", "plan.json"]).code(0).prints_nothing().says("keeps every rule");
    let broken = edited(&text, |plan| {
        let file = plan["actions"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .find(|action| action["op"]["kind"] == "file")
            .unwrap();
        file["op"]["content"] = "hidden".into();
    });
    host.write("work/broken.json", &broken);
    host.run(&["lint", "broken.json"]).code(11).prints("rendered: file:");
    let json = host.run(&["lint", "broken.json", "--json"]).code(11).json();
    assert_eq!(json["findings"][0]["rule"], "rendered");

    let digest = |words: &[&str]| host.run(words).code(0).out;
    let plain = digest(&["digest", "plan.json"]);
    assert!(plain.starts_with("sha256:") && plain.len() == 7 + 64 + 1, "{plain}");
    let compact = serde_json::from_str::<serde_json::Value>(&text).unwrap().to_string();
    host.write("work/compact.json", &compact);
    assert_eq!(digest(&["digest", "compact.json"]), plain, "layout does not matter");
    let grants = digest(&["digest", "plan.json", "--grants"]);
    let other = "2031-01-31T12:00:00Z";
    let elsewhen = ["plan", "--snapshot", "snapshot.json", "--at", other, "-o", "later.json"];
    host.run(&elsewhen).code(0);
    assert_ne!(digest(&["digest", "later.json"]), plain);
    assert_eq!(digest(&["digest", "later.json", "--grants"]), grants);
}

#[test]
fn a_reader_that_goes_is_no_error() {
    let host = Host::with_agent();
    let mut child = host
        .command(&["schema", "plan"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn nothing_of_it_is_left_behind() {
    let host = Host::with_agent();
    host.run(&offline(&["--print-spec"])).code(0);
    host.run(&["plan"]).code(1);
    assert!(!exists(&host.at("root/state")), "planning makes no state folder");
}

#[test]
fn leak_rules_that_cannot_be_used_are_an_error_by_name() {
    let host = Host::with_agent();
    host.write("root/bottles/dev.md", "---\negress: {rules: leaks.toml}\n---\n");
    let with = |rules: &str| {
        let snapshot = edited(&host.read("work/snapshot.json"), |snapshot| {
            snapshot["named_files"] = serde_json::json!({"leaks.toml": rules});
        });
        host.write("work/snapshot.json", &snapshot);
        host.run(&["plan", "dev", "--snapshot", "snapshot.json"])
    };
    with("[[rules]]\nid = \"ours\"\nregex = '''ours-[0-9]{20}'''\n").code(0);
    let name = "`leaks.toml`, the leak rules of bottle dev, cannot be used";
    with("[[rules]\n").code(1).says(name).says("caused by:").prints_nothing();
    with("[[rules]]\nid = \"ours\"\nregex = '''ours-[0-9'''\n").code(1).says(name).says("`ours`");
    host.run(&["lock", "--snapshot", "snapshot.json"]).code(1).says(name);
}
