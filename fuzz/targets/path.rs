//! The path normalizer: once is enough, and no parent folder survives however often a server
//! decodes.
#![no_main]

use bottle_sidecar::fuzzing::{decoded, normal_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let Some(normal) = normal_path(path) else { return };
    assert_eq!(normal_path(&normal).as_ref(), Some(&normal));
    let mut text = normal;
    for _ in 0..4 {
        for part in text.split(['/', '\\']) {
            let part = part.split(';').next().unwrap_or_default().trim();
            assert!(part != "." && part != "..", "{path:?} leads to {text:?}");
        }
        text = decoded(&text);
    }
});
