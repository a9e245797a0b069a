//! What is loaded from files: any text is rules or an error, and what loads can be used. The first
//! byte says which file it is: `r` a table of routes, else leak rules.
#![no_main]

use bottle_detector::{Detector, Rules};
use bottle_sidecar::fuzzing::routes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    if *kind == b'r' {
        for host in ["a.example.com", "example.com:80", "git.example:22"] {
            routes(text, host, "/a/b%2Fc;d");
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Ok(rules) = Rules::with(text) {
        // A file that loads, loads again: nothing is kept of the first time.
        assert!(Rules::with(text).is_ok());
        let detector = Detector::new(Some(rules), None).for_path("src/main.rs");
        let _ = detector.scan(bytes);
    }
});
