//! Text of an agent's on its way to a widget: nothing in it acts on the terminal, and it is no longer
//! than a person can take in.

use bottle_planner::escape::visible;
use ratatui::text::Span;

/// The most characters that are looked at of one text: two Dockerfiles fit whole, one taken out and
/// one put in, a line a character.
const MOST_CHARS: usize = 512 << 10;
/// The most lines that are kept of one text.
const MOST_LINES: usize = 200_000;
/// As many marks without a width may stand on one character; more would grow over other lines.
const MOST_MARKS: usize = 3;

/// One line of any text.
#[must_use]
pub fn line(text: &str) -> String {
    let cut: String = text.chars().take(MOST_CHARS).collect();
    let mut out = String::with_capacity(cut.len());
    let mut marks = 0;
    for c in visible(&cut).chars() {
        marks = if width(c) == 0 { marks + 1 } else { 0 };
        if marks > MOST_MARKS {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// The lines of any text; the last says how many were left out.
#[must_use]
pub fn lines(text: &str) -> Vec<String> {
    let cut = text.char_indices().nth(MOST_CHARS).map(|(at, _)| at);
    let mut source = text[..cut.unwrap_or(text.len())].lines();
    let mut lines: Vec<String> = source.by_ref().take(MOST_LINES).map(line).collect();
    let more = source.count();
    if let Some(at) = cut {
        lines.push(format!("… and {} bytes more", text.len() - at));
    } else if more > 0 {
        lines.push(format!("… and {more} lines more"));
    }
    lines
}

/// A line cut to so many columns.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    let (mut kept, mut wide) = (String::new(), 0);
    for (at, c) in text.char_indices() {
        let of = width(c);
        // The last column is for the sign that there is more, unless there is none.
        if wide + of >= columns && (wide + of > columns || text[at..].chars().count() > 1) {
            kept.push('…');
            return kept;
        }
        kept.push(c);
        wide += of;
    }
    kept
}

/// A line broken into lines of so many columns, at spaces where there are any.
#[must_use]
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let (mut line, mut wide, mut space) = (String::new(), 0, None);
    for c in text.chars() {
        let of = width(c);
        if wide + of > columns {
            // A word that is longer than a third of the line is broken where the line ends.
            let rest = match space {
                Some(at) if at * 3 > line.len() * 2 => line.split_off(at),
                _ => String::new(),
            };
            let rest = rest.trim_start().to_owned();
            lines.push(std::mem::replace(&mut line, rest));
            wide = line.chars().map(width).sum();
            space = None;
        }
        if c == ' ' {
            space = Some(line.len());
        }
        line.push(c);
        wide += of;
    }
    lines.push(line);
    lines
}

/// Columns, as the screen counts them.
fn width(c: char) -> usize {
    Span::raw(c.encode_utf8(&mut [0; 4]) as &str).width()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal_and_nothing_is_endless() {
        assert_eq!(line("a\u{1b}[2J\u{202e}b\r"), "a\\u{1b}[2J\\u{202e}b\\u{d}");
        assert_eq!(line(&"x".repeat(MOST_CHARS + 7)).len(), MOST_CHARS);
        let marks = line(&format!("e{}", "\u{301}".repeat(5)));
        assert_eq!(marks, "e\u{301}\u{301}\u{301}\\u{301}\\u{301}");
        let long = lines(&"x\n".repeat(MOST_LINES + 7));
        assert_eq!(long.last().unwrap(), "… and 7 lines more");
        let long = lines(&"é".repeat(MOST_CHARS + 7));
        assert_eq!((long.len(), long[1].as_str()), (2, "… and 14 bytes more"));
        assert!(lines("").is_empty());
    }

    #[test]
    fn lines_are_broken_at_spaces_where_they_can_be() {
        assert_eq!(wrap("the task needs it", 10), ["the task", "needs it"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("a bcdefghi", 6), ["a bcde", "fghi"]);
        assert_eq!(wrap("漢字漢字", 5), ["漢字", "漢字"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abc efg", 6), "abc e…");
        assert_eq!(cut("漢字漢", 5), "漢字…");
    }
}
