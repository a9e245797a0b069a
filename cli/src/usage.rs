//! The tokens that a session used, as the provider's own responses say: from the structured output
//! of a headless agent, or from a transcript that was kept.
//!
//! All of it is what an agent wrote, who may write anything: lines are bounded, what is no number is
//! none, and sums do not overflow. A figure from here informs; nothing is billed or decided by it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::decision_log;

/// The most bytes of one line; what a tool printed makes them long.
const LONGEST: usize = 4 << 20;
/// The most bytes of one transcript or log.
pub const MOST: u64 = 64 << 20;
/// The most files of a transcript.
const FILES: usize = 256;
/// The most messages that are told apart.
const MESSAGES: usize = 100_000;

/// Tokens that went in and came out. What a cache held counts as in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// Read by the model.
    pub input: u64,
    /// Written by it.
    pub output: u64,
}

impl Tokens {
    fn add(&mut self, more: Self) {
        self.input = self.input.saturating_add(more.input);
        self.output = self.output.saturating_add(more.output);
    }
}

/// What was seen of one log or transcript.
#[derive(Debug, Default)]
pub struct Seen {
    /// By message: a message of several parts is told once a part.
    messages: BTreeMap<String, Tokens>,
    /// What was told of whole runs or turns.
    runs: Option<Tokens>,
    /// The last count so far, of a provider that counts on.
    total: Option<Tokens>,
}

impl Seen {
    /// Takes a line; what is no JSON, or says nothing of tokens, is passed over.
    pub fn line(&mut self, line: &[u8]) {
        // Cheap, before anything is parsed.
        if !line.windows(5).any(|part| part == b"usage" || part == b"token") {
            return;
        }
        let Ok(value) = serde_json::from_slice::<Value>(line) else { return };
        match value["type"].as_str() {
            // Claude Code's last line of a run, Codex's of a turn.
            Some("result" | "turn.completed") => {
                if let Some(found) = tokens(&value["usage"]) {
                    self.runs.get_or_insert_default().add(found);
                }
            }
            // Claude Code's stream and its transcript.
            Some("assistant") => {
                let message = &value["message"];
                if let (Some(id), Some(found)) = (message["id"].as_str(), tokens(&message["usage"]))
                    && (self.messages.len() < MESSAGES || self.messages.contains_key(id))
                {
                    self.messages.insert(id.to_owned(), found);
                }
            }
            // Codex's transcript, and what it printed before `turn.completed`.
            _ => {
                for event in [&value["payload"], &value["msg"]] {
                    let total = &event["info"]["total_token_usage"];
                    if event["type"] == "token_count"
                        && let Some(found) = tokens(total)
                    {
                        self.total = Some(found);
                    }
                }
            }
        }
    }

    /// Takes everything of a reader, a line after the other.
    pub fn lines(&mut self, from: impl std::io::Read) {
        let mut from = BufReader::new(from.take(MOST));
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = (&mut from).take(LONGEST as u64);
            match bounded.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => self.line(&line),
            }
        }
    }

    /// What it comes to; `None` where nothing said so.
    #[must_use]
    pub fn sum(&self) -> Option<Tokens> {
        if self.total.is_some() || self.runs.is_some() {
            return self.total.or(self.runs);
        }
        let mut all = Tokens::default();
        self.messages.values().for_each(|one| all.add(*one));
        (!self.messages.is_empty()).then_some(all)
    }
}

/// The counts of one `usage`. Claude tells what a cache held apart; Codex counts it in.
fn tokens(usage: &Value) -> Option<Tokens> {
    let count = |name: &str| usage[name].as_u64();
    let input = count("input_tokens")?;
    let cached = ["cache_creation_input_tokens", "cache_read_input_tokens"];
    let input = cached.iter().filter_map(|name| count(name)).fold(input, u64::saturating_add);
    Some(Tokens { input, output: count("output_tokens")? })
}

/// The tokens of the transcript that was kept in a record.
#[must_use]
pub fn of_transcript(record: &Path) -> Option<Tokens> {
    let mut sum: Option<Tokens> = None;
    let mut folders = vec![record.join("saved/transcript")];
    let mut left = FILES;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).ok().into_iter().flatten().flatten() {
            left = left.checked_sub(1)?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let mut seen = Seen::default();
                    if let Ok(file) = decision_log::open(&entry.path()) {
                        seen.lines(file);
                    }
                    if let Some(found) = seen.sum() {
                        sum.get_or_insert_default().add(found);
                    }
                }
                _ => {}
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(text: &str) -> Option<(u64, u64)> {
        let mut seen = Seen::default();
        seen.lines(text.as_bytes());
        seen.sum().map(|found| (found.input, found.output))
    }

    #[test]
    fn claude_by_message_and_by_run() {
        let one = r#"{"type":"assistant","message":{"id":"a","usage":{"input_tokens":10,
            "cache_read_input_tokens":5,"cache_creation_input_tokens":1,"output_tokens":2}}}"#
            .replace('\n', "");
        let two = r#"{"type":"assistant","message":{"id":"b","usage":{"input_tokens":1,"output_tokens":1}}}"#;
        assert_eq!(sum(&format!("noise usage\n{one}\n{one}\n{two}\n")), Some((17, 3)));
        let end = r#"{"type":"result","usage":{"input_tokens":20,"output_tokens":4}}"#;
        assert_eq!(sum(&format!("{one}\n{two}\n{end}\n")), Some((20, 4)));
    }

    #[test]
    fn codex_by_turn_and_by_count() {
        let turn = r#"{"type":"turn.completed","usage":{"input_tokens":7,"cached_input_tokens":3,"output_tokens":2}}"#;
        assert_eq!(sum(&format!("{turn}\n{turn}\n")), Some((14, 4)));
        let count = |n: u64| {
            let total =
                format!(r#"{{"total_token_usage":{{"input_tokens":{n},"output_tokens":1}}}}"#);
            format!(r#"{{"type":"event_msg","payload":{{"type":"token_count","info":{total}}}}}"#)
        };
        assert_eq!(sum(&format!("{}\n{}\n", count(5), count(9))), Some((9, 1)));
    }

    #[test]
    fn what_an_agent_makes_of_it() {
        for text in [
            "",
            "usage",
            r#"{"type":"result","usage":{"input_tokens":-1,"output_tokens":1}}"#,
            r#"{"type":"result","usage":"token"}"#,
            r#"{"type":"result","usage":{"input_tokens":1e400,"output_tokens":1}}"#,
            r#"["usage"]"#,
        ] {
            assert_eq!(sum(text), None, "{text}");
        }
        let huge =
            r#"{"type":"result","usage":{"input_tokens":18446744073709551615,"output_tokens":1}}"#;
        assert_eq!(sum(&format!("{huge}\n{huge}\n")), Some((u64::MAX, 2)));
        let long = format!(
            "{{\"usage\": \"{}\"}}\n{}\n",
            "x".repeat(LONGEST),
            r#"{"type":"result","usage":{"input_tokens":1,"output_tokens":1}}"#
        );
        assert_eq!(sum(&long), Some((1, 1)), "a line that is too long hides none");
    }

    #[test]
    fn a_kept_transcript_and_no_link() {
        let record = tempfile::tempdir().unwrap();
        assert_eq!(of_transcript(record.path()), None);
        let folder = record.path().join("saved/transcript/projects");
        fs::create_dir_all(&folder).unwrap();
        let line = r#"{"type":"assistant","message":{"id":"a","usage":{"input_tokens":1,"output_tokens":2}}}"#;
        fs::write(folder.join("one.jsonl"), line).unwrap();
        fs::write(folder.join("two.jsonl"), line).unwrap();
        std::os::unix::fs::symlink(folder.join("one.jsonl"), folder.join("three.jsonl")).unwrap();
        assert_eq!(of_transcript(record.path()), Some(Tokens { input: 2, output: 4 }));
    }
}
