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

/// Takes a blob piece by piece, and makes the views of it.
pub(super) struct Viewer {
    wide: [(Order, Wide); 2],
    /// The first piece decides.
    begun: bool,
    unpacker: Option<Unpacker>,
}

/// More comes out of a compressed blob than is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMuch;

impl Viewer {
    pub(super) fn new() -> Self {
        let wide = [Order::Little, Order::Big].map(|order| (order, Wide::new(order)));
        Self { wide, begun: false, unpacker: None }
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
        if !self.begun {
            self.begun = true;
            let coding = COMPRESSED.iter().find(|(magic, _)| piece.starts_with(magic));
            self.unpacker = coding.and_then(|(_, name)| Unpacker::new(name).ok());
        }
        take(View::Raw, piece);
        let mut made = Vec::new();
        for (order, wide) in &mut self.wide {
            made.clear();
            wide.feed(piece, &mut made);
            if !made.is_empty() {
                take(View::Wide(*order), &made);
            }
        }
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
        let (mut viewer, mut out) = (Viewer::new(), Vec::new());
        for piece in bytes.chunks(1000) {
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
    fn a_bomb_is_no_file_to_let_through() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert_eq!(seen(&bomb, View::Unpacked), Err(TooMuch));
    }
}
