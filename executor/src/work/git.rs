//! git, run on this host so that nothing but git itself runs: no hook, no file-system monitor, no
//! configuration of the user's, and of an agent's least of all.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// git failed.
#[derive(Debug, thiserror::Error)]
#[error("git {command} failed: {why}")]
pub struct GitError {
    /// Its first argument.
    pub command: String,
    /// Its last words, made visible.
    pub why: String,
}

/// git with nothing of the user's or a repository's configuration that could run a program.
pub(crate) fn alone(path: Option<&OsString>) -> Command {
    let mut git = Command::new("git");
    git.env_clear();
    if let Some(path) = path {
        git.env("PATH", path);
    }
    git.env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_PAGER", "cat")
        .env("LC_ALL", "C")
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
        .args(["-c", "core.attributesFile=/dev/null"])
        .args(["-c", "protocol.allow=never", "-c", "protocol.file.allow=always"]);
    git
}

/// What git said last, made visible.
pub(crate) fn last_words(stderr: &[u8]) -> String {
    let words = String::from_utf8_lossy(stderr);
    let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no word");
    let last: String = last.chars().take(300).collect();
    bottle_planner::escape::visible(&last)
}

/// git in one repository.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    at: PathBuf,
    path: Option<OsString>,
}

impl Git {
    /// git in the repository of this folder; `path` is where programs are looked for.
    pub(crate) fn new(at: &Path, path: Option<&OsString>) -> Self {
        Self { at: at.to_owned(), path: path.cloned() }
    }

    pub(crate) fn path(&self) -> Option<&OsString> {
        self.path.as_ref()
    }

    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Runs it; answers what it prints.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Vec<u8>, GitError> {
        self.run_with(arguments, b"")
    }

    /// The same, as one line.
    pub(crate) fn line<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String, GitError> {
        let out = self.run(arguments)?;
        Ok(String::from_utf8_lossy(&out).trim_end().to_owned())
    }

    pub(crate) fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: &[u8],
    ) -> Result<Vec<u8>, GitError> {
        let name = arguments.first().map(|a| a.as_ref().to_string_lossy().into_owned());
        let command = name.unwrap_or_default();
        let failed = |why: String| GitError { command: command.clone(), why };
        let mut git = alone(self.path());
        git.args(["-c", "safe.directory=*"])
            .args(["-c", "transfer.fsckObjects=true", "-c", "fetch.fsckObjects=true"])
            .args([
                "-c",
                "gc.auto=0",
                "-c",
                "maintenance.auto=false",
                "-c",
                "log.showSignature=false",
            ])
            .args(["-c", "submodule.recurse=false", "-c", "fetch.recurseSubmodules=no"])
            .args(arguments)
            .current_dir(&self.at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = git.spawn().map_err(|e| failed(e.to_string()))?;
        let stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // One that does not read its input says why by its exit.
                    drop(stdin.write_all(input));
                }
            });
            child.wait_with_output()
        });
        let output = output.map_err(|e| failed(e.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(failed(last_words(&output.stderr)))
    }
}
