//! Refusals: every answer outside 2xx and 3xx, as RFC 9457 problem details.
//!
//! A handler returns a [`Refusal`]; it travels as an extension of a bare response to the outermost layer, which knows the
//! request's id and writes the document ([`write()`]). So no error can leave in another format.

use std::any::Any;
use std::error::Error as _;
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use orca_proto::problem::{FieldError, Kind, MEDIA_TYPE, Problem};

use crate::app::Error;

/// Characters of a pointer or of a parser's message that are told: both quote the request, which may be long.
const FIELD_TEXT: usize = 500;

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    /// A refusal of `kind`.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(kind, detail)))
    }

    /// A refusal of one field of the body or, as `?name`, of the query.
    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::new(pointer, detail)])
    }

    /// A refusal of several fields of the body.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let short = |text: String| text.chars().take(FIELD_TEXT).collect::<String>();
        let each = errors.into_iter().map(|error| FieldError::new(short(error.pointer), short(error.detail)));
        Self(Box::new(Problem::validation(each.collect())))
    }

    /// Absent, or another namespace's, or not even an id: all look the same.
    pub(crate) fn not_found() -> Self {
        Error::not_found().into()
    }

    /// What is told.
    #[cfg(test)]
    pub(crate) fn problem(&self) -> &Problem {
        &self.0
    }
}

impl From<Error> for Refusal {
    /// Faults of the server's own are logged here, once, with everything that the caller is not told.
    fn from(error: Error) -> Self {
        let problem = error.problem();
        if problem.status >= 500 {
            tracing::error!(error = chain(&error), kind = %problem.kind, "a request failed");
        }
        Self(Box::new(problem))
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns the refusal that `response` carries into a problem document; other responses pass, but for errors that come
/// from elsewhere than a [`Refusal`]: they get the document of their status.
pub(super) fn write(mut response: Response, request_id: &str) -> Response {
    let status = response.status();
    let refusal = match response.extensions_mut().remove::<Refusal>() {
        Some(refusal) => refusal,
        None if status.is_client_error() || status.is_server_error() => of_status(status),
        None => return response,
    };
    let problem = Problem { request_id: Some(request_id.to_owned()), ..*refusal.0 };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    match problem.status {
        401 => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        429 | 503 => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    headers.remove(axum::http::header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
    response
}

fn of_status(status: StatusCode) -> Refusal {
    let kind = Kind::ALL.iter().copied().find(|kind| kind.status() == status.as_u16());
    let mut problem = Problem::new(kind.unwrap_or(Kind::Malformed), "");
    problem.status = status.as_u16();
    if kind.is_none() {
        problem.title = status.canonical_reason().unwrap_or("Error").to_owned();
    }
    Refusal(Box::new(problem))
}

/// The answer for a path that is no route.
pub(super) async fn unknown_path() -> Refusal {
    Refusal::new(Kind::NotFound, "no route has this path; /openapi.json lists them all")
}

/// The answer for a route's path with another method; the router adds `Allow`.
pub(super) async fn wrong_method() -> Refusal {
    Refusal::new(Kind::MethodNotAllowed, "the path exists, but not with this method; see the Allow header")
}

/// The answer when a handler panicked. The panic itself is the panic hook's to log.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    Refusal::new(Kind::Internal, "the request id is in the coordinator's log, with the cause").into_response()
}
