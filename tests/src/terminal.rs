//! `bottle` as a person runs it: on a terminal.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use crate::host::Host;

/// `bottle` on a terminal of its own, which `script` (of util-linux) is.
#[derive(Debug)]
pub struct OnTerminal {
    child: Child,
    typescript: tempfile::NamedTempFile,
}

impl OnTerminal {
    /// Runs `bottle` with these words.
    ///
    /// # Panics
    ///
    /// If `script` cannot be started.
    #[must_use]
    pub fn run(host: &Host, words: &[String]) -> Self {
        let typescript = tempfile::NamedTempFile::new().expect("a file");
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let bottle = crate::host::bottle();
        let line = format!("stty rows 33 cols 99; '{}' {}", bottle.display(), quoted.join(" "));
        // The environment of the host, the program of the terminal.
        let of_host = host.command(&[]);
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command", &line]);
        command.arg(typescript.path()).env_clear().env("SHELL", "/bin/sh");
        for (name, value) in of_host.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.current_dir(of_host.get_current_dir().expect("a folder"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("script is part of every Debian");
        Self { child, typescript }
    }

    /// What was shown so far.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.typescript.path()).expect("readable"))
            .into_owned()
    }

    /// Waits until this is shown.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.shown().contains(text) {
            assert!(begun.elapsed().as_secs() < 30, "no {text:?} in {:?}", self.shown());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Types.
    ///
    /// # Panics
    ///
    /// If the terminal is gone.
    pub fn types(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().expect("open");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("typed");
    }

    /// Its exit code, and all that was shown.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[track_caller]
    #[must_use]
    pub fn ends(mut self) -> (Option<i32>, String) {
        let begun = std::time::Instant::now();
        while self.child.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed().as_secs() < 30, "it does not end: {:?}", self.shown());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let code = self.child.wait().expect("it ends").code();
        (code, self.shown())
    }

    /// The process that the terminal is.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Closes the window: the terminal goes, and whoever was on it is told by SIGHUP.
    ///
    /// # Panics
    ///
    /// If there is nothing to close.
    pub fn closes(mut self) {
        self.child.kill().expect("a process of ours");
        self.child.wait().expect("it ended");
    }
}
