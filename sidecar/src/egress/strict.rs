//! A reader that lets HTTP/1 through only where it can be read in one way.
//!
//! Request smuggling lives on two parsers that disagree about where a request ends. This reader
//! stands before hyper's parser, follows the same framing on its own, and takes only the strictest
//! form of it (RFC 9112): one length or one `chunked`, CRLF at every line's end, no space before a
//! colon, no folded line, no chunk extension. Whatever else arrives ends the connection with a 400
//! that says why; none of the offending bytes reach the parser.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of a request line and its headers, or of trailers.
pub(super) const LARGEST_HEAD: usize = 64 << 10;
/// The most headers: as many as hyper takes.
const MOST_FIELDS: usize = 100;

/// Why a connection was ended; empty while it was not.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<OnceLock<&'static str>>);

impl Fault {
    /// What was wrong, if anything.
    pub(super) fn get(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// The reader.
#[derive(Debug)]
pub(super) struct Strict<S> {
    inner: S,
    framing: Framing,
    fault: Fault,
    /// The answer to a faulty request, and how much of it is written.
    answer: Option<(Vec<u8>, usize)>,
}

impl<S> Strict<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, framing: Framing::default(), fault: Fault::default(), answer: None }
    }

    /// Where a fault will be told.
    pub(super) fn fault(&self) -> Fault {
        self.fault.clone()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.answer.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
            let Err(why) = this.framing.take(&buffer.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            buffer.set_filled(before);
            // Only the first fault is told, and there is no second: nothing is read after it.
            let _ = this.fault.0.set(why);
            this.answer = Some((answer(why), 0));
        }
        // The client is told before hyper sees an end; one that does not read is not waited for.
        if let Some((text, written)) = &mut this.answer {
            while *written < text.len() {
                let piece = &text[*written..];
                match ready!(Pin::new(&mut this.inner).poll_write(context, piece)) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => *written += n,
                }
            }
            let _ = ready!(Pin::new(&mut this.inner).poll_flush(context));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

fn answer(why: &str) -> Vec<u8> {
    let text = format!("bottle refused this request.\nrule: framing\nwhy:  {why}\n");
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

/// Where in the stream of requests the next byte lies.
#[derive(Debug, Default)]
struct Framing {
    state: State,
    /// The part of a head, chunk size or trailer that earlier pieces brought.
    kept: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// This many bytes of a body follow.
    Length(u64),
    ChunkSize,
    /// This many bytes of a chunk and the line end after it follow.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Another protocol: nothing is looked at.
    Raw,
}

type Checked<T> = Result<T, &'static str>;

impl Framing {
    fn take(&mut self, mut piece: &[u8]) -> Checked<()> {
        while !piece.is_empty() {
            piece = match self.state {
                State::Raw => return Ok(()),
                State::Length(left) | State::Chunk(left) => {
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    let left = left - n as u64;
                    self.state = match (self.state, left) {
                        (State::Length(_), 0) => State::Head,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::ChunkEnd,
                        (_, left) => State::Chunk(left),
                    };
                    &piece[n..]
                }
                State::Head => match self.until_blank_line(piece)? {
                    None => return Ok(()),
                    Some((rest, head)) => {
                        self.state = next(&head.0)?;
                        self.kept = head.0;
                        self.kept.clear();
                        rest
                    }
                },
                State::ChunkSize => match self.line(piece, 18)? {
                    None => return Ok(()),
                    Some(rest) => {
                        let size = chunk_size(&self.kept)?;
                        self.kept.clear();
                        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                        rest
                    }
                },
                State::ChunkEnd => match self.line(piece, 2)? {
                    None => return Ok(()),
                    Some(rest) => {
                        if self.kept != b"\r\n" {
                            return Err("a chunk is longer than it says");
                        }
                        self.kept.clear();
                        self.state = State::ChunkSize;
                        rest
                    }
                },
                State::Trailers => match self.line(piece, LARGEST_HEAD)? {
                    None => return Ok(()),
                    Some(rest) => {
                        let blank = self.kept == b"\r\n";
                        if !blank {
                            field(&self.kept[..self.kept.len() - 2])?;
                        }
                        self.kept.clear();
                        if blank {
                            self.state = State::Head;
                        }
                        rest
                    }
                },
            };
        }
        Ok(())
    }

    /// Collects a head with its blank line; what follows it, and the head.
    fn until_blank_line<'p>(&mut self, piece: &'p [u8]) -> Checked<Option<(&'p [u8], Head)>> {
        let before = self.kept.len();
        let mut from = 0;
        while let Some(at) = piece[from..].iter().position(|&b| b == b'\n') {
            let end = from + at;
            let previous = |back: usize| {
                let at = (before + end).checked_sub(back)?;
                if at < before { self.kept.get(at) } else { piece.get(at - before) }.copied()
            };
            if previous(1) != Some(b'\r') {
                return Err("a line ends in a bare LF");
            }
            let blank = previous(2) == Some(b'\n') || before + end == 1;
            from = end + 1;
            if blank {
                let mut head = std::mem::take(&mut self.kept);
                head.extend_from_slice(&piece[..from]);
                if head.len() > LARGEST_HEAD {
                    return Err("the head is larger than 64 KiB");
                }
                return Ok(Some((&piece[from..], Head(head))));
            }
        }
        self.kept.extend_from_slice(piece);
        if self.kept.len() > LARGEST_HEAD {
            return Err("the head is larger than 64 KiB");
        }
        Ok(None)
    }

    /// Collects one line with its CRLF into `kept`; what follows it.
    fn line<'p>(&mut self, piece: &'p [u8], longest: usize) -> Checked<Option<&'p [u8]>> {
        let end = piece.iter().position(|&b| b == b'\n').map(|at| at + 1);
        let part = &piece[..end.unwrap_or(piece.len())];
        if self.kept.len() + part.len() > longest {
            return Err("a chunk's size line or a trailer is too long");
        }
        self.kept.extend_from_slice(part);
        if end.is_none() {
            return Ok(None);
        }
        if !self.kept.ends_with(b"\r\n") {
            return Err("a line ends in a bare LF");
        }
        Ok(Some(&piece[part.len()..]))
    }
}

/// Reads a stream that arrives in pieces, for comparison with other readers of it.
#[cfg(fuzzing)]
pub(super) fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> crate::fuzzing::Reading {
    let (mut framing, mut reading) = (Framing::default(), crate::fuzzing::Reading::default());
    for piece in pieces {
        let before = framing.state;
        if let Err(why) = framing.take(piece) {
            reading.fault = Some(why);
            return reading;
        }
        reading.taken += piece.len();
        let (after, taken) = (framing.state, reading.taken);
        if before == State::Head && (after != State::Head || framing.kept.is_empty()) {
            reading.heads.push(taken);
        }
        if after == State::Head && framing.kept.is_empty() {
            reading.messages.push(taken);
        }
    }
    reading.raw = framing.state == State::Raw;
    reading.left = format!("{:?} {:?}", framing.state, framing.kept);
    reading
}

/// A head with its blank line.
struct Head(Vec<u8>);

/// What follows a head, if it can be read in one way.
fn next(head: &[u8]) -> Checked<State> {
    let mut lines = head[..head.len() - 2].split_inclusive(|&b| b == b'\n').map(|line| {
        // Every line was seen to end in CRLF.
        &line[..line.len() - 2]
    });
    let (method, old) = request_line(lines.next().unwrap_or_default())?;
    let (mut hosts, mut length, mut chunked, mut upgrades) = (0, None, false, false);
    for (n, line) in lines.enumerate() {
        if n == MOST_FIELDS {
            return Err("there are more than 100 headers");
        }
        let (name, value) = field(line)?;
        if is_framing_in_disguise(name) {
            return Err("a header's name is one of framing with a `_` for its `-`");
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("host") {
            hosts += 1;
        } else if is("content-length") {
            if length.is_some() {
                return Err("there are two lengths");
            }
            length = Some(decimal(value)?);
        } else if is("transfer-encoding") {
            if chunked {
                return Err("there are two transfer encodings");
            }
            if old || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("the transfer encoding is another than chunked");
            }
            chunked = true;
        } else if is("upgrade") {
            upgrades |= value.eq_ignore_ascii_case(b"websocket");
        }
    }
    if hosts > 1 || (hosts == 0 && !old) {
        return Err("expected one Host header");
    }
    match (length, chunked) {
        (Some(_), true) => Err("there is a length beside a transfer encoding"),
        (_, false) if method == b"CONNECT" => {
            if length.is_some_and(|n| n > 0) {
                Err("CONNECT with a body")
            } else {
                Ok(State::Raw)
            }
        }
        (_, true) if method == b"CONNECT" => Err("CONNECT with a body"),
        // Answered with an upgrade or with the connection's end.
        (None | Some(0), false) if upgrades && method == b"GET" && !old => Ok(State::Raw),
        _ if upgrades => Err("an upgrade that is no plain GET of HTTP/1.1"),
        (_, true) => Ok(State::ChunkSize),
        (Some(0) | None, false) => Ok(State::Head),
        (Some(n), false) => Ok(State::Length(n)),
    }
}

/// `method SP target SP HTTP/1.x`; the method, and whether the version is 1.0.
fn request_line(line: &[u8]) -> Checked<(&[u8], bool)> {
    let mut parts = line.split(|&b| b == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next())
    else {
        return Err("the request line is not method, target and version");
    };
    if !is_token(method) {
        return Err("the method is not a token");
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("the target has a character that is not printable ASCII");
    }
    if target.contains(&b'#') {
        return Err("the target has a fragment");
    }
    match version {
        b"HTTP/1.1" => Ok((method, false)),
        b"HTTP/1.0" => Ok((method, true)),
        _ => Err("the version is neither HTTP/1.1 nor HTTP/1.0"),
    }
}

/// `name: value` (RFC 9112, section 5), the value without the space around it.
fn field(line: &[u8]) -> Checked<(&[u8], &[u8])> {
    let colon = line.iter().position(|&b| b == b':').ok_or("a header line has no colon")?;
    let (name, value) = (&line[..colon], without_space(&line[colon + 1..]));
    if name.first().is_some_and(u8::is_ascii_whitespace) {
        return Err("a header is folded over two lines");
    }
    if !is_token(name) {
        return Err("a header's name is not a token");
    }
    if value.iter().any(|&b| (b < b' ' && b != b'\t') || b == 0x7f) {
        return Err("a header's value has a control character");
    }
    Ok((name, value))
}

/// A value without the space and the tabs around it, which alone are optional (RFC 9110, section 5.6.3):
/// a CR there is none of the line's end.
fn without_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What reads headers as variables takes `_` and `-` for one (RFC 3875, section 4.1.18).
fn is_framing_in_disguise(name: &[u8]) -> bool {
    let framing = ["content-length", "transfer-encoding"];
    name.contains(&b'_')
        && framing.iter().any(|known| {
            known.len() == name.len()
                && known
                    .bytes()
                    .zip(name)
                    .all(|(k, &n)| k == n.to_ascii_lowercase() || (k == b'-' && n == b'_'))
        })
}

fn is_token(text: &[u8]) -> bool {
    let punctuation = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || punctuation.contains(b))
}

fn decimal(value: &[u8]) -> Checked<u64> {
    let digits = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.filter(|_| digits).ok_or("the length is not a plain number")
}

fn chunk_size(line: &[u8]) -> Checked<u64> {
    let digits = &line[..line.len() - 2];
    let hex = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| hex);
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or("a chunk's size is not plain hexadecimal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is wrong with a stream of requests, fed whole.
    fn fault(text: &str) -> Option<&'static str> {
        Framing::default().take(text.as_bytes()).err()
    }

    #[test]
    fn plain_requests_are_read() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET http://a/b?c HTTP/1.1\r\nhost:a\r\nX:  \t y \r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na\nb\
             GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
             2\r\n\n\n\r\n0A\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03\x01 \n anything",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n\n\n",
        ] {
            assert_eq!(fault(text), None, "{text}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let post = |headers: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n") + body;
        for text in [
            post("Content-Length: 3\r\nContent-Length: 3\r\n"),
            post("Content-Length: 3\r\nContent-Length: 4\r\n"),
            post("Content-Length: 3, 3\r\n"),
            post("Content-Length: +3\r\n"),
            post("Content-Length: 0x3\r\n"),
            post("Content-Length:\r\n"),
            post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            post("Transfer-Encoding: chunked, identity\r\n"),
            post("Transfer-Encoding: gzip, chunked\r\n"),
            post("Transfer-Encoding: xchunked\r\n"),
            post("Transfer-Encoding: identity\r\n"),
            post("Transfer-Encoding:\x0bchunked\r\n"),
            post("Transfer-Encoding:\x0cchunked\r\n"),
            post("Transfer-Encoding: chunked\r\r\n"),
            post("Content-Length: 3\r\r\n"),
            post("X: a\r\r\n"),
            post("Transfer-Encoding : chunked\r\n"),
            post("Content-Length : 3\r\n"),
            post("X: a\r\n Transfer-Encoding: chunked\r\n"),
            post("X: a\r\n\tb\r\n"),
            post("X: a\nTransfer-Encoding: chunked\r\n"),
            post("X: a\rTransfer-Encoding: chunked\r\n"),
            post("X: a\0b\r\n"),
            post("X\r\n"),
            post(": a\r\n"),
            post("Host: b\r\n"),
            post("Upgrade: websocket\r\nContent-Length: 3\r\n"),
            post("Upgrade: websocket\r\n"),
            "GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n".into(),
            post("Transfer_Encoding: chunked\r\n"),
            post("content_Length: 3\r\n"),
            post(&"X: a\r\n".repeat(100)),
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            "POST / HTTP/1.1\r\n\r\n".into(),
            "POST / HTTP/1.1\nHost: a\n\n".into(),
            "POST  / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            "POST / HTTP/1.1 \r\nHost: a\r\n\r\n".into(),
            "POST\t/\tHTTP/1.1\r\nHost: a\r\n\r\n".into(),
            "POST /\x7f HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            "POST / HTTP/1.2\r\nHost: a\r\n\r\n".into(),
            "POST /\r\n\r\n".into(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            "\x16\x03\x01\x02\x00\n".into(),
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n".into(),
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            chunked("3;x=y\r\n"),
            chunked("0x3\r\n"),
            chunked(" 3\r\n"),
            chunked("3 \r\n"),
            chunked("-3\r\n"),
            chunked("\r\n"),
            chunked("3\n"),
            chunked("fffffffffffffffff\r\n"),
            chunked("3\r\nabcd\r\n"),
            chunked("3\r\nabc\n"),
            chunked("0\r\nX : 1\r\n\r\n"),
            chunked("0\r\nX: 1\n\r\n"),
            chunked("0\r\n X: 1\r\n\r\n"),
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(LARGEST_HEAD)),
            "a".repeat(LARGEST_HEAD + 1),
        ] {
            let shown: String = text.chars().take(120).collect();
            assert!(fault(&text).is_some(), "{shown:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole_is(
            parts in prop::collection::vec(prop_oneof![
                Just("GET / HTTP/1.1\r\n"), Just("Host: a\r\n"), Just("\r\n"), Just("\n"), Just("\r"),
                Just("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"),
                Just("Transfer-Encoding: chunked\r\n"), Just("2\r\nab\r\n"), Just("0\r\n\r\n"),
                Just("Content-Length: 5\r\n"), Just("X: y\r\n"), Just(" "), Just("ab"),
            ], 0..12),
            sizes in prop::collection::vec(1_usize..9, 1..40),
        ) {
            let text = parts.concat();
            let mut pieces = Framing::default();
            let mut rest = text.as_bytes();
            let mut found = Ok(());
            for size in sizes.iter().cycle() {
                let (piece, more) = rest.split_at((*size).min(rest.len()));
                found = found.and_then(|()| pieces.take(piece));
                rest = more;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(found.is_err(), fault(&text).is_some(), "{:?}", text);
        }
    }
}
