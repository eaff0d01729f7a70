//! What supervisors and scrapers ask: alive, ready, figures, and the API's own description.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use orca_proto::problem::Kind;

use super::Api;
use super::auth::AdminAuth;
use super::refusal::Refusal;
use crate::metrics::MEDIA_TYPE;

/// Alive
///
/// Answers whenever the process serves requests at all. Needs no token and tells nothing else.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "server",
    operation_id = "healthz",
    security(()),
    responses((status = 200, description = "Alive", body = String, content_type = "text/plain")),
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready
///
/// Answers 200 while the database answers and the server is not going down, else 503. Needs no token.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "server",
    operation_id = "readyz",
    security(()),
    responses((status = 200, description = "Ready", body = String, content_type = "text/plain")),
)]
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, Refusal> {
    if api.shutdown.is_cancelled() {
        return Err(Refusal::new(Kind::Unavailable, "the coordinator is going down"));
    }
    api.app.database_ready().await?;
    Ok("ready\n")
}

/// Figures
///
/// OpenMetrics text for Prometheus. Needs an admin's token (`orca token issue --role admin --name NAME --key FILE`, and
/// `authorization.credentials_file` in Prometheus), because it tells of every namespace's load.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "server",
    operation_id = "metrics",
    security(("bearer" = ["admin"])),
    responses((status = 200, description = "The figures", body = String, content_type = "application/openmetrics-text")),
)]
pub(super) async fn metrics(_admin: AdminAuth, State(api): State<Api>) -> impl IntoResponse {
    let stats = api.app.queue_stats().await;
    if let Err(error) = &stats {
        tracing::warn!(%error, "the queue's figures are missing from /metrics");
    }
    ([(CONTENT_TYPE, MEDIA_TYPE)], api.metrics.text(stats.ok().as_ref()))
}

/// This API
///
/// The OpenAPI 3.1 document of all routes. Needs no token.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "server",
    operation_id = "openapi",
    security(()),
    responses((status = 200, description = "The document", body = Object, content_type = "application/json")),
)]
pub(super) async fn openapi(State(api): State<Api>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], String::from(&*api.document))
}
