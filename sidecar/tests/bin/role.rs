//! Runs one role below a folder: `bottle-sidecar-role ROLE FOLDER DNS_PORT`.

use std::path::Path;
use std::process::ExitCode;

use bottle_sidecar::{Places, SidecarCommand, exit, run};

fn main() -> ExitCode {
    if let Some(code) = bottle_sidecar::run_as_tool(std::env::args_os()) {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, folder, port] = arguments.as_slice() else { return ExitCode::from(exit::USAGE) };
    match (role.parse::<SidecarCommand>(), port.parse()) {
        (Ok(role), Ok(port)) => run(role, &Places::below(Path::new(folder), port)),
        _ => ExitCode::from(exit::USAGE),
    }
}
