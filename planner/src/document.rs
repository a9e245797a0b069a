//! Documents: JSON in one canonical form, with one digest, read strictly.
//!
//! The canonical form is RFC 8785. Every document of `bottle` keeps to a subset on which it is
//! simple: keys are ASCII, numbers are integers below 2^53, and no key occurs twice. A file on
//! disk is the same value pretty-printed; its layout does not touch the digest.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

use crate::words::Digest;

/// The largest magnitude of an integer in a document: 2^53 - 1, as I-JSON (RFC 7493) has it.
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, cut short, with a key twice, or of the wrong shape.
    #[error("{0}")]
    Malformed(String),
    /// A field this version does not know.
    #[error("unknown field{} {}", if .0.len() == 1 { "" } else { "s" }, .0.join(", "))]
    UnknownFields(Vec<String>),
}

/// Whether fields that this version does not know are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// They are (everything that is acted upon).
    Strict,
    /// They are passed over (everything that is only shown).
    Lenient,
}

/// A document as read: the typed value and the digest of exactly what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<T> {
    /// The typed value.
    pub value: T,
    /// `sha256` over the canonical form of the whole document, unknown fields included.
    pub digest: Digest,
}

/// Reads a document from text.
pub fn parse<T: Serialize + DeserializeOwned>(
    text: &str,
    strictness: Strictness,
) -> Result<Document<T>, DocumentError> {
    let raw = parse_value(text)?;
    from_value(raw, strictness)
}

/// Reads a document from a value that [`parse_value`] made.
pub fn from_value<T: Serialize + DeserializeOwned>(
    raw: Value,
    strictness: Strictness,
) -> Result<Document<T>, DocumentError> {
    let digest = Digest::of(canonical_value(&raw).as_bytes());
    let value: T = T::deserialize(&raw).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    if strictness == Strictness::Strict {
        let known =
            serde_json::to_value(&value).map_err(|e| DocumentError::Malformed(e.to_string()))?;
        let mut unknown = BTreeSet::new();
        unknown_fields(&raw, &known, &mut String::new(), &mut unknown);
        if !unknown.is_empty() {
            return Err(DocumentError::UnknownFields(unknown.into_iter().take(10).collect()));
        }
    }
    Ok(Document { value, digest })
}

/// Reads JSON of the subset this module's first lines describe.
pub fn parse_value(text: &str) -> Result<Value, DocumentError> {
    serde_json::from_str::<Unique>(text)
        .map(|unique| unique.0)
        .map_err(|e| DocumentError::Malformed(e.to_string()))
}

/// The canonical form, RFC 8785.
///
/// On the subset this module writes, compact output with sorted keys *is* that form.
pub fn canonical<T: Serialize>(value: &T) -> Result<String, DocumentError> {
    let value = serde_json::to_value(value).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok(canonical_value(&value))
}

/// The digest of a value's canonical form.
pub fn digest<T: Serialize>(value: &T) -> Result<Digest, DocumentError> {
    Ok(Digest::of(canonical(value)?.as_bytes()))
}

/// The digest of a value as its type writes it, in the order of its fields.
///
/// Only to be compared with another of the same type and build: a label that tells a difference.
/// It costs a third of [`digest`], which stands for a document wherever it was written.
pub fn fingerprint<T: Serialize>(value: &T) -> Result<Digest, DocumentError> {
    let bytes = serde_json::to_vec(value).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok(Digest::of(&bytes))
}

/// The form on disk: pretty-printed, sorted, LF, with a final newline.
pub fn pretty<T: Serialize>(value: &T) -> Result<String, DocumentError> {
    let value = serde_json::to_value(value).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok(pretty_value(&value))
}

/// [`pretty`] for a value that is JSON already.
#[must_use]
pub fn pretty_value(value: &Value) -> String {
    format!("{value:#}\n")
}

fn canonical_value(value: &Value) -> String {
    // `Value`'s maps are ordered (`preserve_order` is off, and a test would see it on).
    value.to_string()
}

fn unknown_fields(raw: &Value, known: &Value, path: &mut String, out: &mut BTreeSet<String>) {
    match (raw, known) {
        (Value::Object(raw), Value::Object(known)) => {
            for (key, value) in raw {
                let length = path.len();
                path.push('/');
                path.push_str(key);
                match known.get(key) {
                    Some(found) => unknown_fields(value, found, path, out),
                    None => {
                        out.insert(format!("`{}`", path.escape_debug()));
                    }
                }
                path.truncate(length);
            }
        }
        (Value::Array(raw), Value::Array(known)) => {
            // Sets may come unsorted or with repeats; an element is known if its likeness is.
            for (index, value) in raw.iter().enumerate() {
                let length = path.len();
                path.push_str(&format!("/{index}"));
                match known.get(index) {
                    Some(found) if raw.len() == known.len() => {
                        unknown_fields(value, found, path, out);
                    }
                    _ if known.contains(value) => {}
                    _ => {
                        out.insert(format!("`{path}`"));
                    }
                }
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// A value without duplicate keys, floats, huge integers or keys beyond ASCII.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON with unique keys and integers below 2^53")
            }
            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
                Ok(Unique(Value::Bool(value)))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Unique, E> {
                if value > MAX_INTEGER {
                    return Err(E::custom("integer of 2^53 or more"));
                }
                Ok(Unique(Value::Number(Number::from(value))))
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Unique, E> {
                if value.unsigned_abs() > MAX_INTEGER {
                    return Err(E::custom("integer of 2^53 or more"));
                }
                Ok(Unique(Value::Number(Number::from(value))))
            }
            fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
                Ok(Unique(Value::String(value.to_string())))
            }
            fn visit_string<E>(self, value: String) -> Result<Unique, E> {
                Ok(Unique(Value::String(value)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
                let mut items = Vec::new();
                while let Some(Unique(item)) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Unique(Value::Array(items)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique, A::Error> {
                let mut map = Map::new();
                while let Some(key) = access.next_key::<String>()? {
                    if !key.is_ascii() {
                        return Err(serde::de::Error::custom("key that is not ASCII"));
                    }
                    let Unique(value) = access.next_value()?;
                    if map.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("duplicate key `{key}`")));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(Value::Object(map)))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse_value(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn keys_are_sorted_and_layout_is_nothing() {
        let a = parse_value("{\"b\": 1, \"a\": [true, null]}").expect("valid");
        let b = parse_value("{\n\"a\":[true,null],\"b\":1}").expect("valid");
        assert_eq!(canonical_value(&a), r#"{"a":[true,null],"b":1}"#);
        assert_eq!(canonical_value(&a), canonical_value(&b));
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        assert!(refused(r#"{"a":1,"a":2}"#).contains("duplicate key `a`"));
        assert!(refused(r#"{"a":{"b":1,"b":1}}"#).contains("duplicate key `b`"));
        assert!(refused("[1.5]").contains("integers"));
        assert!(refused("[9007199254740992]").contains("2^53"));
        assert!(refused("{\"\u{e9}\":1}").contains("ASCII"));
        assert!(refused("{\"a\":1").contains("EOF"));
        assert!(refused("{} {}").contains("trailing"));
    }

    #[test]
    fn rfc_8785_escapes() {
        // The string of RFC 8785, section 3.2.2.
        let value = parse_value("\"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\"")
            .expect("valid");
        assert_eq!(canonical_value(&value), "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"");
    }
}
