//! Being with a program in a container: what is typed goes there, what it prints comes here.

use std::time::Duration;

use anstream::adapter::StripBytes;
use bottle_executor::engine::EngineError;
use bottle_executor::engine::console::{Pieces, Size, Streams};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::output::Printer;
use crate::terminal::{self, DetachKeys, Raw};
use crate::typed::Typed;
use crate::world;

/// How long the last words of a program that has ended are waited for, in all.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The most that was typed and the program has not read yet, in bytes.
const UNREAD: usize = 64 << 10;

/// How being with a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Its streams ended: it has ended, or the engine has.
    Ended,
    /// The person left with the detach keys; it goes on.
    Detached,
    /// This process was asked to end; it goes on.
    Asked(u8),
}

/// Stays with a program until it ends or the person leaves. `resize` tells its terminal the size.
///
/// `ended` is another sign of its end beside that of its streams, which the engine keeps open as
/// long as ours is open where nobody else would close it.
pub async fn join(
    printer: &mut Printer,
    streams: Streams,
    terminal: bool,
    mut keys: DetachKeys,
    resize: impl AsyncFn(Size) -> Result<(), EngineError>,
    ended: impl Future<Output = ()>,
) -> Result<Left, Failure> {
    let Streams { mut output, mut input } = streams;
    let handler = |kind| signal(kind).map_err(|e| Failure::error("no signal handler").because(&e));
    let mut resized = handler(SignalKind::window_change())?;
    let mut hung_up = handler(SignalKind::hangup())?;
    let mut terminated = handler(SignalKind::terminate())?;
    let raw = if terminal { Raw::enter().map_err(not_raw)? } else { None };
    let mut stdin =
        Typed::begin().map_err(|e| Failure::error("standard input cannot be read").because(&e))?;
    let (mut reading, mut open) = (true, true);
    let mut unread = Vec::new();
    if let (true, Some(size)) = (terminal, terminal::size()) {
        // A program that is gone by now has no terminal; what it said comes all the same.
        let _ = resize(size).await;
    }
    tokio::pin!(ended);
    let mut last_words = None;
    let left = loop {
        // Programs that read to the end of their input are told that this is it; a terminal has no
        // such end.
        if !reading && open && unread.is_empty() && !terminal {
            open = false;
            let _ = input.shutdown().await;
        }
        tokio::select! {
            // The person comes first: a program that prints without end must not keep anybody from
            // leaving, nor one that does not read. What it printed comes before that it ended.
            biased;
            _ = hung_up.recv() => break Left::Asked(129),
            _ = terminated.recv() => break Left::Asked(143),
            read = stdin.next(), if reading && unread.len() < UNREAD => match read {
                None => reading = false,
                Some(typed) if raw.is_none() => unread.extend(typed),
                Some(typed) => {
                    let (on, leave) = keys.filter(&typed);
                    if leave {
                        break Left::Detached;
                    }
                    unread.extend(on);
                }
            },
            _ = resized.recv(), if terminal => if let Some(size) = terminal::size() {
                let _ = resize(size).await;
            },
            written = input.write(&unread), if open && !unread.is_empty() => match written {
                Ok(length) if length > 0 => drop(unread.drain(..length)),
                // A program that ended does not read any more; its last words still come.
                Ok(_) | Err(_) => {
                    (reading, open) = (false, false);
                    unread.clear();
                }
            },
            piece = output.next() => match piece {
                Some(Ok(piece)) => printer.pass(&piece.bytes, piece.is_error)?,
                // An engine that goes away ends its streams either way.
                Some(Err(_)) | None => break Left::Ended,
            },
            () = &mut ended, if last_words.is_none() => {
                last_words = Some(Instant::now() + LAST_WORDS);
            }
            () = until(last_words), if last_words.is_some() => break Left::Ended,
        }
    };
    drop(raw);
    Ok(left)
}

async fn until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant).await;
    }
}

/// Prints a log to its end; on a terminal without what would control it, unless that is wanted.
pub async fn print(printer: &mut Printer, mut pieces: Pieces, raw: bool) -> Result<(), Failure> {
    let mut strip = [StripBytes::new(), StripBytes::new()];
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| world::engine_failure(&error))?;
        if raw {
            printer.pass(&piece.bytes, piece.is_error)?;
            continue;
        }
        for harmless in strip[usize::from(piece.is_error)].strip_next(&piece.bytes) {
            printer.pass(harmless, piece.is_error)?;
        }
    }
    Ok(())
}

fn not_raw(error: std::io::Error) -> Failure {
    Failure::error("the terminal cannot be made raw").because(&error)
}
