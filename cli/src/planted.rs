//! What a session leaves in a folder that it mounted, and the host would execute.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bottle_executor::state::Roots;
use bottle_executor::work;
use bottle_planner::escape::visible;
use bottle_planner::plan::Plan;
use bottle_planner::policy::WorkspaceMode;
use bottle_planner::words::AbsPath;

use crate::output::Printer;

/// A folder that a session has mounted, and since when.
pub struct Mounted {
    host: AbsPath,
    since: i64,
}

impl Mounted {
    /// The session's, while its state folder is there.
    pub fn of(roots: &Roots, plan: &Plan) -> Option<Self> {
        let place = plan.session.workspace.as_ref().filter(|w| w.mode == WorkspaceMode::Mount)?;
        Some(Self { host: place.host.clone(), since: begun(roots, plan) })
    }

    /// Looks through it and tells what is new and would be executed. For as long as the agent runs
    /// that can change.
    pub fn tell(&self, printer: &mut Printer) {
        let host = visible(self.host.as_str());
        let found = match work::planted(Path::new(self.host.as_str()), self.since) {
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
        for (why, planted) in &found {
            for path in &planted.first {
                printer.say(&format!("  {}: {why}", visible(&path.to_string_lossy())));
            }
            let named = u64::try_from(planted.first.len()).unwrap_or(u64::MAX);
            if let more @ 1.. = planted.count.saturating_sub(named) {
                printer.say(&format!("  and {more} more: {why}"));
            }
        }
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
