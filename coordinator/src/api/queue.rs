//! Operators' verbs on queues and on the groups inside of them.

use axum::extract::State;
use axum::http::StatusCode;
use orca_proto::page::Page;
use orca_proto::queue::{Group, GroupSettings, Pause, Queue, QueueSettings};

use super::auth::OperatorAuth;
use super::extract::{Json, NoBody, Path};
use super::refusal::Refusal;
use crate::app::App;

/// List queues
///
/// The namespace's queues that a task or a setting has named, by name.
#[utoipa::path(
    get,
    path = "/v1/queues",
    tag = "queues",
    operation_id = "list_queues",
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The queues", body = Page<Queue>)),
)]
pub(super) async fn list(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
) -> Result<Json<Page<Queue>>, Refusal> {
    Ok(Json(app.queue_list(&who).await?))
}

/// Get a queue
///
/// How it is served, what is in line and what runs.
#[utoipa::path(
    get,
    path = "/v1/queues/{queue}",
    tag = "queues",
    operation_id = "get_queue",
    params(("queue" = String, Path, description = "The queue's name.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The queue", body = Queue)),
)]
pub(super) async fn get(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(queue): Path<String>,
) -> Result<Json<Queue>, Refusal> {
    Ok(Json(app.queue_get(&who, &queue).await?))
}

/// Set a queue
///
/// How it is served. What is left out has its default again; whether it is paused stays.
#[utoipa::path(
    put,
    path = "/v1/queues/{queue}",
    tag = "queues",
    operation_id = "set_queue",
    params(("queue" = String, Path, description = "The queue's name.")),
    request_body = QueueSettings,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The queue", body = Queue)),
)]
pub(super) async fn put(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(queue): Path<String>,
    Json(value): Json<QueueSettings>,
) -> Result<Json<Queue>, Refusal> {
    Ok(Json(app.queue_set(&who, &queue, value).await?))
}

/// Remove a queue's settings
///
/// Those of its groups too, and every pause. Refused while it has open tasks; it is no longer listed once nothing names it.
#[utoipa::path(
    delete,
    path = "/v1/queues/{queue}",
    tag = "queues",
    operation_id = "remove_queue",
    params(("queue" = String, Path, description = "The queue's name.")),
    security(("bearer" = ["operator"])),
    responses((status = 204, description = "Removed")),
)]
pub(super) async fn delete(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(queue): Path<String>,
) -> Result<StatusCode, Refusal> {
    app.queue_remove(&who, &queue).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a queue
///
/// Once this is answered, nothing of it is granted. What runs goes on.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/pause",
    tag = "queues",
    operation_id = "pause_queue",
    params(("queue" = String, Path, description = "The queue's name.")),
    request_body = Pause,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The queue", body = Queue)),
)]
pub(super) async fn pause(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(queue): Path<String>,
    Json(value): Json<Pause>,
) -> Result<Json<Queue>, Refusal> {
    Ok(Json(app.queue_pause(&who, &queue, value).await?))
}

/// Resume a queue
///
/// Its tasks are granted again. The body is empty or `{}`.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/resume",
    tag = "queues",
    operation_id = "resume_queue",
    params(("queue" = String, Path, description = "The queue's name.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The queue", body = Queue)),
)]
pub(super) async fn resume(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(queue): Path<String>,
    _body: NoBody,
) -> Result<Json<Queue>, Refusal> {
    Ok(Json(app.queue_resume(&who, &queue).await?))
}

/// Set a group
///
/// How it is served. What is left out has its default again; whether it is paused stays.
#[utoipa::path(
    put,
    path = "/v1/queues/{queue}/groups/{group}",
    tag = "queues",
    operation_id = "set_group",
    params(
        ("queue" = String, Path, description = "The queue's name."),
        ("group" = String, Path, description = "The group's name."),
    ),
    request_body = GroupSettings,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The group", body = Group)),
)]
pub(super) async fn put_group(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path((queue, group)): Path<(String, String)>,
    Json(value): Json<GroupSettings>,
) -> Result<Json<Group>, Refusal> {
    Ok(Json(app.group_set(&who, &queue, &group, value).await?))
}

/// Pause a group
///
/// Once this is answered, nothing of it is granted. What runs goes on.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/groups/{group}/pause",
    tag = "queues",
    operation_id = "pause_group",
    params(
        ("queue" = String, Path, description = "The queue's name."),
        ("group" = String, Path, description = "The group's name."),
    ),
    request_body = Pause,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The group", body = Group)),
)]
pub(super) async fn pause_group(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path((queue, group)): Path<(String, String)>,
    Json(value): Json<Pause>,
) -> Result<Json<Group>, Refusal> {
    Ok(Json(app.group_pause(&who, &queue, &group, value).await?))
}

/// Resume a group
///
/// Its tasks are granted again. The body is empty or `{}`.
#[utoipa::path(
    post,
    path = "/v1/queues/{queue}/groups/{group}/resume",
    tag = "queues",
    operation_id = "resume_group",
    params(
        ("queue" = String, Path, description = "The queue's name."),
        ("group" = String, Path, description = "The group's name."),
    ),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The group", body = Group)),
)]
pub(super) async fn resume_group(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path((queue, group)): Path<(String, String)>,
    _body: NoBody,
) -> Result<Json<Group>, Refusal> {
    Ok(Json(app.group_resume(&who, &queue, &group).await?))
}
