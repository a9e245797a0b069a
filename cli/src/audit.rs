//! Adding to the audit log what a person decided.

use bottle_executor::audit::Audit;
use bottle_planner::audit::Event;
use bottle_planner::words::{Identity, Timestamp};
use chrono::{SecondsFormat, Utc};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Adds a line now.
pub fn note(session: &Identity, event: Event, context: &Context) -> Result<(), Failure> {
    let audit = Audit::of(&context.env.state_root()?);
    audit.append(session, now()?, event).map(|_| ()).map_err(|error| {
        Failure::from_error(Exit::Error, &error).hint(
            "`bottle audit verify` says where the log breaks; move it away to begin a new one",
        )
    })
}

/// The time of day, as documents have it.
pub fn now() -> Result<Timestamp, Failure> {
    Timestamp::new(Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true))
        .map_err(|error| Failure::error(error.to_string()))
}
