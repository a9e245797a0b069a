//! Go's regular expressions, said in Rust's words.
//!
//! gitleaks compiles with Go's `regexp`; both engines come from RE2 and differ in a few places that
//! real rule files use. Source: pkg.go.dev/regexp/syntax, docs.rs/regex-syntax.

/// The same pattern for `regex-syntax`. What neither understands is left as it is, for the parser to name.
pub(crate) fn from_go(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    // Whether the next character is the first of a class, where `]` is itself.
    let mut class: Option<bool> = None;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        if c == '\\' {
            rest = escape(after, &mut out);
            class = class.map(|_| false);
            continue;
        }
        rest = after;
        match (c, class) {
            ('[', None) => {
                out.push('[');
                class = Some(true);
                if let Some(after) = rest.strip_prefix('^') {
                    out.push('^');
                    rest = after;
                }
                if let Some(after) = rest.strip_prefix(']') {
                    out.push_str(r"\]");
                    rest = after;
                    class = Some(false);
                }
            }
            // Nested classes are Rust's alone; `[:alpha:]` is both's.
            ('[', Some(_)) => match rest.starts_with(':').then(|| rest.find(":]")).flatten() {
                Some(end) => {
                    out.push('[');
                    out.push_str(&rest[..end + 2]);
                    rest = &rest[end + 2..];
                    class = Some(false);
                }
                None => out.push_str(r"\["),
            },
            (']', Some(_)) => {
                out.push(']');
                class = None;
            }
            // `&&`, `--` and `~~` are set operations in Rust, `-` beside a bracket is not.
            ('&' | '~', Some(_)) => {
                out.push('\\');
                out.push(c);
                class = Some(false);
            }
            ('-', Some(first)) if first || rest.starts_with([']', '-']) => {
                out.push_str(r"\-");
                class = Some(false);
            }
            ('{', None) if !is_repetition(rest) => out.push_str(r"\{"),
            _ => {
                out.push(c);
                class = class.map(|_| false);
            }
        }
    }
    out
}

/// Writes what follows a backslash; answers what is left.
fn escape<'a>(after: &'a str, out: &mut String) -> &'a str {
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[c.len_utf8()..];
    match c {
        'Q' => {
            let (literal, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            out.push_str(&regex_syntax::escape(literal));
            rest
        }
        // Word boundaries in Rust.
        '<' | '>' => {
            out.push(c);
            rest
        }
        // `\_` is tolerated by Go.
        '_' => {
            out.push('_');
            rest
        }
        _ => {
            out.push('\\');
            out.push(c);
            rest
        }
    }
}

/// Whether this, after a `{`, is a repetition: `n}`, `n,}` or `n,m}`.
fn is_repetition(rest: &str) -> bool {
    let Some((inside, _)) = rest.split_once('}') else { return false };
    let (min, max) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !min.is_empty() && digits(min) && digits(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_takes_literally_is_escaped() {
        for (go, rust) in [
            (r"a{2,3}b{c", r"a{2,3}b\{c"),
            (r"\$\{{1}x", r"\$\{{1}x"),
            (r"[a[b]", r"[a\[b]"),
            (r"[[:alpha:]_-]", r"[[:alpha:]_\-]"),
            (r"[\s\S-]{4}", r"[\s\S\-]{4}"),
            (r"[]a]", r"[\]a]"),
            (r"[^]a&&b]", r"[^\]a\&\&b]"),
            (r"\Qa.b\E.", r"a\.b."),
            (r"\<a\>", r"<a>"),
            (r"[a-z]", r"[a-z]"),
        ] {
            assert_eq!(from_go(go), rust);
            regex_syntax::parse(rust).unwrap();
        }
    }

    #[test]
    fn never_panics_on_odd_ends() {
        for odd in ["\\", "[", "[[:", "[^", r"\Q", "{", "[a-", "é{", "[é-"] {
            from_go(odd);
        }
    }
}
