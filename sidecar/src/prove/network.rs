//! Straight out, past the proxy: packets of every kind, to the world, to this host, to others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use bottle_planner::sidecar::EGRESS_PORT;
use futures_util::future::join_all;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Expected, Family, Outcome, Targets};

/// How long a datagram's answer is waited for.
const ANSWER: Duration = Duration::from_millis(1200);
/// Ports on which engines listen for whoever comes.
const ENGINE_PORTS: [u16; 2] = [2375, 2376];
/// Cloud metadata (RFC 3927's range, as every large provider uses it).
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

pub(super) fn attempts(targets: &Targets) -> Family {
    use Expected::{Allowed, Refused};
    let mut all = Family::new("network");
    let egress = SocketAddr::from((targets.egress, EGRESS_PORT));
    all.later(Allowed, "net-twin", "TCP to egress", tcp(egress, String::new()));
    all.later(Allowed, "ping-twin", "ping egress", ping(targets.egress));

    let public = [("1.1.1.1", 443), ("8.8.8.8", 53), ("1.1.1.1", 22)];
    for (address, port) in public.into_iter().filter_map(|(a, p)| Some((a.parse().ok()?, p))) {
        let to = SocketAddr::new(address, port);
        all.later(Refused, format!("tcp-{to}"), format!("TCP to {to}"), tcp(to, String::new()));
    }
    let to = SocketAddr::from((METADATA, 80));
    all.later(
        Refused,
        "tcp-metadata",
        format!("TCP to cloud metadata, {to}"),
        tcp(to, String::new()),
    );
    all.later(Refused, "ping-world", "ping 1.1.1.1", ping(Ipv4Addr::new(1, 1, 1, 1)));

    let (canary, nonce) = (targets.canary, targets.nonce.clone());
    let mark = move |id: &str, at: &dyn std::fmt::Display| format!("{nonce}/{id}/{at}");
    let host = &targets.host;
    let four: Vec<Ipv4Addr> = host.iter().filter_map(four).collect();
    let count = match host.len() {
        1 => "its address".to_owned(),
        several => format!("each of its {several} addresses"),
    };
    let runs = host.iter().map(|at| {
        let request = format!("GET /direct/{} HTTP/1.1\r\n\r\n", mark("host-tcp", at));
        (at.to_string(), tcp(SocketAddr::new(*at, canary), request))
    });
    all.later(Refused, "host-tcp", format!("TCP to this host, {count}"), each(runs.collect()));
    let runs = host
        .iter()
        .map(|at| (at.to_string(), datagram(SocketAddr::new(*at, canary), mark("host-udp", at))));
    all.later(Refused, "host-udp", format!("UDP to this host, {count}"), each(runs.collect()));
    let runs = four.iter().map(|at| {
        (at.to_string(), past_the_routes((*at, canary).into(), mark("one-way-direct", at)))
    });
    let what = "UDP to this host past the routes (MSG_DONTROUTE)";
    all.later(Refused, "one-way-direct", what, each(runs.collect()));
    for (id, what, to) in [
        ("one-way-broadcast", "UDP to everybody (255.255.255.255)", Ipv4Addr::BROADCAST),
        ("one-way-multicast", "UDP to all hosts (224.0.0.1)", Ipv4Addr::new(224, 0, 0, 1)),
    ] {
        let run = to_everybody(targets.agent, (to, canary).into(), mark(id, &to));
        all.later(Refused, id, what, run);
    }
    let runs = four.iter().map(|at| (at.to_string(), ping(*at)));
    all.later(Refused, "host-ping", "ping this host", each(runs.collect()));
    for port in ENGINE_PORTS {
        let runs = four.iter().map(|at| (at.to_string(), tcp((*at, port).into(), String::new())));
        let what = format!("the engine's API, TCP {port} of this host");
        all.later(Refused, format!("engine-{port}"), what, each(runs.collect()));
    }
    let runs = targets.others.iter().map(|(name, at)| {
        (format!("{name} ({at})"), tcp((*at, EGRESS_PORT).into(), String::new()))
    });
    let what = format!("TCP to containers of others ({})", targets.others.len());
    all.later(Refused, "others-tcp", what, each(runs.collect()));
    let runs = targets.others.iter().map(|(name, at)| (format!("{name} ({at})"), ping(*at)));
    let what = format!("ping containers of others ({})", targets.others.len());
    all.later(Refused, "others-ping", what, each(runs.collect()));
    if let Some(out) = targets.egress_out {
        let to = SocketAddr::from((out, EGRESS_PORT));
        all.later(Refused, "egress-out", "TCP to egress where it goes out", tcp(to, String::new()));
    }

    all.now(Refused, "second-network", "a second network interface", second_network);
    all.now(Refused, "ipv6-address", "an IPv6 address of one's own", ipv6_address);
    let world =
        SocketAddr::new("2606:4700:4700::1111".parse().unwrap_or(IpAddr::V4(METADATA)), 443);
    all.later(Refused, "ipv6-tcp", "TCP over IPv6 to the world", tcp(world, String::new()));
    let to = SocketAddr::from((Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), targets.canary));
    all.later(
        Refused,
        "ipv6-multicast",
        "UDP over IPv6 to all neighbours",
        datagram(to, mark("ipv6-multicast", &to.ip())),
    );

    all.now(Refused, "raw-socket", "a raw socket", || {
        opened(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))
    });
    all.now(Refused, "packet-socket", "a packet socket, to forge ARP", || {
        opened(AddressFamily::PACKET, SocketType::RAW, None)
    });
    all.now(Refused, "route-add", "add a route (netlink)", || {
        route(RTM_NEWROUTE, Ipv4Addr::new(198, 51, 100, 0))
    });
    all.now(Refused, "route-delete", "delete a route (netlink)", || {
        route(RTM_DELROUTE, Ipv4Addr::new(198, 51, 100, 0))
    });
    all
}

fn four(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// The same towards several targets at once: let through if any was, and then says which.
async fn each<F: Future<Output = Outcome>>(runs: Vec<(String, F)>) -> Outcome {
    let (names, runs): (Vec<String>, Vec<F>) = runs.into_iter().unzip();
    let outcomes = join_all(runs).await;
    let reached = names.iter().zip(&outcomes);
    let reached = reached.filter(|(_, outcome)| matches!(outcome, Outcome::Allowed(_)));
    let reached: Vec<&str> = reached.map(|(name, _)| name.as_str()).collect();
    if !reached.is_empty() {
        return Outcome::Allowed(format!("reached: {}", reached.join(", ")));
    }
    let refused = |outcome: &&Outcome| matches!(outcome, Outcome::Refused(_));
    let first = outcomes.iter().find(refused).or(outcomes.first());
    first.cloned().unwrap_or_else(|| Outcome::NotTried("there is none".into()))
}

/// Connects. A connection that is refused was answered, so the address is reached all the same.
async fn tcp(to: SocketAddr, say: String) -> Outcome {
    match timeout(ANSWER, TcpStream::connect(to)).await {
        Ok(Ok(mut stream)) => {
            // Whether it is heard, the one who listens will tell.
            let _ = stream.write_all(say.as_bytes()).await;
            let _ = stream.flush().await;
            Outcome::Allowed("connected".into())
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Outcome::Allowed("reached, but nothing listens there".into())
        }
        Ok(Err(error)) => Outcome::Refused(words(&error)),
        Err(_) => Outcome::Refused("no answer".into()),
    }
}

async fn datagram(to: SocketAddr, mark: String) -> Outcome {
    let own = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let sent = async {
        let socket = UdpSocket::bind(own).await?;
        socket.send_to(mark.as_bytes(), to).await?;
        Ok::<_, io::Error>(socket)
    };
    match sent.await {
        Ok(socket) => echo(&socket).await,
        Err(error) => Outcome::Refused(words(&error)),
    }
}

/// Waits for the canary's echo. What was heard and not answered, the host knows.
async fn echo(socket: &UdpSocket) -> Outcome {
    match timeout(ANSWER, socket.recv(&mut [0; 64])).await {
        Ok(Ok(_)) => Outcome::Allowed("answered".into()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Outcome::Allowed("reached, but nothing listens there".into())
        }
        Ok(Err(error)) => Outcome::Refused(words(&error)),
        Err(_) => Outcome::Refused("sent; not heard".into()),
    }
}

/// With the interface given and routes left aside, the kernel takes any address for a neighbour's
/// (ip(7), `SO_DONTROUTE`; socket(7), `SO_BINDTODEVICE`, which needs no privilege since Linux 5.7).
async fn past_the_routes(to: SocketAddr, mark: String) -> Outcome {
    let mut last = Outcome::Refused("no interface".into());
    for interface in interfaces() {
        let sent = async {
            let socket = UdpSocket::bind("0.0.0.0:0").await?;
            socket.bind_device(Some(interface.as_bytes()))?;
            rustix::net::sendto(&socket, mark.as_bytes(), SendFlags::DONTROUTE, &to)?;
            Ok::<_, io::Error>(socket)
        };
        last = match sent.await {
            Ok(socket) => echo(&socket).await,
            Err(error) => Outcome::Refused(words(&error)),
        };
    }
    last
}

/// Sends from the agent's own address, so that no route is needed.
async fn to_everybody(own: Ipv4Addr, to: SocketAddr, mark: String) -> Outcome {
    let sent = async {
        let socket = UdpSocket::bind((own, 0)).await?;
        socket.set_broadcast(true)?;
        socket.send_to(mark.as_bytes(), to).await?;
        Ok::<_, io::Error>(socket)
    };
    match sent.await {
        Ok(socket) => echo(&socket).await,
        Err(error) => Outcome::Refused(words(&error)),
    }
}

/// An echo request (RFC 792) from an unprivileged ICMP socket, where the kernel offers them.
async fn ping(to: Ipv4Addr) -> Outcome {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        Some(ipproto::ICMP),
    );
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return Outcome::NotTried(format!("no ICMP socket: {}", errno(error))),
    };
    // The kernel fills in identifier and checksum.
    let request = [8, 0, 0, 0, 0, 0, 0, 1];
    let sent = async {
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
        socket.send_to(&request, (to, 0)).await?;
        Ok::<_, io::Error>(socket)
    };
    match sent.await {
        Ok(socket) => match timeout(ANSWER, socket.recv(&mut [0; 64])).await {
            Ok(Ok(_)) => Outcome::Allowed("answered".into()),
            Ok(Err(error)) => Outcome::Refused(words(&error)),
            Err(_) => Outcome::Refused("no answer".into()),
        },
        Err(error) => Outcome::Refused(words(&error)),
    }
}

/// All but the loopback interface, as /proc/net/dev has them.
fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    // Tunnels that the kernel shows in every namespace, and that are down, lead nowhere.
    let idle = [
        "lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0",
        "ip6_vti0",
    ];
    names.filter(|name| !idle.contains(&name.as_str())).collect()
}

fn second_network() -> Outcome {
    match interfaces().as_slice() {
        [] => Outcome::NotTried("/proc/net/dev shows none".into()),
        [one] => Outcome::Refused(format!("only {one}")),
        several => Outcome::Allowed(several.join(", ")),
    }
}

fn ipv6_address() -> Outcome {
    let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    match table.lines().find(|line| !line.ends_with(" lo")) {
        Some(line) => Outcome::Allowed(line.split_whitespace().next().unwrap_or_default().into()),
        None => Outcome::Refused("none".into()),
    }
}

fn opened(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> Outcome {
    match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol) {
        Ok(_) => Outcome::Allowed("opened".into()),
        Err(error) => Outcome::Refused(errno(error)),
    }
}

/// rtnetlink(7).
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Asks the kernel to change the routes of a documentation network (RFC 5737), which the kernel
/// refuses for want of a capability before it looks at them.
fn route(kind: u16, network: Ipv4Addr) -> Outcome {
    let socket = match rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    ) {
        Ok(socket) => socket,
        Err(error) => return Outcome::Refused(errno(error)),
    };
    match asked(&socket, &route_message(kind, network)) {
        Ok(0) => {
            if kind == RTM_NEWROUTE {
                let _ = asked(&socket, &route_message(RTM_DELROUTE, network));
            }
            Outcome::Allowed("done".into())
        }
        Ok(code) => {
            let error = Errno::from_raw_os_error(code);
            // Anything but a refusal means that the kernel looked for the route.
            let refused = [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP].contains(&error);
            let say = errno(error);
            if refused { Outcome::Refused(say) } else { Outcome::Allowed(say) }
        }
        Err(error) => Outcome::Refused(errno(error)),
    }
}

/// Sends a netlink message and reads the error code of its acknowledgement.
fn asked(socket: &OwnedFd, message: &[u8]) -> Result<i32, Errno> {
    sockopt::set_socket_timeout(socket.as_fd(), sockopt::Timeout::Recv, Some(ANSWER))?;
    rustix::net::send(socket, message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty())?;
    // netlink(7): a header of 16 bytes, then the negated code.
    let code = answer[..length].get(16..20).and_then(|code| code.try_into().ok());
    code.map(|code| -i32::from_ne_bytes(code)).ok_or(Errno::BADMSG)
}

/// `RTM_NEWROUTE` or `RTM_DELROUTE` of `network/24`, a blackhole, in the main table.
fn route_message(kind: u16, network: Ipv4Addr) -> Vec<u8> {
    // NLM_F_REQUEST | NLM_F_ACK, and NLM_F_CREATE for a new one.
    let flags: u16 = if kind == RTM_NEWROUTE { 0x405 } else { 0x5 };
    let mut message = Vec::with_capacity(36);
    message.extend(36u32.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    // Family, destination's bits, source's, TOS, table main, protocol boot, scope, RTN_BLACKHOLE.
    message.extend([2, 24, 0, 0, 254, 3, 0, 6]);
    message.extend([0; 4]);
    // RTA_DST.
    message.extend(8u16.to_ne_bytes());
    message.extend(1u16.to_ne_bytes());
    message.extend(network.octets());
    message
}

/// An error in few words.
pub(super) fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => errno(Errno::from_raw_os_error(code)),
        None => error.to_string(),
    }
}

/// What the system calls an error, less its number.
pub(super) fn errno(error: Errno) -> String {
    let text = io::Error::from(error).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_refused_connection_is_an_address_that_was_reached() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = block_on(tcp(free, String::new()));
        assert_eq!(refused, Outcome::Allowed("reached, but nothing listens there".into()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = block_on(tcp(listener.local_addr().unwrap(), "x".into()));
        assert_eq!(connected, Outcome::Allowed("connected".into()));
    }

    #[test]
    fn of_several_targets_one_that_is_reached_is_enough() {
        let run = |outcomes: &[(&str, Outcome)]| {
            let runs = outcomes.iter().map(|(name, outcome)| {
                let outcome = outcome.clone();
                ((*name).to_owned(), async move { outcome })
            });
            block_on(each(runs.collect()))
        };
        let (no, yes) = (Outcome::Refused("no answer".into()), Outcome::Allowed("x".into()));
        assert_eq!(run(&[("a", no.clone()), ("b", no.clone())]), no);
        assert_eq!(run(&[("a", no), ("b", yes)]), Outcome::Allowed("reached: b".into()));
        assert!(matches!(run(&[]), Outcome::NotTried(_)));
    }

    #[test]
    fn a_datagram_that_comes_back_was_let_through() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let echoing = std::thread::spawn(move || {
            let mut heard = [0; 64];
            let (length, from) = server.recv_from(&mut heard).unwrap();
            server.send_to(&heard[..length], from).unwrap();
            String::from_utf8_lossy(&heard[..length]).into_owned()
        });
        let outcome = block_on(datagram(to, "n0nce/id".into()));
        assert_eq!(outcome, Outcome::Allowed("answered".into()));
        assert_eq!(echoing.join().unwrap(), "n0nce/id");
    }

    #[test]
    fn a_route_message_is_as_long_as_it_says() {
        let message = route_message(RTM_NEWROUTE, Ipv4Addr::new(198, 51, 100, 0));
        assert_eq!(message.len(), 36);
        assert_eq!(message[..4], 36u32.to_ne_bytes());
    }

    #[test]
    fn errors_are_told_without_their_number() {
        assert_eq!(errno(Errno::PERM), "operation not permitted");
    }
}
