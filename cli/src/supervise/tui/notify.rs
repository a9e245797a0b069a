//! Calling somebody who does not look: the desktop's own notification, where it has one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::spawn;

use bottle_planner::words::Identity;

use super::text;
use crate::env::Env;

/// The most characters of what is asked that a notification has.
const MOST: usize = 160;

/// The program that shows notifications, if there is one.
pub fn program(env: Env) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    env.path().into_iter().map(|folder| folder.join("notify-send")).find(is_program)
}

/// Shows one notification. Where that fails there is still the bell, and the screen.
pub fn show(program: PathBuf, session: &Identity, words: &str) {
    let mut command = Command::new(program);
    command.args(arguments(session, words));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Somebody has to wait for it, or a dead process stays.
    spawn(move || drop(command.status()));
}

/// `--` first: nothing of an agent's is ever an option. The body may be read as markup.
fn arguments(session: &Identity, words: &str) -> [String; 4] {
    let cut: String = text::line(words).chars().take(MOST).collect();
    let body = cut.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    ["--app-name=bottle".to_owned(), "--".to_owned(), format!("{session} asks"), body]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_is_neither_option_nor_markup() {
        let session = Identity::new("dev-ab12c").unwrap();
        let found = arguments(&session, "--icon=/x <a href='x'>&\u{1b}[2J");
        assert_eq!(found[..2], ["--app-name=bottle", "--"]);
        assert_eq!(found[2], "dev-ab12c asks");
        assert_eq!(found[3], "--icon=/x &lt;a href='x'&gt;&amp;\\u{1b}[2J");
        assert!(arguments(&session, &"x".repeat(1 << 20))[3].len() <= MOST);
    }
}
