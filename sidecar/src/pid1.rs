//! What the first process of a container owes: ending when asked, and reaping what is orphaned to
//! it (programs started with exec leave orphans, too).

use std::io;

use rustix::process::{DumpableBehavior, Pid, Signal as Number, WaitOptions, kill_process};
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

/// Stands in for a role as the first process: runs it once more as its child, passes on what it is
/// asked, and reaps every orphan. The role can then wait for processes of its own, which nobody
/// else takes from it; the answer is the role's exit code.
pub(crate) async fn stand_in() -> io::Result<u8> {
    let mut signals = Signals::new()?;
    let words = std::env::args_os().skip(1);
    let child = std::process::Command::new("/proc/self/exe").args(words).spawn()?;
    let role = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    loop {
        let asked = tokio::select! {
            _ = signals.terminate.recv() => Some(Number::TERM),
            _ = signals.interrupt.recv() => Some(Number::TERM),
            _ = signals.hangup.recv() => Some(Number::HUP),
            _ = signals.child.recv() => None,
        };
        if let Some(signal) = asked {
            // Gone already is as good as asked.
            let _ = kill_process(role, signal);
            continue;
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == role {
                let code = status.exit_status().unwrap_or(255);
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
        }
    }
}
