//! Replaces values in a stream, holding back nothing but the beginning of one.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::mask::filler;
use crate::values::{Fit, Values};

/// Replaces values in a stream without delaying what cannot be part of one: the values plain, and
/// in Base64 (also inside a longer Base64 text), hex and percent encoding as encoders write them.
///
/// What comes out depends on the bytes alone, not on the pieces: a byte is replaced if it belongs to
/// any occurrence.
pub struct Scrubber {
    values: Arc<Values>,
    /// The bytes held back, as they came.
    held: Zeroizing<Vec<u8>>,
    /// How many of the held bytes belong to an occurrence that began earlier, and their filler.
    covered: (usize, u8),
    replaced: u64,
}

impl Scrubber {
    pub(crate) fn new(values: Arc<Values>) -> Self {
        Self { values, held: Zeroizing::default(), covered: (0, b'*'), replaced: 0 }
    }

    /// Takes the next piece and returns what may go out, which is all of it but a tail that may be
    /// the beginning of a value. The length of the whole is unchanged.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.values.encoded().is_empty() {
            return piece.to_vec();
        }
        self.held.extend_from_slice(piece);
        self.pass(false)
    }

    /// What is left.
    pub fn finish(&mut self) -> Vec<u8> {
        self.pass(true)
    }

    /// How many occurrences were replaced so far. Those that overlap count once.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    fn pass(&mut self, ended: bool) -> Vec<u8> {
        let values = Arc::clone(&self.values);
        let needles = values.encoded();
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            let length = self.held.len();
            // The last three bytes are too few for the gate: any may be a beginning.
            let next = needles.gate.next(&self.held, at, length);
            let next = next.unwrap_or(at.max(length.saturating_sub(3)));
            self.release(&mut out, at..next);
            at = next;
            let (mut longest, mut begun) = (None, false);
            needles.at(&self.held[at..], |needle, fit| match fit {
                Fit::Whole => {
                    let shape = &needles.get(needle).shape;
                    longest = longest.max(Some((shape.bytes.len(), filler(shape.layer))));
                }
                Fit::Begun => begun = true,
            });
            if begun && !ended {
                break;
            }
            if let Some((length, filler)) = longest {
                self.replaced += u64::from(self.covered.0 == 0);
                // Overlapping occurrences keep the filler of the first.
                if self.covered.0 == 0 {
                    self.covered.1 = filler;
                }
                self.covered.0 = self.covered.0.max(length);
            }
            if at < self.held.len() {
                self.release(&mut out, at..at + 1);
                at += 1;
            }
        }
        self.held.drain(..at);
        out
    }

    /// Lets bytes out, those that are covered as filler.
    fn release(&mut self, out: &mut Vec<u8>, range: std::ops::Range<usize>) {
        let covered = self.covered.0.min(range.len());
        out.resize(out.len() + covered, self.covered.1);
        out.extend_from_slice(&self.held[range.start + covered..range.end]);
        self.covered.0 -= covered;
    }
}
