use std::io::Write;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn raw(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn br(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut to = ::brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
    to.write_all(bytes).unwrap();
    drop(to);
    out
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn pack(coding: &str, bytes: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" | "x-gzip" => gzip(bytes),
        "deflate" => zlib(bytes),
        "raw" => raw(bytes),
        "br" => br(bytes),
        "zstd" => zstd(bytes),
        _ => bytes.to_vec(),
    }
}

fn unpack(header: &str, packed: &[u8], step: usize) -> Result<Vec<u8>, UnpackError> {
    let mut unpacker = Unpacker::new(header)?;
    let mut out = Vec::new();
    for piece in packed.chunks(step.max(1)) {
        unpacker.feed(piece, &mut out)?;
    }
    unpacker.finish(&mut out)?;
    Ok(out)
}

fn sample() -> Vec<u8> {
    (0..3000_u32).flat_map(|n| format!("line {} of {}\n", n * 7 % 911, n).into_bytes()).collect()
}

#[test]
fn undoes_each_coding_whatever_the_pieces() {
    let text = sample();
    for (header, coding) in [
        ("gzip", "gzip"),
        ("X-GZIP", "gzip"),
        ("deflate", "deflate"),
        ("deflate", "raw"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("identity", "identity"),
        ("", "identity"),
    ] {
        let packed = pack(coding, &text);
        for step in [1, 7, 4096, usize::MAX] {
            assert_eq!(
                unpack(header, &packed, step).as_deref(),
                Ok(&text[..]),
                "{coding} by {step}"
            );
        }
    }
}

#[test]
fn undoes_stacks_in_the_order_they_were_put_on() {
    let text = sample();
    let packed = br(&zstd(&gzip(&text)));
    assert_eq!(unpack("gzip, zstd ,br", &packed, 100), Ok(text));
    assert_eq!(Unpacker::new("gzip,gzip,br,br").err(), Some(UnpackError::TooMany(4)));
}

#[test]
fn unknown_codings_are_refused() {
    assert_eq!(Unpacker::new("gzip, lzma").err(), Some(UnpackError::Unknown("lzma".into())));
    assert_eq!(Unpacker::new("compress").err(), Some(UnpackError::Unknown("compress".into())));
}

#[test]
fn members_and_frames_follow_each_other() {
    let twice = [sample(), sample()].concat();
    for coding in ["gzip", "zstd"] {
        let packed = [pack(coding, &sample()), pack(coding, &sample())].concat();
        assert_eq!(unpack(coding, &packed, 1000).as_deref(), Ok(&twice[..]), "{coding}");
    }
    // A frame to be skipped: its magic number, its length, its bytes.
    let skipped = [&[0x53, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(b"after")].concat();
    assert_eq!(unpack("zstd", &skipped, 1).as_deref(), Ok(&b"after"[..]));
}

#[test]
fn a_gzip_header_may_have_all_its_parts() {
    let mut packed = flate2::GzBuilder::new()
        .filename("a")
        .comment("b")
        .extra(vec![1, 2, 3])
        .write(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"text").unwrap();
    let packed = packed.finish().unwrap();
    for step in [1, usize::MAX] {
        assert_eq!(unpack("gzip", &packed, step).as_deref(), Ok(&b"text"[..]));
    }
}

#[test]
fn what_is_cut_short_is_an_error_at_every_length() {
    let text = &sample()[..300];
    for coding in ["gzip", "deflate", "raw", "br", "zstd"] {
        let packed = pack(coding, text);
        let header = if coding == "raw" { "deflate" } else { coding };
        for length in 1..packed.len() {
            let outcome = unpack(header, &packed[..length], usize::MAX);
            assert!(matches!(outcome, Err(UnpackError::Truncated(_))), "{coding} cut to {length}");
        }
    }
}

#[test]
fn what_follows_the_end_is_an_error() {
    for coding in ["gzip", "deflate", "raw", "br", "zstd"] {
        let packed = [&pack(coding, &sample())[..], b"+more"].concat();
        let header = if coding == "raw" { "deflate" } else { coding };
        for step in [1, usize::MAX] {
            assert!(unpack(header, &packed, step).is_err(), "{coding}");
        }
    }
}

#[test]
fn a_wrong_checksum_is_an_error() {
    let mut packed = gzip(&sample());
    let at = packed.len() - 6;
    packed[at] ^= 1;
    assert_eq!(unpack("gzip", &packed, usize::MAX), Err(UnpackError::Invalid("gzip")));
}

#[test]
fn an_error_stays() {
    let mut unpacker = Unpacker::new("gzip").unwrap();
    let mut out = Vec::new();
    assert!(unpacker.feed(b"no gzip at all", &mut out).is_err());
    assert!(unpacker.feed(&gzip(b"text"), &mut out).is_err());
    assert!(unpacker.finish(&mut out).is_err());
}

#[test]
fn a_panic_fails_the_text_alone() {
    assert!(!is_contained());
    let outcome = contained(|| {
        assert!(is_contained());
        let nothing: [u8; 0] = [];
        // What a decoder's mistake looks like.
        assert_eq!(nothing[std::hint::black_box(7)], 0);
        Ok(())
    });
    assert_eq!(outcome, Err(UnpackError::Broken));
    assert!(!is_contained());
}

#[test]
fn a_body_of_nothing_needs_no_coding() {
    assert_eq!(unpack("gzip", b"", 1), Ok(Vec::new()));
}

#[test]
fn a_bomb_fails_before_it_has_gone_off() {
    let zeros = vec![0; 64 << 20];
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let bomb = pack(coding, &zeros);
        let mut unpacker = Unpacker::new(coding).unwrap();
        let mut out = Vec::new();
        let failed = bomb.chunks(100).find_map(|piece| unpacker.feed(piece, &mut out).err());
        assert_eq!(failed, Some(UnpackError::TooMuch), "{coding}");
        assert!(out.len() < 24 << 20, "{coding} let {} bytes out", out.len());
    }
    let bomb = gzip(&gzip(&gzip(&zeros)));
    let mut unpacker = Unpacker::new("gzip, gzip, gzip").unwrap();
    assert_eq!(unpacker.feed(&bomb, &mut Vec::new()), Err(UnpackError::TooMuch));
}
