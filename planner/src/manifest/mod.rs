//! The manifest: text in, bottles and agents out, everything wrong with it said at once.
//!
//! Reading files is the executor's; this module is given their text. Nothing here depends on the
//! order in which it is given.

mod agent;
mod bottle;
mod config;
mod diagnostic;
mod document;
mod egress;
mod extends;
mod git;
pub(crate) mod globs;
mod keys;
mod overlay;
mod presets;
mod reader;
mod schema;
pub(crate) mod units;
mod yaml;

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use bottle::set_by_bottle;
pub use config::{LoadedConfig, load_config};
pub use diagnostic::{Diagnostic, Severity};
pub use egress::is_method;
pub use globs::is_request_path;
pub use presets::{PRESETS, Preset};
pub use schema::{config_schema, schema};
pub use yaml::MAX_BYTES;

use agent::AgentDef;
use diagnostic::{At, Findings, Placed, Spot, shown};
use extends::Draft;
use overlay::Overlay;
use reader::{Field, Reader};
use yaml::{Entry, Node, Value};

use crate::policy::{Agent, Bottle, GitUser, Manifest, Origin};
use crate::words::Name;

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// What the file is for, by where it lies: the trust it has.
    pub kind: SourceKind,
    /// What diagnostics call it: its path below the manifest's folder, `bottles/dev.md`.
    pub path: String,
    /// The file's name without its ending.
    pub stem: String,
    /// What it holds.
    pub content: Content,
}

/// What a source file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// `bottles/` of the user's own manifest folder.
    HomeBottle,
    /// `agents/` of the user's own manifest folder.
    HomeAgent,
    /// `.bottle/agents/` of the current folder: untrusted.
    RepositoryAgent,
    /// `.bottle/bottles/` of the current folder: reported and never read.
    RepositoryBottle,
    /// A file with `bottles` and `agents`, named by the user.
    SingleFile,
    /// `overlays/` of the user's own manifest folder: what was allowed to a bottle for good.
    HomeOverlay,
    /// The overlay beside a manifest in one file.
    SingleOverlay,
}

/// What a source file holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Its text.
    Text(String),
    /// Why it was not read. What it would have defined counts as defined with an error.
    Unreadable(Diagnostic),
}

impl Source {
    /// A source whose stem is taken from its path.
    #[must_use]
    pub fn new(kind: SourceKind, path: impl Into<String>, text: impl Into<String>) -> Self {
        let path = path.into();
        let stem = stem_of(&path).to_string();
        Self { kind, path, stem, content: Content::Text(text.into()) }
    }

    /// A source that could not be read.
    #[must_use]
    pub fn unreadable(kind: SourceKind, path: impl Into<String>, why: Diagnostic) -> Self {
        let path = path.into();
        let stem = stem_of(&path).to_string();
        Self { kind, path, stem, content: Content::Unreadable(why) }
    }
}

fn stem_of(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    [".md", ".yaml"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// A manifest and all that was found while reading it.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Every bottle and agent that is without error.
    pub manifest: Manifest,
    /// Sorted by place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// Whether anything found is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Reads a manifest from its files, in any order.
///
/// Every bottle is resolved: parents and presets merged, defaults filled in. Every agent is
/// checked against its bottle. A definition with an error is left out, and so is what builds on
/// it, without a second complaint.
#[must_use]
pub fn load(sources: &[Source]) -> Loaded {
    let mut findings = Findings::default();
    let mut unread = Vec::new();
    let mut book = Book::default();
    let mut sources: Vec<&Source> = sources.iter().collect();
    sources.sort();
    for source in sources {
        if let Content::Unreadable(why) = &source.content {
            unread.push(why.clone());
        }
        let mut reader = Reader::new(&source.path, &mut findings);
        book.read(&mut reader, source);
    }
    book.presets(&mut findings);
    let mut resolved = extends::resolve(&book.bottles, &mut findings);
    overlay::apply(&book.overlays, &mut resolved, &mut findings);
    let mut manifest = Manifest::default();
    for drafts in book.agents.values() {
        if let Some(agent) = agent_of(drafts, &resolved, &mut findings) {
            manifest.agents.insert(agent.name.clone(), agent);
        }
    }
    manifest.bottles =
        resolved.into_iter().filter_map(|(name, bottle)| Some((name, bottle?))).collect();
    let mut diagnostics = findings.sorted();
    diagnostics.extend(unread);
    diagnostics.sort();
    diagnostics.dedup();
    Loaded { manifest, diagnostics }
}

/// Everything read, before anything is put together.
#[derive(Default)]
struct Book {
    bottles: BTreeMap<Name, Draft>,
    agents: BTreeMap<Name, AgentDrafts>,
    overlays: BTreeMap<Name, Overlay>,
}

/// The definitions of one agent: the user's own, and the repository's over it.
#[derive(Default)]
struct AgentDrafts {
    own: Option<AgentDraft>,
    repository: Option<AgentDraft>,
}

struct AgentDraft {
    name: Name,
    origin: Origin,
    def: AgentDef,
    spot: Spot,
    sound: bool,
}

impl Book {
    fn read(&mut self, reader: &mut Reader<'_>, source: &Source) {
        if source.kind == SourceKind::RepositoryBottle {
            reader
                .warning(At::START, "repository-bottle", "bottles of a repository are ignored")
                .advise(
                    "a bottle lies in the user's own manifest: the layout is the trust boundary",
                );
            return;
        }
        let name = match (source.kind, reader::stem(&source.stem)) {
            (SourceKind::SingleFile | SourceKind::SingleOverlay, _) => None,
            (_, Ok(name)) => Some(name),
            (_, Err(error)) => {
                let message = format!("skipped: expected {}", error.expected);
                reader.warning(At::START, "skipped-file", message);
                return;
            }
        };
        let Content::Text(text) = &source.content else {
            let root = Node { at: At::START, value: Value::Broken };
            let field = Field { key: &source.stem, at: At::START, node: &root };
            self.define(reader, source, name, field, None);
            return;
        };
        let text = document::plain(reader, text);
        let read = text.as_ref().and_then(|text| document::read(reader, &source.path, text));
        let (mut root, body) = match read {
            Some(document) => (document.root, document.body),
            None => (Node { at: At::START, value: Value::Broken }, None),
        };
        if matches!(root.value, Value::Null) {
            root.value = Value::Map(Vec::new());
        }
        let field = Field { key: &source.stem, at: At::START, node: &root };
        self.define(reader, source, name, field, body);
    }

    fn define(
        &mut self,
        reader: &mut Reader<'_>,
        source: &Source,
        name: Option<Name>,
        field: Field<'_>,
        body: Option<&str>,
    ) {
        match (source.kind, name) {
            (SourceKind::HomeBottle, Some(name)) => self.bottle(reader, name, field, &source.path),
            (SourceKind::HomeAgent, Some(name)) => {
                self.agent(reader, name, field, body, Origin::Home);
            }
            (SourceKind::RepositoryAgent, Some(name)) => {
                self.agent(reader, name, field, body, Origin::Repository);
            }
            (SourceKind::SingleFile, _) => self.single(reader, field, &source.path),
            (SourceKind::HomeOverlay, Some(name)) => {
                self.overlay(reader, name, field, &source.path)
            }
            (SourceKind::SingleOverlay, _) => self.single_overlay(reader, field, &source.path),
            (_, None) | (SourceKind::RepositoryBottle, _) => {}
        }
    }

    fn single(&mut self, reader: &mut Reader<'_>, field: Field<'_>, path: &str) {
        let Some(fields) = reader.fields(field, &keys::SINGLE) else { return };
        if let Some(items) = fields.get("bottles").and_then(|field| reader.map(field)) {
            for item in items {
                if let Some(name) = named(reader, item) {
                    let origin = format!("{path}#{name}");
                    self.bottle(reader, name, item, &origin);
                }
            }
        }
        if let Some(items) = fields.get("agents").and_then(|field| reader.map(field)) {
            for item in items {
                if let Some(name) = named(reader, item) {
                    self.agent(reader, name, item, None, Origin::File);
                }
            }
        }
    }

    fn overlay(&mut self, reader: &mut Reader<'_>, name: Name, field: Field<'_>, path: &str) {
        let before = reader.findings.errors();
        let entries = overlay::entries(reader, field, Some(&name));
        let sound = reader.findings.errors() == before && !broken(field.node);
        let spot = reader.spot(field.at);
        if let Some(first) = self.overlays.get_mut(&name) {
            let message =
                format!("a second overlay of bottle `{name}`, besides {}", shown(&first.spot.file));
            reader.error(field.at, "duplicate-overlay", message);
            first.sound = false;
            return;
        }
        self.overlays.insert(name, Overlay { entries, origin: path.to_string(), spot, sound });
    }

    /// The overlay beside a manifest in one file. With an error anywhere in it none of the bottles
    /// is whole: which one was meant cannot be told.
    fn single_overlay(&mut self, reader: &mut Reader<'_>, field: Field<'_>, path: &str) {
        let before = reader.findings.errors();
        let entries = overlay::entries(reader, field, None);
        let sound = reader.findings.errors() == before && !broken(field.node);
        let spot = reader.spot(field.at);
        let origin = path.rsplit('/').next().unwrap_or(path).to_string();
        if !sound {
            for draft in self.bottles.values_mut() {
                draft.sound = false;
            }
            return;
        }
        for entry in entries {
            let Some(name) = entry.value.bottle.clone() else { continue };
            let overlay = self.overlays.entry(name).or_insert_with(|| Overlay {
                entries: Vec::new(),
                origin: origin.clone(),
                spot: spot.clone(),
                sound,
            });
            overlay.entries.push(entry);
        }
    }

    fn bottle(&mut self, reader: &mut Reader<'_>, name: Name, field: Field<'_>, origin: &str) {
        let before = reader.findings.errors();
        let empty = Node { at: field.at, value: Value::Map(Vec::new()) };
        let null = matches!(field.node.value, Value::Null);
        let field = if null { Field { node: &empty, ..field } } else { field };
        let def = bottle::bottle(reader, field);
        let sound = reader.findings.errors() == before && !broken(field.node);
        let spot = reader.spot(field.at);
        if let Some(first) = self.bottles.get_mut(&name) {
            let message = format!("a second bottle `{name}`, besides {}", shown(&first.spot.file));
            reader.error(field.at, "duplicate-bottle", message);
            first.sound = false;
            return;
        }
        self.bottles.insert(name, Draft { def, spot, origin: origin.to_string(), sound });
    }

    fn agent(
        &mut self,
        reader: &mut Reader<'_>,
        name: Name,
        field: Field<'_>,
        body: Option<&str>,
        origin: Origin,
    ) {
        let before = reader.findings.errors();
        let def = agent::agent(reader, field, body);
        let sound = reader.findings.errors() == before && !broken(field.node);
        let spot = reader.spot(field.at);
        let drafts = self.agents.entry(name.clone()).or_default();
        let place = match origin {
            Origin::Repository => &mut drafts.repository,
            _ => &mut drafts.own,
        };
        if let Some(first) = place {
            let message = format!("a second agent `{name}`, besides {}", shown(&first.spot.file));
            reader.error(field.at, "duplicate-agent", message);
            first.sound = false;
            return;
        }
        *place = Some(AgentDraft { name, origin, def, spot, sound });
    }

    /// Adds the presets that something names.
    fn presets(&mut self, findings: &mut Findings) {
        let parents = self.bottles.values().flat_map(|draft| &draft.def.extends);
        let agents = self.agents.values().flat_map(|drafts| [&drafts.own, &drafts.repository]);
        let homes = agents.flatten().filter_map(|draft| draft.def.bottle.as_ref());
        let wanted: Vec<Name> = parents.chain(homes).map(|placed| placed.value.clone()).collect();
        for name in wanted {
            let Some(preset) = presets::preset(&name) else { continue };
            if self.bottles.contains_key(&name) {
                continue;
            }
            let mut reader = Reader::new(preset.name, findings);
            let Some(root) = yaml::parse(&mut reader, preset.text, 0) else { continue };
            let field = Field { key: preset.name, at: At::START, node: &root };
            self.bottle(&mut reader, name, field, preset.name);
        }
    }
}

fn broken(node: &Node) -> bool {
    match &node.value {
        Value::Broken => true,
        Value::Map(entries) => entries.iter().any(|Entry { value, .. }| broken(value)),
        Value::List(items) => items.iter().any(broken),
        _ => false,
    }
}

/// The name under which a one-file manifest defines something.
fn named(reader: &mut Reader<'_>, item: Field<'_>) -> Option<Name> {
    match reader::stem(item.key) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("expected {}, found `{}`", error.expected, shown(item.key));
            reader.error(item.at, "bad-name", message);
            None
        }
    }
}

/// The agent in force, checked against its bottle.
fn agent_of(
    drafts: &AgentDrafts,
    bottles: &BTreeMap<Name, Option<Bottle>>,
    findings: &mut Findings,
) -> Option<Agent> {
    let own = drafts.own.as_ref().and_then(|draft| agent(draft, bottles, findings));
    let Some(draft) = &drafts.repository else { return own };
    let agent = agent(draft, bottles, findings)?;
    let before = findings.errors();
    let bottle = bottles.get(&agent.bottle)?.as_ref()?;
    let at = draft.def.bottle.as_ref().map_or(&draft.spot, |placed| &placed.spot);
    if let Some(home) = drafts.own.as_ref().and_then(|own| own.def.bottle.as_ref())
        && home.value != agent.bottle
    {
        let message = format!(
            "the repository may not move agent `{}` out of bottle `{}`",
            agent.name, home.value
        );
        findings.error(at, "repository-bottle-change", message);
    }
    if !bottle.repo_agents {
        let message = format!("bottle `{}` is not open to agents of a repository", agent.bottle);
        findings
            .error(at, "repository-agent", message)
            .advise("a bottle says `repo_agents: true` if it is meant to be");
    }
    for skill in draft.def.skills.iter().filter(|skill| !bottle.skills.contains(&skill.value)) {
        let message = format!(
            "bottle `{}` does not give skill `{}` to agents of a repository",
            agent.bottle, skill.value
        );
        findings.error(&skill.spot, "repository-skill", message);
    }
    (findings.errors() == before).then_some(agent)
}

fn agent(
    draft: &AgentDraft,
    bottles: &BTreeMap<Name, Option<Bottle>>,
    findings: &mut Findings,
) -> Option<Agent> {
    let Placed { value: name, spot } = draft.def.bottle.as_ref()?;
    let Some(bottle) = bottles.get(name) else {
        extends::missing(spot, name, bottles.keys(), findings);
        return None;
    };
    let bottle = bottle.as_ref()?;
    let git_user = git_user(&draft.def, bottle, findings)?;
    draft.sound.then(|| Agent {
        name: draft.name.clone(),
        origin: draft.origin,
        bottle: name.clone(),
        skills: draft.def.skills.iter().map(|skill| skill.value.clone()).collect(),
        git_user,
        prompt: draft.def.prompt.clone(),
    })
}

/// The agent's own user; what it leaves out is the bottle's.
fn git_user(def: &AgentDef, bottle: &Bottle, findings: &mut Findings) -> Option<Option<GitUser>> {
    match (def.git_user.complete(), &bottle.git_user) {
        (Ok(user), _) => Some(user),
        (Err((half, "email")), Some(user)) => {
            Some(Some(GitUser { name: half.value.clone(), email: user.email.clone() }))
        }
        (Err((half, _)), Some(user)) => {
            Some(Some(GitUser { name: user.name.clone(), email: half.value.clone() }))
        }
        (Err((half, missing)), None) => {
            let message = format!("`git_user` needs `{missing}` too");
            findings.error(&half.spot, "missing-key", message);
            None
        }
    }
}
