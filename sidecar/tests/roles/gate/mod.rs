//! The git gate with real git on both sides and a real OpenSSH server behind it.

#[path = "../../../../detector/src/rules/examples.rs"]
mod examples;
mod exceptions;
mod hostile;
mod matrix;
mod secrets;
mod serving;
mod world;
mod writing;
