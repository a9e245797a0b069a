//! Plan files: read once, bounded, and either strictly (what is acted upon) or leniently (what is
//! only shown).

use std::io;
use std::path::Path;

use bottle_planner::document::{self, DocumentError, Strictness};
use bottle_planner::plan::{FORMAT_VERSION, Plan};
use bottle_planner::words::Digest;
use serde_json::Value;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::load;
use crate::sessions::Sessions;

/// A plan's text: JSON with unique keys, nothing else checked yet.
#[derive(Debug, Clone)]
pub struct PlanText {
    /// Where it came from, for messages.
    pub from: String,
    /// Exactly what was read.
    pub text: String,
    /// As a value.
    pub raw: Value,
    /// Of its canonical form.
    pub digest: Digest,
}

impl PlanText {
    /// Reads a plan from a file, or from standard input (`-`).
    pub fn read(place: &str) -> Result<Self, Failure> {
        let (from, bytes) = if place == "-" {
            ("standard input".to_owned(), load::bounded(io::stdin().lock()))
        } else {
            (place.to_owned(), load::bytes(Path::new(place)))
        };
        let bytes =
            bytes.map_err(|error| Failure::error(format!("cannot read {from}")).because(&error))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Failure::error(format!("expected JSON in {from}, found no UTF-8 text")))?;
        Self::new(from, text)
    }

    /// Reads a plan from a file, from standard input (`-`), or of a session by its ID.
    pub fn find(place: &str, sessions: &Sessions) -> Result<Self, Failure> {
        let is_id = place.starts_with('@') || !place.contains(['/', '.']);
        if place == "-" || !is_id || Path::new(place).exists() {
            return Self::read(place);
        }
        Self::of_session(place, sessions)
    }

    /// The plan last applied to a session.
    pub fn of_session(id: &str, sessions: &Sessions) -> Result<Self, Failure> {
        let identity = sessions.find(id)?;
        let text = sessions
            .plan_text(&identity)?
            .ok_or_else(|| Failure::error(format!("session `{identity}` has no plan")))?;
        Self::new(format!("the plan of session {identity}"), text)
    }

    /// A plan that this program made or kept itself.
    pub fn stored(text: String) -> Result<Self, Failure> {
        Self::new("the stored plan".to_owned(), text)
    }

    fn new(from: String, text: String) -> Result<Self, Failure> {
        let raw = document::parse_value(&text)
            .map_err(|error| Failure::error(format!("expected a plan in {from}: {error}")))?;
        let digest = document::digest(&raw)
            .map_err(|error| Failure::error(format!("cannot digest {from}: {error}")))?;
        Ok(Self { from, text, raw, digest })
    }

    /// The plan, if this build reads its version and knows every field.
    pub fn strict(&self) -> Result<Plan, Failure> {
        self.check_kind()?;
        self.check_version()?;
        self.typed(Strictness::Strict)
    }

    /// The plan as far as this build understands it.
    pub fn lenient(&self) -> Result<Plan, Failure> {
        self.check_kind()?;
        match self.typed(Strictness::Lenient) {
            Ok(plan) => Ok(plan),
            // What cannot be read at all is best explained by its version.
            Err(failure) => self.check_version().and(Err(failure)),
        }
    }

    fn typed(&self, strictness: Strictness) -> Result<Plan, Failure> {
        let from = &self.from;
        document::from_value::<Plan>(self.raw.clone(), strictness).map(|found| found.value).map_err(
            |error| match error {
                // The value has lost its places; the text still has them.
                DocumentError::Malformed(plain) => {
                    let placed = serde_json::from_str::<Plan>(&self.text).err();
                    let why = placed.map_or(plain, |error| error.to_string());
                    Failure::error(format!("expected a plan in {from}: {why}"))
                }
                error => Failure::error(format!("{error} in {from}"))
                    .hint("a plan is applied only if every field of it is understood"),
            },
        )
    }

    /// Refuses a document that is no plan.
    pub fn check_kind(&self) -> Result<(), Failure> {
        match self.raw.get("kind").and_then(Value::as_str) {
            Some("bottle/plan") => Ok(()),
            Some(other) => Err(Failure::error(format!(
                "expected a plan in {}, found a document of kind `{}`",
                self.from,
                other.escape_debug()
            ))),
            None => Err(Failure::error(format!(
                "expected a plan in {}, found another document (it has no `kind`)",
                self.from
            ))),
        }
    }

    fn check_version(&self) -> Result<(), Failure> {
        let field = |name: &str| self.raw.get(name).and_then(Value::as_str);
        let found = field("format_version").unwrap_or_default();
        if is_supported(found) {
            return Ok(());
        }
        let writer = field("written_by").unwrap_or("an unknown version");
        Err(Failure::new(
            Exit::Version,
            format!(
                "{} has format version `{}`, expected {FORMAT_VERSION} or an older minor of it",
                self.from,
                found.escape_debug()
            ),
        )
        .hint(format!("bottle {} wrote it; use that version", writer.escape_debug())))
    }
}

/// Whether a format version is one this build reads: its own major, any minor up to its own.
fn is_supported(version: &str) -> bool {
    let parse = |text: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once('.')?;
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        (digits(major) && digits(minor)).then_some(())?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    match (parse(version), parse(FORMAT_VERSION)) {
        (Some((major, minor)), Some((own_major, own_minor))) => {
            major == own_major && minor <= own_minor
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(is_supported(FORMAT_VERSION));
        for version in ["", "1", "2.0", "0.9", "1.99", "1.0.0", "1.+0", "x.y", "1."] {
            assert!(!is_supported(version), "{version}");
        }
    }
}
