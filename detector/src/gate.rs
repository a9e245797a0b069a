//! The gate that nearly every byte stops at: which positions can begin a literal at all.
//!
//! A bit for each hash of four bytes, case folded. One load a position, none depending on the
//! one before, so it runs at a few bytes a nanosecond; an automaton looks at what passes.

/// Bits in the table: eight kilobytes, a quarter of the smallest first-level cache in use.
const BITS: usize = 1 << 16;

/// A set of first-four-bytes.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    words: Box<[u64; BITS / 64]>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { words: Box::new([0; BITS / 64]) }
    }
}

/// Literals shorter than this would open the gate everywhere.
pub(crate) const SHORTEST_LITERAL: usize = 3;

impl Gate {
    /// Opens the gate for a literal of at least [`SHORTEST_LITERAL`] bytes, in either case.
    pub(crate) fn open(&mut self, literal: &[u8]) {
        match *literal {
            [a, b, c, d, ..] => self.set([a, b, c, d]),
            [a, b, c] => (0..=u8::MAX).for_each(|d| self.set([a, b, c, d])),
            _ => self.words.fill(u64::MAX),
        }
    }

    /// Opens it for all that the other is open for.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.words.iter_mut().zip(other.words.iter()).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// The first position of the text at which a literal may begin; the last three are not looked at.
    pub(crate) fn next(&self, text: &[u8]) -> Option<usize> {
        // Eight at a time, so that the branch is rare: what passes is looked at one by one.
        let mut at = 0;
        while let Some(block) = text.get(at..at + 11) {
            let mut any = 0;
            for i in 0..8 {
                any |= self.has([block[i], block[i + 1], block[i + 2], block[i + 3]]);
            }
            if any & 1 != 0 {
                break;
            }
            at += 8;
        }
        let rest = text.get(at..)?;
        rest.windows(4).position(|w| self.has([w[0], w[1], w[2], w[3]]) & 1 != 0).map(|i| at + i)
    }

    fn set(&mut self, four: [u8; 4]) {
        let slot = slot(four);
        self.words[slot / 64] |= 1 << (slot % 64);
    }

    #[inline]
    fn has(&self, four: [u8; 4]) -> u64 {
        let slot = slot(four);
        self.words[slot / 64] >> (slot % 64)
    }
}

/// Setting bit 5 folds ASCII letters, and a few others, which only costs a closer look.
#[inline]
fn slot(four: [u8; 4]) -> usize {
    let folded = u32::from_le_bytes(four) | 0x2020_2020;
    (folded.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_literals_in_either_case_wherever_they_stand() {
        let mut gate = Gate::default();
        gate.open(b"ghp_");
        gate.open(b"eyj");
        for at in 0..40 {
            for literal in ["GHP_", "ghp_", "eyJ0"] {
                let mut text = vec![b' '; 50];
                text[at..at + 4].copy_from_slice(literal.as_bytes());
                assert_eq!(gate.next(&text), Some(at), "{literal} at {at}");
            }
        }
        assert_eq!(gate.next(&[b' '; 50]), None);
        assert_eq!(gate.next(b"ghp"), None);
    }
}
