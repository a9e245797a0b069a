//! The gate that nearly every byte stops at: which positions can begin a literal at all.
//!
//! A table over hashes of four bytes, case folded: one load a position, none depending on the one
//! before, so that it keeps up with a network. A second table, over another hash, looks at what passes
//! the first, and an automaton at what passes both.

/// Bits of the first table, which is all that most positions touch: it fits a first-level cache, and
/// is so large that few positions pass by chance.
const BITS: u32 = 17;

/// Slots of the second table.
const SLOTS: usize = 1 << 15;

/// Sets bit 5 of each byte: it folds ASCII letters, and a few other characters, which only costs a
/// closer look.
const FOLD: u64 = 0x2020_2020_2020_2020;

/// A literal that may begin anywhere.
const ANYWHERE: u8 = 1;
/// A literal that begins only where a word does.
const AT_WORD: u8 = 2;

/// A set of first-four-bytes.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    first: Box<[u8; 1 << (BITS - 3)]>,
    /// Where its literals may begin.
    second: Box<[u8; SLOTS]>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { first: Box::new([0; 1 << (BITS - 3)]), second: Box::new([0; SLOTS]) }
    }
}

/// Literals shorter than this would open the gate everywhere.
pub(crate) const SHORTEST_LITERAL: usize = 3;

impl Gate {
    /// Opens the gate for a literal of at least [`SHORTEST_LITERAL`] bytes, in either case;
    /// `at_word` says that it counts only where a word begins.
    pub(crate) fn open(&mut self, literal: &[u8], at_word: bool) {
        let place = if at_word { AT_WORD } else { ANYWHERE };
        match *literal {
            [a, b, c, d, ..] => self.set([a, b, c, d], place),
            [a, b, c] => (0..=u8::MAX).for_each(|d| self.set([a, b, c, d], place)),
            _ => {
                self.first.fill(u8::MAX);
                self.second.fill(place);
            }
        }
    }

    /// Opens it for all that the other is open for.
    pub(crate) fn merge(&mut self, other: &Self) {
        let merge = |mine: &mut [u8], theirs: &[u8]| {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine |= theirs);
        };
        merge(&mut self.first[..], &other.first[..]);
        merge(&mut self.second[..], &other.second[..]);
    }

    /// The first position from `from` on and before `until` at which a literal may begin. The last
    /// three bytes of the text are not looked at.
    pub(crate) fn next(&self, text: &[u8], from: usize, until: usize) -> Option<usize> {
        let until = until.min(text.len().saturating_sub(3));
        let mut at = from;
        // Eight positions at a time, so that there is one branch for them all.
        while at + 8 <= until {
            let Some((low, high)) = words(text, at) else { break };
            let any = self.bit(low)
                | self.bit(low >> 8)
                | self.bit(low >> 16)
                | self.bit(low >> 24)
                | self.bit(high)
                | self.bit(high >> 8)
                | self.bit(high >> 16)
                | self.bit(high >> 24);
            if any & 1 != 0
                && let Some(found) = (at..at + 8).find(|at| self.passes(text, *at))
            {
                return Some(found);
            }
            at += 8;
        }
        (at..until).find(|at| self.passes(text, *at))
    }

    /// The bit for the first four bytes of a word; those above it mean nothing.
    #[inline]
    fn bit(&self, folded: u64) -> u8 {
        let hash = first(folded as u32);
        self.first[(hash >> 3) as usize] >> (hash & 7)
    }

    /// Whether a position passes both tables.
    #[inline]
    fn passes(&self, text: &[u8], at: usize) -> bool {
        let Some([a, b, c, d]) = text.get(at..at + 4) else { return false };
        let folded = fold([*a, *b, *c, *d]);
        self.bit(folded.into()) & 1 != 0
            && match self.second[second(folded)] {
                0 => false,
                AT_WORD => begins_word(&text[..at]),
                _ => true,
            }
    }

    fn set(&mut self, four: [u8; 4], place: u8) {
        let folded = fold(four);
        let hash = first(folded);
        self.first[(hash >> 3) as usize] |= 1 << (hash & 7);
        self.second[second(folded)] |= place;
    }
}

/// Whether a word may begin after this: no letter, digit or underscore is before it, unless that is the
/// letter of an escaped line end or tab.
pub(crate) fn begins_word(before: &[u8]) -> bool {
    match before {
        [.., b'\\', b'n' | b'r' | b't'] => true,
        [.., last] => !(last.is_ascii_alphanumeric() || *last == b'_'),
        [] => true,
    }
}

/// Two words of eight bytes, the second four bytes after the first, folded.
#[inline]
fn words(text: &[u8], at: usize) -> Option<(u64, u64)> {
    let low = text.get(at..at + 8)?.try_into().ok()?;
    let high = text.get(at + 4..at + 12)?.try_into().ok()?;
    Some((u64::from_le_bytes(low) | FOLD, u64::from_le_bytes(high) | FOLD))
}

fn fold(four: [u8; 4]) -> u32 {
    u32::from_le_bytes(four) | FOLD as u32
}

#[inline]
fn first(folded: u32) -> u32 {
    folded.wrapping_mul(0x9E37_79B1) >> (32 - BITS)
}

fn second(folded: u32) -> usize {
    (folded.wrapping_mul(0x85EB_CA6B) >> 17) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_literals_in_either_case_wherever_they_stand() {
        let mut gate = Gate::default();
        gate.open(b"ghp_", false);
        gate.open(b"eyj", false);
        for at in 0..40 {
            for literal in ["GHP_", "ghp_", "eyJ0"] {
                let mut text = vec![b' '; 50];
                text[at..at + 4].copy_from_slice(literal.as_bytes());
                assert_eq!(gate.next(&text, 0, 50), Some(at), "{literal} at {at}");
                assert_eq!(gate.next(&text, at, at + 1), Some(at), "{literal} at {at}");
                assert_eq!(gate.next(&text, 0, at), None, "{literal} at {at}");
                assert_eq!(gate.next(&text, at + 1, 50), None, "{literal} at {at}");
            }
        }
        assert_eq!(gate.next(b"ghp", 0, 3), None);
    }

    #[test]
    fn what_begins_a_word_is_not_found_inside_one() {
        let mut gate = Gate::default();
        gate.open(b"re_", true);
        let find = |text: &[u8]| gate.next(text, 0, text.len());
        assert_eq!(find(b"re_abcdefghi"), Some(0));
        assert_eq!(find(b"core_abcdefg"), None);
        assert_eq!(find(b"\\nre_abcdefg"), Some(2));
        assert_eq!(find(b"nre_abcdefgh"), None);
        assert_eq!(find(b"/re_abcdefgh"), Some(1));
    }
}
