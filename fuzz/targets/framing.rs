//! The strict reader: it reads pieces as it reads the whole, and where it lets a stream through, a
//! reader made of the parser that stands behind it, which takes more, sees the same messages.
#![no_main]

#[path = "pieces.rs"]
mod pieces;

use bottle_sidecar::fuzzing::{Reading, framing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (seed, bytes) = input;
    let strict = framing(bytes.chunks(1));
    let pieces = framing(pieces::cut(bytes, seed));
    assert_eq!(pieces.fault.is_some(), strict.fault.is_some(), "{pieces:?} {strict:?}");
    if strict.fault.is_none() {
        assert_eq!((&pieces.left, pieces.raw), (&strict.left, strict.raw));
    }
    follow(&bytes[..strict.taken], &strict);
});

/// Follows a stream with httparse as far as the strict reader let it through.
fn follow(bytes: &[u8], strict: &Reading) {
    let mut at = 0;
    for (n, end) in strict.heads.iter().enumerate() {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&bytes[at..]);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            other => panic!("the head at {at} is let through, yet {other:?}"),
        };
        assert_eq!(at + length, *end, "the head at {at} ends elsewhere");
        let ended = strict.messages.get(n);
        if strict.raw && n + 1 == strict.heads.len() {
            assert_eq!(ended, None);
            return;
        }
        match body_end(bytes, *end, &request) {
            Some(end) => assert_eq!(ended, Some(&end), "the body at {at} ends elsewhere"),
            None => assert_eq!(ended, None, "the body at {at} has not ended"),
        }
        match ended {
            Some(end) => at = *end,
            None => return,
        }
    }
}

/// Where a body ends, if it does: any mention of chunks counts, then any length that is a number.
fn body_end(bytes: &[u8], at: usize, request: &httparse::Request<'_, '_>) -> Option<usize> {
    let values = |name: &'static str| {
        let all = request.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
        all.map(|h| String::from_utf8_lossy(h.value).trim().to_ascii_lowercase())
    };
    if values("transfer-encoding").any(|value| value.contains("chunked")) {
        return chunks_end(bytes, at);
    }
    let lengths: Vec<usize> =
        values("content-length").map(|v| v.parse().unwrap_or(usize::MAX)).collect();
    assert!(lengths.len() <= 1, "more than one length");
    let end = at.saturating_add(lengths.first().copied().unwrap_or(0));
    (end <= bytes.len()).then_some(end)
}

fn chunks_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let (line, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            _ => return None,
        };
        at += line;
        if size == 0 {
            break;
        }
        // The chunk, and the line end after it.
        at = at.checked_add(usize::try_from(size).ok()?.checked_add(2)?)?;
        bytes.get(..at)?;
    }
    let mut headers = [httparse::EMPTY_HEADER; 4096];
    match httparse::parse_headers(&bytes[at..], &mut headers) {
        Ok(httparse::Status::Complete((length, _))) => Some(at + length),
        _ => None,
    }
}
