//! Proving the walls: the canary that listens on this host, the throw-away bottle, what is aimed
//! at, and the table.

mod aims;
mod canary;
mod table;
mod throw_away;

pub use aims::{Seen, aims, host_addresses};
pub use canary::Canary;
pub use table::{Row, last_line, rows, table};
pub use throw_away::{CANARY_HOST, Interrupts, PROCESSES, ThrowAway};
