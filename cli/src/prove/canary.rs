//! The canary: a server on every address of this host that remembers who got through to it.
//!
//! It answers TCP as HTTP and UDP with the datagram itself. What attempt a request was part of is in
//! its target, `…/NONCE/ID`. It reads requests strictly: where two readers could disagree on where
//! one ends, all that it was sent counts as heard.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

/// How long a client may be silent.
const SILENCE: Duration = Duration::from_secs(2);
/// The most bytes of one connection.
const LARGEST: usize = 64 << 10;
/// Connections at once: this server is open to this host's neighbours, too.
const CONNECTIONS: usize = 256;
/// The most ids that are remembered, and the longest.
const MOST: usize = 1024;
const LONGEST: usize = 120;
/// Ports that are tried until one is free for both TCP and UDP.
const TRIES: u32 = 16;

/// A canary that sits and listens until the program ends.
#[derive(Debug)]
pub struct Canary {
    /// Its port, for TCP and UDP.
    pub port: u16,
    /// The word its visitors carry.
    pub nonce: String,
    heard: Arc<Mutex<BTreeSet<String>>>,
}

impl Canary {
    /// Begins to listen.
    pub fn start(nonce: String) -> io::Result<Self> {
        let Listeners { tcp, udp } = Listeners::open()?;
        let port = tcp.first().map_or(Ok(0), |tcp| tcp.local_addr().map(|at| at.port()))?;
        let heard = Arc::new(Mutex::new(BTreeSet::new()));
        let ears = Ears { nonce: nonce.clone(), heard: Arc::clone(&heard) };
        for tcp in tcp {
            let ears = ears.clone();
            thread::spawn(move || serve_tcp(&tcp, &ears));
        }
        for udp in udp {
            let ears = ears.clone();
            thread::spawn(move || serve_udp(&udp, &ears));
        }
        Ok(Self { port, nonce, heard })
    }

    /// What the canary answers.
    #[must_use]
    pub fn answer(&self) -> String {
        answer(&self.nonce)
    }

    /// What was heard so far: the id of an attempt, and its target where it has several.
    #[must_use]
    pub fn heard(&self) -> BTreeSet<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is heard and answers at an address of this host, by TCP and by UDP.
    #[must_use]
    pub fn answers_at(&self, address: IpAddr) -> (bool, bool) {
        let to = SocketAddr::new(address, self.port);
        let tcp = || {
            let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
            stream.set_read_timeout(Some(SILENCE))?;
            write!(stream, "GET /twin HTTP/1.1\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.take(LARGEST as u64).read_to_string(&mut text)?;
            io::Result::Ok(text.contains(&self.answer()))
        };
        let udp = || {
            let own: SocketAddr = match address {
                IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(own)?;
            socket.set_read_timeout(Some(SILENCE))?;
            socket.send_to(b"twin", to)?;
            let mut echo = [0; 8];
            let (length, _) = socket.recv_from(&mut echo)?;
            io::Result::Ok(&echo[..length] == b"twin")
        };
        (tcp().unwrap_or(false), udp().unwrap_or(false))
    }
}

fn answer(nonce: &str) -> String {
    format!("canary-{nonce}-sings")
}

/// One port for TCP and UDP, on every address. IPv4 has sockets of its own: one of IPv6 that takes
/// both in does not hear what is sent to a group.
struct Listeners {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Listeners {
    fn open() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let port = tcp.local_addr()?.port();
            match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
                Ok(udp) => {
                    let mut all = Self { tcp: vec![tcp], udp: vec![udp] };
                    // A host without IPv6 is reached by IPv4 alone.
                    if let Ok((tcp, udp)) = six(port) {
                        all.tcp.push(tcp);
                        all.udp.push(udp);
                    }
                    return Ok(all);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// IPv6's own sockets on a port.
fn six(port: u16) -> io::Result<(TcpListener, UdpSocket)> {
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let bound = |kind| {
        let socket = net::socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC, None)?;
        net::sockopt::set_ipv6_v6only(&socket, true)?;
        net::bind(&socket, &any)?;
        Ok::<OwnedFd, io::Error>(socket)
    };
    let tcp = bound(SocketType::STREAM)?;
    net::listen(&tcp, 128)?;
    Ok((tcp.into(), bound(SocketType::DGRAM)?.into()))
}

#[derive(Debug, Clone)]
struct Ears {
    nonce: String,
    heard: Arc<Mutex<BTreeSet<String>>>,
}

impl Ears {
    fn hear(&self, text: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids(text, &self.nonce) {
            if heard.len() < MOST {
                heard.insert(id);
            }
        }
    }
}

/// Every id that a text carries: what follows `NONCE/`, up to what is no part of one.
fn ids<'a>(text: &'a str, nonce: &str) -> impl Iterator<Item = String> + 'a {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:/".contains(c);
    let after = text.split(&format!("{nonce}/")).skip(1).collect::<Vec<_>>();
    after.into_iter().filter_map(move |rest| {
        let id: String = rest.chars().take_while(|c| part(*c)).take(LONGEST).collect();
        (!id.is_empty()).then_some(id)
    })
}

fn serve_udp(socket: &UdpSocket, ears: &Ears) {
    let mut datagram = [0; 512];
    // A datagram that cannot be read is one that was not heard; there will be others.
    loop {
        let Ok((length, from)) = socket.recv_from(&mut datagram) else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        ears.hear(&String::from_utf8_lossy(&datagram[..length]));
        // No more comes back than came in, so that nobody can use it to flood a third party.
        let _ = socket.send_to(&datagram[..length], from);
    }
}

fn serve_tcp(listener: &TcpListener, ears: &Ears) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (ears, open) = (ears.clone(), Arc::clone(&open));
        thread::spawn(move || {
            // How a connection broke is the client's affair.
            let _ = converse(stream, &ears);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn converse(mut stream: TcpStream, ears: &Ears) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut got = Vec::new();
    let mut total = 0;
    let mut piece = [0; 4096];
    loop {
        match take_request(&got) {
            Taken::More => {}
            Taken::Request { head, length } => {
                ears.hear(head.lines().next().unwrap_or_default());
                got.drain(..length);
                let body = answer(&ears.nonce);
                let close = head.to_ascii_lowercase().contains("connection: close");
                let keep = if close { "close" } else { "keep-alive" };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
                write!(stream, "{head}Connection: {keep}\r\n\r\n{body}")?;
                if close && got.is_empty() {
                    return Ok(());
                }
                continue;
            }
            Taken::Unclear => {
                ears.hear(&String::from_utf8_lossy(&got));
                return write!(stream, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            }
        }
        match stream.read(&mut piece) {
            Ok(length) if length > 0 && total < LARGEST => {
                total += length;
                got.extend_from_slice(&piece[..length]);
            }
            ended => {
                // What was begun and not finished was sent all the same.
                ears.hear(&String::from_utf8_lossy(&got));
                return ended.map(|_| ());
            }
        }
    }
}

/// The first request of what was received.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// It is not whole yet.
    More,
    /// Its head, and how many bytes it has with its body.
    Request { head: String, length: usize },
    /// Readers could disagree on where it ends.
    Unclear,
}

fn take_request(got: &[u8]) -> Taken {
    let text = String::from_utf8_lossy(got);
    let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if text.contains("\n\n") { Taken::Unclear } else { Taken::More };
    };
    let head = String::from_utf8_lossy(&got[..end]).into_owned();
    let lines: Vec<&str> = head.split("\r\n").collect();
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for line in lines.iter().skip(1) {
        let Some((name, value)) = line.split_once(':') else { return Taken::Unclear };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(plain) || line.contains(['\n', '\r', '\0']) {
            return Taken::Unclear;
        }
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("content-length") {
            lengths.push(value);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            codings.push(value);
        }
    }
    let body = end + 4;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let length = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Some(body),
        ([one], []) if digits(one) => one.parse::<usize>().ok().and_then(|n| body.checked_add(n)),
        ([], [one]) if one.eq_ignore_ascii_case("chunked") => {
            // Only an empty body is understood: no attempt needs another.
            return match got.get(body..body + 5) {
                Some(b"0\r\n\r\n") => Taken::Request { head, length: body + 5 },
                Some(_) => Taken::Unclear,
                None => Taken::More,
            };
        }
        _ => None,
    };
    match length {
        Some(length) if length <= got.len() => Taken::Request { head, length },
        Some(length) if length <= LARGEST => Taken::More,
        _ => Taken::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_answers_and_remembers_whom_it_heard() {
        let canary = Canary::start("n0nce".into()).unwrap();
        assert_eq!(canary.answers_at(Ipv4Addr::LOCALHOST.into()), (true, true));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"n0nce/host-udp/127.0.0.1", ("127.0.0.1", canary.port)).unwrap();
        socket.recv_from(&mut [0; 64]).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", canary.port)).unwrap();
        write!(stream, "GET /open/n0nce/granted HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with(&canary.answer()), "{text}");
        let expected = ["granted", "host-udp/127.0.0.1"].map(str::to_owned);
        assert_eq!(canary.heard(), expected.into());
    }

    #[test]
    fn ids_end_where_a_path_does() {
        let found = |text| ids(text, "n").collect::<Vec<_>>();
        assert_eq!(found("GET /open/n/path-dots HTTP/1.1"), ["path-dots"]);
        assert_eq!(found("n/a n/b/1.2.3.4 other/c n/"), ["a", "b/1.2.3.4"]);
    }

    #[test]
    fn a_request_that_two_readers_see_differently_is_unclear() {
        let head = "GET /open/n/outer HTTP/1.1\r\n";
        let whole = |rest: &str| {
            let text = format!("{head}{rest}");
            let taken = take_request(text.as_bytes());
            matches!(taken, Taken::Request { length, .. } if length == text.len())
        };
        assert!(whole("\r\n"));
        assert!(whole("Content-Length: 2\r\n\r\nab"));
        assert!(whole("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"));
        for unclear in [
            "Content-Length: 0\r\nContent-Length: 2\r\n\r\n",
            "Content-Length: 0, 2\r\n\r\n",
            "Content-Length: +0\r\n\r\n",
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding : chunked\r\n\r\n",
            "Transfer-Encoding: chunked, identity\r\n\r\n",
            "X: y\n\n",
            "X: y\r\n z\r\n\r\n",
        ] {
            let text = format!("{head}{unclear}");
            assert_eq!(take_request(text.as_bytes()), Taken::Unclear, "{unclear:?}");
        }
        assert_eq!(take_request(b"GET / HTTP/1.1\r\n"), Taken::More);
        assert_eq!(take_request(b"GET / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"), Taken::More);
    }
}
