//! Escaped stretches of a text, undone as they come: `%41`, and `\u0041` or `\x41`.
//!
//! Any byte may stand escaped or as it is, so a stretch is a neighbourhood of escapes: it begins
//! so many bytes before the first and ends as many after the last. What is found in it counts only if
//! an escape is part of it: the rest is found without.

use std::collections::VecDeque;
use std::ops::Range;

use crate::level::{Engine, Level, Pool};
use crate::text::{Origins, Text};
use crate::{Finding, LIMIT_WORK, Layer, What};

/// Undoes one kind of escapes, and scans what comes out.
pub(crate) struct Escapes {
    layer: Layer,
    /// Up to where escapes were looked for.
    scanned: u64,
    /// `\n` and the like, which are undone near others but do not ask for it themselves: program text
    /// is full of them. Those that are not behind us yet.
    simple: VecDeque<Token>,
    open: bool,
    stretch: Stretch,
}

/// So many bytes are worth a step down.
const ENOUGH: usize = 32 << 10;

#[derive(Default)]
struct Stretch {
    /// Up to where the text was handed down.
    fed: u64,
    /// Where the last escape ended.
    last: u64,
    /// How many bytes were made of it.
    made: u64,
    /// Those that are not handed down yet: escapes are many, and each step down costs.
    ready: Vec<u8>,
    origins: Origins,
    level: Option<Box<Level>>,
}

/// An escape.
struct Token {
    at: u64,
    length: u64,
    means: [u8; 3],
    bytes: usize,
    opens: bool,
}

/// What an escape character begins.
enum Escape {
    Is(Token),
    No,
    /// There is too little text to say.
    Unknown,
}

impl Escapes {
    pub(crate) fn new(layer: Layer) -> Self {
        Self {
            layer,
            scanned: 0,
            simple: VecDeque::new(),
            open: false,
            stretch: Stretch::default(),
        }
    }

    pub(crate) fn clear(&mut self) {
        (self.scanned, self.open) = (0, false);
        self.simple.clear();
    }

    /// No finding that is still to come begins before this offset.
    pub(crate) fn settled(&self, engine: &Engine) -> u64 {
        match &self.stretch.level {
            Some(level) if self.open => {
                self.stretch.origins.begin(level.settled()).min(self.stretch.fed)
            }
            _ => self.scanned.saturating_sub(engine.around),
        }
    }

    /// The text is needed from this offset on.
    pub(crate) fn needs(&self, engine: &Engine) -> u64 {
        let before = self.scanned.saturating_sub(engine.around);
        if self.open { before.min(self.stretch.fed) } else { before }
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
        while let Some(token) = self.next(text) {
            self.scanned = token.at + token.length;
            if !token.opens {
                self.simple.push_back(token);
                continue;
            }
            if self.open && token.at > self.stretch.last + 2 * engine.around {
                self.close(engine, text, found, pool);
            }
            if !self.open {
                self.begin(engine, &token, depth, pool);
            }
            self.feed_until(text, token.at);
            self.feed_token(&token);
            self.stretch.last = self.scanned;
            if self.stretch.ready.len() >= ENOUGH {
                self.hand_down(engine, found);
            }
        }
        if self.open {
            let until = self.scanned.min(self.stretch.last + engine.around);
            self.feed_until(text, until);
            self.hand_down(engine, found);
            if text.ended || self.scanned > self.stretch.last + 2 * engine.around {
                self.close(engine, text, found, pool);
            }
        }
        let behind =
            if self.open { self.stretch.fed } else { self.scanned.saturating_sub(engine.around) };
        while self.simple.front().is_some_and(|token| token.at < behind) {
            self.simple.pop_front();
        }
    }

    /// The next escape. Moves up to it, or to where more text is needed.
    fn next(&mut self, text: &Text) -> Option<Token> {
        let character = if self.layer == Layer::Percent { b'%' } else { b'\\' };
        loop {
            let rest = text.slice(self.scanned..u64::MAX);
            let Some(at) = memchr::memchr(character, rest) else {
                self.scanned = text.end();
                return None;
            };
            self.scanned += at as u64;
            let escape = match self.layer {
                Layer::Percent => percent(&rest[at..], self.scanned),
                _ => backslash(&rest[at..], self.scanned),
            };
            match escape {
                Escape::Is(token) => return Some(token),
                Escape::Unknown if !text.ended => return None,
                Escape::No | Escape::Unknown => self.scanned += 1,
            }
        }
    }

    fn begin(&mut self, engine: &Engine, token: &Token, depth: u8, pool: &mut Pool) {
        let start = token.at.saturating_sub(engine.around);
        let stretch = &mut self.stretch;
        (stretch.fed, stretch.made) = (start, 0);
        stretch.ready.clear();
        stretch.origins.start(start);
        stretch.level = Some(pool.take(depth + 1));
        self.open = true;
    }

    fn close(&mut self, engine: &Engine, text: &Text, found: &mut Vec<Finding>, pool: &mut Pool) {
        let until = text.end().min(self.stretch.last + engine.around);
        self.feed_until(text, until);
        self.hand_down(engine, found);
        if let Some(mut level) = self.stretch.level.take() {
            let below = level.finish(engine);
            self.report(below, found);
            pool.put(level);
        }
        self.open = false;
    }

    /// Takes the text up to an offset, simple escapes undone.
    fn feed_until(&mut self, text: &Text, until: u64) {
        while self.simple.front().is_some_and(|token| token.at + token.length <= until) {
            let Some(token) = self.simple.pop_front() else { break };
            if token.at >= self.stretch.fed {
                self.feed_plain(text, token.at);
                self.feed_token(&token);
            }
        }
        // One that only begins before the offset waits for the rest of it.
        let begun = self.simple.front().map(|token| token.at);
        self.feed_plain(text, begun.map_or(until, |at| at.min(until)));
    }

    fn feed_plain(&mut self, text: &Text, until: u64) {
        let stretch = &mut self.stretch;
        if until <= stretch.fed {
            return;
        }
        let plain = text.slice(stretch.fed..until);
        stretch.made += plain.len() as u64;
        stretch.fed = until;
        stretch.ready.extend_from_slice(plain);
    }

    fn feed_token(&mut self, token: &Token) {
        let stretch = &mut self.stretch;
        stretch.fed = token.at + token.length;
        // More bytes than one come from the same place: each but the first is a jump back to it.
        for _ in 1..token.bytes {
            stretch.made += 1;
            stretch.origins.jump(stretch.made, token.at);
        }
        stretch.made += 1;
        stretch.origins.jump(stretch.made, stretch.fed);
        stretch.ready.extend_from_slice(&token.means[..token.bytes]);
    }

    fn hand_down(&mut self, engine: &Engine, found: &mut Vec<Finding>) {
        let Some(level) = &mut self.stretch.level else { return };
        let below = level.feed(engine, &self.stretch.ready);
        let kept = level.settled();
        self.stretch.ready.clear();
        self.report(below, found);
        self.stretch.origins.forget_before(kept);
    }

    fn report(&self, below: Vec<Finding>, found: &mut Vec<Finding>) {
        let origins = &self.stretch.origins;
        for mut finding in below {
            finding.span = origin_of(origins, &finding.span);
            let limit = finding.what == What::Rule(LIMIT_WORK.into());
            if limit || origins.jumps_within(&finding.span) {
                finding.layers.insert(0, self.layer);
                found.push(finding);
            }
        }
    }
}

/// The bytes of the stream that bytes handed down come from.
fn origin_of(origins: &Origins, bytes: &Range<u64>) -> Range<u64> {
    let start = origins.begin(bytes.start);
    // Where the last byte ends is where the next begins.
    start..origins.begin(bytes.end).max(start)
}

fn digit(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

fn percent(rest: &[u8], at: u64) -> Escape {
    match rest {
        [_, a, b, ..] => match (digit(*a), digit(*b)) {
            (Some(a), Some(b)) => Escape::Is(Token::byte(at, 3, (a << 4 | b) as u8, true)),
            _ => Escape::No,
        },
        _ => Escape::Unknown,
    }
}

/// JSON's escapes (RFC 8259, section 7), and `\x41`, which other languages have.
fn backslash(rest: &[u8], at: u64) -> Escape {
    let simple = |byte| Escape::Is(Token::byte(at, 2, byte, false));
    match rest {
        [_] | [] => Escape::Unknown,
        [_, b'u', digits @ ..] => {
            let Some(digits) = digits.get(..4) else {
                let known = digits.iter().all(u8::is_ascii_hexdigit);
                return if known { Escape::Unknown } else { Escape::No };
            };
            let code = digits.iter().try_fold(0, |code, byte| Some(code << 4 | digit(*byte)?));
            // Half of a pair means nothing by itself, and no secret has characters that need one.
            let Some(character) = code.and_then(char::from_u32) else { return Escape::No };
            let mut means = [0; 3];
            let bytes = character.encode_utf8(&mut means).len();
            Escape::Is(Token { at, length: 6, means, bytes, opens: true })
        }
        [_, b'x', digits @ ..] => match digits {
            [a, b, ..] => match (digit(*a), digit(*b)) {
                (Some(a), Some(b)) => Escape::Is(Token::byte(at, 4, (a << 4 | b) as u8, true)),
                _ => Escape::No,
            },
            _ => Escape::Unknown,
        },
        [_, b'n', ..] => simple(b'\n'),
        [_, b'r', ..] => simple(b'\r'),
        [_, b't', ..] => simple(b'\t'),
        [_, byte @ (b'"' | b'\'' | b'\\' | b'/'), ..] => simple(*byte),
        _ => Escape::No,
    }
}

impl Token {
    fn byte(at: u64, length: u64, byte: u8, opens: bool) -> Self {
        Self { at, length, means: [byte, 0, 0], bytes: 1, opens }
    }
}
