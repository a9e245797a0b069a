//! Reads the archive of a single path, as an engine packs it for download.

use std::io::Read as _;

/// What an archive of one path holds.
pub(crate) enum One {
    /// A file's text.
    Text(String),
    /// A link, and where it points to.
    Link(String),
}

/// The first entry of an archive; `None` where there is none, or it is neither text nor a link.
pub(crate) fn one(tar: &[u8]) -> std::io::Result<Option<One>> {
    let mut archive = tar::Archive::new(tar);
    let Some(entry) = archive.entries()?.next() else { return Ok(None) };
    let mut entry = entry?;
    if let Some(target) = entry.link_name()? {
        return Ok(target.to_str().map(|t| One::Link(t.to_owned())));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).ok().map(One::Text))
}
