//! What only waits: the agent of a bottle that is there to be looked at, and what holds a place on a
//! session's network for the build of an image.

use crate::pid1::Signals;
use crate::{exit, log};

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn run() -> u8 {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            log::error("signals cannot be received", &[("error", &error)]);
            return exit::UNAVAILABLE;
        }
    };
    while signals.next().await != crate::pid1::Asked::End {}
    0
}

/// Waits for the end of its input, or for SIGTERM. Whoever has a build made holds the other end, so
/// that it ends however they do.
pub(crate) async fn hold() -> u8 {
    let mut input = tokio::io::stdin();
    let mut ignored = tokio::io::sink();
    tokio::select! {
        code = run() => code,
        _ = tokio::io::copy(&mut input, &mut ignored) => 0,
    }
}
