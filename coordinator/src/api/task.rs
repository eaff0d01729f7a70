//! Operators' verbs on tasks.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use orca_proto::ids::TaskId;
use orca_proto::page::Page;
use orca_proto::spec::NewTask;
use orca_proto::task::{Cancellation, Task, TaskFilter, TaskSummary};
use orca_proto::why::Why;

use super::auth::OperatorAuth;
use super::extract::{IdempotencyKey, Json, NoBody, Path, Query};
use super::refusal::Refusal;
use crate::app::App;

/// Enqueue a task
///
/// Stores one task or goal durably, then answers. With an `Idempotency-Key`, the same request again answers the same task.
#[utoipa::path(
    post,
    path = "/v1/tasks",
    tag = "tasks",
    operation_id = "enqueue_task",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; kept for 24 h.")),
    request_body = NewTask,
    security(("bearer" = ["operator"])),
    responses((status = 201, description = "Enqueued", body = Task, headers(("Location" = String, description = "The task's path")))),
)]
pub(super) async fn enqueue(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Json(task): Json<NewTask>,
) -> Result<impl IntoResponse, Refusal> {
    let (task, existed) = app.task_enqueue(&who, task, key.as_deref()).await?;
    Ok(if existed { Json::<Task>(task).into_response() } else { created(task).into_response() })
}

/// List tasks
///
/// A page of the namespace's tasks, newest first. All filters that are given must hold.
#[utoipa::path(
    get,
    path = "/v1/tasks",
    tag = "tasks",
    operation_id = "list_tasks",
    params(TaskFilter),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "A page", body = Page<TaskSummary>)),
)]
pub(super) async fn list(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Query(filter): Query<TaskFilter>,
) -> Result<Json<Page<TaskSummary>>, Refusal> {
    Ok(Json(app.task_list(&who, filter).await?))
}

/// Get a task
///
/// The task with its spec, its attempts and its result.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}",
    tag = "tasks",
    operation_id = "get_task",
    params(("id" = TaskId, Path, description = "The task's id.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The task", body = Task)),
)]
pub(super) async fn get(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<TaskId>,
) -> Result<Json<Task>, Refusal> {
    Ok(Json(app.task_get(&who, id).await?))
}

/// Explain why a task is not running
///
/// The very conditions that dispatch decides by, each with its facts, as of one instant; what keeps the task from running
/// comes first. For a task that runs, who holds it; for one that ended, how.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/why",
    tag = "tasks",
    operation_id = "explain_task",
    params(("id" = TaskId, Path, description = "The task's id.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "Why", body = Why)),
)]
pub(super) async fn why(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<TaskId>,
) -> Result<Json<Why>, Refusal> {
    Ok(Json(app.task_why(&who, id).await?))
}

/// Cancel a task
///
/// Asks that the task and everything under it end. Once this is answered nothing of it is granted any more; what runs is
/// stopped within its grace time.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/cancellation",
    tag = "tasks",
    operation_id = "cancel_task",
    params(("id" = TaskId, Path, description = "The task's id.")),
    request_body = Cancellation,
    security(("bearer" = ["operator"])),
    responses((status = 202, description = "Asked for", body = TaskSummary)),
)]
pub(super) async fn cancel(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<TaskId>,
    Json(cancellation): Json<Cancellation>,
) -> Result<(StatusCode, Json<TaskSummary>), Refusal> {
    Ok((StatusCode::ACCEPTED, Json(app.task_cancel(&who, id, cancellation).await?)))
}

/// Retry a task
///
/// Enqueues a task that ended once more, as a new task with the same spec. The body is empty or `{}`. With an
/// `Idempotency-Key`, the same request again answers the same new task.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/retries",
    tag = "tasks",
    operation_id = "retry_task",
    params(
        ("id" = TaskId, Path, description = "The ended task's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; kept for 24 h."),
    ),
    security(("bearer" = ["operator"])),
    responses((status = 201, description = "The new task", body = Task, headers(("Location" = String, description = "The new task's path")))),
)]
pub(super) async fn retry(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<TaskId>,
    IdempotencyKey(key): IdempotencyKey,
    _body: NoBody,
) -> Result<impl IntoResponse, Refusal> {
    let task = app.task_retry(&who, id, key.as_deref()).await?;
    Ok(created(task))
}

fn created(task: Task) -> impl IntoResponse {
    let location = format!("/v1/tasks/{}", task.summary.id);
    let body: Json<Task> = Json(task);
    (StatusCode::CREATED, [(LOCATION, location)], body)
}
