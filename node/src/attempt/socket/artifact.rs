//! Artifacts: kept by streaming them through to the coordinator, fetched the same way. Nothing is buffered whole.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt};
use orca_proto::artifact::{Artifact, is_valid_name};
use orca_proto::ids::ArtifactId;
use orca_proto::limits;
use orca_proto::problem::{FieldError, Kind, Problem};

use super::problem::ApiProblem;
use crate::attempt::relay::{problem, relay};
use crate::attempt::session::Session;

const BYTES: &str = "application/octet-stream";

pub(super) async fn keep(
    State(session): State<Arc<Session>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<Artifact>, ApiProblem> {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    if !is_valid_name(&name) {
        let detail = "must be 1 to 128 letters, digits or any of ._-, and not begin with a dot";
        return Err(Problem::validation(vec![FieldError::new("/name", detail)]).into());
    }
    if session.redactor.finds(&name) {
        let detail = "holds a secret of this task, and everybody may see names";
        return Err(Problem::validation(vec![FieldError::new("/name", detail)]).into());
    }
    let too_large = || format!("an artifact may have at most {} bytes", limits::ARTIFACT);
    let declared =
        request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|size| size > limits::ARTIFACT) {
        return Err(ApiProblem::new(Kind::BodyTooLarge, too_large()));
    }
    let _turn = session.transfers.acquire().await.map_err(ApiProblem::internal)?;
    let mut size = 0_u64;
    let chunks = request.into_body().into_data_stream().map(move |chunk| {
        let chunk = chunk.map_err(std::io::Error::other)?;
        size += chunk.len() as u64;
        if size > limits::ARTIFACT { Err(std::io::Error::other("too large")) } else { Ok(chunk) }
    });
    let kept = session.node.client().keep(session.lease.lease, &name, reqwest::Body::wrap_stream(chunks));
    tokio::select! {
        kept = kept => Ok(Json(kept.map_err(problem)?)),
        () = session.lease.over() => Err(ApiProblem::new(Kind::LeaseLost, "the node lost the lease of this attempt")),
    }
}

pub(super) async fn fetch(
    State(session): State<Arc<Session>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiProblem> {
    let id = id
        .ok()
        .and_then(|Path(id)| id.parse::<ArtifactId>().ok())
        .filter(|id| session.readable.contains(id))
        .ok_or_else(|| {
            let detail = "neither an input of this task nor kept by one of its dependencies";
            ApiProblem::new(Kind::NotFound, detail)
        })?;
    let turn = Arc::clone(&session.transfers).acquire_owned().await.map_err(ApiProblem::internal)?;
    let bytes = relay(&session, || session.node.client().download(id)).await?;
    let bytes = bytes.map_err(std::io::Error::other).inspect_ok(move |_| {
        // Held until the last byte is read.
        let _ = &turn;
    });
    Ok(([(CONTENT_TYPE, BYTES)], Body::from_stream(bytes)).into_response())
}
