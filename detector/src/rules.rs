//! Token patterns, compiled, and asked at places.
//!
//! A rule is tried where a literal that each of its matches begins with is found (`Plan::Prefix`),
//! which is nearly every rule there is; or in the blocks near one of its keywords, or in all blocks if
//! it has none.

mod allow;
mod dialect;
mod format;
mod prefix;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, OnceLock};

use aho_corasick::automaton::OverlappingState;
use aho_corasick::{AhoCorasick, AhoCorasickKind, StartKind};
use regex_automata::meta::{Config, Regex};
use regex_automata::{Anchored, Input};
use regex_syntax::hir::Hir;

use crate::gate::{Gate, SHORTEST_LITERAL};
use allow::{Allow, Seen, Target};

/// The longest match that is found whole, in bytes. Of a pattern that could match more, what lies
/// within so many bytes of the match's beginning is found.
pub const LONGEST_MATCH: usize = 8 << 10;

/// How far from a match one of its rule's keywords may stand, in bytes, where it is not what the
/// match begins with.
pub const KEYWORD_REACH: usize = 1 << 10;

/// How far a line reaches to either side of a match, in bytes, for allow-lists that look at lines.
pub(crate) const LINE: usize = 512;

/// Bytes that look-around (`\b`, `$`) may see beyond a place.
pub(crate) const AROUND: usize = 4;

/// The most rules in one set.
const MOST_RULES: usize = 2_000;

/// The most memory one compiled pattern may take, in bytes.
const LARGEST_PATTERN: usize = 4 << 20;

/// Token patterns, compiled.
#[derive(Clone)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Allow-lists for all rules.
    allow: Vec<Allow>,
    pub(crate) gate: Gate,
    /// Finds every literal that begins at a given place.
    literals: Option<AhoCorasick>,
    /// What each literal stands for.
    meanings: Vec<Meaning>,
    /// Rules that are tried on blocks.
    pub(crate) blocks: Vec<usize>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("count", &self.rules.len()).finish_non_exhaustive()
    }
}

/// Why a rules file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(pub String);

/// A literal's use.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meaning {
    /// Each match of this rule begins with one of its literals.
    Begins(usize),
    /// A keyword of this rule.
    Keyword(usize),
}

#[derive(Debug, Clone)]
struct Rule {
    id: Arc<str>,
    regex: Option<Pattern>,
    path: Option<Regex>,
    entropy: Option<f64>,
    group: Option<usize>,
    allow: Vec<Allow>,
    plan: Plan,
    /// Whether its matches begin only where a word does.
    at_word: bool,
    reach: usize,
    looks_at_lines: bool,
}

/// A pattern that is compiled when it is first used. Most of the built-in ones never are, and all of
/// them compiled are what takes most of an idle egress's memory.
#[derive(Debug, Clone)]
struct Pattern(Arc<(Hir, OnceLock<Regex>)>);

impl Pattern {
    fn new(hir: Hir) -> Self {
        Self(Arc::new((hir, OnceLock::new())))
    }

    fn regex(&self) -> &Regex {
        let (hir, regex) = &*self.0;
        // A user's patterns are tried when they are read, and a test tries ours.
        regex.get_or_init(|| {
            build(hir).unwrap_or_else(|e| unreachable!("a pattern that compiles, yet: {e}"))
        })
    }
}

/// Where a rule is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    Prefix(Vec<Vec<u8>>),
    Near(Vec<Vec<u8>>),
    Everywhere,
    /// A file's path is all it asks for.
    Path,
}

impl Rules {
    /// The built-in rules.
    #[must_use]
    pub fn builtin() -> Arc<Self> {
        static BUILTIN: LazyLock<Arc<Rules>> = LazyLock::new(|| {
            // A test compiles them; with none at all, everything would pass.
            Rules::assemble(&format::File::default())
                .map_or_else(|e| unreachable!("the built-in rules compile, yet: {e}"), Arc::new)
        });
        Arc::clone(&BUILTIN)
    }

    /// The built-in rules and a user's own, in gitleaks' TOML format. A rule replaces the built-in
    /// one of its id; `extend.disabledRules` takes rules away.
    ///
    /// # Errors
    ///
    /// The file is not TOML, or a rule in it is not understood or does not compile; the error names
    /// the rule.
    pub fn with(toml: &str) -> Result<Arc<Self>, RulesError> {
        Self::assemble(&format::read(toml)?).map(Arc::new)
    }

    /// The ids of all rules, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.id)
    }

    fn assemble(own: &format::File) -> Result<Self, RulesError> {
        let disabled: HashSet<&str> = own.disabled.iter().map(String::as_str).collect();
        let mut ids = HashSet::new();
        if let Some(twice) = own.rules.iter().find(|rule| !ids.insert(rule.id.as_str())) {
            return Err(RulesError(format!("rule `{}` is there twice", twice.id)));
        }
        let mut rules = compiled_builtin()?.to_vec();
        rules.retain(|rule| !ids.contains(&*rule.id) && !disabled.contains(&*rule.id));
        let wanted: Vec<&format::Rule> =
            own.rules.iter().filter(|rule| !disabled.contains(rule.id.as_str())).collect();
        let count = rules.len() + wanted.len();
        if count > MOST_RULES {
            return Err(RulesError(format!("{count} rules, expected at most {MOST_RULES}")));
        }
        for rule in wanted {
            let rule = compile(rule)?;
            if let Some(pattern) = &rule.regex {
                let built = build(&pattern.0.0)
                    .map_err(|e| RulesError(format!("rule `{}`: `regex` {e}", rule.id)))?;
                pattern.0.1.get_or_init(|| built);
            }
            rules.push(rule);
        }
        let mut allow = Vec::new();
        for list in &own.allow {
            let compiled = compile_allow("the file", list)?;
            if list.rules.is_empty() {
                allow.push(compiled);
                continue;
            }
            for rule in rules.iter_mut().filter(|rule| list.rules.iter().any(|id| **id == *rule.id))
            {
                rule.looks_at_lines |= compiled.target == Target::Line;
                rule.allow.push(compiled.clone());
            }
        }
        if allow.iter().any(|list| list.target == Target::Line) {
            rules.iter_mut().for_each(|rule| rule.looks_at_lines = true);
        }
        Self::index(rules, allow)
    }

    fn index(rules: Vec<Rule>, allow: Vec<Allow>) -> Result<Self, RulesError> {
        let (mut gate, mut literals, mut meanings) = (Gate::default(), Vec::new(), Vec::new());
        let mut blocks = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let (of_rule, meaning) = match &rule.plan {
                Plan::Prefix(prefixes) => (&prefixes[..], Meaning::Begins(at)),
                Plan::Near(keywords) => (&keywords[..], Meaning::Keyword(at)),
                Plan::Everywhere | Plan::Path => (&[][..], Meaning::Keyword(at)),
            };
            if matches!(rule.plan, Plan::Near(_) | Plan::Everywhere) {
                blocks.push(at);
            }
            for literal in of_rule {
                gate.open(literal, rule.at_word);
                literals.push(literal.clone());
                meanings.push(meaning);
            }
        }
        let literals = if literals.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .start_kind(StartKind::Anchored)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .prefilter(false)
                .build(&literals);
            Some(built.map_err(|e| RulesError(format!("too many keywords: {e}")))?)
        };
        Ok(Self { rules, allow, gate, literals, meanings, blocks })
    }

    /// Calls back for each literal that begins at the beginning of this text.
    pub(crate) fn literals_at(&self, text: &[u8], mut found: impl FnMut(Meaning)) {
        let Some(literals) = &self.literals else { return };
        let text = &text[..text.len().min(prefix::LONGEST)];
        let input = aho_corasick::Input::new(text).anchored(aho_corasick::Anchored::Yes);
        let mut state = OverlappingState::start();
        // The automaton is built for this kind of search, so there is no error to expect.
        while literals.try_find_overlapping(input.clone(), &mut state).is_ok() {
            let Some(literal) = state.get_match() else { return };
            // One that ends here and begins later is told of too.
            if literal.start() == 0 {
                found(self.meanings[literal.pattern().as_usize()]);
            }
        }
    }

    /// The longest literal.
    pub(crate) const LONGEST_LITERAL: usize = prefix::LONGEST;

    /// How many bytes from its beginning a rule's match may take.
    pub(crate) fn reach(&self, rule: usize) -> usize {
        self.rules[rule].reach
    }

    /// How many bytes beyond the reach have to be there to judge a match.
    pub(crate) fn margin(&self, rule: usize) -> usize {
        if self.rules[rule].looks_at_lines { LINE + AROUND } else { AROUND }
    }

    /// Whether a rule is tried on all blocks.
    pub(crate) fn is_everywhere(&self, rule: usize) -> bool {
        self.rules[rule].plan == Plan::Everywhere
    }

    /// A rule's id.
    pub(crate) fn id(&self, rule: usize) -> &str {
        &self.rules[rule].id
    }

    /// The secret in the match of a rule that begins at `place.start` and ends within `place`, if
    /// there is one.
    pub(crate) fn at(
        &self,
        rule: usize,
        text: &[u8],
        place: Range<usize>,
        path: Option<&str>,
    ) -> Option<Range<usize>> {
        let input = Input::new(text).range(place).anchored(Anchored::Yes);
        self.rules[rule].first(text, input, &self.allow, path).and_then(|(_, secret)| secret)
    }

    /// Calls back with each secret of a rule whose match begins before `before` and lies in `place`.
    pub(crate) fn within(
        &self,
        rule: usize,
        text: &[u8],
        place: Range<usize>,
        before: usize,
        path: Option<&str>,
        mut found: impl FnMut(Range<usize>),
    ) {
        let mut from = place.start;
        while from < before {
            let input = Input::new(text).range(from..place.end);
            let Some((whole, secret)) = self.rules[rule].first(text, input, &self.allow, path)
            else {
                return;
            };
            if whole.start >= before {
                return;
            }
            if let Some(secret) = secret {
                found(secret);
            }
            // A match of nothing must not hold us up.
            from = whole.end.max(whole.start + 1);
        }
    }

    /// Whether any rule is for files of certain paths alone.
    pub(crate) fn ask_for_paths(&self) -> bool {
        self.rules.iter().any(|rule| rule.path.is_some())
    }

    /// For a file of this path: the rules that ask for the path alone and have it, and which rules
    /// are tried on its text.
    pub(crate) fn for_path(&self, path: Option<&str>) -> (Vec<usize>, Vec<bool>) {
        let Some(path) = path else {
            // A rule for certain files says nothing about what is in none.
            return (Vec::new(), self.rules.iter().map(|rule| rule.path.is_none()).collect());
        };
        let allowed = |lists: &[Allow]| lists.iter().any(|list| list.allows_whole_file(path));
        if allowed(&self.allow) {
            return (Vec::new(), vec![false; self.rules.len()]);
        }
        let tried: Vec<bool> = self
            .rules
            .iter()
            .map(|rule| {
                rule.path.as_ref().is_none_or(|p| p.is_match(path)) && !allowed(&rule.allow)
            })
            .collect();
        let by_path = (0..tried.len())
            .filter(|at| tried[*at] && self.rules[*at].plan == Plan::Path)
            .collect();
        (by_path, tried)
    }
}

impl Rule {
    /// The first match in the input, and the secret in it, unless that is none after all.
    fn first(
        &self,
        text: &[u8],
        input: Input<'_>,
        allow: &[Allow],
        path: Option<&str>,
    ) -> Option<(Range<usize>, Option<Range<usize>>)> {
        let regex = self.regex.as_ref()?.regex();
        // Nearly all that is tried does not match, and finding groups is the dearer search.
        if !regex.is_match(input.clone().earliest(true)) {
            return None;
        }
        let mut groups = regex.create_captures();
        regex.search_captures(&input, &mut groups);
        let whole = groups.get_match()?.range();
        let secret = match self.group {
            Some(group) => groups.get_group(group)?.range(),
            None => (1..groups.group_len())
                .filter_map(|group| groups.get_group(group))
                .find(|span| !span.is_empty())
                .map_or(whole.clone(), |span| span.range()),
        };
        let kept = self.is_secret(text, &whole, &secret, allow, path);
        Some((whole, kept.then_some(secret)))
    }

    fn is_secret(
        &self,
        text: &[u8],
        whole: &Range<usize>,
        secret: &Range<usize>,
        allow: &[Allow],
        path: Option<&str>,
    ) -> bool {
        if self.entropy.is_some_and(|least| entropy(&text[secret.clone()]) <= least) {
            return false;
        }
        let line = if self.looks_at_lines { line_around(text, whole) } else { whole.clone() };
        let seen = Seen {
            secret: &text[secret.clone()],
            whole: &text[whole.clone()],
            line: &text[line],
            path,
        };
        !self.allow.iter().chain(allow).any(|list| list.allows(&seen))
    }
}

/// Shannon's entropy of the bytes, in bits a byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let total = bytes.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / total)
        .map(|share| -share * share.log2())
        .sum()
}

/// The line that a match stands in, as far as [`LINE`] bytes to either side.
fn line_around(text: &[u8], of: &Range<usize>) -> Range<usize> {
    let earliest = of.start.saturating_sub(LINE);
    let latest = text.len().min(of.end + LINE);
    let start =
        memchr::memrchr(b'\n', &text[earliest..of.start]).map_or(earliest, |at| earliest + at + 1);
    let end = memchr::memchr(b'\n', &text[of.end..latest]).map_or(latest, |at| of.end + at);
    start..end
}

/// Our own rules, compiled once: that takes longer than most scans.
fn compiled_builtin() -> Result<&'static [Rule], RulesError> {
    static COMPILED: LazyLock<Result<Vec<Rule>, RulesError>> = LazyLock::new(|| {
        let file = format::read(include_str!("rules/builtin.toml"))?;
        file.rules.iter().map(compile).collect()
    });
    COMPILED.as_deref().map_err(Clone::clone)
}

fn compile(rule: &format::Rule) -> Result<Rule, RulesError> {
    let of = format!("rule `{}`", rule.id);
    let wrong = |what: String| RulesError(format!("{of}: {what}"));
    if rule.regex.is_none() && rule.path.is_none() {
        return Err(wrong("expected a `regex` or a `path`".into()));
    }
    let hir = rule.regex.as_deref().map(|regex| parse(&of, "regex", regex)).transpose()?;
    let path = rule.path.as_deref().map(|path| pattern(&of, "path", path)).transpose()?;
    let (plan, at_word, reach) = match &hir {
        None => (Plan::Path, false, 0),
        Some(hir) => {
            let longest = hir.properties().maximum_len().unwrap_or(LONGEST_MATCH);
            let plan = plan(hir, &rule.keywords);
            let at_word = matches!(plan, Plan::Prefix(_)) && prefix::begins_a_word(hir);
            (plan, at_word, longest.clamp(1, LONGEST_MATCH))
        }
    };
    let groups = hir.as_ref().map_or(1, |hir| hir.properties().explicit_captures_len() + 1);
    if let Some(group) = rule.group.filter(|group| *group >= groups) {
        let has = groups - 1;
        return Err(wrong(format!("`secretGroup` is {group}, yet the regex has {has} group(s)")));
    }
    let allow: Vec<Allow> =
        rule.allow.iter().map(|list| compile_allow(&of, list)).collect::<Result<_, _>>()?;
    Ok(Rule {
        id: rule.id.as_str().into(),
        regex: hir.map(Pattern::new),
        path,
        entropy: rule.entropy,
        group: rule.group,
        looks_at_lines: allow.iter().any(|list| list.target == Target::Line),
        allow,
        plan,
        at_word,
        reach,
    })
}

/// Where to try a pattern. Its keywords count only where they say more than its prefixes do.
fn plan(hir: &Hir, keywords: &[String]) -> Plan {
    let keywords: Vec<Vec<u8>> =
        keywords.iter().map(|k| k.to_ascii_lowercase().into_bytes()).collect();
    let holds =
        |text: &[u8], part: &[u8]| part.is_empty() || text.windows(part.len()).any(|w| w == part);
    if let Some(prefixes) = prefix::prefixes(hir) {
        let says_it = |p: &Vec<u8>| keywords.iter().any(|k| holds(p, k) || holds(k, p));
        if keywords.is_empty() || prefixes.iter().all(says_it) {
            return Plan::Prefix(prefixes);
        }
    }
    // A keyword too short to look for is everywhere anyway.
    if keywords.is_empty() || keywords.iter().any(|k| k.len() < SHORTEST_LITERAL) {
        return Plan::Everywhere;
    }
    let cut = |mut keyword: Vec<u8>| {
        keyword.truncate(prefix::LONGEST);
        keyword
    };
    let mut keywords: Vec<Vec<u8>> = keywords.into_iter().map(cut).collect();
    keywords.sort();
    keywords.dedup();
    Plan::Near(keywords)
}

fn compile_allow(of: &str, list: &format::AllowList) -> Result<Allow, RulesError> {
    let patterns = |key: &str, all: &[String]| -> Result<Vec<Regex>, RulesError> {
        all.iter().map(|one| pattern(of, key, one)).collect()
    };
    // An empty word is in every secret.
    let words: Vec<&String> = list.stopwords.iter().filter(|word| !word.is_empty()).collect();
    let stopwords = if words.is_empty() {
        None
    } else {
        let built = AhoCorasick::builder().ascii_case_insensitive(true).build(words);
        Some(built.map_err(|e| RulesError(format!("{of}: `stopwords`: {e}")))?)
    };
    Ok(Allow {
        all: list.all,
        target: list.target,
        regexes: patterns("allow-list regexes", &list.regexes)?,
        stopwords,
        paths: patterns("allow-list paths", &list.paths)?,
        commits: list.commits,
    })
}

/// Compiles a pattern.
fn pattern(of: &str, key: &str, go: &str) -> Result<Regex, RulesError> {
    build(&parse(of, key, go)?).map_err(|e| RulesError(format!("{of}: `{key}` {e}")))
}

/// Reads a pattern as Go understands it: `\b`, `\w` and `(?i)` are about ASCII. Only one that speaks
/// of other characters is read for them.
fn parse(of: &str, key: &str, go: &str) -> Result<Hir, RulesError> {
    let rust = dialect::from_go(go);
    let parse = |unicode: bool| {
        let mut parser = regex_syntax::ParserBuilder::new();
        parser.utf8(false).unicode(unicode).nest_limit(200).build().parse(&rust).map_err(Box::new)
    };
    parse(false).or_else(|_| parse(true)).map_err(|e| {
        let text = e.to_string();
        // The parser draws the pattern; its last line says what is wrong.
        let last = text.lines().last().unwrap_or_default();
        let what = last.trim_start_matches("error: ");
        RulesError(format!("{of}: `{key}` does not compile: {what}"))
    })
}

/// Compiles what was read; the error goes on from the pattern's name.
fn build(hir: &Hir) -> Result<Regex, String> {
    let config = Config::new()
        .utf8_empty(false)
        .nfa_size_limit(Some(LARGEST_PATTERN))
        .onepass_size_limit(Some(LARGEST_PATTERN / 4))
        .hybrid_cache_capacity(LARGEST_PATTERN / 4);
    Regex::builder().configure(config).build_from_hir(hir).map_err(|e| match e.size_limit() {
        Some(limit) => {
            format!("does not compile: it takes more than {limit} bytes of memory")
        }
        None => format!("does not compile: {e}"),
    })
}

#[cfg(test)]
#[path = "rules/examples.rs"]
mod examples;
#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;
