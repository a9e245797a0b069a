//! Secrets that leave: in every place of a request, in every encoding, compressed, in pieces.
//!
//! Each attempt's twin is the same request with a text of the same length in place of the secret.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bottle_outside::ws::{self, Kind as Frame};
use bottle_planner::decision::Code::{self, Leak};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::methods::web_socket;
use super::world::{OWN, TOKEN};
use super::{Attempt, Shot, Wants, h2};

const FOUND: &[Code] = &[Leak];

/// A token of a well-known pattern that nobody was ever given.
fn pattern() -> String {
    ["ghp", "_", "w7Xk2Qm9Tz4Rv8Lp3Yd6Nb1Hc5Jf0Gs2AaBb"].concat()
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("%{b:02X}")).collect()
}

fn json_escape(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("\\u{b:04x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut to = ZlibEncoder::new(Vec::new(), Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut to = DeflateEncoder::new(Vec::new(), Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    brotli::BrotliCompress(&mut &bytes[..], &mut out, &brotli::enc::BrotliEncoderParams::default())
        .unwrap();
    out
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A request to a host without restrictions, as bytes.
fn request(path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: all.test\r\nContent-Length: {length}\r\n{fields}\
         Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn all_test(bytes: impl Into<Vec<u8>>) -> Shot {
    Shot::tunnel("all.test").send(bytes)
}

/// The body in chunks of this size.
fn chunked(body: &[u8], size: usize, trailer: &str) -> Vec<u8> {
    let mut bytes = b"POST /x HTTP/1.1\r\nHost: all.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
    for piece in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(format!("0\r\n{trailer}\r\n").bytes());
    bytes
}

fn body(body: impl AsRef<[u8]>) -> Shot {
    all_test(request("/x", "", body.as_ref()))
}

fn encoded(coding: &str, body: &[u8]) -> Shot {
    all_test(request("/x", &format!("Content-Encoding: {coding}\r\n"), body))
}

/// A request that is made around a secret.
type Around = Box<dyn Fn(&str) -> Shot>;

/// Where and how a secret may leave. `secret` is what stands there.
fn ways() -> Vec<(String, Around)> {
    let mut ways: Vec<(String, Around)> = Vec::new();
    let mut way = |name: &str, make: Around| ways.push((name.to_owned(), make));
    way("in the path", Box::new(|s| all_test(request(&format!("/a/{s}/b"), "", b""))));
    way(
        "in the path, escaped",
        Box::new(|s| all_test(request(&format!("/a/{}", percent(s.as_bytes())), "", b""))),
    );
    way(
        "in the path, across segments",
        Box::new(|s| all_test(request(&format!("/a{s}b"), "", b""))),
    );
    way("in a query's name", Box::new(|s| all_test(request(&format!("/?{s}=1"), "", b""))));
    way("in a query's value", Box::new(|s| all_test(request(&format!("/?a={s}"), "", b""))));
    way(
        "in a query's value, escaped",
        Box::new(|s| all_test(request(&format!("/?a={}", percent(s.as_bytes())), "", b""))),
    );
    way("in a header's name", Box::new(|s| all_test(request("/", &format!("x-{s}: 1\r\n"), b""))));
    way("in a header's value", Box::new(|s| all_test(request("/", &format!("X-A: {s}\r\n"), b""))));
    way("in a cookie", Box::new(|s| all_test(request("/", &format!("Cookie: a={s}\r\n"), b""))));
    way(
        "in the user agent",
        Box::new(|s| all_test(request("/", &format!("User-Agent: a/{s}\r\n"), b""))),
    );
    way(
        "in a referrer",
        Box::new(|s| all_test(request("/", &format!("Referer: https://all.test/{s}\r\n"), b""))),
    );
    way(
        "in an authorization",
        Box::new(|s| all_test(request("/", &format!("Authorization: Bearer {s}\r\n"), b""))),
    );
    way(
        "in a basic authorization",
        Box::new(|s| {
            let pair = base64(format!("user:{s}").as_bytes());
            all_test(request("/", &format!("Authorization: Basic {pair}\r\n"), b""))
        }),
    );
    way("in a body", Box::new(|s| body(format!("before {s} after"))));
    way("at the beginning of a body", Box::new(|s| body(format!("{s} after"))));
    way("at the end of a body", Box::new(|s| body(format!("before {s}"))));
    way("after a megabyte", Box::new(|s| body(format!("{} {s} ", "lorem ipsum ".repeat(90_000)))));
    way(
        "in a form",
        Box::new(|s| {
            all_test(request(
                "/x",
                "Content-Type: application/x-www-form-urlencoded\r\n",
                format!("a=b&c={s}").as_bytes(),
            ))
        }),
    );
    way(
        "in JSON",
        Box::new(|s| {
            all_test(request(
                "/x",
                "Content-Type: application/json\r\n",
                format!("{{\"a\": \"{s}\"}}").as_bytes(),
            ))
        }),
    );
    way(
        "in a file of a form",
        Box::new(|s| {
            all_test(request("/x",
        "Content-Type: multipart/form-data; boundary=bb\r\n",
        format!("--bb\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n{s}\r\n--bb--\r\n").as_bytes()))
        }),
    );
    way(
        "in the name of a file of a form",
        Box::new(|s| {
            all_test(request("/x",
        "Content-Type: multipart/form-data; boundary=bb\r\n",
        format!("--bb\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{s}\"\r\n\r\nx\r\n--bb--\r\n").as_bytes()))
        }),
    );
    way(
        "in base64 of a form",
        Box::new(|s| {
            all_test(request(
                "/x",
                "Content-Type: multipart/form-data; boundary=bb\r\n",
                format!(
                    "--bb\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--bb--\r\n",
                    base64(format!("it is {s}.").as_bytes())
                )
                .as_bytes(),
            ))
        }),
    );
    way("in a trailer", Box::new(|s| all_test(chunked(b"x", 1, &format!("X-A: {s}\r\n")))));
    way("in a chunk", Box::new(|s| all_test(chunked(format!("a {s} b").as_bytes(), 4096, ""))));
    way(
        "in chunks of one byte",
        Box::new(|s| all_test(chunked(format!("a {s} b").as_bytes(), 1, ""))),
    );
    way(
        "in chunks of seven bytes",
        Box::new(|s| all_test(chunked(format!("a {s} b").as_bytes(), 7, ""))),
    );
    way(
        "in segments of one byte",
        Box::new(|s| {
            let bytes = request("/x", "", format!("a {s} b").as_bytes());
            Shot::tunnel("all.test").send_each(bytes.chunks(1).map(<[u8]>::to_vec))
        }),
    );
    type Coding = fn(&[u8]) -> Vec<u8>;
    let codings: [(&str, &str, Coding); 8] = [
        ("gzip", "gzip", gzip),
        ("x-gzip", "x-gzip", gzip),
        ("GZIP", "GZIP", gzip),
        ("deflate", "deflate", zlib),
        ("deflate without its frame", "deflate", deflate),
        ("br", "br", brotli),
        ("zstd", "zstd", zstd),
        ("gzip in gzip", "gzip, gzip", |b| gzip(&gzip(b))),
    ];
    for (name, coding, encode) in codings {
        let text =
            |s: &str| format!("{} {s} {}", "lorem ipsum ".repeat(40), "dolor sit ".repeat(40));
        way(
            &format!("compressed, {name}"),
            Box::new(move |s| encoded(coding, &encode(text(s).as_bytes()))),
        );
        way(
            &format!("compressed in chunks of one byte, {name}"),
            Box::new(move |s| {
                let bytes = chunked(&encode(text(s).as_bytes()), 1, "");
                let at = bytes.windows(2).position(|w| w == b"\r\n").unwrap() + 2;
                let field = format!("Content-Encoding: {coding}\r\n");
                all_test([&bytes[..at], field.as_bytes(), &bytes[at..]].concat())
            }),
        );
    }
    type Form = fn(&[u8]) -> String;
    let forms: [(&str, Form); 21] = [
        ("base64", |b| base64(b)),
        ("base64, one byte before", |b| base64(&[b".", b].concat())),
        ("base64, two bytes before", |b| base64(&[b"..", b].concat())),
        ("base64 among other text", |b| base64(&[b"the secret is ", b, b", keep it"].concat())),
        ("base64 without padding", |b| STANDARD_NO_PAD.encode([b, b"x"].concat())),
        ("base64 for URLs", |b| URL_SAFE.encode([b"?>~", b, b"?>~"].concat())),
        ("base64 for URLs without padding", |b| URL_SAFE_NO_PAD.encode([b"?>~", b, b"?"].concat())),
        ("base64 in lines", |b| {
            let long = base64(&[&[b'.'; 50], b, &[b'.'; 50]].concat());
            long.as_bytes()
                .chunks(76)
                .map(|l| String::from_utf8_lossy(l).into_owned() + "\r\n")
                .collect()
        }),
        ("hex", |b| hex(b)),
        ("hex in capitals", |b| hex(b).to_uppercase()),
        ("hex among other text", |b| hex(&[b"the secret is ", b].concat())),
        ("percent", |b| percent(b)),
        ("percent in small letters", |b| percent(b).to_lowercase()),
        ("percent for every other letter", |b| {
            b.iter()
                .enumerate()
                .map(
                    |(n, b)| {
                        if n % 2 == 0 { format!("%{b:02x}") } else { char::from(*b).to_string() }
                    },
                )
                .collect()
        }),
        ("JSON escapes", |b| json_escape(b)),
        ("base64 in base64", |b| base64(base64(b).as_bytes())),
        ("base64 in hex", |b| hex(base64(b).as_bytes())),
        ("hex in base64", |b| base64(hex(b).as_bytes())),
        ("base64 in percent", |b| percent(base64(b).as_bytes())),
        ("percent in base64", |b| base64(percent(b).as_bytes())),
        ("base64 in JSON escapes", |b| json_escape(base64(b).as_bytes())),
    ];
    for (name, form) in forms {
        way(
            &format!("in a body, {name}"),
            Box::new(move |s| body(format!("a={}&b", form(s.as_bytes())))),
        );
    }
    for (name, form) in [("base64", (|b| URL_SAFE_NO_PAD.encode(b)) as Form), ("hex", |b| hex(b))] {
        way(
            &format!("in the query, {name}"),
            Box::new(move |s| all_test(request(&format!("/?a={}", form(s.as_bytes())), "", b""))),
        );
        way(
            &format!("in the path, {name}"),
            Box::new(move |s| all_test(request(&format!("/{}", form(s.as_bytes())), "", b""))),
        );
        way(
            &format!("in a header, {name}"),
            Box::new(move |s| {
                all_test(request("/", &format!("X-A: {}\r\n", form(s.as_bytes())), b""))
            }),
        );
    }
    way(
        "compressed, base64 inside",
        Box::new(|s| encoded("gzip", &gzip(base64(s.as_bytes()).as_bytes()))),
    );
    let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "all.test")];
    let over_h2 = move |bytes: Vec<u8>| {
        Shot::connect("all.test:443").hello(Some("all.test"), &["h2"]).send(bytes).in_h2()
    };
    way(
        "in a body over HTTP/2",
        Box::new(move |s| {
            let fields = [&fields[..], &[(":path", "/x")]].concat();
            over_h2(h2::request(&fields, Some(s.as_bytes())))
        }),
    );
    way(
        "in the path over HTTP/2",
        Box::new(move |s| {
            let path = format!("/{s}");
            let fields = [&fields[..], &[(":path", &path)]].concat();
            over_h2(h2::request(&fields, Some(b"x")))
        }),
    );
    way(
        "in a header over HTTP/2",
        Box::new(move |s| {
            let fields = [&fields[..], &[(":path", "/x"), ("x-a", s)]].concat();
            over_h2(h2::request(&fields, Some(b"x")))
        }),
    );
    way(
        "in frames of one byte over HTTP/2",
        Box::new(move |s| {
            let fields = [&fields[..], &[(":path", "/x")]].concat();
            over_h2(h2::dripped(&fields, format!("a {s} b").as_bytes()))
        }),
    );
    way(
        "in a trailer over HTTP/2",
        Box::new(move |s| {
            let fields = [&fields[..], &[(":path", "/x")]].concat();
            over_h2(h2::trailed(&fields, b"x", &[("x-a", s)]))
        }),
    );
    let all_ws = |frames: Vec<Vec<u8>>| web_socket("all.test", "/ws", frames);
    way(
        "in a WebSocket's text",
        Box::new(move |s| all_ws(vec![ws::message(Frame::Text, s.as_bytes())])),
    );
    way(
        "in a WebSocket's bytes",
        Box::new(move |s| all_ws(vec![ws::message(Frame::Binary, s.as_bytes())])),
    );
    way(
        "in a WebSocket's second message",
        Box::new(move |s| {
            all_ws(vec![
                ws::message(Frame::Text, b"hello"),
                ws::message(Frame::Text, format!("it is {s}").as_bytes()),
            ])
        }),
    );
    way(
        "in a WebSocket's fragments",
        Box::new(move |s| all_ws(ws::fragments(Frame::Text, s.as_bytes(), 9))),
    );
    way(
        "in a WebSocket's fragments of one byte",
        Box::new(move |s| all_ws(ws::fragments(Frame::Binary, s.as_bytes(), 1))),
    );
    way(
        "in a WebSocket's fragments with pings between",
        Box::new(move |s| {
            let fragments = ws::fragments(Frame::Text, s.as_bytes(), 4);
            all_ws(
                fragments.into_iter().flat_map(|f| [f, ws::message(Frame::Ping, b"?")]).collect(),
            )
        }),
    );
    way(
        "in a WebSocket, base64",
        Box::new(move |s| all_ws(vec![ws::message(Frame::Text, base64(s.as_bytes()).as_bytes())])),
    );
    way(
        "in the query of a WebSocket",
        Box::new(move |s| web_socket("all.test", &format!("/x?a={s}"), Vec::new())),
    );
    ways
}

/// Whose secrets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that was delivered.
    Own,
    /// What looks like a token of a well-known kind.
    Token,
}

pub fn attempts(of: Kind) -> Vec<Attempt> {
    let (kind, secret) = match of {
        Kind::Own => ("own secret", OWN.to_owned()),
        Kind::Token => ("token", pattern()),
    };
    let mut all = Vec::new();
    let harmless: String = "harmless-".chars().cycle().take(secret.len()).collect();
    let redact = |shot: Shot| shot.elsewhere("all.test", "redact.test");
    for (name, around) in ways() {
        // A pattern has case, and ends at a word's end.
        let worded = ["in a header's name", "in the path, across segments"];
        if of == Kind::Token && worded.contains(&name.as_str()) {
            continue;
        }
        let mut attempt = Attempt::refused(
            "leak",
            format!("{kind} {name}"),
            FOUND,
            around(&secret),
            around(&harmless),
        );
        if name.contains("trailer") {
            // Nothing needs them: they go no further.
            attempt.wants = Wants::Without(secret.clone().into());
        } else if name.contains("WebSocket") && !name.contains("query") {
            let said =
                if name.contains("base64") { base64(secret.as_bytes()) } else { secret.clone() };
            attempt.wants = Wants::Stopped(FOUND, said.into());
        }
        if name.contains("query of a WebSocket") {
            attempt.twin = web_socket("all.test", "/ws", vec![ws::message(Frame::Text, b"hello")]);
        }
        all.push(attempt);
    }
    if of == Kind::Own {
        all.extend(special());
    }
    // Where findings are replaced, the rest arrives.
    let plain = [
        "in a body",
        "in chunks of one byte",
        "in a query's value",
        "in a header's value",
        "in JSON",
    ];
    for (name, around) in ways().into_iter().filter(|(name, _)| plain.contains(&name.as_str())) {
        all.push(Attempt::without(
            "replaced leak",
            format!("{kind} {name}"),
            secret.clone(),
            redact(around(&secret)),
            redact(around(&harmless)),
        ));
    }
    all
}

/// What is not like the others.
fn special() -> Vec<Attempt> {
    let mut all = Vec::new();
    // What egress puts in elsewhere is a secret here.
    let harmless = "h".repeat(TOKEN.len());
    all.push(Attempt::refused(
        "leak",
        "egress's own credential",
        FOUND,
        body(TOKEN),
        body(&harmless),
    ));
    // Control frames and names are scanned, too.
    let ping = |s: &str| {
        web_socket(
            "all.test",
            "/ws",
            vec![ws::message(Frame::Ping, s.as_bytes()), ws::message(Frame::Text, b"hello")],
        )
    };
    let name = "in a WebSocket's ping";
    let mut attempt = Attempt::refused("leak", name, FOUND, ping(OWN), ping("harmless"));
    attempt.wants = Wants::Stopped(FOUND, OWN.into());
    all.push(attempt);
    // A method is any word, and some tokens are words in capitals.
    let method = |word: &str| {
        all_test(format!("{word} /x HTTP/1.1\r\nHost: all.test\r\nConnection: close\r\n\r\n"))
    };
    let token = ["AKIA", "Q7X2M5T4R6L3Y6NB"].concat();
    let twin = method("HARMLESSHARMLESSHARM");
    all.push(Attempt::refused("leak", "token in the method", FOUND, method(&token), twin));
    let host = |label: &str| {
        let host = format!("{label}.wild.test");
        Shot::tunnel(&host).send(super::targets::get(&host, "/", ""))
    };
    all.push(Attempt::refused("leak", "in a host's name", FOUND, host(OWN), host("harmless")));
    all.push(Attempt::refused(
        "leak",
        "in a host's name, hex",
        FOUND,
        host(&hex(OWN.as_bytes())),
        host("harmless"),
    ));
    all
}

#[test]
fn a_replaced_secret_leaves_the_rest_as_it_was() {
    let world = super::World::new();
    let text = format!("before {OWN} between {} after", pattern());
    let shot = body(&text).elsewhere("all.test", "redact.test");
    let outcome = shot.fire(&world.session);
    assert_eq!(outcome.status(), 200, "{}", outcome.text());
    let seen = String::from_utf8(world.requests()[0].body.clone()).unwrap();
    assert_eq!(seen.len(), text.len(), "{seen}");
    assert!(seen.starts_with("before ") && seen.contains(" between ") && seen.ends_with(" after"));
    let shot = body(&text).elsewhere("all.test", "warn.test");
    world.forget();
    let before = world.session.decisions().len();
    assert_eq!(shot.fire(&world.session).status(), 200);
    assert_eq!(world.requests()[0].body, text.as_bytes());
    let told = world.decision(before, |d| d["outcome"] == "warn" && d["code"] == "leak");
    assert!(!told.to_string().contains(OWN), "{told}");
}

#[test]
fn no_secret_is_in_the_log_or_in_an_answer() {
    let world = super::World::new();
    for (name, around) in ways() {
        let outcome = around(OWN).fire(&world.session);
        assert!(!outcome.text().contains(OWN), "{name}: {}", outcome.text());
    }
    let text = world.session.read("out/decisions.jsonl");
    for form in
        [OWN.to_owned(), base64(OWN.as_bytes()), hex(OWN.as_bytes()), percent(OWN.as_bytes())]
    {
        assert!(!text.contains(&form), "{form} is in the log");
    }
    assert!(text.contains("leak"), "{text}");
}
