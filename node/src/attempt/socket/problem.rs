//! Problems as answers.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use orca_proto::problem::{Kind, MEDIA_TYPE, Problem};

/// A problem on its way out.
pub(super) struct ApiProblem(pub(super) Problem);

impl ApiProblem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self(Problem::new(kind, detail))
    }

    /// A fault of the node's own: logged here, not told to the container.
    pub(super) fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "an attempt's request failed");
        Self::new(Kind::Internal, "the node's log says more")
    }
}

impl From<Problem> for ApiProblem {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(CONTENT_TYPE, MEDIA_TYPE)], body).into_response()
    }
}
