//! Replaces what was found.

use crate::{Finding, Layer};

/// Replaces the findings' bytes with as many filler bytes: `*` in plain text, and in an encoding what
/// is valid there. Line ends within an encoded text stay.
///
/// `bytes` are part of what was scanned, and begin at offset `base_offset` of it; what lies outside
/// them is left out.
pub fn mask(bytes: &mut [u8], base_offset: u64, findings: &[Finding]) {
    let within = |offset: u64| {
        let inside = offset.saturating_sub(base_offset);
        usize::try_from(inside).unwrap_or(usize::MAX).min(bytes.len())
    };
    let spans: Vec<_> = findings
        .iter()
        .map(|finding| {
            let span = within(finding.span.start)..within(finding.span.end);
            (span, finding.layers.first().copied())
        })
        .collect();
    for (span, layer) in spans {
        for byte in &mut bytes[span] {
            if !(layer.is_some() && matches!(byte, b'\r' | b'\n')) {
                *byte = filler(layer);
            }
        }
    }
}

/// What to write over bytes below an encoding.
pub(crate) fn filler(layer: Option<Layer>) -> u8 {
    match layer {
        None => b'*',
        Some(Layer::Base64) => b'A',
        Some(Layer::Hex) => b'0',
        Some(Layer::Percent | Layer::Escape) => b'X',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::What;

    fn finding(span: std::ops::Range<u64>, layers: &[Layer]) -> Finding {
        Finding { what: What::Rule("r".into()), span, layers: layers.to_vec() }
    }

    #[test]
    fn fills_in_kind_and_keeps_lengths() {
        let mut text = *b"plain QUJD\nRA 4142 %41";
        let found = [
            finding(100..105, &[]),
            finding(106..113, &[Layer::Base64, Layer::Hex]),
            finding(114..118, &[Layer::Hex]),
            finding(119..122, &[Layer::Percent]),
        ];
        mask(&mut text, 100, &found);
        assert_eq!(&text, b"***** AAAA\nAA 0000 XXX");
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let mut text = *b"abcdef";
        mask(&mut text, 10, &[finding(0..12, &[]), finding(15..99, &[]), finding(40..50, &[])]);
        assert_eq!(&text, b"**cde*");
    }
}
