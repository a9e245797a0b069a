//! ssh's way to an upstream: CONNECT through egress (RFC 9110, section 9.3.6), which decides where
//! it leads to. `git-connect EGRESS HOST PORT TROUBLE`, bytes
//! on standard input and output; why it did not come about is written to the file TROUBLE.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// How long egress may take to reach upstream.
const PATIENCE: Duration = Duration::from_secs(20);
/// No answer's head is longer.
const LONGEST_HEAD: usize = 8 << 10;
/// As much of a refusal is told.
const LONGEST_REASON: u64 = 2 << 10;

pub(super) fn run(words: &[OsString]) -> io::Result<u8> {
    let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let Some([egress, host, port, trouble]) = words.as_deref() else {
        return Err(io::Error::other("expected egress, a host, a port and a file"));
    };
    match open(egress, host, port) {
        Ok(stream) => carry(stream).map(|()| 0),
        Err(error) => {
            std::fs::write(trouble, error.to_string())?;
            Err(error)
        }
    }
}

fn open(egress: &str, host: &str, port: &str) -> io::Result<TcpStream> {
    let egress: SocketAddr = egress.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&egress, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n")?;
    // So that a refusal ends.
    stream.write_all(b"Connection: close\r\n\r\n")?;
    let head = head(&mut stream)?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        let mut reason = String::new();
        // Whatever can be read of it.
        let _ = stream.take(LONGEST_REASON).read_to_string(&mut reason);
        let why = reason.lines().find_map(|line| line.strip_prefix("why:"));
        let reason = why.or(reason.lines().next()).unwrap_or(status).trim();
        return Err(io::Error::other(format!("egress does not lead to {host}:{port}: {reason}")));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

fn carry(mut stream: TcpStream) -> io::Result<()> {
    let mut outgoing = stream.try_clone()?;
    // It ends with the process where ssh leaves its end open.
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut outgoing);
        let _ = outgoing.shutdown(Shutdown::Write);
    });
    copy_out(&mut stream)
}

/// Byte by byte: what follows the head is upstream's.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD || stream.read(&mut byte)? == 0 {
            return Err(io::Error::other("egress answers with something else than HTTP"));
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Standard output is line-buffered text to Rust; ssh wants each byte now.
fn copy_out(stream: &mut TcpStream) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut piece = vec![0; 64 << 10];
    loop {
        let n = match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        out.write_all(&piece[..n])?;
        out.flush()?;
    }
}
