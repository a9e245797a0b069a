//! The session's certificate authority: certificates for the hosts that egress looks into.
//!
//! Key and certificate come from `in/ca.key` and `in/ca.crt`. All leaves share one key that lives
//! in memory alone; a leaf is made when its host is first asked for.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SigningKey};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::rules::HostName;
use crate::settings::read;

/// Certificates kept; the set is emptied when it is full.
const KEPT: usize = 1024;
/// Days a leaf is valid: longer than any session lives, shorter than clients' limits.
const DAYS: i64 = 90;

/// Makes certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
    made: Mutex<HashMap<HostName, Arc<ServerConfig>>>,
}

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error(transparent)]
    File(#[from] crate::settings::SettingsError),
    #[error("the session's certificate authority cannot be used: {0}")]
    Authority(#[from] rcgen::Error),
    #[error("a certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl Authority {
    /// Reads the session's authority.
    pub(super) fn load(input: &Path) -> Result<Self, AuthorityError> {
        let pem = |name: &str| -> Result<Zeroizing<String>, AuthorityError> {
            let bytes = read(&input.join(name))?;
            Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
        };
        let key = KeyPair::from_pem(&pem("ca.key")?)?;
        let issuer = Issuer::from_ca_cert_pem(&pem("ca.crt")?, key)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = ring::sign::any_supported_type(&der)?;
        Ok(Self { issuer, key, signing, made: Mutex::default() })
    }

    /// How a TLS server for this host is set up.
    pub(super) fn server(&self, host: &HostName) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(host) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.make(host)?);
        if made.len() >= KEPT {
            made.clear();
        }
        made.insert(host.clone(), Arc::clone(&config));
        Ok(config)
    }

    fn make(&self, host: &HostName) -> Result<ServerConfig, AuthorityError> {
        let leaf = self.leaf(host)?;
        let certified = CertifiedKey::new(vec![leaf], Arc::clone(&self.signing));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(Arc::new(certified))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(64);
        config.send_tls13_tickets = 1;
        Ok(config)
    }

    fn leaf(&self, host: &HostName) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = CertificateParams::new([host.as_str().to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        // A common name has at most 64 characters (RFC 5280, appendix A); clients read the others.
        let common = host.as_str().get(..64).unwrap_or(host.as_str());
        params.distinguished_name.push(DnType::CommonName, common);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(1);
        params.not_after = now + Duration::days(DAYS);
        Ok(params.signed_by(&self.key, &self.issuer)?.der().clone())
    }
}

/// One certificate, whatever name is asked for: the name was checked before.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
