//! Zstandard (RFC 8878): frames one after another, with a window of at most 8 MiB (RFC 9659).

use std::io::Read;

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{LARGEST_ZSTD_WINDOW, Sink, UnpackError};

const NAME: &str = "zstd";

/// RFC 8878, section 3.1.1.2.4.
const LARGEST_BLOCK: usize = 128 << 10;

/// A Zstandard text.
pub(super) struct Zstd {
    decoder: FrameDecoder,
    /// What has come and is not decoded: at most a block.
    held: Vec<u8>,
    part: Part,
    /// Whether the frame at hand ends with a checksum.
    checksum: bool,
    frames: u64,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Block,
    /// So many bytes that mean nothing.
    Skipped(u64),
}

impl Default for Zstd {
    fn default() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_ZSTD_WINDOW);
        Self { decoder, held: Vec::new(), part: Part::Header, checksum: false, frames: 0 }
    }
}

impl Zstd {
    pub(super) fn feed(
        &mut self,
        mut piece: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<(), UnpackError> {
        while !piece.is_empty() {
            if let Part::Skipped(left) = &mut self.part {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                *left -= taken as u64;
                piece = &piece[taken..];
                if *left == 0 {
                    self.part = Part::Header;
                }
                continue;
            }
            // As many as are known to be needed, until they are all there.
            let needed = self.needed()?;
            let (more, rest) = piece.split_at(piece.len().min(needed - self.held.len()));
            self.held.extend_from_slice(more);
            piece = rest;
            if self.held.len() == needed && self.needed()? == needed {
                self.decode(sink)?;
                self.held.clear();
            }
        }
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), UnpackError> {
        if self.part == Part::Header && self.held.is_empty() && self.frames > 0 {
            Ok(())
        } else {
            Err(UnpackError::Truncated(NAME))
        }
    }

    /// How many bytes the part at hand has, as far as what is there of it says.
    fn needed(&self) -> Result<usize, UnpackError> {
        match (self.part, &self.held[..]) {
            (Part::Header, [a, b, c, d, rest @ ..]) => match u32::from_le_bytes([*a, *b, *c, *d]) {
                0x184D_2A50..=0x184D_2A5F => Ok(8),
                0xFD2F_B528 => {
                    Ok(4 + rest.first().map_or(1, |descriptor| header_length(*descriptor)))
                }
                _ => Err(UnpackError::Invalid(NAME)),
            },
            (Part::Header, _) => Ok(4),
            (_, [a, b, c, ..]) => {
                let header = u32::from_le_bytes([*a, *b, *c, 0]);
                let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, (header >> 3) as usize);
                if kind == 3 || size > LARGEST_BLOCK {
                    return Err(UnpackError::Invalid(NAME));
                }
                let body = if kind == 1 { 1 } else { size };
                Ok(3 + body + if last && self.checksum { 4 } else { 0 })
            }
            _ => Ok(3),
        }
    }

    /// Decodes the part at hand, which is all there.
    fn decode(&mut self, sink: &mut Sink<'_>) -> Result<(), UnpackError> {
        let invalid = UnpackError::Invalid(NAME);
        if self.part == Part::Header {
            self.frames += 1;
            if let [0x50..=0x5F, 0x2A, 0x4D, 0x18, a, b, c, d] = self.held[..] {
                let length = u32::from_le_bytes([a, b, c, d]);
                self.part = if length == 0 { Part::Header } else { Part::Skipped(length.into()) };
                return Ok(());
            }
            self.decoder.reset(&self.held[..]).map_err(|_| invalid)?;
            // The third bit: RFC 8878, section 3.1.1.1.1.
            self.checksum = self.held[4] & 4 != 0;
            self.part = Part::Block;
            return Ok(());
        }
        let ended = self
            .decoder
            .decode_blocks(&self.held[..], BlockDecodingStrategy::UptoBlocks(1))
            .map_err(|_| invalid.clone())?;
        let mut out = [0; 16 << 10];
        loop {
            let made = self.decoder.read(&mut out).map_err(|_| invalid.clone())?;
            if made == 0 {
                break;
            }
            sink.put(&out[..made])?;
        }
        if ended {
            if self.decoder.get_checksum_from_data()
                != self.checksum.then(|| self.calculated()).flatten()
            {
                return Err(invalid);
            }
            self.part = Part::Header;
        }
        Ok(())
    }

    fn calculated(&self) -> Option<u32> {
        self.decoder.get_calculated_checksum()
    }
}

/// The length of a frame's header after the magic number: RFC 8878, section 3.1.1.1.
fn header_length(descriptor: u8) -> usize {
    let single = descriptor & 0x20 != 0;
    let window = usize::from(!single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    1 + window + dictionary + content
}
