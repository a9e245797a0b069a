//! The life of sessions as people see it: what `list` says happened, what `resume --all` carries on
//! with, and starting from a built-in bottle alone.
//!
//! An engine is expected to answer (`scripts/host-setup`), and `cargo build -p bottle` to have been
//! run.

use std::fs;

use bottle_tests::host::{Host, docker, inspect, unique, until};
use serde_json::Value;

/// One agent a way to end.
const WAYS: [(&str, &str, &str); 6] = [
    ("fails", "exit 7", ""),
    ("crashes", "kill -SEGV $$", ""),
    ("endless", "while :; do echo x; sleep 0.05; done", "limits: {time: 1s}"),
    ("silent", "sleep 86400", "limits: {idle: 1s}"),
    ("greedy", "tail /dev/zero", "limits: {memory: 64MiB}"),
    ("works", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done", ""),
];

fn host() -> Host {
    let mut bottles = String::from("bottles:\n");
    let mut agents = String::from("agents:\n");
    for (name, script, more) in WAYS {
        bottles += &format!(
            "  {name}:
    provider: {{command: [sh, -c, \"{script}\"], resume_command: [sh, -c, 'echo again; exec sleep 86400']}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
    {more}
"
        );
        agents += &format!("  {name}: {{bottle: {name}, prompt: Be brief.}}\n");
    }
    Host::with_manifest(&(bottles + &agents))
}

fn start(host: &Host, agent: &str) -> String {
    let session = unique(agent);
    let words = ["start", agent, "--manifest", "bottle.yaml", "--name", &session];
    host.run(&[&words[..], &["--yes", "--detach"]].concat()).code(0);
    session
}

fn row(host: &Host, session: &str) -> Value {
    let ran = host.run(&["list", "--json", "--all"]).code(0);
    let all: Vec<Value> = serde_json::from_str(&ran.out).expect("JSON");
    all.into_iter().find(|row| row["session"] == session).unwrap_or(Value::Null)
}

#[track_caller]
fn ended(host: &Host, session: &str, how: &str, code: i64) {
    until("it ended", || row(host, session)["state"] == "ended");
    let row = row(host, session);
    assert_eq!((&row["how"], &row["exit_code"]), (&how.into(), &code.into()), "{row}");
}

#[test]
fn list_says_what_happened() {
    let host = host();
    for (agent, how, code, told) in [
        ("fails", "exited", 7, "ended: exit 7"),
        ("crashes", "signalled", 139, "ended: signal 11"),
        ("endless", "time_limit", 124, "ended: time limit"),
        ("silent", "idle_limit", 124, "ended: idle limit"),
        ("greedy", "out_of_memory", 137, "ended: out of memory"),
    ] {
        let session = start(&host, agent);
        ended(&host, &session, how, code);
        host.run(&["list"]).code(0).prints(told);
        host.run(&["destroy", &session, "--yes"]).code(0);
        assert_eq!(row(&host, &session)["state"], "history");
        if agent != "greedy" {
            assert_eq!(row(&host, &session)["how"], how, "its record says so, too");
        }
    }
    let session = start(&host, "works");
    assert_eq!(row(&host, &session)["how"], Value::Null);
    until("its agent listens", || host.run(&["logs", &session]).out.contains("up"));
    host.run(&["stop", &session]).code(0);
    ended(&host, &session, "stopped", 0);
    let again = ["resume", &session, "--manifest", "bottle.yaml", "--yes", "--detach"];
    host.run(&again).code(0);
    let container = format!("bottle-{session}");
    docker(&["kill", &container]).code(0);
    ended(&host, &session, "killed", 137);
    host.run(&again).code(0);
    docker(&["stop", "-t", "5", &container]).code(0);
    ended(&host, &session, "told", 143);
    // What an agent writes there is read as what it is: anything.
    let file = host.at(&format!("root/state/{session}/agent/out/ended.json"));
    fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", &file).expect("a link");
    ended(&host, &session, "exited", 143);
    fs::remove_file(&file).expect("removed");
    fs::write(&file, "{\"reason\":\"\u{1b}[2J\",\"code\":143}").expect("written");
    ended(&host, &session, "exited", 143);
}

#[test]
fn all_that_was_cut_short_goes_on_and_nothing_else() {
    let host = host();
    host.run(&["resume", "--all", "--yes"]).code(0).says("No session was cut short");
    let failed = start(&host, "fails");
    ended(&host, &failed, "exited", 7);
    let limited = start(&host, "endless");
    ended(&host, &limited, "time_limit", 124);
    let [one, two, broken, runs] = ["works"; 4].map(|agent| start(&host, agent));
    host.run(&["stop", &one]).code(0);
    for (session, how) in [(&two, "killed"), (&broken, "killed")] {
        // As when the host goes down: nothing of it runs.
        docker(&["kill", &format!("bottle-{session}"), &format!("bottle-egress-{session}")])
            .code(0);
        ended(&host, session, how, 137);
    }
    let (up, container) = (row(&host, &runs), format!("bottle-{runs}"));
    let started = inspect(&container)["State"]["StartedAt"].clone();
    // A link where a file is written: that one cannot be planned.
    let file = host.at(&format!("root/state/{broken}/agent/in/init.json"));
    fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", &file).expect("a link");

    let all = ["resume", "--all", "--manifest", "bottle.yaml"];
    host.run(&all).code(12).says("nobody approved");
    let ran = host.run(&[&all[..], &["--yes"]].concat()).code(12);
    assert!(ran.err.contains("2 of 3 go on") && ran.err.contains(&broken), "{}", ran.err);
    for session in [&one, &two] {
        until("it goes on", || host.run(&["logs", session]).out.contains("again"));
        assert_eq!(row(&host, session)["state"], "running");
    }
    assert_eq!(row(&host, &broken)["how"], "killed");
    assert_eq!(
        (&row(&host, &failed)["how"], &row(&host, &limited)["how"]),
        (&"exited".into(), &"time_limit".into())
    );
    assert_eq!((row(&host, &runs), &inspect(&container)["State"]["StartedAt"]), (up, &started));

    fs::remove_file(&file).expect("removed");
    host.run(&[&all[..], &["--yes", "--detach"]].concat()).code(0);
    host.run(&[&all[..], &["--yes"]].concat()).code(0).says("No session was cut short");
}

/// An image with a `claude` that says what it was given, whose name the variable `BOTTLE_IMAGE` has.
struct StandIn(String);

impl StandIn {
    fn build() -> Self {
        let name = unique("stand-in");
        let folder = tempfile::tempdir().expect("a folder");
        // Where nothing was said, nothing is carried on: it leaves a transcript, as Claude Code does.
        let script = "#!/bin/sh\\nd=~/.claude/projects/w; mkdir -p $d; : >$d/1.jsonl\\n\
                      echo \"claude $*\"; pwd; ls; sleep ${SECONDS_TO_WORK:-86400}";
        let text = format!(
            "FROM debian:bookworm-slim\n\
             RUN printf '{script}\\n' >/usr/local/bin/claude && chmod 755 /usr/local/bin/claude\n"
        );
        fs::write(folder.path().join("Dockerfile"), text).expect("written");
        docker(&[
            "build",
            "-q",
            "--network",
            "none",
            "-t",
            &name,
            folder.path().to_str().expect("UTF-8"),
        ])
        .code(0);
        Self(name)
    }

    fn host(&self) -> Host {
        Host::new().set("BOTTLE_IMAGE", &self.0).set("CLAUDE_CODE_OAUTH_TOKEN", "not-a-real-token")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

#[test]
fn a_preset_alone_starts_in_the_current_folder_and_goes_on_without_a_file() {
    let image = StandIn::build();
    let host = image.host();
    host.write("work/notes.txt", "hello");
    let session = unique("alone");
    let run = ["run", "@claude", "--name", &session];
    host.run(&run).code(11).says("nobody approved");
    let ran = host.run(&[&run[..], &["--yes", "--detach"]].concat()).code(0);
    assert!(!host.has("root/bottles") && !host.has("root/agents"), "{}", ran.err);
    let shown = |text: &str| host.run(&["logs", &session]).out.contains(text);
    until("it works in a copy of the folder", || shown("notes.txt") && shown("/workspace"));
    assert!(shown("claude --dangerously-skip-permissions"));
    host.run(&[&run[..], &["--yes"]].concat()).code(64).says("bottle resume");

    // A manifest that has another agent of that name is not what it was begun with.
    host.write("root/bottles/other.md", "---\nprovider: {command: [sleep, '1']}\n---\n");
    host.write("root/agents/claude.md", "---\nbottle: other\n---\n");
    host.run(&["stop", &session]).code(0);
    host.run(&["resume", &session, "--yes", "--detach"]).code(0);
    until("it carries on", || shown("claude --dangerously-skip-permissions --continue"));
    host.run(&["plan", "--identity", &session, "--detailed-exitcode"]).code(0);
    host.run(&["destroy", &session, "--yes"]).code(0);

    host.run(&["run", "@github-read", "--yes"]).code(64).says("which agent");
    host.run(&["run", "@nothing", "--yes"]).code(64).says("@claude");
}

#[test]
fn what_was_run_is_kept_as_a_manifest_and_nothing_is_overwritten() {
    let image = StandIn::build();
    let host = image.host();
    let session = unique("kept");
    let words = ["run", "@claude", "--workspace", "none", "--yes", "--detach", "--name"];
    host.run(&[&words[..], &[&session, "--save", "web"]].concat()).code(0).says("wrote");
    let plan = host.plan(&format!("root/state/{session}/plan.json"));
    assert!(plan.session.workspace.is_none());
    assert!(host.read("root/bottles/web.md").contains("extends: \"@claude\""));
    // The files grant the same.
    let other = unique("kept");
    host.run(&["plan", "web", "--name", &other, "-o", "plan.json"]).code(0);
    let mut grants = host.plan("work/plan.json").grants;
    (grants.agent.name, grants.agent.origin) =
        (plan.grants.agent.name.clone(), plan.grants.agent.origin);
    grants.bottle = plan.grants.bottle.clone();
    assert_eq!(grants, plan.grants);
    host.run(&["destroy", &session, "--yes"]).code(0);

    host.write("root/agents/web.md", "mine");
    host.run(&[&words[..], &[&session, "--save", "web"]].concat()).code(1).says("is there already");
    host.run(&[&words[..], &[&session, "--save", "../x"]].concat()).code(64);
    assert_eq!(host.read("root/agents/web.md"), "mine");
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn a_session_whose_agent_left_the_manifest_goes_on_with_a_notice() {
    let host = Host::new();
    host.write(
        "root/bottles/box.md",
        "---
provider: {command: [sleep, '86400'], resume_command: [sh, -c, 'echo again; exec sleep 86400']}
image: {reference: 'debian:bookworm-slim'}
isolation: container
workspace: {modes: [none]}
---
",
    );
    host.write("root/agents/dev.md", "---\nbottle: box\n---\nBe brief.\n");
    let session = unique("orphan");
    host.run(&["start", "dev", "--name", &session, "--yes", "--detach"]).code(0);
    host.run(&["stop", &session]).code(0);
    fs::remove_file(host.at("root/agents/dev.md")).expect("removed");
    let resume = ["resume", &session, "--yes", "--detach"];
    host.run(&resume).code(0).says("not in").says("any more");
    until("it goes on", || host.run(&["logs", &session]).out.contains("again"));
    host.run(&["start", "dev", "--yes"]).code(1);
    // A manifest that is named is taken at its word.
    host.write("work/bottle.yaml", "bottles: {b: {}}\nagents: {a: {bottle: b}}\n");
    host.run(&[&resume[..], &["--manifest", "bottle.yaml"]].concat())
        .code(1)
        .says("no agent `dev`");
}

#[test]
fn info_tells_all_that_an_agent_would_start_with_and_no_value() {
    let manifest = "bottles:
  base: {egress: {routes: [{host: docs.example.com, allow: [{access: read}]}]}}
  box:
    extends: base
    env: {COLOR: hidden-blue, TOKEN: '${APP_TOKEN}', ASKED: '?what is it'}
    egress:
      routes:
        - {host: api.example.com, auth: {scheme: token, secret: API_KEY, placeholder: API}}
    git:
      - {name: web, upstream: 'https://git.example.com/acme/web.git', secret: GIT_TOKEN, push: {branches: ['agent/*'], tags: true}}
    provider: {command: [sleep, '86400']}
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    limits: {memory: 512MiB}
    workspace: {modes: [copy, none]}
agents:
  dev: {bottle: box, prompt: Be brief., skills: [tidy]}
";
    let host = Host::with_manifest(manifest).set("APP_TOKEN", "hidden-token-value");
    host.write(
        "root/config.yaml",
        "secrets: {API_KEY: {command: [sh, -c, 'echo hidden-key-value']}}\n",
    );
    host.write("home/.claude/skills/tidy/SKILL.md", "tidy up");
    host.write("work/folder/file", "x");
    let words =
        ["info", "dev", "--manifest", "bottle.yaml", "--workspace", "copy", "--cwd", "folder"];
    let text = host.run(&words).code(0).out;
    for told in [
        "dev (from the manifest file)",
        "box (",
        "base",
        "debian:bookworm-slim (present)",
        "container (the engine's own runtime here)",
        "512 MiB of memory",
        "copy of ",
        "COLOR (literal)",
        "ASKED (asked for)",
        "TOKEN (secret APP_TOKEN)",
        "API (placeholder)",
        "API_KEY from command sh: available",
        "APP_TOKEN from variable APP_TOKEN: available",
        "GIT_TOKEN from variable GIT_TOKEN: NOT AVAILABLE",
        "tidy",
        "web: https://git.example.com:443/acme/web.git (push: agent/*, tags)",
        "api.example.com:443 [auth:token]",
        "docs.example.com:443: read",
    ] {
        assert!(text.contains(told), "{told:?} is not in:\n{text}");
    }
    let json = host.run(&[&words[..], &["--json"]].concat()).code(0).out;
    let told: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&told["git"][0]["name"], &told["limits"]["memory_bytes"]),
        (&"web".into(), &(512 << 20).into())
    );
    assert!(!(text + &json).contains("hidden-"), "a value is shown");
    assert!(!host.has("root/state") && host.leavings().is_empty(), "nothing is made");
    // Without an engine it says the same, as far as it can.
    let host = host.set("DOCKER_HOST", "unix:///nonexistent.sock");
    host.run(&["info", "dev", "--manifest", "bottle.yaml"]).code(0).prints("[auth:token]");
}

#[test]
fn report_counts_what_sessions_came_to() {
    // A headless agent that prints what a provider's responses say, and asks for what it may not.
    let script = r#"echo '{"type":"result","usage":{"input_tokens":1200,"output_tokens":34}}'
p=${HTTP_PROXY#http://}
exec 3<>/dev/tcp/${p%:*}/${p#*:}
printf 'GET http://no.example.com/ HTTP/1.1\r\nHost: no.example.com\r\n\r\n' >&3
head -c 12 <&3
exit 3"#;
    let script = serde_json::to_string(script).expect("text");
    let host = Host::with_manifest(&format!(
        "bottles:
  box:
    provider: {{command: [bash, -c, {script}]}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    ));
    host.run(&["report"]).code(0).says("no session to report");
    let session = unique("told");
    let start = ["start", "dev", "--manifest", "bottle.yaml", "--yes", "--name", &session];
    host.run(&[&start[..], &["--task", "count"]].concat()).code(3);
    let of = |more: &[&str]| -> Vec<Value> {
        let ran = host.run(&[&["report", "--json"], more].concat()).code(0);
        serde_json::from_str(&ran.out).expect("JSON")
    };
    let line = of(&[]).pop().expect("a line");
    assert_eq!(line["tokens"], serde_json::json!({"input": 1200, "output": 34}), "{line}");
    assert_eq!(
        (&line["how"], &line["exit_code"], &line["refused"]),
        (&"exited".into(), &3.into(), &1.into())
    );
    assert_eq!((&line["pushes"], &line["unpulled"]), (&Value::Null, &0.into()));
    assert!(
        line["seconds"].as_i64().is_some_and(|s| s < 60) && line["ended_at"].is_string(),
        "{line}"
    );
    let table = host.run(&["report"]).code(0).out;
    assert!(table.contains("exit 3") && table.contains("1200"), "{table}");
    assert_eq!(of(&["--since", "2h"]).len(), 1);
    assert_eq!(of(&["--since", "2999-01-01"]).len(), 0);
    host.run(&["report", "--since", "soon"]).code(64).says("2026-01-31");

    // In history what was kept of it counts: its log is gone, its transcript may be there.
    host.run(&["destroy", &session, "--yes"]).code(0);
    let line = of(&[]).pop().expect("a line");
    assert_eq!(
        (&line["state"], &line["how"], &line["refused"]),
        (&"history".into(), &"exited".into(), &1.into())
    );
    let saved = format!("root/history/{session}/saved");
    let message =
        r#"{"type":"assistant","message":{"id":"a","usage":{"input_tokens":5,"output_tokens":6}}}"#;
    host.write(&format!("{saved}/transcript/one.jsonl"), message);
    assert_eq!(of(&[])[0]["tokens"]["output"], 6);
}

#[test]
fn plan_apply_and_start_make_one_world_down_to_networks_and_sidecars() {
    let host = host();
    let session = unique("same");
    // What was asked of the engine, less the plan's digest, which holds the time.
    let world = || -> Vec<(String, Value)> {
        let told = |name: String| {
            let mut found = inspect(&name);
            let mut kept = serde_json::Map::new();
            for part in ["Config", "HostConfig", "Internal", "IPAM", "Options", "Labels", "Driver"]
            {
                kept.insert(part.into(), found[part].take());
            }
            kept["Config"]["Hostname"].take();
            for labels in ["/Config/Labels/dev.bottle.plan", "/Labels/dev.bottle.plan"] {
                let mut all = Value::Object(kept.clone());
                if let Some(label) = all.pointer_mut(labels) {
                    label.take();
                }
                if let Value::Object(fields) = all {
                    kept = fields;
                }
            }
            (name, Value::Object(kept))
        };
        // The engine lists what was made last first, and two are made side by side.
        let mut names = host.leavings();
        names.sort();
        names.into_iter().map(told).collect()
    };
    let plan =
        ["plan", "works", "--manifest", "bottle.yaml", "--name", &session, "-o", "plan.json"];
    host.run(&plan).code(0);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    let by_apply = world();
    assert_eq!(by_apply.len(), 5, "{:?}", host.leavings());
    host.run(&["destroy", &session, "--yes"]).code(0);
    let start = ["start", "works", "--manifest", "bottle.yaml", "--name", &session];
    host.run(&[&start[..], &["--yes", "--detach"]].concat()).code(0);
    assert_eq!(by_apply, world());
    // And a plan for it has nothing to do.
    host.run(&[&plan[..6], &["--detailed-exitcode"]].concat()).code(0);
}
