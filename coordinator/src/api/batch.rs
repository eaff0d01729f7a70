//! Several tasks at once, all or none.

use axum::extract::State;
use axum::http::StatusCode;
use orca_proto::limits;
use orca_proto::plan::{Batch, Enqueued};

use super::auth::OperatorAuth;
use super::extract::{IdempotencyKey, Json};
use super::refusal::Refusal;
use crate::app::App;

/// Enqueue several tasks
///
/// All or none, in one transaction. Tasks may depend on one another by key.
#[utoipa::path(
    post,
    path = "/v1/batches",
    tag = "tasks",
    operation_id = "enqueue_batch",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; kept for 24 h.")),
    request_body = Batch,
    security(("bearer" = ["operator"])),
    responses((status = 201, description = "Enqueued", body = Enqueued)),
)]
pub(super) async fn enqueue(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Json(batch): Json<Batch, { limits::PLAN_BODY }>,
) -> Result<(StatusCode, Json<Enqueued>), Refusal> {
    Ok((StatusCode::CREATED, Json(app.batch_enqueue(&who, batch, key.as_deref()).await?)))
}
