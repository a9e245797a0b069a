//! A terminal that a test looks at and types into: a tmux server of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use bottle_tests::host::{Host, Ran, bottle, ran, unique};

/// How long something may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal of 120 columns on which one command of `bottle` runs.
pub struct Terminal {
    server: String,
}

impl Terminal {
    /// Runs `bottle` with these words; its exit code is shown as `ended: N`.
    pub fn run(host: &Host, words: &[&str]) -> Self {
        let terminal = Self { server: unique("bottle-tmux") };
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let line = format!(
            "'{}' {}; echo ended: $?; exec sleep 600",
            bottle().display(),
            quoted.join(" ")
        );
        let of_host = host.command(&[]);
        let mut command = Command::new("tmux");
        command.args(["-L", &terminal.server, "-f", "/dev/null", "new-session", "-d"]);
        command.args(["-x", "120", "-y", "40", &line]).env_clear().env("SHELL", "/bin/sh");
        for (name, value) in of_host.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("LC_ALL", "C.UTF-8");
        ran(command.current_dir(of_host.get_current_dir().expect("a folder")), b"").code(0);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("tmux");
        ran(command.args(["-L", &self.server]).args(words).env("LC_ALL", "C.UTF-8"), b"")
    }

    /// What the terminal shows, and what scrolled away.
    pub fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-200"]).out
    }

    /// Waits until the terminal shows something.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let begun = Instant::now();
        while !self.shown().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in:\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types a line once the terminal shows what was typed.
    #[track_caller]
    pub fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]).code(0);
        self.shows(line);
        self.tmux(&["send-keys", "Enter"]).code(0);
    }

    /// Answers what becomes of work that nobody pulled: it is kept.
    #[track_caller]
    pub fn keeps(&self) {
        self.shows("Pull it, keep the session, or discard it? [p/K/d]");
        self.tmux(&["send-keys", "Enter"]).code(0);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}
