//! Claude Code asks a person through the tool that its model calls, and works on with the answer. The
//! official inspector's command line speaks to the same server.

use std::process::{Command, Stdio};

use bottle_outside::{Page, Request};
use bottle_tests::host::{docker, ran, unique, until};
use serde_json::{Value, json};

use crate::api::{Said, has_tool, messages_of};
use crate::claude::manifest;
use crate::world::World;

/// What a person says to have the model ask.
const ASK: &str = "please fetch the items";
/// What the model says once it was answered.
const TOLD: &str = "a person decided";
/// The tool, as Claude Code names it to its model.
const TOOL: &str = "mcp__bottle__request-egress";
/// The official client that is no agent.
const INSPECTOR: &str = "@modelcontextprotocol/inspector@2.12.0";

/// A model that calls the tool when it is told to, and then says what came back.
fn model(request: &Request) -> (u16, Page) {
    messages_of(request, |body| {
        let text = body["messages"].to_string();
        let (asked, told) = (text.rfind(ASK), text.rfind("tool_result"));
        match (asked, told) {
            (Some(asked), Some(told)) if told > asked => {
                let verdicts = ["approved", "modified", "rejected"];
                let found = verdicts.into_iter().find(|verdict| text[told..].contains(verdict));
                Said::Text(format!("{TOLD}: {}", found.unwrap_or("nothing")))
            }
            (Some(_), _) if has_tool(body, TOOL) => Said::Call(
                TOOL,
                json!({
                    "url": "https://items.test/v1/items/17", "methods": ["POST"],
                    "justification": "I was told to fetch the items",
                }),
            ),
            _ => Said::Text("that was all".to_owned()),
        }
    })
}

fn pending(world: &World) -> Vec<Value> {
    let listed = world.host.run(&["supervise", "list", "--json"]).code(0).out;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    listed["proposals"].as_array().expect("a list").clone()
}

fn digest(world: &World, id: &str) -> String {
    let shown = world.host.run(&["supervise", "show", id, "--json"]).code(0).out;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn claude_code_asks_and_goes_on_with_the_answer() {
    let world = World::new("api.anthropic.com", Box::new(model), manifest);
    let session = unique("asks");
    let words = world.start(&session, &["--task", ASK]);
    let mut command = world.host.command(&words);
    let task = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");

    until("Claude Code asks", || !pending(&world).is_empty());
    let found = pending(&world);
    assert_eq!(found[0]["proposal"]["justification"], "I was told to fetch the items");
    let words = found[0]["words"].as_str().expect("words");
    assert_eq!(words, "POST on /v1/items/* at items.test:443");
    let id = found[0]["id"].as_str().expect("an id");
    let approve = ["supervise", "approve", id, "--expect", &digest(&world, id)];
    world.host.run(&approve).code(0);

    let ended = task.wait_with_output().expect("it ends");
    let out = String::from_utf8_lossy(&ended.stdout);
    assert!(out.contains(&format!("{TOLD}: approved")), "{out}");
    world.host.run(&["destroy", &session, "--yes"]);
}

#[test]
fn the_official_inspector_lists_and_calls_the_tools() {
    let world = World::new("api.anthropic.com", Box::new(model), manifest);
    let session = unique("inspect");
    let tools = world.host.at("home/inspector");
    let mut install = Command::new("npm");
    install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&tools);
    ran(install.arg(INSPECTOR), b"").code(0);
    world.host.run(&world.start(&session, &["--detach"])).code(0);

    // The host's Node.js in the agent's network: the server is where the agent finds it.
    let of = |name: &str, format: &str| docker(&["inspect", "--format", format, name]).code(0).out;
    let pid = of(&format!("bottle-{session}"), "{{.State.Pid}}").trim().to_owned();
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = of(&format!("bottle-supervise-{session}"), address).trim().to_owned();
    let inspect = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n"]).arg(tools.join("node_modules/.bin/mcp-inspector"));
        command.args(["--cli", &format!("http://{address}:9100/mcp"), "--transport", "http"]);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let listed = ran(&mut inspect(&["--method", "tools/list", "--strict"]), b"").code(0).out;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let names: Vec<&str> = listed["tools"]
        .as_array()
        .expect("tools")
        .iter()
        .filter_map(|t| t["name"].as_str())
        .collect();
    let all = ["list-egress-routes", "request-egress", "request-image", "request-push-exception"];
    assert_eq!(names, all);

    let call = ["--method", "tools/call", "--tool-name", "request-egress"];
    let url = ["--tool-arg", "url=https://items.test/x", "--tool-arg", "justification=to test it"];
    let called = inspect(&[&call[..], &url[..]].concat()).spawn().expect("it runs");
    until("the inspector asks", || !pending(&world).is_empty());
    let id = pending(&world)[0]["id"].as_str().expect("an id").to_owned();
    world.host.run(&["supervise", "reject", &id, "--notes", "not that one"]).code(0);
    let ended = called.wait_with_output().expect("it ends");
    let out = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{out}{}", String::from_utf8_lossy(&ended.stderr));
    assert!(out.contains("rejected") && out.contains("not that one"), "{out}");
    world.host.run(&["destroy", &session, "--yes", "--unsaved"]).code(0);
}
