//! Everything of `bottle` that touches the world: the probe that looks, and the executor that
//! carries a plan out. Neither chooses anything; choices are the planner's.

pub mod engine;
pub mod pack;
pub mod sources;
pub mod state;
pub mod tree;
