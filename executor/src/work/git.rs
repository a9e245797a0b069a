//! git, run on this host so that nothing but git itself runs: no hook, no file-system monitor, no
//! configuration of the user's, and of an agent's least of all.
//!
//! What it looks at an agent made, and a few bytes can stand for any number of names or contents: so
//! its output, its memory and its time have bounds.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

/// As much of what git says is kept, in bytes: the end of it.
const LONGEST_WORDS: usize = 64 << 10;

/// What one run of git may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of its output.
    pub(crate) output: u64,
    /// Bytes of memory that it asks for at once.
    pub(crate) piece: u64,
    /// Bytes of memory of each of its processes, without files that are mapped to be read.
    pub(crate) memory: u64,
    /// Seconds of a processor for each of its processes.
    pub(crate) seconds: u64,
}

/// What git keeps to. Whatever needs more cannot be looked at, and stays where it is.
pub(crate) const BOUNDS: Bounds =
    Bounds { output: 256 << 20, piece: 512 << 20, memory: 2 << 30, seconds: 1800 };

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
    bounds: Bounds,
}

impl Git {
    /// git in the repository of this folder; `path` is where programs are looked for.
    pub(crate) fn new(at: &Path, path: Option<&OsString>) -> Self {
        Self { at: at.to_owned(), path: path.cloned(), bounds: BOUNDS }
    }

    /// The same with other bounds.
    #[cfg(test)]
    pub(crate) fn within(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
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

    /// The same, given this input.
    pub(crate) fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: &[u8],
    ) -> Result<Vec<u8>, GitError> {
        let name = arguments.first().map(|a| a.as_ref().to_string_lossy().into_owned());
        let command = name.unwrap_or_default();
        let failed = |why: String| GitError { command: command.clone(), why };
        let too_much = |limit: u64, of: &str| {
            failed(format!("expected at most {limit} {of}, found more than is looked at"))
        };
        let Bounds { output, piece, memory, seconds } = self.bounds;
        let mut git = alone(self.path());
        git.env("GIT_ALLOC_LIMIT", piece.to_string())
            .args(["-c", "safe.directory=*"])
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
            // Each thread has memory of its own.
            .args(["-c", "pack.threads=4"])
            .args(arguments)
            .current_dir(&self.at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = git.spawn().map_err(|e| failed(e.to_string()))?;
        let bounded = bound(&child, Resource::Data, memory)
            .and_then(|()| bound(&child, Resource::Cpu, seconds));
        if let Err(error) = bounded {
            drop(child.kill());
            drop(child.wait());
            return Err(failed(format!("its memory and time could not be bounded: {error}")));
        }
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut out = Vec::new();
        let (read, words) = std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // One that does not read its input says why by its exit.
                    drop(stdin.write_all(input));
                }
            });
            let words = scope.spawn(move || stderr.map(end_of).unwrap_or_default());
            let read = stdout.map_or(Ok(0), |from| from.take(output + 1).read_to_end(&mut out));
            if read.is_err() || out.len() as u64 > output {
                drop(child.kill());
            }
            (read, words.join().unwrap_or_default())
        });
        let status = child.wait().map_err(|e| failed(e.to_string()))?;
        read.map_err(|e| failed(e.to_string()))?;
        if out.len() as u64 > output {
            return Err(too_much(output, "bytes"));
        }
        if status.success() {
            return Ok(out);
        }
        if status.signal() == Some(Signal::XCPU.as_raw()) {
            return Err(too_much(seconds, "seconds of work"));
        }
        Err(failed(last_words(&words)))
    }
}

/// Bounds what a child may use from now on; what starts in it later inherits that.
fn bound(child: &Child, resource: Resource, most: u64) -> io::Result<()> {
    let has = getrlimit(resource);
    // Whoever bounded us more closely bounds it, too.
    let least = [Some(most), has.current, has.maximum].into_iter().flatten().min();
    let bounds = Rlimit { current: least, maximum: has.maximum };
    match prlimit(Some(Pid::from_child(child)), resource, bounds) {
        // It has ended already.
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The end of what somebody says, however much that is.
fn end_of(mut from: impl Read) -> Vec<u8> {
    let mut words = Vec::new();
    let mut buffer = [0; 8 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        words.extend_from_slice(&buffer[..n]);
        if words.len() > 2 * LONGEST_WORDS {
            words.drain(..words.len() - LONGEST_WORDS);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with one content, and trees of ten entries each, one in the other: what the last
    /// one names are 10^`deep` files.
    fn bomb(deep: u32) -> (tempfile::TempDir, Git, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let git = Git::new(folder.path(), std::env::var_os("PATH").as_ref());
        git.run(&["init", "--quiet", "--bare", "--template=", "."]).expect("made");
        let write = |words: &[&str], input: &[u8]| {
            let out = git.run_with(words, input).expect("written");
            String::from_utf8(out).expect("a name").trim().to_owned()
        };
        let mut inner = write(&["hash-object", "-w", "--stdin"], b"x");
        let mut kind = "100644 blob";
        for _ in 0..deep {
            let lines: String = (0..10).map(|n| format!("{kind} {inner}\t{n}\n")).collect();
            (inner, kind) = (write(&["mktree"], lines.as_bytes()), "40000 tree");
        }
        (folder, git, inner)
    }

    #[test]
    fn what_it_prints_has_a_bound() {
        let (_folder, git, tree) = bomb(5);
        let list = ["ls-tree", "-r", "-z", &tree];
        assert!(git.run(&list).expect("listed").len() > 1 << 20);
        let git = git.within(Bounds { output: 1 << 20, ..BOUNDS });
        let refused = git.run(&list).map(|out| out.len()).expect_err("too much").to_string();
        let expected = "git ls-tree failed: expected at most 1048576 bytes, \
            found more than is looked at";
        assert_eq!(refused, expected);
    }

    #[test]
    fn what_it_holds_has_a_bound() {
        let (_folder, git, tree) = bomb(6);
        let who = "n <e@example.com> 1 +0000";
        let words = "x".repeat(2 << 20);
        let commit = format!("tree {tree}\nauthor {who}\ncommitter {who}\n\n{words}\n");
        let write = ["hash-object", "-t", "commit", "-w", "--stdin"];
        let commit = git.run_with(&write, commit.as_bytes()).expect("written");
        let commit = String::from_utf8(commit).expect("a name");
        let show = ["log", "--format=%s", commit.trim()];
        assert!(git.run(&show).expect("shown").len() > 2 << 20);
        let small = git.clone().within(Bounds { piece: 1 << 20, ..BOUNDS });
        let refused = small.run(&show).map(|out| out.len()).expect_err("too large").to_string();
        assert!(refused.contains("git log failed"), "{refused}");
        // git keeps all that differs before it says whether anything does.
        let empty = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let differ = ["diff-tree", "-r", "--shortstat", "--no-renames", empty, &tree];
        git.run_with(&["mktree"], b"").expect("written");
        let small = git.within(Bounds { memory: 64 << 20, ..BOUNDS });
        let refused = small.run(&differ).map(|out| out.len()).expect_err("too much").to_string();
        assert!(refused.to_lowercase().contains("out of memory"), "{refused}");
    }

    #[test]
    fn its_time_has_a_bound() {
        let (_folder, git, tree) = bomb(10);
        let git = git.within(Bounds { seconds: 1, output: 512 << 20, ..BOUNDS });
        let list = ["ls-tree", "-r", "--name-only", &tree];
        let refused = git.run(&list).map(|out| out.len()).expect_err("too long");
        assert!(refused.why.starts_with("expected at most 1 seconds of work"), "{refused}");
    }

    #[test]
    fn the_end_of_its_words_is_kept() {
        let much = "word\n".repeat(1 << 20) + "the last";
        let kept = end_of(much.as_bytes());
        assert!(kept.len() <= 2 * LONGEST_WORDS, "{}", kept.len());
        assert_eq!(last_words(&kept), "the last");
    }
}
