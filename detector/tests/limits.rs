//! What the limits promise: what is held back, what too much work does, how often nothing is
//! taken for something.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_detector::{Detector, LIMIT_WORK, Layer, Rules, Values, What};
use zeroize::Zeroizing;

fn builtin() -> Detector {
    Detector::new(Some(Rules::builtin()), None)
}

fn values(all: &[(&str, &str)]) -> Arc<Values> {
    let all = all.iter().map(|(n, v)| ((*n).to_owned(), Zeroizing::new((*v).to_owned())));
    Arc::new(Values::new(all))
}

/// The most that is held back while a text streams through in pieces of a hundred bytes.
fn held(detector: &Detector, text: &[u8]) -> u64 {
    let mut stream = detector.stream();
    let (mut fed, mut most) = (0, 0);
    for piece in text.chunks(100) {
        assert_eq!(stream.feed(piece), []);
        fed += piece.len() as u64;
        most = most.max(fed - stream.settled());
    }
    assert_eq!(stream.finish(), []);
    most
}

#[test]
fn little_is_held_back_while_nothing_is_found() {
    let prose =
        b"It was a bright cold day in April, and the clocks were striking thirteen.\n".repeat(900);
    let base64 = b"Q2xvY2tzIHdlcmUgc3RyaWtpbmcgdGhpcnRlZW4u".repeat(1500);
    let hex = b"436c6f636b7320776572652073747269".repeat(1500);
    let percent = b"Clocks%20were%20striking%2C%20thirteen%2E+".repeat(1500);
    let near = "[[rules]]\nid = 'a'\nregex = '''[0-9a-f]{32}'''\nkeywords = ['acme']";
    let near = Detector::new(Some(Rules::with(near).unwrap()), None);
    for (name, text) in
        [("prose", &prose), ("base64", &base64), ("hex", &hex), ("percent", &percent)]
    {
        let held_by = (held(&builtin(), text), held(&near, text));
        assert!(held_by.0 <= 2 << 10, "{name}: {held_by:?}");
        assert!(held_by.1 <= 8 << 10, "{name}: {held_by:?}");
    }
}

#[test]
fn too_much_work_is_a_finding() {
    // Each could begin a token, and each would be followed for as long as one may be.
    let text = b"eyJ-".repeat(20_000);
    let mut stream = builtin().stream();
    let mut found = stream.feed(&text);
    found.extend(stream.finish());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].what, What::Rule(LIMIT_WORK.to_owned()));
    assert!(stream.exceeded());
    // Below an encoding too.
    let hex: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
    let found = builtin().scan(hex.as_bytes());
    assert!(found.iter().any(|f| f.layers == [Layer::Hex]), "{found:?}");
}

#[test]
fn many_short_objects_in_base64_are_not_too_much_work() {
    let text = b"[\"eyJhIjoxfQ==\",\"eyJhIjoyfQ==\"]\n".repeat(20_000);
    assert_eq!(builtin().scan(&text), []);
}

#[test]
fn short_values_are_found_on_their_own_below_two_layers() {
    let detector = Detector::new(None, Some(values(&[("V", "q7Zr2wXk")])));
    for (text, layers) in [
        ("q7Zr2wXk", &[][..]),
        ("cTdacjJ3WGs=", &[Layer::Base64]),
        ("Y1RkYWNqSjNXR3M9", &[Layer::Base64, Layer::Base64]),
        ("7137 x71375a723277586b", &[Layer::Hex]),
        ("%71%37Zr2wXk", &[Layer::Percent]),
        ("\\u0071\\x37Zr2wXk", &[Layer::Escape]),
    ] {
        let found = detector.scan(text.as_bytes());
        assert!(found.iter().any(|f| f.layers == layers), "{text}: {found:?}");
    }
}

#[test]
fn three_layers_are_one_too_many() {
    let detector = Detector::new(None, Some(values(&[("V", "tok_9fK2mQ7vL4xT8bN1cR6pJ3")])));
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    let two = hex(&hex("tok_9fK2mQ7vL4xT8bN1cR6pJ3"));
    assert_eq!(detector.scan(two.as_bytes())[0].layers, [Layer::Hex, Layer::Hex]);
    assert_eq!(detector.scan(hex(&two).as_bytes()), []);
}

#[test]
fn a_finding_below_an_encoding_spans_the_characters_that_hold_it() {
    let detector = Detector::new(None, Some(values(&[("V", "abcdefgh")])));
    // "--abcdefgh--" is LS1h YmNk ZWZn aC0t: two bytes in, in characters shared with the neighbours.
    let text = "x: LS1hYmNkZWZnaC0tLS0tLS0tLS0t";
    let found = detector.scan(text.as_bytes());
    let span = found.iter().find(|f| f.layers == [Layer::Base64]).unwrap().span.clone();
    assert_eq!(&text[span.start as usize..span.end as usize], "1hYmNkZWZnaC");
    let text = "a%61%62cdefg%68i";
    let found = detector.scan(text.as_bytes());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(&text[found[0].span.start as usize..found[0].span.end as usize], "%61%62cdefg%68");
}

#[test]
fn an_escape_is_undone_wherever_its_neighbourhood_ends() {
    let detector = Detector::new(None, Some(values(&[("V", "tok/9fK2m/7vL4x/8b_N1cR6")])));
    for gap in 480..530 {
        let gap = " ".repeat(gap);
        let text = format!("\\u0041{gap}tok\\/9fK2m\\/7vL4x\\/8b\\u005fN1cR6");
        let found = detector.scan(text.as_bytes());
        assert_eq!(found.len(), 1, "{}", gap.len());
        let mut stream = detector.stream();
        let mut streamed: Vec<_> = text.bytes().flat_map(|byte| stream.feed(&[byte])).collect();
        streamed.extend(stream.finish());
        assert_eq!(streamed, found, "{}", gap.len());
    }
}

#[test]
fn a_scrubber_holds_back_only_what_may_be_a_beginning() {
    let values = values(&[("V", "tok_9fK2mQ7vL4xT8bN1cR6pJ3")]);
    let mut scrubber = values.scrubber();
    assert_eq!(scrubber.feed(b"data: hello\n\n"), b"data: hello\n\n");
    assert_eq!(scrubber.feed(b"data: tok_9f"), b"data: ");
    assert_eq!(scrubber.feed(b"oops"), b"tok_9foops");
    assert_eq!(scrubber.feed(b" tok_9fK2mQ7vL4xT8bN1c"), b" ");
    assert_eq!(scrubber.feed(b"R6pJ3."), format!("{}.", "*".repeat(26)).as_bytes());
    assert_eq!(
        scrubber.feed(b"dG9rXzlmSzJtUTd2TDR4VDhiTjFjUjZwSjM="),
        [b"A".repeat(34), b"M=".to_vec()].concat()
    );
    assert_eq!(scrubber.finish(), b"");
    assert_eq!(scrubber.replaced(), 2);
}

#[test]
fn program_text_gives_few_false_alarms() {
    let mut files = Vec::new();
    for root in sources() {
        collect(&root, &mut files);
        if files.len() > 100 {
            break;
        }
    }
    let detector = builtin();
    // Keys in the tests of cryptographic crates are keys.
    let is_false = |what: &What| !matches!(what, What::Rule(id) if id == "private-key");
    let alarms: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let text = std::fs::read(path).unwrap_or_default();
            let found = detector.scan(&text).into_iter().map(|finding| finding.what);
            found
                .filter(is_false)
                .map(|what| format!("{}: {what:?}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(alarms.len() <= 1 + files.len() / 1000, "of {}: {}", files.len(), alarms.join("\n"));
}

/// The standard library's source, that of the crates in use, this workspace's: whatever is there.
fn sources() -> Vec<PathBuf> {
    let sysroot =
        std::process::Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|h| h + "/.cargo"));
    let crates = home.map(|home| Path::new(&home).join("registry/src"));
    let library = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    [library].into_iter().chain(crates).chain([own]).collect()
}

/// Program texts below a folder, the first two thousand.
fn collect(root: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if files.len() >= 2000 || path.ends_with("target") || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
