//! What a session leaves in a folder that it mounted, and the host would execute.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bottle_executor::state::Roots;
use bottle_executor::work;
use bottle_planner::escape::visible;
use bottle_planner::plan::Plan;
use bottle_planner::policy::WorkspaceMode;

use crate::output::Printer;

/// How many are named; an agent can make any number.
const NAMED: usize = 50;

/// Tells of it, where the session has a folder mounted.
pub fn tell(roots: &Roots, plan: &Plan, printer: &mut Printer) {
    let place = plan.session.workspace.as_ref().filter(|w| w.mode == WorkspaceMode::Mount);
    let Some(place) = place else { return };
    let host = visible(place.host.as_str());
    let found = match work::planted(Path::new(place.host.as_str()), begun(roots, plan)) {
        Ok(found) => found,
        Err(error) => {
            printer.warn(&format!(
                "{host} was not looked through for what the host would execute: {error}"
            ));
            return;
        }
    };
    if found.is_empty() {
        return;
    }
    printer.warn(&format!("the host would execute these, new or changed in {host}:"));
    for planted in found.iter().take(NAMED) {
        let path = visible(&planted.path.to_string_lossy());
        printer.say(&format!("  {path}: {}", visible(&planted.why)));
    }
    if let Some(more @ 1..) = found.len().checked_sub(NAMED) {
        printer.say(&format!("  and {more} more"));
    }
}

/// When the session began, in seconds since the epoch: a resume begins its plan's time anew, and the
/// certificate is made once.
fn begun(roots: &Roots, plan: &Plan) -> i64 {
    let certificate = roots.state(&plan.identity).join("egress/in/ca.crt");
    match certificate.symlink_metadata() {
        Ok(found) => found.mtime(),
        // All of it is told of where that is not known.
        Err(_) => 0,
    }
}
