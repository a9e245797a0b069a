//! Finds secrets in bytes: token patterns in gitleaks' rule format, and the exact values of a
//! session's own secrets, plain and encoded.
//!
//! Bytes in, findings out: no I/O, no clock, no thread. Egress scans requests with it as they
//! stream, the git gate scans objects.
//!
//! # What is found, and within which limits
//!
//! - A stream finds exactly what a scan of the whole finds, however it was cut: each place is judged
//!   once all bytes are there that judging it may depend on, and by those alone.
//! - Encodings are undone [`LAYERS`] deep, in any order: Base64 (both alphabets, wherever it begins in
//!   a run of such characters, over line ends, padded or not), hex, percent encoding, and the numeric
//!   escapes of JSON and the like. Runs and stretches may be of any length; memory stays constant.
//! - A run is decoded from 24 characters of Base64 or 40 of hex on, which no token is too short for; from
//!   fewer where a value asks for it. Base64 of up to 512 characters without a capital or
//!   without a small letter is taken for words (and is decoded all the same if a value could look
//!   like that). Lines of wrapped Base64 have to be as long as a run, the last aside.
//! - A match of a rule is looked for within [`LONGEST_MATCH`] bytes from where it begins, and a keyword
//!   that is not its beginning within [`KEYWORD_REACH`] bytes of it. Values may be of any length.
//! - Each text may ask for so much work and no more: beyond 512 bytes looked at by patterns for
//!   each of its own bytes, rules are no longer tried there, which is a finding ([`LIMIT_WORK`]) and is
//!   told by [`Stream::exceeded`]. Values are looked for all the same.
//! - What is held back while nothing is found ([`Stream::settled`]): with the built-in rules about half a
//!   kilobyte of text, or as much as the longest value; with rules that have no prefix about
//!   three more. Below an encoding it is so much of what it decodes to.

mod escapes;
mod gate;
mod halves;
mod level;
mod mask;
mod rules;
mod runs;
mod scrub;
mod text;
pub mod unpack;
mod values;

use std::ops::Range;
use std::sync::Arc;

pub use level::LAYERS;
pub use mask::mask;
pub use rules::{KEYWORD_REACH, LONGEST_MATCH, Rules, RulesError};
pub use scrub::Scrubber;
pub use values::{SHORTEST, Values};

use level::{Engine, Level};

/// The rule of which a finding says that a text asked for too much work, so that not all rules were
/// tried on it. Treat it as a leak: this is how one would be hidden.
pub const LIMIT_WORK: &str = "limit-work";

/// What is looked for, and under which name findings are reported.
#[derive(Clone)]
pub struct Detector {
    engine: Arc<Engine>,
}

impl Detector {
    /// A detector; `None` leaves that half out.
    #[must_use]
    pub fn new(rules: Option<Arc<Rules>>, values: Option<Arc<Values>>) -> Self {
        Self { engine: Arc::new(Engine::new(rules, values, None)) }
    }

    /// The same for the text of a file: rules and allow-lists that name paths apply. Without a path,
    /// rules that are for certain files alone are not tried.
    #[must_use]
    pub fn for_path(&self, path: &str) -> Self {
        let (rules, values) = (self.engine.rules.clone(), self.engine.values.clone());
        Self { engine: Arc::new(Engine::new(rules, values, Some(path.to_owned()))) }
    }

    /// Whether any rule is for files of certain paths alone: then [`Detector::for_path`] tries more.
    #[must_use]
    pub fn asks_for_paths(&self) -> bool {
        self.engine.rules.as_ref().is_some_and(|rules| rules.ask_for_paths())
    }

    /// All findings in a whole text, in order of where they begin.
    #[must_use]
    pub fn scan(&self, bytes: &[u8]) -> Vec<Finding> {
        let mut stream = self.stream();
        // In pieces, so that no copy of the whole is made.
        let mut found: Vec<Finding> =
            bytes.chunks(64 << 10).flat_map(|piece| stream.feed(piece)).collect();
        found.extend(stream.finish());
        found.sort_by(|a, b| a.order().cmp(&b.order()));
        found
    }

    /// A pass over bytes that arrive in pieces. Finds exactly what [`Detector::scan`] finds in the
    /// pieces put together.
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream { engine: Arc::clone(&self.engine), level: Level::new(0), exceeded: false }
    }
}

/// A secret that was found. Never holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What matched.
    pub what: What,
    /// Where, in the bytes as they were given: the secret's own bytes. For what was found below
    /// encodings, the encoded characters that hold it. A rule that asks for a file's path alone
    /// has the span `0..0`.
    pub span: Range<u64>,
    /// The encodings it was found below, outermost first: `base64`, `hex`, `percent`, `escape`.
    pub layers: Vec<Layer>,
}

impl Finding {
    fn order(&self) -> (u64, u64, &What, &[Layer]) {
        (self.span.start, self.span.end, &self.what, &self.layers)
    }
}

/// What matched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A session's own secret, by name.
    Value(String),
    /// A token pattern, by rule id; or [`LIMIT_WORK`].
    Rule(String),
}

/// An encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// RFC 4648, sections 4 and 5, with or without padding.
    Base64,
    /// RFC 4648, section 8.
    Hex,
    /// RFC 3986, section 2.1.
    Percent,
    /// Escapes of JSON strings, RFC 8259, section 7, and `\x41`.
    Escape,
}

/// A pass over bytes that arrive in pieces.
pub struct Stream {
    engine: Arc<Engine>,
    level: Level,
    exceeded: bool,
}

impl Stream {
    /// Takes the next piece; what is found with it.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<Finding> {
        let found = self.level.feed(&self.engine, piece);
        self.note(found)
    }

    /// Takes the end; what is found with it.
    pub fn finish(&mut self) -> Vec<Finding> {
        let mut found = self.level.finish(&self.engine);
        let rules = self.engine.rules.iter();
        found.extend(
            rules.flat_map(|rules| self.engine.by_path.iter().map(|rule| rules.id(*rule))).map(
                |id| Finding { what: What::Rule(id.to_owned()), span: 0..0, layers: Vec::new() },
            ),
        );
        self.note(found)
    }

    /// No later finding begins before this offset: what lies before it may go out. (Findings on a file's
    /// path aside, which have no place.)
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.level.settled()
    }

    /// Whether the text asked for more work than it may, so that some rules were not tried everywhere.
    #[must_use]
    pub fn exceeded(&self) -> bool {
        self.exceeded
    }

    fn note(&mut self, found: Vec<Finding>) -> Vec<Finding> {
        let limit = |finding: &Finding| matches!(&finding.what, What::Rule(id) if id == LIMIT_WORK);
        self.exceeded |= found.iter().any(limit);
        found
    }
}
