//! How an agent ended: what its init wrote down, and what that, the engine's word and a person's
//! `stop` make together.

use alloc::format;
use alloc::string::String;

use serde::{Deserialize, Serialize};

/// The file in the agent's `out` folder that its init writes last. The agent can write there too: it
/// is the container's own word, and nothing is decided by it but what is shown.
pub const ENDED: &str = "ended.json";
/// The exit code the engine gives a container it lost sight of: the host went down, or the engine
/// was killed with it.
const LOST: i64 = 255;
/// The exit code of what was ended by SIGKILL.
const KILLED: i64 = 137;

/// What the init writes down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why it ended.
    pub reason: Reason,
    /// The exit code it passes on.
    pub code: u8,
    /// Why the agent was not run, where it was not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Why an init ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The agent exited by itself.
    Exited,
    /// A signal from inside ended it.
    Signalled,
    /// The init was told to end, and passed that on.
    Told,
    /// It used up its time.
    TimeLimit,
    /// It wrote nothing for too long.
    IdleLimit,
    /// It was never run.
    NotRun,
}

/// What is known of an agent that does not run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Its exit code, by the engine.
    pub code: Option<i64>,
    /// Whether the engine says that memory ran out.
    pub out_of_memory: bool,
    /// Whether `bottle stop` was asked for since it was last started.
    pub stopped: bool,
    /// What its init wrote.
    pub ended: Option<Ended>,
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// By itself, with an exit code.
    Exited,
    /// By a signal from inside its container.
    Signalled,
    /// By `bottle stop`.
    Stopped,
    /// It was told to end from outside: `docker stop`, or the engine's shut-down.
    Told,
    /// Its time was used up.
    TimeLimit,
    /// It wrote nothing for too long.
    IdleLimit,
    /// It used more memory than its limit.
    OutOfMemory,
    /// It was killed from outside: `docker kill`, or the engine's end.
    Killed,
    /// The engine lost sight of it: the host or the engine went down.
    Lost,
    /// It was never run.
    NotRun,
    /// Nobody can tell.
    Unknown,
}

impl How {
    /// Whether somebody or something cut its work short, who set it no limit.
    #[must_use]
    pub fn is_cut_short(self) -> bool {
        matches!(self, Self::Stopped | Self::Told | Self::OutOfMemory | Self::Killed | Self::Lost)
    }

    /// In a few words; `code` is the exit code, where there is one.
    #[must_use]
    pub fn text(self, code: Option<i64>) -> String {
        let word = match self {
            Self::Exited => {
                return code.map_or_else(|| "exited".into(), |code| format!("exit {code}"));
            }
            Self::Signalled => {
                let signal = code.filter(|code| (129..=192).contains(code)).map(|code| code - 128);
                return signal.map_or_else(|| "signal".into(), |signal| format!("signal {signal}"));
            }
            Self::Stopped => "stopped",
            Self::Told => "told to end",
            Self::TimeLimit => "time limit",
            Self::IdleLimit => "idle limit",
            Self::OutOfMemory => "out of memory",
            Self::Killed => "killed",
            Self::Lost => "engine or host went down",
            Self::NotRun => "did not start",
            Self::Unknown => "unknown",
        };
        word.into()
    }
}

/// How an agent ended that does not run.
///
/// What the engine and the person say goes first; what the container says must fit its exit code, or
/// it is of another run.
#[must_use]
pub fn how(known: &Known) -> How {
    let Known { code, out_of_memory, stopped, ended } = known;
    if *stopped {
        return How::Stopped;
    }
    if *out_of_memory && *code == Some(KILLED) {
        return How::OutOfMemory;
    }
    let fits = |ended: &&Ended| code.is_none_or(|code| code == i64::from(ended.code));
    match (ended.as_ref().filter(fits).map(|ended| ended.reason), code) {
        (Some(Reason::Exited), _) => How::Exited,
        (Some(Reason::Signalled), _) => How::Signalled,
        (Some(Reason::Told), _) => How::Told,
        (Some(Reason::TimeLimit), _) => How::TimeLimit,
        (Some(Reason::IdleLimit), _) => How::IdleLimit,
        (Some(Reason::NotRun), _) => How::NotRun,
        (None, Some(LOST)) => How::Lost,
        (None, Some(KILLED)) => How::Killed,
        (None, Some(_)) => How::Exited,
        (None, None) => How::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(code: i64, reason: Option<(Reason, u8)>) -> Known {
        let ended = reason.map(|(reason, code)| Ended { reason, code, message: String::new() });
        Known { code: Some(code), ended, ..Known::default() }
    }

    #[test]
    fn what_each_end_is_called() {
        let cases = [
            (known(0, Some((Reason::Exited, 0))), "exit 0"),
            (known(7, None), "exit 7"),
            (known(124, Some((Reason::Exited, 124))), "exit 124"),
            (known(124, Some((Reason::TimeLimit, 124))), "time limit"),
            (known(124, Some((Reason::IdleLimit, 124))), "idle limit"),
            (known(139, Some((Reason::Signalled, 139))), "signal 11"),
            (known(143, Some((Reason::Told, 143))), "told to end"),
            (known(137, None), "killed"),
            (known(255, None), "engine or host went down"),
            (known(75, Some((Reason::NotRun, 75))), "did not start"),
            // Of a run before, or the agent's own invention.
            (known(137, Some((Reason::Exited, 0))), "killed"),
            (Known { stopped: true, ..known(143, Some((Reason::Told, 143))) }, "stopped"),
            (Known { out_of_memory: true, ..known(137, None) }, "out of memory"),
            // A child of the agent's ran out of memory, and the agent went on.
            (Known { out_of_memory: true, ..known(0, Some((Reason::Exited, 0))) }, "exit 0"),
            (Known::default(), "unknown"),
        ];
        for (known, text) in cases {
            assert_eq!(how(&known).text(known.code), text, "{known:?}");
        }
    }

    #[test]
    fn a_file_of_an_older_or_newer_init_is_read() {
        let read =
            serde_json::from_str::<Ended>(r#"{"reason":"exited","code":3,"more":[1]}"#).unwrap();
        assert_eq!((read.reason, read.code), (Reason::Exited, 3));
        assert!(serde_json::from_str::<Ended>(r#"{"reason":"flew","code":3}"#).is_err());
    }
}
