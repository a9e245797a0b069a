//! Runs of Base64 or hex characters in a text, decoded as they come.
//!
//! A run begins with a word of at least so many characters of the alphabet, and goes on over single line
//! ends. Nobody says where in it the encoded text begins, so it is decoded from each of the first
//! four (two) characters on: that costs a few passes over runs, and no pass over anything else.

use std::ops::Range;
use std::sync::LazyLock;

use crate::halves::{Halves, Word};
use crate::level::{Engine, Level, Pool};
use crate::text::{Origins, Text};
use crate::{Finding, Layer};

/// What marks a character as not of the alphabet.
const NO: u8 = 0xFF;

/// Both alphabets of RFC 4648 at once: they differ in two characters, and nobody says which it is.
const BASE64: [u8; 256] = {
    let mut table = [NO; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut i = 0;
    while i < 64 {
        table[alphabet[i] as usize] = i as u8;
        i += 1;
    }
    table[b'-' as usize] = 62;
    table[b'_' as usize] = 63;
    table
};

const HEX: [u8; 256] = {
    let mut table = [NO; 256];
    let mut i = 0;
    while i < 10 {
        table[b'0' as usize + i] = i as u8;
        i += 1;
    }
    i = 0;
    while i < 6 {
        table[b'a' as usize + i] = 10 + i as u8;
        table[b'A' as usize + i] = 10 + i as u8;
        i += 1;
    }
    table
};

/// The same two sets of characters, for many at once.
static IN_BASE64: LazyLock<Halves> =
    LazyLock::new(|| Halves::exactly(|byte| BASE64[usize::from(byte)] != NO));
static IN_HEX: LazyLock<Halves> =
    LazyLock::new(|| Halves::exactly(|byte| HEX[usize::from(byte)] != NO));

/// Up to this many characters, a run of Base64 that lacks capitals or small letters is taken for words
/// and not decoded. Longer ones always are.
pub(crate) const WORDS: usize = 512;

/// Finds the runs of one alphabet, and scans what they decode to.
pub(crate) struct Runs {
    layer: Layer,
    table: &'static [u8; 256],
    alphabet: &'static Halves,
    /// How many characters are decoded to how many bytes.
    group: (usize, usize),
    /// Where the word begins that is being looked at; all before is done with.
    from: u64,
    /// Up to where that word is known to be of the alphabet.
    known: u64,
    open: bool,
    run: Run,
}

/// The run at hand.
#[derive(Default)]
struct Run {
    start: u64,
    /// Up to where characters were taken.
    taken: u64,
    /// The values of characters that some phase has not decoded yet.
    units: Vec<u8>,
    /// How many came before those.
    dropped: u64,
    origins: Origins,
    /// Empty until it is decided that the run is decoded.
    phases: Vec<Phase>,
}

/// A run, decoded from one of its first characters on.
struct Phase {
    /// The first character decoded.
    first: u64,
    /// The next one.
    next: u64,
    level: Box<Level>,
}

/// What a look at the text after a word says.
enum After {
    /// A line end of so many bytes, and the run goes on.
    LineEnd(u64),
    Over,
    /// There is too little text to say.
    Unknown,
}

impl Runs {
    pub(crate) fn new(layer: Layer) -> Self {
        let (table, alphabet, group) = match layer {
            Layer::Hex => (&HEX, &*IN_HEX, (2, 1)),
            _ => (&BASE64, &*IN_BASE64, (4, 3)),
        };
        Self { layer, table, alphabet, group, from: 0, known: 0, open: false, run: Run::default() }
    }

    pub(crate) fn clear(&mut self) {
        (self.from, self.known, self.open) = (0, 0, false);
        self.run.units.clear();
        self.run.phases.clear();
    }

    /// No finding that is still to come begins before this offset.
    pub(crate) fn settled(&self, text: &Text) -> u64 {
        if !self.open {
            // The word at the end may become a run.
            let (bytes, base) = text.all();
            let since = text.index(self.from);
            let begins = bytes[since..]
                .iter()
                .rposition(|b| !self.is_one(*b))
                .map_or(since, |at| since + at + 1);
            return base + begins as u64;
        }
        let of = |phase: &Phase| self.origin(phase, phase.level.settled()).min(self.run.taken);
        self.run.phases.iter().map(of).min().unwrap_or(self.run.start)
    }

    /// The text is needed from this offset on.
    pub(crate) fn needs(&self) -> u64 {
        if self.open { self.run.taken } else { self.from }
    }

    /// Looks at what is new in the text.
    pub(crate) fn advance(
        &mut self,
        engine: &Engine,
        text: &Text,
        depth: u8,
        pool: &mut Pool,
        found: &mut Vec<Finding>,
    ) {
        let shortest =
            if self.layer == Layer::Hex { engine.shortest_hex } else { engine.shortest_base64 };
        while self.open || self.search(text, shortest) {
            self.open = true;
            let over = self.take(text);
            let long = self.run.units.len() > WORDS;
            if self.run.phases.is_empty() && (long || over && self.is_worth_decoding(engine)) {
                self.begin(depth, pool);
            }
            self.decode(engine, over, found);
            if !over {
                return;
            }
            for phase in self.run.phases.drain(..) {
                pool.put(phase.level);
            }
            self.open = false;
            (self.from, self.known) = (self.run.taken, self.run.taken);
        }
    }

    #[inline]
    fn is_one(&self, byte: u8) -> bool {
        self.table[usize::from(byte)] != NO
    }

    /// Looks for a word that is long enough. A byte that is none of the alphabet rules out every word
    /// across it, so most bytes are never looked at.
    fn search(&mut self, text: &Text, shortest: usize) -> bool {
        let (bytes, base) = text.all();
        let mut word = Word { from: text.index(self.from), known: text.index(self.known) };
        let mut opens = self.alphabet.find_word(bytes, &mut word, shortest);
        let Word { mut from, mut known } = word;
        while !opens && let Some(word) = bytes.get(known..from + shortest) {
            let end = from + shortest;
            match last_blank(word).or_else(|| word.iter().rposition(|b| !self.is_one(*b))) {
                Some(at) => (from, known) = (known + at + 1, end),
                None => opens = true,
            }
        }
        (self.from, self.known) = (base + from as u64, base + known as u64);
        if opens {
            let run = &mut self.run;
            (run.start, run.taken, run.dropped) = (self.from, self.from, 0);
            run.units.clear();
            run.origins.start(self.from);
        }
        opens
    }

    /// Takes the run's characters out of the text, as far as they are there; answers whether it is
    /// over.
    fn take(&mut self, text: &Text) -> bool {
        let run = &mut self.run;
        loop {
            let rest = text.slice(run.taken..u64::MAX);
            let many = self.alphabet.count_ahead(rest);
            let few = rest[many..].iter().position(|b| self.table[usize::from(*b)] == NO);
            let word = few.map_or(rest.len(), |few| many + few);
            run.units.extend(rest[..word].iter().map(|b| self.table[usize::from(*b)]));
            run.taken += word as u64;
            match after(&rest[word..], self.table, text.ended) {
                After::LineEnd(length) => {
                    run.taken += length;
                    run.origins.jump(run.dropped + run.units.len() as u64, run.taken);
                }
                After::Over => return true,
                After::Unknown => return false,
            }
        }
    }

    /// Short runs of Base64 are decoded if they have letters of both cases: words and paths do not,
    /// encoded text does.
    fn is_worth_decoding(&self, engine: &Engine) -> bool {
        let units = &self.run.units;
        self.layer == Layer::Hex
            || !engine.mixed
            || units.len() > WORDS
            || units.iter().any(|u| *u < 26) && units.iter().any(|u| (26..52).contains(u))
    }

    fn begin(&mut self, depth: u8, pool: &mut Pool) {
        for first in 0..self.group.0 as u64 {
            let level = pool.take(depth + 1);
            self.run.phases.push(Phase { first, next: first, level });
        }
    }

    /// Decodes what is there, in each phase.
    fn decode(&mut self, engine: &Engine, over: bool, found: &mut Vec<Finding>) {
        let mut phases = std::mem::take(&mut self.run.phases);
        let mut bytes = Vec::new();
        for phase in &mut phases {
            let units = &self.run.units;
            // The run may be shorter than where this phase begins.
            let from = units.len().min((phase.next - self.run.dropped) as usize);
            let rest = &units[from..];
            let whole = rest.len() - rest.len() % self.group.0;
            bytes.clear();
            decode_groups(self.layer, &rest[..whole], &mut bytes);
            phase.next += whole as u64;
            if over {
                decode_last(self.layer, &rest[whole..], &mut bytes);
            }
            let below = if over {
                phase.level.feed_last(engine, &bytes)
            } else {
                phase.level.feed(engine, &bytes)
            };
            for mut finding in below {
                finding.span = self.origin_of(phase, &finding.span);
                finding.layers.insert(0, self.layer);
                found.push(finding);
            }
        }
        let done = phases.iter().map(|phase| phase.next).min().unwrap_or(0);
        let kept = phases.iter().map(|p| self.unit(p, p.level.settled())).min().unwrap_or(0);
        self.run.phases = phases;
        if let Some(behind) = done.checked_sub(self.run.dropped).filter(|n| *n > 0) {
            self.run.units.drain(..self.run.units.len().min(behind as usize));
            self.run.dropped = done;
        }
        self.run.origins.forget_before(kept);
    }

    /// The character in which a decoded byte begins.
    fn unit(&self, phase: &Phase, byte: u64) -> u64 {
        phase.first + byte * self.group.0 as u64 / self.group.1 as u64
    }

    /// Where a decoded byte comes from.
    fn origin(&self, phase: &Phase, byte: u64) -> u64 {
        self.run.origins.begin(self.unit(phase, byte))
    }

    /// The characters that decoded bytes come from.
    fn origin_of(&self, phase: &Phase, bytes: &Range<u64>) -> Range<u64> {
        let (chars, per) = (self.group.0 as u64, self.group.1 as u64);
        let end = phase.first + (bytes.end * chars).div_ceil(per);
        self.origin(phase, bytes.start)..self.run.origins.end(end)
    }
}

/// The last of the last eight bytes that is below `+`, the first character of either alphabet: a space, a
/// bracket, a quote, a line end. All eight at once, since nearly every word ends that way.
#[inline]
fn last_blank(word: &[u8]) -> Option<usize> {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const UP_TO_PLUS: u64 = 0x5555_5555_5555_5555;
    let eight = u64::from_le_bytes(*word.last_chunk()?);
    // A byte's high bit is set by the sum, or was, from `+` on: 0x2B and 0x55 are 0x80.
    let blank = !(((eight & !HIGH) + UP_TO_PLUS) | eight) & HIGH;
    let after = blank.leading_zeros() as usize / 8;
    (blank != 0).then(|| word.len() - 1 - after)
}

/// A single line end, plain or as JSON writes it, with the run going on behind it.
fn after(rest: &[u8], table: &[u8; 256], ended: bool) -> After {
    const LINE_ENDS: [&[u8]; 4] = [b"\n", b"\r\n", b"\\n", b"\\r\\n"];
    for line_end in LINE_ENDS {
        if let Some(next) = rest.strip_prefix(line_end) {
            return match next.first() {
                Some(byte) if table[usize::from(*byte)] != NO => {
                    After::LineEnd(line_end.len() as u64)
                }
                None if !ended => After::Unknown,
                _ => After::Over,
            };
        }
        if !ended && line_end.starts_with(rest) {
            return After::Unknown;
        }
    }
    After::Over
}

fn decode_groups(layer: Layer, units: &[u8], out: &mut Vec<u8>) {
    if layer == Layer::Hex {
        out.extend(units.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
        return;
    }
    out.resize(units.len() / 4 * 3, 0);
    for (group, bytes) in units.chunks_exact(4).zip(out.chunks_exact_mut(3)) {
        bytes[0] = group[0] << 2 | group[1] >> 4;
        bytes[1] = group[1] << 4 | group[2] >> 2;
        bytes[2] = group[2] << 6 | group[3];
    }
}

/// The whole bytes in a group that is not full.
fn decode_last(layer: Layer, units: &[u8], out: &mut Vec<u8>) {
    if layer == Layer::Hex {
        return;
    }
    if let [a, b, rest @ ..] = units {
        out.push(a << 2 | b >> 4);
        if let [c, ..] = rest {
            out.push(b << 4 | c >> 2);
        }
    }
}
