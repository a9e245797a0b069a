//! The decision log: what was let through and what was not, one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::log;

/// A file grows to this size and then becomes `decisions.1.jsonl`.
const LARGEST: u64 = 8 << 20;
/// Hosts and paths are cut to this many characters.
const LONGEST: usize = 2048;

/// Whether something was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Decision {
    Allow,
    Refuse,
}

/// One line of the log, but for the time.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Entry<'a> {
    /// `agent`, `gate`, or the address of a stranger.
    pub(super) client: &'a str,
    /// The method, or `DNS`.
    pub(super) method: &'a str,
    /// The host asked for, as it was spelled.
    pub(super) host: &'a str,
    pub(super) port: Option<u16>,
    /// The path without its query; `None` where there is none.
    pub(super) path: Option<&'a str>,
    pub(super) decision: Decision,
    /// Which rule decided.
    pub(super) rule: &'a str,
    pub(super) reason: &'a str,
}

/// The log file.
#[derive(Debug)]
pub(super) struct DecisionLog {
    current: PathBuf,
    previous: PathBuf,
    file: Mutex<(File, u64)>,
}

impl DecisionLog {
    /// Opens `decisions.jsonl` in the output folder and appends to it.
    pub(super) fn open(output: &Path) -> io::Result<Self> {
        let current = output.join("decisions.jsonl");
        let file = append_to(&current)?;
        Ok(Self { previous: output.join("decisions.1.jsonl"), current, file: Mutex::new(file) })
    }

    /// Writes one line. A log that cannot be written does not stop the proxy; it says so.
    pub(super) fn record(&self, entry: &Entry<'_>) {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            entry: Entry<'a>,
        }
        let mut entry = entry.clone();
        entry.host = cut(entry.host);
        entry.path = entry.path.map(cut);
        let line = serde_json::to_vec(&Line { time: log::now(), entry });
        let written = line.map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            self.append(&line, LARGEST)
        });
        if let Err(error) = written {
            log::error("a decision was not recorded", &[("error", &error)]);
        }
    }

    fn append(&self, line: &[u8], largest: u64) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let length = line.len() as u64;
        if file.1 > 0 && file.1 + length > largest {
            std::fs::rename(&self.current, &self.previous)?;
            *file = append_to(&self.current)?;
        }
        file.0.write_all(line)?;
        file.1 += length;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(LONGEST).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_makes_room_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(folder.path()).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            log.append(line.as_bytes(), 8).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("decisions.1.jsonl"), "one\ntwo\n");
        assert_eq!(read("decisions.jsonl"), "three\n");
    }

    #[test]
    fn a_line_stays_one_line_and_has_a_bounded_length() {
        let folder = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(folder.path()).unwrap();
        log.record(&Entry {
            client: "agent",
            method: "GET",
            host: "a\nb",
            port: Some(80),
            path: Some(&"é".repeat(100_000)),
            decision: Decision::Refuse,
            rule: "default",
            reason: "no route",
        });
        let text = std::fs::read_to_string(folder.path().join("decisions.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["decision"], "refuse");
        assert_eq!(line["path"].as_str().unwrap().chars().count(), LONGEST);
    }
}
