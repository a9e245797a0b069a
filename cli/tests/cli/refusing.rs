//! `blocked`, `allow` and `egress` over a written decision log, as far as they go without an engine.

use serde_json::{Value, json};

use crate::harness::{Host, parse};

const LOG: &str = "root/state/dev-aaaaa/egress/out/decisions.jsonl";

/// A decision as egress writes it, with these fields in place of its own.
pub fn decision(fields: Value) -> String {
    let mut line = json!({
        "time": "2026-01-31T12:00:00.000Z", "plan": null, "client": "agent", "via": "proxy",
        "scheme": "https", "method": "GET", "host": "api.example.com", "port": 443,
        "path": "/items/1", "outcome": "refuse", "code": "no_rule",
        "rule": "api.example.com allow", "reason": "no rule allows it",
    });
    for (key, value) in fields.as_object().expect("fields") {
        line[key] = value.clone();
    }
    format!("{line}\n")
}

/// A host with a session that was refused this.
fn refused(lines: &[Value]) -> Host {
    let host = Host::with_agent();
    let plan = host.plan(&[]);
    host.session("dev-aaaaa", &plan);
    let text: String = lines.iter().cloned().map(decision).collect();
    host.write(LOG, &text);
    host
}

#[test]
fn kinds_are_put_together_and_answered() {
    let host = refused(&[
        json!({"method": "POST"}),
        json!({"method": "POST", "path": "/items/22", "time": "2026-01-31T12:00:07.000Z"}),
        json!({"outcome": "allow", "code": "granted"}),
        json!({"via": "dns", "method": "A", "host": "new.test", "port": null, "path": null,
            "code": "no_route", "time": "2026-01-31T12:00:05.000Z"}),
        json!({"code": "leak", "rule": "leak github-pat", "reason": "a token in the body"}),
    ]);
    let ran = host.run(&["blocked"]).code(0);
    let ran = ran
        .prints("  1  POST api.example.com:443/items/*\n     2 times, 2026-01-31 12:00:00 to 2026-01-31 12:00:07")
        .prints("bottle allow dev-aaaaa 1")
        .prints("  2  DNS new.test\n     once")
        .prints("no rule can allow it: it held what looks like a secret");
    let at = |text: &str| ran.out.find(text).expect(text);
    assert!(at("  1  POST") < at("  2  DNS") && at("  2  DNS") < at("  3  GET"), "newest first");
    let found = host.run(&["blocked", "dev-a", "--json"]).code(0).json();
    assert_eq!((&found["session"], &found["refused"]), (&json!("dev-aaaaa"), &json!(4)));
    let kinds = found["kinds"].as_array().expect("a list");
    assert_eq!(kinds[0]["proposal"]["rule"]["methods"], json!(["POST"]));
    assert_eq!(kinds[1]["proposal"]["rule"]["access"], "read");
    assert_eq!(kinds[2]["command"], Value::Null);
}

#[test]
fn what_is_allowed_by_now_is_left_out() {
    // The bottle of this host may read everything of api.example.com.
    let host = refused(&[json!({}), json!({"host": "other.test", "code": "no_route"})]);
    let ran = host.run(&["blocked", "@last"]).code(0).prints("… and 1 allowed by now");
    assert!(!ran.out.contains("api.example.com:443"), "{}", ran.out);
    host.run(&["blocked", "--all"]).code(0).prints("  1  GET api.example.com:443/items/*");
    let kinds = host.run(&["blocked", "--json"]).code(0).json();
    assert_eq!(kinds["kinds"][0]["group"]["number"], 2, "numbers stay");
    host.run(&["allow", "@last", "1"]).code(0).says("may do that already");
}

#[test]
fn nothing_of_an_agent_reaches_the_terminal() {
    let host = refused(&[json!({
        "host": "x\u{1b}[2J.test", "path": "/\u{202e}a", "method": "G\nET", "rule": "r\u{7}",
        "reason": "\u{9b}31m", "time": "\u{1b}]0;title",
    })]);
    let garbled = format!("{}\u{1b}[2Jnot json\n", host.read(LOG));
    host.write(LOG, &garbled);
    for words in [&["blocked"][..], &["egress", "log"], &["allow", "@last", "1", "--yes"]] {
        let ran = host.run(words);
        for text in [&ran.out, &ran.err] {
            let hidden = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(hidden), "{words:?}: {text:?}");
        }
    }
    host.run(&["blocked"]).code(0).says("1 line of the log");
}

#[test]
fn ended_sessions_are_read_from_history() {
    let host = refused(&[json!({"method": "PUT"})]);
    std::fs::create_dir(host.at("root/history")).unwrap();
    std::fs::rename(host.at("root/state/dev-aaaaa"), host.at("root/history/dev-aaaaa")).unwrap();
    let ran = host.run(&["blocked", "dev-aaaaa"]).code(0).prints("has ended");
    assert!(!ran.out.contains("bottle allow"), "{}", ran.out);
    host.run(&["blocked"]).code(0).prints("PUT");
    host.run(&["egress", "log", "dev", "--follow"]).code(0).prints("refuse");
    host.run(&["allow", "dev-aaaaa", "1"]).code(1).says("session dev-aaaaa has ended");
    host.run(&["blocked", "nobody"]).code(1).says("there is no session `nobody`");
}

#[test]
fn what_cannot_be_allowed_says_what_to_do() {
    let host = refused(&[
        json!({"code": "leak"}),
        json!({"code": "git_push", "path": "/x.git/git-receive-pack"}),
        json!({"method": "POST"}),
    ]);
    let allow = |more: &[&str]| {
        let words: Vec<&str> = ["allow", "dev-aaaaa"].iter().chain(more).copied().collect();
        host.run(&words)
    };
    allow(&["1", "--yes"]).code(11).says("no rule can allow GET").says("`dlp`");
    allow(&["2", "--yes"]).code(11).says("`git:`");
    allow(&["9"]).code(1).says("of number `9`").says("bottle blocked dev-aaaaa");
    allow(&[]).code(64);
    allow(&["1", "--host", "a.test"]).code(64);
    allow(&["--host", "10.0.0.1"]).code(64).says("host: expected a host name");
    allow(&["--host", "a.test", "--method", "post"]).code(64).says("upper case");
    allow(&["--host", "a.test", "--path", "v1"]).code(64).says("a glob over whole segments");
    // As far as the engine, which is asked what became of the session.
    allow(&["3", "--yes"]).code(1).says("no container engine answers");
    allow(&["--host", "a.test", "--plan-only"]).code(1).says("no container engine answers");
}

#[test]
fn a_rule_is_kept_beside_the_manifest_or_not_at_all() {
    let host = refused(&[json!({"method": "POST"})]);
    // The session has no container any more, so the change itself cannot be applied; what the
    // manifest allows already needs no change.
    let always = |more: &[&str]| {
        let words: Vec<&str> =
            ["allow", "dev-aaaaa", "1", "--always", "--yes"].iter().chain(more).copied().collect();
        host.run(&words)
    };
    always(&[]).code(1).says("no container engine answers");
    assert!(!host.at("root/overlays").exists(), "what was not allowed is not kept");
    host.write("work/other.yaml", "bottles: {b: {}}\nagents: {dev: {bottle: b}}\n");
    always(&["--manifest", "other.yaml"]).code(1).says("there is no bottle `dev`");

    host.write("root/overlays/dev.yaml", "allow:\n  - {host: extra.test, rule: {access: read}}\n");
    let plan = parse(&host.plan(&[]));
    assert!(plan.grants.egress.routes.keys().any(|host| host.as_str() == "extra.test"));
    assert!(plan.notices.iter().any(|notice| notice.code == "overlay_used"), "{:?}", plan.notices);
    host.write("root/overlays/dev.yaml", "allow:\n  - {host: extra.test, ruel: {access: read}}\n");
    let ran = host.run(&["plan", "dev", "--snapshot", "snapshot.json"]).code(1);
    ran.says("overlays/dev.yaml:2:").says("did you mean `rule`?");
}

#[test]
fn the_log_as_a_table_and_as_it_is() {
    let host = refused(&[
        json!({"outcome": "allow", "code": "granted", "rule": "api.example.com allow[0]"}),
        json!({"method": "POST"}),
    ]);
    let ran = host.run(&["egress", "log", "dev-aaaaa"]).code(0);
    let ran =
        ran.prints("allow   GET     api.example.com:443/items/1  [api.example.com allow[0]]\n");
    ran.prints("refuse  POST    api.example.com:443/items/1  [api.example.com allow]: no rule");
    let raw = host.run(&["egress", "log", "dev-aaaaa", "--json", "--refused"]).code(0);
    assert_eq!(raw.out, decision(json!({"method": "POST"})));
}

#[test]
fn the_routes_in_force() {
    let host = refused(&[]);
    host.run(&["egress", "routes"]).code(1).says("has no routes file");
    let plan = parse(&host.read("work/plan.json"));
    let routes = plan.actions.iter().find_map(|action| match &action.op {
        bottle_planner::plan::Operation::File(file)
            if file.path.path.as_str() == "egress/in/routes.json" =>
        {
            Some(file.content.clone())
        }
        _ => None,
    });
    let routes = routes.expect("a routes file");
    let digest = bottle_planner::words::Digest::of(routes.as_bytes());
    host.write("root/state/dev-aaaaa/egress/in/routes.json", &routes);
    let ran = host.run(&["egress", "routes"]).code(0).says("does not say what it has in force");
    let ran = ran.prints("api.example.com:443\n  allow  read (GET, HEAD, OPTIONS, git fetch)");
    assert!(!ran.out.contains("used"), "nothing was counted: {}", ran.out);
    let state = json!({"loaded": digest, "error": null});
    host.write("root/state/dev-aaaaa/egress/out/state.json", &state.to_string());
    let counters = json!({"since": "2026-01-31T12:00:00Z", "no_route": 2, "routes": {
        "api.example.com": {"allowed": 3, "refused": 1, "warned": 0, "redacted": 4,
            "sent_bytes": 100, "received_bytes": 2000}}});
    host.write("root/state/dev-aaaaa/egress/out/counters.json", &counters.to_string());
    let ran = host.run(&["egress", "routes"]).code(0).says("In force, as planned");
    let ran = ran.prints("used   3 allowed, 1 refused, 4 redacted; 100 bytes sent, 2000 received");
    ran.prints("2 requests for hosts without a route");
    let json = host.run(&["egress", "routes", "--json"]).code(0).json();
    assert_eq!(json["counters"]["routes"]["api.example.com"]["allowed"], 3);
    assert_eq!((&json["loaded"], &json["planned"]), (&json!(digest), &json!(digest)));
    host.write("root/state/dev-aaaaa/egress/out/counters.json", "torn {");
    host.run(&["egress", "routes"]).code(0);
}
