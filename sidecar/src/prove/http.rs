//! A client of a proxy that sends exactly what it is told, however wrong, and reads what comes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Outcome;
use super::network::words;

/// The most of an answer that is read.
const LARGEST: usize = 64 << 10;
/// How long an answer is waited for; what came by then counts.
const ANSWER: Duration = Duration::from_millis(1500);

/// What a proxy sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// These bytes.
    Bytes(Vec<u8>),
    /// It closed the connection, or said nothing.
    Nothing,
    /// It was not reached.
    Unreached(String),
}

impl Reply {
    /// The status code, if it is an HTTP answer.
    pub(super) fn status(&self) -> Option<u16> {
        let Self::Bytes(bytes) = self else { return None };
        let line = bytes.split(|&b| b == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|version| version.starts_with("HTTP/"))?;
        words.next()?.parse().ok()
    }

    /// Everything that came, as text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Nothing | Self::Unreached(_) => String::new(),
        }
    }

    /// Whether the request was let through. Where it was and the server did not answer, the proxy
    /// says so with a code from 500 on: it tried, which is what must not be.
    pub(super) fn judged(&self, answer: &str) -> Outcome {
        match (self, self.status()) {
            (Self::Unreached(why), _) => Outcome::Refused(why.clone()),
            (Self::Nothing, _) => Outcome::Refused("closed without an answer".into()),
            _ if self.text().contains(answer) => Outcome::Allowed("the canary answered".into()),
            (_, Some(code @ 400..=499)) => Outcome::Refused(format!("{code}")),
            (_, Some(code @ 500..)) => Outcome::Allowed(format!("{code}: let through")),
            (_, Some(code)) => Outcome::Allowed(format!("{code}")),
            (_, None) => Outcome::Refused("an answer that is no HTTP".into()),
        }
    }
}

/// Sends these bytes on a connection of their own, and after a tunnel was opened also `then`.
pub(super) async fn send(to: SocketAddr, bytes: Vec<u8>, then: Option<Vec<u8>>) -> Reply {
    let mut stream = match timeout(ANSWER, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Reply::Unreached(words(&error)),
        Err(_) => return Reply::Unreached("no answer".into()),
    };
    let mut got = Vec::new();
    let talk = async {
        // A proxy that closes early leaves its answer behind; it is read all the same.
        let _ = stream.write_all(&bytes).await;
        read(&mut stream, &mut got).await;
        let opened = Reply::Bytes(got.clone()).status() == Some(200);
        if let (true, Some(then)) = (opened, &then) {
            got.clear();
            let _ = stream.write_all(then).await;
            read(&mut stream, &mut got).await;
        }
    };
    let _ = timeout(ANSWER, talk).await;
    if got.is_empty() { Reply::Nothing } else { Reply::Bytes(got) }
}

/// Reads until the answer is whole, the connection ends, or there is too much.
async fn read(stream: &mut TcpStream, got: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    while got.len() < LARGEST && !is_whole(got) {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => got.extend_from_slice(&piece[..length]),
        }
    }
}

/// Whether an answer has its head and as many bytes as that names; one that names none is awaited
/// to its end, except where a tunnel begins.
fn is_whole(got: &[u8]) -> bool {
    let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    match length.and_then(|length| length.trim().parse::<usize>().ok()) {
        Some(length) => got.len() >= end + 4 + length,
        None => head.contains(" 200") && !head.contains("transfer-encoding:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Outcome {
        Reply::Bytes(text.into()).judged("the-canary")
    }

    #[test]
    fn a_refusal_is_a_400_a_403_or_a_closed_connection() {
        assert_eq!(judged("HTTP/1.1 403 Forbidden\r\n\r\n"), Outcome::Refused("403".into()));
        assert_eq!(judged("HTTP/1.1 400 Bad Request\r\n\r\n"), Outcome::Refused("400".into()));
        let closed = Reply::Nothing.judged("the-canary");
        assert_eq!(closed, Outcome::Refused("closed without an answer".into()));
    }

    #[test]
    fn an_answer_of_the_canary_is_no_refusal_whatever_its_code() {
        let through = Outcome::Allowed("the canary answered".into());
        assert_eq!(judged("HTTP/1.1 403 Forbidden\r\n\r\nthe-canary"), through);
        assert_eq!(judged("HTTP/1.1 200 OK\r\n\r\nthe-canary"), through);
    }

    #[test]
    fn a_proxy_that_could_not_reach_a_server_had_let_the_request_through() {
        let through = judged("HTTP/1.1 502 Bad Gateway\r\n\r\n");
        assert_eq!(through, Outcome::Allowed("502: let through".into()));
    }

    #[test]
    fn an_answer_is_read_to_its_length_and_no_longer() {
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx"));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxy"));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\n\r\n"), "a tunnel");
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }
}
