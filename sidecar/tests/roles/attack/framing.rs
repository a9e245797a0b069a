//! Requests that two servers could take for different ones: lengths, encodings, line ends, chunks.
//! Behind each hides a second request, to a path that is not granted.

use bottle_planner::decision::Code::{self, Limit, Malformed, NoRule};

use super::targets::{get, post};
use super::{Attempt, Shot};

const UNCLEAR: &[Code] = &[Malformed, NoRule, Limit];
/// What hides.
const HIDDEN: &str = "GET /closed/hidden HTTP/1.1\r\nHost: HOST\r\n\r\n";

pub fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    for (name, request) in requests() {
        let at = |host: &str| request.replace("HIDDEN", HIDDEN).replace("HOST", host);
        all.push(Attempt::refused(
            "framing",
            name,
            UNCLEAR,
            Shot::http().send(at("plain.test")),
            Shot::http().send(post("plain.test", "/open/x", "", "0\r\n\r\n")),
        ));
        all.push(Attempt::refused(
            "framing inside TLS",
            name,
            UNCLEAR,
            Shot::tunnel("api.test").send(at("api.test")),
            Shot::tunnel("api.test").send(chunked("api.test", "1\r\nx\r\n0\r\n\r\n")),
        ));
    }
    all.extend(unwatched());
    all
}

/// Whoever is said to become a WebSocket is no longer watched: who says so and becomes none must not
/// be, either.
const UNWATCHED: [(&str, &str); 3] = [
    ("by another method", "POST /open/x HTTP/1.1\r\nHost: api.test\r\n"),
    ("in HTTP/1.0", "GET /open/x HTTP/1.0\r\nHost: api.test\r\n"),
    (
        "to a server that has none",
        "GET /open/x HTTP/1.1\r\nHost: api.test\r\nSec-WebSocket-Version: 13\r\n",
    ),
];

fn unwatched() -> Vec<Attempt> {
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let loose = "GET /open/loose HTTP/1.1\nHost: api.test\nConnection: close\n\n";
    let attempt = |(name, head): &(&str, &str)| {
        let attack = Shot::tunnel("api.test").send(format!("{head}{asks}{loose}"));
        let twin = Shot::tunnel("api.test").send(get("api.test", "/open/loose", ""));
        Attempt::without("unwatched framing", *name, "/open/loose", attack, twin)
    };
    let mut all: Vec<Attempt> = UNWATCHED.iter().map(attempt).collect();
    let own = format!("GET http://egress.local/routes HTTP/1.1\r\nHost: egress.local\r\n{asks}");
    let loose = loose.replace("/open", "http://plain.test/open").replace("api.test", "plain.test");
    all.push(Attempt::without(
        "unwatched framing",
        "to egress itself",
        "/open/loose",
        Shot::proxy().send(own + &loose),
        Shot::proxy().send(get("plain.test", "http://plain.test/open/loose", "")),
    ));
    all
}

fn chunked(host: &str, body: &str) -> String {
    format!(
        "POST /open/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// Requests for `HOST`, each with something hidden.
fn requests() -> Vec<(&'static str, String)> {
    let head = |fields: &str| format!("POST /open/x HTTP/1.1\r\nHost: HOST\r\n{fields}\r\n");
    let chunks = |body: &str| chunked("HOST", body);
    let both = "0\r\n\r\nHIDDEN";
    let mut all = vec![
        (
            "a length, then chunks",
            head("Content-Length: 60\r\nTransfer-Encoding: chunked\r\n") + both,
        ),
        (
            "chunks, then a length",
            head("Transfer-Encoding: chunked\r\nContent-Length: 60\r\n") + both,
        ),
        ("two lengths", head("Content-Length: 0\r\nContent-Length: 60\r\n") + "HIDDEN"),
        ("two equal lengths", head("Content-Length: 5\r\nContent-Length: 5\r\n") + "12345"),
        ("a list of lengths", head("Content-Length: 5, 60\r\n") + "12345HIDDEN"),
        ("a list of equal lengths", head("Content-Length: 5, 5\r\n") + "12345"),
        ("a length with a plus", head("Content-Length: +5\r\n") + "12345"),
        ("a length with a minus", head("Content-Length: -5\r\n") + "12345"),
        ("a length in hexadecimal", head("Content-Length: 0x5\r\n") + "12345"),
        ("a length with letters", head("Content-Length: 5a\r\n") + "12345"),
        ("an empty length", head("Content-Length: \r\n") + "HIDDEN"),
        (
            "a length beyond 64 bits",
            head("Content-Length: 18446744073709551621\r\n") + "12345HIDDEN",
        ),
        ("an encoding after chunked", head("Transfer-Encoding: chunked, identity\r\n") + both),
        ("an encoding before chunked", head("Transfer-Encoding: gzip, chunked\r\n") + both),
        ("identity alone", head("Transfer-Encoding: identity\r\nContent-Length: 5\r\n") + "12345"),
        ("identity before chunked", head("Transfer-Encoding: identity, chunked\r\n") + both),
        ("chunked twice", head("Transfer-Encoding: chunked, chunked\r\n") + both),
        (
            "two encodings",
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n") + both,
        ),
        (
            "chunked in two fields",
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + both,
        ),
        (
            "an unknown encoding",
            head("Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n") + "12345",
        ),
        (
            "a quoted encoding",
            head("Transfer-Encoding: \"chunked\"\r\nContent-Length: 5\r\n") + "12345",
        ),
        ("chunked with a parameter", head("Transfer-Encoding: chunked;q=1\r\n") + both),
        ("chunked after a vertical tab", head("Transfer-Encoding: \x0bchunked\r\n") + both),
        ("chunked before a NUL", head("Transfer-Encoding: chunked\0\r\n") + both),
        ("an empty encoding", head("Transfer-Encoding: \r\nContent-Length: 5\r\n") + "12345"),
        (
            "a space before the colon",
            head("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n") + both,
        ),
        (
            "a tab before the colon",
            head("Transfer-Encoding\t: chunked\r\nContent-Length: 5\r\n") + both,
        ),
        (
            "a space before a name",
            head(" Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + both,
        ),
        ("a NUL in a name", head("Transfer\0-Encoding: chunked\r\n") + both),
        ("no colon", head("Transfer-Encoding chunked\r\n") + both),
        ("an empty name", head(": chunked\r\n") + both),
        ("a folded line", head("X-A: b\r\n Transfer-Encoding: chunked\r\n") + both),
        ("a folded line after a tab", head("X-A: b\r\n\tmore\r\n")),
        ("a folded encoding", head("Transfer-Encoding:\r\n chunked\r\n") + both),
        ("a bare LF after a field", head("X-A: b\nTransfer-Encoding: chunked\r\n") + both),
        ("a bare CR in a field", head("X-A: b\rTransfer-Encoding: chunked\r\n") + both),
        ("a bare LF after the request line", "GET /open/x HTTP/1.1\nHost: HOST\r\n\r\n".into()),
        ("bare LFs alone", "GET /open/x HTTP/1.1\nHost: HOST\n\n".into()),
        (
            "an underscore in the encoding's name",
            head("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n") + both,
        ),
        (
            "chunks in HTTP/1.0",
            "POST /open/x HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
                + both,
        ),
        ("HTTP/0.9", "GET /open/x\r\n\r\n".into()),
        ("HTTP/1.2", "GET /open/x HTTP/1.2\r\nHost: HOST\r\nConnection: close\r\n\r\n".into()),
        (
            "HTTP/2.0 in text",
            "GET /open/x HTTP/2.0\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "another protocol",
            "GET /open/x FTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "a version in lower case",
            "GET /open/x http/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "two spaces in the request line",
            "GET  /open/x HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "a tab in the request line",
            "GET\t/open/x HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "a space in the path",
            "GET /open/x /closed HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "a CR in the path",
            "GET /open/x\r HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "a NUL in the path",
            "GET /open/x\0 HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n".into(),
        ),
        ("a fragment in the path", get("HOST", "/open/x#/closed", "")),
        ("bytes above ASCII in the path", get("HOST", "/open/\u{e9}", "")),
        ("a chunk's size with 0x", chunks("0x1\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a chunk's size with a sign", chunks("+1\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a negative chunk", chunks("-1\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a chunk beyond 64 bits", chunks("10000000000000001\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a chunk without a size", chunks("\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a chunk's size with an underscore", chunks("0_1\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a space before a chunk's size", chunks(" 1\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a space after a chunk's size", chunks("1 \r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a bare LF after a chunk's size", chunks("1\nx\r\n0\r\n\r\nHIDDEN")),
        ("a bare CR after a chunk's size", chunks("1\rx\r\n0\r\n\r\nHIDDEN")),
        ("a bare LF after a chunk", chunks("1\r\nx\n0\r\n\r\nHIDDEN")),
        ("no line end after a chunk", chunks("1\r\nx0\r\n\r\nHIDDEN")),
        ("a longer chunk than its size", chunks("1\r\nxyz\r\n0\r\n\r\nHIDDEN")),
        ("a bare LF in a chunk's extension", chunks("1;a\nb\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a bare CR in a chunk's extension", chunks("1;a\rb\r\nx\r\n0\r\n\r\nHIDDEN")),
        ("a bare LF after the last chunk", chunks("0\n\r\nHIDDEN")),
        ("bare LFs at the end of the chunks", chunks("0\r\n\nHIDDEN")),
        ("a folded trailer", chunks("0\r\nX-A: b\r\n c\r\n\r\n")),
        ("a trailer with a space before its colon", chunks("0\r\nX-A : b\r\n\r\n")),
        ("a bare LF in a trailer", chunks("0\r\nX-A: b\nX-C: d\r\n\r\n")),
    ];
    all.push((
        "an endless chunk extension",
        chunks(&format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(1 << 20))),
    ));
    all.push(("a head without end", head(&format!("X-A: {}\r\n", "a".repeat(1 << 20)))));
    all.push(("ten thousand fields", head(&"X-A: b\r\n".repeat(10_000))));
    all
}
