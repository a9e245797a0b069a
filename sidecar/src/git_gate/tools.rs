//! The programs that git and ssh start inside the gate: each is the `bottle` binary under another
//! name, so that no script and no plan has a say in what they do.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::ask::{Ask, Update, ask, ask_raw};
use super::connect;
use super::layout::socket_of_tool;
use crate::exit;

/// More refs than this no push changes.
const MOST_REFS: usize = 1_000;
/// No line of a pre-receive hook's input is longer: two ids and a name.
const LONGEST_INPUT: u64 = 8 << 20;

/// A program, by the name it is started under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// git daemon asks it before it serves anybody (git-daemon(1), `--access-hook`).
    Access,
    /// receive-pack asks it before any ref changes (githooks(5)).
    PreReceive,
    /// ssh reaches upstream through it (ssh_config(5), `ProxyCommand`).
    Connect,
    /// git asks it for a password (gitcredentials(7)).
    Credential,
}

impl Tool {
    pub(super) const ALL: [Self; 4] =
        [Self::Access, Self::PreReceive, Self::Connect, Self::Credential];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Access => "git-access",
            Self::PreReceive => "pre-receive",
            Self::Connect => "git-connect",
            Self::Credential => "git-credential-gate",
        }
    }
}

/// Runs the tool that this process was started as; `None` where its name is none of theirs.
pub(crate) fn run_as_tool(mut argv: impl Iterator<Item = OsString>) -> Option<u8> {
    let own = PathBuf::from(argv.next()?);
    let tool =
        Tool::ALL.into_iter().find(|tool| own.file_name() == Some(tool.as_str().as_ref()))?;
    let words: Vec<OsString> = argv.collect();
    let Some(socket) = socket_of_tool(&own) else { return Some(exit::USAGE) };
    let done = match tool {
        Tool::Access => access(&socket, &words),
        Tool::PreReceive => pre_receive(&socket),
        Tool::Connect => connect::run(&words),
        Tool::Credential => credential(&socket, &words),
    };
    Some(match done {
        Ok(code) => code,
        Err(error) => {
            say(&format!("bottle: {error}"));
            exit::UNAVAILABLE
        }
    })
}

/// Its first line of output is what git daemon tells a client that it turns away.
fn access(socket: &Path, words: &[OsString]) -> io::Result<u8> {
    let [service, mirror, ..] = words else {
        return Err(io::Error::other("expected a service and a repository"));
    };
    let asked = Ask::Serve {
        service: service.to_string_lossy().into_owned(),
        mirror: PathBuf::from(mirror),
    };
    let reason = match ask(socket, &asked, |_| {}) {
        Ok(Ok(())) => return Ok(0),
        Ok(Err(reason)) => reason,
        Err(error) => format!("the git gate does not answer: {error}"),
    };
    writeln!(io::stdout(), "{}", reason.replace('\n', "; "))?;
    Ok(1)
}

/// What it writes to its standard error reaches the agent as `remote:` lines.
fn pre_receive(socket: &Path) -> io::Result<u8> {
    let mut input = String::new();
    io::stdin()
        .take(LONGEST_INPUT)
        .read_to_string(&mut input)
        .map_err(|_| io::Error::other("the name of a ref is not UTF-8"))?;
    let updates: Vec<Update> = input.lines().map(update).collect::<Option<_>>().ok_or_else(bad)?;
    if updates.is_empty() || updates.len() > MOST_REFS {
        return Err(io::Error::other(format!("a push changes 1 to {MOST_REFS} refs")));
    }
    let asked = Ask::Push {
        mirror: std::env::current_dir()?,
        quarantine: std::env::var_os("GIT_QUARANTINE_PATH").map(PathBuf::from),
        receive_pack: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
        updates,
    };
    match ask(socket, &asked, say)? {
        Ok(()) => Ok(0),
        Err(reason) => {
            reason.lines().for_each(say);
            Ok(1)
        }
    }
}

fn bad() -> io::Error {
    io::Error::other("expected lines of old id, new id and ref")
}

fn update(line: &str) -> Option<Update> {
    let mut words = line.splitn(3, ' ');
    let (old, new, name) = (words.next()?, words.next()?, words.next()?);
    Some(Update { old: old.to_owned(), new: new.to_owned(), name: name.to_owned() })
}

/// `git-credential-gate REMOTE get`; what git would have stored or erased is not ours.
fn credential(socket: &Path, words: &[OsString]) -> io::Result<u8> {
    match words {
        [remote, action] if action == OsStr::new("get") => {
            let remote = remote.to_string_lossy().into_owned();
            ask_raw(socket, &Ask::Credential { remote }, io::stdout())?;
        }
        _ => {}
    }
    Ok(0)
}

fn say(line: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tools_own_names_run_tools() {
        for name in ["bottle", "/usr/bin/bottle", "git-gate", ""] {
            assert_eq!(run_as_tool([OsString::from(name)].into_iter()), None, "{name}");
        }
    }

    #[test]
    fn a_name_keeps_its_spaces() {
        let update = update("a b refs/heads/c d").unwrap();
        assert_eq!(update.name, "refs/heads/c d");
        assert!(super::update("a b").is_none());
    }
}
