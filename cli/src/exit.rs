//! Exit codes: one list, printed by `bottle --help` and kept stable for scripts.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// It could not be done; standard error says why.
    Error = 1,
    /// There are changes, and `--detailed-exitcode` or `--fail-on` asked to be told.
    Changes = 2,
    /// The plan does not fit the host any more, or a requirement does not hold.
    Stale = 10,
    /// Lint, approval or policy refused.
    Refused = 11,
    /// Some actions were done and some were not.
    Partial = 12,
    /// The plan is of a version that this build does not read.
    Version = 13,
    /// The command line is wrong (`EX_USAGE` of sysexits.h).
    Usage = 64,
    /// A bug in `bottle` itself (`EX_SOFTWARE` of sysexits.h).
    Bug = 70,
    /// Interrupted by Ctrl-C (128 + SIGINT).
    Interrupted = 130,
}

impl Exit {
    /// Every code, in order.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Error,
        Self::Changes,
        Self::Stale,
        Self::Refused,
        Self::Partial,
        Self::Version,
        Self::Usage,
        Self::Bug,
        Self::Interrupted,
    ];

    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, as the help has it.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "all went well",
            Self::Error => "it could not be done; standard error says why",
            Self::Changes => "changes present (only with --detailed-exitcode or --fail-on)",
            Self::Stale => "stale, or a requirement does not hold; plan again",
            Self::Refused => "refused by lint, approval or policy",
            Self::Partial => "partly applied; apply the same plan again to carry on",
            Self::Version => "the plan's format version is not supported",
            Self::Usage => "the command line is wrong",
            Self::Bug => "a bug in bottle",
            Self::Interrupted => "interrupted",
        }
    }

    /// The table in `bottle --help`.
    #[must_use]
    pub fn table() -> String {
        let rows: Vec<String> =
            Self::ALL.iter().map(|e| format!("  {:>3}  {}", e.code(), e.meaning())).collect();
        format!("Exit codes:\n{}", rows.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let codes = Exit::ALL.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 10, 11, 12, 13, 64, 70, 130]);
    }

    #[test]
    fn the_help_lists_every_code() {
        use clap::CommandFactory as _;
        let help = crate::args::Cli::command().render_long_help().to_string();
        for exit in Exit::ALL {
            let row = format!("{:>3}  {}", exit.code(), exit.meaning());
            assert!(help.contains(&row), "{row:?} is missing in:\n{help}");
        }
    }
}
