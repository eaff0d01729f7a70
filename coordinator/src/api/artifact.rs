//! Files: uploads, what attempts keep, downloads; all streamed.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use orca_proto::artifact::{Artifact, UploadQuery};
use orca_proto::ids::{ArtifactId, FencingToken, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::page::Page;
use tokio_util::io::ReaderStream;

use super::auth::{AnyAuth, NodeAuth, OperatorAuth};
use super::extract::{Json, Path, Query, Upload};
use super::refusal::Refusal;
use crate::app::App;

/// Bytes per read of a download.
const CHUNK: usize = 64 << 10;

/// Upload a file
///
/// Stores a file for tasks to use as an input. The body is the file's bytes, at most 16 GiB.
#[utoipa::path(
    post,
    path = "/v1/artifacts",
    tag = "artifacts",
    operation_id = "upload_artifact",
    params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    security(("bearer" = ["operator"])),
    responses((status = 201, description = "Stored", body = Artifact, headers(("Location" = String, description = "The artifact's path")))),
)]
pub(super) async fn upload(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Query(query): Query<UploadQuery>,
    upload: Upload,
) -> Result<impl IntoResponse, Refusal> {
    let artifact = app.artifact_store(&who, &query.name, None, upload.into_stream()).await?;
    let location = format!("/v1/artifacts/{}", artifact.id);
    let body: Json<Artifact> = Json(artifact);
    Ok((StatusCode::CREATED, [(LOCATION, location)], body))
}

/// Keep a file of an attempt
///
/// Stores a file that a running attempt made. The same name again replaces it.
#[utoipa::path(
    put,
    path = "/v1/tasks/{id}/attempts/{token}/artifacts/{name}",
    tag = "attempts",
    operation_id = "keep_artifact",
    params(
        ("id" = TaskId, Path, description = "The task's id."),
        ("token" = FencingToken, Path, description = "The lease's fencing token."),
        ("name" = String, Path, description = "Letters, digits, `.`, `_`, `-`; does not begin with a dot; at most 128 bytes."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "Stored", body = Artifact)),
)]
pub(super) async fn keep(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path((task, token, name)): Path<(TaskId, FencingToken, String)>,
    upload: Upload,
) -> Result<Json<Artifact>, Refusal> {
    let lease = LeaseRef { task, token };
    Ok(Json(app.artifact_store(&who, &name, Some(lease), upload.into_stream()).await?))
}

/// List a task's artifacts
///
/// What the task's attempts kept, by name.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/artifacts",
    tag = "artifacts",
    operation_id = "list_artifacts",
    params(("id" = TaskId, Path, description = "The task's id.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The artifacts", body = Page<Artifact>)),
)]
pub(super) async fn list(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<TaskId>,
) -> Result<Json<Page<Artifact>>, Refusal> {
    Ok(Json(app.artifact_list(&who, id).await?))
}

/// Get an artifact's record
///
/// Name, size and SHA-256.
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}",
    tag = "artifacts",
    operation_id = "get_artifact",
    params(("id" = ArtifactId, Path, description = "The artifact's id.")),
    security(("bearer" = ["operator"]), ("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "The record", body = Artifact)),
)]
pub(super) async fn get(
    AnyAuth(who): AnyAuth,
    State(app): State<App>,
    Path(id): Path<ArtifactId>,
) -> Result<Json<Artifact>, Refusal> {
    Ok(Json(app.artifact_get(&who, id).await?))
}

/// Download an artifact
///
/// The bytes. `ETag` is their SHA-256; `If-None-Match` is honoured.
#[utoipa::path(
    get,
    path = "/v1/artifacts/{id}/content",
    tag = "artifacts",
    operation_id = "download_artifact",
    params(("id" = ArtifactId, Path, description = "The artifact's id.")),
    security(("bearer" = ["operator"]), ("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses(
        (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "The caller has these bytes already"),
    ),
)]
pub(super) async fn download(
    AnyAuth(who): AnyAuth,
    State(app): State<App>,
    Path(id): Path<ArtifactId>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (artifact, file) = app.artifact_open(&who, id).await?;
    let etag = format!("\"{}\"", artifact.sha256);
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let about = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, artifact.size.to_string()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", artifact.name)),
        (ETAG, etag),
        // What a task wrote must never be taken for a page of this server.
        (HeaderName::from_static("x-content-type-options"), "nosniff".to_owned()),
    ];
    Ok((about, Body::from_stream(ReaderStream::with_capacity(file, CHUNK))).into_response())
}
