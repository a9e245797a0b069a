//! Through the proxy, where it should say no: hosts, ports, methods and paths that are not granted,
//! every spelling of an address, tunnels to places inside, and requests that hide another.

use std::net::{Ipv4Addr, SocketAddr};

use bottle_planner::sidecar::EGRESS_PORT;

use super::http::{Reply, send};
use super::{Expected, Family, Granted, Outcome, Targets};

pub(super) fn attempts(targets: &Targets) -> Family {
    let mut list = List {
        family: Family::new("proxy"),
        proxy: (targets.egress, EGRESS_PORT).into(),
        answer: targets.answer.clone(),
        nonce: targets.nonce.clone(),
    };
    list.own_pages();
    list.hosts(targets);
    list.addresses(targets);
    list.tunnels(targets);
    match &targets.granted {
        Some(granted) => {
            list.granted(granted, targets.canary);
            list.paths(granted, targets.canary);
            list.hidden(granted, targets.canary);
        }
        None => {
            let what = "methods, paths, spellings and hidden requests on a granted route";
            list.family.now(Expected::Allowed, "proxy-granted", what, || {
                Outcome::NotTried("only a throw-away bottle has a route to try them on".into())
            });
            list.granted_tunnel(targets);
        }
    }
    list.family
}

struct List {
    family: Family,
    proxy: SocketAddr,
    answer: String,
    nonce: String,
}

impl List {
    /// What the canary is told, so that whoever asked is known.
    fn path(&self, folder: &str, id: &str) -> String {
        format!("/{folder}/{}/{id}", self.nonce)
    }

    fn raw(&mut self, expected: Expected, id: &str, what: &str, request: impl Into<Vec<u8>>) {
        self.inside(expected, id, what, request, None);
    }

    fn inside(
        &mut self,
        expected: Expected,
        id: &str,
        what: &str,
        request: impl Into<Vec<u8>>,
        then: Option<String>,
    ) {
        let (proxy, answer, request) = (self.proxy, self.answer.clone(), request.into());
        self.family.later(expected, id, what, async move {
            send(proxy, request, then.map(String::into_bytes)).await.judged(&answer)
        });
    }

    fn refused(&mut self, id: &str, what: &str, request: impl Into<Vec<u8>>) {
        self.raw(Expected::Refused, id, what, request);
    }

    fn own_pages(&mut self) {
        let proxy = self.proxy;
        let routes = get("egress.local", "/routes");
        let asked = routes.clone();
        let what = "read the routes at egress.local/routes";
        self.family.later(Expected::Allowed, "own-routes", what, async move {
            let reply = send(proxy, asked.into_bytes(), None).await;
            match reply.status() {
                Some(200) => Outcome::Allowed("200".into()),
                _ => reply.judged("\0"),
            }
        });
        let what = "find the name or value of a secret there";
        self.family.later(Expected::Refused, "own-routes-secret", what, async move {
            secret_in(&send(proxy, routes.into_bytes(), None).await)
        });
        for (id, what, path) in [
            ("own-root", "read egress.local/", "/"),
            ("own-settings", "read egress.local/settings.json", "/settings.json"),
            ("own-key", "read egress.local/routes/../ca.key", "/routes/../ca.key"),
        ] {
            self.refused(id, what, get("egress.local", path));
        }
        let request = "POST http://egress.local/routes HTTP/1.1\r\nHost: egress.local\r\n\
                       Content-Length: 2\r\nConnection: close\r\n\r\n{}";
        self.refused("own-write", "change the routes at egress.local/routes", request);
    }

    fn hosts(&mut self, targets: &Targets) {
        for host in &targets.refused {
            let what = format!("http://{host}/");
            self.refused(&format!("host-{host}"), &what, get(host, "/"));
            let what = format!("a tunnel to {host}:443");
            self.refused(&format!("tunnel-{host}"), &what, connect(&format!("{host}:443")));
        }
        let host = targets.refused.first().map_or("refused.invalid", String::as_str);
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.refused("origin-form", &format!("GET / with Host: {host}"), request.clone());
        let (door, answer) = (SocketAddr::from((targets.egress, 80)), self.answer.clone());
        let what = format!("GET / with Host: {host} at port 80");
        self.family.later(Expected::Refused, "door-http", what, async move {
            send(door, request.into_bytes(), None).await.judged(&answer)
        });
        for scheme in ["https", "ftp", "file"] {
            let request = get(host, "/").replacen("http:", &format!("{scheme}:"), 1);
            let what = format!("a {scheme}: URL in a plain request");
            self.refused(&format!("scheme-{scheme}"), &what, request);
        }
    }

    /// One address of this host in every spelling, and addresses that are never public.
    fn addresses(&mut self, targets: &Targets) {
        let host = targets.host.iter().find_map(|address| match address {
            std::net::IpAddr::V4(address) => Some(*address),
            std::net::IpAddr::V6(_) => None,
        });
        // The one that the granted route leads to answers for certain.
        let granted = targets.granted.as_ref().map(|granted| granted.address);
        let host = granted.or(host).unwrap_or(Ipv4Addr::new(192, 0, 2, 1));
        for (name, text) in spellings(host) {
            let id = format!("ip-{name}");
            let at = format!("{text}:{}", targets.canary);
            let request = get(&at, &self.path("ip", &id));
            self.refused(&id, &format!("http://{at}/ ({name})"), request);
        }
        for (id, at) in [
            ("ip-loopback", "127.0.0.1:9099"),
            ("ip-any", "0.0.0.0:9099"),
            ("ip-metadata", "169.254.169.254"),
            ("ip-localhost", "localhost:9099"),
            ("ip-six-loopback", "[::1]:9099"),
        ] {
            self.refused(id, &format!("http://{at}/"), get(at, "/"));
        }
    }

    fn tunnels(&mut self, targets: &Targets) {
        let canary = targets.canary;
        let mut inside = vec![
            ("to-egress".to_owned(), format!("egress:{EGRESS_PORT}")),
            ("to-egress-address".to_owned(), format!("{}:{EGRESS_PORT}", targets.egress)),
            ("to-egress-local".to_owned(), "egress.local:80".to_owned()),
            ("to-localhost".to_owned(), format!("localhost:{EGRESS_PORT}")),
            ("to-agent".to_owned(), format!("{}:22", targets.agent)),
            ("to-public-address".to_owned(), "1.1.1.1:443".to_owned()),
            ("to-six".to_owned(), "[2606:4700:4700::1111]:443".to_owned()),
            ("to-metadata".to_owned(), "169.254.169.254:80".to_owned()),
        ];
        inside.extend(
            targets
                .host
                .iter()
                .filter(|address| address.is_ipv4())
                .map(|address| (format!("to-host-{address}"), format!("{address}:{canary}"))),
        );
        for (name, address, port) in &targets.sidecars {
            inside.push((format!("to-{name}"), format!("{name}:{port}")));
            inside.push((format!("to-{name}-address"), format!("{address}:{port}")));
        }
        for (name, at) in inside {
            let id = format!("tunnel-{name}");
            let then = Some(get(&at, &self.path("tunnel", &id)));
            let what = format!("a tunnel to {at}");
            self.inside(Expected::Refused, &id, &what, connect(&at), then);
        }
    }

    /// Where no route was granted for this, a tunnel to a host that has one is opened and closed.
    fn granted_tunnel(&mut self, targets: &Targets) {
        let Some(known) = &targets.known else { return };
        let Some(port) = known.tunnel else { return };
        let (proxy, at) = (self.proxy, format!("{}:{port}", known.host));
        let what = format!("a tunnel to {at}, which has a route");
        self.family.later(Expected::Allowed, "tunnel-granted", what, async move {
            send(proxy, connect(&at).into_bytes(), None).await.judged("\0")
        });
    }

    fn granted(&mut self, granted: &Granted, canary: u16) {
        use Expected::Allowed;
        let (host, at) = (&granted.host, format!("{}:{canary}", granted.host));
        let path = |list: &Self, id: &str| list.path("open", id);
        let request = get(&at, &path(self, "granted"));
        self.raw(Allowed, "granted", "GET what is granted", request);
        let request = get(&at.to_ascii_uppercase(), &path(self, "granted-case"));
        self.raw(Allowed, "granted-case", "the same host in capitals", request);
        let request = get(&format!("{host}.:{canary}"), &path(self, "granted-dot"));
        self.raw(Allowed, "granted-dot", "the same host with a dot at its end", request);

        let request = get(host, &path(self, "other-port"));
        self.refused("other-port", "the granted host on port 80", request);
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "get"] {
            let lower = if method == "get" { "lower-case-get" } else { method };
            let id = format!("method-{}", lower.to_ascii_lowercase());
            let request = get(&at, &path(self, &id)).replacen("GET", method, 1);
            self.refused(&id, &format!("{method} what is granted for GET"), request);
        }
        let request = get(&format!("user:secret@{at}"), &path(self, "user-info"));
        self.refused("user-info", "a user name before the granted host", request);
        let request =
            get(&format!("{at}@{}:{canary}", granted.address), &path(self, "host-as-user"));
        self.refused("host-as-user", "the granted host as a user name", request);
        let push = "/info/refs?service=git-receive-pack";
        let request = get(&at, &format!("{}{push}", path(self, "git-push")));
        self.refused("git-push", "git push over HTTP", request);

        let target = format!("http://{at}{}", path(self, "other-host-header"));
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n");
        self.refused("other-host-header", "a Host header that names another host", request);
        let target = format!("http://{at}{}", path(self, "two-host-headers"));
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {at}\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n"
        );
        self.refused("two-host-headers", "two Host headers", request);
        let target =
            format!("http://refused.invalid:{canary}{}", path(self, "granted-host-header"));
        let request = format!("GET {target} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        self.refused("granted-host-header", "another host, with the granted one's Host", request);

        let then = get("", &self.path("closed", "tunnel-closed"));
        let what = "a closed path inside a tunnel to the granted host";
        self.inside(Expected::Refused, "tunnel-closed", what, connect(&at), Some(then));
        let then = connect("refused.invalid:443");
        let what = "a tunnel inside a tunnel";
        self.inside(Expected::Refused, "tunnel-nested", what, connect(&at), Some(then));
        let what = "a tunnel to the granted host, port 22";
        self.refused("tunnel-port", what, connect(&format!("{host}:22")));
        self.refused("tunnel-no-port", "a tunnel without a port", connect(host));
    }

    /// Every spelling of a way from the folder that is open to the one that is closed.
    fn paths(&mut self, granted: &Granted, canary: u16) {
        let at = format!("{}:{canary}", granted.host);
        let closed = self.path("closed", "path-closed");
        self.refused("path-closed", "a path that is not granted", get(&at, &closed));
        for (name, way) in [
            ("dots", "/open/.."),
            ("escaped-dots", "/open/%2e%2e"),
            ("half-escaped", "/open/.%2E"),
            ("dot-and-dots", "/open/./.."),
            ("overlong", "/open/%c0%ae%c0%ae"),
            ("escaped-slash", "/open/..%2f"),
            ("escaped-twice", "/open/%252e%252e"),
            ("backslash", "/open/..\\"),
            ("escaped-backslash", "/open/..%5c"),
            ("parameter", "/open/..;x=1"),
            ("two-slashes", "/open//.."),
            ("nul", "/open/..%00"),
            ("prefix", "/open-not"),
        ] {
            let id = format!("path-{name}");
            let path = format!("{way}{}", self.path("closed", &id));
            self.refused(&id, &format!("the path {way}/closed"), get(&at, &path));
        }
    }

    /// Requests that one reader takes for one and another for two: the hidden one must not be heard.
    fn hidden(&mut self, granted: &Granted, canary: u16) {
        let at = format!("{}:{canary}", granted.host);
        for (name, what, head) in [
            (
                "cl-te",
                "Content-Length and Transfer-Encoding",
                "Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            (
                "te-cl",
                "Transfer-Encoding, then Content-Length",
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            ),
            (
                "two-lengths",
                "two Content-Lengths",
                "Content-Length: 0\r\nContent-Length: {n}\r\n\r\n",
            ),
            ("length-list", "a list of Content-Lengths", "Content-Length: 0, {n}\r\n\r\n"),
            ("length-plus", "a Content-Length with a sign", "Content-Length: +0\r\n\r\n"),
            (
                "space",
                "a space before a header's colon",
                "Transfer-Encoding : chunked\r\nContent-Length: {n}\r\n\r\n0\r\n\r\n",
            ),
            ("bare-lf", "lines that end in LF alone", "X: y\nContent-Length: 0\n\n"),
            (
                "fold",
                "a header folded over two lines",
                "X: y\r\n Content-Length: 0\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
            ),
            (
                "te-twice",
                "Transfer-Encoding: chunked, identity",
                "Transfer-Encoding: chunked, identity\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "te-unknown",
                "an unknown Transfer-Encoding",
                "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "te-control",
                "a control character in Transfer-Encoding",
                "Transfer-Encoding: \u{b}chunked\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "chunk-size",
                "a chunk size that overflows",
                "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
            ),
            ("nul-name", "a NUL in a header's name", "X\0: y\r\nContent-Length: 0\r\n\r\n"),
            ("pipelined", "another before it on the same connection", "Content-Length: 0\r\n\r\n"),
        ] {
            let id = format!("hidden-{name}");
            let hidden = get(&at, &self.path("closed", &id));
            let outer = format!("http://{at}{}", self.path("open", "outer"));
            let head = head.replace("{n}", &hidden.len().to_string());
            let request = format!("GET {outer} HTTP/1.1\r\nHost: {at}\r\n{head}{hidden}");
            let what = format!("a request hidden by {what}");
            let (proxy, answer) = (self.proxy, self.answer.clone());
            self.family.later(Expected::Refused, id, what, async move {
                let reply = send(proxy, request.into_bytes(), None).await;
                match reply.judged(&answer) {
                    // The outer one is granted. Whether the other was heard, the canary tells.
                    Outcome::Allowed(_) => Outcome::Refused("one request went out, not two".into()),
                    other => other,
                }
            });
        }
    }
}

fn get(at: &str, path: &str) -> String {
    if at.is_empty() {
        return format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
    }
    // What stands before an `@` is no part of a Host header.
    let host = at.rsplit('@').next().unwrap_or(at);
    format!("GET http://{at}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn connect(at: &str) -> String {
    format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n")
}

/// Ways to write an IPv4 address that some resolver or library understands.
fn spellings(address: Ipv4Addr) -> [(&'static str, String); 8] {
    let [a, b, c, d] = address.octets();
    let number = u32::from(address);
    [
        ("dotted", address.to_string()),
        ("decimal", number.to_string()),
        ("hexadecimal", format!("0x{number:x}")),
        ("octal", format!("0{number:o}")),
        ("dotted-octal", format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}")),
        ("short", format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d))),
        ("mapped", format!("[::ffff:{address}]")),
        ("dot-at-end", format!("{address}.")),
    ]
}

/// The routes in force name no secret: no key of that name, and nothing that was put in one's place.
fn secret_in(reply: &Reply) -> Outcome {
    let text = reply.text().to_ascii_lowercase();
    let found = ["\"secret\"", "\"value\"", "\"token\"", "\"password\""].into_iter();
    match (reply.status(), found.into_iter().find(|key| text.contains(key))) {
        (Some(200), Some(key)) => Outcome::Allowed(format!("{key} is shown")),
        (Some(200), None) => Outcome::Refused("none is shown".into()),
        _ => Outcome::NotTried("the routes are not shown".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_spelled_in_every_way() {
        let all = spellings(Ipv4Addr::new(172, 17, 0, 1)).map(|(_, text)| text);
        let expected = [
            "172.17.0.1",
            "2886795265",
            "0xac110001",
            "025404200001",
            "0254.021.00.01",
            "172.17.1",
            "[::ffff:172.17.0.1]",
            "172.17.0.1.",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_secret_in_the_routes_is_seen() {
        let reply = |body: &str| Reply::Bytes(format!("HTTP/1.1 200 OK\r\n\r\n{body}").into());
        assert_eq!(
            secret_in(&reply("{\"auth\":\"Bearer\"}")),
            Outcome::Refused("none is shown".into())
        );
        let shown = secret_in(&reply("{\"auth\":{\"Secret\":\"GH_PAT\"}}"));
        assert_eq!(shown, Outcome::Allowed("\"secret\" is shown".into()));
        let none = secret_in(&Reply::Bytes("HTTP/1.1 403 Forbidden\r\n\r\n".into()));
        assert!(matches!(none, Outcome::NotTried(_)));
    }

    #[test]
    fn a_request_names_the_host_without_who_asks() {
        assert_eq!(
            get("user:pw@h.test:1", "/x"),
            "GET http://user:pw@h.test:1/x HTTP/1.1\r\nHost: h.test:1\r\nConnection: close\r\n\r\n"
        );
    }
}
