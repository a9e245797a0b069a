//! Running git: with an environment of the gate's own, its output bounded.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::layout::Layout;

/// As much of what git says is kept.
const LONGEST_WORDS: u64 = 64 << 10;

/// How git is run.
#[derive(Debug, Clone)]
pub(super) struct Git {
    config: PathBuf,
    home: PathBuf,
}

/// What a run left.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) ok: bool,
    pub(super) out: Vec<u8>,
    /// What it said.
    pub(super) words: String,
}

impl Git {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { config: layout.git_config(), home: layout.run.clone() }
    }

    /// A program with git's environment and nothing of anybody else's.
    pub(super) fn environment(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", &self.config)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS_REQUIRE", "never")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// git in a mirror; `quarantine` is where the objects of a push lie that is not accepted yet.
    pub(super) fn at(&self, mirror: &Path, quarantine: Option<&Path>) -> Command {
        let mut command = self.environment("git");
        command.arg("--git-dir").arg(mirror).current_dir(mirror);
        if let Some(quarantine) = quarantine {
            command
                .env("GIT_OBJECT_DIRECTORY", quarantine)
                .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", mirror.join("objects"));
        }
        command
    }
}

/// Runs a command to its end and gives it this input.
pub(super) fn run(command: &mut Command, input: Vec<u8>, longest: u64) -> io::Result<Done> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (writer, reader) = (feed(&mut child, input), words_of(&mut child));
    let mut out = Vec::new();
    let mut whole = Ok(());
    if let Some(stdout) = child.stdout.take() {
        stdout.take(longest + 1).read_to_end(&mut out)?;
        if out.len() as u64 > longest {
            whole = Err(io::Error::other("more than the git gate looks at"));
            child.kill()?;
        }
    }
    let status = child.wait()?;
    join(writer);
    let words = join(reader).unwrap_or_default();
    whole?;
    Ok(Done { ok: status.success(), out, words })
}

/// Writes a child's input beside its output: both pipes are short.
pub(super) fn feed(child: &mut Child, input: Vec<u8>) -> Option<thread::JoinHandle<()>> {
    let mut stdin = child.stdin.take()?;
    Some(thread::spawn(move || {
        // A child that wants no more of it says so by itself.
        let _ = stdin.write_all(&input);
    }))
}

/// Gathers what a child says, the end of it left out where that is much.
pub(super) fn words_of(child: &mut Child) -> Option<thread::JoinHandle<String>> {
    let mut stderr = child.stderr.take()?;
    Some(thread::spawn(move || {
        let mut words = Vec::new();
        let _ = stderr.by_ref().take(LONGEST_WORDS).read_to_end(&mut words);
        let _ = io::copy(&mut stderr, &mut io::sink());
        String::from_utf8_lossy(&words).into_owned()
    }))
}

fn join<T>(thread: Option<thread::JoinHandle<T>>) -> Option<T> {
    thread.and_then(|thread| thread.join().ok())
}
