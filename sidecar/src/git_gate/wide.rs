//! Text of two or four bytes a character (UTF-16, UTF-32), wherever it stands among other bytes: of
//! each character that is ASCII, the one byte that is not NUL.

/// Which byte of a character comes first. Read in the wrong order a text has a wrong end, which can
/// hide what stands there: both are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// NUL follows.
    Little,
    /// NUL comes before.
    Big,
}

/// Goes through bytes that arrive in pieces.
#[derive(Debug)]
pub(super) struct Wide {
    order: Order,
    /// In little endian: a byte that counts once NUL follows it.
    waiting: Option<u8>,
    /// NULs since the last byte that is none.
    nuls: usize,
    /// Whether the next byte that counts belongs to the same text.
    within: bool,
}

/// As many NULs stand between two characters of one text at most.
const BETWEEN: usize = 3;
/// Stands between two texts.
const BREAK: u8 = 0;

impl Wide {
    pub(super) fn new(order: Order) -> Self {
        Self { order, waiting: None, nuls: 0, within: false }
    }

    /// Takes a piece, and appends what of it is wide text.
    pub(super) fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        // Most files have none, and looking for a NUL is fast.
        if self.nuls == 0 && !piece.contains(&0) {
            self.waiting = piece.last().copied().or(self.waiting);
            self.within = false;
            return;
        }
        for &byte in piece {
            if byte == 0 {
                if let Some(waiting) = self.waiting.take()
                    && self.order == Order::Little
                {
                    self.put(waiting, out);
                }
                self.nuls += 1;
                continue;
            }
            if !(1..=BETWEEN).contains(&self.nuls) {
                self.within = false;
            }
            if self.order == Order::Big && self.nuls > 0 {
                self.put(byte, out);
            }
            self.waiting = Some(byte);
            self.nuls = 0;
        }
    }

    fn put(&mut self, byte: u8, out: &mut Vec<u8>) {
        if !self.within {
            out.push(BREAK);
        }
        self.within = true;
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(order: Order, bytes: &[u8]) -> Vec<String> {
        let whole = {
            let mut out = Vec::new();
            Wide::new(order).feed(bytes, &mut out);
            out
        };
        // However it is cut.
        for size in 1..8 {
            let (mut wide, mut out) = (Wide::new(order), Vec::new());
            bytes.chunks(size).for_each(|piece| wide.feed(piece, &mut out));
            assert_eq!(out, whole, "cut at {size}");
        }
        let texts = whole.split(|b| *b == BREAK).filter(|text| text.len() > 3);
        texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }

    #[test]
    fn wide_text_is_read_among_other_bytes_and_to_its_ends() {
        let little: Vec<u8> = "secret".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "secret".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let four = || "secret".chars().map(u32::from);
        let (four_little, four_big): (Vec<u8>, Vec<u8>) = (
            four().flat_map(u32::to_le_bytes).collect(),
            four().flat_map(u32::to_be_bytes).collect(),
        );
        for (order, wide) in [
            (Order::Little, little),
            (Order::Big, big),
            (Order::Little, four_little),
            (Order::Big, four_big),
        ] {
            assert_eq!(found(order, &wide), ["secret"]);
            for before in [&b"bytes"[..], b"", b"bytes\0\0\0\0\0", b"\xff\xfe", b"\xfe\xff"] {
                let among = [before, &wide, b"more"].concat();
                assert_eq!(found(order, &among), ["secret"], "{order:?} after {before:?}");
            }
        }
    }

    #[test]
    fn bytes_side_by_side_are_no_wide_text() {
        for order in [Order::Little, Order::Big] {
            assert!(found(order, b"plain text, however long it is").is_empty());
            assert!(found(order, b"ab\0cd\0ef\0gh\0").is_empty());
        }
    }
}
