//! Claude Code asks a person through the tool that its model calls, and works on with the answer. The
//! official inspector's command line speaks to the same server.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

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

/// A model that calls the tool when it is told to, and then says what came back. Claude Code names
/// tools of MCP servers only to a model that looks for them.
fn model(request: &Request) -> (u16, Page) {
    messages_of(request, |body| {
        let text = body["messages"].to_string();
        let called = |name: &str| text.rfind(&format!("\"name\":\"{name}\""));
        let is_told = called(TOOL).is_some_and(|at| text[at..].contains("tool_result"));
        if is_told {
            let verdicts = ["approved", "modified", "rejected"];
            let found = verdicts.into_iter().find(|verdict| text.contains(verdict));
            return Said::Text(format!("{TOLD}: {}", found.unwrap_or("nothing")));
        }
        if !text.contains(ASK) {
            return Said::Text("that was all".to_owned());
        }
        if has_tool(body, TOOL) || called("ToolSearch").is_some() {
            let url = "https://items.test/v1/items/17";
            let why = "I was told to fetch the items";
            return Said::Call(
                TOOL,
                json!({"url": url, "methods": ["POST"], "justification": why}),
            );
        }
        if has_tool(body, "ToolSearch") {
            let query = format!("select:{TOOL}");
            return Said::Call("ToolSearch", json!({"query": query, "max_results": 1}));
        }
        Said::Text("that was all".to_owned())
    })
}

fn pending(world: &World) -> Vec<Value> {
    let listed = world.host.run(&["supervise", "list", "--json"]).code(0).out;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    listed["proposals"].as_array().expect("a list").clone()
}

/// What the model was offered and what Claude Code says of it, for whoever looks into a failure.
fn said(world: &World, session: &str) -> String {
    let offered = world.asked("/v1/messages").into_iter().map(|body| {
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        let tools = body["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().map(|tool| tool["name"].to_string()).collect::<Vec<_>>().join(" ")
    });
    let offered: Vec<String> = offered.collect();
    let log = world.host.run(&["logs", session, "agent"]).out;
    format!("offered: {offered:#?}\n{log}")
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

    let begun = Instant::now();
    while pending(&world).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", said(&world, &session));
        sleep(Duration::from_millis(100));
    }
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
