//! Operators' verbs on many tasks: cancel what a selection means, look at dead letters, try them again, purge them.

use axum::extract::State;
use axum::http::StatusCode;
use orca_proto::dead_letter::DeadLetterFilter;
use orca_proto::page::Page;
use orca_proto::plan::Enqueued;
use orca_proto::selector::{Affected, BulkCancel, Selector};
use orca_proto::task::TaskSummary;

use super::auth::OperatorAuth;
use super::extract::{IdempotencyKey, Json, Query};
use super::refusal::Refusal;
use crate::app::App;

/// Cancel many tasks
///
/// Asks that all open tasks of a selection, and everything under them, end; answers how many tasks that were. Done in parts:
/// if the request is cut off, a repeat goes on with the rest.
#[utoipa::path(
    post,
    path = "/v1/cancellations",
    tag = "tasks",
    operation_id = "cancel_tasks",
    request_body = BulkCancel,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "Asked for", body = Affected)),
)]
pub(super) async fn cancel(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Json(cancel): Json<BulkCancel>,
) -> Result<Json<Affected>, Refusal> {
    Ok(Json(app.cancel_matching(&who, cancel).await?))
}

/// List dead letters
///
/// A page of the tasks that failed or expired and were neither tried again nor purged, newest first.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    tag = "tasks",
    operation_id = "list_dead_letters",
    params(DeadLetterFilter),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "A page", body = Page<TaskSummary>)),
)]
pub(super) async fn list(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Query(filter): Query<DeadLetterFilter>,
) -> Result<Json<Page<TaskSummary>>, Refusal> {
    Ok(Json(app.dead_letters(&who, filter).await?))
}

/// Retry dead letters
///
/// Enqueues each dead letter of a selection, at most 100,000, once more, as a new task with the same spec; a deadline that has
/// passed is set anew, as long ahead as it was at first. Done in parts: if the request is cut off, a repeat goes on with the
/// rest, and with an `Idempotency-Key` the same request again answers the same tasks.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/retries",
    tag = "tasks",
    operation_id = "retry_dead_letters",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; kept for 24 h.")),
    request_body = Selector,
    security(("bearer" = ["operator"])),
    responses((status = 201, description = "Enqueued, in the order of the old tasks", body = Enqueued)),
)]
pub(super) async fn retry(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Json(selector): Json<Selector>,
) -> Result<(StatusCode, Json<Enqueued>), Refusal> {
    Ok((StatusCode::CREATED, Json(app.retry_dead_letters(&who, selector, key.as_deref()).await?)))
}

/// Purge dead letters
///
/// Takes the dead letters of a selection off the list; answers how many. The tasks stay as they are until their retention is
/// over.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/purges",
    tag = "tasks",
    operation_id = "purge_dead_letters",
    request_body = Selector,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "Taken off the list", body = Affected)),
)]
pub(super) async fn purge(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Json(selector): Json<Selector>,
) -> Result<Json<Affected>, Refusal> {
    Ok(Json(app.purge_dead_letters(&who, selector).await?))
}
