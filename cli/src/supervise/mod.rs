//! What agents ask for, from the file their sidecar keeps to the answer they get.
//!
//! ```text
//!  pending ─► seen ─────────► decide ─► audit: answered
//!  read and   the plan that    the       apply, or write the image down
//!  checked    it would cause   digest    answer: the agent is told
//!                              of it     audit: done
//! ```
//!
//! The answer's file comes last but one: until it is there a proposal is pending, and whoever is
//! killed on the way leaves one that can be answered again. What was applied already is then found
//! so, and not done twice.

pub mod decide;
pub mod edit;
pub mod pending;
pub mod seen;
pub mod tui;
