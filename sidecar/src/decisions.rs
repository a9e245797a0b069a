//! The decision log: what was let through and what was not, one JSON object a line.
//!
//! Lines are gathered for a moment and written together; a refusal, and what was gathered before
//! it, is written before the client is told.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_planner::decision::{Code, Outcome, Push, Via};
use bottle_planner::words::Digest;
use serde::Serialize;
use tokio::sync::Notify;

use crate::log;

/// A file grows to this size and then becomes `decisions.1.jsonl`.
const LARGEST: u64 = 8 << 20;
/// Hosts and paths are cut to this many characters.
const LONGEST: usize = 2048;
/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(20);
/// What is gathered at most.
const GATHERED: usize = 256 << 10;

/// One line of the log, but for the time: [`bottle_planner::decision::Decision`], borrowed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry<'a> {
    pub(crate) plan: Option<&'a Digest>,
    pub(crate) client: &'a str,
    pub(crate) via: Via,
    pub(crate) scheme: &'a str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<&'a str>,
    pub(crate) outcome: Outcome,
    pub(crate) code: Code,
    pub(crate) rule: &'a str,
    pub(crate) reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) push: Option<&'a Push>,
}

/// The log file.
#[derive(Debug)]
pub(crate) struct DecisionLog {
    gathered: Mutex<Vec<u8>>,
    wake: Notify,
    file: Mutex<LogFile>,
}

#[derive(Debug)]
struct LogFile {
    current: PathBuf,
    previous: PathBuf,
    file: File,
    length: u64,
}

impl DecisionLog {
    /// Opens `decisions.jsonl` in the output folder and appends to it.
    pub(crate) fn open(output: &Path) -> io::Result<Self> {
        let current = output.join("decisions.jsonl");
        let (file, length) = append_to(&current)?;
        let previous = output.join("decisions.1.jsonl");
        Ok(Self {
            gathered: Mutex::default(),
            wake: Notify::new(),
            file: Mutex::new(LogFile { current, previous, file, length }),
        })
    }

    /// Adds one line.
    pub(crate) fn record(&self, entry: &Entry<'_>) {
        #[derive(Serialize)]
        struct Line<'a> {
            time: &'a str,
            #[serde(flatten)]
            entry: Entry<'a>,
        }
        let mut entry = entry.clone();
        entry.host = cut(entry.host);
        entry.path = entry.path.map(cut);
        let full = {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            let before = gathered.len();
            let line = Line { time: &log::now(), entry: entry.clone() };
            if serde_json::to_writer(&mut *gathered, &line).is_err() {
                gathered.truncate(before);
            } else {
                gathered.push(b'\n');
            }
            if before == 0 {
                self.wake.notify_one();
            }
            gathered.len() > GATHERED
        };
        if full || !matches!(entry.outcome, Outcome::Allow) {
            self.flush();
        }
    }

    /// Writes what was gathered. A log that cannot be written stops nobody; it says so.
    pub(crate) fn flush(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *gathered)
        };
        if let Err(error) = file.append(&lines, LARGEST) {
            log::error("decisions were not recorded", &[("error", &error)]);
        }
    }

    /// Writes what is gathered every now and then, for as long as it is polled.
    pub(crate) async fn keep_written(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(GATHER).await;
            self.flush();
        }
    }
}

impl LogFile {
    fn append(&mut self, lines: &[u8], largest: u64) -> io::Result<()> {
        let length = lines.len() as u64;
        if length == 0 {
            return Ok(());
        }
        if self.length > 0 && self.length + length > largest {
            std::fs::rename(&self.current, &self.previous)?;
            (self.file, self.length) = append_to(&self.current)?;
        }
        self.file.write_all(lines)?;
        self.length += length;
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
            log.file.lock().unwrap().append(line.as_bytes(), 8).unwrap();
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
            plan: None,
            client: "agent",
            via: Via::Proxy,
            scheme: "http",
            method: "GET",
            host: "a\nb",
            port: Some(80),
            path: Some(&"é".repeat(100_000)),
            outcome: Outcome::Refuse,
            code: Code::NoRoute,
            rule: "default",
            reason: "no route",
            push: None,
        });
        let text = std::fs::read_to_string(folder.path().join("decisions.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: bottle_planner::decision::Decision = serde_json::from_str(&text).unwrap();
        assert_eq!(line.outcome, Outcome::Refuse);
        assert_eq!(line.path.unwrap().chars().count(), LONGEST);
    }
}
