//! What goes wrong, as people read it, and the exit code that programs read.
//!
//! Every failure is told as `error: what`, then why, then what to do next; fields that are wrong come one per line with
//! their JSON pointers. Text that came from a server is escaped before it is printed.

use std::fmt::Display;
use std::io;

use orca_proto::client::ClientError;
use orca_proto::problem::{FieldError, Kind, Problem};

use crate::output::{Output, escape};

/// How the command ended. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The task that was waited for ended otherwise than `succeeded`.
    TaskNotSucceeded = 1,
    /// The command line, a file or a field is not valid.
    Invalid = 2,
    /// No such task, artifact, node or profile.
    NotFound = 3,
    /// The token is absent, invalid, or does not allow this.
    NotAllowed = 4,
    /// The coordinator does not answer.
    Unreachable = 5,
    /// The thing's state does not allow this.
    Conflict = 6,
    /// Anything else.
    Other = 7,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something to tell the user.
    #[error("{}", .0.what)]
    Told(Box<Told>),
    /// Whoever read standard output has gone, as `head` does. Nothing to tell.
    #[error("the reader of standard output has gone")]
    OutputClosed,
}

/// A failure in words.
#[derive(Debug)]
pub(crate) struct Told {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What happened.
    pub(crate) what: String,
    /// Why.
    pub(crate) why: Option<String>,
    /// The fields that are wrong.
    pub(crate) fields: Vec<FieldError>,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// What the coordinator answered, if this is what it says.
    pub(crate) problem: Option<Problem>,
}

impl Failure {
    /// A failure with nothing but what happened.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self::Told(Box::new(Told {
            exit,
            what: what.into(),
            why: None,
            fields: Vec::new(),
            hint: None,
            problem: None,
        }))
    }

    /// Something the user gave is not valid.
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(Exit::Invalid, what)
    }

    /// A file or directory could not be used. One that is not there or not open to us was named wrongly.
    pub(crate) fn file(what: impl Into<String>, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory => Exit::Invalid,
            _ => Exit::Other,
        };
        Self::new(exit, what).because(error.to_string())
    }

    /// Adds why.
    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.why = Some(why.into());
        }
        self
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.hint = Some(hint.into());
        }
        self
    }

    /// Adds one more thing to do next.
    pub(crate) fn also(mut self, hint: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            let before = told.hint.take().map_or_else(String::new, |before| format!("{before}\n"));
            told.hint = Some(before + &hint.into());
        }
        self
    }

    /// Adds the fields that are wrong.
    pub(crate) fn fields(mut self, fields: Vec<FieldError>) -> Self {
        if let Self::Told(told) = &mut self {
            told.fields = fields;
        }
        self
    }

    /// What the coordinator refused, with the one thing (such as `task`) that it was about.
    pub(crate) fn about(error: ClientError, thing: &str, id: impl Display) -> Self {
        let mut failure = Self::from(error);
        if let Self::Told(told) = &mut failure {
            match told.exit {
                Exit::NotFound => told.what = format!("there is no {thing} {id}"),
                Exit::Conflict => told.what = format!("{thing} {id}: {}", told.what),
                _ => {}
            }
            if told.exit == Exit::NotFound {
                told.why = None;
                told.hint =
                    Some("is it written in full, and this the right coordinator (`orca profile ls`)?".into());
            }
        }
        failure
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Told(told) => told.exit,
            Self::OutputClosed => Exit::Done,
        }
    }

    /// The lines for standard error, safe for a terminal; empty where there is nothing to tell.
    pub(crate) fn render(&self) -> String {
        use std::fmt::Write as _;
        let Self::Told(told) = self else { return String::new() };
        let mut text = format!("error: {}\n", escape::line(&told.what));
        for line in told.why.iter().flat_map(|why| why.lines()) {
            let _ = writeln!(text, "  {}", escape::line(line));
        }
        for field in &told.fields {
            let pointer = if field.pointer.is_empty() { "/" } else { &field.pointer };
            let _ = writeln!(text, "  {}: {}", escape::line(pointer), escape::line(&field.detail));
        }
        for line in told.hint.iter().flat_map(|hint| hint.lines()) {
            let _ = writeln!(text, "  hint: {}", escape::line(line));
        }
        if let Some(id) = told.problem.as_ref().and_then(|problem| problem.request_id.as_deref()) {
            let _ = writeln!(text, "  request {}", escape::line(id));
        }
        text
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Setup { what, why } => Self::invalid(format!("cannot use {what}")).because(why),
            ClientError::Problem(problem) => Self::from_problem(*problem),
            ClientError::Transport { url, why } if speaks_no_tls(&url, &why) => {
                Self::new(Exit::Unreachable, "there is no TLS at this address")
                    .because(url.clone())
                    .hint(format!("try {}", without_tls(&url)))
            }
            ClientError::Foreign { url, status } => {
                Self::new(Exit::Unreachable, "that does not look like a coordinator")
                    .because(format!("{url} answered {status} in another form than a coordinator's"))
                    .hint("is the address right (`orca profile ls`), or is a proxy in between?")
            }
            ClientError::Transport { url, why } => {
                Self::new(Exit::Unreachable, "the coordinator does not answer")
                    .because(if url.is_empty() { why } else { format!("{url}: {why}") })
                    .hint("is it running? `orca dev` starts one here; --url or ORCA_URL names another")
            }
            ClientError::Decode { url, why } => {
                Self::new(Exit::Other, "the answer cannot be read").because(format!("{url}: {why}")).hint(
                    "is this address a coordinator, and of the same version as this command (orca --version)?",
                )
            }
        }
    }
}

impl Failure {
    fn from_problem(problem: Problem) -> Self {
        let exit = exit_of(&problem);
        let mut failure = Self::new(exit, sentence(&problem.title));
        if problem.errors.is_empty() && !problem.detail.is_empty() {
            failure = failure.because(problem.detail.clone());
        }
        failure = failure.fields(problem.errors.clone());
        let hint = match problem.kind {
            Kind::Unauthenticated => {
                Some("`orca login` saves a token; --token-file or ORCA_TOKEN gives one for once")
            }
            Kind::Forbidden => {
                Some("use a token whose role allows it (`orca token issue --role … --name NAME --key FILE`)")
            }
            Kind::Unavailable | Kind::TooManyRequests | Kind::Timeout => Some("try again in a moment"),
            Kind::QuotaExceeded => {
                Some("wait until tasks have ended, or have an admin raise it (`orca namespace set`)")
            }
            Kind::Internal => Some("the coordinator's log has more, under this request"),
            _ => None,
        };
        if let Self::Told(told) = &mut failure {
            told.hint = hint.map(str::to_owned);
            told.problem = Some(problem);
        }
        failure
    }

    /// Says what happened in other words, where the coordinator's title speaks of something else than the user did.
    pub(crate) fn instead_of(mut self, kind: Kind, what: &str) -> Self {
        if let Self::Told(told) = &mut self
            && told.problem.as_ref().is_some_and(|problem| problem.kind == kind)
        {
            told.what = what.to_owned();
        }
        self
    }

    /// What standard error gets, for whoever reads it.
    pub(crate) fn told(&self, output: Output) -> String {
        if output.is_json() { self.render_json() } else { self.render() }
    }

    /// The same for programs: the coordinator's problem as it came, or a problem document of our own.
    fn render_json(&self) -> String {
        let Self::Told(told) = self else { return String::new() };
        let document = match &told.problem {
            Some(problem) => serde_json::to_string(problem),
            None => serde_json::to_string(&serde_json::json!({
                "type": "about:blank",
                "title": told.what,
                "detail": told.why.as_deref().unwrap_or_default(),
                "errors": told.fields,
            })),
        };
        document.map_or_else(|_| self.render(), |text| escape::json(text) + "\n")
    }
}

/// Whether a server that was asked for TLS answered with something else.
fn speaks_no_tls(url: &str, why: &str) -> bool {
    url.starts_with("https://") && (why.contains("InvalidContentType") || why.contains("corrupt message"))
}

/// The same server, asked without TLS.
fn without_tls(url: &str) -> String {
    let origin = reqwest::Url::parse(url).map(|url| url.origin().ascii_serialization());
    origin.unwrap_or_else(|_| url.to_owned()).replacen("https://", "http://", 1)
}

/// The exit code that goes with a problem.
fn exit_of(problem: &Problem) -> Exit {
    match problem.kind {
        Kind::Malformed
        | Kind::Validation
        | Kind::PlanInvalid
        | Kind::BodyTooLarge
        | Kind::UnsupportedMediaType => Exit::Invalid,
        Kind::Unauthenticated | Kind::Forbidden | Kind::EgressRefused => Exit::NotAllowed,
        Kind::NotFound => Exit::NotFound,
        Kind::Conflict
        | Kind::NotAwaited
        | Kind::LeaseLost
        | Kind::ResultConflict
        | Kind::IdempotencyConflict => Exit::Conflict,
        Kind::Unavailable => Exit::Unreachable,
        Kind::MethodNotAllowed
        | Kind::TooManyRequests
        | Kind::QuotaExceeded
        | Kind::Internal
        | Kind::Unreachable
        | Kind::Timeout => Exit::Other,
        Kind::Unknown => match problem.status {
            400 | 413 | 415 | 422 => Exit::Invalid,
            401 | 403 => Exit::NotAllowed,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            503 => Exit::Unreachable,
            _ => Exit::Other,
        },
    }
}

/// A title as the beginning of a line after `error: `.
fn sentence(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_problem_has_its_documented_exit_code() {
        let code = |kind| Failure::from(ClientError::Problem(Box::new(Problem::new(kind, "")))).exit().code();
        assert_eq!(code(Kind::Validation), 2);
        assert_eq!(code(Kind::PlanInvalid), 2);
        assert_eq!(code(Kind::NotFound), 3);
        assert_eq!(code(Kind::Unauthenticated), 4);
        assert_eq!(code(Kind::Forbidden), 4);
        assert_eq!(code(Kind::Unavailable), 5);
        assert_eq!(code(Kind::Conflict), 6);
        assert_eq!(code(Kind::IdempotencyConflict), 6);
        assert_eq!(code(Kind::NotAwaited), 6);
        assert_eq!(code(Kind::QuotaExceeded), 7);
        assert_eq!(code(Kind::Internal), 7);
        let silent = ClientError::Transport { url: String::new(), why: "refused".into() };
        assert_eq!(Failure::from(silent).exit().code(), 5);
    }

    #[test]
    fn field_errors_come_one_per_line_and_cannot_drive_the_terminal() {
        let problem = Problem::validation(vec![
            FieldError::new("/queue", "must be short\u{1b}[2J"),
            FieldError::new("", "is no object"),
        ]);
        let text = Failure::from(ClientError::Problem(Box::new(problem))).render();
        assert_eq!(text, "error: a field is not valid\n  /queue: must be short\\x1b[2J\n  /: is no object\n");
    }
}
