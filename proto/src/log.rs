//! Log lines of an attempt: gapless and in order, up to the cap.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::FencingToken;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
    /// The agent or the node, about the attempt.
    System,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// Its number in the attempt, from 0, without gaps over all streams.
    pub seq: i64,
    /// Where it came from.
    pub stream: Stream,
    /// When the agent read it, by the clock of its machine.
    pub at: Timestamp,
    /// The text without its newline, at most 16 KiB. Bytes that are not UTF-8 became U+FFFD, NUL became U+2400.
    pub text: String,
}

/// Lines to append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LogAppend {
    /// At most 5,000, in order of `seq`. Lines that were stored before are passed over.
    pub lines: Vec<LogLine>,
}

/// How far an attempt's log is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogAck {
    /// The `seq` that is wanted next: all before it are stored (or, past the cap, counted and dropped).
    pub next_seq: i64,
}

/// The query of `GET /v1/tasks/{id}/logs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields, default)]
pub struct LogQuery {
    /// Only the attempt with this number (all its grants).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Begin with the last so many lines, 1 to 1,000,000. Passed over where there is a cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Lines per page; 1 to 500, 500 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `true`: Server-Sent Events, one `log` event per line with the cursor as its id, then one `end` event once the task
    /// has ended. `Last-Event-ID` goes on after a break.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

/// One line of a task's log, oldest first over all attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntry {
    /// The attempt's number.
    pub attempt: i32,
    /// The attempt's fencing token.
    pub token: FencingToken,
    /// The line's number in that grant.
    pub seq: i64,
    /// Where it came from.
    pub stream: Stream,
    /// When the agent read it.
    pub at: Timestamp,
    /// The text.
    pub text: String,
}
