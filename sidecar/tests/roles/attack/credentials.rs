//! Credentials: an attacker's own on a host that is allowed for another's sake, and egress's, which
//! the agent must not see.

use bottle_outside::SAID;
use bottle_planner::decision::Code::{self, Credential, Malformed};

use super::targets::{get, post};
use super::world::TOKEN;
use super::{Attempt, Shot, World, h2};

/// What an attacker would have upstream believe.
const FOREIGN: &str = "theirs-7Yq2";

fn auth(request: String) -> Shot {
    Shot::tunnel("auth.test").send(request)
}

fn twin() -> Shot {
    auth(get("auth.test", "/open/x", "X-Other: 1\r\n"))
}

pub fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    for header in [
        "Authorization",
        "authorization",
        "AUTHORIZATION",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "Api-Key",
        "X-Goog-Api-Key",
        "Private-Token",
        "x_api_key",
        "Private_Token",
        "X-Auth-Token",
        "X-Access-Token",
        "X-Amz-Security-Token",
    ] {
        let field = format!("{header}: {FOREIGN}\r\n");
        all.push(Attempt::without(
            "foreign credential",
            format!("in {header}"),
            FOREIGN,
            auth(get("auth.test", "/open/x", &field)),
            twin(),
        ));
    }
    let one_hop = "Connection: close, authorization\r\n";
    let request = get("auth.test", "/open/x", "").replace("Connection: close\r\n", one_hop);
    all.push(Attempt::without(
        "foreign credential",
        "in place of one that is declared to be of one hop",
        "authorization\r\n",
        auth(request),
        twin(),
    ));
    for (name, body) in [
        ("in a trailer", format!("1\r\nx\r\n0\r\nAuthorization: Bearer {FOREIGN}\r\n\r\n")),
        (
            "in a trailer of another case",
            format!("1\r\nx\r\n0\r\nauthorization: Bearer {FOREIGN}\r\n\r\n"),
        ),
        ("in a trailer of another kind", format!("1\r\nx\r\n0\r\nCookie: {FOREIGN}\r\n\r\n")),
    ] {
        let head = "POST /open/x HTTP/1.1\r\nHost: auth.test\r\nTransfer-Encoding: chunked\r\n\
                    Trailer: authorization, cookie\r\nConnection: close\r\n\r\n";
        let other = format!("{head}1\r\nx\r\n0\r\n\r\n");
        all.push(Attempt::without(
            "foreign credential",
            name,
            FOREIGN,
            auth(format!("{head}{body}")),
            auth(other),
        ));
    }
    let fields = |more: &[(&'static str, &'static str)]| {
        let mut fields = vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "auth.test"),
            (":path", "/open/x"),
        ];
        fields.extend(more);
        fields
    };
    let over_h2 = |more: &[(&'static str, &'static str)]| {
        Shot::connect("auth.test:443").h2("auth.test", &fields(more), None)
    };
    for header in ["authorization", "cookie", "x-api-key"] {
        let attack = over_h2(&[(header, FOREIGN)]);
        let name = format!("in {header} of HTTP/2");
        all.push(Attempt::without("foreign credential", name, FOREIGN, attack, over_h2(&[])));
    }
    let trailed = h2::trailed(
        &[
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "auth.test"),
            (":path", "/open/x"),
        ],
        b"x",
        &[("authorization", FOREIGN)],
    );
    let attack =
        Shot::connect("auth.test:443").hello(Some("auth.test"), &["h2"]).send(trailed).in_h2();
    all.push(Attempt::without(
        "foreign credential",
        "in a trailer of HTTP/2",
        FOREIGN,
        attack,
        over_h2(&[]),
    ));
    const BROUGHT: &[Code] = &[Credential, Malformed];
    for query in [
        "access_token=x",
        "api_key=x",
        "apikey=x",
        "key=x",
        "token=x",
        "private_token=x",
        "a=b&access_token=x",
        "Access_Token=x",
        "%61ccess_token=x",
        "access%5Ftoken=x",
        "access_token",
        "a=b;access_token=x",
        "a=b&&access_token=x",
        "access_token[]=x",
    ] {
        all.push(Attempt::refused(
            "foreign credential in the query",
            query,
            BROUGHT,
            auth(get("auth.test", &format!("/open/x?{query}"), "")),
            auth(get("auth.test", "/open/x?other=x", "")),
        ));
    }
    for (name, request) in [
        ("TRACE", get("auth.test", "/open/x", "").replacen("GET", "TRACE", 1)),
        ("TRACK", get("auth.test", "/open/x", "").replacen("GET", "TRACK", 1)),
        ("Range", get("auth.test", "/open/x", "Range: bytes=0-1\r\n")),
        ("Range of another case", get("auth.test", "/open/x", "rAnGe: bytes=5-\r\n")),
        ("If-Range", get("auth.test", "/open/x", "If-Range: x\r\nRange: bytes=0-1\r\n")),
    ] {
        all.push(Attempt::refused(
            "seeing the credential",
            name,
            &[Credential, Malformed, Code::NoRule, Code::Denied],
            auth(request),
            twin(),
        ));
    }
    for (name, path) in [
        ("in the answer", "/open/x"),
        ("in an answer of one byte a chunk", "/open/drip"),
        ("in a compressed answer", "/open/gzip"),
        ("in a redirect", "/open/location"),
        ("in a trailer", "/open/trailers"),
    ] {
        for (accepts, field) in
            [("", ""), (" that may be compressed", "Accept-Encoding: gzip, br, zstd, deflate\r\n")]
        {
            let request = get("auth.test", path, field);
            let attack = auth(request.clone());
            all.push(Attempt::unsaid(
                "seeing the credential",
                format!("{name}{accepts}"),
                TOKEN,
                attack,
                twin(),
            ));
        }
    }
    // The same value, encoded.
    let encoded = super::leaks::base64(format!("Bearer {TOKEN}").as_bytes());
    all.push(Attempt::unsaid(
        "seeing the credential",
        "in base64",
        &encoded[12..encoded.len() - 4],
        auth(get("auth.test", "/open/basic", "")),
        twin(),
    ));
    all.push(Attempt::unsaid("seeing the credential", "over HTTP/2", TOKEN, over_h2(&[]), twin()));
    all
}

/// A compressed echo is looked into after it was taken apart.
#[test]
fn a_compressed_echo_does_not_show_the_credential() {
    use std::io::Read as _;
    let world = World::new();
    let request = get("auth.test", "/open/gzip", "Accept-Encoding: gzip\r\n");
    let outcome = auth(request).fire(&world.session);
    let at = outcome.answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let body = &outcome.answer[at..];
    // Chunked or not: the stream begins with its magic number.
    let mut text = String::new();
    match body.windows(2).position(|w| w == [0x1f, 0x8b]) {
        Some(begin) => {
            // A part is enough to see it in.
            let _ = flate2::read::GzDecoder::new(&body[begin..]).read_to_string(&mut text);
        }
        None => text = String::from_utf8_lossy(body).into_owned(),
    }
    assert!(text.contains(SAID), "{text:?} {}", outcome.text());
    assert!(!text.contains(TOKEN), "{text}");
}

#[test]
fn the_real_credential_arrives_and_only_there() {
    let world = World::new();
    let outcome = twin().fire(&world.session);
    assert!(outcome.text().contains(SAID), "{}", outcome.text());
    let seen = world.requests();
    assert_eq!(seen[0].header("authorization"), Some(format!("Bearer {TOKEN}")));
    world.forget();
    let outcome = Shot::tunnel("all.test").send(get("all.test", "/", "")).fire(&world.session);
    assert!(outcome.text().contains(SAID), "{}", outcome.text());
    assert_eq!(world.requests()[0].header("authorization"), None);
}

#[test]
fn before_a_delivery_nothing_goes_that_needs_one() {
    let world = World::undelivered();
    for request in [
        get("auth.test", "/open/x", ""),
        get("auth.test", "/open/x", "Authorization: Bearer x\r\n"),
        post("auth.test", "/open/x", "", "x"),
    ] {
        let before = world.session.decisions().len();
        let outcome = auth(request).fire(&world.session);
        assert_eq!(outcome.status(), 403, "{}", outcome.text());
        world.decision(before, |d| d["code"] == "credential");
        assert!(world.requests().is_empty());
    }
    let secrets = serde_json::json!({ "inject:TOKEN": TOKEN });
    assert_eq!(world.session.receive(&secrets.to_string()).0, 0);
    assert!(twin().fire(&world.session).text().contains(SAID));
}
