//! Admins' verbs on namespaces.

use axum::extract::State;
use orca_proto::namespace::{Namespace, Quota};

use super::auth::AdminAuth;
use super::extract::{Json, Path};
use super::refusal::Refusal;
use crate::app::App;

/// Get a namespace
///
/// Its quota, and what it holds. One that nobody has used yet is empty.
#[utoipa::path(
    get,
    path = "/v1/namespaces/{namespace}",
    tag = "namespaces",
    operation_id = "get_namespace",
    params(("namespace" = String, Path, description = "The namespace's name.")),
    security(("bearer" = ["admin"])),
    responses((status = 200, description = "The namespace", body = Namespace)),
)]
pub(super) async fn get(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<Namespace>, Refusal> {
    Ok(Json(app.namespace_get(&who, &name).await?))
}

/// Set a quota
///
/// What is left out has no limit. What the namespace holds beyond its quota stays; nothing is added to it.
#[utoipa::path(
    put,
    path = "/v1/namespaces/{namespace}",
    tag = "namespaces",
    operation_id = "set_quota",
    params(("namespace" = String, Path, description = "The namespace's name.")),
    request_body = Quota,
    security(("bearer" = ["admin"])),
    responses((status = 200, description = "The namespace", body = Namespace)),
)]
pub(super) async fn put(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(quota): Json<Quota>,
) -> Result<Json<Namespace>, Refusal> {
    Ok(Json(app.namespace_set(&who, &name, quota).await?))
}
