//! Properties: what must hold for any text, cut anywhere.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, LazyLock};

use bottle_detector::unpack::Unpacker;
use bottle_detector::{Detector, Finding, Rules, Values, What, mask};
use proptest::prelude::*;
use zeroize::Zeroizing;

/// Values of many kinds: short, long, with spaces, quotes and slashes, of several lines.
static NAMED: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let line = |seed: usize| -> String {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..64).map(|i| char::from(letters[(i * i * 7 + i * seed * 11 + seed) % 64])).collect()
    };
    let key = format!("-----BEGIN KEY-----\n{}\n{}\n-----END KEY-----\n", line(1), line(2));
    [
        ("SHORT", "q7!Zr2wX".to_owned()),
        ("TOKEN", "tok_9fK2mQ7vL4xT8bN1cR6pJ3".to_owned()),
        ("ODD", "a b/c\"d\\e+f=g%41&h<ä>i".to_owned()),
        ("LONG", line(3).repeat(20)),
        ("KEY", key),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
});

fn values() -> Arc<Values> {
    let values = NAMED.iter().map(|(name, value)| (name.clone(), Zeroizing::new(value.clone())));
    Arc::new(Values::new(values))
}

static BOTH: LazyLock<Detector> =
    LazyLock::new(|| Detector::new(Some(Rules::builtin()), Some(values())));
static VALUES: LazyLock<Detector> = LazyLock::new(|| Detector::new(None, Some(values())));
static RULES: LazyLock<Detector> = LazyLock::new(|| Detector::new(Some(Rules::builtin()), None));
/// With a rule of each kind that is not tried at a literal.
static BLOCKS: LazyLock<Detector> = LazyLock::new(|| {
    let rules = r#"
        [[rules]]
        id = "near"
        regex = '''[a-z]{0,40}:[0-9]{4,12}\b'''
        keywords = ["acme"]
        [[rules]]
        id = "anywhere"
        regex = '''[0-9]{3}-[A-F]{6}-[0-9]{3,3000}'''
        [[rules]]
        id = "line"
        regex = '''wow=[a-z]{4,}'''
        [rules.allowlist]
        regexTarget = "line"
        regexes = ['''fine''']
    "#;
    Detector::new(Some(Rules::with(rules).unwrap()), None)
});

/// Tokens, made up here.
fn token(at: usize) -> String {
    [
        format!("ghp_{}", "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8c".repeat(2).split_at(36).0),
        format!("AKIA{}", "Q2W3E4R5T6Y7U2I3"),
        format!("sk-ant-api03-{}AA", "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8cX0".repeat(4).split_at(93).0),
        "postgres://admin:v9Xk2mQz7R@db.internal/app".to_owned(),
        "api_key = \"zQ8w3Nf5Lk2Xp9Rt7Vb4Hs6J\"".to_owned(),
    ][at % 5]
        .clone()
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Base64,
    Base64Url,
    Base64Lines,
    Hex,
    HexUpper,
    Percent,
    PercentAll,
    Escape,
}

fn encode(way: Way, bytes: &[u8]) -> Vec<u8> {
    let base64 = |alphabet: &[u8; 64], pad: bool| {
        let mut out = Vec::new();
        for group in bytes.chunks(3) {
            let word =
                group.iter().chain(&[0, 0]).take(3).fold(0_u32, |w, b| w << 8 | u32::from(*b));
            for i in 0..=group.len() {
                out.push(alphabet[(word >> (18 - 6 * i) & 63) as usize]);
            }
            out.extend(std::iter::repeat_n(b'=', if pad { 3 - group.len() } else { 0 }));
        }
        out
    };
    let standard = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let url = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let each = |f: &dyn Fn(&u8) -> String| bytes.iter().map(f).collect::<String>().into_bytes();
    match way {
        Way::Base64 => base64(standard, true),
        Way::Base64Url => base64(url, false),
        Way::Base64Lines => base64(standard, true).chunks(76).collect::<Vec<_>>().join(&b'\n'),
        Way::Hex => each(&|b| format!("{b:02x}")),
        Way::HexUpper => each(&|b| format!("{b:02X}")),
        Way::Percent => each(&|b| {
            if b.is_ascii_alphanumeric() { char::from(*b).to_string() } else { format!("%{b:02X}") }
        }),
        Way::PercentAll => each(&|b| format!("%{b:02x}")),
        Way::Escape => String::from_utf8_lossy(bytes)
            .chars()
            .map(|c| match c {
                '\\' | '"' => format!("\\{c}"),
                '_' | '0'..='9' => format!("\\u{:04x}", c as u32),
                c => c.to_string(),
            })
            .collect::<String>()
            .into_bytes(),
    }
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        Just(Way::Base64),
        Just(Way::Base64Url),
        Just(Way::Base64Lines),
        Just(Way::Hex),
        Just(Way::HexUpper),
        Just(Way::Percent),
        Just(Way::PercentAll),
        Just(Way::Escape),
    ]
}

/// A part of a body: ordinary text, something encoded, something planted.
fn part() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..200),
        4 => "[ -~\n]{0,300}".prop_map(String::into_bytes),
        4 => "[A-Za-z0-9+/%\\\\un]{0,80}".prop_map(String::into_bytes),
        1 => (1..6000_usize).prop_map(|n| b"word of text, ".repeat(n / 14)),
        2 => ("[A-Za-z0-9+/]{20,60}", 1..200_usize).prop_map(|(s, n)| s.repeat(n).into_bytes()),
        2 => Just(b"acme name:12345 123-ABCDEF-999 wow=secret\nwow=secrets fine\n".to_vec()),
        6 => planted(),
    ]
}

/// A value or a token below up to two encodings, with something around it at each.
fn planted() -> impl Strategy<Value = Vec<u8>> {
    let around = "[ -~]{0,12}";
    let layer = (way(), around, around);
    (0..10_usize, proptest::collection::vec(layer, 0..3)).prop_map(|(which, layers)| {
        let mut bytes = match which {
            0..5 => NAMED[which].1.clone().into_bytes(),
            _ => token(which).into_bytes(),
        };
        for (way, before, after) in layers {
            bytes = encode(way, &[before.as_bytes(), &bytes, after.as_bytes()].concat());
        }
        bytes
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(part(), 0..8).prop_map(|parts| parts.concat())
}

/// Lengths of pieces, taken in turn.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        proptest::collection::vec(1..40_usize, 1..6),
        proptest::collection::vec(1..5000_usize, 1..6),
        Just(vec![1]),
    ]
}

fn pieces<'a>(text: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = text;
    cuts.iter().cycle().map_while(move |cut| {
        let (piece, after) = rest.split_at(rest.len().min(*cut));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Streams the text and checks on the way what `settled` says.
fn stream(detector: &Detector, text: &[u8], cuts: &[usize]) -> Vec<Finding> {
    let mut stream = detector.stream();
    let (mut found, mut settled, mut fed) = (Vec::new(), 0, 0);
    let check = |new: &[Finding], settled: u64| {
        for finding in new {
            assert!(finding.span.start >= settled, "{finding:?} begins before {settled}");
        }
    };
    for piece in pieces(text, cuts) {
        let new = stream.feed(piece);
        check(&new, settled);
        fed += piece.len() as u64;
        assert!(stream.settled() >= settled, "{} after {settled}", stream.settled());
        assert!(stream.settled() <= fed);
        settled = stream.settled();
        found.extend(new);
    }
    let new = stream.finish();
    check(&new, settled);
    found.extend(new);
    found.sort_by(|a, b| {
        let key = |f: &Finding| (f.span.start, f.span.end, f.what.clone(), f.layers.clone());
        key(a).cmp(&key(b))
    });
    assert_eq!(stream.settled(), fed);
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_stream_finds_what_a_scan_finds(text in body(), cuts in cuts()) {
        for detector in [&*BOTH, &*RULES, &*BLOCKS] {
            let whole = detector.scan(&text);
            for finding in &whole {
                prop_assert!(finding.span.start < finding.span.end);
                prop_assert!(finding.span.end <= text.len() as u64);
            }
            prop_assert_eq!(stream(detector, &text, &cuts), whole);
        }
    }

    #[test]
    fn a_value_is_found_below_any_two_encodings(
        which in 0..5_usize,
        layers in proptest::collection::vec((way(), "[ -~]{0,30}", "[ -~]{0,30}"), 0..3),
        before in "[ -~\n]{0,3000}",
        after in "[ -~\n]{0,100}",
    ) {
        let (name, value) = &NAMED[which];
        let mut bytes = value.clone().into_bytes();
        for (way, before, after) in &layers {
            bytes = encode(*way, &[before.as_bytes(), &bytes, after.as_bytes()].concat());
        }
        // A character of the encoding's own alphabet would hide where it begins in hex.
        let text = [before.as_bytes(), b" ", &bytes, b" ", after.as_bytes()].concat();
        let place = before.len() as u64 + 1..(before.len() + 1 + bytes.len()) as u64;
        let found = VALUES.scan(&text);
        let hit = found.iter().any(|finding| {
            finding.what == What::Value(name.clone())
                && finding.span.start >= place.start
                && finding.span.end <= place.end
        });
        prop_assert!(hit, "{:?} in {}", found, String::from_utf8_lossy(&text));
    }

    #[test]
    fn a_mask_leaves_no_value(text in body()) {
        let found = VALUES.scan(&text);
        let mut masked = text.clone();
        mask(&mut masked, 0, &found);
        prop_assert_eq!(VALUES.scan(&masked), []);
        // The same from the middle on.
        let half = text.len() / 2;
        let mut end = text[half..].to_vec();
        mask(&mut end, half as u64, &found);
        prop_assert_eq!(&end[..], &masked[half..]);
    }

    #[test]
    fn a_scrubber_replaces_the_same_whatever_the_pieces(text in body(), cuts in cuts()) {
        let values = values();
        let mut whole = values.scrubber();
        let mut expected = whole.feed(&text);
        expected.extend(whole.finish());
        let mut scrubber = values.scrubber();
        let mut out = Vec::new();
        for piece in pieces(&text, &cuts) {
            out.extend(scrubber.feed(piece));
        }
        out.extend(scrubber.finish());
        prop_assert_eq!(out.len(), text.len());
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(scrubber.replaced(), whole.replaced());
        for (_, value) in NAMED.iter() {
            let value = value.as_bytes();
            prop_assert!(!out.windows(value.len()).any(|window| window == value));
        }
    }

    #[test]
    fn an_unpacker_survives_anything(
        header in prop_oneof!["gzip", "deflate", "br", "zstd", "gzip, zstd", "br, deflate, gzip"],
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        magic in prop_oneof![Just(&[][..]), Just(&[0x1F, 0x8B, 8, 0][..]), Just(&[0x28, 0xB5, 0x2F, 0xFD][..]), Just(&[0x78, 0x9C][..])],
        cuts in cuts(),
    ) {
        let bytes = [magic, &bytes].concat();
        prop_assert_eq!(unpack(&header, &bytes, &cuts), unpack(&header, &bytes, &[usize::MAX]));
    }

    #[test]
    fn an_unpacker_survives_damage(
        header in prop_oneof!["gzip", "deflate", "br", "zstd"],
        text in body(),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cuts in cuts(),
    ) {
        let mut packed = pack(&header, &text);
        for (at, byte) in damage {
            let at = at % packed.len();
            packed[at] = byte;
        }
        prop_assert_eq!(unpack(&header, &packed, &cuts), unpack(&header, &packed, &[usize::MAX]));
    }

    #[test]
    fn an_unpacker_undoes_what_was_packed(
        codings in proptest::collection::vec(prop_oneof!["gzip", "deflate", "br", "zstd"], 0..4),
        text in body(),
        cuts in cuts(),
    ) {
        let packed = codings.iter().fold(text.clone(), |packed, coding| pack(coding, &packed));
        prop_assert_eq!(unpack(&codings.join(", "), &packed, &cuts), Some(text));
    }

    #[test]
    fn a_rules_file_may_hold_anything(text in "[ -~\n]{0,300}", regex in "[ -~]{0,40}") {
        let _ = Rules::with(&text);
        if let Ok(rules) = Rules::with(&format!("[[rules]]\nid = 'a'\nregex = '''{regex}'''")) {
            let _ = Detector::new(Some(rules), None).scan(text.as_bytes());
        }
    }
}

fn pack(coding: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    match coding {
        "gzip" => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        "deflate" => {
            let mut to = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        "br" => {
            let mut out = Vec::new();
            brotli::CompressorWriter::new(&mut out, 4096, 3, 20).write_all(bytes).unwrap();
            out
        }
        "zstd" => {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        }
        _ => bytes.to_vec(),
    }
}

/// What comes out, or nothing on any error.
fn unpack(header: &str, packed: &[u8], cuts: &[usize]) -> Option<Vec<u8>> {
    let mut unpacker = Unpacker::new(header).unwrap();
    let mut out = Vec::new();
    for piece in pieces(packed, cuts) {
        unpacker.feed(piece, &mut out).ok()?;
    }
    unpacker.finish(&mut out).ok()?;
    Some(out)
}
