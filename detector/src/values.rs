//! A session's own secrets, as the byte strings that give them away.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::Layer;
use crate::gate::Gate;
use crate::scrub::Scrubber;

/// Values shorter than this many bytes are not looked for: they would be found everywhere.
pub const SHORTEST: usize = 8;

/// A line of a key's body is looked for on its own from this many bytes on.
const SHORTEST_LINE: usize = 40;

/// Exact values to look for. Cannot be shown; wiped when it goes.
#[derive(Default)]
pub struct Values {
    names: Vec<String>,
    skipped: Vec<String>,
    /// Each value as it may stand in a text, nothing undone.
    plain: Needles,
    /// The same and its fixed encodings, for texts in which nothing is decoded.
    encoded: Needles,
    /// The length of the shortest value, in bytes.
    shortest: usize,
    /// Whether each value's Base64 holds letters of both cases, whatever surrounds it.
    mixed: bool,
}

impl Values {
    /// Compiles values by name. Those under [`SHORTEST`] bytes are left out.
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = (String, Zeroizing<String>)>) -> Self {
        let mut all = Self { shortest: usize::MAX, mixed: true, ..Self::default() };
        for (name, value) in values {
            if value.len() < SHORTEST {
                all.skipped.push(name);
                continue;
            }
            let of = all.names.len();
            all.names.push(name);
            for form in forms(&value) {
                all.shortest = all.shortest.min(form.len());
                all.mixed &= is_mixed(&form);
                for shape in encodings(&form) {
                    all.encoded.push(of, shape);
                }
                // Too short for the decoder to look at on its own.
                if form.len() < SHORTEST_DECODED {
                    base64_shapes(&form).into_iter().for_each(|shape| all.plain.push(of, shape));
                }
                all.plain.push(of, Shape { layer: None, bytes: form });
            }
        }
        all.plain.sort();
        all.encoded.sort();
        all
    }

    /// The names of the values that were too short to look for.
    #[must_use]
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// A pass over a stream that replaces every occurrence with as many filler bytes.
    #[must_use]
    pub fn scrubber(self: &Arc<Self>) -> Scrubber {
        Scrubber::new(Arc::clone(self))
    }

    pub(crate) fn name(&self, of: usize) -> &str {
        &self.names[of]
    }

    pub(crate) fn plain(&self) -> &Needles {
        &self.plain
    }

    pub(crate) fn encoded(&self) -> &Needles {
        &self.encoded
    }

    /// The length of the shortest value; none if there is no value.
    pub(crate) fn shortest(&self) -> Option<usize> {
        (!self.names.is_empty()).then_some(self.shortest)
    }

    pub(crate) fn mixed(&self) -> bool {
        self.mixed
    }
}

/// Values from this length on have Base64 long enough to be decoded wherever it stands.
const SHORTEST_DECODED: usize = 18;

/// Byte strings to look for at places that a gate lets through.
#[derive(Default)]
pub(crate) struct Needles {
    all: Vec<Needle>,
    pub(crate) gate: Gate,
    pub(crate) longest: usize,
}

/// One byte string.
pub(crate) struct Needle {
    /// The first four bytes, by which needles are sorted.
    key: [u8; 4],
    /// Whose it is.
    pub(crate) of: usize,
    pub(crate) shape: Shape,
}

/// A value as it may stand in a text.
pub(crate) struct Shape {
    /// The encoding that was put on it.
    pub(crate) layer: Option<Layer>,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

impl Needles {
    fn push(&mut self, of: usize, shape: Shape) {
        let [a, b, c, d, ..] = shape.bytes[..] else { return };
        if self.all.iter().any(|known| known.of == of && known.shape.bytes == shape.bytes) {
            return;
        }
        self.gate.open(&shape.bytes, false);
        self.longest = self.longest.max(shape.bytes.len());
        self.all.push(Needle { key: [a, b, c, d], of, shape });
    }

    fn sort(&mut self) {
        self.all.sort_by(|a, b| a.shape.bytes[..].cmp(&b.shape.bytes[..]));
    }

    /// The needles that the text begins with, or that begin with the text.
    pub(crate) fn at(&self, text: &[u8], mut found: impl FnMut(usize, Fit)) {
        let [a, b, c, d, ..] = *text else {
            let starts = |needle: &Needle| needle.shape.bytes.starts_with(text);
            (0..self.all.len())
                .filter(|i| starts(&self.all[*i]))
                .for_each(|i| found(i, Fit::Begun));
            return;
        };
        let key = [a, b, c, d];
        let first = self.all.partition_point(|needle| needle.key < key);
        for (i, needle) in self.all.iter().enumerate().skip(first).take_while(|(_, n)| n.key == key)
        {
            match needle.fit(text) {
                Some(fit) => found(i, fit),
                None => continue,
            }
        }
    }

    pub(crate) fn get(&self, at: usize) -> &Needle {
        &self.all[at]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// How far a text goes along with a needle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The needle is there.
    Whole,
    /// All there is of the text is the needle's beginning.
    Begun,
}

impl Needle {
    pub(crate) fn fit(&self, text: &[u8]) -> Option<Fit> {
        let needle = &self.shape.bytes[..];
        if text.starts_with(needle) {
            Some(Fit::Whole)
        } else {
            needle.starts_with(text).then_some(Fit::Begun)
        }
    }

    pub(crate) fn span(&self, at: u64) -> Range<u64> {
        at..at + self.shape.bytes.len() as u64
    }
}

type Bytes = Zeroizing<Vec<u8>>;

/// A value as it is, without the line end that files have, with either line end, as JSON and forms
/// write it, and the lines of a key.
fn forms(value: &str) -> Vec<Bytes> {
    let mut texts: Vec<Zeroizing<String>> = vec![Zeroizing::new(value.to_owned())];
    let trimmed = value.trim_matches(['\r', '\n']);
    if trimmed.len() >= SHORTEST {
        texts.push(Zeroizing::new(trimmed.to_owned()));
        let unix = Zeroizing::new(trimmed.replace("\r\n", "\n"));
        texts.push(Zeroizing::new(unix.replace('\n', "\r\n")));
        texts.push(unix);
    }
    let mut more = Vec::new();
    for text in &texts {
        more.push(json(text, false));
        more.push(json(text, true));
        more.push(Zeroizing::new(text.replace(' ', "+")));
    }
    more.extend(key_lines(trimmed));
    texts.extend(more);
    texts.iter().map(|text| Zeroizing::new(text.as_bytes().to_vec())).collect()
}

/// As a JSON string has it (RFC 8259, section 7), between the quotes.
fn json(text: &str, slashes: bool) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 2));
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '/' if slashes => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out
}

/// The lines of a PEM body: a key is also a key indented or wrapped anew. Its first line is left
/// out, since all keys of one kind begin alike.
fn key_lines(value: &str) -> Vec<Zeroizing<String>> {
    if !value.starts_with("-----BEGIN ") {
        return Vec::new();
    }
    let is_body = |line: &&str| {
        line.len() >= SHORTEST_LINE
            && line.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    let body = value.lines().map(str::trim).filter(is_body);
    body.skip(1).map(|line| Zeroizing::new(line.to_owned())).collect()
}

/// A form and its encodings that are one fixed byte string each.
fn encodings(form: &Bytes) -> Vec<Shape> {
    let mut shapes = vec![Shape { layer: None, bytes: form.clone() }];
    shapes.extend(base64_shapes(form));
    for digits in [LOWER, UPPER] {
        let mut hex = Zeroizing::new(Vec::with_capacity(form.len() * 2));
        form.iter().for_each(|byte| hex.extend(hex_pair(digits, *byte)));
        shapes.push(Shape { layer: Some(Layer::Hex), bytes: hex });
        // What RFC 3986 leaves alone, what `encodeURIComponent` leaves alone, what forms leave alone, nothing.
        for spared in [&b"-._~"[..], b"-._~!*'()", b"-._*", b""] {
            let all = spared.is_empty();
            let mut out = Zeroizing::new(Vec::with_capacity(form.len() * 3));
            for byte in form.iter() {
                if !all && (byte.is_ascii_alphanumeric() || spared.contains(byte)) {
                    out.push(*byte);
                } else {
                    out.push(b'%');
                    out.extend(hex_pair(digits, *byte));
                }
            }
            if out.contains(&b'%') {
                shapes.push(Shape { layer: Some(Layer::Percent), bytes: out });
            }
        }
    }
    shapes
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

fn hex_pair(digits: &[u8; 16], byte: u8) -> [u8; 2] {
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The characters that a form fixes in any Base64 text that holds it: at each of the three places
/// where it can begin, without the characters that it shares with its neighbours.
fn base64_shapes(form: &[u8]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for alphabet in [STANDARD, URL_SAFE] {
        for lead in 0..3 {
            shapes.push(Shape {
                layer: Some(Layer::Base64),
                bytes: base64_inside(alphabet, form, lead),
            });
        }
    }
    shapes
}

/// The characters fixed when `lead` bytes stand before the form in its first group of three.
fn base64_inside(alphabet: &[u8; 64], form: &[u8], lead: usize) -> Bytes {
    let bit = |at: usize| (form[at / 8] >> (7 - at % 8)) & 1;
    let skipped = (6 - lead * 8 % 6) % 6;
    let mut out = Zeroizing::new(Vec::with_capacity(form.len() * 4 / 3 + 1));
    let mut at = skipped;
    while at + 6 <= form.len() * 8 {
        let sextet = (at..at + 6).fold(0, |sum, i| sum << 1 | bit(i));
        out.push(alphabet[usize::from(sextet)]);
        at += 6;
    }
    out
}

/// Whether Base64 text that holds the form always has letters of both cases.
fn is_mixed(form: &[u8]) -> bool {
    (0..3).all(|lead| {
        let inside = base64_inside(STANDARD, form, lead);
        inside.iter().any(u8::is_ascii_uppercase) && inside.iter().any(u8::is_ascii_lowercase)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(shapes: &[Shape], text: &str) -> bool {
        shapes.iter().any(|shape| &shape.bytes[..] == text.as_bytes())
    }

    #[test]
    fn base64_inside_is_what_every_text_around_it_shares() {
        // "abcdefgh" is YWJjZGVmZ2g=; after one byte, ?mFiY2RlZmdo; after two, ??hYmNkZWZnaA.
        let shapes = base64_shapes(b"abcdefgh");
        assert!(holds(&shapes, "YWJjZGVmZ2"));
        assert!(holds(&shapes, "FiY2RlZmdo"));
        assert!(holds(&shapes, "hYmNkZWZna"));
    }

    #[test]
    fn short_values_are_left_out_and_named() {
        let values = ["1234567", "12345678"].map(|v| (v.to_owned(), Zeroizing::new(v.to_owned())));
        let values = Values::new(values);
        assert_eq!(values.skipped(), ["1234567"]);
        assert_eq!(values.shortest(), Some(8));
    }

    #[test]
    fn forms_follow_line_ends_and_json() {
        let forms = forms("one/two\nthree\n");
        let has = |text: &str| forms.iter().any(|form| &form[..] == text.as_bytes());
        assert!(has("one/two\nthree\n"));
        assert!(has("one/two\nthree"));
        assert!(has("one/two\r\nthree"));
        assert!(has("one/two\\nthree"));
        assert!(has("one\\/two\\nthree\\n"));
    }

    #[test]
    fn a_keys_lines_are_looked_for_but_not_its_first() {
        let line = |c: char| c.to_string().repeat(64);
        let key =
            format!("-----BEGIN KEY-----\n{}\n{}\nabc=\n-----END KEY-----\n", line('a'), line('b'));
        let lines = key_lines(&key);
        assert_eq!(lines.len(), 1);
        assert_eq!(**lines[0], line('b'));
    }
}
