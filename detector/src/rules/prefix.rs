//! What every match of a pattern begins with.
//!
//! Where that is known, a pattern is tried at those places alone and nowhere else; that, and not
//! the keywords people write, is what makes a hundred patterns cheap.

use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Prefixes longer than this are cut.
pub(crate) const LONGEST: usize = 16;

/// A prefix this long is rare enough in ordinary text.
const ENOUGH: usize = 4;

/// How many prefixes a pattern may have, while they are too short and once they are long enough.
const MOST: (usize, usize) = (400, 48);

/// Lower-case literals, one of which begins each match, whatever its case; none if some match may
/// begin with anything.
pub(crate) fn prefixes(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let mut literals = Beginnings::of(hir).literals;
    literals.sort();
    literals.dedup();
    if literals.is_empty() || literals.iter().any(|l| l.len() < crate::gate::SHORTEST_LITERAL) {
        return None;
    }
    // One that begins with another would be found twice.
    let all = literals.clone();
    literals.retain(|l| !all.iter().any(|shorter| shorter != l && l.starts_with(shorter)));
    Some(literals)
}

/// Whether every match begins with the first letter of an (ASCII) word.
pub(crate) fn begins_a_word(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Concat(parts) => match &parts[..] {
            [boundary, next, ..] => is_boundary(boundary) && begins_with_letter(next),
            _ => false,
        },
        HirKind::Capture(capture) => begins_a_word(&capture.sub),
        HirKind::Alternation(branches) => branches.iter().all(begins_a_word),
        _ => false,
    }
}

fn is_boundary(hir: &Hir) -> bool {
    matches!(hir.kind(), HirKind::Look(Look::WordAscii | Look::WordStartAscii))
}

fn begins_with_letter(hir: &Hir) -> bool {
    let literals = Beginnings::of(hir).literals;
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    !literals.is_empty() && literals.iter().all(|l| l.first().is_some_and(is_word))
}

struct Beginnings {
    literals: Vec<Vec<u8>>,
    /// Whether the literals are the whole of what the pattern matches.
    whole: bool,
}

impl Beginnings {
    fn of(hir: &Hir) -> Self {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => Self::nothing(true),
            HirKind::Literal(literal) => {
                Self { literals: vec![literal.0.to_ascii_lowercase()], whole: true }
            }
            HirKind::Class(class) => Self::class(class),
            HirKind::Capture(capture) => Self::of(&capture.sub),
            HirKind::Concat(parts) => {
                let mut all = Self::nothing(true);
                parts.iter().take_while(|part| all.then(&Self::of(part))).for_each(drop);
                all
            }
            HirKind::Alternation(branches) => {
                let mut all = Self { literals: Vec::new(), whole: true };
                for branch in branches {
                    all.or(Self::of(branch));
                }
                all
            }
            HirKind::Repetition(repetition) => {
                let one = Self::of(&repetition.sub);
                let mut all = Self::nothing(true);
                let at_least = repetition.min.min(LONGEST as u32);
                let went_on = (0..at_least).all(|_| all.then(&one));
                match (repetition.min, repetition.max) {
                    (0, Some(1)) => all.or(one),
                    (min, Some(max)) if min == max && went_on && min <= LONGEST as u32 => {}
                    _ => all.whole = false,
                }
                all
            }
        }
    }

    fn nothing(whole: bool) -> Self {
        Self { literals: vec![Vec::new()], whole }
    }

    fn class(class: &Class) -> Self {
        let ranges: Option<Vec<(u8, u8)>> = match class {
            Class::Bytes(bytes) => Some(bytes.iter().map(|r| (r.start(), r.end())).collect()),
            Class::Unicode(chars) => chars
                .iter()
                .map(|r| {
                    let ascii = r.end().is_ascii();
                    ascii.then(|| (r.start() as u8, r.end() as u8))
                })
                .collect(),
        };
        let Some(ranges) = ranges else { return Self::nothing(false) };
        let mut bytes: Vec<u8> = ranges
            .into_iter()
            .flat_map(|(from, to)| from..=to)
            .map(|byte| byte.to_ascii_lowercase())
            .collect();
        bytes.sort_unstable();
        bytes.dedup();
        if bytes.len() > 40 {
            return Self::nothing(false);
        }
        Self { literals: bytes.into_iter().map(|byte| vec![byte]).collect(), whole: true }
    }

    /// Goes on with what follows; answers whether more may follow that.
    fn then(&mut self, next: &Self) -> bool {
        let shortest = self.literals.iter().map(Vec::len).min().unwrap_or(0);
        let most = if shortest < ENOUGH { MOST.0 } else { MOST.1.max(self.literals.len()) };
        // Long enough already: only what does not multiply is worth having.
        let multiplies = shortest >= ENOUGH && next.literals.len() > 2;
        if !self.whole || multiplies || self.literals.len() * next.literals.len() > most {
            self.whole = false;
            return false;
        }
        self.whole = next.whole;
        self.literals = self
            .literals
            .iter()
            .flat_map(|head| next.literals.iter().map(move |tail| [&head[..], tail].concat()))
            .collect();
        for literal in &mut self.literals {
            if literal.len() > LONGEST {
                literal.truncate(LONGEST);
                self.whole = false;
            }
        }
        self.whole
    }

    fn or(&mut self, other: Self) {
        self.literals.extend(other.literals);
        self.whole &= other.whole;
        if self.literals.len() > MOST.0 {
            *self = Self::nothing(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, expected: Option<&[&str]>) {
        let hir = regex_syntax::ParserBuilder::new()
            .utf8(false)
            .unicode(false)
            .build()
            .parse(pattern)
            .unwrap();
        let found = prefixes(&hir);
        let found = found
            .as_ref()
            .map(|all| all.iter().map(|l| std::str::from_utf8(l).unwrap()).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "{pattern}");
    }

    #[test]
    fn prefixes_are_lower_case_literals() {
        check(r"\bghp_[0-9A-Za-z]{36}\b", Some(&["ghp_"]));
        check(r"\b((?:AKIA|ASIA)[A-Z2-7]{16})\b", Some(&["akia", "asia"]));
        check(r"(?i)api[_-]?key", Some(&["api-key", "api_key", "apikey"]));
        check(r"-{5}BEGIN", Some(&["-----begin"]));
        check(r"xox[bp]-\d+", Some(&["xoxb-", "xoxp-"]));
        check(r"^-----BEGIN A VERY LONG HEADER", Some(&["-----begin a ver"]));
        check(r"(?:abcd|abcdef)", Some(&["abcd"]));
    }

    #[test]
    fn some_patterns_begin_words() {
        let begins = |pattern: &str| {
            let mut parser = regex_syntax::ParserBuilder::new();
            begins_a_word(&parser.utf8(false).unicode(false).build().parse(pattern).unwrap())
        };
        assert!(begins(r"\bghp_[0-9]"));
        assert!(begins(r"\b(?:abc|[d-f]x)"));
        assert!(begins(r"(\bab)|(\bcd)"));
        assert!(!begins(r"ghp_"));
        assert!(!begins(r"\b\.atlas"));
        assert!(!begins(r"\b(?:abc|-)"));
        assert!(!begins(r"\bab|cd"));
        assert!(!begins(r"\b"));
    }

    #[test]
    fn patterns_that_begin_with_anything_have_none() {
        check(r"[a-f0-9]{32}", None);
        check(r"(?i)[\w.-]{0,50}?adafruit", None);
        check(r"a?b?c?", None);
        check(r"(?:abcd|.*)", None);
        check(r".", None);
    }
}
