//! The sessions of this state root: their names, and the plan last applied to each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bottle_executor::state::{INPUTS, PLAN};
use bottle_planner::document::{self, Strictness};
use bottle_planner::spec::Spec;
use bottle_planner::words::Identity;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::load;

/// The sessions below one state root.
#[derive(Debug, Clone)]
pub struct Sessions {
    folder: PathBuf,
    history: PathBuf,
}

/// What is kept of a session, live or ended.
#[derive(Debug, Clone)]
pub struct Record {
    /// The session; of an ended one, as its record is called.
    pub name: Identity,
    /// Where it is kept.
    pub folder: PathBuf,
    /// Whether it has ended.
    pub ended: bool,
}

impl Record {
    /// The record of a session that was taken down, by its name in history.
    #[must_use]
    pub fn of_ended(sessions: &Sessions, name: &Identity) -> Self {
        let folder = sessions.history.join(name.as_str());
        Self { name: name.clone(), folder, ended: true }
    }

    /// The text of the plan last applied.
    pub fn plan_text(&self) -> Result<Option<String>, Failure> {
        read(&self.folder.join(PLAN))
    }
}

impl Sessions {
    /// The sessions below this state root.
    #[must_use]
    pub fn of(state_root: &Path) -> Self {
        Self { folder: state_root.join("state"), history: state_root.join("history") }
    }

    /// All that have a plan, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Identity> {
        planned(&self.folder)
    }

    /// The records in history, by name.
    #[must_use]
    pub fn ended(&self) -> Vec<Identity> {
        planned(&self.history)
    }

    /// The record of a session, live or ended; live ones come first.
    pub fn record(&self, text: &str) -> Result<Record, Failure> {
        let failure = match self.find(text) {
            Ok(name) => {
                let folder = self.folder.join(name.as_str());
                return Ok(Record { name, folder, ended: false });
            }
            Err(failure) if failure.exit == Exit::Usage => return Err(failure),
            Err(failure) => failure,
        };
        let ended = Self { folder: self.history.clone(), history: self.history.clone() };
        match ended.find(text) {
            Ok(name) => {
                let folder = self.history.join(name.as_str());
                Ok(Record { name, folder, ended: true })
            }
            Err(other) if other.exit == Exit::Usage => Err(other),
            Err(_) => Err(failure),
        }
    }

    /// The session meant by a name, a unique prefix of one, or `@last`.
    pub fn find(&self, text: &str) -> Result<Identity, Failure> {
        let all = self.all();
        if text == "@last" {
            let last = all.iter().max_by_key(|identity| self.changed(identity));
            return last.cloned().ok_or_else(|| {
                Failure::error("there is no session").hint("`bottle start AGENT` begins one")
            });
        }
        if let Some(exact) = all.iter().find(|identity| identity.as_str() == text) {
            return Ok(exact.clone());
        }
        let by_prefix: Vec<&Identity> =
            all.iter().filter(|i| !text.is_empty() && i.as_str().starts_with(text)).collect();
        match by_prefix.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(self.none(text, &all)),
            several => {
                let several: Vec<Identity> = several.iter().map(|i| (*i).clone()).collect();
                Err(Failure::usage(format!(
                    "`{}` could be any of {} sessions",
                    text.escape_debug(),
                    several.len()
                ))
                .hint(known(&several)))
            }
        }
    }

    fn none(&self, text: &str, all: &[Identity]) -> Failure {
        let record = Identity::new(text).ok().map(|name| self.history.join(name.as_str()));
        if let Some(record) = record.filter(|record| record.is_dir()) {
            return Failure::error(format!("session {text} has ended"))
                .hint(format!("its record is {}", record.display()));
        }
        Failure::error(format!("there is no session `{}`", text.escape_debug())).hint(known(all))
    }

    /// The folder of a session that was not taken down.
    #[must_use]
    pub fn folder_of(&self, identity: &Identity) -> PathBuf {
        self.folder.join(identity.as_str())
    }

    /// The text of the plan last applied to (or begun for) a session.
    pub fn plan_text(&self, identity: &Identity) -> Result<Option<String>, Failure> {
        read(&self.plan_path(identity))
    }

    /// What was last asked for a session, if it exists.
    pub fn spec(&self, identity: &Identity) -> Result<Option<Spec>, Failure> {
        for file in [PLAN, INPUTS] {
            let path = self.folder.join(identity.as_str()).join(file);
            let Some(text) = read(&path)? else { continue };
            let malformed = |why: String| {
                Failure::error(format!("cannot read the spec in {}: {why}", path.display()))
                    .hint("name another session, or give the whole request with --spec FILE")
            };
            let raw = document::parse_value(&text).map_err(|e| malformed(e.to_string()))?;
            let spec = raw.get("spec").cloned().ok_or_else(|| malformed("there is none".into()))?;
            let spec = document::from_value::<Spec>(spec, Strictness::Lenient)
                .map_err(|e| malformed(e.to_string()))?;
            return Ok(Some(spec.value));
        }
        Ok(None)
    }

    fn plan_path(&self, identity: &Identity) -> PathBuf {
        self.folder.join(identity.as_str()).join(PLAN)
    }

    fn changed(&self, identity: &Identity) -> Option<SystemTime> {
        fs::metadata(self.plan_path(identity)).and_then(|meta| meta.modified()).ok()
    }
}

/// The names of the sessions below a folder that have a plan, sorted.
fn planned(folder: &Path) -> Vec<Identity> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut all: Vec<Identity> = entries
        .flatten()
        .filter_map(|entry| Identity::new(entry.file_name().into_string().ok()?).ok())
        .filter(|identity| folder.join(identity.as_str()).join(PLAN).is_file())
        .collect();
    all.sort();
    all
}

/// The names of some sessions, for a hint.
#[must_use]
pub fn known(sessions: &[Identity]) -> String {
    if sessions.is_empty() {
        return "no session is there; `bottle start AGENT` begins one".to_owned();
    }
    let names: Vec<&str> = sessions.iter().map(Identity::as_str).collect();
    format!("sessions: {}", names.join(", "))
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match load::text(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        Err(error) => {
            Err(Failure::error(format!("cannot read {}", path.display())).because(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_prefix_and_age() {
        let root = tempfile::tempdir().unwrap();
        let sessions = Sessions::of(root.path());
        assert!(sessions.all().is_empty());
        assert!(sessions.find("@last").is_err());
        for name in ["dev-aaaaa", "dev-bbbbb", "review", "Not_One", "empty"] {
            fs::create_dir_all(root.path().join("state").join(name)).unwrap();
            if name != "empty" {
                fs::write(root.path().join("state").join(name).join(PLAN), "{}").unwrap();
            }
        }
        let older = SystemTime::UNIX_EPOCH;
        for name in ["review", "dev-aaaaa"] {
            let plan = root.path().join("state").join(name).join(PLAN);
            fs::File::options().write(true).open(plan).unwrap().set_modified(older).unwrap();
        }
        let found = |text: &str| sessions.find(text).map(String::from).map_err(|f| f.to_string());
        assert_eq!(sessions.all().len(), 3);
        assert_eq!(found("review").unwrap(), "review");
        assert_eq!(found("r").unwrap(), "review");
        assert_eq!(found("@last").unwrap(), "dev-bbbbb");
        assert_eq!(found("dev").unwrap_err(), "`dev` could be any of 2 sessions");
        assert_eq!(found("zzz").unwrap_err(), "there is no session `zzz`");
        assert_eq!(found("").unwrap_err(), "there is no session ``");
    }
}
