//! What operators send to a task that waits: an approval, a signal.

use axum::extract::State;
use axum::http::StatusCode;
use orca_proto::approval::Decision;
use orca_proto::ids::TaskId;
use orca_proto::signal::Signal;
use orca_proto::task::TaskSummary;
use serde_json::{Value, json};

use super::auth::OperatorAuth;
use super::extract::{Json, Path};
use super::refusal::Refusal;
use crate::app::App;

/// Approve a task, or refuse it
///
/// Decides over a task that waits for an approval: it goes on, or ends as `cancelled`. Of several decisions the first counts;
/// the others are answered 409 `not-awaited`.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/approval",
    tag = "tasks",
    operation_id = "decide_task",
    params(("id" = TaskId, Path, description = "The task's id.")),
    request_body = Decision,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The task", body = TaskSummary)),
)]
pub(super) async fn decide(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<TaskId>,
    Json(decision): Json<Decision>,
) -> Result<Json<TaskSummary>, Refusal> {
    Ok(Json(app.task_decide(&who, id, decision).await?))
}

/// Send a task a signal
///
/// Kept until the task ends, for the task to find before it runs or while it does. The first one of a name stands: the same
/// again is answered the same, another payload 409 `conflict`.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/signals",
    tag = "tasks",
    operation_id = "signal_task",
    params(("id" = TaskId, Path, description = "The task's id.")),
    request_body = Signal,
    security(("bearer" = ["operator"])),
    responses((status = 202, description = "Kept; an empty object", body = Value)),
)]
pub(super) async fn signal(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<TaskId>,
    Json(signal): Json<Signal>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    app.task_signal(&who, id, signal).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({}))))
}
