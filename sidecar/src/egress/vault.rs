//! The secrets egress holds: what it puts into requests, and what it looks for in them.
//!
//! They arrive after the start and live in memory alone; each delivery adds to the last or
//! replaces what it names again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bottle_detector::{Detector, Rules, SHORTEST, Values};
use bottle_planner::policy::{Auth, AuthScheme, Dlp, DlpAction};
use bottle_planner::words::SecretName;
use hyper::header::HeaderValue;
use zeroize::Zeroizing;

use crate::secret::{Delivery, Secret};

/// Where the secrets are kept.
pub(super) struct Vault {
    rules: Arc<Rules>,
    delivered: RwLock<Delivery>,
    held: RwLock<Arc<Held>>,
}

/// What follows from the secrets that were delivered so far.
pub(super) struct Held {
    inject: BTreeMap<SecretName, Zeroizing<String>>,
    /// Patterns and values; patterns alone; values alone.
    both: Detector,
    patterns: Detector,
    values: Detector,
    /// The injected ones, to take out of responses.
    scrub: Option<Arc<Values>>,
    hosts: HostNeedles,
    /// Values that are too short to be looked for.
    short: Vec<String>,
    delivered: bool,
}

impl Vault {
    pub(super) fn new(rules: Arc<Rules>) -> Self {
        let held = Held::of(&rules, &Delivery::new());
        Self { rules, delivered: RwLock::default(), held: RwLock::new(Arc::new(held)) }
    }

    /// Takes what was delivered; the names of values that are too short to be looked for.
    pub(super) fn take(&self, delivery: Delivery) -> Vec<String> {
        let mut all = self.delivered.write().unwrap_or_else(PoisonError::into_inner);
        all.extend(delivery);
        let held = Held::of(&self.rules, &all);
        let short = held.short.clone();
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
        short
    }

    /// What is held now.
    pub(super) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Held {
    fn of(rules: &Arc<Rules>, delivered: &Delivery) -> Self {
        let named = |kind: &'static str| {
            delivered.iter().filter_map(move |(key, secret)| {
                let name = key.strip_prefix(kind)?.strip_prefix(':')?;
                Some((name.to_owned(), copy(secret)))
            })
        };
        let inject: BTreeMap<SecretName, Zeroizing<String>> =
            named("inject").filter_map(|(n, v)| Some((SecretName::new(n).ok()?, v))).collect();
        let any_inject = !inject.is_empty();
        let values = Arc::new(Values::new(named("scan")));
        let detector = |with_rules: bool, with_values: bool| {
            Detector::new(
                with_rules.then(|| Arc::clone(rules)),
                with_values.then(|| Arc::clone(&values)),
            )
        };
        Self {
            both: detector(true, true),
            patterns: detector(true, false),
            values: detector(false, true),
            scrub: any_inject.then(|| Arc::new(Values::new(named("inject")))),
            hosts: HostNeedles::of(named("scan")),
            short: named("scan").filter(|(_, v)| v.len() < SHORTEST).map(|(n, _)| n).collect(),
            inject,
            delivered: !delivered.is_empty(),
        }
    }

    /// Whether anything was delivered since the start.
    pub(super) fn is_delivered(&self) -> bool {
        self.delivered
    }

    /// The detector that a route's policy asks for; none where it asks for nothing.
    pub(super) fn detector(&self, dlp: Dlp) -> Option<&Detector> {
        match (dlp.patterns == DlpAction::Off, dlp.own_secrets == DlpAction::Off) {
            (false, false) => Some(&self.both),
            (false, true) => Some(&self.patterns),
            (true, false) => Some(&self.values),
            (true, true) => None,
        }
    }

    /// The detector that leaves nothing out.
    pub(super) fn everything(&self) -> &Detector {
        &self.both
    }

    /// The injected values, to take out of responses.
    pub(super) fn scrub(&self) -> Option<&Arc<Values>> {
        self.scrub.as_ref()
    }

    /// The name of a secret that a host name spells, if it spells one.
    pub(super) fn in_host(&self, host: &str) -> Option<&str> {
        self.hosts.find(host)
    }

    /// The header value that a credential makes; none while its secret is not there or cannot be
    /// written into a header.
    pub(super) fn credential(&self, auth: &Auth) -> Option<HeaderValue> {
        let value = self.inject.get(&auth.secret)?;
        let text = Zeroizing::new(match auth.scheme {
            AuthScheme::Bearer => format!("Bearer {}", value.as_str()),
            AuthScheme::Token => format!("token {}", value.as_str()),
            AuthScheme::Basic => format!("Basic {}", STANDARD.encode(value.as_bytes())),
            AuthScheme::Header => value.as_str().to_owned(),
        });
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

fn copy(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(secret.expose().to_owned())
}

/// Secrets as host names can spell them: names have no case and few characters, and their dots
/// fall anywhere.
struct HostNeedles(Vec<(String, Vec<Zeroizing<String>>)>);

impl HostNeedles {
    fn of(values: impl Iterator<Item = (String, Zeroizing<String>)>) -> Self {
        let spelled = |(name, value): (String, Zeroizing<String>)| {
            let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
            let encoded = URL_SAFE_NO_PAD.encode(value.as_bytes());
            let all = [value.as_str(), &hex, &encoded, &base32(value.as_bytes())]
                .map(|text| Zeroizing::new(plain(text)));
            (name, all.into_iter().filter(|needle| needle.len() >= SHORTEST).collect())
        };
        Self(values.map(spelled).collect())
    }

    fn find(&self, host: &str) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        let host = plain(host);
        let holds = |(_, needles): &&(String, Vec<Zeroizing<String>>)| {
            needles.iter().any(|needle| host.contains(needle.as_str()))
        };
        self.0.iter().find(holds).map(|(name, _)| name.as_str())
    }
}

/// Letters and digits alone, in lower case.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// RFC 4648, section 6, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut held, mut count) = (0_u32, 0);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(ALPHABET[(held >> count) as usize & 31]));
        }
    }
    if count > 0 {
        text.push(char::from(ALPHABET[(held << (5 - count)) as usize & 31]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(items: &[(&str, &str)]) -> Vault {
        let object: BTreeMap<&str, &str> = items.iter().copied().collect();
        let delivery = crate::secret::parse(serde_json::to_string(&object).unwrap().as_bytes());
        let vault = Vault::new(Rules::builtin());
        vault.take(delivery.unwrap());
        vault
    }

    #[test]
    fn each_scheme_writes_its_header() {
        let vault = vault(&[("inject:GH_PAT", "user:hunter2")]);
        for (scheme, expected) in [
            (AuthScheme::Bearer, "Bearer user:hunter2"),
            (AuthScheme::Token, "token user:hunter2"),
            (AuthScheme::Basic, "Basic dXNlcjpodW50ZXIy"),
            (AuthScheme::Header, "user:hunter2"),
        ] {
            let auth = Auth {
                scheme,
                header: "authorization".into(),
                secret: SecretName::new("GH_PAT").unwrap(),
                placeholder: None,
            };
            assert_eq!(vault.held().credential(&auth).unwrap(), expected);
            let other = Auth { secret: SecretName::new("OTHER").unwrap(), ..auth };
            assert!(vault.held().credential(&other).is_none());
        }
    }

    #[test]
    fn host_names_that_spell_a_secret_are_seen() {
        let vault = vault(&[("scan:TOKEN", "Correct-Horse_9")]);
        let held = vault.held();
        for (host, found) in [
            ("correct-horse-9.evil.test", true),
            ("CORRECTHORSE9.evil.test", true),
            ("corr.ect-ho.rse-9.evil.test", true),
            ("436f72726563742d486f7273655f39.evil.test", true),
            ("inxxe4tfmn2c2sdpojzwkxzz.evil.test", true),
            ("q29ycmvjdc1ib3jzzv85.evil.test", true),
            ("correct-horse.evil.test", false),
            ("api.example.com", false),
        ] {
            assert_eq!(held.in_host(host).is_some(), found, "{host}");
        }
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
    }
}
