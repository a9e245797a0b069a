//! The built binary, run in homes of its own and without an engine.

mod applying;
mod harness;
mod planning;
mod refusing;
mod setup;
