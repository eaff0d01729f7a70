//! A word from outside to one task.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::limits;
use crate::problem::FieldError;
use crate::spec::check;

/// `POST /v1/tasks/{id}/signals`: tells a task something, whether it waits in line or runs. Kept until the task ends; the
/// first one of a name stands, and sending the same again is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Its name. Letters, digits, `.`, `_`, `-`; at most 128 bytes.
    pub name: String,
    /// Any JSON; at most 64 KiB.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub payload: Value,
}

/// A signal that a task waited for, and that has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Arrived {
    /// Its name.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// From whom: the token's subject; `its timeout` where the task goes on because nobody sent it in time.
    pub by: String,
}

impl Signal {
    /// Checks every field against its documented range and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        check::name(&self.name, "/name", check::NAME, errors);
        check::json(
            &self.payload,
            "/payload",
            limits::SIGNAL,
            "is larger than 64 KiB; send an artifact's id instead",
            errors,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_path_can_hold_and_a_payload_that_cannot_be_kept_are_refused() {
        let faults = |name: &str, payload: Value| {
            let mut errors = Vec::new();
            Signal { name: name.into(), payload }.validate(&mut errors);
            errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>()
        };
        assert!(faults("go", Value::from("x".repeat(limits::SIGNAL - 2))).is_empty());
        assert_eq!(faults("..", Value::from("x".repeat(limits::SIGNAL - 1))), ["/name", "/payload"]);
        assert_eq!(faults("go", serde_json::json!({ "\0": 1 })), ["/payload"]);
    }
}
