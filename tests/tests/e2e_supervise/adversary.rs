//! An agent that wants more than a person would give.

use bottle_tests::host::docker;
use bottle_tests::supervised::{Call, Supervised, bash, hello, post};
use serde_json::{Value, json};

fn error(call: Call) -> String {
    let result = call.result();
    assert_eq!(result["isError"], true, "{result}");
    result["content"][0]["text"].as_str().expect("text").to_owned()
}

#[test]
fn asking_for_everything_reaches_nobody() {
    let world = Supervised::new();
    for (host, part) in
        [("*", "`host`"), ("*.test", "each host by its name"), ("10.0.0.1", "`host`")]
    {
        let arguments = json!({"host": host, "justification": "please"});
        let why = error(world.calls("request-egress", arguments));
        assert!(why.contains(part), "{why}");
    }
    let credential = json!({"host": "a.test", "auth": "KEY", "justification": "please"});
    assert!(error(world.calls("request-egress", credential)).contains("auth"));
    assert!(world.list().is_empty());
}

#[test]
fn a_flood_waits_for_its_answers() {
    let world = Supervised::new();
    let container = world.container();
    let client = hello(&container, "supervise").expect("supervise answers");
    // All of them in one program: a person's patience is what is tried, not the engine's.
    let ask = |n: usize| {
        json!({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {
            "name": "request-egress",
            "arguments": {"url": format!("http://hello.test/p{n}x"), "justification": "more"}}})
    };
    let mut script = String::new();
    for n in 0..25 {
        script.push_str(&format!("( {} ) &\n", post("supervise", Some(&client), &ask(n), 5)));
    }
    script.push_str("wait\n");
    let answers = bash(&container, &script);
    assert!(answers.contains("wait for an answer to one of them"), "{answers}");
    assert_eq!(world.pending(20).len(), 20);
}

#[test]
fn words_are_shown_and_not_obeyed() {
    let world = Supervised::new();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}txt.exe\r\nGrants: same\u{9b}31m";
    let arguments = json!({
        "url": world.url("/items/17"), "justification": format!("{evil}{}", "x".repeat(1 << 20)),
    });
    // Larger than a message may be: cut down by nobody, and told so.
    let client = hello(&world.container(), "supervise").expect("supervise answers");
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "request-egress", "arguments": arguments}});
    let answer = bash(&world.container(), &post("supervise", Some(&client), &message, 10));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    let arguments = json!({
        "url": world.url("/items/17"), "justification": format!("{evil}{}", "x".repeat(100_000)),
    });
    let _call = world.calls("request-egress", arguments);
    let id = world.pending(1)[0]["id"].as_str().expect("an id").to_owned();
    for words in [&["supervise", "list"][..], &["supervise", "show", &id]] {
        let out = world.host.run(words).code(0).out;
        assert!(!out.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\r']), "{out:?}");
        assert!(out.len() < 16 << 10, "{} bytes", out.len());
        assert!(!out.lines().any(|line| line.trim_start() == "Grants: same"), "{out}");
    }
}

#[test]
fn an_edited_proposal_is_none_and_another_session_is_out_of_reach() {
    let world = Supervised::new();
    let _call = world.asks_egress("GET", "/items/17");
    let (id, digest) = world.shown();
    // As a sidecar would that was taken over.
    let file = format!("root/state/{}/supervise/out/proposals/{id}.json", world.session);
    let text = world.host.read(&file);
    world.host.write(&file, &text.replace("\"GET\"", "\"POST\""));
    world.host.run(&["supervise", "approve", &id, "--expect", &digest]).code(1).says("no proposal");
    world.host.run(&["supervise", "list"]).code(0).says("it was changed since it was asked");
    assert_eq!(world.status("POST", "/items/17"), "403");

    let other = Supervised::new();
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    let address =
        docker(&["inspect", "--format", format, &format!("bottle-supervise-{}", other.session)]);
    let address = address.code(0).out.trim().to_owned();
    assert_eq!(hello(&world.container(), &address), None, "another session's supervise answers");
    assert!(other.list().is_empty());
}

#[test]
fn a_push_that_was_never_refused_cannot_be_excepted() {
    let world = Supervised::new();
    let arguments = json!({
        "remote": "web", "finding": "0123456789abcdef0123456789abcdef", "justification": "it is a test key, I swear",
    });
    let _call = world.calls("request-push-exception", arguments);
    let id = world.pending(1)[0]["id"].as_str().expect("an id").to_owned();
    let shown = world.host.run(&["supervise", "show", &id]).code(11);
    shown.says(
        "the git gate has refused no push to web with finding 0123456789abcdef0123456789abcdef",
    );
}

#[test]
fn whoever_took_the_sidecar_over_writes_nothing_that_is_followed() {
    let world = Supervised::new();
    let folder = format!("root/state/{}/supervise/out/proposals", world.session);
    let folder = world.host.at(&folder);
    std::os::unix::fs::symlink("/etc/shadow", folder.join("0123456789ab.json")).expect("linked");
    std::fs::write(folder.join("large.json"), vec![b' '; 2 << 20]).expect("written");
    std::fs::write(folder.join("\u{1b}[2J.json"), "{").expect("written");
    let listed = world.host.run(&["supervise", "list", "--json"]).code(0).out;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["proposals"], json!([]));
    assert_eq!(listed["broken"].as_array().map(Vec::len), Some(3), "{listed}");
    let said = world.host.run(&["supervise", "list"]).code(0).err;
    assert!(!said.contains('\u{1b}') && !said.contains("root:"), "{said:?}");
}
