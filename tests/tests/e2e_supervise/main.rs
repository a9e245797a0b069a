//! An agent asks, a person decides: on the real engine, from inside the agent's container over the
//! MCP server's own door.
//!
//! An engine is expected to answer (`scripts/host-setup --tests`), and `cargo build -p bottle` to
//! have been run.

mod adversary;
mod egress;
mod image;
mod killed;
