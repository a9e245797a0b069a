//! The built binary, run in homes of its own and without an engine.

mod applying;
mod harness;
mod planning;
mod refusals;
mod refusing;
mod reporting;
mod setup;
mod supervising;
