//! `deflate`: zlib's format (RFC 1950), or DEFLATE with no frame (RFC 1951), which many send under
//! this name.

use flate2::{Decompress, FlushDecompress, Status};

use super::{Sink, UnpackError};

const NAME: &str = "deflate";

/// DEFLATE, with a frame of its own or none.
#[derive(Default)]
pub(super) struct Deflate {
    inflate: Option<Inflate>,
    /// A first byte that does not yet say which of the two it is.
    first: Option<u8>,
    ended: bool,
}

impl Deflate {
    pub(super) fn feed(&mut self, piece: &[u8], sink: &mut Sink<'_>) -> Result<(), UnpackError> {
        let mut joined;
        let mut piece = piece;
        if self.inflate.is_none() {
            joined = self.first.take().into_iter().collect::<Vec<u8>>();
            joined.extend_from_slice(piece);
            piece = &joined;
            let [method, flags, ..] = *piece else {
                self.first = piece.first().copied();
                return Ok(());
            };
            self.inflate = Some(Inflate::new(is_zlib(method, flags)));
        }
        if self.ended && !piece.is_empty() {
            return Err(UnpackError::Invalid(NAME));
        }
        let Some(inflate) = &mut self.inflate else { return Ok(()) };
        let (taken, ended) = inflate.feed(piece, sink, NAME)?;
        self.ended = ended;
        if taken < piece.len() { Err(UnpackError::Invalid(NAME)) } else { Ok(()) }
    }

    pub(super) fn finish(&self) -> Result<(), UnpackError> {
        if self.ended { Ok(()) } else { Err(UnpackError::Truncated(NAME)) }
    }
}

/// RFC 1950, section 2.2: the method is DEFLATE, and both bytes together a multiple of 31.
fn is_zlib(method: u8, flags: u8) -> bool {
    method & 0x0F == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

/// DEFLATE as bytes arrive.
pub(super) struct Inflate(Decompress);

impl Inflate {
    pub(super) fn new(zlib: bool) -> Self {
        Self(Decompress::new(zlib))
    }

    /// Takes bytes; answers how many were taken, and whether the text has ended. Fewer than all are
    /// taken only at its end.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        sink: &mut Sink<'_>,
        name: &'static str,
    ) -> Result<(usize, bool), UnpackError> {
        let mut out = [0; 16 << 10];
        let mut taken = 0;
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let status = self
                .0
                .decompress(&piece[taken..], &mut out, FlushDecompress::None)
                .map_err(|_| UnpackError::Invalid(name))?;
            let (read, made) = (self.0.total_in() - before_in, self.0.total_out() - before_out);
            taken += read as usize;
            sink.put(&out[..made as usize])?;
            if status == Status::StreamEnd {
                return Ok((taken, true));
            }
            // More may be waiting only if all the room was used.
            if taken == piece.len() && (made as usize) < out.len() {
                return Ok((taken, false));
            }
            if read == 0 && made == 0 {
                return Err(UnpackError::Invalid(name));
            }
        }
    }
}
