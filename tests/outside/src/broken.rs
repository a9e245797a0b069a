//! A web server that breaks off, stalls, or answers what no server should.
//!
//! What the path ends in chooses how; any other path is answered with [`SAID`](crate::SAID).
//!
//! | path | what happens |
//! |---|---|
//! | `/hang` | nothing, for as long as the client waits |
//! | `/close` | closed without an answer |
//! | `/half-head` | half a status line and headers, then closed |
//! | `/half-body` | half of the promised body, then closed |
//! | `/reset-body` | half of the promised body, then reset |
//! | `/endless-head` | a head that does not end |
//! | `/garbage` | no HTTP |
//! | `/both-lengths` | a length and chunks, and a second answer inside |
//! | `/two-lengths` | two lengths that differ |
//! | `/bad-chunk` | a chunk whose size is no number |
//! | `/split-header` | a bare LF and a second header in a value |
//! | `/early` | a refusal before the body was read, then closed |

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::SAID;

/// A running server; it serves until the process ends.
#[derive(Debug)]
pub struct Broken {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Broken {
    /// Serves plain HTTP.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn plain(at: impl Into<SocketAddr>) -> Self {
        Self::serve(at.into(), None)
    }

    /// Serves over TLS.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn tls(at: impl Into<SocketAddr>, config: Arc<ServerConfig>) -> Self {
        Self::serve(at.into(), Some(config))
    }

    fn serve(at: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(at).expect("the address is free");
        let address = listener.local_addr().expect("bound");
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, count) = (tls.clone(), Arc::clone(&count));
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    // That it breaks is what it is for.
                    let _ = connection(stream, tls);
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, open }
    }

    /// How many connections it has.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn connection(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = stream.try_clone()?;
    match tls {
        None => answer(stream, &socket),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            answer(StreamOwned::new(connection, stream), &socket)
        }
    }
}

fn answer(mut stream: impl Read + Write, socket: &TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{SAID}", SAID.len());
    let last = path.rsplit('/').next().unwrap_or_default();
    let bytes = match last {
        "hang" => {
            // Until the client goes.
            while stream.read(&mut byte)? != 0 {}
            return Ok(());
        }
        "close" => String::new(),
        "half-head" => "HTTP/1.1 200 OK\r\ncontent-len".into(),
        "half-body" | "reset-body" => {
            format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{SAID}")
        }
        "endless-head" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            loop {
                stream.write_all(format!("x-more: {}\r\n", "a".repeat(4096)).as_bytes())?;
            }
        }
        "garbage" => "\0\x01\x02 this is no HTTP\r\n\r\n".into(),
        "both-lengths" => format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{whole}"
        ),
        "two-lengths" => {
            format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 15\r\n\r\n{SAID}")
        }
        "bad-chunk" => {
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\n{SAID}")
        }
        "split-header" => format!(
            "HTTP/1.1 200 OK\r\nx-a: b\nset-cookie: c=d\r\ncontent-length: {}\r\n\r\n{SAID}",
            SAID.len()
        ),
        "early" => "HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge".into(),
        _ => whole,
    };
    stream.write_all(bytes.as_bytes())?;
    stream.flush()?;
    if last == "reset-body" {
        // With this option a connection is reset and not ended.
        rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    }
    Ok(())
}
