//! A stretch of a stream, spoken of by offsets from the stream's beginning.

use std::ops::Range;

/// The bytes of a stream that are still needed.
#[derive(Default)]
pub(crate) struct Text {
    bytes: Vec<u8>,
    /// The offset of the first of them.
    base: u64,
    /// Whether the stream has ended.
    pub(crate) ended: bool,
}

/// Forgotten bytes are removed once there are so many: moving the rest costs more than memory does.
const WORTH_MOVING: usize = 32 << 10;

impl Text {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.base = 0;
        self.ended = false;
    }

    /// The offset after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// All that is still there, and the offset of its beginning.
    pub(crate) fn all(&self) -> (&[u8], u64) {
        (&self.bytes, self.base)
    }

    /// The bytes at these offsets, as far as they are there.
    pub(crate) fn slice(&self, range: Range<u64>) -> &[u8] {
        let start = self.index(range.start);
        &self.bytes[start..self.index(range.end).max(start)]
    }

    /// Where an offset lies among the bytes that are there.
    pub(crate) fn index(&self, offset: u64) -> usize {
        let inside = offset.saturating_sub(self.base);
        usize::try_from(inside).unwrap_or(usize::MAX).min(self.bytes.len())
    }

    /// Lets go of what lies before an offset.
    pub(crate) fn forget_before(&mut self, offset: u64) {
        let at = self.index(offset);
        if at >= WORTH_MOVING {
            self.bytes.drain(..at);
            self.base += at as u64;
        }
    }
}

/// Which offsets of a stream the units of a text made from it come from: a run of units goes with a
/// run of offsets, until something is left out or undone.
#[derive(Default)]
pub(crate) struct Origins {
    /// Where runs begin: a unit, and its offset.
    runs: Vec<(u64, u64)>,
}

impl Origins {
    pub(crate) fn start(&mut self, offset: u64) {
        self.runs.clear();
        self.runs.push((0, offset));
    }

    /// From this unit on, offsets go on from there.
    pub(crate) fn jump(&mut self, unit: u64, offset: u64) {
        self.runs.push((unit, offset));
    }

    /// The offset at which a unit begins.
    pub(crate) fn begin(&self, unit: u64) -> u64 {
        let at = self.runs.partition_point(|(first, _)| *first <= unit);
        let (first, offset) = self.runs.get(at.wrapping_sub(1)).copied().unwrap_or((unit, 0));
        offset + (unit - first)
    }

    /// The offset at which the unit before this one ends, where each is one byte of the stream.
    pub(crate) fn end(&self, unit: u64) -> u64 {
        if unit == 0 { self.begin(0) } else { self.begin(unit - 1) + 1 }
    }

    /// Whether a jump lands within these offsets.
    pub(crate) fn jumps_within(&self, range: &Range<u64>) -> bool {
        let first = self.runs.partition_point(|(_, offset)| *offset <= range.start);
        self.runs.get(first).is_some_and(|(_, offset)| *offset <= range.end)
    }

    /// Lets go of what lies before a unit.
    pub(crate) fn forget_before(&mut self, unit: u64) {
        let at = self.runs.partition_point(|(first, _)| *first <= unit);
        if at > 64 {
            self.runs.drain(..at - 1);
        }
    }
}
