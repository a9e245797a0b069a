//! Requests that name two hosts, each in another place: CONNECT, TLS's server name, `Host`,
//! `:authority`, an absolute target; and tunnels in tunnels.

use bottle_planner::decision::Code::{self, Client, Malformed, NoRoute, NoRule, Port};

use super::targets::{allowed, get};
use super::{Attempt, Shot, h2};

const TWO_HOSTS: &[Code] = &[Malformed, NoRoute, NoRule];
/// What the library for HTTP/2 resets on its own, it tells nobody.
const UNTOLD: &[Code] = &[];

/// Fields of a request over HTTP/2.
fn fields<'a>(authority: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", "/open/x"),
    ];
    fields.extend(more);
    fields
}

fn over_h2(fields: &[(&str, &str)]) -> Shot {
    Shot::connect("api.test:443").h2("api.test", fields, None)
}

pub fn attempts() -> Vec<Attempt> {
    let refused = |name: &str, attack: Shot| {
        Attempt::refused("agreement", name, TWO_HOSTS, attack, allowed())
    };
    let inside = |request: &str| Shot::tunnel("api.test").send(request);
    let mut all = vec![
        refused("CONNECT with another Host", Shot::proxy()
            .send("CONNECT api.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n").head()
            .tls("api.test").send(get("api.test", "/open/x", ""))),
        refused("CONNECT with another port in Host", Shot::proxy()
            .send("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:22\r\n\r\n").head()
            .tls("api.test").send(get("api.test", "/open/x", ""))),
        refused("CONNECT with two Hosts", Shot::proxy()
            .send("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nHost: api.test:443\r\n\r\n").head()
            .tls("api.test").send(get("api.test", "/open/x", ""))),
        refused("a server name that is not CONNECT's", Shot::connect("api.test:443")
            .tls("evil.test").send(get("api.test", "/open/x", ""))),
        refused("a granted server name that is not CONNECT's", Shot::connect("api.test:443")
            .tls("two.test").send(get("two.test", "/open/x", ""))),
        refused("another server name in an uninspected tunnel", Shot::connect("pass.test:443")
            .tls("evil.test").send(get("pass.test", "/x", ""))),
        refused("no server name in an uninspected tunnel", Shot::connect("pass.test:443")
            .hello(None, &[]).send(get("pass.test", "/x", ""))),
        refused("no TLS in an uninspected tunnel", Shot::connect("pass.test:443")
            .send(get("pass.test", "/x", ""))),
        refused("another Host inside", inside(&get("evil.test", "/open/x", ""))),
        refused("another granted Host inside", inside(&get("two.test", "/open/x", ""))),
        refused("another port in Host inside", inside(&get("api.test:22", "/open/x", ""))),
        refused("a user in Host inside", inside(&get("evil.test@api.test", "/open/x", ""))),
        refused("a Host with a second name", inside(&get("api.test, evil.test", "/open/x", ""))),
        refused("two Hosts inside", inside(&get("api.test", "/open/x", "Host: evil.test\r\n"))),
        refused("two equal Hosts inside", inside(&get("api.test", "/open/x", "Host: api.test\r\n"))),
        refused("no Host inside", inside("GET /open/x HTTP/1.1\r\nConnection: close\r\n\r\n")),
        refused("an empty Host inside", inside(&get("", "/open/x", ""))),
        refused("an absolute target for another host inside",
            inside(&get("api.test", "https://evil.test/open/x", ""))),
        refused("an absolute target that Host does not name inside",
            inside(&get("evil.test", "https://api.test/open/x", ""))),
        refused("an absolute target of plain http inside",
            inside(&get("api.test", "http://plain.test/open/x", ""))),
        refused("a target without a path inside", inside(&get("api.test", "open/x", ""))),
        refused("a target of two slashes for another host",
            inside(&get("api.test", "//evil.test/open/x", ""))),
        refused("an asterisk inside", inside("GET * HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")),
        refused("a tunnel in a tunnel",
            inside("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n")),
        refused("a tunnel to the same host in a tunnel",
            inside("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")),
        refused("the proxy asked for https",
            Shot::proxy().send(get("api.test", "https://api.test/open/x", ""))),
        refused("the proxy asked for another scheme",
            Shot::proxy().send(get("api.test", "ftp://api.test/open/x", ""))),
        refused("the proxy asked for a file",
            Shot::proxy().send(get("api.test", "file:///etc/passwd", ""))),
        refused("the proxy asked for a path alone",
            Shot::proxy().send(get("plain.test", "/open/x", ""))),
        refused("an absolute target that Host does not name",
            Shot::proxy().send(get("evil.test", "http://plain.test/open/x", ""))),
        refused("a user in an absolute target",
            Shot::proxy().send(get("plain.test", "http://evil.test@plain.test/open/x", ""))),
        refused("a granted host as the user of an absolute target",
            Shot::proxy().send(get("plain.test", "http://plain.test@evil.test/open/x", ""))),
        refused("a fragment before the host",
            Shot::proxy().send(get("plain.test", "http://evil.test#@plain.test/open/x", ""))),
        refused("a backslash before the host",
            Shot::proxy().send(get("plain.test", "http://evil.test\\@plain.test/open/x", ""))),
    ];
    let in_h2 = |name: &str, fields: &[(&str, &str)]| {
        let twin = self::fields("api.test", &[]);
        let told = ["another", "a user", "a Host", "no authority", "CONNECT"];
        let codes = if told.iter().any(|t| name.starts_with(t)) { TWO_HOSTS } else { UNTOLD };
        Attempt::refused("http/2", name, codes, over_h2(fields), over_h2(&twin))
    };
    all.extend([
        in_h2("another :authority", &fields("evil.test", &[])),
        in_h2("another granted :authority", &fields("two.test", &[])),
        in_h2("another port in :authority", &fields("api.test:22", &[])),
        in_h2("a user in :authority", &fields("evil.test@api.test", &[])),
        in_h2("a Host that is not :authority", &fields("api.test", &[("host", "evil.test")])),
        in_h2(
            "no authority at all",
            &[(":method", "GET"), (":scheme", "https"), (":path", "/open/x")],
        ),
        in_h2("two authorities", &fields("api.test", &[(":authority", "evil.test")])),
        in_h2("two paths", &fields("api.test", &[(":path", "/closed/x")])),
        in_h2(
            "the scheme http",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "api.test"),
                (":path", "/open/x"),
            ],
        ),
        in_h2(
            "a path that is a URL",
            &[
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "api.test"),
                (":path", "https://evil.test/open/x"),
            ],
        ),
        in_h2("CONNECT", &[(":method", "CONNECT"), (":authority", "evil.test:443")]),
        in_h2("extended CONNECT", &fields("api.test", &[(":protocol", "websocket")])),
        in_h2("a length and chunks", &fields("api.test", &[("transfer-encoding", "chunked")])),
        in_h2("a header of one hop", &fields("api.test", &[("connection", "x-a")])),
        in_h2("a line break in a value", &fields("api.test", &[("x-a", "b\r\nHost: evil.test")])),
        in_h2("a colon in a name", &fields("api.test", &[("x-a: b\r\nx-c", "d")])),
        in_h2("a name in capitals", &fields("api.test", &[("X-Capital", "1")])),
        in_h2(
            "a line break in the path",
            &[
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "api.test"),
                (":path", "/open/x HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
            ],
        ),
        in_h2(
            "a line break in the method",
            &[
                (":method", "GET /closed/x HTTP/1.1\r\nx:"),
                (":scheme", "https"),
                (":authority", "api.test"),
                (":path", "/open/x"),
            ],
        ),
    ]);
    let upgrade = "Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let head = |target: &str, host: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n")
    };
    let plain = Shot::proxy().send(get("plain.test", "http://plain.test/open/x", ""));
    let codes: &[Code] = &[Malformed, NoRule, NoRoute, Client, Port];
    for (name, attack, twin) in [
        (
            "h2c with prior knowledge",
            Shot::proxy().send(h2::request(
                &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":authority", "plain.test"),
                    (":path", "/open/x"),
                ],
                None,
            )),
            plain.clone(),
        ),
        (
            "h2c with prior knowledge, by a program that knows of no proxy",
            Shot::http().send(h2::request(
                &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":authority", "plain.test"),
                    (":path", "/open/x"),
                ],
                None,
            )),
            Shot::http().send(get("plain.test", "/open/x", "")),
        ),
    ] {
        all.push(Attempt::refused("upgrade", name, codes, attack, twin));
    }
    // An upgrade may be ignored (RFC 9110, section 7.8): then it goes no further.
    let unknown = "GET /open/x HTTP/1.1\r\nHost: api.test\r\nConnection: close, Upgrade\r\n\
                   Upgrade: foo/1\r\n\r\n";
    for (name, bytes, attack, twin) in [
        (
            "h2c by an upgrade",
            "h2c",
            Shot::proxy().send(head("http://plain.test/open/x", "plain.test")),
            plain,
        ),
        ("h2c by an upgrade inside TLS", "h2c", inside(&head("/open/x", "api.test")), allowed()),
        ("an upgrade to something unknown", "foo/1", inside(unknown), allowed()),
    ] {
        all.push(Attempt::without("upgrade", name, bytes, attack, twin));
    }
    let https = Shot::https("api.test").send(get("api.test", "/open/x", ""));
    let http = Shot::http().send(get("plain.test", "/open/x", ""));
    for (name, attack, twin) in [
        (
            "https to a host without a route",
            Shot::https("evil.test").send(get("evil.test", "/open/x", "")),
            &https,
        ),
        (
            "https without a server name",
            Shot::at(443).hello(None, &[]).send(get("api.test", "/open/x", "")),
            &https,
        ),
        (
            "https with another Host",
            Shot::https("api.test").send(get("two.test", "/open/x", "")),
            &https,
        ),
        (
            "https with an address for a server name",
            Shot::https("api.test").send(get("127.0.0.1", "/open/x", "")),
            &https,
        ),
        (
            "https to a path that is not granted",
            Shot::https("api.test").send(get("api.test", "/closed/x", "")),
            &https,
        ),
        (
            "plain http on the port of https",
            Shot::at(443).send(get("api.test", "/open/x", "")),
            &https,
        ),
        (
            "plain http on the port of https, to a host that has it",
            Shot::at(443).send(get("plain.test", "/open/x", "")),
            &https,
        ),
        (
            "TLS on the port of plain http",
            Shot::http().tls("api.test").send(get("api.test", "/open/x", "")),
            &http,
        ),
        (
            "plain http to a host without a route",
            Shot::http().send(get("evil.test", "/open/x", "")),
            &http,
        ),
        (
            "plain http to a host that has https alone",
            Shot::http().send(get("api.test", "/open/x", "")),
            &http,
        ),
        (
            "plain http to a path that is not granted",
            Shot::http().send(get("plain.test", "/closed/x", "")),
            &http,
        ),
        (
            "plain http without a Host",
            Shot::http().send("GET /open/x HTTP/1.1\r\nConnection: close\r\n\r\n"),
            &http,
        ),
        (
            "plain http with an absolute target for another host",
            Shot::http().send(get("plain.test", "http://evil.test/open/x", "")),
            &http,
        ),
        (
            "a proxy's request on the port of plain http",
            Shot::http().send("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n"),
            &http,
        ),
        ("plain http to an address", Shot::http().send(get("127.0.0.1", "/open/x", "")), &http),
        ("bytes that are neither", Shot::at(443).send(vec![0xff; 64]).half_close(), &https),
    ] {
        let codes: &[Code] = &[NoRoute, Malformed, NoRule, Port, Code::Address];
        all.push(Attempt::refused("transparent", name, codes, attack, twin.clone()));
    }
    all
}
