//! A terminal that a test looks at and types into: a tmux server of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::{Host, Ran, bottle, ran, unique};

/// How long something may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal on which one command of `bottle` runs.
#[derive(Debug)]
pub struct Terminal {
    server: String,
}

impl Terminal {
    /// Runs `bottle` with these words on 120 columns by 40 lines; its exit code is shown as
    /// `ended: N`.
    #[must_use]
    pub fn run(host: &Host, words: &[&str]) -> Self {
        Self::sized(host, words, (120, 40))
    }

    /// Runs it on so many columns and lines.
    ///
    /// # Panics
    ///
    /// If tmux does not start.
    #[must_use]
    pub fn sized(host: &Host, words: &[&str], (columns, lines): (u16, u16)) -> Self {
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
        command.args(["-x", &columns.to_string(), "-y", &lines.to_string(), &line]);
        command.env_clear().env("SHELL", "/bin/sh");
        for (name, value) in of_host.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("LC_ALL", "C.UTF-8");
        ran(command.current_dir(of_host.get_current_dir().expect("a folder")), b"").code(0);
        terminal
    }

    /// One command of tmux.
    #[must_use]
    pub fn tmux(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("tmux");
        ran(command.args(["-L", &self.server]).args(words).env("LC_ALL", "C.UTF-8"), b"")
    }

    /// What the terminal shows, and what scrolled away.
    #[must_use]
    pub fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-200"]).out
    }

    /// Keeps what the terminal shows, colours and all, for `scripts/pictures`, where that asks for it.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("BOTTLE_PICTURES") else { return };
        let shown = self.tmux(&["capture-pane", "-e", "-p"]).code(0).out;
        let path = std::path::Path::new(&folder).join(format!("{name}.ansi"));
        std::fs::write(path, shown).expect("a picture");
    }

    /// Waits until the terminal shows something.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let begun = Instant::now();
        while !self.shown().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in:\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses keys, by tmux's names of them.
    #[track_caller]
    pub fn presses(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat()).code(0);
    }

    /// Changes the terminal's size.
    #[track_caller]
    pub fn resize(&self, (columns, lines): (u16, u16)) {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &lines]).code(0);
    }

    /// The settings of the terminal, as `stty -a` has them.
    #[must_use]
    #[track_caller]
    pub fn settings(&self) -> String {
        let device = self.format("#{pane_tty}");
        ran(Command::new("stty").args(["-a", "-F", &device]), b"").code(0).out
    }

    /// What tmux says of the terminal.
    #[must_use]
    #[track_caller]
    pub fn format(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format]).code(0).out.trim().to_owned()
    }

    /// Sends a signal to the `bottle` on it.
    ///
    /// # Panics
    ///
    /// If it does not run.
    #[track_caller]
    pub fn signals(&self, signal: &str) {
        ran(Command::new("kill").args(["-s", signal, &self.process()]), b"").code(0);
    }

    /// The id of the process that runs on it.
    ///
    /// # Panics
    ///
    /// If none does.
    #[must_use]
    pub fn process(&self) -> String {
        let shell = self.format("#{pane_pid}");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        children.expect("the shell runs").trim().to_owned()
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
