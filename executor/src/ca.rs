//! The session's certificate authority: minted here, known elsewhere by its fingerprint alone.

use bottle_planner::plan::MintCa;
use bottle_planner::words::{Digest, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::{Date, Duration, Month, OffsetDateTime, Time};
use zeroize::Zeroizing;

use crate::files::{FileError, Root};

/// Where images keep their own trust roots: Debian and Alpine, Red Hat, OpenSSL's default.
pub const IMAGE_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Why no certificate authority was made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Key or certificate could not be generated.
    #[error("could not generate the session's certificate authority")]
    Generate(#[source] rcgen::Error),
    /// The plan names a time that no calendar has.
    #[error("expected a validity within the calendar, found {0} and {1} days")]
    Validity(Timestamp, u32),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Generates key and certificate and writes both; answers the certificate's fingerprint. Blocks.
///
/// ECDSA P-256; `CA:true, pathlen:0`; `keyCertSign, cRLSign` (RFC 5280, 4.2.1.3 and 4.2.1.9). The
/// serial number comes from the fresh public key's digest, so it is random and the plan need not
/// hold one. The key is written first: a certificate is never there without its key.
pub fn mint(state: &Root, spec: &MintCa) -> Result<Digest, CaError> {
    let not_before = instant(&spec.not_before)
        .ok_or_else(|| CaError::Validity(spec.not_before.clone(), spec.days))?;
    let not_after = not_before
        .checked_add(Duration::days(spec.days.into()))
        .ok_or_else(|| CaError::Validity(spec.not_before.clone(), spec.days))?;
    let mut params = CertificateParams::default();
    params.not_before = not_before;
    params.not_after = not_after;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, spec.common_name.as_str());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Generate)?;
    let certificate = params.self_signed(&key).map_err(CaError::Generate)?;
    let pem = Zeroizing::new(key.serialize_pem());
    state.write(&spec.key.path, pem.as_bytes(), 0o600, None)?;
    state.write(&spec.certificate.path, certificate.pem().as_bytes(), 0o644, None)?;
    Ok(Digest::of(certificate.der()))
}

/// The fingerprint of the first certificate in a PEM text: SHA-256 of its DER (RFC 7468).
#[must_use]
pub fn fingerprint(pem: &str) -> Option<Digest> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    decode(body).map(|der| Digest::of(&der))
}

/// One PEM text of the image's roots, the host config's and the session's.
#[must_use]
pub fn bundle(image: &str, host: &str, session: &str) -> String {
    let mut text = String::with_capacity(image.len() + host.len() + session.len() + 3);
    for part in [image, host, session] {
        text.push_str(part);
        if !part.is_empty() && !part.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

/// The image's roots less what its build was made to trust (one copy of each: what the image has on
/// its own account stays).
#[must_use]
pub fn without(image: &str, built: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let body = |block: &str| {
        let text = block.split(END).next().unwrap_or_default();
        text.split_ascii_whitespace().collect::<String>()
    };
    let mut gone: Vec<String> = built.split(BEGIN).skip(1).map(body).collect();
    let mut blocks: Vec<&str> = image.split(BEGIN).collect();
    // From the end: what was added came after what was there.
    for n in (1..blocks.len()).rev() {
        if let Some(at) = gone.iter().position(|gone| *gone == body(blocks[n])) {
            gone.swap_remove(at);
            blocks.remove(n);
        }
    }
    blocks.join(BEGIN)
}

fn instant(text: &Timestamp) -> Option<OffsetDateTime> {
    let text = text.as_str();
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u8>().ok();
    let year = text.get(0..4)?.parse().ok()?;
    let date = Date::from_calendar_date(year, Month::try_from(part(5, 7)?).ok()?, part(8, 10)?);
    let time = Time::from_hms(part(11, 13)?, part(14, 16)?, part(17, 19)?);
    Some(OffsetDateTime::new_utc(date.ok()?, time.ok()?))
}

/// Base64 (RFC 4648, section 4), line breaks passed over.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes().filter(|c| !c.is_ascii_whitespace() && *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use bottle_planner::plan::{StatePath, StateRoot};
    use bottle_planner::words::RelPath;

    use super::*;

    #[test]
    fn what_a_build_trusted_is_taken_out_once() {
        let cert =
            |c: &str| format!("-----BEGIN CERTIFICATE-----\nMI{c}\n-----END CERTIFICATE-----\n");
        let (a, b, c) = (cert("A"), cert("B"), cert("C"));
        assert_eq!(without(&format!("{a}{b}{c}"), &format!("{c}{b}")), a);
        assert_eq!(without(&format!("# r\n{a}{b}{a}"), &a), format!("# r\n{a}{b}"));
        assert_eq!(without(&format!("{a}{b}"), ""), format!("{a}{b}"));
        assert_eq!(without(&a, "no certificate"), a);
        assert_eq!(without("", &a), "");
    }

    fn state_path(path: &str) -> StatePath {
        StatePath { root: StateRoot::State, path: RelPath::new(path).expect("valid") }
    }

    fn spec() -> MintCa {
        MintCa {
            key: state_path("ca.key"),
            certificate: state_path("ca.pem"),
            common_name: "bottle dev".into(),
            not_before: Timestamp::new("2026-01-31T12:00:00Z").expect("valid"),
            days: 30,
            fingerprint: None,
        }
    }

    #[test]
    fn minted_as_asked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = Root::open(folder.path()).expect("readable").expect("there");
        let minted = mint(&state, &spec()).expect("minted");
        let pem = std::fs::read_to_string(folder.path().join("ca.pem")).expect("there");
        assert_eq!(fingerprint(&pem), Some(minted.clone()));
        for (name, mode) in [("ca.key", 0o600), ("ca.pem", 0o644)] {
            let meta = std::fs::metadata(folder.path().join(name)).expect("there");
            assert_eq!(meta.permissions().mode() & 0o777, mode, "{name}");
        }
        let key = std::fs::read_to_string(folder.path().join("ca.key")).expect("there");
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(KeyPair::from_pem(&key).is_ok());
        assert_ne!(mint(&state, &spec()).expect("minted"), minted);
    }

    #[test]
    fn openssl_sees_what_was_asked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = Root::open(folder.path()).expect("readable").expect("there");
        let minted = mint(&state, &spec()).expect("minted");
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-text", "-fingerprint", "-sha256", "-in"])
            .arg(folder.path().join("ca.pem"))
            .output()
            .expect("openssl runs");
        let text = String::from_utf8_lossy(&output.stdout);
        for wanted in [
            "CA:TRUE, pathlen:0",
            "Certificate Sign, CRL Sign",
            "Not Before: Jan 31 12:00:00 2026 GMT",
            "Not After : Mar  2 12:00:00 2026 GMT",
            "prime256v1",
            "bottle dev",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
        let line = text.lines().last().unwrap_or_default().replace(':', "").to_lowercase();
        assert!(line.ends_with(minted.hex()), "{line}");
    }

    #[test]
    fn a_bundle_keeps_its_parts_apart() {
        assert_eq!(bundle("a", "", "b\n"), "a\nb\n");
    }

    #[test]
    fn rubbish_has_no_fingerprint() {
        assert_eq!(fingerprint("no certificate"), None);
        let bad = "-----BEGIN CERTIFICATE-----\n\u{1}\n-----END CERTIFICATE-----";
        assert_eq!(fingerprint(bad), None);
    }
}
