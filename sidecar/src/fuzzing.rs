//! What the fuzz targets reach of this crate's inside; built for them alone.

/// How the strict reader reads a stream of requests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Why it stops, if it does.
    pub fault: Option<&'static str>,
    /// How many bytes it let through.
    pub taken: usize,
    /// Where heads end, and whole messages: to the byte if the pieces are single bytes.
    pub heads: Vec<usize>,
    /// Where whole messages end.
    pub messages: Vec<usize>,
    /// Whether another protocol follows.
    pub raw: bool,
    /// What it waits for at the end, and what it has of that.
    pub left: String,
}

/// Reads a stream of requests that arrives in pieces.
pub fn framing<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Reading {
    crate::egress::fuzzing::framing(pieces)
}

/// A path as it is forwarded, or nothing where it is refused.
pub fn normal_path(path: &str) -> Option<String> {
    crate::egress::fuzzing::normal_path(path)
}

/// Loads the text of a `routes.json` and asks it about a request; whether it can be used.
pub fn routes(text: &[u8], host: &str, path: &str) -> bool {
    crate::egress::fuzzing::routes(text, host, path)
}
