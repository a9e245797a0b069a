//! What went wrong, as it is told: problems with hints and causes, and the exit code they make.

use std::error::Error;
use std::fmt;

use bottle_planner::error::PlanError;

use crate::exit::Exit;

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to tell, in order; empty for a silent end (the reader of standard output is gone).
    pub problems: Vec<Problem>,
    /// Whether planning again may help: the world is another than the plan expected.
    pub again: bool,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, as a lower-case fragment.
    pub message: String,
    /// What lies behind it, from the nearest to the farthest.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// One problem and its exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let problem = Problem { message: message.into(), causes: Vec::new(), hint: None };
        Self { exit, problems: vec![problem], again: false }
    }

    /// It could not be done.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Exit::Error, message)
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Nothing to tell.
    #[must_use]
    pub fn silent(exit: Exit) -> Self {
        Self { exit, problems: Vec::new(), again: false }
    }

    /// An error of another crate, its sources as causes.
    pub fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let mut failure = Self::new(exit, error.to_string());
        failure.add_causes(error.source());
        failure
    }

    /// Every reason why no plan could be made.
    #[must_use]
    pub fn from_plan(errors: Vec<PlanError>) -> Self {
        let problem = |e: PlanError| Problem {
            message: e.message,
            causes: Vec::new(),
            hint: Some(e.hint).filter(|hint| !hint.is_empty()),
        };
        let problems = errors.into_iter().map(problem).collect();
        Self { exit: Exit::Error, problems, again: false }
    }

    /// Says what to do about the last problem.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(last) = self.problems.last_mut() {
            last.hint = Some(hint.into());
        }
        self
    }

    /// Says what lies behind the last problem.
    #[must_use]
    pub fn because(mut self, cause: &dyn Error) -> Self {
        self.add_causes(Some(cause));
        self
    }

    /// The first problem and what lies behind it, on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        self.problems.first().map_or(String::new(), |problem| {
            let parts: Vec<&str> = std::iter::once(&problem.message)
                .chain(&problem.causes)
                .map(String::as_str)
                .collect();
            parts.join(": ")
        })
    }

    fn add_causes(&mut self, mut cause: Option<&dyn Error>) {
        let Some(last) = self.problems.last_mut() else { return };
        while let Some(error) = cause {
            let text = error.to_string();
            // Transparent errors say the same twice.
            if last.causes.last().unwrap_or(&last.message) != &text {
                last.causes.push(text);
            }
            cause = error.source();
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<&str> = self.problems.iter().map(|p| p.message.as_str()).collect();
        f.write_str(&messages.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn sources_become_causes() {
        let error = Outer(std::io::Error::other("inner"));
        let failure = Failure::from_error(Exit::Error, &error).hint("do this");
        let problem = &failure.problems[0];
        assert_eq!(problem.message, "outer");
        assert_eq!(problem.causes, ["inner"]);
        assert_eq!(problem.hint.as_deref(), Some("do this"));
    }
}
