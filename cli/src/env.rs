//! The environment: the one place where variables are read.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use bottle_executor::logins::Logins;
use bottle_planner::spec::Overrides;
use bottle_planner::words::EnvName;

use crate::failure::Failure;

/// One variable that `bottle` reads.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The older name that is read when it is unset or empty.
    pub fallback: Option<&'static str>,
    /// What it does.
    pub about: &'static str,
}

const fn variable(name: &'static str, about: &'static str) -> Variable {
    Variable { name, fallback: None, about }
}

const fn renamed(name: &'static str, old: &'static str, about: &'static str) -> Variable {
    Variable { name, fallback: Some(old), about }
}

const STATE_ROOT: Variable = variable("BOTTLE_HOME", "the state root, in place of ~/.bottle");
const IMAGE: Variable =
    renamed("BOTTLE_IMAGE", "CLAUDE_BOTTLE_IMAGE", "the agent's base image, over everything else");
const DERIVED_IMAGE: Variable = renamed(
    "BOTTLE_DERIVED_IMAGE",
    "CLAUDE_BOTTLE_DERIVED_IMAGE",
    "the tag of the image with the workspace",
);
const CONTAINER: Variable = renamed(
    "BOTTLE_CONTAINER",
    "CLAUDE_BOTTLE_CONTAINER",
    "the exact name of the agent's container",
);
const DOCKER_HOST: Variable =
    variable("DOCKER_HOST", "the engine: unix:///path, tcp://IP:port or http://IP:port");
const DOCKER_CONFIG: Variable = variable(
    "DOCKER_CONFIG",
    "the folder of Docker's config.json, which has logins for registries",
);
const SOURCE_DATE_EPOCH: Variable =
    variable("SOURCE_DATE_EPOCH", "the time of planning, in seconds since 1970");
const NO_COLOR: Variable = variable("NO_COLOR", "no colour, whatever it holds (no-color.org)");
const HOME: Variable = variable("HOME", "the user's home folder");
const PATH: Variable =
    variable("PATH", "where programs that print secrets are found, and `notify-send`");
const SSH_AUTH_SOCK: Variable =
    variable("SSH_AUTH_SOCK", "the ssh-agent that holds keys with a passphrase");
const VISUAL: Variable = variable("VISUAL", "the editor of `bottle supervise`, before EDITOR");
const EDITOR: Variable = variable("EDITOR", "the same (default: vi)");
const CI: Variable = variable("CI", "no questions and no live list, whatever it holds");

/// Every variable that `bottle` reads, beside those that the host config and a manifest name as
/// sources of secrets. Empty means unset.
pub const VARIABLES: [Variable; 14] = [
    STATE_ROOT,
    IMAGE,
    DERIVED_IMAGE,
    CONTAINER,
    DOCKER_HOST,
    DOCKER_CONFIG,
    SOURCE_DATE_EPOCH,
    NO_COLOR,
    HOME,
    PATH,
    SSH_AUTH_SOCK,
    VISUAL,
    EDITOR,
    CI,
];

/// The table in `bottle --help`.
#[must_use]
pub fn table() -> String {
    let row = |v: &Variable| {
        let old = v.fallback.map_or(String::new(), |old| format!(" (or {old})"));
        format!("  {:<21} {}{old}", v.name, v.about)
    };
    let rows: Vec<String> = VARIABLES.iter().map(row).collect();
    format!("Environment (empty means unset):\n{}", rows.join("\n"))
}

/// The environment of this process, read on demand.
#[derive(Debug, Clone, Copy)]
pub struct Env {
    get: fn(&str) -> Option<OsString>,
}

impl Env {
    /// The real one.
    #[must_use]
    pub fn of_process() -> Self {
        Self { get: |name| env::var_os(name) }
    }

    /// One in which nothing is set.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self { get: |_| None }
    }

    fn raw(self, variable: Variable) -> Option<OsString> {
        let set = |name: &str| (self.get)(name).filter(|value| !value.is_empty());
        set(variable.name).or_else(|| variable.fallback.and_then(set))
    }

    fn text(self, variable: Variable) -> Result<Option<String>, Failure> {
        let Some(raw) = self.raw(variable) else { return Ok(None) };
        let refuse = |raw: OsString| {
            Failure::usage(format!("expected text in {}, found {raw:?}", variable.name))
        };
        raw.into_string().map(Some).map_err(refuse)
    }

    /// The user's home folder.
    pub fn home(self) -> Result<PathBuf, Failure> {
        let Some(home) = self.raw(HOME) else {
            return Err(Failure::error("HOME is not set")
                .hint("set HOME to your home folder; bottle asks no user database"));
        };
        absolute(HOME, &home)
    }

    /// The state root.
    pub fn state_root(self) -> Result<PathBuf, Failure> {
        match self.raw(STATE_ROOT) {
            Some(root) => absolute(STATE_ROOT, &root),
            None => Ok(self.home()?.join(".bottle")),
        }
    }

    /// Where the engine listens, if that was said.
    pub fn engine(self) -> Result<Option<String>, Failure> {
        self.text(DOCKER_HOST)
    }

    /// Where Docker's client keeps logins for registries.
    pub fn logins(self) -> Result<Logins, Failure> {
        let folder = match self.raw(DOCKER_CONFIG) {
            Some(folder) => absolute(DOCKER_CONFIG, &folder)?,
            None => self.home()?.join(".docker"),
        };
        Ok(Logins { config: folder.join("config.json") })
    }

    /// What the variables override in a spec.
    pub fn overrides(self) -> Result<Overrides, Failure> {
        Ok(Overrides {
            image: self.text(IMAGE)?,
            derived_image: self.text(DERIVED_IMAGE)?,
            container: self.text(CONTAINER)?,
        })
    }

    /// The time of planning in seconds since 1970, if it was fixed.
    pub fn source_date_epoch(self) -> Result<Option<i64>, Failure> {
        let Some(text) = self.text(SOURCE_DATE_EPOCH)? else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(seconds) if seconds >= 0 => Ok(Some(seconds)),
            _ => Err(Failure::usage(format!(
                "expected seconds since 1970 in SOURCE_DATE_EPOCH, found `{}`",
                text.escape_debug()
            ))),
        }
    }

    /// Whether colour was declined.
    #[must_use]
    pub fn no_color(self) -> bool {
        self.raw(NO_COLOR).is_some()
    }

    /// Whether this is a build machine, where nobody answers.
    #[must_use]
    pub fn is_ci(self) -> bool {
        self.raw(CI).is_some_and(|value| value != "false" && value != "0")
    }

    /// The folders in which programs are found.
    #[must_use]
    pub fn path(self) -> Vec<PathBuf> {
        self.raw(PATH).map_or_else(Vec::new, |path| env::split_paths(&path).collect())
    }

    /// The socket of the user's ssh-agent.
    #[must_use]
    pub fn ssh_agent(self) -> Option<PathBuf> {
        self.raw(SSH_AUTH_SOCK).map(PathBuf::from)
    }

    /// The person's editor, as a command of words.
    #[must_use]
    pub fn editor(self) -> String {
        let set = [VISUAL, EDITOR].into_iter().find_map(|variable| self.raw(variable));
        set.and_then(|editor| editor.into_string().ok()).unwrap_or_else(|| "vi".to_owned())
    }

    /// One variable by a name that a manifest or the host config has: a secret's source.
    #[must_use]
    pub fn secret(self, name: &str) -> Option<OsString> {
        (self.get)(name)
    }

    /// The names of all variables that are set and not empty.
    #[must_use]
    pub fn names(self) -> std::collections::BTreeSet<EnvName> {
        let named = |(name, value): (OsString, OsString)| {
            let name = EnvName::new(name.into_string().ok()?).ok()?;
            (!value.is_empty()).then_some(name)
        };
        env::vars_os().filter_map(named).collect()
    }
}

fn absolute(variable: Variable, value: &OsStr) -> Result<PathBuf, Failure> {
    let path = Path::new(value);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Failure::error(format!("expected an absolute path in {}, found {value:?}", variable.name))
        .hint(format!("set {} to a path that begins with `/`", variable.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(get: fn(&str) -> Option<OsString>) -> Env {
        Env { get }
    }

    #[test]
    fn empty_is_unset_and_the_old_name_is_second() {
        let both = env(|name| match name {
            "BOTTLE_IMAGE" => Some("".into()),
            "CLAUDE_BOTTLE_IMAGE" => Some("old:1".into()),
            "BOTTLE_CONTAINER" => Some("new".into()),
            "CLAUDE_BOTTLE_CONTAINER" => Some("old".into()),
            _ => None,
        });
        let overrides = both.overrides().unwrap();
        assert_eq!(overrides.image.as_deref(), Some("old:1"));
        assert_eq!(overrides.container.as_deref(), Some("new"));
        assert_eq!(overrides.derived_image, None);
    }

    #[test]
    fn the_state_root() {
        let root = |get| env(get).state_root().map_err(|e| e.to_string());
        assert_eq!(root(|n| (n == "HOME").then(|| "/h".into())).unwrap(), Path::new("/h/.bottle"));
        assert_eq!(
            root(|n| (n == "BOTTLE_HOME").then(|| "/s".into())).unwrap(),
            Path::new("/s"),
            "no home is needed where the root is named"
        );
        assert_eq!(root(|_| None).unwrap_err(), "HOME is not set");
        assert_eq!(
            root(|n| (n == "HOME").then(|| "h".into())).unwrap_err(),
            "expected an absolute path in HOME, found \"h\""
        );
    }

    #[test]
    fn the_epoch_is_a_number() {
        let epoch = |get| env(get).source_date_epoch();
        assert_eq!(epoch(|n| (n == "SOURCE_DATE_EPOCH").then(|| "7".into())).unwrap(), Some(7));
        assert!(epoch(|n| (n == "SOURCE_DATE_EPOCH").then(|| "-7".into())).is_err());
        assert!(epoch(|n| (n == "SOURCE_DATE_EPOCH").then(|| "x".into())).is_err());
    }
}
