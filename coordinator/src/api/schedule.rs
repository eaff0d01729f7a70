//! Operators' verbs on schedules.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use orca_proto::page::Page;
use orca_proto::plan::Enqueued;
use orca_proto::queue::Pause;
use orca_proto::schedule::{Backfill, Schedule, ScheduleFilter, ScheduleSpec};

use super::auth::OperatorAuth;
use super::extract::{IdempotencyKey, Json, NoBody, Path, Query};
use super::refusal::Refusal;
use crate::app::App;

/// Set a schedule
///
/// Makes the schedule, or gives the one of that name another spec. What it has done, and whether it is paused, stays.
#[utoipa::path(
    put,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    operation_id = "set_schedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    request_body = ScheduleSpec,
    security(("bearer" = ["operator"])),
    responses(
        (status = 200, description = "Changed", body = Schedule),
        (status = 201, description = "Made", body = Schedule, headers(("Location" = String, description = "The schedule's path"))),
    ),
)]
pub(super) async fn put(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(spec): Json<ScheduleSpec>,
) -> Result<Response, Refusal> {
    let (schedule, new) = app.schedule_put(&who, &name, spec).await?;
    let location = format!("/v1/schedules/{}", schedule.name);
    let body: Json<Schedule> = Json(schedule);
    Ok(if new {
        (StatusCode::CREATED, [(LOCATION, location)], body).into_response()
    } else {
        body.into_response()
    })
}

/// List schedules
///
/// A page of the namespace's schedules, by name.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    tag = "schedules",
    operation_id = "list_schedules",
    params(ScheduleFilter),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "A page", body = Page<Schedule>)),
)]
pub(super) async fn list(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Query(filter): Query<ScheduleFilter>,
) -> Result<Json<Page<Schedule>>, Refusal> {
    Ok(Json(app.schedule_list(&who, &filter).await?))
}

/// Get a schedule
///
/// Its spec, its last run and its next ones.
#[utoipa::path(
    get,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    operation_id = "get_schedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The schedule", body = Schedule)),
)]
pub(super) async fn get(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Schedule>, Refusal> {
    Ok(Json(app.schedule_get(&who, &name).await?))
}

/// Remove a schedule
///
/// The tasks that it has enqueued stay.
#[utoipa::path(
    delete,
    path = "/v1/schedules/{name}",
    tag = "schedules",
    operation_id = "remove_schedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    security(("bearer" = ["operator"])),
    responses((status = 204, description = "Removed")),
)]
pub(super) async fn delete(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    app.schedule_delete(&who, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a schedule
///
/// Once this is answered, no run is enqueued but by hand. What it has enqueued goes on.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/pause",
    tag = "schedules",
    operation_id = "pause_schedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    request_body = Pause,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The schedule", body = Schedule)),
)]
pub(super) async fn pause(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(pause): Json<Pause>,
) -> Result<Json<Schedule>, Refusal> {
    Ok(Json(app.schedule_pause(&who, &name, pause).await?))
}

/// Resume a schedule
///
/// Runs that were missed meanwhile are made up as far back as `catch_up` says. The body is empty or `{}`.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/resume",
    tag = "schedules",
    operation_id = "resume_schedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The schedule", body = Schedule)),
)]
pub(super) async fn resume(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
    _body: NoBody,
) -> Result<Json<Schedule>, Refusal> {
    Ok(Json(app.schedule_resume(&who, &name).await?))
}

/// Run a schedule now
///
/// Enqueues a run beside the schedule's own times, also while it is paused; what `overlap` says of its last run holds. The
/// body is empty or `{}`. With an `Idempotency-Key`, the same request again answers the same task.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/runs",
    tag = "schedules",
    operation_id = "run_schedule",
    params(
        ("name" = String, Path, description = "The schedule's name."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; kept for 24 h."),
    ),
    security(("bearer" = ["operator"])),
    responses((status = 201, description = "Enqueued", body = Enqueued)),
)]
pub(super) async fn run(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    _body: NoBody,
) -> Result<(StatusCode, Json<Enqueued>), Refusal> {
    Ok((StatusCode::CREATED, Json(app.schedule_run(&who, &name, key.as_deref()).await?)))
}

/// Backfill a schedule
///
/// Enqueues the runs of a window that has passed, at most 1,000, oldest first, whether they ran before or not. Each begins
/// once the one before has ended. With an `Idempotency-Key`, the same request again answers the same tasks.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/backfills",
    tag = "schedules",
    operation_id = "backfill_schedule",
    params(
        ("name" = String, Path, description = "The schedule's name."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; kept for 24 h."),
    ),
    request_body = Backfill,
    security(("bearer" = ["operator"])),
    responses((status = 201, description = "Enqueued", body = Enqueued)),
)]
pub(super) async fn backfill(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    Json(window): Json<Backfill>,
) -> Result<(StatusCode, Json<Enqueued>), Refusal> {
    Ok((StatusCode::CREATED, Json(app.schedule_backfill(&who, &name, window, key.as_deref()).await?)))
}
