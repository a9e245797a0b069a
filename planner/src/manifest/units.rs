//! Quantities with units, read and written: processor shares, sizes, times.

use alloc::format;
use alloc::string::{String, ToString as _};

/// A decimal number in thousandths: `1.5` is 1500. At most three decimals.
pub(super) fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let scale = [100, 10, 1][part.len() - 1];
    let part: u64 = part.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(part * scale)
}

/// A size in bytes: a number and `k`, `m`, `g`, `t` or `KiB`, `MiB`, `GiB`, `TiB`, all powers of
/// 1024, as the engine reads them.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "ki" | "kib" => 10,
        "m" | "mi" | "mib" => 20,
        "g" | "gi" | "gib" => 30,
        "t" | "ti" | "tib" => 40,
        _ => return None,
    };
    let thousandths = thousandths(number)?.checked_mul(1 << shift)?;
    (thousandths % 1000 == 0).then_some(thousandths / 1000)
}

/// A time in seconds: numbers with `s`, `m`, `h`, `d`, the larger units first: `1h30m`.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (mut rest, mut total, mut last) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86400,
            _ => return None,
        };
        if unit >= last {
            return None;
        }
        last = unit;
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (last != u64::MAX).then_some(total)
}

/// A size as people read it, exactly: in the largest unit of which it is a whole number.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(shift, _): &(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= *shift;
    match units.into_iter().find(whole) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// A time as people read it, exactly: in the largest unit of which it is a whole number.
pub(crate) fn seconds_text(seconds: u64) -> String {
    let units = [(86400, "d"), (3600, "h"), (60, "min")];
    let whole = |(size, _): &(u64, &str)| seconds > 0 && seconds.is_multiple_of(*size);
    match units.into_iter().find(whole) {
        Some((size, unit)) => format!("{} {unit}", seconds / size),
        None => format!("{seconds} s"),
    }
}

/// Thousandths as a decimal number.
pub(crate) fn thousandths_text(thousandths: u32) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (&text[..end], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_shares() {
        for (text, expected) in [
            ("2", Some(2000)),
            ("1.5", Some(1500)),
            ("0.25", Some(250)),
            ("1.234", Some(1234)),
            ("1.2345", None),
            ("1.", None),
            (".5", None),
            ("-1", None),
            ("1e3", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(thousandths(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512MiB", Some(512 << 20)),
            ("4g", Some(4 << 30)),
            ("4G", Some(4 << 30)),
            ("1.5g", Some(3 << 29)),
            ("64k", Some(65536)),
            ("512MB", None),
            ("512", None),
            ("g", None),
            ("4 g", None),
            ("99999999999t", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("12h", Some(43200)),
            ("1h30m", Some(5400)),
            ("2d", Some(172_800)),
            ("90", None),
            ("m", None),
            ("", None),
            ("30m1h", None),
            ("1h1h", None),
            ("1é", None),
            ("1é", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn as_people_read_them() {
        let sizes = [0, 1023, 1024, 1 << 20, 3 << 29, 4 << 30, (4 << 30) + 1, 1 << 50];
        assert_eq!(
            sizes.map(bytes_text),
            [
                "0 bytes",
                "1023 bytes",
                "1 KiB",
                "1 MiB",
                "1536 MiB",
                "4 GiB",
                "4294967297 bytes",
                "1024 TiB"
            ]
        );
        let times = [0, 59, 60, 5400, 7200, 7201, 86400, 172_800];
        assert_eq!(
            times.map(seconds_text),
            ["0 s", "59 s", "1 min", "90 min", "2 h", "7201 s", "1 d", "2 d"]
        );
        assert_eq!([2000, 1500, 250, 1234].map(thousandths_text), ["2", "1.5", "0.25", "1.234"]);
    }
}
