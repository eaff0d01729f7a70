//! What keeps a task from its turn until somebody lets it go on, and what keeps a second one like it out.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::duration::Span;

/// At most one task of the namespace per key, for as long as `while` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Unique {
    /// 1 to 256 bytes, without control characters.
    pub key: String,
    /// For how long the first task keeps others out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub r#while: UniqueWhile,
}

/// For how long a task holds its unique key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum UniqueWhile {
    /// Until it has ended.
    #[default]
    Open,
    /// Until its first attempt begins.
    Queued,
}

/// An operator must say yes before the task may run; no ends it as `cancelled`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Approval {
    /// What is asked; at most 1,024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// How long to wait, from the enqueueing; for ever unless told. At most 366 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// What then.
    #[serde(skip_serializing_if = "is_default")]
    pub on_timeout: OnTimeout,
}

/// A signal that must have arrived before the task may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WaitFor {
    /// The signal's name. Letters, digits, `.`, `_`, `-`; at most 128 bytes; each once.
    pub signal: String,
    /// How long to wait, from the enqueueing; for ever unless told. At most 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// What then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_timeout: OnTimeout,
}

/// What becomes of a task when nobody let it go on in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It ends as `cancelled`.
    #[default]
    Cancel,
    /// It goes on as if it had been let.
    Proceed,
}
