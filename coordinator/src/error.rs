//! The crate's one error: what the caller is told, and apart from it what only the log is told.
//!
//! [`Error::problem`] is the one place where an error becomes an answer, named database constraints included. Sources
//! (database, disk) are for the log; no answer ever shows them.

use std::io;

use orca_proto::problem::{FieldError, Kind, Problem};

/// Why the application refused or could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's fault or the state's: told in full.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The database failed or does not answer.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The artifact store failed.
    #[error("the artifact store failed: {0}")]
    Storage(&'static str, #[source] io::Error),
    /// What had been looked at was changed by others before it could be kept as it was.
    #[error("others changed at the same moment what this is about")]
    Overtaken,
    /// Something that must always hold did not.
    #[error("an internal rule was broken: {0}")]
    Internal(String),
    /// Not now: going down, or over a limit that passes by itself.
    #[error("{0}")]
    Unavailable(&'static str),
}

/// Why the coordinator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database could not be reached or refused the login.
    #[error("cannot connect to the database: {}; check DATABASE_URL and that Postgres is running", said(.0))]
    Connect(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("cannot bring the database's schema up to date: {}", said(.0))]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The data directory cannot be used.
    #[error(
        "cannot use the data directory {path}: {source}; set ORCA_DATA_DIR to a directory that can be written"
    )]
    DataDir {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A setting is out of range.
    #[error("{0}")]
    Setting(String),
}

/// What each named constraint says of the request that broke it.
const CONSTRAINTS: &[(&str, Kind, &str)] = &[
    ("nodes_name_key", Kind::Conflict, "another node registered this name just now; register again"),
    (
        "artifacts_attempt_key",
        Kind::Conflict,
        "a file of this name was stored at the same moment; store it again",
    ),
];

impl Error {
    /// A refusal of `kind`.
    pub fn refused(kind: Kind, detail: impl Into<String>) -> Self {
        Self::Refused(Box::new(Problem::new(kind, detail)))
    }

    /// A refusal that names fields.
    #[must_use]
    pub fn validation(errors: Vec<FieldError>) -> Self {
        Self::Refused(Box::new(Problem::validation(errors)))
    }

    /// A refusal of one field.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::validation(vec![FieldError::new(pointer, detail)])
    }

    /// Absent, or another namespace's: the two look the same.
    #[must_use]
    pub fn not_found() -> Self {
        Self::refused(Kind::NotFound, "there is no such thing in this namespace")
    }

    /// The fencing token is stale or its lease has run out.
    #[must_use]
    pub fn lease_lost() -> Self {
        Self::refused(
            Kind::LeaseLost,
            "this lease is no longer held; stop the attempt and report nothing more",
        )
    }

    /// The answer to the caller, without a request id.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Refused(problem) => Problem::clone(problem),
            Self::Unavailable(detail) => Problem::new(Kind::Unavailable, *detail),
            Self::Overtaken => Problem::new(
                Kind::Unavailable,
                "others changed at the same moment what this is about; try again",
            ),
            Self::Database(error) => database_problem(error),
            Self::Storage(..) | Self::Internal(_) => {
                Problem::new(Kind::Internal, "the request id is in the coordinator's log, with the cause")
            }
        }
    }

    /// Whether the same request may succeed when tried again at once: one of several transactions that were in each other's
    /// way was given up.
    #[must_use]
    pub fn is_contention(&self) -> bool {
        match self {
            Self::Overtaken => true,
            Self::Database(sqlx::Error::Database(error)) => {
                matches!(error.code().as_deref(), Some("40001" | "40P01"))
            }
            _ => false,
        }
    }

    /// Whether it waited too long for a lock that somebody else holds.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03"))
    }

    /// Whether nothing can be done now, whatever it is: the database is not reached, or this process is going down.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Database(sqlx::Error::Database(error)) => {
                // Class 08: the connection; 57P: the server goes down, comes up, or ended this session.
                error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
            }
            Self::Database(error) => database_problem(error).kind == Kind::Unavailable,
            Self::Refused(_) | Self::Storage(..) | Self::Overtaken | Self::Internal(_) => false,
        }
    }
}

/// What an error says, without the line of Postgres' own source that the driver adds to it.
pub(crate) fn said(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((before, line)) if line.bytes().all(|byte| byte.is_ascii_digit()) => before.to_owned(),
        _ => text,
    }
}

fn database_problem(error: &sqlx::Error) -> Problem {
    if let sqlx::Error::Database(error) = error {
        if let Some(name) = error.constraint()
            && let Some((_, kind, detail)) = CONSTRAINTS.iter().find(|(known, ..)| *known == name)
        {
            return Problem::new(*kind, *detail);
        }
        // Class 57: the server is shutting down, or a statement ran into its time limit; class 53: it is out of something.
        let code = error.code();
        if code.as_deref() == Some("53200") && error.message().contains("shared memory") {
            let detail = "Postgres has no memory left for locks; where this comes again, raise its max_locks_per_transaction \
                          and restart it";
            return Problem::new(Kind::Unavailable, detail);
        }
        let class = code.as_deref().and_then(|code| code.get(..2));
        if matches!(class, Some("57" | "53" | "40" | "08" | "55")) {
            return Problem::new(Kind::Unavailable, "the database is busy or restarting; try again");
        }
        return Problem::new(Kind::Internal, "the request id is in the coordinator's log, with the cause");
    }
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => {
            Problem::new(Kind::Unavailable, "the database does not answer; try again")
        }
        _ => Problem::new(Kind::Internal, "the request id is in the coordinator's log, with the cause"),
    }
}
