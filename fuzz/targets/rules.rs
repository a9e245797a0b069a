//! The rules loader: any text is rules or an error, and rules that load can be scanned with.
#![no_main]

use bottle_detector::{Detector, Rules};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(rules) = Rules::with(text) {
        Detector::new(Some(rules), None).scan(text.as_bytes());
    }
});
