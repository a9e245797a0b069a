//! Making text from strangers harmless before a person sees it.

use alloc::format;
use alloc::string::String;

/// Shows what a terminal would act upon: controls, bidirectional marks, invisible characters.
///
/// A newline is escaped too; callers that want lines split first.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            out.push_str(&format!("{}", c.escape_unicode()));
        } else {
            out.push(c);
        }
    }
    out
}

/// [`visible`], and with everything plain that Markdown (GitHub's) would act upon: emphasis, code,
/// links and what becomes one by itself, mentions, references, HTML.
#[must_use]
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let visible = visible(text);
    let mut rest = visible.as_str();
    while let Some(c) = rest.chars().next() {
        let begins_link = rest.starts_with("://") || rest.starts_with("www.");
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            '#' => out.push_str("&#35;"),
            ':' | 'w' if begins_link => out.push_str(&format!("&#{};", u32::from(c))),
            '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '|' | '~' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Characters that change how others are shown, or cannot be seen.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_what_is_seen() {
        assert_eq!(visible("plain ä"), "plain ä");
        assert_eq!(visible("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(visible("a\u{202e}b\nc"), "a\\u{202e}b\\u{a}c");
        assert_eq!(visible("\u{9b}31m"), "\\u{9b}31m");
    }

    #[test]
    fn markdown_stays_text() {
        assert_eq!(markdown("*a* `b` <img>"), "\\*a\\* \\`b\\` &lt;img&gt;");
        assert_eq!(markdown("@all #1 https://x"), "&#64;all &#35;1 https&#58;//x");
        assert_eq!(markdown("[a](b) www.x"), "\\[a\\](b) &#119;ww.x");
    }
}
