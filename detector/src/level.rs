//! One text at one depth: the stream itself, or what something in it decodes to.
//!
//! Everything here is decided by the text and by offsets in it, never by where a piece ended: a
//! place is looked at once all that a look may depend on is there. That is the whole reason why a
//! stream finds what a scan finds.

use std::ops::Range;
use std::sync::Arc;

use crate::escapes::Escapes;
use crate::gate::Gate;
use crate::rules::{AROUND, KEYWORD_REACH, LINE, Meaning, Rules};
use crate::runs::Runs;
use crate::text::Text;
use crate::values::{Fit, Values};
use crate::{Finding, LIMIT_WORK, Layer, What};

/// How many layers of encoding are undone.
pub const LAYERS: u8 = 2;

/// Rules tried on blocks are tried on so many bytes at a time.
const BLOCK: u64 = 2 << 10;

/// Bytes of text that patterns may be tried on, for each byte of the stream and to begin with. Hostile
/// text could ask for thousands.
const WORK: (u64, u64) = (512, 16 << 20);

/// What is looked for, ready for looking.
pub(crate) struct Engine {
    pub(crate) rules: Option<Arc<Rules>>,
    pub(crate) values: Option<Arc<Values>>,
    pub(crate) path: Option<String>,
    /// Which rules are tried.
    tried: Vec<bool>,
    /// The rules that ask for a path alone, and have it.
    pub(crate) by_path: Vec<usize>,
    gate: Gate,
    /// The shortest words of Base64 and hex that are decoded.
    pub(crate) shortest_base64: usize,
    pub(crate) shortest_hex: usize,
    /// Whether Base64 without letters of both cases can be left alone.
    pub(crate) mixed: bool,
    /// How many bytes around an escape are undone with it.
    pub(crate) around: u64,
}

/// The least that is undone around an escape, in bytes. More where a value is longer.
pub(crate) const ESCAPED_AROUND: usize = 512;

impl Engine {
    pub(crate) fn new(
        rules: Option<Arc<Rules>>,
        values: Option<Arc<Values>>,
        path: Option<String>,
    ) -> Self {
        let mut gate = Gate::default();
        let (mut tried, mut by_path) = (Vec::new(), Vec::new());
        if let Some(rules) = &rules {
            gate.merge(&rules.gate);
            (by_path, tried) = rules.for_path(path.as_deref());
        }
        let shortest = values.as_ref().and_then(|values| values.shortest());
        let mut around = ESCAPED_AROUND;
        if let Some(values) = &values {
            gate.merge(&values.plain().gate);
            around = around.max(values.plain().longest);
        }
        // Without values, tokens: none has under twenty characters. With values, whatever the
        // shortest is twice over.
        let base64 = |bytes: usize| (bytes * 4).div_ceil(3);
        let shortest_base64 = shortest.map_or(24, |bytes| base64(base64(bytes)).min(24));
        let shortest_hex = shortest.map_or(40, |bytes| (bytes * 2).min(40));
        let mixed =
            values.as_ref().is_none_or(|values| values.shortest().is_none() || values.mixed());
        Self {
            rules,
            values,
            path,
            tried,
            by_path,
            gate,
            shortest_base64,
            shortest_hex,
            mixed,
            around: around as u64,
        }
    }
}

/// A text being scanned.
pub(crate) struct Level {
    text: Text,
    /// Up to where the gate has looked.
    looked: u64,
    /// Rules to try, and where, once enough text is there.
    waiting: Vec<(u64, usize)>,
    /// Values of which only the beginning is there.
    begun: Vec<(u64, usize)>,
    blocks: Blocks,
    /// Bytes of text that patterns were tried on.
    work: u64,
    exceeded: bool,
    settled: u64,
    /// What is undone in it; nothing at the last depth.
    below: Option<Below>,
}

struct Below {
    depth: u8,
    runs: [Runs; 2],
    escapes: [Escapes; 2],
    pool: Pool,
}

/// Levels that are not in use: runs and stretches are many, and what they need can be used again.
#[derive(Default)]
pub(crate) struct Pool {
    #[expect(clippy::vec_box, reason = "levels are large, and move between here and their use")]
    free: Vec<Box<Level>>,
}

impl Pool {
    /// A level for a text at this depth, which is the same for all in one pool.
    pub(crate) fn take(&mut self, depth: u8) -> Box<Level> {
        self.free.pop().unwrap_or_else(|| Box::new(Level::new(depth)))
    }

    pub(crate) fn put(&mut self, mut level: Box<Level>) {
        level.clear();
        self.free.push(level);
    }
}

/// The block that rules without a prefix are tried on next, and the keywords near it.
#[derive(Default)]
struct Blocks {
    start: u64,
    keywords: Vec<(u64, usize)>,
}

impl Level {
    pub(crate) fn new(depth: u8) -> Self {
        let below = (depth < LAYERS).then(|| Below {
            depth,
            runs: [Runs::new(Layer::Base64), Runs::new(Layer::Hex)],
            escapes: [Escapes::new(Layer::Percent), Escapes::new(Layer::Escape)],
            pool: Pool::default(),
        });
        Self {
            text: Text::default(),
            looked: 0,
            waiting: Vec::new(),
            begun: Vec::new(),
            blocks: Blocks::default(),
            work: 0,
            exceeded: false,
            settled: 0,
            below,
        }
    }

    /// Makes it ready for another text.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        (self.looked, self.work, self.exceeded, self.settled) = (0, 0, false, 0);
        self.waiting.clear();
        self.begun.clear();
        self.blocks.start = 0;
        self.blocks.keywords.clear();
        if let Some(below) = &mut self.below {
            below.runs.iter_mut().for_each(Runs::clear);
            below.escapes.iter_mut().for_each(Escapes::clear);
        }
    }

    pub(crate) fn feed(&mut self, engine: &Engine, piece: &[u8]) -> Vec<Finding> {
        self.text.push(piece);
        self.advance(engine)
    }

    pub(crate) fn finish(&mut self, engine: &Engine) -> Vec<Finding> {
        self.text.ended = true;
        self.advance(engine)
    }

    /// Takes the last piece and the end at once.
    pub(crate) fn feed_last(&mut self, engine: &Engine, piece: &[u8]) -> Vec<Finding> {
        self.text.push(piece);
        self.finish(engine)
    }

    /// No finding that is still to come begins before this offset.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }
    fn advance(&mut self, engine: &Engine) -> Vec<Finding> {
        let mut found = Vec::new();
        self.look_again(engine, &mut found);
        self.look(engine, &mut found);
        if let Some(rules) = engine.rules.as_deref().filter(|rules| !rules.blocks.is_empty()) {
            self.try_blocks(engine, rules, &mut found);
        }
        if let Some(below) = &mut self.below {
            below.advance(engine, &self.text, &mut found);
        }
        self.settle(engine);
        found
    }

    /// Looks at all places that the gate lets through.
    fn look(&mut self, engine: &Engine, found: &mut Vec<Finding>) {
        let end = self.text.end();
        let (until, first) = (self.text.index(self.may_look()), self.text.index(self.looked));
        let mut at = first;
        while let Some(next) = engine.gate.next(self.text.all().0, at, until) {
            self.look_at(engine, next, found);
            at = next + 1;
        }
        // The gate needs four bytes, the shortest literal has three.
        let last = self.text.index(end.saturating_sub(3)).max(first);
        if self.text.ended && last < until && self.text.all().0.len() - last == 3 {
            self.look_at(engine, last, found);
        }
        self.looked = self.looked.max(self.may_look());
    }

    /// Up to where all literals are there to their ends.
    fn may_look(&self) -> u64 {
        let end = self.text.end();
        if self.text.ended { end } else { end.saturating_sub(Rules::LONGEST_LITERAL as u64) }
    }

    fn look_at(&mut self, engine: &Engine, index: usize, found: &mut Vec<Finding>) {
        let (bytes, base) = self.text.all();
        let at = base + index as u64;
        let mut tries = Vec::new();
        if let Some(rules) = &engine.rules {
            rules.literals_at(&bytes[index..], |meaning| match meaning {
                Meaning::Begins(rule) if engine.tried[rule] => tries.push(rule),
                Meaning::Keyword(rule) if engine.tried[rule] => {
                    self.blocks.keywords.push((at, rule))
                }
                _ => {}
            });
        }
        if let Some(values) = &engine.values {
            values.plain().at(&bytes[index..], |needle, fit| match fit {
                Fit::Whole => found.push(value_found(values, needle, at)),
                Fit::Begun if !self.text.ended => self.begun.push((at, needle)),
                Fit::Begun => {}
            });
        }
        for rule in tries {
            if self.may_work(engine, rule, at, found) {
                self.try_rule(engine, rule, at, found);
            }
        }
    }

    /// Counts the work that a place asks for: by place alone, so that it does not matter when it is
    /// done.
    fn may_work(
        &mut self,
        engine: &Engine,
        rule: usize,
        at: u64,
        found: &mut Vec<Finding>,
    ) -> bool {
        let asked = engine.rules.as_ref().map_or(0, |rules| rules.reach(rule) as u64);
        let (per_byte, at_first) = WORK;
        if self.work + asked <= at.saturating_mul(per_byte) + at_first {
            self.work += asked;
            return true;
        }
        if !self.exceeded {
            self.exceeded = true;
            let what = What::Rule(LIMIT_WORK.into());
            found.push(Finding { what, span: at..at + 1, layers: Vec::new() });
        }
        false
    }

    /// Tries a rule at a place, now or once there is enough text.
    fn try_rule(&mut self, engine: &Engine, rule: usize, at: u64, found: &mut Vec<Finding>) {
        let Some(rules) = &engine.rules else { return };
        let (reach, margin) = (rules.reach(rule), rules.margin(rule));
        if !self.text.ended && at + (reach + margin) as u64 > self.text.end() {
            self.waiting.push((at, rule));
            return;
        }
        let (bytes, base) = self.text.all();
        let index = self.text.index(at);
        // What an escaped line end leaves before a word looks like a letter of it.
        let is_hidden = bytes[..index].ends_with(b"\\n") || bytes[..index].ends_with(b"\\r");
        let hidden = if is_hidden || bytes[..index].ends_with(b"\\t") { index } else { 0 };
        let until = bytes.len().min(index + reach);
        let seen = &bytes[hidden..bytes.len().min(until + margin)];
        let place = index - hidden..until - hidden;
        if let Some(secret) = rules.at(rule, seen, place, engine.path.as_deref()) {
            found.push(rule_found(rules, rule, base + hidden as u64, &secret));
        }
    }

    /// Looks again where there was too little text.
    fn look_again(&mut self, engine: &Engine, found: &mut Vec<Finding>) {
        for (at, rule) in std::mem::take(&mut self.waiting) {
            self.try_rule(engine, rule, at, found);
        }
        let Some(values) = &engine.values else { return };
        let text = &self.text;
        self.begun.retain(|(at, needle)| {
            match values.plain().get(*needle).fit(text.slice(*at..u64::MAX)) {
                Some(Fit::Whole) => found.push(value_found(values, *needle, *at)),
                Some(Fit::Begun) => return !text.ended,
                None => {}
            }
            false
        });
    }

    /// Tries the rules without a prefix on each block that is there, with what it takes around it.
    fn try_blocks(&mut self, engine: &Engine, rules: &Rules, found: &mut Vec<Finding>) {
        let end = self.text.end();
        let reach = KEYWORD_REACH as u64;
        while self.blocks.start < end {
            let (start, next) = (self.blocks.start, self.blocks.start + BLOCK);
            let all_there = |offset: u64| self.text.ended || offset <= end;
            if !self.text.ended && self.looked < next + reach {
                return;
            }
            let near = |(at, _): &&(u64, usize)| *at + reach >= start && *at < next + reach;
            let mut tried: Vec<usize> = rules
                .blocks
                .iter()
                .copied()
                .filter(|rule| rules.is_everywhere(*rule) && engine.tried[*rule])
                .chain(self.blocks.keywords.iter().filter(near).map(|(_, rule)| *rule))
                .collect();
            tried.sort_unstable();
            tried.dedup();
            let needed = |rule: usize| next + (rules.reach(rule) + rules.margin(rule)) as u64;
            if !tried.iter().all(|rule| all_there(needed(*rule))) {
                return;
            }
            let (bytes, base) = self.text.all();
            for rule in tried {
                let until = self.text.index(next + rules.reach(rule) as u64);
                let seen = &bytes[..self.text.index(needed(rule))];
                let (from, before) = (self.text.index(start), self.text.index(next));
                let path = engine.path.as_deref();
                rules.within(rule, seen, from..until, before, path, |secret| {
                    found.push(rule_found(rules, rule, base, &secret));
                });
            }
            self.blocks.start = next;
            self.blocks.keywords.retain(|(at, _)| *at + reach >= next);
        }
    }

    /// Works out what is settled, and lets go of text that nothing needs any more.
    fn settle(&mut self, engine: &Engine) {
        let places = self.waiting.iter().chain(&self.begun).map(|(at, _)| *at);
        let mut earliest = places.min().unwrap_or(u64::MAX).min(self.looked);
        if engine.rules.as_ref().is_some_and(|rules| !rules.blocks.is_empty()) {
            earliest = earliest.min(self.blocks.start);
        }
        let mut needed = earliest;
        if let Some(below) = &self.below {
            let runs = below.runs.iter().map(|runs| (runs.settled(&self.text), runs.needs()));
            let escapes = below.escapes.iter().map(|all| (all.settled(engine), all.needs(engine)));
            for (settled, needs) in runs.chain(escapes) {
                earliest = earliest.min(settled);
                needed = needed.min(needs);
            }
        }
        self.settled = if self.text.ended { self.text.end() } else { earliest };
        self.text.forget_before(needed.saturating_sub((LINE + AROUND) as u64));
    }
}

impl Below {
    fn advance(&mut self, engine: &Engine, text: &Text, found: &mut Vec<Finding>) {
        for runs in &mut self.runs {
            runs.advance(engine, text, self.depth, &mut self.pool, found);
        }
        for escapes in &mut self.escapes {
            escapes.advance(engine, text, self.depth, &mut self.pool, found);
        }
    }
}

fn rule_found(rules: &Rules, rule: usize, base: u64, secret: &Range<usize>) -> Finding {
    Finding {
        what: What::Rule(rules.id(rule).to_owned()),
        span: base + secret.start as u64..base + secret.end as u64,
        layers: Vec::new(),
    }
}

fn value_found(values: &Values, needle: usize, at: u64) -> Finding {
    let needle = values.plain().get(needle);
    Finding {
        what: What::Value(values.name(needle.of).to_owned()),
        span: needle.span(at),
        layers: needle.shape.layer.into_iter().collect(),
    }
}
