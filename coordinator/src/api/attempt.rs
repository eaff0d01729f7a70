//! What a node says of one attempt that it holds the lease of. All of it is fenced by the token in the path.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use orca_proto::attempt::{AttemptStart, Children, Dependencies, Received, Report, Reported, SignalQuery};
use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::limits;
use orca_proto::log::{LogAck, LogAppend};
use orca_proto::node::LeaseRef;
use orca_proto::plan::Enqueued;
use orca_proto::secret::AttemptSecrets;
use orca_proto::task::Progress;

use super::auth::NodeAuth;
use super::extract::{Json, LeasePath, OptionalJson, Path, Query};
use super::refusal::Refusal;
use crate::app::App;

/// Report the start
///
/// The attempt's program was started, of this very image. The body may be left out.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/attempts/{token}/start",
    tag = "attempts",
    operation_id = "report_start",
    params(LeasePath),
    request_body = Option<AttemptStart>,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 204, description = "Noted")),
)]
pub(super) async fn start(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(path): Path<LeasePath>,
    OptionalJson(start): OptionalJson<AttemptStart>,
) -> Result<StatusCode, Refusal> {
    app.attempt_start(&who, path.lease(), start).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Report progress
///
/// How far the attempt is; the latest counts.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/attempts/{token}/progress",
    tag = "attempts",
    operation_id = "report_progress",
    params(LeasePath),
    request_body = Progress,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 204, description = "Noted")),
)]
pub(super) async fn progress(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(path): Path<LeasePath>,
    Json(body): Json<Progress>,
) -> Result<StatusCode, Refusal> {
    app.attempt_progress(&who, path.lease(), body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Append log lines
///
/// Lines that were stored before are passed over, so a repeat is harmless.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/attempts/{token}/logs",
    tag = "attempts",
    operation_id = "append_logs",
    params(LeasePath),
    request_body = LogAppend,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "How far the log is stored", body = LogAck)),
)]
pub(super) async fn logs(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(path): Path<LeasePath>,
    Json(body): Json<LogAppend>,
) -> Result<Json<LogAck>, Refusal> {
    Ok(Json(app.attempt_logs(&who, path.lease(), body).await?))
}

/// Spawn tasks
///
/// Enqueues tasks under the attempt's task, all or none.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/attempts/{token}/children",
    tag = "attempts",
    operation_id = "spawn_children",
    params(LeasePath),
    request_body = Children,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "Enqueued", body = Enqueued)),
)]
pub(super) async fn children(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(path): Path<LeasePath>,
    Json(body): Json<Children, { limits::PLAN_BODY }>,
) -> Result<Json<Enqueued>, Refusal> {
    Ok(Json(app.attempt_children(&who, path.lease(), body).await?))
}

/// Read dependencies
///
/// The results of the tasks that the attempt's task depended on; for a finish step, of all the plan's tasks.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/attempts/{token}/dependencies",
    tag = "attempts",
    operation_id = "read_dependencies",
    params(LeasePath),
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "The dependencies", body = Dependencies)),
)]
pub(super) async fn dependencies(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(path): Path<LeasePath>,
) -> Result<Json<Dependencies>, Refusal> {
    Ok(Json(app.attempt_dependencies(&who, path.lease()).await?))
}

/// Read secrets
///
/// The secrets that the attempt's task names, in plain text. Whoever does not hold the lease gets none.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/attempts/{token}/secrets",
    tag = "attempts",
    operation_id = "read_secrets",
    params(LeasePath),
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "The secrets", body = AttemptSecrets)),
)]
pub(super) async fn secrets(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(path): Path<LeasePath>,
) -> Result<Response, Refusal> {
    let secrets: Json<AttemptSecrets> = Json(app.attempt_secrets(&who, path.lease()).await?);
    Ok(([(CACHE_CONTROL, "no-store")], secrets).into_response())
}

/// Wait for a signal
///
/// Answers the signal of this name that an operator sent to the attempt's task; held for as long as `wait` says where none
/// has come.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/attempts/{token}/signals/{name}",
    tag = "attempts",
    operation_id = "await_signal",
    params(
        ("id" = TaskId, Path, description = "The task's id."),
        ("token" = FencingToken, Path, description = "The lease's fencing token."),
        ("name" = String, Path, description = "The signal's name."),
        SignalQuery,
    ),
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses(
        (status = 200, description = "The signal", body = Received),
        (status = 204, description = "None came"),
    ),
)]
pub(super) async fn signal(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path((id, token, name)): Path<(TaskId, FencingToken, String)>,
    Query(query): Query<SignalQuery>,
) -> Result<Response, Refusal> {
    let received = app.attempt_signal(&who, LeaseRef { task: id, token }, &name, query.wait).await?;
    Ok(match received {
        Some(received) => Json::<Received>(received).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Report the end
///
/// Settles the attempt: how it ended, and the result or plan. The same again answers the same.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/attempts/{token}/report",
    tag = "attempts",
    operation_id = "report_attempt",
    params(LeasePath),
    request_body = Report,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "The task's state after it", body = Reported)),
)]
pub(super) async fn report(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(path): Path<LeasePath>,
    Json(body): Json<Report, { limits::PLAN_BODY }>,
) -> Result<Json<Reported>, Refusal> {
    Ok(Json(app.attempt_report(&who, path.lease(), body).await?))
}
