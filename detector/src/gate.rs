//! The gate that nearly every byte stops at: which positions can begin a literal at all.
//!
//! Thirty-two positions at a time are looked at by their first four bytes, each by its halves, in either
//! case; literals are in eight groups by their first byte, so that what is let through by chance is
//! little. What begins only where a word does is let through only there. Then come a table over hashes
//! of four bytes, case folded, which alone is asked where there are no such instructions: one load a
//! position, none depending on the one before. A second table, over another hash, looks at what passes
//! the first, and an automaton at what passes all.

use std::sync::LazyLock;

use fearless_simd::{Simd, dispatch};

use crate::halves::{self, Halves, LANES};

/// Bits of the first table, which is all that most positions touch: it fits a first-level cache, and
/// is so large that few positions pass by chance.
const BITS: u32 = 17;

/// Slots of the second table.
const SLOTS: usize = 1 << 15;

/// Sets bit 5 of each byte: it folds ASCII letters, and a few other characters, which only costs a
/// closer look.
const FOLD: u64 = 0x2020_2020_2020_2020;

/// The bit that tells the cases of a letter apart.
const CASE: u8 = 0x20;

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
    /// The first four bytes of literals that may begin anywhere, in groups.
    anywhere: [Halves; 4],
    /// Of those that begin only where a word does.
    at_word: [Halves; 4],
}

/// What words are made of.
static OF_WORDS: LazyLock<Halves> = LazyLock::new(|| Halves::exactly(is_of_word));

impl Default for Gate {
    fn default() -> Self {
        Self {
            first: Box::new([0; 1 << (BITS - 3)]),
            second: Box::new([0; SLOTS]),
            anywhere: [Halves::EMPTY; 4],
            at_word: [Halves::EMPTY; 4],
        }
    }
}

/// Literals shorter than this would open the gate everywhere.
pub(crate) const SHORTEST_LITERAL: usize = 3;

impl Gate {
    /// Opens the gate for a literal of at least [`SHORTEST_LITERAL`] bytes, in either case;
    /// `at_word` says that it counts only where a word begins.
    pub(crate) fn open(&mut self, literal: &[u8], at_word: bool) {
        let place = if at_word { AT_WORD } else { ANYWHERE };
        let groups = if at_word { &mut self.at_word } else { &mut self.anywhere };
        let group = literal.first().map_or(u8::MAX, |byte| 1 << (byte & 7));
        for (at, sets) in groups.iter_mut().enumerate() {
            match literal.get(at).filter(|_| literal.len() >= SHORTEST_LITERAL) {
                // Either case, and whatever else the tables take for it.
                Some(byte) => [byte | CASE, byte & !CASE].map(|byte| sets.add(byte, group)),
                None => [sets.add_all(group), ()],
            };
        }
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
        let groups = self.anywhere.iter_mut().chain(&mut self.at_word);
        groups
            .zip(other.anywhere.iter().chain(&other.at_word))
            .for_each(|(mine, theirs)| mine.merge(theirs));
    }

    /// The first position from `from` on and before `until` at which a literal may begin. The last
    /// three bytes of the text are not looked at.
    pub(crate) fn next(&self, text: &[u8], from: usize, until: usize) -> Option<usize> {
        let until = until.min(text.len().saturating_sub(3));
        if from >= until {
            return None;
        }
        match halves::level() {
            Some(level) => dispatch!(level, simd => self.next_of_blocks(simd, text, from, until)),
            None => self.next_one_by_one(text, from, until),
        }
    }

    #[inline(always)]
    fn next_of_blocks<S: Simd>(
        &self,
        simd: S,
        text: &[u8],
        from: usize,
        until: usize,
    ) -> Option<usize> {
        let of_words = &*OF_WORDS;
        let mut padded = [0; LANES + 3];
        for at in (from..until).step_by(LANES) {
            let block = text.get(at..at + LANES + 3).unwrap_or_else(|| {
                let rest = &text[at..];
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            });
            let bytes = halves::load(simd, block, 0);
            let split = halves::split(simd, bytes);
            let mut anywhere = self.anywhere[0].of(simd, split);
            let mut at_word = self.at_word[0].of(simd, split);
            for next in 1..4 {
                let split = halves::split(simd, halves::load(simd, block, next));
                anywhere &= self.anywhere[next].of(simd, split);
                at_word &= self.at_word[next].of(simd, split);
            }
            // What each position has before it, those before the block from the text.
            let before = |back: usize, is: fn(u8) -> bool| {
                u32::from(at.checked_sub(back).is_some_and(|before| is(text[before])))
            };
            let is_backslash = |byte| byte == b'\\';
            let in_word =
                halves::not_zero(simd, of_words.of(simd, split)) << 1 | before(1, is_of_word);
            let escapes = halves::equal(simd, bytes, b'\\');
            let escaped = escapes << 2 | before(1, is_backslash) << 1 | before(2, is_backslash);
            let words = halves::not_zero(simd, at_word) & (!in_word | escaped);
            let beyond = LANES.saturating_sub(until - at);
            let mut passing = (halves::not_zero(simd, anywhere) | words) & (u32::MAX >> beyond);
            while passing != 0 {
                let position = at + passing.trailing_zeros() as usize;
                if self.passes(text, position) {
                    return Some(position);
                }
                passing &= passing - 1;
            }
        }
        None
    }

    fn next_one_by_one(&self, text: &[u8], from: usize, until: usize) -> Option<usize> {
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
        [.., last] => !is_of_word(*last),
        [] => true,
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
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
    fn many_positions_at_once_are_judged_as_each_is_alone() {
        let mut gate = Gate::default();
        for (literal, at_word) in
            [(&b"sk_live"[..], true), (b"eyj", true), (b"://", false), (b"-----begin", false)]
        {
            gate.open(literal, at_word);
        }
        // Parts of literals and what stands before them, in an order that repeats late.
        let parts =
            ["sk_l", "eyJ", "://", "-----", "\\n", "n", "_", " ", "SK_Live", "\u{e4}", "\\"];
        let mut state = 7_usize;
        let mut text = String::new();
        while text.len() < 20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(parts[(state >> 33) % parts.len()]);
        }
        let text = text.as_bytes();
        for (from, until) in [(0, text.len()), (1, text.len()), (33, 9_000), (100, 131)] {
            let each = |next: &dyn Fn(usize) -> Option<usize>| -> Vec<usize> {
                std::iter::successors(next(from), |at| next(at + 1)).collect()
            };
            let found = each(&|at| gate.next(text, at, until));
            let one_by_one = each(&|at| gate.next_one_by_one(text, at, until.min(text.len() - 3)));
            assert_eq!(found, one_by_one);
            assert!(found.len() > (until - from) / 100);
        }
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
