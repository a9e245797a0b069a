//! The leak rules of egress and the git gate: the built-in ones, and the manifest's own beside them.

use std::path::Path;
use std::sync::Arc;

use bottle_detector::{Rules, RulesError};
use bottle_planner::sidecar::LEAK_RULES;

use crate::settings::{SettingsError, read};

/// Why there are no rules to go by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeakRulesError {
    #[error(transparent)]
    Read(#[from] SettingsError),
    #[error("the leak rules cannot be used: {0}")]
    Rules(#[from] RulesError),
}

/// Reads and compiles them.
pub(crate) fn leak_rules(input: &Path) -> Result<Arc<Rules>, LeakRulesError> {
    let own = input.join(LEAK_RULES);
    if !own.exists() {
        return Ok(Rules::builtin());
    }
    let bytes = read(&own)?;
    Ok(Rules::with(&String::from_utf8_lossy(&bytes))?)
}
