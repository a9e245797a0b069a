//! Finds secrets in bytes: token patterns in gitleaks' rule format, and the exact values of a
//! session's own secrets, plain and encoded.
//!
//! Bytes in, findings out: no I/O, no clock, no thread. Egress scans requests with it as they
//! stream, the git gate scans objects.

pub mod unpack;

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

/// Token patterns, compiled.
#[derive(Debug, Clone)]
pub struct Rules {}

/// Why a rules file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(pub String);

impl Rules {
    /// The built-in rules.
    #[must_use]
    pub fn builtin() -> Arc<Self> {
        Arc::new(Self {})
    }

    /// The built-in rules and a user's own, in gitleaks' TOML format.
    pub fn with(_toml: &str) -> Result<Arc<Self>, RulesError> {
        Ok(Self::builtin())
    }
}

/// Exact values to look for. Cannot be shown; wiped when it goes.
#[derive(Default)]
pub struct Values {}

impl Values {
    /// Compiles values by name. Those under [`SHORTEST`] bytes are left out.
    #[must_use]
    pub fn new(_values: impl IntoIterator<Item = (String, Zeroizing<String>)>) -> Self {
        Self {}
    }

    /// A pass over a stream that replaces every occurrence with as many filler bytes.
    #[must_use]
    pub fn scrubber(self: &Arc<Self>) -> Scrubber {
        Scrubber {}
    }
}

/// Values shorter than this many bytes are not looked for: they would be found everywhere.
pub const SHORTEST: usize = 8;

/// What is looked for, and under which name findings are reported.
#[derive(Clone)]
pub struct Detector {}

impl Detector {
    /// A detector; `None` leaves that half out.
    #[must_use]
    pub fn new(_rules: Option<Arc<Rules>>, _values: Option<Arc<Values>>) -> Self {
        Self {}
    }

    /// All findings in a whole text.
    #[must_use]
    pub fn scan(&self, _bytes: &[u8]) -> Vec<Finding> {
        Vec::new()
    }

    /// A pass over bytes that arrive in pieces. Finds exactly what [`Detector::scan`] finds in the
    /// pieces put together.
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream {}
    }
}

/// A secret that was found. Never holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What matched.
    pub what: What,
    /// Where, in the bytes as they were given. For what was found below an encoding, the whole
    /// encoded run that holds it.
    pub span: Range<u64>,
    /// The encodings it was found below, outermost first: `base64`, `hex`, `percent`.
    pub layers: Vec<Layer>,
}

/// What matched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A session's own secret, by name.
    Value(String),
    /// A token pattern, by rule id.
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
}

/// A pass over bytes that arrive in pieces.
pub struct Stream {}

impl Stream {
    /// Takes the next piece; what is found with it.
    pub fn feed(&mut self, _piece: &[u8]) -> Vec<Finding> {
        Vec::new()
    }

    /// Takes the end; what is found with it.
    pub fn finish(&mut self) -> Vec<Finding> {
        Vec::new()
    }

    /// No later finding begins before this offset: what lies before it may go out.
    #[must_use]
    pub fn settled(&self) -> u64 {
        0
    }
}

/// Replaces values in a stream without delaying what cannot be part of one.
pub struct Scrubber {}

impl Scrubber {
    /// Takes the next piece and returns what may go out, which is all of it but a tail that may be
    /// the beginning of a value. The length of the whole is unchanged.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        piece.to_vec()
    }

    /// What is left.
    pub fn finish(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// How many occurrences were replaced so far.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        0
    }
}

/// Stub.
pub fn mask(_bytes: &mut [u8], _base: u64, _findings: &[Finding]) {}
/// Stub.
pub mod unpack {
    /// Stub.
    pub struct Unpacker {}
    /// Stub.
    #[derive(Debug, thiserror::Error)]
    #[error("stub")]
    pub struct UnpackError;
    impl Unpacker {
        /// Stub.
        pub fn new(_codings: &str) -> Result<Self, UnpackError> {
            Ok(Self {})
        }
        /// Stub.
        pub fn feed(&mut self, p: &[u8], out: &mut Vec<u8>) -> Result<(), UnpackError> {
            out.extend_from_slice(p);
            Ok(())
        }
        /// Stub.
        pub fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), UnpackError> {
            Ok(())
        }
    }
}
