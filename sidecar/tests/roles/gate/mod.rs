//! The git gate with real git on both sides and a real OpenSSH server behind it.

mod exceptions;
mod hostile;
mod secrets;
mod serving;
mod world;
mod writing;
