//! The world outside a bottle, for tests: a certificate authority, web servers that remember what
//! they were sent, servers that misbehave, and proxies that a session may stand behind.
//!
//! What cannot go on panics: the test that asked for it fails there.

mod authority;
mod broken;
mod git_http;
mod hop;
mod origin;
pub mod ws;

pub use authority::Authority;
pub use broken::Broken;
pub use git_http::GitHttp;
pub use hop::Hop;
pub use origin::{Answer, Origin, Page, Request, SAID, Sites};
