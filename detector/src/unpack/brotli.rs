//! Brotli (RFC 7932), without the extension to larger windows.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{Sink, UnpackError};

const NAME: &str = "br";

/// A Brotli text.
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        Self { state: BrotliState::new_strict(alloc(), alloc(), alloc()), ended: false }
    }
}

impl Brotli {
    pub(super) fn feed(&mut self, piece: &[u8], sink: &mut Sink<'_>) -> Result<(), UnpackError> {
        if self.ended {
            return Err(UnpackError::Invalid(NAME));
        }
        let mut out = [0; 16 << 10];
        let (mut left, mut taken, mut total) = (piece.len(), 0, 0);
        loop {
            let (mut room, mut made) = (out.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut taken,
                piece,
                &mut room,
                &mut made,
                &mut out,
                &mut total,
                &mut self.state,
            );
            sink.put(&out[..made])?;
            match result {
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::NeedsMoreInput if left == 0 => return Ok(()),
                BrotliResult::ResultSuccess if left == 0 => {
                    self.ended = true;
                    return Ok(());
                }
                _ => return Err(UnpackError::Invalid(NAME)),
            }
        }
    }

    pub(super) fn finish(&self) -> Result<(), UnpackError> {
        if self.ended { Ok(()) } else { Err(UnpackError::Truncated(NAME)) }
    }
}
