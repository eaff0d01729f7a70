//! Checks of requests that the wire contract leaves to the coordinator.

use jiff::Timestamp;
use orca_proto::limits;
use orca_proto::problem::{FieldError, Kind, Problem};
use orca_proto::spec::{CALENDAR, is_in_calendar};
use orca_proto::task::Outcome;

use super::Error;

/// The longest text that a report may give as a reason, in bytes.
const REASON: usize = 16 << 10;

/// How many faults of one request are kept.
const ENOUGH: usize = 1_000;

/// Runs a check that may have 64 MiB to look at where it holds up nobody else's request.
///
/// # Errors
/// The check's own.
pub(crate) async fn aside<T: Send + 'static>(
    check: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|error| Error::Internal(format!("a check ended early: {error}")))?
}

/// Collects what is wrong with a request.
#[derive(Default)]
pub(crate) struct Check(Vec<FieldError>);

impl Check {
    /// Notes a fault, while there is use in it: a large body can hold millions.
    pub(crate) fn fail(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < ENOUGH {
            self.0.push(FieldError::new(pointer, detail));
        }
    }

    /// A text for people: bounded, without NUL.
    pub(crate) fn text(&mut self, value: &str, pointer: &str, longest: usize) {
        if value.len() > longest {
            self.fail(pointer, format!("is longer than {longest} bytes"));
        }
        if value.contains('\0') {
            self.fail(pointer, "must not hold NUL");
        }
    }

    /// A name: letters, digits, `.`, `_`, `-`.
    pub(crate) fn name(&mut self, value: &str, pointer: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if value.is_empty() || value.len() > limits::NAME || !value.chars().all(allowed) {
            self.fail(pointer, "must be 1 to 128 letters, digits or any of ._-");
        }
    }

    /// A key that a caller made up: 1 to 128 visible ASCII characters.
    pub(crate) fn idempotency_key(&mut self, value: &str, pointer: &str) {
        if value.is_empty() || value.len() > limits::NAME || !value.bytes().all(|b| b.is_ascii_graphic()) {
            self.fail(pointer, "must be 1 to 128 visible ASCII characters");
        }
    }

    /// A date that makes sense.
    pub(crate) fn date(&mut self, value: Timestamp, pointer: impl Into<String>) {
        if !is_in_calendar(value) {
            self.fail(pointer, CALENDAR);
        }
    }

    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Failed { reason: Some(reason), .. }
            | Outcome::Rejected { reason }
            | Outcome::RuntimeError { reason } => self.text(reason, "/outcome/reason", REASON),
            _ => {}
        }
    }

    /// What was found, after what was found before; no more than there is use in.
    pub(crate) fn after(self, mut errors: Vec<FieldError>) -> Vec<FieldError> {
        errors.extend(self.0);
        errors.truncate(ENOUGH);
        errors
    }

    /// # Errors
    /// [`Error::Refused`] with everything that failed.
    pub(crate) fn done(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::validation(self.0)) }
    }
}

/// What is wrong with a list of tasks, as one problem: of kind `plan-invalid` when the graph is, else `validation`.
pub(crate) fn graph_problem(errors: Vec<FieldError>) -> Error {
    let graph = |error: &FieldError| {
        error.pointer == "/tasks" || error.pointer.contains("/depends_on") || error.pointer.ends_with("/key")
    };
    let kind = if errors.iter().any(graph) { Kind::PlanInvalid } else { Kind::Validation };
    Error::Refused(Box::new(Problem::with_errors(kind, errors)))
}
