//! Supervise over its real door: MCP on streamable HTTP, as a client speaks it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bottle_planner::proposal::{Answer, Proposal, Verdict};
use bottle_planner::words::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Process, Session, Who, wait_until};

/// A client that said hello.
struct Client<'a> {
    session: &'a Session,
    id: String,
}

/// A call under way, event by event.
struct Call(BufReader<TcpStream>);

impl Call {
    /// The next message of the server.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(data) = line.strip_prefix("data:").map(str::trim).filter(|d| !d.is_empty())
            {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    /// The result of the call, past all notifications.
    fn result(&mut self) -> Value {
        loop {
            let message = self.next();
            if message.get("id").is_some() {
                return message;
            }
        }
    }
}

fn started(session: &Session) -> Process {
    settings(session, 60);
    session.start_ready("supervise")
}

fn settings(session: &Session, timeout: u64) {
    let settings = json!({
        "protocol": 1, "listen": session.address(Who::Server), "agent": session.address(Who::Agent),
        "egress": [session.address(Who::Egress), 9099], "identity": "dev-abcde",
        "allow_from": ["base:2"], "timeout_seconds": timeout,
    });
    std::fs::create_dir_all(session.path("in/answers")).unwrap();
    session.write("in/supervise.json", &settings.to_string());
}

/// Sends one message and leaves the answer unread.
fn send(session: &Session, from: Who, id: Option<&str>, body: &str) -> BufReader<TcpStream> {
    let mut stream = session.connect(from, Who::Server, 9100);
    let id = id.map_or(String::new(), |id| format!("mcp-session-id: {id}\r\n"));
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: supervise:9100\r\nconnection: close\r\n{id}\
         mcp-protocol-version: 2025-06-18\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // Who is turned away is closed upon.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
    BufReader::new(stream)
}

/// The head of an answer, in lower case.
fn head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap_or(0) > 0 {}
    head.to_ascii_lowercase()
}

impl<'a> Client<'a> {
    fn new(session: &'a Session) -> Self {
        let hello = json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18", "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        });
        let mut stream = send(session, Who::Agent, None, &hello.to_string());
        let head = head(&mut stream);
        let id = head.lines().find_map(|l| l.strip_prefix("mcp-session-id: ")).expect(&head);
        let client = Self { session, id: id.to_owned() };
        let result = Call(stream).result();
        assert_eq!(result["result"]["serverInfo"]["name"], "bottle", "{result}");
        client.notify("notifications/initialized", json!({}));
        client
    }

    fn notify(&self, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let mut stream = send(self.session, Who::Agent, Some(&self.id), &message.to_string());
        assert!(head(&mut stream).starts_with("http/1.1 202"));
    }

    fn begin(&self, id: u32, method: &str, params: Value) -> Call {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let mut stream = send(self.session, Who::Agent, Some(&self.id), &message.to_string());
        let head = head(&mut stream);
        assert!(head.starts_with("http/1.1 200"), "{head}");
        Call(stream)
    }

    fn call(&self, id: u32, tool: &str, arguments: Value) -> Call {
        self.begin(id, "tools/call", json!({"name": tool, "arguments": arguments}))
    }

    fn egress(&self, id: u32, path: &str) -> Call {
        let url = format!("https://api.test{path}");
        self.call(id, "request-egress", json!({"url": url, "justification": "to test"}))
    }
}

/// The proposals on disk by id.
fn proposals(session: &Session) -> Vec<(String, Proposal)> {
    let Ok(folder) = std::fs::read_dir(session.path("out/proposals")) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in folder {
        let path = entry.unwrap().path();
        let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !id.starts_with('.') {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((id, serde_json::from_str(&text).unwrap()));
        }
    }
    found
}

fn proposed(session: &Session, count: usize) -> Vec<(String, Proposal)> {
    wait_until("it is asked", || proposals(session).len() >= count);
    let found = proposals(session);
    assert_eq!(found.len(), count);
    found
}

fn answer(session: &Session, proposal: &Proposal, verdict: Verdict) {
    let answer = Answer {
        protocol: 1,
        proposal: proposal.digest(),
        verdict,
        at: Timestamp::new("2026-01-31T12:00:00Z").unwrap(),
        notes: "as you say".to_owned(),
        granted: vec!["GET on /x at api.test:443".to_owned()],
    };
    let fresh = session.path("in/answers/.new");
    std::fs::write(&fresh, serde_json::to_string(&answer).unwrap()).unwrap();
    let name = format!("in/answers/{}.json", proposal.id());
    std::fs::rename(fresh, session.path(&name)).unwrap();
}

#[test]
fn it_offers_its_tools_to_the_agent_alone() {
    let session = Session::new();
    let _process = started(&session);
    let client = Client::new(&session);
    let tools = client.begin(1, "tools/list", json!({})).result();
    let tools = tools["result"]["tools"].as_array().unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let all = ["list-egress-routes", "request-egress", "request-image", "request-push-exception"];
    assert_eq!(names, all);

    let hello = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
    let mut stranger = send(&session, Who::Gate, Some(&client.id), hello);
    let mut said = String::new();
    let _ = stranger.read_to_string(&mut said);
    assert_eq!(said, "", "a stranger is answered");
}

#[test]
fn a_call_waits_for_its_answer() {
    let session = Session::new();
    let _process = started(&session);
    let client = Client::new(&session);
    let mut call = client.begin(
        1,
        "tools/call",
        json!({
            "name": "egress-block",
            "arguments": {"url": "https://api.test/x", "justification": "to test"},
            "_meta": {"progressToken": "t"},
        }),
    );
    let progress = call.next();
    assert_eq!(progress["method"], "notifications/progress", "{progress}");
    assert_eq!(progress["params"]["progressToken"], "t");
    let found = proposed(&session, 1);
    assert_eq!(found[0].0, found[0].1.id());
    assert_eq!(found[0].1.justification, "to test");
    answer(&session, &found[0].1, Verdict::Modified);
    let result = call.result();
    let told = &result["result"]["structuredContent"];
    assert_eq!(told["answer"], "modified", "{result}");
    assert_eq!(told["notes"], "as you say");
    assert_eq!(told["granted"][0], "GET on /x at api.test:443");
}

#[test]
fn many_calls_wait_at_once_and_each_gets_its_own_answer() {
    let session = Session::new();
    let _process = started(&session);
    let client = Client::new(&session);
    let mut calls: Vec<Call> = (1..=10).map(|n| client.egress(n, &format!("/p{n}x"))).collect();
    let found = proposed(&session, 10);
    for (n, call) in calls.iter_mut().enumerate().rev() {
        let n = n + 1;
        let is_it = |p: &&(String, Proposal)| p.1.ask.words().contains(&format!("/p{n}x"));
        let (id, proposal) = found.iter().find(is_it).unwrap();
        answer(&session, proposal, Verdict::Approved);
        let result = call.result();
        assert_eq!(result["result"]["structuredContent"]["request"], id.as_str(), "{result}");
    }
}

#[test]
fn nothing_is_lost_when_it_starts_again() {
    let session = Session::new();
    let process = started(&session);
    let client = Client::new(&session);
    let call = client.egress(1, "/x");
    let before = proposed(&session, 1);
    process.signal(Signal::KILL);
    process.end();
    drop(call);
    std::fs::remove_file(session.path("out/state.json")).unwrap();
    let _process = session.start_ready("supervise");
    // Answered while nobody was there to hear it, and asked again.
    let client = Client::new(&session);
    let mut again = client.egress(1, "/x");
    answer(&session, &before[0].1, Verdict::Approved);
    let result = again.result();
    assert_eq!(result["result"]["structuredContent"]["request"], before[0].0.as_str());
    assert_eq!(proposals(&session).len(), 1);
}

#[test]
fn a_cancelled_call_ends_and_its_proposal_stays() {
    let session = Session::new();
    let _process = started(&session);
    let client = Client::new(&session);
    let call = client.egress(7, "/x");
    let found = proposed(&session, 1);
    client.notify("notifications/cancelled", json!({"requestId": 7, "reason": "changed my mind"}));
    drop(call);
    let mut again = client.egress(8, "/x");
    answer(&session, &found[0].1, Verdict::Rejected);
    let result = again.result();
    assert_eq!(result["result"]["structuredContent"]["answer"], "rejected", "{result}");
}

/// A client that is gone heard nothing: who asks again gets the answer, and not another request.
#[test]
fn what_a_broken_connection_did_not_hear_is_told_again() {
    let session = Session::new();
    let _process = started(&session);
    let client = Client::new(&session);
    drop(client.egress(1, "/x"));
    let (id, proposal) = proposed(&session, 1).remove(0);
    // The server sees that it is gone before there is an answer.
    std::thread::sleep(Duration::from_millis(300));
    answer(&session, &proposal, Verdict::Approved);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!session.path(&format!("out/told/{id}")).exists(), "told to nobody");
    let result = client.egress(2, "/x").result();
    assert_eq!(result["result"]["structuredContent"]["answer"], "approved", "{result}");
    wait_until("it is told", || session.path(&format!("out/told/{id}")).exists());
    assert_eq!(proposals(&session).len(), 1);
}

/// Calls that are left behind take no room without end, and an honest client is told.
#[test]
fn calls_that_wait_are_bounded() {
    let session = Session::new();
    let _process = started(&session);
    let client = Client::new(&session);
    for n in 1..=128 {
        drop(client.egress(n, "/x"));
    }
    let result = client.egress(200, "/x").result();
    let text = result["result"]["content"][0]["text"].as_str().unwrap();
    assert!(
        text.contains("too many calls wait already") && text.contains("ask the same"),
        "{text}"
    );
}

#[test]
fn nobody_answers_in_time() {
    let session = Session::new();
    settings(&session, 1);
    let _process = session.start_ready("supervise");
    let result = Client::new(&session).egress(1, "/x").result();
    assert_eq!(result["result"]["isError"], true, "{result}");
    let text = result["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("stays with the person"), "{text}");
    assert_eq!(proposals(&session).len(), 1);
}

#[test]
fn what_cannot_be_asked_for_reaches_nobody() {
    let session = Session::new();
    let _process = started(&session);
    let client = Client::new(&session);
    let wrong = [
        ("request-egress", json!({"host": "*", "justification": "all"}), "`host`"),
        ("request-egress", json!({"host": "10.0.0.1", "justification": "x"}), "`host`"),
        ("request-image", json!({"dockerfile": "", "justification": "x"}), "`dockerfile`"),
        ("request-image", json!({"dockerfile": "FROM other", "justification": "x"}), "other"),
        (
            "request-image",
            json!({"dockerfile": "FROM base:2\nVOLUME /x", "justification": "x"}),
            "VOLUME",
        ),
        (
            "request-push-exception",
            json!({"remote": "web", "finding": "all", "justification": "x"}),
            "`finding`",
        ),
    ];
    for (n, (tool, arguments, part)) in (1..).zip(wrong) {
        let result = client.call(n, tool, arguments).result();
        assert_eq!(result["result"]["isError"], true, "{result}");
        let text = result["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(part), "{text}");
    }
    let unknown = client.call(9, "approve", json!({})).result();
    assert!(unknown["error"]["message"].as_str().unwrap().contains("no such tool"), "{unknown}");
    assert!(proposals(&session).is_empty());
}

#[test]
fn clients_that_never_say_goodbye_keep_no_other_out() {
    let session = Session::new();
    let _process = started(&session);
    let early: Vec<Client<'_>> = (0..2).map(|_| Client::new(&session)).collect();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let code = |client: &Client<'_>| {
        let head = head(&mut send(&session, Who::Agent, Some(&client.id), ping));
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let later: Vec<Client<'_>> = (2..200).map(|_| Client::new(&session)).collect();
    // Heard just now, though it came first; two more than there is room for follow.
    assert_eq!(code(&early[0]), "200");
    let newest = [Client::new(&session), Client::new(&session)];
    let forgotten = [&early[1], &later[0]].map(&code);
    assert_eq!(forgotten, ["404", "404"]);
    let known = [&early[0], &later[1], &newest[0], &newest[1]].map(code);
    assert_eq!(known, ["200"; 4]);
}

#[test]
fn messages_without_end_and_browsers_are_refused() {
    let session = Session::new();
    let _process = started(&session);
    let long = "x".repeat(2 << 20);
    let mut stream = send(&session, Who::Agent, None, &long);
    assert!(head(&mut stream).starts_with("http/1.1 413"));
    for (line, code) in
        [("host: evil.test", "403"), ("host: supervise:9100\r\norigin: http://evil.test", "403")]
    {
        let mut stream = session.connect(Who::Agent, Who::Server, 9100);
        let request = format!(
            "POST /mcp HTTP/1.1\r\n{line}\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let head = head(&mut BufReader::new(stream));
        assert!(head.starts_with(&format!("http/1.1 {code}")), "{line}: {head}");
    }
}

#[test]
fn the_routes_in_force_are_those_of_egress() {
    let session = Session::new();
    let outside = Session::new();
    let route = json!({"api.test": outside.route(443, json!({}))});
    // On a loopback network supervise is 127.0.0.1 to whom it calls.
    outside.write_egress(&route, json!({"supervise": "127.0.0.1"}));
    let _egress = outside.start_ready("egress");
    settings(&session, 60);
    let text = session.read("in/supervise.json");
    let own = session.address(Who::Egress).to_string();
    let text = text.replace(&own, &outside.address(Who::Egress).to_string());
    session.write("in/supervise.json", &text);
    session.write("in/Dockerfile", "FROM base\n");
    let _process = session.start_ready("supervise");
    let result = Client::new(&session).call(1, "list-egress-routes", json!({})).result();
    let shown = &result["result"]["structuredContent"];
    assert_eq!(shown["routes"][0]["host"], "api.test", "{result}");
    assert_eq!(shown["dockerfile"], "FROM base\n");

    // And that is all that it may do there.
    let request = "GET http://api.test/ HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n";
    let mut stream = TcpStream::connect((outside.address(Who::Egress), 9099)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    assert!(head(&mut BufReader::new(stream)).starts_with("http/1.1 403"));
    wait_until("it is logged", || {
        outside.decisions().iter().any(|d| d["client"] == "supervise" && d["code"] == "client")
    });
}

#[test]
fn a_bad_settings_file_keeps_the_old_ones() {
    let session = Session::new();
    let process = started(&session);
    let first = session.state().unwrap();
    session.write("in/supervise.json", "{}");
    process.signal(Signal::HUP);
    wait_until("the bad file is noticed", || session.state().is_some_and(|s| s.error.is_some()));
    assert_eq!(session.state().unwrap().loaded, first.loaded);
    process.signal(Signal::TERM);
    assert_eq!(process.end().code(), Some(0));
}
