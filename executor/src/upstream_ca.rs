//! The host config's extra trust, `network.ca`: read by the probe for the planner, and once more
//! at apply to hold a plan against it.

use std::path::Path;

use bottle_planner::pem::{PemError, certificates};

use crate::secrets::expand;
use crate::sources::{Unread, read_path};

/// Why the file cannot be used. What is in it is not repeated: it may be a key.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}, which the host config names as `network.ca`")]
pub struct UpstreamCaError {
    /// The path as the host config has it.
    pub path: String,
    /// What stands in the way.
    pub source: Fault,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It was not read: at most 1 MiB of UTF-8 text in a regular file.
    #[error(transparent)]
    Unread(#[from] Unread),
    /// It holds something other than certificates.
    #[error(transparent)]
    Pem(#[from] PemError),
}

/// The certificates of the file as PEM text, remarks left out. Blocks.
///
/// # Errors
///
/// A file that cannot be read, or that holds a private key or no certificate.
pub fn read(path: &str, home: &Path) -> Result<String, UpstreamCaError> {
    let read = || {
        let bytes = read_path(&expand(path, home))?;
        let text = String::from_utf8(bytes).map_err(|_| Unread::NotText)?;
        Ok(certificates(&text)?)
    };
    read().map_err(|source| UpstreamCaError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::fs;

    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_by_name() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("ca.pem");
        let one = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let found = |content: &[u8]| {
            fs::write(&file, content).expect("written");
            let why = |e: UpstreamCaError| format!("{e}: {}", e.source().expect("a source"));
            read("~/ca.pem", home.path()).map_err(why)
        };
        assert_eq!(found(format!("# ours\n{one}").as_bytes()).as_deref(), Ok(one));
        let head = "cannot use ~/ca.pem, which the host config names as `network.ca`: ";
        let says = |why: &str| Err(format!("{head}{why}"));
        let key = format!("{one}-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n");
        assert_eq!(found(key.as_bytes()), says("expected certificates alone, found a private key"));
        assert_eq!(found(b""), says("expected at least one certificate, found none"));
        assert_eq!(found(&[0xff]), says("it is not UTF-8 text"));
        assert_eq!(found(&vec![b'\n'; 2 << 20]), says("it has more than 1024 KiB"));
        fs::remove_file(&file).expect("removed");
        let gone = read("~/ca.pem", home.path()).expect_err("gone");
        assert_eq!(gone.source.to_string(), "there is no such file");
    }
}
