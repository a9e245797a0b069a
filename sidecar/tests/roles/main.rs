//! The roles as processes on loopback addresses, seen from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod attack;
mod builds;
mod egress;
mod faults;
mod gate;
mod harness;
mod hops;
mod init;
mod others;
mod supervise;
