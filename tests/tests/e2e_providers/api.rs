//! The models' APIs as far as a client needs them: each answers a request to make a file with a call
//! of a tool, and what the tool said, or anything else, with text.

use bottle_outside::{Page, Request};
use serde_json::{Value, json};

/// What a person says to have a file made.
pub const MAKE: &str = "please make the file";
/// The file, and what is in it.
pub const MADE: (&str, &str) = ("/workspace/made.txt", "made by the model\n");
/// What the model says in the end.
pub const DONE: &str = "the file is made";
/// What it says otherwise.
pub const NOTED: &str = "that was all";

/// What is the model's to do.
#[derive(PartialEq, Eq)]
enum Turn {
    Make,
    Done,
    Other,
}

/// By what was said last: clients put reminders of their own after a person's words.
fn turn(conversation: &Value, result: &str) -> Turn {
    let text = conversation.to_string();
    let last = |what: &str| text.rfind(what);
    let (asked, called, told) = (last(MAKE), last(result), last(DONE));
    if asked > called {
        Turn::Make
    } else if called > told {
        Turn::Done
    } else {
        Turn::Other
    }
}

fn page(events: &[Value]) -> Page {
    let event = |data: &Value| {
        let name = data["type"].as_str().unwrap_or_default();
        format!("event: {name}\ndata: {data}\n\n")
    };
    let body: String = events.iter().map(event).collect();
    Page { kind: "text/event-stream", body: body.into() }
}

fn missing(status: u16) -> (u16, Page) {
    let error = json!({"type": "error", "error": {"type": "not_found_error", "message": "none"}});
    (status, Page { kind: "application/json", body: error.to_string().into() })
}

/// What a model says in one message.
pub enum Said {
    /// It calls a tool.
    Call(&'static str, Value),
    /// It says something, and waits.
    Text(String),
}

/// Anthropic's Messages API, streamed: a model that makes the file when it is told to.
pub fn messages(request: &Request) -> (u16, Page) {
    messages_of(request, |body| {
        let turn = turn(&body["messages"], "tool_result");
        if !has_tool(body, "Write") {
            return Said::Text(NOTED.to_owned());
        }
        match turn {
            Turn::Make => Said::Call("Write", json!({"file_path": MADE.0, "content": MADE.1})),
            Turn::Done => Said::Text(DONE.to_owned()),
            Turn::Other => Said::Text(NOTED.to_owned()),
        }
    })
}

/// Whether a request offers the model a tool.
pub fn has_tool(body: &Value, name: &str) -> bool {
    body["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["name"] == name))
}

/// The same API, of a model that says what it is told to say to the body of a request.
pub fn messages_of(request: &Request, says: impl FnOnce(&Value) -> Said) -> (u16, Page) {
    if request.path.split('?').next() != Some("/v1/messages") {
        return missing(404);
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    // Clients take two messages of one id for one.
    let n = body["messages"].as_array().map_or(0, Vec::len);
    let (block, delta, stop) = match says(&body) {
        Said::Call(name, input) => (
            json!({"type": "tool_use", "id": format!("toolu_{n}"), "name": name, "input": {}}),
            json!({"type": "input_json_delta", "partial_json": input.to_string()}),
            "tool_use",
        ),
        Said::Text(text) => (
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": text}),
            "end_turn",
        ),
    };
    let message = json!({
        "id": format!("msg_{n}"), "type": "message", "role": "assistant", "model": body["model"],
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    });
    let events = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ];
    (200, page(&events))
}

/// OpenAI's Responses API, streamed over HTTP: an upgrade to a WebSocket is answered as by a server
/// that has none, whereupon Codex goes on with HTTP.
pub fn responses(request: &Request) -> (u16, Page) {
    if request.header("upgrade").is_some() {
        return missing(426);
    }
    if request.path != "/v1/responses" {
        return missing(404);
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let n = body["input"].as_array().map_or(0, Vec::len);
    let turn = turn(&body["input"], "_call_output");
    let item = if turn == Turn::Make {
        let command = format!("printf '{}' > {}", MADE.1.replace('\n', "\\n"), MADE.0);
        json!({"type": "function_call", "id": format!("fc_{n}"), "call_id": format!("call_{n}"), "name": "exec_command",
            "arguments": json!({"cmd": command}).to_string()})
    } else {
        let text = if turn == Turn::Done { DONE } else { NOTED };
        json!({"type": "message", "role": "assistant", "id": format!("msg_{n}"),
            "content": [{"type": "output_text", "text": text}]})
    };
    let usage = json!({"input_tokens": 1, "input_tokens_details": null, "output_tokens": 1,
        "output_tokens_details": null, "total_tokens": 2});
    let events = [
        json!({"type": "response.created", "response": {"id": format!("resp_{n}")}}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": {"id": format!("resp_{n}"), "usage": usage}}),
    ];
    (200, page(&events))
}
