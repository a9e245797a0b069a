//! The log of a role: one JSON object a line on standard error. Never a secret: callers pass names,
//! paths and errors, and no type that holds a secret can be displayed.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

static ROLE: OnceLock<&'static str> = OnceLock::new();

/// Names the role in every later line.
pub(crate) fn set_role(role: &'static str) {
    let _ = ROLE.set(role);
}

/// Something that went as it should.
pub(crate) fn info(message: &str, fields: &[(&str, &dyn Display)]) {
    write("info", message, fields);
}

/// Something a person may want to look at; the role goes on.
pub(crate) fn warn(message: &str, fields: &[(&str, &dyn Display)]) {
    write("warn", message, fields);
}

/// Why the role ends, or what it could not do.
pub(crate) fn error(message: &str, fields: &[(&str, &dyn Display)]) {
    write("error", message, fields);
}

fn write(level: &str, message: &str, fields: &[(&str, &dyn Display)]) {
    let mut line = Map::new();
    line.insert("time".into(), Value::String(now()));
    line.insert("level".into(), level.into());
    line.insert("role".into(), (*ROLE.get().unwrap_or(&"sidecar")).into());
    line.insert("message".into(), message.into());
    for (name, value) in fields {
        line.insert((*name).into(), value.to_string().into());
    }
    let mut text = Value::Object(line).to_string();
    text.push('\n');
    // Nothing is left to tell when standard error is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The time of day in UTC to the millisecond (RFC 3339).
pub(crate) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs(), since.subsec_millis())
}

/// Formats seconds since 1970; the calendar is Howard Hinnant's `civil_from_days`.
fn rfc3339(seconds: u64, millis: u32) -> String {
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (1_767_225_600, "2026-01-01T00:00:00.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(rfc3339(seconds, 7), text);
        }
    }
}
