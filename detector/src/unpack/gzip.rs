//! gzip (RFC 1952): members one after another, each with a header and a checksum.

use flate2::Crc;

use super::deflate::Inflate;
use super::{Sink, UnpackError};

const NAME: &str = "gzip";

/// A gzip text.
#[derive(Default)]
pub(super) struct Gzip {
    part: Part,
    /// The bytes of a part of fixed length that have come so far.
    fixed: Vec<u8>,
    /// Parts of the header that are still to come.
    flags: u8,
    checksum: Crc,
}

/// What is being read.
#[derive(Default)]
enum Part {
    /// Ten bytes; here alone the text may end, if any member came before.
    #[default]
    Header,
    ExtraLength,
    Extra(usize),
    /// File name or comment, ended by a zero.
    Text,
    HeaderChecksum,
    Body(Box<Inflate>),
    Trailer,
}

/// RFC 1952, section 2.3.1.
const HEADER_CHECKSUM: u8 = 2;
const EXTRA: u8 = 4;
const NAMED: u8 = 8;
const COMMENTED: u8 = 16;
const RESERVED: u8 = 0xE0;

impl Gzip {
    pub(super) fn feed(
        &mut self,
        mut piece: &[u8],
        sink: &mut Sink<'_>,
    ) -> Result<(), UnpackError> {
        while !piece.is_empty() {
            piece = self.step(piece, sink)?;
        }
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), UnpackError> {
        match self.part {
            Part::Header if self.fixed.is_empty() => Ok(()),
            _ => Err(UnpackError::Truncated(NAME)),
        }
    }

    /// Reads one part, or what there is of it; answers what is left.
    fn step<'a>(&mut self, piece: &'a [u8], sink: &mut Sink<'_>) -> Result<&'a [u8], UnpackError> {
        match &mut self.part {
            Part::Header => {
                let rest = self.collect(piece, 10);
                if let [a, b, method, flags, ..] = self.fixed[..]
                    && ([a, b, method] != [0x1F, 0x8B, 8] || flags & RESERVED != 0)
                {
                    return Err(UnpackError::Invalid(NAME));
                }
                if self.fixed.len() == 10 {
                    self.flags = self.fixed[3];
                    self.next_of_header();
                }
                Ok(rest)
            }
            Part::ExtraLength => {
                let rest = self.collect(piece, 2);
                if let [low, high] = self.fixed[..] {
                    self.fixed.clear();
                    self.part = Part::Extra(usize::from(u16::from_le_bytes([low, high])));
                }
                Ok(rest)
            }
            Part::Extra(left) => {
                let taken = piece.len().min(*left);
                *left -= taken;
                if *left == 0 {
                    self.next_of_header();
                }
                Ok(&piece[taken..])
            }
            Part::Text => match memchr::memchr(0, piece) {
                Some(end) => {
                    self.next_of_header();
                    Ok(&piece[end + 1..])
                }
                None => Ok(&[]),
            },
            Part::HeaderChecksum => {
                let rest = self.collect(piece, 2);
                if self.fixed.len() == 2 {
                    self.next_of_header();
                }
                Ok(rest)
            }
            Part::Body(inflate) => {
                let before = sink.out.len();
                let (taken, ended) = inflate.feed(piece, sink, NAME)?;
                self.checksum.update(&sink.out[before..]);
                if ended {
                    self.part = Part::Trailer;
                }
                Ok(&piece[taken..])
            }
            Part::Trailer => {
                let rest = self.collect(piece, 8);
                if let [a, b, c, d, e, f, g, h] = self.fixed[..] {
                    let right = u32::from_le_bytes([a, b, c, d]) == self.checksum.sum()
                        && u32::from_le_bytes([e, f, g, h]) == self.checksum.amount();
                    if !right {
                        return Err(UnpackError::Invalid(NAME));
                    }
                    *self = Self::default();
                }
                Ok(rest)
            }
        }
    }

    /// Collects a part of fixed length; answers what is left.
    fn collect<'a>(&mut self, piece: &'a [u8], length: usize) -> &'a [u8] {
        let (part, rest) = piece.split_at(piece.len().min(length - self.fixed.len()));
        self.fixed.extend_from_slice(part);
        rest
    }

    /// Goes on to what the header says comes next.
    fn next_of_header(&mut self) {
        self.fixed.clear();
        let mut is_next = |flag: u8| {
            let there = self.flags & flag != 0;
            self.flags &= !flag;
            there
        };
        self.part = if is_next(EXTRA) {
            Part::ExtraLength
        } else if is_next(NAMED) || is_next(COMMENTED) {
            Part::Text
        } else if is_next(HEADER_CHECKSUM) {
            Part::HeaderChecksum
        } else {
            Part::Body(Box::new(Inflate::new(false)))
        };
    }
}
