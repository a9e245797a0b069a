//! Findings that a person lets through once: which there are, and which of them were used.
//!
//! The host writes what is let through, the gate what was used: an empty file each, named by the id
//! of the exception. It is there, and on the disk, before anything goes to upstream, so that a gate
//! that is killed lets nothing through twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bottle_planner::policy::PushException;
use bottle_planner::sidecar::{EXCEPTIONS, USED_EXCEPTIONS};
use bottle_planner::words::Name;

use super::scan::Found;
use crate::settings::{SettingsError, read};
use crate::{Places, log};

/// Where they are.
#[derive(Debug)]
pub(super) struct Exceptions {
    granted: PathBuf,
    used: PathBuf,
    /// Whether the agent can ask for one.
    pub(super) supervised: bool,
}

/// Exceptions that are used up, unless they are given back.
#[derive(Debug, Default)]
pub(super) struct Used {
    folder: PathBuf,
    ids: Vec<String>,
}

/// Why exceptions could not be used up; none of them is then.
#[derive(Debug, thiserror::Error)]
pub(super) enum UseError {
    /// Another push was first.
    #[error("what a person let through once went through with another push")]
    Taken,
    #[error("it cannot be noted that an exception is used: {0}")]
    Io(#[from] io::Error),
}

impl Exceptions {
    pub(super) fn of(places: &Places, supervised: bool) -> Self {
        Self {
            granted: places.input.join(EXCEPTIONS),
            used: places.output.join(USED_EXCEPTIONS),
            supervised,
        }
    }

    /// What may go to this remote still, as of now. A file that cannot be read lets nothing through.
    pub(super) fn unused(&self, remote: &Name) -> BTreeMap<String, PushException> {
        let mut all = self.granted().unwrap_or_else(|error| {
            log::error("no finding is let through", &[("error", &error)]);
            BTreeMap::new()
        });
        // Whatever is there in the place of a mark is one, and so is what cannot be looked at.
        let is_unused = |id: &String| {
            let mark = fs::symlink_metadata(self.used.join(id));
            mark.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        all.retain(|id, exception| exception.remote == *remote && is_unused(id));
        all
    }

    fn granted(&self) -> Result<BTreeMap<String, PushException>, SettingsError> {
        let path = self.granted.clone();
        let bytes = match read(&path) {
            Err(SettingsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(BTreeMap::new());
            }
            bytes => bytes?,
        };
        let all: BTreeMap<String, PushException> = serde_json::from_slice(&bytes)
            .map_err(|source| SettingsError::Parse { path: path.clone(), source })?;
        if all.keys().any(|id| !is_id(id)) {
            let reason = "expected ids of twelve hexadecimal digits".into();
            return Err(SettingsError::Value { path, reason });
        }
        Ok(all)
    }

    /// Uses all of these up, or none.
    ///
    /// # Errors
    ///
    /// One of them is used already, or that they are cannot be written down.
    pub(super) fn use_up(&self, ids: &BTreeSet<String>) -> Result<Used, UseError> {
        let mut used = Used { folder: self.used.clone(), ids: Vec::new() };
        if ids.is_empty() {
            return Ok(used);
        }
        let noted = self.note(ids, &mut used);
        if noted.is_err() {
            used.give_back();
        }
        noted.map(|()| used)
    }

    fn note(&self, ids: &BTreeSet<String>, used: &mut Used) -> Result<(), UseError> {
        fs::create_dir_all(&self.used)?;
        sync(self.used.parent().unwrap_or(&self.used))?;
        for id in ids {
            let mark = OpenOptions::new().write(true).create_new(true).open(self.used.join(id));
            match mark {
                Ok(mark) => {
                    used.ids.push(id.clone());
                    mark.sync_all()?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(UseError::Taken);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sync(&self.used)?)
    }
}

impl Used {
    /// Upstream does not have what they let through: they may be used once more. One that cannot be
    /// given back stays used.
    pub(super) fn give_back(&mut self) {
        let mut given = Ok(());
        for id in self.ids.drain(..) {
            given = given.and(fs::remove_file(self.folder.join(id)));
            given = given.and(sync(&self.folder));
        }
        if let Err(error) = given {
            log::error(
                "an exception stays used, although nothing was pushed",
                &[("error", &error)],
            );
        }
    }
}

/// Splits what was found into what is let through, by which exception, and what is not.
pub(super) fn sort_out(
    found: Vec<Found>,
    unused: &BTreeMap<String, PushException>,
) -> (Vec<(String, Found)>, Vec<Found>) {
    let (mut through, mut stopped) = (Vec::new(), Vec::new());
    for found in found {
        // A person looked at a rule and a place: the same bytes elsewhere are something else.
        let lets = |exception: &PushException| {
            exception.fingerprint == found.fingerprint()
                && exception.rule == found.rule
                && exception.place == found.place
        };
        let id = unused.iter().find(|(_, exception)| lets(exception)).map(|(id, _)| id.clone());
        match id {
            Some(id) if !found.is_limit() => through.push((id, found)),
            _ => stopped.push(found),
        }
    }
    (through, stopped)
}

/// Whether it is an id, and so can be the name of a file.
fn is_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// What is in a folder stays in it, whatever happens from here on.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    const ID: &str = "0123456789ab";

    fn found(place: &str) -> Found {
        Found {
            rule: "github-pat".into(),
            object: "1111".into(),
            at: 6,
            part: "",
            place: place.into(),
            line: Some(1),
        }
    }

    fn entry() -> Value {
        json!({"remote": "web", "fingerprint": found("s").fingerprint(), "rule": "github-pat",
               "place": "s"})
    }

    fn exceptions(text: &str) -> (TempDir, Exceptions) {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::below(folder.path(), 0);
        fs::create_dir(&places.input).unwrap();
        fs::create_dir(&places.output).unwrap();
        fs::write(places.input.join(EXCEPTIONS), text).unwrap();
        let exceptions = Exceptions::of(&places, true);
        (folder, exceptions)
    }

    fn web() -> Name {
        Name::new("web").unwrap()
    }

    #[test]
    fn an_exception_is_for_one_finding_in_one_place_and_one_remote() {
        let (_folder, exceptions) = exceptions(&json!({ID: entry()}).to_string());
        let unused = exceptions.unused(&web());
        let lets = |found: Found| sort_out(vec![found], &unused).0.len() == 1;
        assert!(lets(found("s")));
        assert!(!lets(found("elsewhere")));
        assert!(!lets(Found { at: 7, ..found("s") }));
        assert!(!lets(Found { part: " (unpacked)", ..found("s") }));
        assert!(!lets(Found { object: "2222".into(), ..found("s") }));
        assert!(!lets(Found { rule: "gitlab-pat".into(), ..found("s") }));
        assert!(exceptions.unused(&Name::new("other").unwrap()).is_empty());
    }

    #[test]
    fn what_could_not_be_looked_at_is_never_let_through() {
        let limit = Found { rule: "limit-unpack".into(), ..found("s") };
        let mut entry = entry();
        entry["rule"] = "limit-unpack".into();
        entry["fingerprint"] = limit.fingerprint().into();
        let (_folder, exceptions) = exceptions(&json!({ID: entry}).to_string());
        assert_eq!(exceptions.unused(&web()).len(), 1);
        assert!(sort_out(vec![limit], &exceptions.unused(&web())).0.is_empty());
    }

    #[test]
    fn a_file_that_is_not_as_it_should_be_lets_nothing_through() {
        for bad in ["../../../in/a", "0123456789AB", "0123456789abc", ""] {
            let (_folder, exceptions) = exceptions(&json!({ID: entry(), bad: entry()}).to_string());
            assert!(exceptions.granted().is_err(), "{bad}");
            assert!(exceptions.unused(&web()).is_empty(), "{bad}");
        }
        let (_folder, exceptions) = exceptions("{");
        assert!(exceptions.granted().is_err());
        fs::remove_file(&exceptions.granted).unwrap();
        assert!(exceptions.granted().unwrap().is_empty());
        fs::create_dir(&exceptions.granted).unwrap();
        assert!(exceptions.granted().is_err());
    }

    #[test]
    fn of_several_at_once_one_uses_it_up() {
        let (_folder, exceptions) = exceptions(&json!({ID: entry()}).to_string());
        let ids = BTreeSet::from([ID.to_owned()]);
        let won = thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| exceptions.use_up(&ids))).collect();
            all.into_iter().filter_map(|one| one.join().unwrap().ok()).count()
        });
        assert_eq!(won, 1);
        assert!(exceptions.unused(&web()).is_empty());
    }

    #[test]
    fn all_are_used_up_or_none_and_what_is_given_back_is_unused() {
        let other = "ba9876543210";
        let both = json!({ID: entry(), other: entry()});
        let (_folder, exceptions) = exceptions(&both.to_string());
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let mut used = exceptions.use_up(&ids(&[other])).unwrap();
        let taken = exceptions.use_up(&ids(&[ID, other]));
        assert!(matches!(taken, Err(UseError::Taken)), "{taken:?}");
        assert!(exceptions.unused(&web()).keys().eq([ID]));
        used.give_back();
        assert_eq!(exceptions.unused(&web()).len(), 2);
        exceptions.use_up(&ids(&[ID, other])).unwrap();
        assert!(exceptions.unused(&web()).is_empty());
    }
}
