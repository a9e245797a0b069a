//! Exit codes: one list, printed by `bottle --help` and kept stable for scripts.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Ok,
    /// It could not be done; standard error says why.
    Error,
    /// There are changes, and `--detailed-exitcode` or `--fail-on` asked to be told.
    Changes,
    /// The plan does not fit the host any more, or a requirement does not hold.
    Stale,
    /// Lint, approval or policy refused.
    Refused,
    /// Some actions were done and some were not.
    Partial,
    /// The plan is of a version that this build does not read.
    Version,
    /// The command line is wrong (`EX_USAGE` of sysexits.h).
    Usage,
    /// A bug in `bottle` itself (`EX_SOFTWARE` of sysexits.h).
    Bug,
    /// Interrupted by Ctrl-C (128 + SIGINT).
    Interrupted,
    /// How a program in a container ended, passed on.
    Theirs(u8),
}

impl Exit {
    /// Every code of bottle's own, in order.
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
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Changes => 2,
            Self::Stale => 10,
            Self::Refused => 11,
            Self::Partial => 12,
            Self::Version => 13,
            Self::Usage => 64,
            Self::Bug => 70,
            Self::Interrupted => 130,
            Self::Theirs(code) => code,
        }
    }

    /// The exit code of a program in a container.
    #[must_use]
    pub fn theirs(code: i64) -> Self {
        u8::try_from(code & 0xff).map_or(Self::Bug, Self::Theirs)
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
            Self::Theirs(_) => "how the program in the container ended",
        }
    }

    /// The table in `bottle --help`.
    #[must_use]
    pub fn table() -> String {
        let rows: Vec<String> =
            Self::ALL.iter().map(|e| format!("  {:>3}  {}", e.code(), e.meaning())).collect();
        format!(
            "Exit codes:\n{}\n  any  of start, resume, attach, exec and wait: how the program in the \
             container ended",
            rows.join("\n")
        )
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
