//! WebSocket (RFC 6455): what the agent sends is scanned frame by frame, what comes back is
//! scrubbed. Extensions are not negotiated, so nothing is compressed.

use std::sync::Arc;

use bottle_detector::Scrubber;
use bottle_planner::decision::Code;
use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::body::Answer;
use super::flow::Flow;
use super::proxy::respond;
use super::rules::{Granted, NormalPath, Refusal, Request as Asked, Target};
use super::scan::{Scan, Sieve};
use super::server::Connection;
use super::tunnel::{self, Activity};

/// What is read at once.
const PIECE: usize = 16 << 10;

/// Whether a request asks for a WebSocket.
pub(super) fn is_asked_for(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && is_named_in(request.headers())
}

/// Whether any header names the protocol, whatever else the request is.
pub(super) fn is_named_in(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(header::UPGRADE).iter();
    all.any(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Asks the server for one, too, in place of the headers of the hop before.
pub(super) fn prepare(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
}

/// A WebSocket that was asked for and allowed.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) flow: Arc<Flow>,
    pub(super) target: Target,
    pub(super) granted: Granted,
    pub(super) scan: Option<Scan>,
}

impl Opened {
    /// Passes the server's answer on, and the frames after it.
    pub(super) fn answer(
        self,
        mut response: Response<Incoming>,
        client: Option<OnUpgrade>,
    ) -> Response<Answer> {
        let agreed = response.status() == StatusCode::SWITCHING_PROTOCOLS
            && !response.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
        let (true, Some(client)) = (agreed, client) else {
            // The framing of what follows a refused upgrade was not watched: the connection ends.
            let status = response.status();
            let text = format!("{} opened no WebSocket: {status}\n", self.target);
            let kind = "text/plain; charset=utf-8";
            let status = if status.is_informational() { StatusCode::BAD_GATEWAY } else { status };
            let mut answer = respond(status, kind, text);
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return answer;
        };
        let server = hyper::upgrade::on(&mut response);
        let (mut head, _) = response.into_parts();
        head.extensions.clear();
        self.flow.scrub_headers(&mut head.headers, self.injects());
        tokio::spawn(async move {
            if let (Ok(client), Ok(server)) = (client.await, server.await) {
                self.carry(TokioIo::new(client), TokioIo::new(server)).await;
            }
        });
        Response::from_parts(head, Answer::Own(None))
    }

    fn injects(&self) -> bool {
        self.flow.table.routes()[self.granted.route].injects()
    }

    async fn carry<C, S>(self, client: C, server: S)
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let activity = Activity::new();
        let (from_client, mut to_client) = tokio::io::split(activity.watch(client));
        let (mut from_server, to_server) = tokio::io::split(activity.watch(server));
        let path = self.flow.path.clone().unwrap_or_default();
        let revoked = self.connection.revoked(|table| {
            let path = NormalPath::parse(&path);
            let now = table.decide_request(&Asked {
                target: &self.target,
                method: "GET",
                path: path.as_ref().map_err(|fault| *fault),
                query: None,
                overrides_method: false,
            });
            now.is_ok_and(|now| now.reach == self.granted.reach)
        });
        let scrubber = self.flow.held.scrub().filter(|_| self.injects()).map(|v| v.scrubber());
        let up = forward(from_client, to_server, Frames::new(self.scan.as_ref()), &self.flow);
        let down = back(&mut from_server, &mut to_client, scrubber, &self.flow);
        tokio::select! {
            ended = up => if let Err(Some(refusal)) = ended { self.flow.stop(refusal) },
            () = down => {}
            () = activity.idle_for(tunnel::IDLE) => {}
            () = revoked => {}
        }
        // 1008, a policy was violated; one that is closed already is not told.
        let _ = to_client.write_all(&[0x88, 2, 3, 0xf0]).await;
        let _ = to_client.shutdown().await;
    }
}

/// Carries the agent's frames; ends with a refusal where one must not go on.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frames: Frames,
    flow: &Flow,
) -> Result<(), Option<Refusal>> {
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        piece.clear();
        piece.reserve(PIECE);
        if from.read_buf(&mut piece).await.map_err(|_| None)? == 0 {
            return Ok(());
        }
        flow.sent(piece.len());
        let out = frames.take(&piece).map_err(Some)?;
        to.write_all(&out).await.map_err(|_| None)?;
        to.flush().await.map_err(|_| None)?;
    }
}

async fn back(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut scrubber: Option<Scrubber>,
    flow: &Flow,
) {
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        piece.clear();
        piece.reserve(PIECE);
        match from.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(n) => flow.received(n),
        }
        // As many bytes come out as went in, so frames stay whole.
        let scrubbed = scrubber.as_mut().map(|scrubber| scrubber.feed(&piece));
        let out = scrubbed.as_deref().unwrap_or(&piece);
        if to.write_all(out).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// A reader of the agent's frames, which takes them apart, scans what they carry, and puts them
/// together again.
struct Frames {
    /// Messages, as one stream: a secret may lie across frames. None where nothing is scanned.
    data: Option<Sieve>,
    /// What pings and closes carry.
    control: Option<Sieve>,
    /// Bytes of a header that is not whole yet.
    head: BytesMut,
    /// The frame whose payload comes next.
    frame: Option<Frame>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    control: bool,
    mask: [u8; 4],
    /// How much of the payload is still to come, and how much has.
    left: u64,
    read: u64,
}

impl Frames {
    fn new(scan: Option<&Scan>) -> Self {
        let sieve = || scan.and_then(Scan::sieve);
        Self { data: sieve(), control: sieve(), head: BytesMut::new(), frame: None }
    }

    /// The bytes that go on.
    fn take(&mut self, piece: &[u8]) -> Result<Bytes, Refusal> {
        let mut rest = piece;
        let mut out = BytesMut::with_capacity(piece.len());
        while !rest.is_empty() || self.frame.is_some_and(|frame| frame.left == 0) {
            match &mut self.frame {
                None => {
                    let length = head_length(&self.head).max(2);
                    let n = (length - self.head.len()).min(rest.len());
                    self.head.extend_from_slice(&rest[..n]);
                    rest = &rest[n..];
                    if self.head.len() < 2 || self.head.len() < head_length(&self.head) {
                        continue;
                    }
                    self.frame = Some(parse(&self.head)?);
                    out.extend_from_slice(&self.head);
                    self.head.clear();
                }
                Some(frame) if frame.left == 0 => self.frame = None,
                Some(frame) => {
                    let n = usize::try_from(frame.left).unwrap_or(usize::MAX).min(rest.len());
                    let (part, more) = rest.split_at(n);
                    rest = more;
                    let mut plain = BytesMut::from(part);
                    frame.turn(&mut plain);
                    let sieve = if frame.control { &mut self.control } else { &mut self.data };
                    if let Some(sieve) = sieve {
                        let mut clean = BytesMut::from(&sieve.push(&plain)?[..]);
                        clean.extend_from_slice(&sieve.pause()?);
                        plain = clean;
                    }
                    frame.turn(&mut plain);
                    frame.read += n as u64;
                    frame.left -= n as u64;
                    out.extend_from_slice(&plain);
                }
            }
        }
        Ok(out.freeze())
    }
}

impl Frame {
    /// Masks or unmasks the next bytes of the payload (RFC 6455, section 5.3).
    fn turn(&self, bytes: &mut [u8]) {
        for (at, byte) in (self.read..).zip(bytes) {
            *byte ^= self.mask[(at % 4) as usize];
        }
    }
}

/// How long a frame's header is, as far as its first two bytes tell (RFC 6455, section 5.2).
fn head_length(head: &[u8]) -> usize {
    let extended = match head.get(1).map(|byte| byte & 0x7f) {
        None => 0,
        Some(126) => 2,
        Some(127) => 8,
        Some(_) => 0,
    };
    2 + extended + 4
}

fn parse(head: &[u8]) -> Result<Frame, Refusal> {
    let refuse = |reason: &str| Refusal::new(Code::Malformed, "websocket", reason);
    let mut rest = head;
    let (first, second) = (rest.get_u8(), rest.get_u8());
    if first & 0x70 != 0 {
        return Err(refuse("a frame uses an extension, and none was agreed on"));
    }
    if second & 0x80 == 0 {
        return Err(refuse("a client's frame is not masked"));
    }
    let control = first & 0x08 != 0;
    let left = match second & 0x7f {
        126 => u64::from(rest.get_u16()),
        127 => rest.get_u64(),
        short => u64::from(short),
    };
    if control && (left > 125 || first & 0x80 == 0) {
        return Err(refuse("a control frame is long or in pieces"));
    }
    let mut mask = [0; 4];
    rest.copy_to_slice(&mut mask);
    Ok(Frame { control, mask, left, read: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            n @ 0..126 => bytes.push(0x80 | u8::try_from(n).unwrap()),
            n @ 126..65536 => {
                bytes.push(0xfe);
                bytes.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
            n => {
                bytes.push(0xff);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().enumerate().map(|(n, b)| b ^ mask[n % 4]));
        bytes
    }

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        let mut all = Vec::new();
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            all.extend(frame(0x82, &vec![b'x'; length], [1, 2, 3, 4]));
            all.extend(frame(0x89, b"ping", [9, 8, 7, 6]));
        }
        for size in [1, 2, 3, 7, 1000, all.len()] {
            let mut frames = Frames::new(None);
            let out: Vec<u8> =
                all.chunks(size).flat_map(|piece| frames.take(piece).unwrap()).collect();
            assert!(out == all, "in pieces of {size}");
        }
    }

    #[test]
    fn frames_that_could_hide_something_are_refused() {
        for bytes in [
            &[0xc1, 0x80, 0, 0, 0, 0][..],
            &[0x81, 0x01, 0, 0, 0, 0],
            &[0x89, 0xfe, 0, 126, 0, 0, 0, 0],
            &[0x09, 0x80, 0, 0, 0, 0],
        ] {
            assert!(Frames::new(None).take(bytes).is_err(), "{bytes:?}");
        }
    }
}
