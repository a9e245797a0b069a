//! What the tools ask of the gate, and what it answers: one JSON object on a socket that only the
//! gate's user can open, then lines back.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Ask {
    /// May this mirror be read or written now? It is refreshed first.
    Serve {
        /// `upload-pack` or `receive-pack`, as git daemon names them.
        service: String,
        mirror: PathBuf,
    },
    /// May these refs be changed? Where they may, upstream has them once this is answered.
    Push {
        mirror: PathBuf,
        /// Where git keeps the objects until it is answered; none where there are none.
        quarantine: Option<PathBuf>,
        /// The process that changes the mirror's refs after the answer.
        receive_pack: i32,
        updates: Vec<Update>,
    },
    /// A remote's credential for https. Answered as git's credential helpers answer.
    Credential { remote: String },
}

/// A ref's change, as `receive-pack` tells its hooks (githooks(5), "pre-receive").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Update {
    pub(super) old: String,
    pub(super) new: String,
    pub(super) name: String,
}

/// A line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    /// For the agent to read; more follows.
    Say {
        line: String,
    },
    Allow,
    Refuse {
        reason: String,
    },
}

/// Asks, hands on what is said, and answers whether it is allowed, or why not.
pub(super) fn ask(
    socket: &Path,
    ask: &Ask,
    mut say: impl FnMut(&str),
) -> io::Result<Result<(), String>> {
    let stream = put(socket, ask)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Answer::Say { line } => say(&line),
            Answer::Allow => return Ok(Ok(())),
            Answer::Refuse { reason } => return Ok(Err(reason)),
        }
    }
    Err(io::Error::other("the git gate ended before it answered"))
}

/// Asks and copies the answer as it is.
pub(super) fn ask_raw(socket: &Path, ask: &Ask, mut to: impl io::Write) -> io::Result<()> {
    io::copy(&mut put(socket, ask)?, &mut to)?;
    Ok(())
}

fn put(socket: &Path, ask: &Ask) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}

/// The gate's end: sends one line of an answer.
pub(super) async fn send(stream: &mut tokio::net::UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
