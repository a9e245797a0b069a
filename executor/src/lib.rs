//! Everything of `bottle` that touches the world: the probe that looks, and the executor that
//! carries a plan out. Neither chooses anything; choices are the planner's.

pub mod apply;
mod archive;
pub mod audit;
pub mod ca;
pub mod cleanup;
pub mod engine;
pub mod events;
pub mod files;
pub mod journal;
pub mod ledger;
pub mod lock;
pub mod logins;
pub mod mounted;
pub mod ops;
pub mod pack;
pub mod probe;
pub mod proposals;
pub mod receipt;
mod repository;
pub mod requires;
pub mod rollback;
mod run;
pub mod secrets;
pub mod sources;
pub mod state;
pub mod tool;
pub mod tree;
mod upstream_ca;
pub mod work;
pub mod workspace;
