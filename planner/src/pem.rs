//! Certificates as PEM text (RFC 7468): the host config's extra trust, with nothing else in it.

use alloc::string::{String, ToString};

/// Why a text is not one of certificates alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// A key has no place in a plan or a snapshot.
    #[error("expected certificates alone, found a private key")]
    PrivateKey,
    /// A block of another kind.
    #[error("expected certificates alone, found a block of {0}")]
    OtherBlock(String),
    /// A block without its last line, or with something in it that is no base64.
    #[error("expected a whole certificate at line {0}, found something else")]
    Broken(usize),
    /// No block at all.
    #[error("expected at least one certificate, found none")]
    NoCertificate,
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a text, each block as it stands with LF as line ends; remarks between the
/// blocks are left out, as every reader of such files passes over them.
///
/// # Errors
///
/// A private key in whatever form, any other block, a broken one, or none.
pub fn certificates(text: &str) -> Result<String, PemError> {
    let mut out = String::new();
    let mut lines = (1usize..).zip(text.lines().map(str::trim));
    while let Some((number, line)) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN) else {
            // A key that is only nearly a block is a key all the same.
            if line.contains("PRIVATE KEY") {
                return Err(PemError::PrivateKey);
            }
            continue;
        };
        match label.strip_suffix("-----").unwrap_or(label) {
            "CERTIFICATE" => {}
            label if label.contains("PRIVATE KEY") => return Err(PemError::PrivateKey),
            label => return Err(PemError::OtherBlock(label.chars().take(40).collect())),
        }
        let mut body = String::new();
        loop {
            match lines.next() {
                Some((_, END)) => break,
                Some((_, line)) if is_base64(line) => {
                    body.push_str(line);
                    body.push('\n');
                }
                _ => return Err(PemError::Broken(number)),
            }
        }
        // DER of a SEQUENCE with more than 127 bytes, which every certificate is.
        if !body.starts_with("MI") {
            return Err(PemError::Broken(number));
        }
        for part in [line, "\n", &body, END, "\n"] {
            out.push_str(part);
        }
    }
    if out.is_empty() { Err(PemError::NoCertificate) } else { Ok(out.to_string()) }
}

fn is_base64(line: &str) -> bool {
    !line.is_empty() && line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\nAAA=\n-----END CERTIFICATE-----\n";

    #[test]
    fn certificates_and_nothing_else() {
        assert_eq!(certificates(ONE).as_deref(), Ok(ONE));
        let remarked =
            alloc::format!("# Example Root\r\n{}\n# é\n{ONE}", ONE.replace('\n', "\r\n"));
        assert_eq!(certificates(&remarked), Ok(alloc::format!("{ONE}{ONE}")));
        let again = certificates(&remarked).expect("certificates");
        assert_eq!(certificates(&again).as_ref(), Ok(&again), "twice is once");
    }

    #[test]
    fn what_is_refused() {
        let broken = |text: &str| certificates(text).expect_err(text);
        assert_eq!(broken(""), PemError::NoCertificate);
        assert_eq!(broken("hello"), PemError::NoCertificate);
        let key = "-----BEGIN EC PRIVATE KEY-----\nMIIB\n-----END EC PRIVATE KEY-----\n";
        for text in [key.to_string(), alloc::format!("{ONE}{key}"), alloc::format!("{ONE} {key}")] {
            assert_eq!(broken(&text), PemError::PrivateKey);
        }
        assert_eq!(broken(&alloc::format!("{ONE}- BEGIN PRIVATE KEY -")), PemError::PrivateKey);
        let list = ONE.replace("CERTIFICATE", "X509 CRL");
        assert_eq!(broken(&list), PemError::OtherBlock("X509 CRL".into()));
        for text in [
            &ONE[..60],
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            &ONE.replace("AAA=", "not base64"),
            &ONE.replace("MIIB", "QUJD"),
        ] {
            assert_eq!(broken(text), PemError::Broken(1), "{text}");
        }
    }
}
