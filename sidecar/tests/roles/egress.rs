//! Egress: what gets through, what does not, and what is told about it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};

use bottle_planner::words::Digest;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{DNS_PORT, Session, Who, client_hello, read_request, rule, wait_until};

const PORT: u16 = 8443;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive, x-hop\r\n\
                  x-hop: 1\r\nx-end: 1\r\n\r\nok";

/// Of a server that answers once.
const ONCE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

fn get(url: &str, host: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// Opens a tunnel and returns it after the answer's head.
fn open(session: &Session, who: Who, target: &str) -> (String, TcpStream) {
    let mut stream = session.connect(who, Who::Egress, 9099);
    stream.write_all(connect(target).as_bytes()).unwrap();
    let head = read_request(&mut stream);
    (head, stream)
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

#[test]
fn the_gates_tunnel_carries_bytes_both_ways() {
    let session = Session::new();
    session.write_egress(&json!({}), json!({}));
    let requests = session.serve(2222, "hello ");
    let _egress = session.start_ready("egress");
    let (head, mut tunnel) = open(&session, Who::Gate, "GIT.test.:2222");
    assert_eq!(status(&head), "200", "{head}");
    tunnel.write_all(b"ping\r\n\r\nback").unwrap();
    let mut answer = [0; 10];
    tunnel.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello back");
    assert_eq!(requests.recv().unwrap(), "ping\r\n\r\n");
    wait_until("the tunnel is logged", || !session.decisions().is_empty());
    let decision = &session.decisions()[0];
    assert_eq!(decision["outcome"], "allow");
    assert_eq!(decision["client"], "gate");
    assert_eq!(decision["host"], "git.test");
    assert_eq!(decision["port"], 2222);
    assert_eq!(decision["rule"], "gate git.test:2222");
}

#[test]
fn a_route_that_is_passed_through_is_for_tls_to_its_own_host() {
    let session = Session::new();
    let through = json!({"tls": "passthrough"});
    session.write_egress(&json!({"*.up.test": session.route(PORT, through)}), json!({}));
    let requests = session.serve(PORT, "");
    let _egress = session.start_ready("egress");
    for (first, reason) in [
        (client_hello("b.up.test"), "another than the tunnel's host"),
        (client_hello("127.0.0.1"), "names no server"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "is for TLS"),
    ] {
        let before = session.decisions().len();
        let (head, mut tunnel) = open(&session, Who::Agent, &format!("a.up.test:{PORT}"));
        assert_eq!(status(&head), "200", "{head}");
        tunnel.write_all(&first).unwrap();
        assert_eq!(tunnel.read(&mut [0]).unwrap_or(0), 0, "{reason}");
        wait_until("it is logged", || session.decisions().len() > before);
        let decision = &session.decisions()[before];
        assert!(decision["reason"].as_str().unwrap().contains(reason), "{decision}");
        assert_eq!(decision["rule"], "sni");
    }
    assert!(requests.try_recv().is_err());
    let (_, mut tunnel) = open(&session, Who::Agent, &format!("a.up.test:{PORT}"));
    let mut hello = client_hello("a.up.test");
    hello.extend_from_slice(b"\r\n\r\n");
    tunnel.write_all(&hello).unwrap();
    wait_until("the tunnel is logged", || {
        session.decisions().last().is_some_and(|last| last["outcome"] == "allow")
    });
}

#[test]
fn what_is_not_granted_is_refused_and_said() {
    let session = Session::new();
    let auth = json!({"scheme": "Bearer", "header": "authorization", "secret": "TOKEN", "placeholder": null});
    session.write_egress(
        &json!({
            "up.test": session.route(PORT, json!({})),
            "auth.test": session.route(PORT, json!({"auth": auth})),
            "plain.test": session.route(80, json!({"allow": [rule(json!({"paths": ["/a/**"]}))]})),
        }),
        json!({}),
    );
    let _egress = session.start_ready("egress");
    let server = session.address(Who::Server);
    let plain = |path: &str| get(&format!("http://plain.test{path}"), "plain.test");
    let cases = [
        (connect("other.test:8443"), "default"),
        (connect("up.test:443"), "up.test port"),
        (get("http://auth.test:8443/", "auth.test:8443"), "auth.test auth"),
        (connect(&format!("{server}:{PORT}")), "target"),
        (connect("[::1]:8443"), "target"),
        (connect("2130706433:8443"), "target"),
        (connect("127.1:8443"), "target"),
        (connect("egress.local:80"), "default"),
        ("CONNECT up.test:8443 HTTP/1.1\r\nHost: other.test:8443\r\n\r\n".into(), "host"),
        (get("http://plain.test/a", "other.test"), "host"),
        (get("http://user:hunter2@plain.test/a", "plain.test"), "target"),
        (get("https://plain.test/a", "plain.test"), "scheme"),
        (get("/a", "plain.test"), "proxy"),
        (get("http://egress.local/else", "egress.local"), "proxy"),
        (plain("/b"), "plain.test allow"),
        (plain("/a/%2e%2e/b"), "plain.test path"),
        (plain("/a%2f..%2fb"), "plain.test path"),
        (plain("/a/x?service=git-receive-pack"), "plain.test git"),
    ];
    for (number, (request, rule)) in cases.iter().enumerate() {
        let answer = session.ask(Who::Agent, request);
        assert_eq!(status(&answer), "403", "{request}{answer}");
        assert!(answer.contains(&format!("rule: {rule}\n")), "{request}{answer}");
        assert!(!answer.contains("hunter2"), "{answer}");
        let decision = &session.decisions()[number];
        assert_eq!((&decision["outcome"], &decision["rule"]), (&json!("refuse"), &json!(rule)));
        assert!(!decision.to_string().contains("hunter2"), "{decision}");
    }
}

#[test]
fn a_refusal_says_what_to_call_where_somebody_can_be_asked() {
    for supervised in [false, true] {
        let session = Session::new();
        session.write_egress(
            &json!({"plain.test": session.route(80, json!({"allow": [rule(json!({"paths": ["/a"]}))]}))}),
            json!({"supervised": supervised}),
        );
        let _egress = session.start_ready("egress");
        let answer = session.ask(Who::Agent, &get("http://plain.test/b/17", "plain.test"));
        let call = r#"http://supervise:9100/mcp with {"url": "http://plain.test/b/17", "methods": ["GET"], "#;
        assert_eq!(answer.contains(call), supervised, "{answer}");
        assert_eq!(answer.contains("`bottle blocked`"), !supervised, "{answer}");
        let answer = session.ask(Who::Agent, &connect("plain.test:8443"));
        assert!(answer.contains("change `port` of its route"), "{answer}");
        assert!(!answer.contains("supervise"), "{answer}");
    }
}

#[test]
fn a_name_with_a_private_address_is_refused() {
    let session = Session::new();
    let unpinned = |allow| session.route(PORT, json!({"address": null, "allow_private": allow}));
    session.write_egress(
        &json!({"inside.test": unpinned(false), "gone.test": unpinned(false)}),
        json!({}),
    );
    session.resolve("inside.test", IpAddr::V4(session.address(Who::Server)));
    let requests = session.serve(PORT, "");
    let egress = session.start_ready("egress");
    let ask = |host: &str| {
        let host = format!("{host}:{PORT}");
        session.ask(Who::Agent, &get(&format!("http://{host}/"), &host))
    };
    let answer = ask("inside.test");
    assert_eq!(status(&answer), "403", "{answer}");
    assert!(answer.contains("rule: address-guard\n"), "{answer}");
    assert!(answer.contains("a loopback address"), "{answer}");
    assert_eq!(status(&ask("gone.test")), "502");

    session.write_routes(&json!({"inside.test": unpinned(true)}));
    reload(&session, &egress);
    let answer = ask("inside.test");
    assert_eq!(status(&answer), "403", "private is not loopback: {answer}");
    assert!(requests.try_recv().is_err());
}

#[test]
fn plain_http_is_forwarded_without_the_headers_of_one_hop() {
    let session = Session::new();
    session.write_egress(
        &json!({"plain.test": session.route(38080, json!({"allow": [rule(json!({"paths": ["/a/**"]}))]}))}),
        json!({}),
    );
    let requests = session.serve(38080, OK);
    let _egress = session.start_ready("egress");
    let request = "POST http://plain.test:38080/%61/b%2fc?q=a%20b HTTP/1.1\r\n\
                   Host: plain.test:38080\r\nContent-Length: 4\r\nProxy-Authorization: Basic eA==\r\n\
                   Connection: close, X-Mine\r\nX-Mine: 1\r\nX-Kept: 1\r\n\r\nbody";
    let answer = session.ask(Who::Agent, request);
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.ends_with("\r\n\r\nok") && answer.contains("x-end: 1"), "{answer}");
    assert!(!answer.contains("x-hop: 1"), "{answer}");
    let seen = requests.recv().unwrap().to_ascii_lowercase();
    assert!(seen.starts_with("post /a/b%2fc?q=a%20b http/1.1\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nbody"), "{seen}");
    assert!(seen.contains("host: plain.test:38080\r\n") && seen.contains("x-kept: 1"), "{seen}");
    assert!(!seen.contains("proxy-authorization") && !seen.contains("x-mine"), "{seen}");
    wait_until("it is logged", || !session.decisions().is_empty());
    let decision = &session.decisions()[0];
    assert_eq!(decision["path"], "/%61/b%2fc", "the query is left out");
}

#[test]
fn the_routes_in_force_can_be_read_without_names_of_secrets() {
    let session = Session::new();
    let auth = json!({"scheme": "Bearer", "header": "authorization", "secret": "TOKEN", "placeholder": null});
    session
        .write_egress(&json!({"up.test": session.route(PORT, json!({"auth": auth}))}), json!({}));
    let _egress = session.start_ready("egress");
    for request in
        [get("http://egress.local/routes", "egress.local"), get("/routes", "egress.local:9099")]
    {
        let answer = session.ask(Who::Agent, &request);
        assert_eq!(status(&answer), "200", "{answer}");
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["routes"][0]["host"], "up.test");
        assert_eq!(body["routes"][0]["auth"], "Bearer");
        assert!(!answer.contains("TOKEN"), "{answer}");
    }
}

fn reload(session: &Session, egress: &crate::harness::Process) {
    let digest = Digest::of(session.read("in/routes.json").as_bytes());
    egress.signal(Signal::HUP);
    wait_until("the routes are reloaded", || {
        session.state().is_some_and(|state| state.loaded.as_ref() == Some(&digest))
    });
}

#[test]
fn routes_are_reloaded_in_place_and_a_bad_file_changes_nothing() {
    let session = Session::new();
    let through = session.route(PORT, json!({"tls": "passthrough"}));
    session.write_egress(
        &json!({"up.test": session.route(PORT, json!({})), "through.test": through}),
        json!({}),
    );
    let _requests = session.serve(PORT, ONCE);
    let egress = session.start_ready("egress");
    let first = session.state().unwrap();
    assert_eq!(first.loaded, Some(Digest::of(session.read("in/routes.json").as_bytes())));
    assert_eq!(first.error, None);
    let ask = |host: &str| {
        let host = format!("{host}:{PORT}");
        status(&session.ask(Who::Agent, &get(&format!("http://{host}/"), &host))).to_owned()
    };
    assert_eq!(ask("up.test"), "200");
    let (_, mut kept) = open(&session, Who::Agent, "through.test:8443");
    let mut hello = client_hello("through.test");
    hello.extend_from_slice(b"\r\n\r\n");
    kept.write_all(&hello).unwrap();
    wait_until("the tunnel is open", || {
        session.decisions().iter().any(|d| d["host"] == "through.test" && d["outcome"] == "allow")
    });

    session.write("in/routes.json", r#"{"protocol": 1, "routes": {"up.test": {}}}"#);
    egress.signal(Signal::HUP);
    wait_until("the bad file is noticed", || {
        session.state().is_some_and(|state| state.error.is_some())
    });
    assert_eq!(session.state().unwrap().loaded, first.loaded);
    assert_eq!(ask("up.test"), "200");

    session.write_routes(&json!({"new.test": session.route(PORT, json!({}))}));
    reload(&session, &egress);
    assert_eq!(session.state().unwrap().error, None);
    assert_eq!(ask("new.test"), "200");
    assert_eq!(ask("up.test"), "403");
    // A tunnel ends with its route: reading to the end would else wait in vain.
    let mut rest = Vec::new();
    let _ = kept.read_to_end(&mut rest);
    assert_eq!(String::from_utf8_lossy(&rest), ONCE);
}

#[test]
fn only_the_agent_and_the_gate_are_served_each_its_own() {
    let session = Session::new();
    session.write_egress(&json!({"up.test": session.route(PORT, json!({}))}), json!({}));
    let _up = session.serve(PORT, "");
    let _git = session.serve(2222, "");
    let _egress = session.start_ready("egress");
    assert_eq!(session.ask(Who::Server, &connect("up.test:8443")), "");
    for (who, target, expected) in [
        (Who::Gate, "git.test:2222", "200"),
        (Who::Gate, "git.test:22", "403"),
        (Who::Gate, "up.test:8443", "403"),
        (Who::Agent, "git.test:2222", "403"),
    ] {
        assert_eq!(status(&open(&session, who, target).0), expected, "{target}");
    }
    let refused = session.decisions().into_iter().filter(|d| d["outcome"] == "refuse");
    let clients: Vec<Value> = refused.map(|d| d["client"].clone()).collect();
    assert_eq!(clients, ["stranger", "gate", "gate", "agent"]);
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

#[test]
fn names_with_a_route_resolve_to_egress_and_others_do_not_exist() {
    let session = Session::new();
    session.write_egress(&json!({"*.up.test": session.route(PORT, json!({}))}), json!({}));
    let _egress = session.start_ready("egress");
    let socket = UdpSocket::bind((session.address(Who::Agent), 0)).unwrap();
    let egress = session.address(Who::Egress);
    socket.connect((egress, DNS_PORT)).unwrap();
    let ask_udp = |name: &str, kind| {
        socket.send(&question(name, kind)).unwrap();
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).unwrap();
        Message::from_vec(&answer[..length]).unwrap()
    };
    let ask_tcp = |name: &str, kind| {
        let mut stream = session.connect(Who::Agent, Who::Egress, DNS_PORT);
        let question = question(name, kind);
        stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    };
    for (name, kind, code, addresses) in [
        ("a.UP.test.", RecordType::A, ResponseCode::NoError, vec![egress]),
        ("a.up.test.", RecordType::AAAA, ResponseCode::NoError, vec![]),
        ("up.test.", RecordType::A, ResponseCode::NXDomain, vec![]),
        ("c2VjcmV0.evil.test.", RecordType::TXT, ResponseCode::NXDomain, vec![]),
    ] {
        for answer in [ask_udp(name, kind), ask_tcp(name, kind)] {
            assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, code), "{name}");
            let found: Vec<_> = answer
                .answers
                .iter()
                .map(|record| match &record.data {
                    RData::A(address) => address.0,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(found, addresses, "{name}");
        }
    }
    socket.send(b"\xff\xff garbage").unwrap();
    assert_eq!(ask_udp("a.up.test.", RecordType::A).answers.len(), 1);
    wait_until("all is logged", || session.decisions().len() >= 9);
    let decisions = session.decisions();
    assert_eq!(decisions.len(), 9);
    let told = |n: usize, key: &str| decisions[n][key].as_str().unwrap().to_owned();
    assert_eq!((told(0, "via"), told(0, "method")), ("dns".into(), "A".into()));
    assert_eq!(told(0, "outcome"), "allow");
    assert_eq!(
        (told(6, "host"), told(6, "outcome")),
        ("c2VjcmV0.evil.test.".into(), "refuse".into())
    );
}

#[test]
fn a_corporate_proxy_is_asked_for_tunnels_and_given_plain_requests() {
    let session = Session::new();
    let proxy = format!("http://{}:3128", session.address(Who::Server));
    let unpinned = |port| session.route(port, json!({"address": null}));
    let through =
        |address: Value| session.route(443, json!({"address": address, "tls": "passthrough"}));
    session.write_egress(
        &json!({
            "far.test": through(Value::Null), "plain.test": unpinned(80),
            "pinned.test": through(json!(session.address(Who::Server))),
            "inside.test": unpinned(80), "near.corp": session.route(PORT, json!({})),
        }),
        json!({"upstream_proxy": [proxy, ["corp"]]}),
    );
    session.resolve("inside.test", "10.0.0.1".parse().unwrap());
    let proxied = session.serve(3128, OK);
    let direct = session.serve(PORT, OK);
    let _egress = session.start_ready("egress");

    let tunnel = |host: &str| {
        let (head, mut tunnel) = open(&session, Who::Agent, &format!("{host}:443"));
        assert_eq!(status(&head), "200");
        tunnel.write_all(&client_hello(host)).unwrap();
        tunnel
    };
    let _far = tunnel("far.test");
    assert!(proxied.recv().unwrap().starts_with("CONNECT far.test:443 HTTP/1.1\r\n"));
    let _pinned = tunnel("pinned.test");
    let pinned = format!("CONNECT {}:443 HTTP/1.1\r\n", session.address(Who::Server));
    assert!(proxied.recv().unwrap().starts_with(&pinned));
    let answer = session.ask(Who::Agent, &get("http://plain.test/x?y", "plain.test"));
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(proxied.recv().unwrap().starts_with("GET http://plain.test/x?y HTTP/1.1\r\n"));
    let inside = "http://inside.test/";
    assert_eq!(status(&session.ask(Who::Agent, &get(inside, "inside.test"))), "403");
    let near = format!("near.corp:{PORT}");
    assert_eq!(status(&session.ask(Who::Agent, &get(&format!("http://{near}/"), &near))), "200");
    assert!(direct.recv().unwrap().starts_with("GET / HTTP/1.1\r\n"));
    assert!(proxied.try_recv().is_err());
}

#[test]
fn routes_that_were_never_good_keep_egress_from_running() {
    let session = Session::new();
    session.write_egress(&json!({"up.test": session.route(PORT, json!({"allow": []}))}), json!({}));
    let ended = session.start("egress").end();
    assert_eq!(ended.code(), Some(78));
    let state = session.state().unwrap();
    assert_eq!(state.loaded, None);
    assert!(state.error.unwrap().contains("up.test"));
}

#[test]
fn credentials_are_taken_by_name_and_the_end_is_prompt() {
    let session = Session::new();
    session.write_egress(&json!({}), json!({}));
    let egress = session.start_ready("egress");
    assert_eq!(session.receive(r#"{"inject:GH_PAT": "hunter2", "scan:TOKEN": "hunter3"}"#).0, 0);
    for payload in [r#"{"inject:no good": "hunter2"}"#, r#"{"TOKEN": "hunter2"}"#, "hunter2"] {
        let (code, error) = session.receive(payload);
        assert_eq!(code, 65, "{error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    egress.signal(Signal::TERM);
    let ended = egress.end();
    assert_eq!(ended.code(), Some(0));
    assert!(ended.stderr().contains("inject:GH_PAT") && !ended.stderr().contains("hunter"));
}

#[test]
fn hostile_bytes_do_not_end_egress() {
    let session = Session::new();
    session.write_egress(&json!({"up.test": session.route(PORT, json!({}))}), json!({}));
    let _egress = session.start_ready("egress");
    let long = format!("GET http://up.test/{} HTTP/1.1\r\n\r\n", "a".repeat(200_000));
    for request in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "CONNECT / HTTP/1.1\r\n\r\n",
        "CONNECT : HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: up.test\r\nConnection: close\r\n\r\n",
        "GET http:// HTTP/1.1\r\n\r\n",
        "GET http://up.test:99999/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0",
        &long,
    ] {
        let mut stream = session.connect(Who::Agent, Who::Egress, 9099);
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{request}: {answer}");
    }
    let answer = session.ask(Who::Agent, &connect("other.test:1"));
    assert_eq!(status(&answer), "403");
}
