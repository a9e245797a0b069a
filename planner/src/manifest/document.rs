//! One file's text to a node tree: what is refused before parsing, and Markdown frontmatter.

use alloc::borrow::Cow;
use alloc::format;

use super::diagnostic::At;
use super::reader::Reader;
use super::yaml::{self, MAX_BYTES, Node};

/// A file's YAML, and the Markdown below it.
pub(super) struct Document<'t> {
    pub root: Node,
    /// The Markdown body; `None` in a YAML file.
    pub body: Option<&'t str>,
}

/// The text with its byte-order mark dropped and line ends as LF, if it may be read at all.
///
/// Control characters are refused: a NUL ends the text for some parsers, and others hide lines
/// from whoever reviews the file on a terminal.
pub(super) fn plain<'t>(reader: &mut Reader<'_>, text: &'t str) -> Option<Cow<'t, str>> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has more than {} KiB", MAX_BYTES >> 10);
        reader.error(At::START, "too-large", message);
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text: Cow<'t, str> = match text.contains('\r') {
        true => text.replace("\r\n", "\n").into(),
        false => text.into(),
    };
    for (number, line) in (1u32..).zip(text.split('\n')) {
        let bad = |c: char| (c.is_control() && c != '\t') || c == '\u{feff}';
        if let Some(column) = line.chars().position(bad) {
            let column = u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1);
            let at = At { line: number, column };
            reader.error(at, "control-character", "a control character in the text");
            return None;
        }
    }
    Some(text)
}

/// Reads a file by its ending: `.md` has frontmatter and a body, anything else is YAML.
pub(super) fn read<'t>(reader: &mut Reader<'_>, path: &str, text: &'t str) -> Option<Document<'t>> {
    if !path.ends_with(".md") {
        return yaml::parse(reader, text, 0).map(|root| Document { root, body: None });
    }
    let Some(front) = text.strip_prefix("---").and_then(|rest| {
        let (line, rest) = rest.split_once('\n').unwrap_or((rest, ""));
        line.trim_end().is_empty().then_some(rest)
    }) else {
        reader
            .error(At::START, "no-frontmatter", "the file does not begin with a line `---`")
            .advise("YAML between two lines `---`, then Markdown");
        return None;
    };
    let mut end = 0;
    for line in front.split_inclusive('\n') {
        if line.strip_prefix("---").is_some_and(|rest| rest.trim_end().is_empty()) {
            let root = yaml::parse(reader, &front[..end], 1)?;
            return Some(Document { root, body: Some(&front[end + line.len()..]) });
        }
        end += line.len();
    }
    reader.error(At::START, "open-frontmatter", "the frontmatter has no closing line `---`");
    None
}
