//! Claude Code as npm has it, in an image built from the built-in Dockerfile.

use std::net::Ipv4Addr;

use bottle_tests::host::{docker, unique};
use bottle_tests::tmux::Terminal;
use serde_json::Value;

use crate::api::{DONE, MADE, MAKE, NOTED, messages};
use crate::world::{KEY, PROMPT, SKILL, World, container, file, names, resume};

pub fn manifest(outside: Ipv4Addr) -> String {
    format!(
        "bottles:
  box:
    extends: '@claude'
    egress:
      routes:
        - host: api.anthropic.com
          address: {outside}
          role: claude_code_oauth
          auth: {{scheme: Bearer, secret: KEY}}
          dlp: {{own_secrets: redact, patterns: warn}}
    supervise: true
    isolation: container
    workspace: {{modes: [copy]}}
agents:
  dev: {{bottle: box, skills: [{}], prompt: {}}}
",
        SKILL.0,
        Value::from(PROMPT)
    )
}

fn world() -> World {
    World::new("api.anthropic.com", Box::new(messages), manifest)
}

/// Checks that every request is one of this agent with this credential, and how the first begins.
#[track_caller]
fn asked_as_planned(world: &World) {
    let requests = world.api.requests();
    let to_model: Vec<_> = requests.iter().filter(|r| r.path.starts_with("/v1/messages")).collect();
    assert!(!to_model.is_empty(), "{requests:?}");
    for request in to_model {
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}")));
    }
    let asked = world.asked("/v1/messages");
    let first: Value = asked
        .iter()
        .map(|body| serde_json::from_str(body).expect("JSON"))
        .find(|body: &Value| body["messages"].to_string().contains(MAKE))
        .expect("the task arrived");
    assert!(first["system"].to_string().contains(&json_inner(PROMPT)), "{}", first["system"]);
    assert!(first.to_string().contains(SKILL.1), "the skill is not listed: {first}");
}

/// A text as it is inside a JSON string.
fn json_inner(text: &str) -> String {
    Value::from(text).to_string().trim_matches('"').to_owned()
}

#[test]
fn a_task_is_done_and_the_conversation_goes_on_in_a_new_container() {
    let world = world();
    let session = unique("claude");
    let ran = world.host.run(&world.start(&session, &["--task", MAKE])).code(0);
    asked_as_planned(&world);
    assert_eq!(file(&session, MADE.0), MADE.1);
    // Structured output is in the log, one JSON document a line.
    let log = world.host.run(&["logs", &session, "agent"]).code(0).out;
    for out in [&ran.out, &log] {
        let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let result = lines.rev().find(|line| line["type"] == "result").expect("a result");
        assert_eq!(result["result"], DONE, "{out}");
    }
    // The server it may ask a person through is registered, whether or not it answers.
    let begun = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let begun = begun.rev().find(|line| line["subtype"] == "init").expect("a beginning");
    assert_eq!(begun["mcp_servers"][0]["name"], "bottle", "{}", begun["mcp_servers"]);
    let kept = names(&session, "/home/agent/.claude/projects");
    assert!(kept.iter().any(|name| name.ends_with(".jsonl")), "{kept:?}");
    let first = container(&session);

    world.api.forget();
    world.host.run(&resume(&session, &["--task=- and what now?"])).code(0).prints(NOTED);
    assert_ne!(container(&session), first, "another argv is another container");
    let asked = world.asked("/v1/messages");
    let carried_on =
        |body: &&String| body.contains(MAKE) && body.contains(DONE) && body.contains("what now?");
    assert!(asked.iter().any(|body| carried_on(&body)), "{asked:?}");
    assert_eq!(file(&session, MADE.0), MADE.1, "the work is still there");
    world.host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn a_person_works_with_it_on_a_terminal() {
    let world = world();
    let session = unique("claude");
    let ready = "bypass permissions on";
    // Shown first, and asked about.
    let words: Vec<&str> =
        world.start(&session, &[]).into_iter().filter(|w| *w != "--yes").collect();
    let terminal = Terminal::sized(&world.host, &words, (110, 40));
    terminal.shows("Carry out this plan? [y/N]");
    terminal.picture("start");
    terminal.types("n");
    terminal.shows("ended: 11");
    drop(terminal);
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("name=bottle-{session}")]).out, "");

    // Nothing is said yet: there is nothing to resume, and resuming begins anew.
    let terminal = Terminal::run(&world.host, &world.start(&session, &[]));
    terminal.shows(ready);
    world.host.run(&["stop", &session]).code(0);
    terminal.shows("ended: ");
    drop(terminal);
    let terminal = Terminal::run(&world.host, &resume(&session, &[]));
    terminal.shows(ready);
    terminal.types(MAKE);
    terminal.shows(DONE);
    terminal.picture("session");
    asked_as_planned(&world);
    assert_eq!(file(&session, MADE.0), MADE.1);
    let whoami = docker(&["exec", &format!("bottle-{session}"), "id", "-u"]).code(0).out;
    assert_eq!(whoami, "1000\n");
    terminal.types("/exit");
    terminal.keeps();
    terminal.shows("ended: 0");
    drop(terminal);

    // The conversation is shown again, and goes on.
    let terminal = Terminal::run(&world.host, &resume(&session, &[]));
    terminal.shows(DONE);
    terminal.shows(ready);
    terminal.types("so long");
    terminal.shows(NOTED);
    terminal.types("/exit");
    terminal.keeps();
    terminal.shows("ended: 0");
    world.pulls(&session);
    world.host.run(&["destroy", &session, "--yes"]).code(0);
}
