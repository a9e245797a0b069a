//! What an agent changed: what its folder began with against what is in it now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_planner::escape::visible;
use bottle_planner::executed::{self, Thing};
use bottle_planner::words::Digest;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use sha2::{Digest as _, Sha256};

use super::arrival::{Arrival, Item, Wants};
use super::patch;
use crate::tree::Hide;

/// The most that is read of a `.gitignore`, in bytes.
const LONGEST_IGNORE: usize = 1 << 20;

/// One changed path. Folders are not among them: they come and go with what is in them.
#[derive(Debug, Clone)]
pub struct Change {
    /// Below the workspace.
    pub path: PathBuf,
    pub(crate) before: Option<Item>,
    pub(crate) after: Option<Item>,
}

/// How something became what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was not there.
    Added,
    /// It is not there any more.
    Deleted,
    /// Its content is another.
    Changed,
    /// Its executable bit is another, and nothing else.
    Mode,
    /// A link became a file, or the reverse.
    Retyped,
}

impl How {
    /// As lists have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Deleted => "deleted",
            Self::Changed => "changed",
            Self::Mode => "mode",
            Self::Retyped => "retyped",
        }
    }
}

impl Change {
    /// What became of it.
    #[must_use]
    pub fn how(&self) -> How {
        match (&self.before, &self.after) {
            (None, _) => How::Added,
            (_, None) => How::Deleted,
            (Some(Item::File { hash: one, .. }), Some(Item::File { hash: two, .. })) => {
                if one == two { How::Mode } else { How::Changed }
            }
            (Some(Item::Link { .. }), Some(Item::Link { .. })) => How::Changed,
            _ => How::Retyped,
        }
    }

    /// The path as text that names it and nothing else: quoted as git does where it has to be.
    #[must_use]
    pub fn name(&self) -> String {
        patch::quoted(&self.path)
    }

    /// What it is now, as a word that two states share only if they are the same.
    #[must_use]
    pub fn state(&self) -> String {
        state(self.after.as_ref())
    }

    /// The executable bit it has now.
    #[must_use]
    pub fn is_executable(&self) -> bool {
        matches!(self.after, Some(Item::File { executable: true, .. }))
    }

    /// Where it points to, for a link.
    #[must_use]
    pub fn target(&self) -> Option<&[u8]> {
        match &self.after {
            Some(Item::Link { target }) => Some(target),
            _ => None,
        }
    }

    /// Why the host would execute it; `None` where it would not.
    #[must_use]
    pub fn is_executed(&self) -> Option<String> {
        is_executed(&self.path, self.after.as_ref())
    }
}

/// Why the host would execute what lies at a path; `None` where it would not.
pub(crate) fn is_executed(path: &Path, item: Option<&Item>) -> Option<String> {
    let target = match item {
        Some(Item::Link { target }) => Some(String::from_utf8_lossy(target)),
        _ => None,
    };
    let thing = match &target {
        Some(target) => Thing::Link { target },
        // Bits that give an owner's rights never come back.
        None => Thing::File {
            executable: matches!(item, Some(Item::File { executable: true, .. })),
            set_id: false,
        },
    };
    let why = executed::why(&path.to_string_lossy(), thing)?;
    Some(match target {
        Some(target) => format!("{why}, to {}", visible(&target)),
        None => why.to_owned(),
    })
}

/// What something is, as a word.
pub(crate) fn state(item: Option<&Item>) -> String {
    match item {
        None | Some(Item::Folder) => "absent".to_owned(),
        Some(Item::File { hash, executable, .. }) => {
            let kind = if *executable { "executable" } else { "file" };
            format!("{kind} {}", Digest::from_raw(hash))
        }
        Some(Item::Link { target }) => {
            format!("link {}", Digest::from_raw(&Sha256::digest(target)))
        }
        Some(Item::Other(kind)) => (*kind).to_owned(),
    }
}

/// What does not come back, and why.
#[derive(Debug, Clone, Default)]
pub struct Left {
    /// What the workspace's own `.gitignore` files name and the folder did not begin with: files,
    /// and folders as wholes.
    pub ignored: Vec<PathBuf>,
    /// What `hide` names: it never enters, and never comes back.
    pub hidden: Vec<PathBuf>,
    /// Pipes and devices.
    pub special: Vec<PathBuf>,
    /// Contents beyond the limits.
    pub large: Vec<PathBuf>,
    /// Files of which setuid, setgid or sticky bits were dropped.
    pub special_bits: Vec<PathBuf>,
    /// Whether there is a `.git`, of which nothing comes back as a file.
    pub git: bool,
}

/// What a workspace began with, by path.
pub(crate) type Base = BTreeMap<PathBuf, Item>;

/// Which contents of a workspace are of interest: those it did not begin with.
pub(crate) struct Sieve {
    base: Arc<Base>,
    hide: Hide,
    /// In `clone` mode commits are read out of it.
    keep_git: bool,
    ignores: BTreeMap<PathBuf, Gitignore>,
    pub(crate) left: Left,
}

impl Sieve {
    pub(crate) fn new(base: Arc<Base>, hide: Hide, keep_git: bool) -> Self {
        Self { base, hide, keep_git, ignores: BTreeMap::new(), left: Left::default() }
    }

    fn ignores(&self, path: &Path, folder: bool) -> bool {
        let verdict = path.ancestors().skip(1).find_map(|above| {
            let matched = self.ignores.get(above)?.matched(path, folder);
            (!matched.is_none()).then(|| matched.is_ignore())
        });
        verdict.unwrap_or(false)
    }
}

impl Wants for Sieve {
    fn skips(&mut self, path: &Path, folder: bool) -> bool {
        if is_git(path) {
            self.left.git = true;
            return !(self.keep_git && path.starts_with(".git"));
        }
        if self.hide.hides(path) {
            self.left.hidden.push(path.to_owned());
            return true;
        }
        if !self.base.contains_key(path) && self.ignores(path, folder) {
            self.left.ignored.push(path.to_owned());
            return true;
        }
        false
    }

    fn keeps(&mut self, path: &Path, item: &Item) -> bool {
        is_git(path)
            || path.file_name().is_some_and(|name| name == ".gitignore")
            || self.base.get(path).is_none_or(|before| !before.same(item))
    }

    fn seen(&mut self, path: &Path, content: &[u8]) {
        let named = path.file_name().is_some_and(|name| name == ".gitignore");
        if !named || is_git(path) || content.len() > LONGEST_IGNORE {
            return;
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut builder = GitignoreBuilder::new(&folder);
        for line in String::from_utf8_lossy(content).lines() {
            // A glob that makes no sense ignores nothing, as with git.
            drop(builder.add_line(None, line));
        }
        if let Ok(built) = builder.build() {
            self.ignores.insert(folder, built);
        }
    }
}

/// Whether a path is git's own.
#[must_use]
pub fn is_git(path: &Path) -> bool {
    executed::is_git(&path.to_string_lossy())
}

/// Every difference, by path; what has no content to bring back goes to `left`.
pub(crate) fn compare(base: &Base, now: &Arrival, left: &mut Left) -> Vec<Change> {
    let content = |item: Option<&Item>| match item {
        Some(item @ (Item::File { .. } | Item::Link { .. })) => Some(item.clone()),
        _ => None,
    };
    let under_left = |path: &Path, left: &Left| {
        left.ignored.iter().chain(&left.hidden).any(|skipped| path.starts_with(skipped))
    };
    let mut changes = Vec::new();
    for (path, item) in &now.items {
        if is_git(path) {
            continue;
        }
        if let Item::Other(_) = item {
            left.special.push(path.clone());
            continue;
        }
        let (before, after) = (content(base.get(path)), content(Some(item)));
        let same = match (&before, &after) {
            (Some(before), Some(after)) => before.same(after),
            (before, after) => before.is_none() && after.is_none(),
        };
        if !same {
            changes.push(Change { path: path.clone(), before, after });
        }
    }
    for (path, item) in base {
        let gone = !now.items.contains_key(path) && !is_git(path) && !under_left(path, left);
        if gone && let Some(before) = content(Some(item)) {
            changes.push(Change { path: path.clone(), before: Some(before), after: None });
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    left.special_bits.extend(now.special_bits.iter().filter(|p| !is_git(p)).cloned());
    changes
}
