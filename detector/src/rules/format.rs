//! gitleaks' rule file, read.
//!
//! Format: github.com/gitleaks/gitleaks, README, "Configuration" (version 8). Keys are compared
//! without regard to case, as its own loader does, and keys unknown here are let pass, as there: a file is for
//! several versions. What would change what is found, and is not understood, is an error.

use toml::{Table, Value};

use super::RulesError;
use super::allow::Target;

/// A rule file, its patterns not compiled yet.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) rules: Vec<Rule>,
    pub(crate) allow: Vec<AllowList>,
    pub(crate) disabled: Vec<String>,
}

/// One `[[rules]]`.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) regex: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) keywords: Vec<String>,
    pub(crate) entropy: Option<f64>,
    pub(crate) group: Option<usize>,
    pub(crate) allow: Vec<AllowList>,
}

/// One allow-list.
#[derive(Debug, Default)]
pub(crate) struct AllowList {
    pub(crate) all: bool,
    pub(crate) target: Target,
    pub(crate) regexes: Vec<String>,
    pub(crate) stopwords: Vec<String>,
    pub(crate) paths: Vec<String>,
    pub(crate) commits: bool,
    /// Rules it is for, in a list of all rules; all when empty.
    pub(crate) rules: Vec<String>,
}

/// The largest file read, in bytes.
pub(crate) const LARGEST: usize = 4 << 20;

/// Reads a file's text.
pub(crate) fn read(text: &str) -> Result<File, RulesError> {
    if text.len() > LARGEST {
        return Err(RulesError(format!("a rules file holds at most {LARGEST} bytes")));
    }
    let table: Table = text.parse().map_err(|e: toml::de::Error| toml_error(text, &e))?;
    let file = Keys::new("the file", &table);
    let extend = file.table("extend")?;
    let disabled = match extend {
        Some(extend) => extended(&Keys::new("[extend]", extend))?,
        None => Vec::new(),
    };
    let mut rules = Vec::new();
    for (at, rule) in file.tables("rules")?.into_iter().enumerate() {
        rules.push(read_rule(at + 1, rule)?);
    }
    Ok(File { rules, allow: allow_lists(&file)?, disabled })
}

fn toml_error(text: &str, error: &toml::de::Error) -> RulesError {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map(|before| format!("line {}: ", before.bytes().filter(|b| *b == b'\n').count() + 1));
    RulesError(format!("{}{}", line.unwrap_or_default(), error.message()))
}

/// `[extend]`: our own rules are always there, so `useDefault` changes nothing.
fn extended(extend: &Keys<'_>) -> Result<Vec<String>, RulesError> {
    extend.bool("usedefault")?;
    for elsewhere in ["path", "url"] {
        if extend.get(elsewhere).is_some() {
            return Err(RulesError(format!(
                "[extend]: `{elsewhere}` is not supported: a rules file stands alone; copy the other file's rules into this one"
            )));
        }
    }
    extend.strings("disabledrules")
}

fn read_rule(number: usize, table: &Table) -> Result<Rule, RulesError> {
    let unnamed = format!("rule {number}");
    let keys = Keys::new(&unnamed, table);
    let id = keys.string("id")?.filter(|id| !id.trim().is_empty());
    let id = id.ok_or_else(|| RulesError(format!("{unnamed}: expected an `id`")))?;
    let named = format!("rule `{id}`");
    let keys = Keys::new(&named, table);
    for unsupported in ["required", "validate"] {
        if keys.get(unsupported).is_some() {
            return Err(RulesError(format!("{named}: `{unsupported}` is not supported")));
        }
    }
    let (regex, path) = (keys.string("regex")?, keys.string("path")?);
    let allow = allow_lists(&keys)?;
    let group = keys.integer("secretgroup")?.map(|group| {
        usize::try_from(group).map_err(|_| {
            RulesError(format!("{named}: `secretGroup` is {group}, expected 0 or more"))
        })
    });
    Ok(Rule {
        id,
        regex: regex.filter(|r| !r.is_empty()),
        path: path.filter(|p| !p.is_empty()),
        keywords: keys.strings("keywords")?,
        entropy: keys.number("entropy")?.filter(|bits| *bits != 0.0),
        group: group.transpose()?.filter(|group| *group != 0),
        allow,
    })
}

/// `[allowlist]` (older) and `[[allowlists]]`, of a rule or of the file.
fn allow_lists(keys: &Keys<'_>) -> Result<Vec<AllowList>, RulesError> {
    let mut tables = Vec::new();
    // Either spelling is met with either shape.
    for key in ["allowlist", "allowlists"] {
        match keys.get(key) {
            Some(Value::Table(table)) => tables.push(table),
            _ => tables.extend(keys.tables(key)?),
        }
    }
    tables.into_iter().map(|table| read_allow_list(keys.of, table)).collect()
}

fn read_allow_list(of: &str, table: &Table) -> Result<AllowList, RulesError> {
    let of = format!("{of}: allow-list");
    let keys = Keys::new(&of, table);
    let condition = keys.string("condition")?.unwrap_or_default().to_ascii_uppercase();
    let all = match condition.as_str() {
        "" | "OR" | "||" => false,
        "AND" | "&&" => true,
        _ => return Err(RulesError(format!("{of}: `condition` is neither \"OR\" nor \"AND\""))),
    };
    let target = match keys.string("regextarget")?.unwrap_or_default().as_str() {
        "" | "secret" => Target::Secret,
        "match" => Target::Match,
        "line" => Target::Line,
        _ => {
            return Err(RulesError(format!(
                "{of}: `regexTarget` is none of \"secret\", \"match\", \"line\""
            )));
        }
    };
    Ok(AllowList {
        all,
        target,
        regexes: keys.strings("regexes")?,
        stopwords: keys.strings("stopwords")?,
        paths: keys.strings("paths")?,
        commits: !keys.strings("commits")?.is_empty(),
        rules: keys.strings("targetrules")?,
    })
}

/// A table, asked by lower-case key; errors say of what.
struct Keys<'a> {
    of: &'a str,
    table: &'a Table,
}

impl<'a> Keys<'a> {
    fn new(of: &'a str, table: &'a Table) -> Self {
        Self { of, table }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.table.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }

    fn wrong<T>(&self, key: &str, expected: &str, found: &Value) -> Result<T, RulesError> {
        let (of, found) = (self.of, found.type_str());
        Err(RulesError(format!("{of}: `{key}` is of type {found}, expected {expected}")))
    }

    fn string(&self, key: &str) -> Result<Option<String>, RulesError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => self.wrong(key, "a string", other),
        }
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, RulesError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Boolean(yes)) => Ok(Some(*yes)),
            Some(other) => self.wrong(key, "true or false", other),
        }
    }

    fn integer(&self, key: &str) -> Result<Option<i64>, RulesError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number)),
            Some(other) => self.wrong(key, "a whole number", other),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, RulesError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(*number)),
            // Lossless for every entropy there is: a byte holds eight bits.
            Some(Value::Integer(number)) => {
                Ok(Some(f64::from(i32::try_from(*number).unwrap_or(i32::MAX))))
            }
            Some(other) => self.wrong(key, "a number", other),
        }
    }

    fn strings(&self, key: &str) -> Result<Vec<String>, RulesError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    other => self.wrong(key, "strings alone", other),
                })
                .collect(),
            Some(other) => self.wrong(key, "a list of strings", other),
        }
    }

    fn table(&self, key: &str) -> Result<Option<&'a Table>, RulesError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(table)),
            Some(other) => self.wrong(key, "a table", other),
        }
    }

    fn tables(&self, key: &str) -> Result<Vec<&'a Table>, RulesError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::Table(table) => Ok(table),
                    other => self.wrong(key, "a list of tables", other),
                })
                .collect(),
            Some(other) => self.wrong(key, "a list of tables", other),
        }
    }
}
