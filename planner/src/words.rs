//! The small words every type is built from: names, digests, paths, addresses, times.
//!
//! Each is parsed once, at the edge, and cannot hold a wrong value afterwards.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Why a word was refused: what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found `{}`", found.escape_debug())]
pub struct WordError {
    /// The rule the word broke, as a noun phrase.
    pub expected: &'static str,
    /// The offending text (shortened).
    pub found: String,
}

impl WordError {
    fn new(expected: &'static str, found: &str) -> Self {
        Self { expected, found: found.chars().take(80).collect() }
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the word, or says which rule it breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, WordError> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err(WordError::new($expected, &text)) }
            }

            /// The word as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = WordError;
            fn try_from(text: String) -> Result<Self, WordError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> String {
                word.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

word!(
    /// The stem of a manifest file, a skill, or a preset without its `@`: `[a-z][a-z0-9-]*`, at
    /// most 48 characters.
    Name,
    "a name of lower-case letters, digits and dashes that begins with a letter (at most 48)",
    "^@?[a-z][a-z0-9-]{0,47}$",
    |s| is_stem(s.strip_prefix('@').unwrap_or(s), 48)
);
word!(
    /// The slug of one session: `slugify(agent)-xxxxx`, or a name the user gave.
    Identity,
    "an identity of lower-case letters, digits and dashes that begins with a letter (at most 56)",
    "^[a-z][a-z0-9-]{0,55}$",
    |s| is_stem(s, 56)
);
word!(
    /// The logical name of a secret; by default also the host variable it comes from.
    SecretName,
    "a secret name of letters, digits and underscores that does not begin with a digit",
    "^[A-Za-z_][A-Za-z0-9_]{0,127}$",
    is_variable
);
word!(
    /// The name of an environment variable (POSIX `[A-Za-z_][A-Za-z0-9_]*`).
    EnvName,
    "a variable name of letters, digits and underscores that does not begin with a digit",
    "^[A-Za-z_][A-Za-z0-9_]{0,127}$",
    is_variable
);
word!(
    /// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
    Digest,
    "`sha256:` and 64 lower-case hexadecimal digits",
    "^sha256:[0-9a-f]{64}$",
    |s| s.strip_prefix("sha256:").is_some_and(|h| {
        h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
);
word!(
    /// A path below some root: no leading `/`, no `.` or `..` segment, no NUL, no backslash.
    RelPath,
    "a relative path without `.`, `..`, empty segments, backslashes or control characters",
    "^[^/\\\\\\x00-\\x1f][^\\\\\\x00-\\x1f]*$",
    |s| {
        !s.is_empty()
            && s.len() <= 4096
            && s.split('/').all(|p| !p.is_empty() && p != "." && p != "..")
            && !s.chars().any(|c| c == '\\' || c.is_control())
    }
);
word!(
    /// An absolute path, of a host folder or inside a container.
    AbsPath,
    "an absolute path without `.`, `..` or control characters",
    "^/",
    |s| {
        s == "/"
            || (s.starts_with('/')
                && s.len() <= 4096
                && s[1..].split('/').all(|p| !p.is_empty() && p != "." && p != "..")
                && !s.chars().any(char::is_control))
    }
);
word!(
    /// An instant in UTC, to the second, RFC 3339: `2026-01-31T12:00:00Z`.
    Timestamp,
    "a UTC time like 2026-01-31T12:00:00Z",
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
    is_timestamp
);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_raw(sha2::Sha256::digest(bytes).as_slice())
    }

    /// The digest from its 32 raw bytes, as a hasher elsewhere produced them.
    #[must_use]
    pub fn from_raw(raw: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS[usize::from(nibble)];
        let mut text = Vec::with_capacity(7 + 2 * raw.len());
        text.extend_from_slice(b"sha256:");
        for byte in raw {
            text.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        // Digits are text, so there is no other case.
        Self(String::from_utf8(text).unwrap_or_default())
    }

    /// The 64 hexadecimal digits without the `sha256:`.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }

    /// The first twelve hexadecimal digits, for tags and for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }
}

impl RelPath {
    /// This path with one more below it.
    pub fn join(&self, more: &str) -> Result<Self, WordError> {
        Self::new(format!("{}/{more}", self.0))
    }

    /// The folder that holds this path, if it is not the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(head, _)| Self(head.to_string()))
    }
}

impl AbsPath {
    /// `/`.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_string())
    }

    /// This path with a relative one below it.
    #[must_use]
    pub fn join(&self, more: &RelPath) -> Self {
        if self.0 == "/" { Self(format!("/{more}")) } else { Self(format!("{}/{more}", self.0)) }
    }

    /// Whether this is `other` or lies below it, by whole segments.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0 == other.0
            || other.0 == "/"
            || self.0.strip_prefix(other.0.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// An IPv4 subnet in CIDR form, `10.201.0.16/28`. Host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// The subnet of `prefix` bits that holds `address`.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, WordError> {
        if prefix > 32 {
            return Err(WordError::new("a prefix of 0 to 32 bits", &prefix.to_string()));
        }
        Ok(Self { base: u32::from(address) & Self::mask(prefix), prefix })
    }

    fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    /// How many leading bits are fixed.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The `n`th address, counting from the network address; `None` past the end.
    #[must_use]
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        (n <= !Self::mask(self.prefix)).then(|| Ipv4Addr::from(self.base.wrapping_add(n)))
    }

    /// How many subnets of `prefix` bits fit into this one.
    #[must_use]
    pub fn slots(self, prefix: u8) -> u32 {
        prefix.checked_sub(self.prefix).map_or(0, |bits| 1u32.checked_shl(bits.into()).unwrap_or(0))
    }

    /// The `n`th subnet of `prefix` bits inside this one; `None` past the end.
    #[must_use]
    pub fn slot(self, n: u32, prefix: u8) -> Option<Self> {
        (n < self.slots(prefix)).then(|| Self {
            base: self.base.wrapping_add(n.wrapping_shl(32 - u32::from(prefix))),
            prefix,
        })
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        self.base & mask == other.base & mask
    }

    /// Whether every address of this one is in the other.
    #[must_use]
    pub fn is_within(self, other: Self) -> bool {
        other.prefix <= self.prefix && self.overlaps(other)
    }

    /// Whether the subnet holds the address.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & Self::mask(self.prefix) == self.base
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let error = || WordError::new("a subnet like 10.201.0.0/16 with no host bits set", text);
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let subnet = Self::new(address, prefix.parse().map_err(|_| error())?)?;
        if subnet.base == u32::from(address) { Ok(subnet) } else { Err(error()) }
    }
}

impl TryFrom<String> for Subnet {
    type Error = WordError;
    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl JsonSchema for Subnet {
    fn schema_name() -> Cow<'static, str> {
        "Subnet".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9.]+/[0-9]{1,2}$" })
    }
}

/// Who a container is for. The order is the order in which roles are listed everywhere.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The only way out.
    Egress,
    /// Scans pushes; holds the upstream keys.
    GitGate,
    /// Takes the agent's requests to a person.
    Supervise,
    /// An optional proxy behind egress.
    Pipelock,
    /// The agent itself.
    Agent,
}

impl Role {
    /// Every role, in order.
    pub const ALL: [Self; 5] =
        [Self::Egress, Self::GitGate, Self::Supervise, Self::Pipelock, Self::Agent];

    /// The role as it is spelled in names, labels and paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::GitGate => "git-gate",
            Self::Supervise => "supervise",
            Self::Pipelock => "pipelock",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Turns any text into lower-case letters, digits and single dashes, beginning with a letter.
#[must_use]
pub fn slugify(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_start_matches(|c: char| !c.is_ascii_lowercase()).trim_end_matches('-');
    let slug: String = slug.chars().take(48).collect();
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "agent".to_string() } else { slug.to_string() }
}

fn is_stem(text: &str, most: usize) -> bool {
    text.len() <= most
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_variable(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_timestamp(text: &str) -> bool {
    let shape = b"dddd-dd-ddTdd:dd:ddZ";
    let number = |from: usize, to: usize| text[from..to].parse::<u32>().unwrap_or(u32::MAX);
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape)
            .all(|(b, &s)| if s == b'd' { b.is_ascii_digit() } else { b == s })
        && (1..=12).contains(&number(5, 7))
        && (1..=31).contains(&number(8, 10))
        && number(11, 13) < 24
        && number(14, 16) < 60
        && number(17, 19) < 60
}
