//! Values that must not be shown: a type without `Debug`, `Display` and `Serialize`, wiped when it
//! goes.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use zeroize::Zeroizing;

/// One secret value.
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// The value, for the one place that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text.to_owned())))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text)))
            }
        }
        from.deserialize_string(Text)
    }
}

/// What was handed over at once: secrets by key. The keys are names and may be shown.
pub(crate) type Delivery = BTreeMap<String, Secret>;

/// Why a delivery was refused; holds names and never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// Reads a delivery: one JSON object of strings.
///
/// The parser's own message is not passed on, since it quotes what it found.
pub(crate) fn parse(bytes: &[u8]) -> Result<Delivery, Refused> {
    let delivery: Delivery = serde_json::from_slice(bytes).map_err(|error| {
        Refused(format!(
            "expected one JSON object of strings, found something else at line {} column {}",
            error.line(),
            error.column()
        ))
    })?;
    // A malformed key is not quoted: it may be a value in the wrong place.
    let well_formed = |key: &str| {
        (1..=160).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:.-".contains(&b))
    };
    if !delivery.keys().all(|key| well_formed(key)) {
        return Err(Refused("a key is not a name".into()));
    }
    match delivery.iter().find(|(_, secret)| secret.expose().contains('\0')) {
        Some((key, _)) => Err(Refused(format!("the value of {key} holds a NUL character"))),
        None => Ok(delivery),
    }
}

/// The keys a role was given but does not know, as a reason for refusing them all.
pub(crate) fn refuse_unknown(
    delivery: &Delivery,
    known: impl Fn(&str) -> bool,
) -> Result<(), Refused> {
    let unknown: Vec<&str> = delivery.keys().map(String::as_str).filter(|k| !known(k)).collect();
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(Refused(format!("this container takes no {}", unknown.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_never_quote_a_value() {
        for payload in [
            r#"{"TOKEN": 4242424242}"#,
            r#"["hunter2hunter2"]"#,
            r#"{"hunter2 hunter2": "x"}"#,
            r#"{"TOKEN": "hunter2\u0000hunter2"}"#,
            r#"{"TOKEN": "hunter2"#,
            "hunter2",
            "",
        ] {
            let refused = parse(payload.as_bytes()).err().expect(payload).to_string();
            assert!(!refused.contains("hunter2") && !refused.contains("4242"), "{refused}");
        }
    }

    #[test]
    fn an_object_of_strings_is_taken() {
        let delivery = parse(br#"{"inject:GH_PAT": "a\nb", "git:web": ""}"#).unwrap();
        assert_eq!(delivery["inject:GH_PAT"].expose(), "a\nb");
        assert!(refuse_unknown(&delivery, |key| key.contains(':')).is_ok());
        let refused = refuse_unknown(&delivery, |key| key == "git:web").unwrap_err();
        assert_eq!(refused.to_string(), "this container takes no inject:GH_PAT");
    }
}
