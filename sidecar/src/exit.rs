//! The exit codes of the roles: those of BSD's `sysexits.h`, and those of `timeout(1)` and shells.

/// Used wrongly: standard input is a terminal.
pub const USAGE: u8 = 64;
/// What was handed over was refused.
pub const DATA: u8 = 65;
/// Something the role needs is not there: an address to listen on, a sidecar that never answered.
pub const UNAVAILABLE: u8 = 69;
/// A file cannot be written.
pub const CANNOT_CREATE: u8 = 73;
/// Not yet: the role is not up, or secrets were not delivered in time.
pub const TEMPORARY: u8 = 75;
/// A settings file is missing or wrong.
pub const CONFIG: u8 = 78;
/// The agent used up its time, or wrote nothing for too long.
pub const LIMIT: u8 = 124;
/// The agent's program cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The agent's program is not in the image.
pub const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended the agent.
pub const SIGNAL: u8 = 128;
