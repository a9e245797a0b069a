//! A change as text: a patch that `git apply` takes, binaries included.
//!
//! The format is git's (gitformat-patch(5), diff-format): names quoted where they hold anything
//! odd, full blob names in `index` lines, binaries as `GIT binary patch` literals.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use similar::{ChangeTag, TextDiff};

use super::arrival::{Hasher, Hashing};

/// The most that is compared line by line, in bytes; what is larger is shown as a binary is.
const LONGEST_TEXT: usize = 2 << 20;
/// Where git looks for the NUL that makes a content binary, in bytes.
const LOOKED_AT: usize = 8000;
/// How long one comparison looks for the shortest answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// One side of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Side {
    /// `100644`, `100755` or `120000`.
    pub(crate) mode: &'static str,
    /// The content, or where the link points to.
    pub(crate) content: Vec<u8>,
}

/// A change as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The patch.
    pub patch: Vec<u8>,
    /// Lines that are new.
    pub added: u64,
    /// Lines that are gone.
    pub removed: u64,
    /// For what has no lines: bytes before and after.
    pub binary: Option<(u64, u64)>,
}

/// Writes one change. A link that became a file goes and comes.
pub(crate) fn write(path: &Path, before: Option<&Side>, after: Option<&Side>) -> Text {
    if let (Some(old), Some(new)) = (before, after)
        && (old.mode == "120000") != (new.mode == "120000")
    {
        let (gone, come) = (write(path, before, None), write(path, None, after));
        return Text {
            patch: [gone.patch, come.patch].concat(),
            added: come.added,
            removed: gone.removed,
            binary: gone.binary.or(come.binary),
        };
    }
    let mut text = Text::default();
    let (a, b) = (prefixed("a/", path), prefixed("b/", path));
    let mut head = format!("diff --git {a} {b}\n");
    match (before, after) {
        (None, Some(new)) => head.push_str(&format!("new file mode {}\n", new.mode)),
        (Some(old), None) => head.push_str(&format!("deleted file mode {}\n", old.mode)),
        (Some(old), Some(new)) if old.mode != new.mode => {
            head.push_str(&format!("old mode {}\nnew mode {}\n", old.mode, new.mode));
        }
        _ => {}
    }
    let empty = Vec::new();
    let old = before.map_or(&empty, |side| &side.content);
    let new = after.map_or(&empty, |side| &side.content);
    if old == new && before.is_some() && after.is_some() {
        text.patch = head.into_bytes();
        return text;
    }
    let same_mode = match (before, after) {
        (Some(old), Some(new)) if old.mode == new.mode => format!(" {}", new.mode),
        _ => String::new(),
    };
    let (from, to) = (name_of(before), name_of(after));
    head.push_str(&format!("index {from}..{to}{same_mode}\n"));
    text.patch = head.into_bytes();
    if is_binary(old) || is_binary(new) {
        text.binary = Some((old.len() as u64, new.len() as u64));
        text.patch.extend_from_slice(b"GIT binary patch\n");
        literal(&mut text.patch, new);
        literal(&mut text.patch, old);
        return text;
    }
    if old.is_empty() && new.is_empty() {
        return text;
    }
    let tab = |name: &str| if name.contains(' ') && !name.starts_with('"') { "\t" } else { "" };
    let old_name = if before.is_some() { a.as_str() } else { "/dev/null" };
    let new_name = if after.is_some() { b.as_str() } else { "/dev/null" };
    let names = format!("--- {old_name}{}\n+++ {new_name}{}\n", tab(old_name), tab(new_name));
    text.patch.extend_from_slice(names.as_bytes());
    hunks(&mut text, old, new);
    text
}

fn hunks(text: &mut Text, old: &[u8], new: &[u8]) {
    // Lines end at `\n` alone, as in the format: a lone `\r` is a character like others.
    let (old, new): (Vec<&[u8]>, Vec<&[u8]>) = (lines(old), lines(new));
    let diff = TextDiff::configure().timeout(PATIENCE).diff_slices(&old, &new);
    for change in diff.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => text.added += 1,
            ChangeTag::Delete => text.removed += 1,
            ChangeTag::Equal => {}
        }
    }
    for group in diff.grouped_ops(3) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let place = |start: usize, end: usize| match end - start {
            0 => format!("{start},0"),
            1 => format!("{}", start + 1),
            count => format!("{},{count}", start + 1),
        };
        let from = place(first.old_range().start, last.old_range().end);
        let to = place(first.new_range().start, last.new_range().end);
        text.patch.extend_from_slice(format!("@@ -{from} +{to} @@\n").as_bytes());
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            text.patch.push(match change.tag() {
                ChangeTag::Insert => b'+',
                ChangeTag::Delete => b'-',
                ChangeTag::Equal => b' ',
            });
            let line: &[u8] = change.value();
            text.patch.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                text.patch.extend_from_slice(b"\n\\ No newline at end of file\n");
            }
        }
    }
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Whether a content is shown by its size alone.
pub(crate) fn is_binary(bytes: &[u8]) -> bool {
    bytes.len() > LONGEST_TEXT || bytes[..bytes.len().min(LOOKED_AT)].contains(&0)
}

/// The name of a side's blob.
fn name_of(side: Option<&Side>) -> String {
    let Some(side) = side else { return "0".repeat(40) };
    let mut hasher = Hasher::new(Hashing::Blob, side.content.len() as u64);
    hasher.update(&side.content);
    hex(&hasher.finish()[..20])
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One `literal` of a binary patch: deflated, 52 bytes a line, in git's Base 85.
fn literal(to: &mut Vec<u8>, content: &[u8]) {
    const DIGITS: &[u8; 85] =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    to.extend_from_slice(format!("literal {}\n", content.len()).as_bytes());
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // A vector takes everything.
    drop(encoder.write_all(content));
    let packed = encoder.finish().unwrap_or_default();
    for line in packed.chunks(52) {
        let length = u8::try_from(line.len()).unwrap_or(52);
        to.push(if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 });
        for word in line.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            let mut value = u32::from_be_bytes(bytes);
            let mut digits = [0; 5];
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS[(value % 85) as usize];
                value /= 85;
            }
            to.extend_from_slice(&digits);
        }
        to.push(b'\n');
    }
    to.push(b'\n');
}

fn prefixed(prefix: &str, path: &Path) -> String {
    let quoted = quoted(path);
    match quoted.strip_prefix('"') {
        Some(rest) => format!("\"{prefix}{rest}"),
        None => format!("{prefix}{quoted}"),
    }
}

/// A path as git writes it: in quotes, its bytes in octal, where it holds anything but plain ASCII.
pub(crate) fn quoted(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if bytes.iter().all(plain) {
        return bytes.iter().map(|byte| char::from(*byte)).collect();
    }
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            byte if plain(byte) => text.push(char::from(*byte)),
            byte => text.push_str(&format!("\\{byte:03o}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::{Command, Stdio};

    use super::*;

    fn side(content: &[u8]) -> Side {
        Side { mode: "100644", content: content.to_vec() }
    }

    /// Applies a patch with git itself and answers what is there then.
    fn applied(path: &Path, before: Option<&[u8]>, patch: &[u8]) -> Option<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(before) = before {
            std::fs::write(folder.path().join(path), before).unwrap();
        }
        let mut git = Command::new("git")
            .args(["apply", "--whitespace=nowarn", "-"])
            .current_dir(folder.path())
            .env("GIT_CEILING_DIRECTORIES", "/")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        git.stdin.take().unwrap().write_all(patch).unwrap();
        assert!(git.wait().unwrap().success(), "{}", String::from_utf8_lossy(patch));
        std::fs::read(folder.path().join(path)).ok()
    }

    #[test]
    fn git_applies_it() {
        let many: Vec<u8> = (0..100).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let fewer: Vec<u8> = (0..100)
            .filter(|n| n % 37 != 5)
            .flat_map(|n| format!("line {n}\n").into_bytes())
            .collect();
        let noise: Vec<u8> =
            (0..5000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let contents: [&[u8]; 9] = [
            b"one\n",
            b"one",
            b"one\r\ntwo\rthree\n",
            &many,
            &fewer,
            b"\0binary",
            &noise,
            b"\xff\xfe\n",
            b"",
        ];
        for name in ["a", "a b", "t\tn\n\"\\", "\u{e4}"] {
            let path = Path::new(name);
            for old in contents {
                for new in contents.iter().filter(|new| **new != old) {
                    let text = write(path, Some(&side(old)), Some(&side(new)));
                    assert_eq!(applied(path, Some(old), &text.patch).as_deref(), Some(*new));
                }
                let added = write(path, None, Some(&side(old)));
                assert_eq!(applied(path, None, &added.patch).as_deref(), Some(old));
                let deleted = write(path, Some(&side(old)), None);
                assert_eq!(applied(path, Some(old), &deleted.patch), None);
            }
        }
        let odd = Path::new(OsStr::from_bytes(b"\xff\x1b[2J"));
        let added = write(odd, None, Some(&side(b"x\n")));
        assert_eq!(applied(odd, None, &added.patch).as_deref(), Some(b"x\n".as_slice()));
        assert!(added.patch.is_ascii(), "{:?}", String::from_utf8_lossy(&added.patch));
    }

    #[test]
    fn lines_are_counted_and_binaries_measured() {
        let text = write(Path::new("a"), Some(&side(b"1\n2\n3\n")), Some(&side(b"1\nx\ny\n3\n")));
        assert_eq!((text.added, text.removed, text.binary), (2, 1, None));
        let text = write(Path::new("a"), Some(&side(b"1\n")), Some(&side(b"\0\0")));
        assert_eq!((text.added, text.removed, text.binary), (0, 0, Some((2, 2))));
        let old = Side { mode: "100755", content: b"1\n".to_vec() };
        let text = write(Path::new("a"), Some(&old), Some(&side(b"1\n")));
        assert_eq!(text.patch, b"diff --git a/a b/a\nold mode 100755\nnew mode 100644\n");
        let link = Side { mode: "120000", content: b"/etc".to_vec() };
        let text = write(Path::new("a"), Some(&side(b"1\n")), Some(&link));
        let shown = String::from_utf8(text.patch).unwrap();
        assert!(shown.contains("deleted file mode 100644\n"), "{shown}");
        assert!(shown.contains("new file mode 120000\n"), "{shown}");
    }
}
