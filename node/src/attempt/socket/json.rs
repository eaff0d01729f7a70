//! Reads JSON bodies: bounded in size, time and number, and with the right problem for each way of being wrong.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use orca_proto::limits;
use orca_proto::problem::{FieldError, Kind, Problem};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::sync::SemaphorePermit;

use super::problem::ApiProblem;
use crate::attempt::session::Session;

/// The time in which a body must have arrived.
const ARRIVAL: Duration = Duration::from_secs(30);

/// A body that was read, with what bounds how many there are at once.
pub(super) struct Read<'a, T> {
    pub(super) value: T,
    _turn: SemaphorePermit<'a>,
    _large: Option<SemaphorePermit<'a>>,
}

/// Reads at most a few megabytes.
pub(super) async fn small<T: DeserializeOwned>(
    session: &Session,
    request: Request,
) -> Result<Read<'_, T>, ApiProblem> {
    read(session, request, limits::BODY).await
}

/// Reads as much as a plan may take; few of these are under way at once over all attempts.
pub(super) async fn large<T: DeserializeOwned>(
    session: &Session,
    request: Request,
) -> Result<Read<'_, T>, ApiProblem> {
    read(session, request, limits::PLAN_BODY).await
}

async fn read<T: DeserializeOwned>(
    session: &Session,
    request: Request,
    most: usize,
) -> Result<Read<'_, T>, ApiProblem> {
    let media_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media_type.split(';').next().map(str::trim) != Some("application/json") {
        let detail = "this route reads application/json; say so in Content-Type";
        return Err(ApiProblem::new(Kind::UnsupportedMediaType, detail));
    }
    let body = request.into_body();
    let closed = |_| ApiProblem::internal("a semaphore is closed");
    let turn = session.bodies.acquire().await.map_err(closed)?;
    let is_small = body.size_hint().exact().is_some_and(|size| size <= limits::BODY as u64);
    let large = if most > limits::BODY && !is_small {
        Some(session.node.large_bodies.acquire().await.map_err(closed)?)
    } else {
        None
    };
    let bytes = tokio::time::timeout(ARRIVAL, collect(body, most))
        .await
        .map_err(|_| ApiProblem::new(Kind::Timeout, "the body took too long to arrive"))??;
    Ok(Read { value: parse(&bytes)?, _turn: turn, _large: large })
}

async fn collect(body: Body, most: usize) -> Result<Bytes, ApiProblem> {
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiProblem::new(Kind::BodyTooLarge, format!("a body may have at most {most} bytes here")))
        }
        Err(error) => Err(ApiProblem::new(Kind::Malformed, format!("the body broke off: {error}"))),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiProblem> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ApiProblem::new(Kind::Malformed, format!("the body is not UTF-8: {error}")))?;
    serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => ApiProblem(Problem::validation(vec![FieldError::new("", error.to_string())])),
        _ => ApiProblem::new(Kind::Malformed, format!("the body is not JSON: {error}")),
    })
}
