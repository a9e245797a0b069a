//! Extra leak rules, `egress.rules`: tried at plan time, so that egress never meets a file it cannot
//! use.

use bottle_detector::{Rules, RulesError};
use bottle_planner::grants::Grants;
use bottle_planner::policy::Manifest;

use crate::exit::Exit;
use crate::failure::Failure;

/// Refuses rules that cannot be used, by the name of the file that a manifest has for them.
pub fn of_manifest(grants: &Grants, manifest: &Manifest) -> Result<(), Failure> {
    let bottle = manifest.bottles.get(&grants.bottle);
    let file = bottle.and_then(|bottle| bottle.egress.rules.as_ref());
    let name = file.map_or("the rules file".to_owned(), |file| format!("`{}`", file.path));
    tried(grants).map_err(|error| {
        refusal(Exit::Error, &format!("{name}, the leak rules of bottle {}", grants.bottle), &error)
            .hint("it is gitleaks' TOML: a list `[[rules]]`, each with `id` and `regex`")
    })
}

/// Refuses rules that a plan brings and that cannot be used.
pub fn of_plan(grants: &Grants) -> Result<(), Failure> {
    tried(grants).map_err(|error| refusal(Exit::Refused, "the plan's leak rules", &error))
}

fn tried(grants: &Grants) -> Result<(), RulesError> {
    grants.egress.rules.as_ref().map_or(Ok(()), |text| Rules::with(text).map(drop))
}

fn refusal(exit: Exit, what: &str, error: &RulesError) -> Failure {
    Failure::new(exit, format!("{what}, cannot be used")).because(error)
}
