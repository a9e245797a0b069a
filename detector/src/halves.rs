//! Sets of bytes that are asked about many bytes at once.
//!
//! A byte is looked up by its two halves: each selects eight bits, and what both share says which of
//! eight sets the byte is in. Processors that shuffle bytes look up sixteen or thirty-two with one
//! instruction. Whether this one does is asked as the program runs, which therefore runs on any;
//! where it does not, callers look at one byte after the other.

use fearless_simd::{Level, Simd, SimdBase, SimdMask, dispatch, u8x32};

/// Bytes looked at together.
pub(crate) const LANES: usize = 32;

/// Eight sets of bytes; each byte that has the halves of two that were added may be in it too.
#[derive(Debug, Clone)]
pub(crate) struct Halves {
    // Each twice, because shuffles stay within sixteen bytes.
    low: [u8; LANES],
    high: [u8; LANES],
}

/// A vector's bytes, in halves.
#[derive(Clone, Copy)]
pub(crate) struct Split<S: Simd> {
    low: u8x32<S>,
    high: u8x32<S>,
}

/// How to look at many bytes at once, if that is faster here.
pub(crate) fn level() -> Option<Level> {
    let level = Level::new();
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    level.as_sse4_2()?;
    Some(level)
}

/// The vector of a text's bytes from an index on.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, text: &[u8], at: usize) -> u8x32<S> {
    u8x32::from_slice(simd, &text[at..at + LANES])
}

#[inline(always)]
pub(crate) fn split<S: Simd>(simd: S, bytes: u8x32<S>) -> Split<S> {
    let four = u8x32::splat(simd, 0x0F);
    Split { low: bytes & four, high: bytes >> 4 }
}

/// A bit for each byte that is not zero, the first byte's lowest.
#[inline(always)]
pub(crate) fn not_zero<S: Simd>(simd: S, bytes: u8x32<S>) -> u32 {
    !(bytes.simd_eq(u8x32::splat(simd, 0)).to_bitmask() as u32)
}

/// A bit for each byte that is this one.
#[inline(always)]
pub(crate) fn equal<S: Simd>(simd: S, bytes: u8x32<S>, to: u8) -> u32 {
    bytes.simd_eq(u8x32::splat(simd, to)).to_bitmask() as u32
}

impl Halves {
    pub(crate) const EMPTY: Self = Self { low: [0; LANES], high: [0; LANES] };

    /// One set that holds exactly these bytes. They have to fall into at most eight kinds by what
    /// their high halves go with, as those of an alphabet do.
    pub(crate) fn exactly(holds: impl Fn(u8) -> bool) -> Self {
        let row = |high: u8| {
            (0..16).filter(|low| holds(high << 4 | low)).fold(0, |row, low| row | 1_u16 << low)
        };
        let mut kinds: Vec<u16> = Vec::new();
        let mut all = Self::EMPTY;
        for high in 0..16 {
            let row = row(high);
            if row == 0 {
                continue;
            }
            let kind = kinds.iter().position(|kind| *kind == row).unwrap_or_else(|| {
                kinds.push(row);
                kinds.len() - 1
            });
            debug_assert!(kind < 8, "more than eight kinds of bytes");
            let bit = 1_u8.checked_shl(kind as u32).unwrap_or(u8::MAX);
            (0..16).filter(|low| row >> low & 1 == 1).for_each(|low| all.add(high << 4 | low, bit));
        }
        all
    }

    /// Adds a byte to the sets of these bits.
    pub(crate) fn add(&mut self, byte: u8, bits: u8) {
        let (low, high) = (usize::from(byte & 15), usize::from(byte >> 4));
        for half in [0, LANES / 2] {
            self.low[half + low] |= bits;
            self.high[half + high] |= bits;
        }
    }

    /// Adds every byte.
    pub(crate) fn add_all(&mut self, bits: u8) {
        self.low.iter_mut().chain(&mut self.high).for_each(|sets| *sets |= bits);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let merge = |mine: &mut [u8], theirs: &[u8]| {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine |= theirs);
        };
        merge(&mut self.low, &other.low);
        merge(&mut self.high, &other.high);
    }

    /// Which sets each byte is in.
    #[inline(always)]
    pub(crate) fn of<S: Simd>(&self, simd: S, split: Split<S>) -> u8x32<S> {
        let low = u8x32::from_slice(simd, &self.low).swizzle_dyn_within_blocks(split.low);
        let high = u8x32::from_slice(simd, &self.high).swizzle_dyn_within_blocks(split.high);
        low & high
    }

    /// A bit for each of sixty-four bytes from an index on that is in no set.
    #[inline(always)]
    fn outside<S: Simd>(&self, simd: S, text: &[u8], at: usize) -> u64 {
        let (first, second) = (self.inside(simd, text, at), self.inside(simd, text, at + LANES));
        !(u64::from(first) | u64::from(second) << LANES)
    }

    /// A bit for each byte from an index on that is in a set.
    // A function, since a closure would not be compiled for the instructions that are there.
    #[inline(always)]
    fn inside<S: Simd>(&self, simd: S, text: &[u8], at: usize) -> u32 {
        not_zero(simd, self.of(simd, split(simd, load(simd, text, at))))
    }

    /// How many bytes from the beginning are in a set, in whole blocks or to the first that is not.
    pub(crate) fn count_ahead(&self, text: &[u8]) -> usize {
        let Some(level) = level() else { return 0 };
        dispatch!(level, simd => self.ahead(simd, text))
    }

    #[inline(always)]
    fn ahead<S: Simd>(&self, simd: S, text: &[u8]) -> usize {
        let mut at = 0;
        while at + 64 <= text.len() {
            let outside = self.outside(simd, text, at);
            if outside != 0 {
                return at + outside.trailing_zeros() as usize;
            }
            at += 64;
        }
        at
    }

    /// Looks for the first word of at least so many bytes that are in a set, as far as there are whole
    /// blocks. `word` is what is known of the word at hand; answers whether it is long enough.
    pub(crate) fn find_word(&self, text: &[u8], word: &mut Word, shortest: usize) -> bool {
        let Some(level) = level() else { return false };
        dispatch!(level, simd => self.word(simd, text, word, shortest))
    }

    #[inline(always)]
    fn word<S: Simd>(&self, simd: S, text: &[u8], word: &mut Word, shortest: usize) -> bool {
        while word.known + 64 <= text.len() {
            let outside = self.outside(simd, text, word.known);
            let here = word.known + outside.trailing_zeros() as usize;
            if here - word.from >= shortest {
                return true;
            }
            if outside != 0 {
                if let Some(start) = consecutive(!outside, shortest) {
                    word.from = word.known + start;
                    word.known = word.from + shortest;
                    return true;
                }
                word.from = word.known + 64 - outside.leading_zeros() as usize;
            }
            word.known += 64;
        }
        word.known - word.from >= shortest
    }
}

/// A word of which not all may be known.
pub(crate) struct Word {
    pub(crate) from: usize,
    /// Up to where it is known to go on.
    pub(crate) known: usize,
}

/// Where the first so many ones in a row begin.
fn consecutive(ones: u64, count: usize) -> Option<usize> {
    let (mut begin, mut have) = (ones, 1);
    while have < count && begin != 0 {
        let step = have.min(count - have);
        begin &= begin.checked_shr(step as u32).unwrap_or(0);
        have += step;
    }
    (begin != 0).then_some(begin.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_one(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte)
    }

    #[test]
    fn an_alphabet_is_held_exactly() {
        let set = Halves::exactly(is_one);
        for byte in 0..=u8::MAX {
            let in_set = set.low[usize::from(byte & 15)] & set.high[usize::from(byte >> 4)] != 0;
            assert_eq!(in_set, is_one(byte), "{byte:#x}");
            if level().is_some() {
                let ahead = set.count_ahead(&[byte; 100]);
                assert_eq!(ahead, if is_one(byte) { 64 } else { 0 }, "{byte:#x}");
            }
        }
    }

    #[test]
    fn ones_in_a_row() {
        for (ones, count, expected) in [
            (0b0111_0110, 2, Some(1)),
            (0b0111_0110, 3, Some(4)),
            (0b0111_0110, 4, None),
            (u64::MAX, 64, Some(0)),
            (u64::MAX, 65, None),
            (u64::MAX << 24, 40, Some(24)),
            (u64::MAX << 25, 40, None),
            (0, 1, None),
        ] {
            assert_eq!(consecutive(ones, count), expected, "{ones:b} {count}");
        }
    }

    #[test]
    fn a_word_is_found_wherever_it_stands() {
        let set = Halves::exactly(is_one);
        for start in 0..150 {
            for length in [23, 24, 25, 60, 90] {
                let mut text = b"short words only ".repeat(20);
                text[start..start + length + 2].fill(b'.');
                text[start + 1..=start + length].fill(b'a');
                let mut word = Word { from: 0, known: 0 };
                let found = set.find_word(&text, &mut word, 24);
                assert_eq!(found, length >= 24 && level().is_some(), "{start} {length}");
                if found {
                    assert_eq!(word.from, start + 1, "{length}");
                }
            }
        }
    }
}
