//! A proxy that stands between egress and the world, as pipelock or an organisation's own does: it
//! carries what it is asked for to where the test says, and remembers each head.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A running proxy; it serves until the process ends.
#[derive(Debug)]
pub struct Hop {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

/// Where each `host:port` leads.
type Names = Arc<BTreeMap<String, SocketAddr>>;

impl Hop {
    /// Carries requests for these names, as `host:port`, and refuses all others with a 403.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn serve(at: impl Into<SocketAddr>, names: &[(&str, SocketAddr)]) -> Self {
        let listener = TcpListener::bind(at.into()).expect("the address is free");
        let address = listener.local_addr().expect("bound");
        let names: Names = Arc::new(names.iter().map(|(n, to)| ((*n).to_owned(), *to)).collect());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (names, heads) = (Arc::clone(&names), Arc::clone(&shared));
                // How a connection ends is its two ends' affair.
                thread::spawn(move || drop(carry(stream, &names, &heads)));
            }
        });
        Self { address, heads }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests so far.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn carry(mut client: TcpStream, names: &Names, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (name, path) = match target.strip_prefix("http://") {
        None => (target.to_owned(), None),
        Some(rest) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let port = if authority.contains(':') { "" } else { ":80" };
            (format!("{authority}{port}"), Some(format!("/{path}")))
        }
    };
    let Some(to) = names.get(&name) else {
        let text = "the hop knows no such name";
        let length = text.len();
        return write!(
            client,
            "HTTP/1.1 403 Forbidden\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
        );
    };
    let mut server = TcpStream::connect(to)?;
    server.set_nodelay(true)?;
    match path {
        None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        Some(path) => {
            let rest = head.split_once("\r\n").map_or("", |(_, rest)| rest);
            let rest = rest.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
            write!(server, "{method} {path} HTTP/1.1\r\n{rest}")?;
        }
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}
