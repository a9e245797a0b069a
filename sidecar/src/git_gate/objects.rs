//! Which objects of a push are new to upstream, where they are, and whether any hides.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::process::Command;

use super::git::run;
use super::mirror::Mirror;

/// A push of more objects is refused.
pub(super) const MOST_OBJECTS: usize = 500_000;
/// A push of more bytes, unpacked, is refused: a pack can hold a thousand times its size.
pub(super) const MOST_BYTES: u64 = 4 << 30;
/// Lists of that many objects are not longer.
const LONGEST_LIST: u64 = 512 << 20;

/// What a git object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

/// An object that upstream does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// A path it is reached by; empty for commits, tags and roots.
    pub(super) path: String,
}

/// Why a push cannot be looked at, or is refused for what it is made of.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectsError {
    #[error("{0}")]
    Refused(String),
    #[error("git {what}: {words}")]
    Git { what: &'static str, words: String },
    #[error("git {what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

/// Lists what a push brings that upstream does not have. `tips` are the new ids of its refs.
///
/// # Errors
///
/// The pack holds an object that no pushed ref leads to, or more than is looked at.
pub(super) fn new_objects(
    mirror: &Mirror,
    quarantine: Option<&Path>,
    tips: &[&str],
) -> Result<Vec<Object>, ObjectsError> {
    let brought = match quarantine {
        Some(quarantine) => brought(mirror, quarantine)?,
        None => Vec::new(),
    };
    if brought.len() > MOST_OBJECTS {
        return Err(ObjectsError::Refused(format!(
            "it has more than {MOST_OBJECTS} objects; push it in parts"
        )));
    }
    let new = unknown(mirror, brought)?;
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let reached = reached(mirror, quarantine, tips)?;
    let hidden = new.iter().filter(|id| !reached.contains_key(*id)).count();
    if hidden > 0 {
        return Err(ObjectsError::Refused(format!(
            "its pack holds {hidden} objects that no pushed ref leads to"
        )));
    }
    let objects = described(mirror, quarantine, &new, &reached)?;
    let bytes: u64 = objects.iter().map(|object| object.size).sum();
    if bytes > MOST_BYTES {
        return Err(ObjectsError::Refused(format!(
            "it unpacks to more than {} GiB; push it in parts",
            MOST_BYTES >> 30
        )));
    }
    Ok(objects)
}

/// Every object that came, by its id: of the packs' indexes, and loose ones.
fn brought(mirror: &Mirror, quarantine: &Path) -> Result<Vec<String>, ObjectsError> {
    let listing = |source| ObjectsError::Io { what: "quarantine", source };
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(quarantine).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "pack" {
            for file in std::fs::read_dir(entry.path()).map_err(listing)? {
                let path = file.map_err(listing)?.path();
                if path.extension() == Some("idx".as_ref()) {
                    ids.extend(indexed(mirror, &path)?);
                }
            }
        } else if name.len() == 2 {
            for file in std::fs::read_dir(entry.path()).map_err(listing)? {
                let rest = file.map_err(listing)?.file_name();
                ids.push(format!("{name}{}", rest.to_string_lossy()));
            }
        }
    }
    Ok(ids)
}

fn indexed(mirror: &Mirror, index: &Path) -> Result<Vec<String>, ObjectsError> {
    let what = "show-index";
    let bytes = std::fs::read(index).map_err(|source| ObjectsError::Io { what, source })?;
    let mut command = mirror.git.at(&mirror.folder, None);
    command.arg(what);
    let text = said(&mut command, bytes, what)?;
    let ids = text.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned);
    Ok(ids.collect())
}

/// Those that the mirror alone does not have.
fn unknown(mirror: &Mirror, ids: Vec<String>) -> Result<Vec<String>, ObjectsError> {
    if ids.is_empty() {
        return Ok(ids);
    }
    let what = "cat-file";
    let mut command = mirror.git.at(&mirror.folder, None);
    command.args([what, "--batch-check=%(objectname)", "--buffer"]);
    let text = said(&mut command, lines(&ids), what)?;
    let missing = text.lines().filter_map(|line| line.strip_suffix(" missing"));
    Ok(missing.map(str::to_owned).collect())
}

/// Everything the pushed refs lead to that no ref of the mirror leads to, with a path each.
fn reached(
    mirror: &Mirror,
    quarantine: Option<&Path>,
    tips: &[&str],
) -> Result<HashMap<String, String>, ObjectsError> {
    let what = "rev-list";
    let mut command = mirror.git.at(&mirror.folder, quarantine);
    command.args([what, "--objects"]).args(tips).args(["--not", "--all", "--"]);
    let text = said(&mut command, Vec::new(), what)?;
    let split = |line: &str| match line.split_once(' ') {
        Some((id, path)) => (id.to_owned(), path.to_owned()),
        None => (line.to_owned(), String::new()),
    };
    Ok(text.lines().map(split).collect())
}

/// Kinds and sizes.
fn described(
    mirror: &Mirror,
    quarantine: Option<&Path>,
    ids: &[String],
    reached: &HashMap<String, String>,
) -> Result<Vec<Object>, ObjectsError> {
    let what = "cat-file";
    let mut command = mirror.git.at(&mirror.folder, quarantine);
    command.args([what, "--batch-check=%(objectname) %(objecttype) %(objectsize)", "--buffer"]);
    let text = said(&mut command, lines(ids), what)?;
    let mut seen = HashSet::new();
    let mut objects = Vec::with_capacity(ids.len());
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(id), Some(kind), Some(size)) = (words.next(), words.next(), words.next()) else {
            return Err(ObjectsError::Git { what, words: line.into() });
        };
        let (Some(kind), Ok(size)) = (Kind::named(kind), size.parse()) else {
            return Err(ObjectsError::Git { what, words: line.into() });
        };
        if seen.insert(id) {
            let path = reached.get(id).cloned().unwrap_or_default();
            objects.push(Object { id: id.to_owned(), kind, size, path });
        }
    }
    Ok(objects)
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "commit" => Some(Self::Commit),
            "tree" => Some(Self::Tree),
            "blob" => Some(Self::Blob),
            "tag" => Some(Self::Tag),
            _ => None,
        }
    }
}

fn lines(ids: &[String]) -> Vec<u8> {
    let mut text = ids.join("\n").into_bytes();
    text.push(b'\n');
    text
}

fn said(command: &mut Command, input: Vec<u8>, what: &'static str) -> Result<String, ObjectsError> {
    let done = run(command, input, LONGEST_LIST);
    let done = done.map_err(|source| ObjectsError::Io { what, source })?;
    if !done.ok {
        return Err(ObjectsError::Git { what, words: done.words.trim().into() });
    }
    Ok(String::from_utf8_lossy(&done.out).into_owned())
}
