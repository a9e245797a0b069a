//! The scanner: in pieces it finds what it finds in the whole, and nothing in what it has let go;
//! what was planted is found whatever stands around it; and what it masks is gone.
#![no_main]

#[path = "pieces.rs"]
mod pieces;

use std::sync::{Arc, LazyLock};

use bottle_detector::{Detector, Finding, Rules, Values, What, mask};
use libfuzzer_sys::fuzz_target;

/// As long as values are that the decoder finds by itself, and one that is shorter.
const SECRETS: [&str; 2] = ["fuzzing-secret:0123456789", "q7!Zr2wX"];
/// Made up; they have the forms of tokens of two kinds, one that begins with few letters and one with many.
const TOKENS: [(&str, &str); 2] = [
    ("github-pat", "ghp_aB3dE5gH7jK9mN1pQ2sT4vW6yZ8caB3dE5gH"),
    (
        "slack-webhook-url",
        "hooks.slack.com/services/T0aB3dE5gH7/B0jK9mN1pQ2/sT4vW6yZ8cX0aB3dE5gH7jK9",
    ),
];

/// Longer inputs take long in single bytes, and find nothing else.
const LONGEST: usize = 1 << 10;

/// Rules of every kind: by prefix, near a keyword, everywhere, with an eye on the line.
const MORE: &str = r"
    [[rules]]
    id = 'near'
    regex = '''[a-z]{0,40}:[0-9]{4,12}\b'''
    keywords = ['acme']
    [[rules]]
    id = 'anywhere'
    regex = '''[0-9]{3}-[A-F]{6}-[0-9]{3,300}'''
    [[rules]]
    id = 'line'
    regex = '''wow=[a-z]{4,}'''
    [rules.allowlist]
    regexTarget = 'line'
    regexes = ['''fine''']
";

static DETECTORS: LazyLock<[Detector; 2]> = LazyLock::new(|| {
    let values = SECRETS.map(|value| (value.to_owned(), value.to_owned().into()));
    let values = Some(Arc::new(Values::new(values)));
    let more = Rules::with(MORE).expect("rules that load");
    [Detector::new(Some(Rules::builtin()), values.clone()), Detector::new(Some(more), values)]
});

fuzz_target!(|input: (u8, &[u8])| {
    let (seed, bytes) = input;
    let (text, planted) = plant(&bytes[..bytes.len().min(LONGEST)]);
    let detector = &DETECTORS[usize::from(seed & 1)];
    let whole = sorted(detector.scan(&text));
    let mut stream = detector.stream();
    let (mut found, mut settled) = (Vec::new(), 0);
    for piece in pieces::cut(&text, seed) {
        let more = stream.feed(piece);
        assert!(more.iter().all(|f| f.span.start >= settled), "{settled}: {more:?}");
        found.extend(more);
        assert!((settled..=text.len() as u64).contains(&stream.settled()));
        settled = stream.settled();
    }
    let more = stream.finish();
    assert!(more.iter().all(|f| f.span.start >= settled), "{settled}: {more:?}");
    found.extend(more);
    assert_eq!(sorted(found), whole);
    for (what, start, end) in planted {
        let holds = |f: &Finding| f.span.start < end && f.span.end > start && f.what == what;
        let gave_up = |f: &Finding| matches!((&f.what, &what), (What::Rule(f), What::Rule(_)) if f == bottle_detector::LIMIT_WORK);
        assert!(whole.iter().any(|f| holds(f) || gave_up(f)), "{what:?} at {start}: {whole:?}");
    }
    let mut masked = text.clone();
    mask(&mut masked, 0, &whole);
    let left = detector.scan(&masked);
    assert!(!left.iter().any(|f| matches!(f.what, What::Value(_))), "{left:?}");
});

fn sorted(mut all: Vec<Finding>) -> Vec<Finding> {
    all.sort_by_key(|f| (f.span.start, f.span.end, f.what.clone(), f.layers.clone()));
    all
}

/// What a mutation is unlikely to write by itself stands for bytes from 0xF0 on, in one encoding
/// each; what has to be found, and where.
fn plant(bytes: &[u8]) -> (Vec<u8>, Vec<(What, u64, u64)>) {
    let (mut text, mut planted) = (Vec::new(), Vec::new());
    for byte in bytes {
        let Some(way) = byte.checked_sub(0xF0) else {
            text.push(*byte);
            continue;
        };
        let secret = SECRETS[usize::from(way) / 7 % 2];
        let (what, encoded) = if way >= 14 {
            let (rule, token) = TOKENS[usize::from(way) % 2];
            (What::Rule(rule.into()), token.as_bytes().to_vec())
        } else {
            (What::Value(secret.into()), encode(way % 7, secret.as_bytes()))
        };
        // A space is of no encoding, so what stands before it cannot change what follows.
        text.push(b' ');
        planted.push((what, text.len() as u64, (text.len() + encoded.len()) as u64));
        text.extend(encoded);
        text.push(b' ');
    }
    (text, planted)
}

fn encode(way: u8, bytes: &[u8]) -> Vec<u8> {
    let each = |f: &dyn Fn(u8) -> String| bytes.iter().map(|b| f(*b)).collect::<String>();
    match way {
        0 => bytes.to_vec(),
        1 => base64(bytes),
        2 => base64(&base64(&[b"x: ", bytes].concat())),
        3 => each(&|b| format!("{b:02x}")).into_bytes(),
        4 => each(&|b| format!("%{b:02X}")).into_bytes(),
        5 => each(&|b| format!("\\u{b:04x}")).into_bytes(),
        _ => {
            each(&|b| if b.is_ascii_digit() { format!("\\x{b:02x}") } else { char::from(b).into() })
                .into_bytes()
        }
    }
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for group in bytes.chunks(3) {
        let word = group.iter().chain(&[0, 0]).take(3).fold(0, |w, b| w << 8 | usize::from(*b));
        out.extend((0..=group.len()).map(|i| alphabet[word >> (18 - 6 * i) & 63]));
        out.extend(std::iter::repeat_n(b'=', 3 - group.len()));
    }
    out
}
