//! `bottle sidecar`: the same binary inside a session's containers.

use std::process::ExitCode;

use bottle_sidecar::{Places, SidecarCommand};
use clap::Args;

/// Runs one role of a session inside its container.
#[derive(Debug, Args)]
pub struct Sidecar {
    /// The role
    role: SidecarCommand,
}

/// Runs the role until it ends; its codes are its own.
pub fn run(args: &Sidecar) -> ExitCode {
    bottle_sidecar::run(args.role, &Places::default())
}
