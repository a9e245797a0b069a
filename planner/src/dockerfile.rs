//! A Dockerfile taken apart into instructions, as the engine's builder takes it apart: comments go,
//! lines that go on are joined, empty lines and comments in between end nothing.
//!
//! Source of the rules: Dockerfile reference ("Format", "Parser directives", "escape") and the
//! builder's own reader, moby's `frontend/dockerfile/parser`.

use alloc::string::String;
use alloc::vec::Vec;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction<'a> {
    /// The line it begins on, from 0.
    pub first: usize,
    /// The last line that belongs to it.
    pub last: usize,
    /// All of it in one line: what was continued is joined, and its comments are gone.
    pub text: String,
    /// Comments that stand between its lines, by line from 0.
    pub comments: Vec<(usize, &'a str)>,
    /// Whether its last line says that it goes on, and nothing follows.
    pub unended: bool,
}

impl Instruction<'_> {
    /// Its first word, and what follows it.
    pub fn parts(&self) -> (&str, &str) {
        let text = self.text.trim();
        // Not every white space there is: the builder takes a word with a no-break space for one.
        let end = text.find([' ', '\t', '\u{b}', '\u{c}', '\r']).unwrap_or(text.len());
        (&text[..end], text[end..].trim())
    }

    /// Whether it is this instruction.
    pub fn is(&self, name: &str) -> bool {
        self.parts().0.eq_ignore_ascii_case(name)
    }
}

/// Every instruction, in order.
pub(crate) fn instructions(dockerfile: &str) -> Vec<Instruction<'_>> {
    let escape = escape(dockerfile);
    let mut all: Vec<Instruction<'_>> = Vec::new();
    let mut goes_on = false;
    for (number, line) in dockerfile.lines().enumerate() {
        let comment = line.trim().starts_with('#');
        if !goes_on {
            if comment || line.trim().is_empty() {
                continue;
            }
            all.push(Instruction {
                first: number,
                last: number,
                text: String::new(),
                comments: Vec::new(),
                unended: false,
            });
        }
        let Some(current) = all.last_mut() else { continue };
        current.last = number;
        if goes_on && comment {
            current.comments.push((number, line));
            continue;
        }
        if goes_on && line.trim().is_empty() {
            continue;
        }
        let part = line.trim_end_matches([' ', '\t']);
        let (part, more) = match part.strip_suffix(escape) {
            Some(part) => (part, true),
            None => (line, false),
        };
        current.text.push_str(part);
        (current.unended, goes_on) = (more, more);
    }
    all
}

/// What ends a line that goes on: a directive at the very top may say so.
pub(crate) fn escape(dockerfile: &str) -> char {
    for line in dockerfile.lines() {
        let Some((name, value)) = directive(line) else { break };
        if name.eq_ignore_ascii_case("escape") {
            return value.chars().next().unwrap_or('\\');
        }
    }
    '\\'
}

/// The name and value of a comment that the builder takes for a directive. White space is ASCII's
/// here: with a no-break space in it the builder has a plain comment.
pub(crate) fn directive(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim_ascii().strip_prefix('#')?.split_once('=')?;
    let name = name.trim_ascii();
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then_some((name, value.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    fn texts(dockerfile: &str) -> Vec<(usize, usize, String)> {
        instructions(dockerfile).iter().map(|i| (i.first, i.last, i.text.to_string())).collect()
    }

    #[test]
    fn what_goes_on_is_one_instruction() {
        let text = "# c \\\n\nFROM a\nRUN x \\\n# not \\\n\n  y \\ \n z\nrun w";
        let expected = [(2, 2, "FROM a"), (3, 7, "RUN x   y  z"), (8, 8, "run w")];
        assert_eq!(texts(text), expected.map(|(a, b, t)| (a, b, t.to_string())));
        assert_eq!(texts("AD\\\nD x y\n"), [(0, 1, "ADD x y".to_string())]);
        assert_eq!(texts("# escape=`\nRUN a`\nb\\\nUSER c").len(), 2);
    }

    #[test]
    fn the_first_word_is_the_instruction() {
        let first = |text: &str| {
            let all = instructions(text);
            let (name, rest) = all[0].parts();
            (name.to_string(), rest.to_string())
        };
        assert_eq!(first("  from\t a as b "), ("from".to_string(), "a as b".to_string()));
        assert_eq!(first("ADD\u{a0}x y").0, "ADD\u{a0}x");
        assert_eq!(first("\u{a0}ADD x").0, "ADD");
        assert!(instructions("RUN a \\\n# b\n")[0].unended);
        assert!(!instructions("RUN a \\\n# b\nc")[0].unended);
    }

    #[test]
    fn directives_stand_at_the_top() {
        assert_eq!(escape("# syntax=x\n#Escape = `\nFROM a"), '`');
        assert_eq!(escape("# a note\n# escape=`\nFROM a"), '\\');
        assert_eq!(escape("FROM a\n# escape=`"), '\\');
        for space in ['\u{a0}', '\u{2003}', '\u{3000}'] {
            assert_eq!(escape(&format!("# escape{space}=`\nFROM a")), '\\');
            assert_eq!(escape(&format!("#{space}escape=`\nFROM a")), '\\');
        }
    }
}
