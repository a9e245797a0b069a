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

/// Characters that change how others are shown, or cannot be seen: Unicode's
/// `Default_Ignorable_Code_Point` (DerivedCoreProperties.txt), line and paragraph separators, what
/// annotates between lines, and the Braille pattern without dots.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_what_is_seen() {
        assert_eq!(visible("plain ä"), "plain ä");
        assert_eq!(visible("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(visible("a\u{202e}b\nc"), "a\\u{202e}b\\u{a}c");
        assert_eq!(visible("\u{9b}31m"), "\\u{9b}31m");
        for c in
            ['\u{fe00}', '\u{fe0f}', '\u{e0100}', '\u{34f}', '\u{115f}', '\u{3164}', '\u{2800}']
        {
            assert_eq!(visible(&c.to_string()), c.escape_unicode().to_string());
        }
    }

    #[test]
    fn markdown_stays_text() {
        assert_eq!(markdown("*a* `b` <img>"), "\\*a\\* \\`b\\` &lt;img&gt;");
        assert_eq!(markdown("@all #1 https://x"), "&#64;all &#35;1 https&#58;//x");
        assert_eq!(markdown("[a](b) www.x"), "\\[a\\](b) &#119;ww.x");
    }
}
