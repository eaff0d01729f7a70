//! Secrets: named values of a namespace that a task's program is given, and nobody else is ever told again.
//!
//! A value goes in once ([`SecretPut`]) and comes out on one path alone: to the node that holds the lease of a task that
//! names it ([`AttemptSecrets`]), and from there over the attempt's socket. No list, event, log or problem holds one.

use std::fmt;

use jiff::Timestamp;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::limits;
use crate::problem::FieldError;

// Its `Debug` prints nothing of it, it has no `Display`, and its memory is overwritten when it goes.
/// A secret's value.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
pub struct SecretValue(Zeroizing<String>);

impl SecretValue {
    /// Keeps `text` out of sight.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for the one who must have it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

/// Reads a text, and never quotes what it got instead: a number may well be the secret.
struct Text;

const NO_TEXT: &str = "must be a string";

impl<'de> Visitor<'de> for Text {
    type Value = SecretValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SecretValue, E> {
        Ok(SecretValue::new(text))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<SecretValue, E> {
        Ok(SecretValue::new(text))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<SecretValue, E> {
        Err(E::custom(NO_TEXT))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretValue, E> {
        Err(E::custom(NO_TEXT))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<SecretValue, E> {
        Err(E::custom(NO_TEXT))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretValue, E> {
        Err(E::custom(NO_TEXT))
    }
}

/// Sets a secret: `PUT /v1/secrets/{name}`. The one before is gone then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretPut {
    /// 1 byte to 64 KiB of text. What is not text goes in as base64.
    pub value: SecretValue,
}

impl SecretPut {
    /// Checks the value's size, and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        match self.value.expose().len() {
            0 => errors.push(FieldError::new("/value", "must not be empty")),
            length if length > limits::SECRET => {
                errors.push(FieldError::new("/value", "is longer than 64 KiB"));
            }
            _ => {}
        }
    }
}

/// What is told of a secret: everything but its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Secret {
    /// Its name: 1 to 128 letters, digits, `.`, `_`, `-`; does not begin with a dot.
    pub name: String,
    /// 1, and one more each time it is set.
    pub version: i64,
    /// When it was first set.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// By whom.
    pub updated_by: String,
}

/// The query of `GET /v1/secrets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields, default)]
pub struct SecretFilter {
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Secrets per page; 1 to 500, 500 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What became of the secrets of all namespaces: `POST /v1/secret-rotations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rotated {
    /// Secrets that are under the newest key now and were not before.
    pub rotated: u64,
    /// Secrets that are under a key that the coordinator does not have, or were tampered with. They stay as they are.
    pub unreadable: u64,
}

/// The secrets of one attempt: `GET /v1/tasks/{id}/attempts/{token}/secrets` at the coordinator, for the node that holds the
/// lease; `GET /v1/secrets` on the attempt's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AttemptSecrets {
    /// In the order in which the task names them.
    pub secrets: Vec<Delivered>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Delivered {
    /// The secret's name.
    pub name: String,
    /// The name of its file in `$ORCA_SECRETS_DIR`.
    pub file: String,
    /// The value.
    pub value: SecretValue,
}

/// Whether `name` may name a secret or a secret's file: 1 to 128 letters, digits, `.`, `_`, `-`, not beginning with a dot.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    crate::spec::is_valid_name(name) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_printed_and_is_written_as_it_is() {
        let put = SecretPut { value: SecretValue::new("swordfish") };
        assert!(!format!("{put:?}").contains("sword"), "{put:?}");
        let text = serde_json::to_string(&put).unwrap();
        assert_eq!(text, r#"{"value":"swordfish"}"#);
        assert_eq!(serde_json::from_str::<SecretPut>(&text).unwrap(), put);
    }

    #[test]
    fn what_is_no_text_is_refused_without_being_quoted() {
        for value in ["8675309", "-8675309", "86753.09", "true", "null", "[8675309]", r#"{"a":8675309}"#] {
            let error = serde_json::from_str::<SecretPut>(&format!(r#"{{"value":{value}}}"#)).unwrap_err();
            let told = error.to_string();
            assert!(
                told.contains("string") && !told.contains("8675309") && !told.contains("86753.09"),
                "{told}"
            );
        }
    }

    #[test]
    fn an_empty_and_an_overlong_value_are_refused() {
        let faults = |length: usize| {
            let mut errors = Vec::new();
            SecretPut { value: SecretValue::new("x".repeat(length)) }.validate(&mut errors);
            errors.len()
        };
        assert_eq!([0, 1, limits::SECRET, limits::SECRET + 1].map(faults), [1, 0, 0, 1]);
    }
}
