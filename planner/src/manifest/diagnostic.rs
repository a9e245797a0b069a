//! What is said about a manifest: one finding with its place, and the list they are gathered in.

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The definition it lies in is not in force.
    Error,
    /// The definition is in force, but probably not as meant.
    Warning,
}

/// One finding about a manifest file. Sorted by place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file as the source names it, `bottles/dev.md`.
    pub file: String,
    /// The line, counted from 1 in the whole file.
    pub line: u32,
    /// The column, counted from 1 in characters.
    pub column: u32,
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for the kind of finding, in kebab case.
    pub code: &'static str,
    /// What is wrong, as a lower-case fragment on one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A finding about a file as a whole.
    #[must_use]
    pub fn about_file(
        severity: Severity,
        code: &'static str,
        file: &str,
        message: impl Into<String>,
    ) -> Self {
        let (line, column) = (1, 1);
        let (file, message) = (file.to_string(), message.into());
        Self { file, line, column, severity, code, message, hint: None }
    }

    /// Adds what to do about it.
    pub fn advise(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }

    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", shown(&self.file), self.line, self.column, self.message)
    }
}

/// A place inside one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct At {
    pub line: u32,
    pub column: u32,
}

impl At {
    /// The first character of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// A place in some file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    pub file: Rc<str>,
    pub at: At,
}

/// A value and the place that gave it.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub value: T,
    pub spot: Spot,
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Diagnostic>,
    errors: usize,
}

impl Findings {
    /// Records an error.
    pub fn error(
        &mut self,
        spot: &Spot,
        code: &'static str,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.errors += 1;
        self.push(spot, Severity::Error, code, message.into())
    }

    /// Records a warning.
    pub fn warning(
        &mut self,
        spot: &Spot,
        code: &'static str,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.push(spot, Severity::Warning, code, message.into())
    }

    fn push(
        &mut self,
        spot: &Spot,
        severity: Severity,
        code: &'static str,
        message: String,
    ) -> &mut Diagnostic {
        let At { line, column } = spot.at;
        let file = spot.file.to_string();
        let found = Diagnostic { file, line, column, severity, code, message, hint: None };
        self.list.push_mut(found)
    }

    /// Whether there are so few errors that a guess at what was meant is worth its time.
    pub fn worth_a_guess(&self) -> bool {
        self.errors < 100
    }

    /// How many errors there are so far: read twice, it says whether a step went well.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// The findings in order of place, each once.
    pub fn sorted(mut self) -> Vec<Diagnostic> {
        self.list.sort();
        self.list.dedup();
        self.list
    }
}

/// A piece of a manifest as a message may show it: shortened, nothing a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        out.push('…');
    }
    out.replace("\\'", "'").replace("\\\"", "\"")
}

/// The candidate that a misspelled word most likely stands for.
///
/// Damerau–Levenshtein distance of at most a third of the word, or one; nothing for very long
/// words or very many candidates, so that a hostile file costs no time.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .take(256)
        .filter_map(|candidate| {
            let plain = candidate.to_ascii_lowercase().replace('-', "_");
            let distance = strsim::damerau_levenshtein(&lower, &plain);
            let longest = lower.chars().count().max(plain.chars().count());
            (distance <= (longest / 3).max(1) && distance < longest)
                .then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words() {
        let keys = ["upstream", "extends", "env", "git_user", "known_host_key"];
        for (word, expected) in [
            ("upsteam", Some("upstream")),
            ("extend", Some("extends")),
            ("evn", Some("env")),
            ("git-user", Some("git_user")),
            ("KnownHostKeys", Some("known_host_key")),
            ("zzz", None),
            ("e", None),
        ] {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), keys), None);
    }

    #[test]
    fn nothing_a_terminal_obeys() {
        assert_eq!(shown("a\u{1b}[2Jb\n'x'"), "a\\u{1b}[2Jb\\n'x'");
        assert_eq!(shown(&"y".repeat(200)).chars().count(), 81);
    }
}
