//! The world outside a bottle, for tests: servers on this host that listen everywhere, and probes
//! that say from inside a container what they reach.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use bottle_tests::host::{docker, ran, unique, until};

/// What the servers answer.
pub const MARK: &str = "reached-the-outside";

/// A TCP server that answers every connection as HTTP, on every address of this host. It serves
/// until the test's process ends.
pub fn tcp_server() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = stream;
                // Only the head of a small request matters, and whatever becomes of the answer is
                // the client's affair.
                let _ = stream.read(&mut [0; 4096]);
                let length = MARK.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n");
                let _ = write!(stream, "{head}Connection: close\r\n\r\n{MARK}");
            });
        }
    });
    port
}

/// What UDP servers of this process have heard.
static HEARD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn heard(text: &str) -> bool {
    HEARD.lock().expect("no listener panics").contains(text)
}

/// A UDP server that remembers what it hears, on every address of this host.
pub fn udp_server() -> u16 {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    let port = socket.local_addr().expect("bound").port();
    thread::spawn(move || {
        let mut datagram = [0; 512];
        while let Ok(length) = socket.recv(&mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
            HEARD.lock().expect("no listener panics").insert(text);
        }
    });
    port
}

/// The address of the engine's default bridge, on which a server of this host is reached from
/// every container that may.
pub fn docker0() -> Ipv4Addr {
    gateway("bridge").expect("the engine has a default bridge")
}

/// The gateways of all of the engine's networks.
pub fn gateways() -> BTreeSet<Ipv4Addr> {
    let names = docker(&["network", "ls", "--format", "{{.Name}}"]).code(0).out;
    names.lines().filter_map(gateway).collect()
}

/// The gateway of a network, or the one it would have: the first address. `None` for a network
/// that has no addresses, or is gone by now.
fn gateway(network: &str) -> Option<Ipv4Addr> {
    let format = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}}{{end}}";
    let out = docker(&["network", "inspect", network, "--format", format]).out;
    let (gateway, subnet) = out.trim_end().split_once(' ')?;
    gateway.parse().ok().or_else(|| {
        let first: Ipv4Addr = subnet.split('/').next()?.parse().ok()?;
        Some(Ipv4Addr::from(u32::from(first) + 1))
    })
}

/// The addresses of this host, loopback ones apart.
pub fn own_addresses() -> BTreeSet<Ipv4Addr> {
    let table = fs::read_to_string("/proc/net/fib_trie").expect("readable");
    let mut last = None;
    let mut found = BTreeSet::new();
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.filter(|address| !address.is_loopback()));
        }
    }
    found
}

/// The resolvers this host uses.
pub fn resolvers() -> BTreeSet<Ipv4Addr> {
    let file = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = file.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    named.filter_map(|address| address.trim().parse().ok()).collect()
}

/// One thing to try from inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Try {
    /// Connect by TCP.
    Tcp(Ipv4Addr, u16),
    /// Send a datagram that is heard by this process's server.
    Udp(Ipv4Addr, u16),
    /// Ask a resolver by UDP for a name's address and get one.
    Name(Ipv4Addr, String),
    /// The same by TCP.
    NameByTcp(Ipv4Addr, String),
}

/// From where.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// A running container.
    Container(&'a str),
    /// A new container on this network.
    Network(&'a str),
}

/// Functions of bash, which every base image has: each prints its own number when it got through.
const PROBES: &str = r#"
open() { timeout 5 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }
tcp() { open "$2" "$3" && echo "$1"; }
answer() { timeout 5 bash -c 'exec 3<>"/dev/$0/$1/$2"; printf "$3" >&3; head -c "$4" <&3' "$@" 2>/dev/null | od -An -v -tx1 | tr -d ' \n'; }
udp() { timeout 5 bash -c 'printf "$3 $0" >"/dev/udp/$1/$2"' "$1" "$2" "$3" "$4" 2>/dev/null; }
# The count of answers is at byte 6 of a DNS message (RFC 1035, section 4.1.1).
name() { local a; a=$(answer udp "$2" 53 "$3" 12); [ ${#a} = 24 ] && [ "${a:12:4}" != 0000 ] && echo "$1"; }
name_tcp() { local a; a=$(answer tcp "$2" 53 "$3" 14); [ ${#a} = 28 ] && [ "${a:16:4}" != 0000 ] && echo "$1"; }
"#;

/// Tries all of them side by side and answers what got through.
#[track_caller]
pub fn reached(from: From<'_>, tries: &[Try]) -> BTreeSet<Try> {
    let mut script = PROBES.to_owned();
    let nonce = unique("probe");
    for (n, one) in tries.iter().enumerate() {
        let line = match one {
            Try::Tcp(address, port) => format!("tcp {n} {address} {port} &\n"),
            Try::Udp(address, port) => format!("udp {n} {address} {port} {nonce} &\n"),
            Try::Name(address, name) => {
                format!("name {n} {address} '{}' &\n", question(name, false))
            }
            Try::NameByTcp(address, name) => {
                format!("name_tcp {n} {address} '{}' &\n", question(name, true))
            }
        };
        script.push_str(&line);
    }
    script.push_str("wait\necho end\n");
    let mut command = Command::new("docker");
    match from {
        From::Container(name) => command.args(["exec", "-i", name]),
        From::Network(name) => {
            command.args(["run", "--rm", "-i", "--network", name, "debian:bookworm-slim"])
        }
    };
    let ran = ran(command.args(["bash", "-s"]), script.as_bytes()).code(0).prints("end");
    let numbers = ran.out.lines().filter_map(|line| line.parse::<usize>().ok());
    let mut reached: BTreeSet<Try> = numbers.map(|n| tries[n].clone()).collect();
    for (n, one) in tries.iter().enumerate() {
        let Try::Udp(_, port) = one else { continue };
        // A server hears in order: once it has heard this, it has heard all that came before.
        let last = format!("{nonce} {n} last");
        let own = UdpSocket::bind("127.0.0.1:0").expect("a port");
        own.send_to(last.as_bytes(), ("127.0.0.1", *port)).expect("sent");
        until("the server hears this process", || heard(&last));
        if heard(&format!("{nonce} {n}")) {
            reached.insert(one.clone());
        }
    }
    reached
}

/// A question for a name's IPv4 address, escaped for bash's `printf` (RFC 1035, section 4.1).
fn question(name: &str, length_first: bool) -> String {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    if length_first {
        let length = u16::try_from(message.len()).expect("a short question");
        message.splice(0..0, length.to_be_bytes());
    }
    message.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}
