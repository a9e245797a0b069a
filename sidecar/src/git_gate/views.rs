//! A blob's bytes as what they could be read as: themselves, wide text, what is compressed in them.

use bottle_detector::unpack::{UnpackError, Unpacker};

use super::wide::{Order, Wide};

/// One way to read a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Raw,
    /// See [`Wide`].
    Wide(Order),
    /// What a file that is compressed as a whole unpacks to.
    Unpacked,
}

impl View {
    pub(super) const ALL: [Self; 4] =
        [Self::Raw, Self::Wide(Order::Little), Self::Wide(Order::Big), Self::Unpacked];

    /// How it is told, after a file's name.
    pub(super) fn clause(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::Wide(_) => " (as wide text)",
            Self::Unpacked => " (unpacked)",
        }
    }
}

/// What files begin with that are compressed as a whole, and the content coding of that name.
const COMPRESSED: [(&[u8], &str); 2] =
    [(&[0x1f, 0x8b], "gzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd")];

/// As many bytes decide. What has fewer unpacks to nothing.
const DECIDES: usize = 4;

/// Takes a blob piece by piece, and makes the views of it.
pub(super) struct Viewer {
    wide: [(Order, Wide); 2],
    /// The blob's first bytes, until there are enough of them to decide by.
    head: Option<Vec<u8>>,
    unpacker: Option<Unpacker>,
}

/// More comes out of a compressed blob than is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMuch;

impl Viewer {
    pub(super) fn new() -> Self {
        let wide = [Order::Little, Order::Big].map(|order| (order, Wide::new(order)));
        Self { wide, head: Some(Vec::new()), unpacker: None }
    }

    /// Hands each view's next bytes to `take`.
    ///
    /// # Errors
    ///
    /// The blob unpacks to more than may be. A blob that only begins like a compressed one, or is
    /// damaged, is none from there on.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(View, &[u8]),
    ) -> Result<(), TooMuch> {
        take(View::Raw, piece);
        let mut made = Vec::new();
        for (order, wide) in &mut self.wide {
            made.clear();
            wide.feed(piece, &mut made);
            if !made.is_empty() {
                take(View::Wide(*order), &made);
            }
        }
        // A piece may be a single byte: where a read ends is chance.
        let mut head;
        let piece = match self.head.take() {
            Some(before) => {
                head = before;
                head.extend_from_slice(piece);
                if head.len() < DECIDES {
                    self.head = Some(head);
                    return Ok(());
                }
                let coding = COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic));
                self.unpacker = coding.and_then(|(_, name)| Unpacker::new(name).ok());
                head.as_slice()
            }
            None => piece,
        };
        let Some(unpacker) = &mut self.unpacker else { return Ok(()) };
        made.clear();
        let outcome = unpacker.feed(piece, &mut made);
        if !made.is_empty() {
            take(View::Unpacked, &made);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(UnpackError::TooMuch) => Err(TooMuch),
            Err(_) => {
                self.unpacker = None;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn seen(bytes: &[u8], view: View) -> Result<Vec<u8>, TooMuch> {
        seen_in_pieces(bytes, 1000, view)
    }

    fn seen_in_pieces(bytes: &[u8], size: usize, view: View) -> Result<Vec<u8>, TooMuch> {
        let (mut viewer, mut out) = (Viewer::new(), Vec::new());
        for piece in bytes.chunks(size) {
            viewer.feed(piece, |of, bytes| {
                if of == view {
                    out.extend_from_slice(bytes);
                }
            })?;
        }
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn a_compressed_file_is_unpacked_and_a_damaged_one_as_far_as_it_goes() {
        let text = b"a line\n".repeat(1000);
        assert_eq!(seen(&gzip(&text), View::Unpacked).unwrap(), text);
        let mut damaged = gzip(&text);
        damaged.extend_from_slice(b"not gzip at all");
        assert_eq!(seen(&damaged, View::Unpacked).unwrap(), text);
        assert_eq!(seen(&damaged, View::Raw).unwrap(), damaged);
        assert!(seen(b"\x1f\x8bnothing of the kind", View::Unpacked).unwrap().is_empty());
    }

    #[test]
    fn where_a_piece_ends_does_not_matter() {
        let text = b"a line\n".repeat(10);
        // A frame of one block that is stored as it is (RFC 8878, section 3.1.1).
        let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 70, 0x31, 2, 0][..], &text].concat();
        for packed in [gzip(&text), zstd] {
            for size in 1..8 {
                let unpacked = seen_in_pieces(&packed, size, View::Unpacked).unwrap();
                assert_eq!(unpacked, text, "cut at {size}");
                assert_eq!(seen_in_pieces(&packed, size, View::Raw).unwrap(), packed);
            }
        }
        for short in [&b"\x1f"[..], b"\x1f\x8b", b"\x28\xb5\x2f", b""] {
            assert!(seen_in_pieces(short, 1, View::Unpacked).unwrap().is_empty());
            assert_eq!(seen_in_pieces(short, 1, View::Raw).unwrap(), short);
        }
    }

    #[test]
    fn a_bomb_is_no_file_to_let_through() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert_eq!(seen(&bomb, View::Unpacked), Err(TooMuch));
    }
}
