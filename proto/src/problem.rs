//! The one error format: RFC 9457 problem details (`application/problem+json`).
//!
//! Every answer outside 2xx, from coordinator, node and agent alike, is a [`Problem`]. Its [`Kind`] is what programs
//! branch on; `title` and `detail` are for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The kind, as a URN such as `urn:orca:problem:lease-lost`.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The kind in words; the same for every problem of the kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This occurrence, in a sentence that says what to do next where that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The fields that are wrong; only of kind `validation` and `plan-invalid`. At most 100 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The request's id (`X-Request-Id`), to be found in the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// Where, as a JSON pointer (RFC 6901) into the request's body; a query parameter is named `?name`.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl FieldError {
    /// `detail` about the field at `pointer`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// How many field errors a problem lists.
pub const LISTED_ERRORS: usize = 100;
/// How many faults are looked for before a check gives up.
pub(crate) const ENOUGH_ERRORS: usize = 1_000;
/// Characters of a pointer or detail that are told.
const FIELD_TEXT: usize = 500;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $slug:literal, $status:literal, $title:literal;)*) => {
        /// The kinds of problem. Clients branch on these; a kind once published keeps its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $slug)] $name,)*
            /// A kind that this version does not know.
            #[serde(other, rename = "urn:orca:problem:unknown")]
            Unknown,
        }

        impl Kind {
            /// Every kind that this version sends.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The URN.
            #[must_use]
            pub const fn urn(self) -> &'static str {
                match self { $(Self::$name => $slug,)* Self::Unknown => "urn:orca:problem:unknown" }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* Self::Unknown => 500 }
            }

            /// In words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* Self::Unknown => "Unknown problem" }
            }
        }
    };
}

kinds! {
    /// The bytes are not a request: not JSON, not UTF-8, a header without sense.
    Malformed = "urn:orca:problem:malformed", 400, "The request cannot be read";
    /// Read, but a field is unknown, missing or out of range. `errors` names each.
    Validation = "urn:orca:problem:validation", 422, "A field is not valid";
    /// A plan or batch whose graph is wrong: unknown or double keys, a cycle, too many tasks. `errors` names each.
    PlanInvalid = "urn:orca:problem:plan-invalid", 422, "The plan is not valid";
    /// No token, or one that is expired, revoked, altered or for somebody else.
    Unauthenticated = "urn:orca:problem:unauthenticated", 401, "No valid token";
    /// A valid token whose role does not allow this.
    Forbidden = "urn:orca:problem:forbidden", 403, "The token does not allow this";
    /// The attempt asked for a host that its task does not name, or that no task may reach.
    EgressRefused = "urn:orca:problem:egress-refused", 403, "The task may not reach this";
    /// Absent, or another namespace's.
    NotFound = "urn:orca:problem:not-found", 404, "Not found";
    /// The path exists, the method does not.
    MethodNotAllowed = "urn:orca:problem:method-not-allowed", 405, "Method not allowed";
    /// The thing's state does not allow this (cancel of an ended task, retry of a running one).
    Conflict = "urn:orca:problem:conflict", 409, "The state does not allow this";
    /// The task does not wait for an approval, or no longer.
    NotAwaited = "urn:orca:problem:not-awaited", 409, "The task does not wait for this";
    /// The fencing token is not the task's newest, or its lease has run out. Stop the attempt.
    LeaseLost = "urn:orca:problem:lease-lost", 409, "The lease was lost";
    /// Another result was already recorded for this fencing token.
    ResultConflict = "urn:orca:problem:result-conflict", 409, "Another result is already recorded";
    /// The idempotency key was used for another request.
    IdempotencyConflict = "urn:orca:problem:idempotency-conflict", 409, "The idempotency key was used for another request";
    /// The body is larger than the route allows.
    BodyTooLarge = "urn:orca:problem:body-too-large", 413, "The body is too large";
    /// Not the media type that the route reads.
    UnsupportedMediaType = "urn:orca:problem:unsupported-media-type", 415, "Unsupported media type";
    /// Slow down; `Retry-After` says for how long.
    TooManyRequests = "urn:orca:problem:too-many-requests", 429, "Too many requests";
    /// The namespace holds as much as its quota allows; `Retry-After` says when to look again.
    QuotaExceeded = "urn:orca:problem:quota-exceeded", 429, "The namespace's quota is used up";
    /// A fault of the server's own; the request id is in its log.
    Internal = "urn:orca:problem:internal", 500, "Internal error";
    /// The host that an attempt asked for cannot be resolved or does not accept a connection.
    Unreachable = "urn:orca:problem:unreachable", 502, "The host cannot be reached";
    /// The database or the engine does not answer, or the server is going down; try again.
    Unavailable = "urn:orca:problem:unavailable", 503, "Temporarily unavailable";
    /// The request took longer than the server allows.
    Timeout = "urn:orca:problem:timeout", 504, "The request took too long";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.urn())
    }
}

impl Problem {
    /// A problem of `kind` with the kind's own title and status.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            errors: Vec::new(),
            request_id: None,
        }
    }

    /// A `validation` problem that lists `errors`.
    #[must_use]
    pub fn validation(errors: Vec<FieldError>) -> Self {
        Self::with_errors(Kind::Validation, errors)
    }

    /// A problem of `kind` that lists the first [`LISTED_ERRORS`] of `errors`.
    #[must_use]
    pub fn with_errors(kind: Kind, mut errors: Vec<FieldError>) -> Self {
        let count = errors.len();
        errors.truncate(LISTED_ERRORS);
        for error in &mut errors {
            shorten(&mut error.pointer);
            shorten(&mut error.detail);
        }
        let detail = match errors.as_slice() {
            [] => String::new(),
            [only] => format!("{} {}", only.pointer, only.detail),
            [first, ..] => format!("{} {} (and {} more)", first.pointer, first.detail, count - 1),
        };
        Self { errors, ..Self::new(kind, detail) }
    }
}

/// Pointers and details quote the request, whose names may be megabytes long.
fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(FIELD_TEXT) {
        text.truncate(end);
        text.push('…');
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_a_later_version_is_still_read() {
        let text = r#"{"type":"urn:orca:problem:from-the-future","title":"T","status":418,"colour":"red"}"#;
        let problem: Problem = serde_json::from_str(text).unwrap();
        assert_eq!((problem.kind, problem.status), (Kind::Unknown, 418));
    }

    #[test]
    fn what_a_request_made_up_at_length_is_told_in_short() {
        let errors = vec![FieldError::new("/".repeat(1 << 20), "é".repeat(1 << 20)); 200];
        let problem = Problem::validation(errors);
        assert_eq!(problem.errors.len(), LISTED_ERRORS);
        assert!(serde_json::to_string(&problem).unwrap().len() < 200 * LISTED_ERRORS * 10);
    }

    #[test]
    fn each_kind_reads_back_from_its_urn() {
        for kind in Kind::ALL {
            let text = serde_json::to_string(kind).unwrap();
            assert_eq!(text, format!("\"{}\"", kind.urn()));
            assert_eq!(serde_json::from_str::<Kind>(&text).unwrap(), *kind);
        }
    }
}
