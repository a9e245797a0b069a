//! Allow-lists: what a rule matches and yet is no secret.

use aho_corasick::AhoCorasick;
use regex_automata::meta::Regex;

/// One allow-list, of a rule or of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allow {
    /// Whether everything that is given has to apply, not just one thing.
    pub(crate) all: bool,
    /// What the patterns are tried on.
    pub(crate) target: Target,
    /// Patterns.
    pub(crate) regexes: Vec<Regex>,
    /// Words of which a secret holds none.
    pub(crate) stopwords: Option<AhoCorasick>,
    /// Patterns of paths.
    pub(crate) paths: Vec<Regex>,
    /// Whether it also names commits: there are none here, so with `all` it never applies.
    pub(crate) commits: bool,
}

/// What an allow-list's patterns are tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Target {
    /// The secret alone.
    #[default]
    Secret,
    /// All that the rule matched.
    Match,
    /// The line that it stands in.
    Line,
}

/// A match, as allow-lists look at it.
pub(crate) struct Seen<'a> {
    pub(crate) secret: &'a [u8],
    pub(crate) whole: &'a [u8],
    pub(crate) line: &'a [u8],
    pub(crate) path: Option<&'a str>,
}

impl Allow {
    /// Whether this list lets it pass.
    pub(crate) fn allows(&self, seen: &Seen<'_>) -> bool {
        let on = match self.target {
            Target::Secret => seen.secret,
            Target::Match => seen.whole,
            Target::Line => seen.line,
        };
        let checks = [
            (!self.regexes.is_empty()).then(|| self.regexes.iter().any(|r| r.is_match(on))),
            self.stopwords.as_ref().map(|words| words.is_match(seen.secret)),
            (!self.paths.is_empty()).then(|| seen.path.is_some_and(|path| self.allows_path(path))),
            self.commits.then_some(false),
        ];
        let mut given = checks.into_iter().flatten().peekable();
        given.peek().is_some() && if self.all { given.all(|ok| ok) } else { given.any(|ok| ok) }
    }

    /// Whether nothing but the path is asked for, and it fits.
    pub(crate) fn allows_whole_file(&self, path: &str) -> bool {
        let path_alone = self.regexes.is_empty() && self.stopwords.is_none() && !self.commits;
        (path_alone || !self.all) && self.allows_path(path)
    }

    fn allows_path(&self, path: &str) -> bool {
        self.paths.iter().any(|pattern| pattern.is_match(path))
    }
}
