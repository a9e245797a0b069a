//! The scanner: in pieces it finds what it finds in the whole, and what it masks is gone; the
//! unpacker ends in a result whatever it is given.
#![no_main]

use std::sync::{Arc, LazyLock};

use bottle_detector::unpack::Unpacker;
use bottle_detector::{Detector, Rules, Values, What, mask};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "fuzzing-secret-0123456789";

static DETECTOR: LazyLock<Detector> = LazyLock::new(|| {
    let values = Values::new([("OWN".to_owned(), SECRET.to_owned().into())]);
    Detector::new(Some(Rules::builtin()), Some(Arc::new(values)))
});

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (size, coding, bytes) = input;
    // A secret that a mutation is unlikely to write by itself.
    let text = bytes.split(|&b| b == 0xff).collect::<Vec<_>>().join(SECRET.as_bytes());
    let whole = DETECTOR.scan(&text);
    let mut stream = DETECTOR.stream();
    let mut found = Vec::new();
    for piece in text.chunks(usize::from(size).max(1)) {
        found.extend(stream.feed(piece));
        let settled = stream.settled();
        assert!(settled <= text.len() as u64);
    }
    found.extend(stream.finish());
    let sorted = |mut all: Vec<bottle_detector::Finding>| {
        all.sort_by_key(|f| (f.span.start, f.span.end, f.what.clone(), f.layers.clone()));
        all
    };
    assert_eq!(sorted(found), sorted(whole.clone()));
    let mut masked = text.clone();
    mask(&mut masked, 0, &whole);
    let left = DETECTOR.scan(&masked);
    assert!(!left.iter().any(|f| matches!(f.what, What::Value(_))), "{left:?}");

    let coding = ["gzip", "deflate", "br", "zstd", "gzip, br"][usize::from(coding) % 5];
    if let Ok(mut unpacker) = Unpacker::new(coding) {
        let mut out = Vec::new();
        let _ = unpacker.feed(bytes, &mut out).and_then(|()| unpacker.finish(&mut out));
    }
});
