//! Proposals: what an agent asks a person for, and what it is answered.
//!
//! The sidecar takes a proposal from the agent and keeps it; the command line reads it again and
//! shows what it would change. Both check it here, so that a sidecar that was taken over gains
//! nothing by writing files of its own. Every text in a proposal is the agent's: whoever shows it
//! escapes it.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::approvals::DEFAULT_PORT;
use crate::document;
use crate::manifest::{is_method, is_request_path};
use crate::policy::{Access, BuildHost, HostPattern, Rule};
use crate::refusals::{Widening, shape};
use crate::words::{Digest, Name, Timestamp};

/// The folder of `supervise/out` that holds proposals, one file each: `<id>.json`.
pub const PROPOSALS: &str = "proposals";
/// The folder of `supervise/in` that holds answers, under the same names. The executor alone
/// writes it.
pub const ANSWERS: &str = "answers";
/// The folder of `supervise/out` that holds an empty file for each answer that a waiting call got,
/// by the proposal's id.
pub const TOLD: &str = "told";
/// As many proposals of one session may wait for an answer.
pub const MOST_PENDING: usize = 20;
/// As many are taken from one session in all: each is a file of the host's.
pub const MOST_EVER: usize = 2_000;
/// The longest justification in bytes; the rest is cut off.
pub const LONGEST_JUSTIFICATION: usize = 4 << 10;
/// The longest Dockerfile in bytes.
pub const LONGEST_DOCKERFILE: usize = 64 << 10;
/// The longest notes of a person in bytes.
pub const LONGEST_NOTES: usize = 4 << 10;
/// The largest file of a proposal: JSON may write each byte as six.
pub const LARGEST_FILE: u64 = 6 * (LONGEST_DOCKERFILE + LONGEST_JUSTIFICATION) as u64 + (16 << 10);
/// The hexadecimal digits of a finding's fingerprint.
pub const FINGERPRINT: usize = 32;
/// The most methods, paths or hosts in one proposal.
const MOST_ITEMS: usize = 50;
/// The most that the methods and paths of one proposal are together, in bytes: a person is to see all
/// of them at once.
const LONGEST_RULE: usize = 1 << 10;

/// One request to a person, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Proposal {
    /// [`crate::sidecar::PROTOCOL`].
    pub protocol: u32,
    /// When it was asked.
    pub at: Timestamp,
    /// What is asked for.
    pub ask: Ask,
    /// Why, in the agent's words.
    pub justification: String,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ask {
    /// To reach a host.
    Egress {
        /// One name.
        host: HostPattern,
        /// Its port.
        port: u16,
        /// How.
        rule: Rule,
    },
    /// To run in another image.
    Image {
        /// The whole Dockerfile.
        dockerfile: String,
        /// What its build may reach.
        hosts: BTreeSet<BuildHost>,
    },
    /// To push what the leak scan found, once.
    PushException {
        /// The remote by its name in the manifest.
        remote: Name,
        /// The finding, as the refusal named it.
        fingerprint: String,
    },
}

/// What a person answered, as the sidecar reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Answer {
    /// [`crate::sidecar::PROTOCOL`].
    pub protocol: u32,
    /// The proposal answered, whole: [`Proposal::digest`].
    pub proposal: Digest,
    /// The answer.
    pub verdict: Verdict,
    /// When.
    pub at: Timestamp,
    /// What the person said to it.
    pub notes: String,
    /// What holds now, in words; nothing where it was rejected.
    pub granted: Vec<String>,
}

/// How a proposal was answered.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it was asked.
    Approved,
    /// In another form than it was asked.
    Modified,
    /// Not at all.
    Rejected,
}

impl Verdict {
    /// The word in JSON and for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Modified => "modified",
            Self::Rejected => "rejected",
        }
    }
}

/// Why something cannot be asked for, as one sentence for the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unaskable(pub String);

impl Proposal {
    /// The digest of the whole of it. An answer names it, so that what was changed after somebody
    /// looked at it is another proposal.
    #[must_use]
    pub fn digest(&self) -> Digest {
        document::digest(self).unwrap_or_else(|_| Digest::of(b""))
    }

    /// The name of its file, and what people call it by.
    #[must_use]
    pub fn id(&self) -> String {
        self.digest().short().to_string()
    }

    /// Whether it keeps to what may be asked for.
    ///
    /// # Errors
    ///
    /// What it breaks.
    pub fn check(&self) -> Result<(), Unaskable> {
        if self.justification.len() > LONGEST_JUSTIFICATION + CUT.len() {
            return Err(Unaskable("the justification is too long".to_string()));
        }
        self.ask.check()
    }
}

const CUT: &str = " [cut off]";

/// A justification as it is kept: no longer than [`LONGEST_JUSTIFICATION`].
#[must_use]
pub fn justification(text: &str) -> String {
    let text = text.trim();
    if text.len() <= LONGEST_JUSTIFICATION {
        return text.to_string();
    }
    let end = (0..=LONGEST_JUSTIFICATION).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{CUT}", &text[..end])
}

/// Where a request would go, in the parts that an agent gives.
#[derive(Debug, Clone, Default)]
pub struct Wish<'a> {
    /// A whole URL, in place of host, port and paths.
    pub url: Option<&'a str>,
    /// The host.
    pub host: Option<&'a str>,
    /// Its port.
    pub port: Option<u16>,
    /// Globs over whole segments.
    pub paths: &'a [String],
    /// Methods; none is reading.
    pub methods: &'a [String],
}

impl Ask {
    /// What a wish for network access asks for: of a URL the smallest rule that allows its kind.
    ///
    /// # Errors
    ///
    /// What cannot be asked for, and what to ask for in its place.
    pub fn egress(wish: &Wish<'_>) -> Result<Self, Unaskable> {
        let refuse = |why: String| Err(Unaskable(why));
        let (mut host, mut port) = (wish.host.map(ToString::to_string), wish.port);
        let mut paths = wish.paths.to_vec();
        if let Some(url) = wish.url {
            if host.is_some() || port.is_some() || !paths.is_empty() {
                return refuse("give `url`, or `host`, `port` and `paths`, not both".to_string());
            }
            let place = split_url(url)?;
            (host, port) = (Some(place.host), place.port);
            paths = alloc::vec![shape(&place.path)];
        }
        let Some(host) = host else {
            return refuse("`host` is missing: name the host to be reached".to_string());
        };
        let host = HostPattern::new(&host).map_err(|e| {
            Unaskable(format!("`host`: expected {}, without scheme, port or path", e.expected))
        })?;
        let methods: BTreeSet<String> =
            wish.methods.iter().map(|method| method.to_ascii_uppercase()).collect();
        let access = if methods.is_empty() { Access::Read } else { Access::All };
        let rule = Rule { methods, paths, access, auth: None };
        let ask = Self::Egress { host, port: port.unwrap_or(DEFAULT_PORT), rule };
        ask.check()?;
        Ok(ask)
    }

    /// Whether it keeps to what may be asked for, whoever put it together.
    ///
    /// # Errors
    ///
    /// What it breaks.
    pub fn check(&self) -> Result<(), Unaskable> {
        match self {
            Self::Egress { host, port, rule } => check_rule(host, *port, rule),
            Self::Image { dockerfile, hosts } => check_image(dockerfile, hosts),
            Self::PushException { fingerprint, .. } => {
                let hex =
                    fingerprint.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
                if fingerprint.len() == FINGERPRINT && hex {
                    return Ok(());
                }
                Err(Unaskable(format!(
                    "`finding`: expected the {FINGERPRINT} hexadecimal digits in [brackets] at the end \
                     of its line of the refusal"
                )))
            }
        }
    }

    /// One line for people: what is asked for.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Egress { host, port, rule } => {
                crate::facts::allow_text(&format!("{host}:{port}"), rule, None)
            }
            Self::Image { dockerfile, hosts } => {
                let digest = Digest::of(dockerfile.as_bytes());
                let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
                let reach = match hosts.len() {
                    0 => "a build that reaches nothing".to_string(),
                    _ => format!("a build that reaches {}", hosts.join(", ")),
                };
                format!("an image from Dockerfile {}, {reach}", digest.short())
            }
            Self::PushException { remote, fingerprint } => {
                format!("to push finding {fingerprint} to {remote}, once")
            }
        }
    }

    /// The rule to be added, where it asks for one.
    #[must_use]
    pub fn widening(&self) -> Option<Widening> {
        match self {
            Self::Egress { host, port, rule } => {
                Some(Widening { host: host.clone(), port: *port, rule: rule.clone() })
            }
            _ => None,
        }
    }
}

fn check_rule(host: &HostPattern, port: u16, rule: &Rule) -> Result<(), Unaskable> {
    let refuse = |why: &str| Err(Unaskable(why.to_string()));
    if host.as_str().starts_with('*') {
        return refuse("`host`: ask for each host by its name; a person may widen it");
    }
    if port == 0 {
        return refuse("`port`: expected 1 to 65535");
    }
    if rule.auth.is_some() {
        return refuse("an agent cannot ask for a credential");
    }
    if rule.methods.len() > MOST_ITEMS || rule.paths.len() > MOST_ITEMS {
        return Err(Unaskable(format!("expected at most {MOST_ITEMS} methods and paths")));
    }
    if rule.methods.iter().any(|method| !is_method(method)) {
        return refuse("`methods`: expected names like GET or POST, and never CONNECT");
    }
    if rule.paths.iter().any(|path| !is_request_path(path)) {
        return refuse(
            "`paths`: expected globs over whole segments like /v1/items/*, without query",
        );
    }
    if rule.methods.iter().chain(&rule.paths).map(String::len).sum::<usize>() > LONGEST_RULE {
        return Err(Unaskable(format!(
            "expected at most {LONGEST_RULE} bytes of methods and paths: use `*` and `**`, or ask \
             for less at a time"
        )));
    }
    Ok(())
}

fn check_image(dockerfile: &str, hosts: &BTreeSet<BuildHost>) -> Result<(), Unaskable> {
    if dockerfile.trim().is_empty() {
        return Err(Unaskable("`dockerfile` is empty: give the whole Dockerfile".to_string()));
    }
    if dockerfile.len() > LONGEST_DOCKERFILE {
        return Err(Unaskable(format!(
            "`dockerfile`: expected at most {LONGEST_DOCKERFILE} bytes, found {}",
            dockerfile.len()
        )));
    }
    if hosts.len() > MOST_ITEMS {
        return Err(Unaskable(format!("`hosts`: expected at most {MOST_ITEMS}")));
    }
    if hosts.iter().any(|at| at.host.as_str().starts_with('*')) {
        return Err(Unaskable("`hosts`: name each host; `*` is not taken".to_string()));
    }
    Ok(())
}

struct Place {
    host: String,
    port: Option<u16>,
    path: String,
}

/// Host, port and path of an `http` or `https` URL. The query is what a rule does not name.
fn split_url(url: &str) -> Result<Place, Unaskable> {
    let wrong = || {
        Unaskable("`url`: expected http://host/path or https://host/path, without user".to_string())
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let plain = match scheme.to_ascii_lowercase().as_str() {
        "https" => None,
        "http" => Some(80),
        _ => return Err(wrong()),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return Err(wrong());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
        None => (authority, plain),
    };
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    Ok(Place { host: host.to_string(), port, path: path.to_string() })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn wish(url: &str) -> Result<Ask, Unaskable> {
        Ask::egress(&Wish { url: Some(url), ..Wish::default() })
    }

    #[test]
    fn a_refused_request_asks_for_the_smallest_rule() {
        let methods = ["post".to_string()];
        let url = Some("https://API.example.com/repos/acme/web/issues/17?x=1#y");
        let ask = Ask::egress(&Wish { url, methods: &methods, ..Wish::default() }).expect("asked");
        assert_eq!(ask.words(), "POST on /repos/acme/web/issues/* at api.example.com:443");
        let words = |url| wish(url).expect(url).words();
        assert!(words("http://a.test").ends_with("on / at a.test:80"));
        assert!(words("https://a.test:8443?q").ends_with("on / at a.test:8443"));
    }

    #[test]
    fn what_cannot_be_asked_for() {
        for (url, part) in [
            ("ftp://a.test/", "expected http"),
            ("a.test/x", "expected http"),
            ("https://me@a.test/", "without user"),
            ("https://10.0.0.1/", "`host`"),
            ("https://[::1]/", "`url`"),
            ("https://*/", "`host`"),
            ("https://*.a.test/", "each host by its name"),
            ("https://a.test:0/", "`port`"),
            ("https://a.test/\u{202e}", "on /*"),
        ] {
            match wish(url) {
                Err(error) => assert!(error.0.contains(part), "{url}: {error}"),
                Ok(ask) => assert!(ask.words().contains(part), "{url}: {}", ask.words()),
            }
        }
        let of = |host: &str, methods: &[&str], paths: &[&str]| {
            let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
            let (methods, paths) = (list(methods), list(paths));
            let (host, methods, paths) = (Some(host), methods.as_slice(), paths.as_slice());
            Ask::egress(&Wish { host, methods, paths, ..Wish::default() }).expect_err("refused").0
        };
        assert!(of("*", &[], &[]).contains("`host`"));
        assert!(of("a.test", &["CONNECT"], &[]).contains("`methods`"));
        assert!(of("a.test", &["G\u{1b}T"], &[]).contains("`methods`"));
        let long = format!("/{}", "x".repeat(600));
        assert!(of("a.test", &["POST"], &[&long, &format!("{long}y")]).contains("1024 bytes"));
        assert!(of("a.test", &[], &["/a?b"]).contains("`paths`"));
        assert!(of("a.test", &[], &vec!["/a"; 51]).contains("at most 50"));
        let neither = Ask::egress(&Wish::default()).expect_err("refused").0;
        assert!(neither.contains("missing"));
    }

    #[test]
    fn files_and_fingerprints_have_a_form() {
        let image =
            |text: &str| Ask::Image { dockerfile: text.to_string(), hosts: BTreeSet::new() };
        assert!(image(" \n").check().is_err());
        assert!(image(&"x".repeat(LONGEST_DOCKERFILE + 1)).check().is_err());
        assert!(image("FROM a").check().is_ok());
        let remote = Name::new("web").expect("a name");
        let finding = |text: &str| Ask::PushException {
            remote: remote.clone(),
            fingerprint: text.to_string(),
        };
        assert!(finding("0123456789abcdef0123456789abcdef").check().is_ok());
        for wrong in ["", "0123456789ab", "0123456789ABCDEF0123456789ABCDEF", "../../../etc"] {
            assert!(finding(wrong).check().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_edited_proposal_is_another() {
        let proposal = Proposal {
            protocol: 1,
            at: Timestamp::new("2026-01-31T12:00:00Z").expect("a time"),
            ask: wish("https://a.test/x").expect("asked"),
            justification: justification("why"),
        };
        let other = Proposal { ask: wish("https://a.test/y").expect("asked"), ..proposal.clone() };
        assert_ne!(proposal.id(), other.id());
        let words = Proposal { justification: "for you".to_string(), ..proposal.clone() };
        assert_ne!(proposal.id(), words.id());
    }

    #[test]
    fn a_long_justification_is_cut_where_a_character_begins() {
        let long = justification(&"é".repeat(1 << 20));
        assert!(long.len() <= LONGEST_JUSTIFICATION + CUT.len());
        assert!(long.ends_with(CUT));
    }
}
