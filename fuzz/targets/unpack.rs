//! The unpacker: whatever it is given, it ends in a result, the same for any pieces, within its bounds,
//! and it gives back what was packed. An odd coding byte packs the bytes first, so that what is
//! behind a checksum is reached too.
#![no_main]

#[path = "pieces.rs"]
mod pieces;

use bottle_detector::unpack::{MOST_RATIO, UnpackError, Unpacker};
use flate2::Compression;
use flate2::read::{GzEncoder, ZlibEncoder};
use libfuzzer_sys::fuzz_target;

const CODINGS: [&str; 6] = ["gzip", "deflate", "br", "zstd", "zstd, gzip", "br, deflate"];

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (seed, coding, bytes) = input;
    let name = CODINGS[usize::from(coding / 2) % CODINGS.len()];
    if coding % 2 == 0 {
        hostile(name, bytes, seed);
    } else {
        packed(bytes, seed);
    }
});

fn hostile(name: &str, bytes: &[u8], seed: u8) {
    let (whole, made) = unpack(name, std::iter::once(bytes));
    let (pieces, in_pieces) = unpack(name, pieces::cut(bytes, seed));
    // How much may have come out by now depends on how much went in by now.
    let too_much = [&whole, &pieces].map(|r| *r == Err(UnpackError::TooMuch)).contains(&true);
    if !too_much {
        // Of two that are wrong, either may be told of.
        assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?} {pieces:?}");
        assert!(whole.is_err() || made == in_pieces);
    }
    let most = bytes.len() as u64 * MOST_RATIO.0 + MOST_RATIO.1;
    assert!(made.len() as u64 <= most && in_pieces.len() as u64 <= most);
}

/// Whether it can be unpacked, and what came out until then.
fn unpack<'a>(
    name: &str,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Result<(), UnpackError>, Vec<u8>) {
    let mut unpacker = Unpacker::new(name).expect("a known coding");
    let mut out = Vec::new();
    let mut fed = Ok(());
    for piece in pieces {
        fed = fed.and_then(|()| unpacker.feed(piece, &mut out));
    }
    (fed.and_then(|()| unpacker.finish(&mut out)), out)
}

fn packed(text: &[u8], seed: u8) {
    use std::io::Read as _;
    let level = Compression::new(u32::from(seed % 10));
    let (mut gzip, mut zlib) = (Vec::new(), Vec::new());
    GzEncoder::new(text, level).read_to_end(&mut gzip).expect("memory");
    ZlibEncoder::new(text, level).read_to_end(&mut zlib).expect("memory");
    let zstd = ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest);
    for (name, packed) in [("gzip", gzip), ("deflate", zlib), ("zstd", zstd)] {
        let (whole, made) = unpack(name, pieces::cut(&packed, seed));
        assert!(whole.is_ok() && made == text, "{name}");
        let cut = usize::from(seed) % packed.len();
        assert!(
            cut == 0 || !unpack(name, std::iter::once(&packed[..cut])).0.is_ok(),
            "{name} cut short"
        );
    }
}
