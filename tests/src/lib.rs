//! The harness shared by the tests of `bottle`.

pub mod fixture;
pub mod generate;
pub mod host;
pub mod memory_world;
pub mod outside;
pub mod settle;
pub mod supervised;
pub mod terminal;
pub mod tmux;
