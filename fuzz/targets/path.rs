//! The path normalizer: once is enough, what comes out is plain, slashes come and go with `.` segments
//! alone, and no parent folder shows up however often a server decodes.
#![no_main]

use bottle_sidecar::fuzzing::normal_path;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let Some(normal) = normal_path(path) else { return };
    assert_eq!(normal_path(&normal).as_ref(), Some(&normal), "of {path:?}");
    assert!(normal.starts_with('/') && normal.bytes().all(|b| b.is_ascii_graphic()), "{normal:?}");
    assert!(!normal.contains('\\'), "{normal:?}");
    // An escaped slash stays one, and no other becomes one. A `.` goes with its slash, but at the end.
    let is_dot = |segment: &&str| decoded(segment.as_bytes()) == b".";
    let dots = path.split('/').filter(is_dot).count();
    let last = usize::from(path.rsplit('/').next().as_ref().is_some_and(is_dot));
    let slashes = |text: &str| text.matches('/').count();
    assert_eq!(slashes(path) - dots + last, slashes(&normal), "{path:?} becomes {normal:?}");
    for (at, _) in normal.match_indices('%') {
        let hex = &normal[at + 1..at + 3];
        assert_eq!(hex, hex.to_ascii_uppercase());
        let byte = u8::from_str_radix(hex, 16).expect("two digits");
        assert!(!byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte), "{normal:?}");
    }
    let mut text = normal.into_bytes();
    for _ in 0..4 {
        for part in text.split(|b| matches!(b, b'/' | b'\\')) {
            let part = part.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            assert!(part != b"." && part != b"..", "{path:?} leads to {text:?}");
        }
        text = decoded(&text);
    }
});

/// Decodes once, as any server does.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}
