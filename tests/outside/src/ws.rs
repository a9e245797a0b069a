//! WebSocket frames (RFC 6455): made as a client makes them, and read as a server reads them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// More of the message before.
    Continuation = 0,
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// A question.
    Ping = 9,
    /// An answer.
    Pong = 10,
}

/// The key of every handshake here, and what a server must answer to it (section 1.3).
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The answer to a key.
#[must_use]
pub fn accept(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// One masked frame, as clients send them. `first` has the FIN bit and the reserved ones.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap_or_default()),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A whole message in one frame.
#[must_use]
pub fn message(kind: Kind, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | kind as u8, payload)
}

/// A message in frames of this many bytes.
#[must_use]
pub fn fragments(kind: Kind, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = payload.chunks(size).collect();
    let last = pieces.len() - 1;
    let first = |n: usize| {
        let kind = if n == 0 { kind } else { Kind::Continuation };
        kind as u8 | if n == last { 0x80 } else { 0 }
    };
    pieces.iter().enumerate().map(|(n, piece)| frame(first(n), piece)).collect()
}

/// Takes one frame off the front: its first byte and its payload, unmasked. `None` until it is
/// there whole.
pub fn take(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let mask = if second & 0x80 == 0 {
        [0; 4]
    } else {
        at += 4;
        bytes.get(at - 4..at)?.try_into().ok()?
    };
    let payload = bytes.get(at..at + length)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let payload = payload.collect();
    bytes.drain(..at + length);
    Some((first, payload))
}
