//! Undoes content codings (RFC 9110, section 8.4.1) as bytes arrive, with a bound on what comes out.
//!
//! What cannot be undone is an error, so that nothing passes that was not looked at: a coding that
//! is not known, a text that ends too early, bytes after its end, and what makes a decoder panic.

mod brotli;
mod deflate;
mod gzip;
mod zstd;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(panic = "abort")]
compile_error!(
    "what a decoder does with hostile bytes is contained by unwinding: set panic = \"unwind\""
);

/// The most codings on top of each other.
pub const MOST_CODINGS: usize = 3;

/// The most that may come out, whatever went in, in bytes.
pub const MOST_OUTPUT: u64 = 1 << 30;

/// The most that may come out for each byte that went in, and to begin with. Text that people write
/// packs 3 to 20 times; a thousand times is what a bomb does.
pub const MOST_RATIO: (u64, u64) = (200, 4 << 20);

/// The largest window of zstd, in bytes (RFC 9659): it is what a decoder keeps in memory. Brotli's is at
/// most 16 MiB (RFC 7932).
pub const LARGEST_ZSTD_WINDOW: u64 = 8 << 20;

/// Why a body cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// A coding that is not known.
    #[error("content coding {0:?} is not known: expected gzip, deflate, br, zstd or identity")]
    Unknown(String),
    /// Too many codings.
    #[error("{0} content codings, expected at most {MOST_CODINGS}")]
    TooMany(usize),
    /// Not what the coding says it is.
    #[error("not valid {0}")]
    Invalid(&'static str),
    /// The text ends too early.
    #[error("the {0} text is cut short")]
    Truncated(&'static str),
    /// The decoder gave up in a way that it never should.
    #[error("cannot be undone: its decoder failed")]
    Broken,
    /// More came out than may.
    #[error("unpacks to too much: more than {MOST_OUTPUT} bytes, or {} times its size", MOST_RATIO.0)]
    TooMuch,
}

/// Undoes a stack of content codings. After an error it is of no more use.
pub struct Unpacker {
    /// The outermost coding first.
    codings: Vec<Coding>,
    budget: Budget,
    failed: Option<UnpackError>,
}

enum Coding {
    Gzip(Box<gzip::Gzip>),
    Deflate(Box<deflate::Deflate>),
    Brotli(Box<brotli::Brotli>),
    Zstd(Box<zstd::Zstd>),
}

/// How many bytes are handed on at a time: what one coding makes of them has to be small.
const STEP: usize = 512;

impl Unpacker {
    /// For a `Content-Encoding` header's value: codings in the order they were applied.
    ///
    /// # Errors
    ///
    /// A coding is not known, or there are more than [`MOST_CODINGS`].
    pub fn new(header_value: &str) -> Result<Self, UnpackError> {
        let names = header_value.split(',').map(|name| name.trim().to_ascii_lowercase());
        let names: Vec<String> =
            names.filter(|name| !name.is_empty() && name != "identity").collect();
        if names.len() > MOST_CODINGS {
            return Err(UnpackError::TooMany(names.len()));
        }
        let codings = names.iter().rev().map(|name| match name.as_str() {
            "gzip" | "x-gzip" => Ok(Coding::Gzip(Box::default())),
            "deflate" => Ok(Coding::Deflate(Box::default())),
            "br" => Ok(Coding::Brotli(Box::default())),
            "zstd" => Ok(Coding::Zstd(Box::default())),
            _ => Err(UnpackError::Unknown(name.chars().take(40).collect())),
        });
        Ok(Self {
            codings: codings.collect::<Result<_, _>>()?,
            budget: Budget::default(),
            failed: None,
        })
    }

    /// Whether there is nothing to undo.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.codings.is_empty()
    }

    /// Takes the next piece and appends what it unpacks to, before a fault too. An error stays: each
    /// call after it fails with it.
    ///
    /// # Errors
    ///
    /// The piece is not valid in its coding, or more would come out than may.
    pub fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), UnpackError> {
        if self.codings.is_empty() {
            out.extend_from_slice(piece);
            return Ok(());
        }
        self.keep_failing()?;
        for step in piece.chunks(STEP) {
            self.budget.received += step.len() as u64;
            let fed = contained(|| feed_through(&mut self.codings, step, out, &mut self.budget));
            self.note(fed)?;
        }
        Ok(())
    }

    /// Takes the end. Nothing is left to append as it is now; callers need not know.
    ///
    /// # Errors
    ///
    /// The text ends too early.
    pub fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), UnpackError> {
        self.keep_failing()?;
        // Nothing at all is what a request without a body has, whatever its header says.
        if self.budget.received == 0 {
            return Ok(());
        }
        // All that came out has been handed on as it came: what may be left is an error.
        let finished = self.codings.iter().try_for_each(Coding::finish);
        self.note(finished)
    }

    fn keep_failing(&self) -> Result<(), UnpackError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn note(&mut self, outcome: Result<(), UnpackError>) -> Result<(), UnpackError> {
        self.failed = outcome.clone().err();
        outcome
    }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, is contained: it fails one text and nothing else. For a panic
/// hook that otherwise ends the process.
#[must_use]
pub fn is_contained() -> bool {
    CONTAINED.get()
}

/// Takes a step of decoders, which are large and read what is hostile: should one panic, its text
/// cannot be undone. Nothing is used again that a panic left half done, since an error stays.
fn contained(step: impl FnOnce() -> Result<(), UnpackError>) -> Result<(), UnpackError> {
    let before = CONTAINED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(step));
    CONTAINED.set(before);
    outcome.unwrap_or(Err(UnpackError::Broken))
}

/// What came in from outside, and all that codings made of it.
#[derive(Debug, Default)]
struct Budget {
    received: u64,
    made: u64,
}

impl Budget {
    /// Counts bytes that came out, of whichever coding: a bomb inside a bomb must not get far either.
    fn count(&mut self, made: usize) -> Result<(), UnpackError> {
        self.made += made as u64;
        let (per_byte, at_first) = MOST_RATIO;
        let most = self.received.saturating_mul(per_byte).saturating_add(at_first);
        if self.made > most || self.made > MOST_OUTPUT { Err(UnpackError::TooMuch) } else { Ok(()) }
    }
}

/// Hands a piece through a stack of codings, outermost first.
fn feed_through(
    codings: &mut [Coding],
    piece: &[u8],
    out: &mut Vec<u8>,
    budget: &mut Budget,
) -> Result<(), UnpackError> {
    let Some((first, below)) = codings.split_first_mut() else {
        out.extend_from_slice(piece);
        return Ok(());
    };
    let mut made = Vec::new();
    for step in piece.chunks(STEP) {
        made.clear();
        // What came out before a fault is handed on too: who wants to see all there is gets it.
        let fed = first.feed(step, &mut Sink { out: &mut made, budget });
        feed_through(below, &made, out, budget)?;
        fed?;
    }
    Ok(())
}

/// Where a coding puts what it makes.
struct Sink<'a> {
    out: &'a mut Vec<u8>,
    budget: &'a mut Budget,
}

impl Sink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.budget.count(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

impl Coding {
    fn feed(&mut self, piece: &[u8], sink: &mut Sink<'_>) -> Result<(), UnpackError> {
        match self {
            Self::Gzip(gzip) => gzip.feed(piece, sink),
            Self::Deflate(deflate) => deflate.feed(piece, sink),
            Self::Brotli(brotli) => brotli.feed(piece, sink),
            Self::Zstd(zstd) => zstd.feed(piece, sink),
        }
    }

    fn finish(&self) -> Result<(), UnpackError> {
        match self {
            Self::Gzip(gzip) => gzip.finish(),
            Self::Deflate(deflate) => deflate.finish(),
            Self::Brotli(brotli) => brotli.finish(),
            Self::Zstd(zstd) => zstd.finish(),
        }
    }
}

#[cfg(test)]
#[path = "unpack/tests.rs"]
mod tests;
