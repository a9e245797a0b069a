//! Names: what egress's resolver answers and to whom, names as a way out, and answers of the outer
//! resolver that change.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bottle_outside::SAID;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use serde_json::{Value, json};

use super::targets::get;
use super::world::OWN;
use super::{Shot, World};
use crate::harness::{DNS_PORT, Session, Who, rule};

fn question(name: &str, kind: RecordType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    change(&mut message);
    message.to_vec().unwrap()
}

/// Asks egress; `None` where it does not answer before it answers the next question.
fn ask(session: &Session, question: &[u8], tcp: bool) -> Option<Message> {
    if tcp {
        let mut stream = session.connect(Who::Agent, Who::Egress, DNS_PORT);
        stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).ok()?;
        return Message::from_vec(&answer).ok();
    }
    let socket = UdpSocket::bind((session.address(Who::Agent), 0)).unwrap();
    socket.connect((session.address(Who::Egress), DNS_PORT)).unwrap();
    socket.send(question).unwrap();
    // A question that is always answered follows, with another number.
    let last = self::question("last.wild.test.", RecordType::A, |m| m.metadata.id = 8);
    socket.send(&last).unwrap();
    let mut first = None;
    loop {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        let answer = Message::from_vec(&bytes[..length]).unwrap();
        if answer.metadata.id == 8 {
            return first;
        }
        first = Some(answer);
    }
}

#[test]
fn names_are_no_way_out() {
    let world = World::new();
    let session = &world.session;
    let secret = OWN.to_ascii_lowercase();
    let long = format!("{0}.{0}.{0}.evil.test.", "a".repeat(60));
    let leak = format!("{OWN}.wild.test.");
    let attempts: Vec<(&str, String, RecordType)> = vec![
        ("a host without a route", "evil.test.".into(), RecordType::A),
        ("a host below a granted one", "x.api.test.".into(), RecordType::A),
        ("the apex of a wildcard", "wild.test.".into(), RecordType::A),
        ("a long tunnel", long, RecordType::TXT),
        ("a secret as a label", format!("{secret}.evil.test."), RecordType::A),
        ("a secret as a label below a wildcard", leak, RecordType::A),
        ("a tunnel of NULL records", "a.evil.test.".into(), RecordType::NULL),
        ("a tunnel of CNAMEs", "b.evil.test.".into(), RecordType::CNAME),
        ("mail", "evil.test.".into(), RecordType::MX),
        ("services", "_x._tcp.evil.test.".into(), RecordType::SRV),
        ("parameters of https", "evil.test.".into(), RecordType::HTTPS),
        ("anything", "evil.test.".into(), RecordType::ANY),
        ("a zone", "evil.test.".into(), RecordType::AXFR),
        ("an address back to a name", "1.0.0.127.in-addr.arpa.".into(), RecordType::PTR),
        ("the root", ".".into(), RecordType::NS),
        ("the engine's own name", "host.docker.internal.".into(), RecordType::A),
        ("the metadata service", "metadata.google.internal.".into(), RecordType::A),
        ("a resolver over https", "dns.google.".into(), RecordType::A),
    ];
    let before = session.decisions().len();
    for (name, host, kind) in &attempts {
        for tcp in [false, true] {
            let question = question(host, *kind, |_| {});
            let answer = ask(session, &question, tcp);
            let answers = answer.as_ref().map_or(0, |a| a.answers.len());
            assert_eq!(answers, 0, "{name}: {answer:?}");
            let code = answer.map(|a| a.metadata.response_code);
            let good = [None, Some(ResponseCode::NXDomain), Some(ResponseCode::Refused)];
            assert!(good.contains(&code), "{name}: {code:?}");
        }
    }
    for (name, change) in [
        ("an update", (|m: &mut Message| m.metadata.op_code = OpCode::Update) as fn(&mut Message)),
        ("a notification", |m| m.metadata.op_code = OpCode::Notify),
        ("two questions", |m| {
            m.add_query(Query::query(Name::from_ascii("evil.test.").unwrap(), RecordType::A));
        }),
        ("another class", |m| {
            m.queries[0].set_query_class(DNSClass::CH);
        }),
        ("an answer for a question", |m| m.metadata.message_type = MessageType::Response),
    ] {
        let question = question("a.wild.test.", RecordType::A, change);
        for tcp in [false, true] {
            let answer = ask(session, &question, tcp);
            assert_eq!(answer.map_or(0, |a| a.answers.len()), 0, "{name}");
        }
    }
    // The twin: a granted name is answered, by both ways.
    for tcp in [false, true] {
        let answer = ask(session, &question("a.wild.test.", RecordType::A, |_| {}), tcp).unwrap();
        let own = RData::A(session.address(Who::Egress).into());
        assert_eq!(answer.answers.iter().map(|r| &r.data).collect::<Vec<_>>(), [&own]);
    }
    let log: Vec<Value> = session.decisions().split_off(before);
    for (name, host, _) in &attempts {
        let host = host.trim_end_matches('.');
        let told = log.iter().any(|d| {
            let asked = d["host"].as_str().unwrap_or_default().trim_end_matches('.');
            let masked = host.contains(OWN) || host.contains(&secret);
            d["outcome"] == "refuse" && d["via"] == "dns" && (asked == host || masked)
        });
        assert!(told, "{name} is not in the log: {log:?}");
    }
    let text = session.read("out/decisions.jsonl");
    assert!(!text.contains(OWN), "a secret is in the log");
}

/// A resolver whose answers for one name take turns.
fn resolver(session: &Session, answers: Vec<Vec<IpAddr>>) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind((session.address(Who::Resolver), DNS_PORT)).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let question = Message::from_vec(&bytes[..length]).unwrap();
            let query = question.queries[0].clone();
            let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
            reply.add_query(query.clone());
            // Both families of one look-up get the same turn, whichever comes first.
            let turn = count.fetch_add(1, Ordering::SeqCst) / 2;
            for address in &answers[turn % answers.len()] {
                let data = match (address, query.query_type()) {
                    (IpAddr::V4(v4), RecordType::A) => RData::A((*v4).into()),
                    (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA((*v6).into()),
                    _ => continue,
                };
                reply.add_answer(Record::from_rdata(query.name().clone(), 0, data));
            }
            socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
        }
    });
    asked
}

/// An address that the guard takes for a public one, and that nobody has: the prefix was given
/// back (RFC 3701).
const NOBODY: &str = "3ffe::1";

#[test]
fn answers_that_change_lead_nowhere() {
    let session = Session::new();
    let server = session.address(Who::Server);
    let outside = bottle_outside::Authority::new("outside");
    session.write("in/upstream-ca.pem", &outside.pem());
    let unpinned = session.route(443, json!({"address": null}));
    session.write_egress(
        &json!({
            "rebind.test": unpinned,
            "inner.test": session.route(443, json!({"address": null, "allow_private": true})),
            "pinned.test": session.route(443, json!({"allow": [rule(json!({}))]})),
        }),
        json!({}),
    );
    let config = outside.server(&["rebind.test", "inner.test", "pinned.test"], &["http/1.1"]);
    let origin = bottle_outside::Origin::tls((server, 443), config);
    let nobody: IpAddr = NOBODY.parse().unwrap();
    let metadata = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
    let asked = resolver(
        &session,
        vec![vec![nobody], vec![server.into()], vec![nobody, server.into()], vec![metadata]],
    );
    let _egress = session.start_ready("egress");
    let ask = |host: &str| Shot::tunnel(host).send(get(host, "/x", "")).fire(&session);
    for turn in 0..8 {
        for host in ["rebind.test", "inner.test"] {
            let outcome = ask(host);
            assert!(!outcome.text().contains(SAID), "turn {turn}: {}", outcome.text());
        }
    }
    assert!(asked.load(Ordering::SeqCst) > 8, "the answers were remembered");
    assert_eq!(origin.connections(), 0, "a second answer was dialled");
    let log = session.decisions();
    let guarded = log.iter().filter(|d| d["code"] == "address").count();
    assert!(guarded >= 4, "{log:?}");
    // The twin: the same server by a pinned name.
    assert!(ask("pinned.test").text().contains(SAID));
    assert_eq!(origin.connections(), 1);
}
