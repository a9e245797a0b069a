//! Targets: other hosts and ports, and addresses in every spelling. The addresses are those of the
//! granted host, so that whoever let one through would reach it.

use std::net::Ipv4Addr;

use bottle_planner::decision::Code::{self, Address, Client, Malformed, NoRoute, Port};

use super::{Attempt, Shot};

/// A server of the host's own that nobody asks for anything: the addresses stand for it, as the
/// list is made before there is a session.
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
const NOT_A_TARGET: &[Code] = &[Address, Malformed, NoRoute];

pub fn get(host: &str, path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n")
}

pub fn post(host: &str, path: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{more}\
         Connection: close\r\n\r\n{body}"
    )
}

/// What goes through.
pub fn allowed() -> Shot {
    Shot::tunnel("api.test").send(get("api.test", "/open/x", ""))
}

/// A tunnel to a target with a request for the granted path in it.
fn tunnel(target: &str) -> Shot {
    Shot::connect(target).tls("api.test").send(get("api.test", "/open/x", ""))
}

pub fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    for (name, target) in [
        ("a host without a route", "evil.test:443"),
        ("a host that ends in a granted one", "evilapi.test:443"),
        ("a host below a granted one", "x.api.test:443"),
        ("a host that begins with a granted one", "api.test.evil.test:443"),
        ("a host that a granted one ends in", "test:443"),
        ("the apex of a wildcard", "wild.test:443"),
        ("a wildcard's suffix without its dot", "xwild.test:443"),
        ("the wildcard itself", "*.wild.test:443"),
        ("an underscore for a dot", "api_test:443"),
        ("punycode of a host that looks alike", "xn--pi-6kc.test:443"),
        ("the name of egress", "egress.local:9099"),
        ("the name of a sidecar", "supervise:9100"),
        ("localhost", "localhost:443"),
        ("the metadata service's name", "metadata.google.internal:80"),
    ] {
        all.push(Attempt::refused(
            "target",
            name,
            &[NoRoute, Malformed, Client],
            tunnel(target),
            allowed(),
        ));
    }
    for (name, target) in [
        ("the port of plain http", "api.test:80"),
        ("the port of ssh", "api.test:22"),
        ("the port of egress", "api.test:9099"),
        ("the port of dns", "api.test:53"),
        ("port 0", "api.test:0"),
        ("a port beyond all, that wraps to 443", "api.test:65979"),
        ("a port with a sign", "api.test:+443"),
        ("a port in hexadecimal", "api.test:0x1bb"),
        ("two ports", "api.test:443:22"),
        ("no port", "api.test"),
        ("an empty port", "api.test:"),
    ] {
        all.push(Attempt::refused("port", name, &[Port, Malformed], tunnel(target), allowed()));
    }
    for (name, target) in [
        ("a granted host as the user", "api.test:443@evil.test:443"),
        ("a granted host as user and password", "api.test:x@evil.test:443"),
        ("another host as the user", "evil.test@api.test:443"),
        ("two dots at the end", "api.test..:443"),
        ("a dot before", ".api.test:443"),
        ("an empty label", "api..test:443"),
        ("an escaped letter", "%61pi.test:443"),
        ("an escaped NUL", "api.test%00.evil.test:443"),
        ("an escaped slash", "evil.test%2f.api.test:443"),
        ("a fragment", "evil.test#.api.test:443"),
        ("a query", "evil.test?.api.test:443"),
        ("a backslash", "evil.test\\.api.test:443"),
        ("a path", "api.test:443/x"),
        ("a scheme", "https://api.test:443"),
        ("letters of another alphabet", "\u{430}pi.test:443"),
        ("a full-width dot", "api\u{3002}test:443"),
        ("a comma", "api.test,evil.test:443"),
        ("a tab", "api.test\tevil.test:443"),
        ("a NUL", "api.test\0.evil.test:443"),
    ] {
        all.push(Attempt::refused(
            "authority",
            name,
            &[Malformed, NoRoute, Address],
            tunnel(target),
            allowed(),
        ));
    }
    for (name, host) in literals() {
        all.push(Attempt::refused(
            "address",
            name,
            NOT_A_TARGET,
            tunnel(&format!("{host}:443")),
            allowed(),
        ));
        let url = format!(
            "GET http://{host}/open/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        let plain = "GET http://plain.test/open/x HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n";
        all.push(Attempt::refused(
            "address of plain http",
            name,
            NOT_A_TARGET,
            Shot::proxy().send(url),
            Shot::proxy().send(plain),
        ));
    }
    all.push(Attempt::refused(
        "target",
        "a name that has a private address",
        &[Address],
        Shot::tunnel("inside.test").send(get("inside.test", "/open/x", "")),
        allowed(),
    ));
    all
}

/// One address in every spelling that some resolver takes for one, and others that must not be
/// reached.
fn literals() -> Vec<(&'static str, String)> {
    let number = u32::from(LOCAL);
    let [a, b, c, d] = LOCAL.octets();
    vec![
        ("dotted", LOCAL.to_string()),
        ("dotted, with a final dot", format!("{LOCAL}.")),
        ("decimal", number.to_string()),
        ("octal", format!("0{number:o}")),
        ("hexadecimal", format!("0x{number:x}")),
        ("hexadecimal in capitals", format!("0X{number:X}")),
        ("octal parts", format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}")),
        ("hexadecimal parts", format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}")),
        ("mixed parts", format!("0x{a:x}.{b}.0{c:o}.{d}")),
        ("two parts", format!("{a}.{}", number & 0xff_ffff)),
        ("three parts", format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d))),
        ("leading zeroes", format!("{a:04}.{b:03}.{c:03}.{d:03}")),
        ("nought", "0".into()),
        ("all noughts", "0.0.0.0".into()),
        ("loopback of IPv6", "[::1]".into()),
        ("unspecified of IPv6", "[::]".into()),
        ("mapped into IPv6", format!("[::ffff:{LOCAL}]")),
        ("mapped, in hexadecimal", format!("[::ffff:{:x}:{:x}]", number >> 16, number & 0xffff)),
        ("compatible with IPv4", format!("[::{LOCAL}]")),
        ("translated by NAT64", format!("[64:ff9b::{LOCAL}]")),
        ("link-local with a zone", "[fe80::1%25eth0]".into()),
        ("an address of the future", "[v1.fe80::1]".into()),
        ("IPv6 without brackets", "::1".into()),
        ("circled digits", "\u{2460}\u{2461}\u{2466}.\u{24ea}.\u{24ea}.\u{2460}".into()),
        ("full-width digits", "\u{ff11}\u{ff12}\u{ff17}.0.0.1".into()),
        ("the metadata service", "169.254.169.254".into()),
        ("the metadata service in decimal", "2852039166".into()),
        ("the metadata service in octal", "0251.0376.0251.0376".into()),
        ("the metadata service, mapped", "[::ffff:169.254.169.254]".into()),
        ("a metadata service of IPv6", "[fd00:ec2::254]".into()),
        ("a private address", "10.0.0.1".into()),
    ]
}
