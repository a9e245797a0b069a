//! Providers on the real engine: Claude Code and Codex as they are published, in images built from
//! the built-in Dockerfiles, against APIs that the test serves under the real names; commands; images
//! from private registries; images that set traps.
//!
//! An engine is expected to answer (`scripts/host-setup --tests`), `cargo build -p bottle` to have
//! been run, and npm's registry and Debian's mirror to be within reach where an image is not there yet.

mod api;
mod claude;
mod codex;
mod command;
mod hostile;
mod images;
mod registry;
mod supervise;
mod world;
