//! What the fuzz targets reach of this crate's inside; built for them alone.

/// Judges a stream of requests that arrives in pieces of a size.
pub fn framing(bytes: &[u8], size: usize) -> Result<(), &'static str> {
    crate::egress::fuzzing::framing(bytes, size)
}

/// A path as it is forwarded, or nothing where it is refused.
pub fn normal_path(path: &str) -> Option<String> {
    crate::egress::fuzzing::normal_path(path)
}

/// A path decoded once more, as a server might.
pub fn decoded(path: &str) -> String {
    crate::egress::fuzzing::decoded(path)
}
