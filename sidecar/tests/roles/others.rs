//! Settings that no role can use.

use crate::harness::Session;

#[test]
fn a_bad_settings_file_ends_the_role() {
    for (role, file) in [
        ("git-gate", "in/gate.json"),
        ("supervise", "in/supervise.json"),
        ("egress", "in/settings.json"),
    ] {
        for text in [None, Some("{"), Some(r#"{"protocol": 99}"#)] {
            let session = Session::new();
            if let Some(text) = text {
                session.write(file, text);
            }
            let ended = session.start(role).end();
            assert_eq!(ended.code(), Some(78), "{role}: {}", ended.stderr());
            assert!(ended.stderr().contains(file), "{}", ended.stderr());
        }
    }
}
