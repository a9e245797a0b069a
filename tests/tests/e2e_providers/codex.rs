//! Codex as npm has it, in an image built from the built-in Dockerfile.
//!
//! Not stood in for: signing in with ChatGPT (auth.openai.com), and the WebSocket that Codex tries
//! before HTTP.

use std::net::Ipv4Addr;

use bottle_tests::host::unique;
use bottle_tests::tmux::Terminal;
use serde_json::Value;

use crate::api::{DONE, MADE, MAKE, NOTED, responses};
use crate::world::{KEY, PROMPT, SKILL, World, container, file, names, resume};

fn manifest(outside: Ipv4Addr) -> String {
    format!(
        "bottles:
  box:
    extends: '@codex'
    egress:
      routes:
        - host: api.openai.com
          address: {outside}
          role: model_provider
          auth: {{scheme: Bearer, secret: KEY, placeholder: OPENAI_API_KEY}}
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
    World::new("api.openai.com", Box::new(responses), manifest)
}

#[track_caller]
fn asked_as_planned(world: &World) {
    for request in world.api.requests() {
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}")));
    }
    let asked = world.asked("/v1/responses");
    let first = asked.iter().find(|body| body.contains(MAKE)).expect("the task arrived");
    let prompt = Value::from(PROMPT).to_string();
    assert!(first.contains(prompt.trim_matches('"')), "no prompt in {first}");
    assert!(first.contains(SKILL.1), "the skill is not listed: {first}");
}

#[test]
fn a_task_is_done_and_the_conversation_goes_on_in_a_new_container() {
    let world = world();
    let session = unique("codex");
    let ran = world.host.run(&world.start(&session, &["--task", MAKE])).code(0);
    asked_as_planned(&world);
    assert_eq!(file(&session, MADE.0), MADE.1, "{}", ran.out);
    let said = |out: &str, text: &str| {
        let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut items = lines.filter(|line| line["type"] == "item.completed");
        assert!(items.any(|line| line["item"]["text"] == text), "no {text:?} in {out}");
    };
    said(&ran.out, DONE);
    let config = file(&session, "/home/agent/.codex/config.toml");
    assert!(config.contains("[mcp_servers.bottle]"), "{config}");
    let kept = names(&session, "/home/agent/.codex/sessions");
    assert!(kept.iter().any(|name| name.ends_with(".jsonl")), "{kept:?}");
    let first = container(&session);

    world.api.forget();
    let ran = world.host.run(&resume(&session, &["--task=- and what now?"])).code(0);
    said(&ran.out, NOTED);
    assert_ne!(container(&session), first, "another argv is another container");
    let asked = world.asked("/v1/responses");
    let carried_on =
        |body: &&String| body.contains(MAKE) && body.contains(DONE) && body.contains("what now?");
    assert!(asked.iter().any(|body| carried_on(&body)), "{asked:?}");
    world.host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn a_person_works_with_it_on_a_terminal() {
    let world = world();
    let session = unique("codex");
    let ready = "permissions: YOLO mode";
    let terminal = Terminal::run(&world.host, &world.start(&session, &[]));
    terminal.shows(ready);
    terminal.types(MAKE);
    terminal.shows(DONE);
    asked_as_planned(&world);
    assert_eq!(file(&session, MADE.0), MADE.1);
    terminal.types("/quit");
    terminal.keeps();
    terminal.shows("ended: 0");
    drop(terminal);
    let terminal = Terminal::run(&world.host, &resume(&session, &[]));
    terminal.shows(DONE);
    terminal.types("so long");
    terminal.shows(NOTED);
    terminal.types("/quit");
    terminal.keeps();
    terminal.shows("ended: 0");
    world.pulls(&session);
    world.host.run(&["destroy", &session, "--yes"]).code(0);
}
