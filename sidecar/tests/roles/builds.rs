//! Egress and the build of an image: what that reaches is what was approved with it.

use std::io::{Read as _, Write as _};
use std::net::UdpSocket;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};

use crate::harness::{DNS_PORT, Session, Who, client_hello, merge, read_request, wait_until};

const PORT: u16 = 8443;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

fn get(url: &str, host: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

/// A session whose build may reach these; the routes pin where the names lead.
fn session(build: &[&str]) -> Session {
    let session = Session::new();
    let auth = json!({"scheme": "Bearer", "header": "authorization", "secret": "TOKEN", "placeholder": null});
    let routes = json!({
        "up.test": session.route(PORT, json!({"auth": auth})),
        "plain.test": session.route(80, json!({})),
        "agents.test": session.route(PORT, json!({})),
    });
    let build_address = session.address(Who::Build);
    session.write_egress(&routes, json!({"build": build_address, "expects_delivery": false}));
    let mut file: Value = serde_json::from_str(&session.read("in/routes.json")).unwrap();
    if !build.is_empty() {
        merge(&mut file, json!({"build": build}));
    }
    session.write("in/routes.json", &file.to_string());
    session
}

#[test]
fn a_build_has_a_tunnel_to_what_was_approved() {
    let session = session(&["up.test:8443"]);
    let requests = session.serve(PORT, "");
    let _egress = session.start_ready("egress");
    assert_eq!(session.receive(r#"{"inject:TOKEN": "tok-9Kd2xQ7mWz4LpR8v"}"#).0, 0);
    let mut tunnel = session.connect(Who::Build, Who::Egress, 9099);
    tunnel.write_all(connect("up.test:8443").as_bytes()).unwrap();
    assert_eq!(status(&read_request(&mut tunnel)), "200");
    let mut hello = client_hello("up.test");
    hello.extend_from_slice(b"\r\n\r\n");
    tunnel.write_all(&hello).unwrap();
    // What arrives is what was sent: nobody ended its TLS, and nothing was put into it.
    let first: Vec<u8> = requests.recv().unwrap().into_bytes();
    assert_eq!(first.first(), Some(&0x16), "a TLS handshake");
    wait_until("it is logged", || !session.decisions().is_empty());
    let decision = &session.decisions()[0];
    assert_eq!(decision["client"], "build");
    assert_eq!(decision["outcome"], "allow");
    assert_eq!(decision["rule"], "build up.test:8443");
}

#[test]
fn a_build_reads_what_is_not_encrypted() {
    let session = session(&["plain.test:80"]);
    let requests = session.serve(80, OK);
    let _egress = session.start_ready("egress");
    let answer = session.ask(Who::Build, &get("http://plain.test/a?b=1", "plain.test"));
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(requests.recv().unwrap().starts_with("GET /a?b=1 HTTP/1.1\r\n"));
    for (request, part) in [
        (
            "POST http://plain.test/a HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 1\r\n\r\nx",
            "only read",
        ),
        (
            "GET http://plain.test/a HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 1\r\n\r\nx",
            "no body",
        ),
        ("GET http://plain.test/../a HTTP/1.1\r\nHost: plain.test\r\n\r\n", "`..`"),
    ] {
        let answer = session.ask(Who::Build, request);
        assert_eq!(status(&answer), "403", "{answer}");
        assert!(answer.contains(part), "{answer}");
        assert!(answer.contains("`hosts` of `request-image`"), "{answer}");
    }
    assert!(requests.try_recv().is_err(), "nothing else arrived");
}

#[test]
fn everything_else_is_refused_to_a_build() {
    let session = session(&["up.test:8443", "plain.test:443"]);
    let _egress = session.start_ready("egress");
    for request in [
        connect("agents.test:8443"),
        connect("up.test:443"),
        connect("git.test:2222"),
        connect("plain.test:80"),
        connect("sub.up.test:8443"),
        connect("127.0.0.1:8443"),
        get("http://plain.test/", "plain.test"),
        get("http://up.test:8443/", "up.test:8443"),
        get("http://egress.local/routes", "egress.local"),
        get("/routes", "egress.local"),
    ] {
        let before = session.decisions().len();
        let answer = session.ask(Who::Build, &request);
        assert_eq!(status(&answer), "403", "{request}{answer}");
        wait_until("it is logged", || session.decisions().len() > before);
        let decision = &session.decisions()[before];
        assert_eq!(decision["client"], "build");
        assert_eq!(decision["outcome"], "refuse", "{decision}");
    }
    // What is the build's is nobody else's.
    let answer = session.ask(Who::Agent, &connect("plain.test:443"));
    assert_eq!(status(&answer), "403", "{answer}");
}

#[test]
fn without_approved_hosts_a_build_reaches_nothing() {
    let session = session(&[]);
    let _egress = session.start_ready("egress");
    for request in [connect("up.test:8443"), get("http://plain.test/", "plain.test")] {
        assert_eq!(status(&session.ask(Who::Build, &request)), "403");
    }
}

#[test]
fn an_address_that_no_build_has_is_a_strangers() {
    let session = Session::new();
    session.write_egress(&json!({"up.test": session.route(PORT, json!({}))}), json!({}));
    let _egress = session.start_ready("egress");
    assert_eq!(session.ask(Who::Build, &connect("up.test:8443")), "");
    wait_until("it is logged", || !session.decisions().is_empty());
    assert_eq!(session.decisions()[0]["client"], "stranger");
}

#[test]
fn a_private_address_is_refused_to_a_build_as_to_the_agent() {
    let session = session(&["inside.test:8443"]);
    session.resolve("inside.test", "10.0.0.1".parse().unwrap());
    let _egress = session.start_ready("egress");
    let mut tunnel = session.connect(Who::Build, Who::Egress, 9099);
    tunnel.write_all(connect("inside.test:8443").as_bytes()).unwrap();
    read_request(&mut tunnel);
    tunnel.write_all(&client_hello("inside.test")).unwrap();
    assert_eq!(tunnel.read(&mut [0]).unwrap_or(0), 0);
    wait_until("it is logged", || !session.decisions().is_empty());
    let decision = session.decisions().pop().unwrap();
    assert_eq!(decision["rule"], "address-guard", "{decision}");
}

#[test]
fn names_of_a_build_are_those_of_its_hosts() {
    let session = session(&["up.test:8443"]);
    let _egress = session.start_ready("egress");
    let socket = UdpSocket::bind((session.address(Who::Build), 0)).unwrap();
    socket.connect((session.address(Who::Egress), DNS_PORT)).unwrap();
    for (name, expected) in [
        ("up.test.", ResponseCode::NoError),
        ("agents.test.", ResponseCode::NXDomain),
        ("egress.local.", ResponseCode::NXDomain),
        ("leak.example.", ResponseCode::NXDomain),
    ] {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        socket.send(&question.to_vec().unwrap()).unwrap();
        let mut bytes = [0; 2048];
        let length = socket.recv(&mut bytes).unwrap();
        let reply = Message::from_vec(&bytes[..length]).unwrap();
        assert_eq!(reply.metadata.response_code, expected, "{name}");
    }
}
