//! YAML text to a tree in which every value and every key knows its place.
//!
//! Deliberately less than YAML: one document, no tags, no anchors and aliases (an alias can make a
//! small file huge), no key twice, a bounded depth. What is left reads the same to everybody.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use super::diagnostic::{At, shown};
use super::reader::Reader;

/// The most a file may hold, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// How deep lists and mappings may lie in each other.
const MAX_DEPTH: usize = 64;

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: At,
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// An unquoted scalar, as written.
    Plain(String),
    /// A quoted or block scalar.
    Quoted(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
    /// Something already complained about.
    Broken,
}

impl Value {
    /// What the value is, as a noun phrase.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null | Self::Broken => "nothing",
            Self::Plain(_) | Self::Quoted(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// One key of a mapping with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub at: At,
    pub value: Node,
}

/// Reads one YAML document. `lines_before` are the lines of the file that precede `text`.
pub(super) fn parse(reader: &mut Reader<'_>, text: &str, lines_before: u32) -> Option<Node> {
    let parser = Parser::new_from_str(text);
    let mut tree = Tree { parser, reader, lines_before, alias_said: false };
    match tree.document() {
        Ok(node) => Some(node),
        Err(Stop::Syntax(error)) => {
            tree.syntax(&error, text);
            None
        }
        Err(Stop::Said) => None,
    }
}

/// Why reading ended early.
enum Stop {
    Syntax(ScanError),
    Said,
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        Self::Syntax(error)
    }
}

struct Tree<'t, 'r, 'f> {
    parser: Parser<'t, StrInput<'t>>,
    reader: &'r mut Reader<'f>,
    lines_before: u32,
    alias_said: bool,
}

impl<'t> Tree<'t, '_, '_> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    self.reader.error(at, "many-documents", "a second document in one file");
                    return Err(Stop::Said);
                }
                event => root = Some(self.node(event, at, 0)?),
            }
        }
        Ok(root.unwrap_or(Node { at: self.at(&Marker::new(0, 1, 0)), value: Value::Null }))
    }

    fn next(&mut self) -> Result<(Event<'t>, At), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.at(&span.start))),
            Some(Err(error)) => Err(error.into()),
            None => Ok((Event::StreamEnd, At::START)),
        }
    }

    fn node(&mut self, event: Event<'t>, at: At, depth: usize) -> Result<Node, Stop> {
        if depth > MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} levels of nesting");
            self.reader.error(at, "too-deep", message);
            return Err(Stop::Said);
        }
        let (anchor, tag) = match &event {
            Event::Alias(_) => (1, None),
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.as_ref()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.as_ref())
            }
            _ => (0, None),
        };
        if anchor != 0 && !self.alias_said {
            self.alias_said = true;
            self.reader
                .error(at, "alias", "anchors and aliases are not read here")
                .advise("write the value out; `extends` shares what bottles have in common");
        }
        let mut broken = anchor != 0;
        if let Some(tag) = tag {
            let message = format!("the tag `{}` is not read here", shown(&tag.to_string()));
            self.reader.error(at, "tag", message).advise("leave the tag out");
            broken = true;
        }
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(&text, style),
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => self.map(depth)?,
            _ => Value::Broken,
        };
        Ok(Node { at, value: if broken { Value::Broken } else { value } })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut broken = false;
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                return Ok(if broken { Value::Broken } else { Value::Map(entries) });
            }
            let key = self.node(event, at, depth + 1)?;
            let (event, value_at) = self.next()?;
            let value = self.node(event, value_at, depth + 1)?;
            let key = match key.value {
                Value::Plain(key) | Value::Quoted(key) => key,
                Value::Broken => {
                    broken = true;
                    continue;
                }
                other => {
                    broken = true;
                    let message = format!("expected a key, found {}", other.kind());
                    self.reader.error(at, "bad-key", message);
                    continue;
                }
            };
            if let Some(first) = seen.get(&key).and_then(|first| entries.get_mut(*first)) {
                let At { line, column } = first.at;
                let message = format!(
                    "`{}` is given twice, first at line {line} column {column}",
                    shown(&key)
                );
                first.value.value = Value::Broken;
                self.reader.error(at, "duplicate-key", message);
                continue;
            }
            seen.insert(key.clone(), entries.len());
            entries.push(Entry { key, at, value });
        }
    }

    fn syntax(&mut self, error: &ScanError, text: &str) {
        let at = self.at(error.marker());
        let line = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
        let found = self.reader.error(at, "yaml-syntax", error.info().to_string());
        if line.contains(": @")
            || line.contains("- @")
            || line.contains("[@")
            || line.contains(", @")
        {
            found.advise("a name that begins with `@` needs quotes: \"@claude\"");
        } else if line.trim_end().ends_with(": ?") {
            found.advise("a question mark alone needs quotes: \"?\"");
        } else if line.starts_with('\t') {
            found.advise("YAML is indented with spaces, not with tabs");
        }
    }

    fn at(&self, marker: &Marker) -> At {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        At {
            line: number(marker.line()).saturating_add(self.lines_before).max(1),
            column: number(marker.col()).saturating_add(1),
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match style {
        // The null of the YAML 1.2 core schema (section 10.3.2).
        ScalarStyle::Plain if matches!(text, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        ScalarStyle::Plain => Value::Plain(text.to_string()),
        _ => Value::Quoted(text.to_string()),
    }
}
