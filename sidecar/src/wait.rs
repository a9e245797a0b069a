//! The agent of a bottle that is only there to be looked at: it waits until it is asked to end.

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
