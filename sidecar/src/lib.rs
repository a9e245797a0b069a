//! What runs inside the containers of `bottle`: the agent's init, egress, the git gate, supervise,
//! and the small program that takes secrets in.
//!
//! The `cli` crate calls [`run`] for `bottle sidecar <role>`. Each role is the first process of its
//! container: it reaps what is orphaned to it, ends at once on SIGTERM, and writes one JSON object a
//! line to standard error. Nothing here asks libc for a name (the binary is linked statically);
//! names are resolved by `egress::guard` alone.

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

mod decisions;
mod egress;
pub mod exit;
#[cfg(fuzzing)]
pub mod fuzzing;
mod git_gate;
mod init;
mod leak_rules;
mod log;
mod passing;
mod pid1;
mod places;
pub mod prove;
mod receive;
mod secret;
mod settings;
mod state;
mod supervise;
mod wait;

pub use crate::places::Places;
pub use crate::state::State;

/// What one container, or one exec into it, runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidecarCommand {
    /// The proxy that is the only way out.
    Egress,
    /// The gate in front of git upstreams.
    GitGate,
    /// The server that takes the agent's requests to a person.
    Supervise,
    /// The init of the agent's container.
    Agent,
    /// Hands secrets from standard input to the role that runs in this container.
    Receive,
    /// Tries to get out of the container.
    Prove,
    /// Does nothing until it is asked to end: the agent of a bottle that is there to be tried.
    Wait,
    /// Holds a place on the session's network for a build, for as long as its input is open.
    Hold,
}

impl SidecarCommand {
    /// Every command, in the order in which help lists them.
    pub const ALL: [Self; 8] = [
        Self::Egress,
        Self::GitGate,
        Self::Supervise,
        Self::Agent,
        Self::Receive,
        Self::Prove,
        Self::Wait,
        Self::Hold,
    ];

    /// The command as `bottle sidecar` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::GitGate => "git-gate",
            Self::Supervise => "supervise",
            Self::Agent => "agent",
            Self::Receive => "receive",
            Self::Prove => "prove",
            Self::Wait => "wait",
            Self::Hold => "hold",
        }
    }
}

impl fmt::Display for SidecarCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No command has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected egress, git-gate, supervise, agent, receive, prove, wait or hold, found `{}`",
    found.escape_debug()
)]
pub struct UnknownCommand {
    found: String,
}

impl FromStr for SidecarCommand {
    type Err = UnknownCommand;

    fn from_str(text: &str) -> Result<Self, UnknownCommand> {
        Self::ALL
            .into_iter()
            .find(|command| command.as_str() == text)
            .ok_or_else(|| UnknownCommand { found: text.chars().take(80).collect() })
    }
}

/// Runs the program of the git gate that this process was started as: git and ssh know them by
/// name. `None` where its own name is none of theirs.
#[must_use]
pub fn run_as_tool(argv: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    git_gate::run_as_tool(argv).map(ExitCode::from)
}

/// Runs one role until it ends; the codes are those of [`exit`], or the agent's own.
#[must_use]
pub fn run(command: SidecarCommand, places: &Places) -> ExitCode {
    log::set_role(command.as_str());
    match command {
        SidecarCommand::Receive => return ExitCode::from(receive::run(places)),
        // It begins with what wants a process of one thread.
        SidecarCommand::Prove => return ExitCode::from(prove::run()),
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error("the event loop cannot be set up", &[("error", &error)]);
            return ExitCode::from(exit::UNAVAILABLE);
        }
    };
    let code = runtime.block_on(async {
        match command {
            SidecarCommand::Egress => egress::run(places).await,
            SidecarCommand::GitGate if rustix::process::getpid().is_init() => {
                pid1::stand_in().await.unwrap_or_else(|error| {
                    log::error("the git gate does not run", &[("error", &error)]);
                    exit::UNAVAILABLE
                })
            }
            SidecarCommand::GitGate => git_gate::run_gate(places).await,
            SidecarCommand::Supervise => supervise::run(places).await,
            SidecarCommand::Agent | SidecarCommand::Receive | SidecarCommand::Prove => {
                init::run(places).await
            }
            SidecarCommand::Wait => wait::run().await,
            SidecarCommand::Hold => wait::hold().await,
        }
    });
    runtime.shutdown_background();
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_parsed_from_its_own_name() {
        for command in SidecarCommand::ALL {
            assert_eq!(command.to_string().parse(), Ok(command));
        }
        assert!("pipelock".parse::<SidecarCommand>().is_err());
    }
}
