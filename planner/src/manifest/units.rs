//! Quantities with units: processor shares, sizes, times.

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
}
