//! What the first process of a container owes: ending when asked, and reaping what is orphaned to
//! it (programs started with exec leave orphans, too).

use std::io;

use rustix::process::{DumpableBehavior, WaitOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::log;

/// The signals a server role listens to.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
    hangup: Signal,
}

/// What a server role is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// SIGTERM or SIGINT: end now.
    End,
    /// SIGHUP: read the settings again.
    Reload,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next request, reaping meanwhile.
    pub(crate) async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::End,
                _ = self.interrupt.recv() => return Asked::End,
                _ = self.hangup.recv() => return Asked::Reload,
                _ = self.child.recv() => reap_orphans(),
            }
        }
    }
}

fn reap_orphans() {
    // Elsewhere than in a container, children belong to whoever started this process's code.
    if !rustix::process::getpid().is_init() {
        return;
    }
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// Keeps other processes of the same user from reading this one's memory, and core files from
/// being written: secrets are delivered into it.
pub(crate) fn hide_memory() {
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::warn(
            "the memory of this process stays readable to its own user",
            &[("error", &error)],
        );
    }
}
