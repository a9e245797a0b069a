//! What people do with a session that runs: watch it, join it, run something beside it.
//!
//! Apart from [`Engine`](super::Engine), which is what plans need: none of this changes what exists,
//! and an engine in memory has no terminal to join.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncWrite;

use super::EngineError;

/// What a program prints, as it comes.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, EngineError>> + Send>>;

/// A piece of what a program prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whether it was printed to standard error. A terminal has but one stream.
    pub is_error: bool,
    /// The bytes.
    pub bytes: Bytes,
}

/// The streams of a program.
pub struct Streams {
    /// What it prints; ends when it ends.
    pub output: Pieces,
    /// What it reads.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters in a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// How the engine saw a container end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// Its exit code.
    pub code: i64,
    /// Whether memory ran out in it.
    pub out_of_memory: bool,
    /// When it was last started, as the engine writes it.
    pub started_at: String,
    /// When it ended, as the engine writes it.
    pub finished_at: String,
}

/// What to run inside a container beside its own program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// The folder to begin in; the container's own unless given.
    pub workdir: Option<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
}

/// An engine whose containers people can join.
#[expect(async_fn_in_trait, reason = "used through generics, on one thread; no `Send` needed")]
pub trait Console {
    /// Joins the streams of a running container's own program: from now on, or with what it printed
    /// before.
    async fn attach(&self, container: &str, replay: bool) -> Result<Streams, EngineError>;
    /// Tells a container's terminal its size.
    async fn resize(&self, container: &str, size: Size) -> Result<(), EngineError>;
    /// Runs a program in a running container; answers the engine's id for it, and its streams.
    async fn run(
        &self,
        container: &str,
        program: &Program,
    ) -> Result<(String, Streams), EngineError>;
    /// Tells the terminal of a program that was run its size.
    async fn resize_run(&self, id: &str, size: Size) -> Result<(), EngineError>;
    /// The exit code of a program that was run and has ended.
    async fn run_code(&self, id: &str) -> Result<i64, EngineError>;
    /// What a container printed, the last lines of it, and what it prints from now on if that is
    /// to be followed until it ends.
    fn log(&self, container: &str, lines: Option<u32>, follow: bool) -> Pieces;
    /// How a container ended; `None` where it is not there, runs, or was never started.
    async fn ending(&self, container: &str) -> Result<Option<Ending>, EngineError>;
    /// Waits until a container does not run, and answers its exit code.
    async fn wait(&self, container: &str) -> Result<i64, EngineError>;
}
