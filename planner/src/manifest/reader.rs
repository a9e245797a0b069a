//! The helpers every decoder is written with: one file's findings, and typed looks at its nodes.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::ops::RangeInclusive;

use super::diagnostic::{At, Diagnostic, Findings, Placed, Spot, nearest, shown};
use super::keys::{Status, Table};
use super::yaml::{Node, Value};
use crate::words::{Name, SecretName, WordError};

/// Reads one file: everything found is about that file.
pub(super) struct Reader<'f> {
    file: Rc<str>,
    pub findings: &'f mut Findings,
}

/// A value under a key, or an item of a list under one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'n> {
    pub key: &'n str,
    pub at: At,
    pub node: &'n Node,
}

/// A mapping whose keys were checked against a table.
pub(super) struct Fields<'n> {
    pub at: At,
    found: Vec<(&'static str, Field<'n>)>,
}

impl<'n> Fields<'n> {
    /// The value under a key or one of its aliases.
    pub fn get(&self, key: &str) -> Option<Field<'n>> {
        self.found.iter().find(|(name, _)| *name == key).map(|(_, field)| *field)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

impl<'f> Reader<'f> {
    pub fn new(file: &str, findings: &'f mut Findings) -> Self {
        Self { file: file.into(), findings }
    }

    pub fn spot(&self, at: At) -> Spot {
        Spot { file: self.file.clone(), at }
    }

    pub fn place<T>(&self, at: At, value: T) -> Placed<T> {
        Placed { value, spot: self.spot(at) }
    }

    pub fn error(
        &mut self,
        at: At,
        code: &'static str,
        text: impl Into<String>,
    ) -> &mut Diagnostic {
        self.findings.error(&self.spot(at), code, text)
    }

    pub fn warning(
        &mut self,
        at: At,
        code: &'static str,
        text: impl Into<String>,
    ) -> &mut Diagnostic {
        self.findings.warning(&self.spot(at), code, text)
    }

    /// A value that breaks its rule.
    pub fn refuse(&mut self, field: Field<'_>, why: impl Display) -> &mut Diagnostic {
        self.error(field.node.at, "bad-value", format!("`{}`: {why}", shown(field.key)))
    }

    /// The keys of a mapping, after a complaint about each that the table does not have.
    pub fn fields<'n>(&mut self, field: Field<'n>, table: &'static Table) -> Option<Fields<'n>> {
        let entries = match &field.node.value {
            Value::Map(entries) => entries,
            _ => return self.wrong(field, "a mapping"),
        };
        let mut found: Vec<(&'static str, Field<'n>)> = Vec::new();
        let mut meant = Vec::new();
        for entry in entries {
            let Some(key) = table.keys.iter().find(|key| key.name == entry.key) else {
                meant.extend(self.unknown_key(entry.at, &entry.key, table));
                continue;
            };
            let name = match key.status {
                Status::Reserved => {
                    let message = format!("`{}` is reserved, not built yet", key.name);
                    self.error(entry.at, "reserved-key", message);
                    continue;
                }
                Status::Ignored => continue,
                Status::AliasOf(name) => name,
                Status::Required | Status::Optional => key.name,
            };
            if found.iter().any(|(other, _)| *other == name) {
                let message = format!("`{}` says again what `{name}` or its alias said", key.name);
                self.error(entry.at, "duplicate-key", message);
                continue;
            }
            found.push((name, Field { key: &entry.key, at: entry.at, node: &entry.value }));
        }
        for key in table.keys.iter().filter(|key| matches!(key.status, Status::Required)) {
            if !meant.contains(&key.name) && !found.iter().any(|(name, _)| *name == key.name) {
                let message = format!("{} needs `{}`", table.about, key.name);
                self.error(field.at, "missing-key", message);
            }
        }
        Some(Fields { at: field.at, found })
    }

    /// Complains, and says which key was probably meant.
    fn unknown_key(&mut self, at: At, key: &str, table: &'static Table) -> Option<&'static str> {
        let message = format!("{} has no key `{}`", table.about, shown(key));
        let known = table
            .keys
            .iter()
            .filter(|key| matches!(key.status, Status::Required | Status::Optional));
        let guess = self.findings.worth_a_guess();
        let near = guess.then(|| nearest(key, known.map(|key| key.name))).flatten();
        let found = self.error(at, "unknown-key", message);
        if let Some(near) = near {
            found.advise(format!("did you mean `{near}`?"));
        }
        near
    }

    fn wrong<T>(&mut self, field: Field<'_>, expected: &str) -> Option<T> {
        let key = shown(field.key);
        match &field.node.value {
            Value::Broken => {}
            Value::Null => {
                let message = format!("`{key}` has no value, expected {expected}");
                self.error(field.at, "no-value", message)
                    .advise("leave the key out, or give it a value (an empty text is \"\")");
            }
            other => {
                let message = format!("`{key}`: expected {expected}, found {}", other.kind());
                self.error(field.node.at, "wrong-type", message);
            }
        }
        None
    }

    /// A list's items; the empty list is refused where `at_least_one` is set.
    pub fn list<'n>(
        &mut self,
        field: Field<'n>,
    ) -> Option<impl Iterator<Item = Field<'n>> + use<'n>> {
        match &field.node.value {
            Value::List(items) => {
                Some(items.iter().map(move |node| Field { key: field.key, at: node.at, node }))
            }
            _ => self.wrong(field, "a list"),
        }
    }

    /// A list that must hold something.
    pub fn filled_list<'n>(
        &mut self,
        field: Field<'n>,
    ) -> Option<impl Iterator<Item = Field<'n>> + use<'n>> {
        if matches!(&field.node.value, Value::List(items) if items.is_empty()) {
            let message = format!("`{}` is an empty list", shown(field.key));
            self.error(field.node.at, "empty-list", message)
                .advise("leave the key out, or list something");
            return None;
        }
        self.list(field)
    }

    /// The items of a list, or the one value that stands in its place.
    pub fn one_or_many<'n>(&mut self, field: Field<'n>) -> Vec<Field<'n>> {
        match &field.node.value {
            Value::List(_) => self.list(field).map(Iterator::collect).unwrap_or_default(),
            _ => alloc::vec![field],
        }
    }

    /// The entries of a free-form mapping.
    pub fn map<'n>(
        &mut self,
        field: Field<'n>,
    ) -> Option<impl Iterator<Item = Field<'n>> + use<'n>> {
        match &field.node.value {
            Value::Map(entries) => Some(entries.iter().map(|entry| Field {
                key: &entry.key,
                at: entry.at,
                node: &entry.value,
            })),
            _ => self.wrong(field, "a mapping"),
        }
    }

    /// Text of any number of lines.
    pub fn text<'n>(&mut self, field: Field<'n>) -> Option<&'n str> {
        let (Value::Plain(text) | Value::Quoted(text)) = &field.node.value else {
            return self.wrong(field, "text");
        };
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            self.refuse(field, "control characters are not allowed");
            return None;
        }
        Some(text)
    }

    /// Text of one line, not empty.
    pub fn line<'n>(&mut self, field: Field<'n>) -> Option<&'n str> {
        let text = self.text(field)?;
        if text.is_empty() || text.contains(['\n', '\t']) {
            self.refuse(field, "expected one line of text without tabs");
            return None;
        }
        Some(text)
    }

    /// A word that a type parses.
    pub fn word<T>(
        &mut self,
        field: Field<'_>,
        parse: impl Fn(&str) -> Result<T, WordError>,
    ) -> Option<T> {
        let text = self.line(field)?;
        match parse(text) {
            Ok(word) => Some(word),
            Err(error) => {
                self.refuse(field, unmarked(&error));
                None
            }
        }
    }

    /// A name without the `@` of a preset.
    pub fn stem(&mut self, field: Field<'_>) -> Option<Name> {
        self.word(field, stem)
    }

    /// The name of a secret. What stands in its place is not shown: it may be the value.
    pub fn secret(&mut self, field: Field<'_>) -> Option<SecretName> {
        let name = SecretName::new(self.line(field)?).ok();
        if name.is_none() {
            self.refuse(field, "expected a secret's name of letters, digits and underscores")
                .advise("the name alone: no value of a secret stands in a manifest");
        }
        name
    }

    /// `true` or `false`, as the YAML 1.2 core schema spells them.
    pub fn boolean(&mut self, field: Field<'_>) -> Option<bool> {
        match &field.node.value {
            Value::Plain(text) => match text.as_str() {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" => Some(false),
                other => {
                    let message = format!("expected true or false, found `{}`", shown(other));
                    let found = self.refuse(field, message);
                    if ["yes", "no", "on", "off"].contains(&other.to_ascii_lowercase().as_str()) {
                        found.advise("YAML 1.2 reads yes, no, on and off as text");
                    }
                    None
                }
            },
            Value::Quoted(_) => {
                self.refuse(field, "expected true or false, found quoted text");
                None
            }
            _ => self.wrong(field, "true or false"),
        }
    }

    /// A decimal integer within a range.
    pub fn integer(&mut self, field: Field<'_>, range: RangeInclusive<u32>) -> Option<u32> {
        let number = match &field.node.value {
            Value::Plain(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Value::Plain(_) | Value::Quoted(_) => None,
            _ => return self.wrong(field, "a whole number"),
        };
        let number = number.filter(|n| range.contains(n));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            self.refuse(field, format!("expected a whole number from {least} to {most}"));
        }
        number
    }

    /// One of a closed set of words.
    pub fn choice<T: Copy>(&mut self, field: Field<'_>, choices: &[(&str, T)]) -> Option<T> {
        let text = self.line(field)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let message = format!("expected {}, found `{}`", words.join(" or "), shown(text));
        let found = self.refuse(field, message);
        if let Some(near) = nearest(text, words) {
            found.advise(format!("did you mean `{near}`?"));
        }
        None
    }

    /// A non-empty argument vector.
    pub fn argv(&mut self, field: Field<'_>) -> Option<Vec<String>> {
        if matches!(field.node.value, Value::Plain(_) | Value::Quoted(_)) {
            self.refuse(field, "expected a list of arguments, found text")
                .advise("no shell reads it: [program, argument, …]");
            return None;
        }
        let items: Vec<Field<'_>> = self.filled_list(field)?.collect();
        let whole = items.len();
        let argv: Vec<String> =
            items.into_iter().filter_map(|item| self.text(item).map(ToString::to_string)).collect();
        if argv.first().is_some_and(String::is_empty) {
            self.refuse(field, "the program's name is empty");
            return None;
        }
        (argv.len() == whole).then_some(argv)
    }
}

/// A name as files, skills and git entries have it: never a preset's.
pub(super) fn stem(text: &str) -> Result<Name, WordError> {
    if text.starts_with('@') {
        return Err(WordError {
            expected: "a name that does not begin with `@`",
            found: shown(text),
        });
    }
    Name::new(text)
}

/// The error of a word as a fragment that is safe to show.
fn unmarked(error: &WordError) -> String {
    format!("expected {}, found `{}`", error.expected, shown(&error.found))
}
