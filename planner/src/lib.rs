//! The pure planner of `bottle`: manifest + spec + snapshot in, one plan out.
//!
//! The crate is `no_std`: the compiler itself proves that it reads no file, variable, clock,
//! socket or random source. Every decision about a sandbox is made here, as data; the executor
//! carries it out and chooses nothing.
#![no_std]

extern crate alloc;

pub mod approvals;
pub mod audit;
pub mod cleanup;
pub mod decision;
pub mod diff;
mod dockerfile;
pub mod document;
pub mod ending;
pub mod error;
pub mod escape;
pub mod executed;
pub mod facts;
pub mod gate;
pub mod grants;
pub mod lint;
pub mod lower;
pub mod manifest;
pub mod mounted;
pub mod pem;
pub mod plan;
pub mod policy;
pub mod proposal;
pub mod proposed_image;
pub mod provider;
pub mod refusals;
pub mod resolve;
pub mod show;
pub mod sidecar;
pub mod snapshot;
pub mod spec;
pub mod trusted_build;
pub mod wants;
pub mod words;
