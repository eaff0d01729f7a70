//! Operators' verbs on secrets. None of them answers a value.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use orca_proto::page::Page;
use orca_proto::secret::{Rotated, Secret, SecretFilter, SecretPut};

use super::auth::{AdminAuth, OperatorAuth};
use super::extract::{Json, NoBody, Path, Query};
use super::refusal::Refusal;
use crate::app::App;

/// Set a secret
///
/// Stores it encrypted; the value before, if there was one, is gone then. Attempts that run keep what they have. No route
/// answers the value again.
#[utoipa::path(
    put,
    path = "/v1/secrets/{name}",
    tag = "secrets",
    operation_id = "set_secret",
    params(("name" = String, Path, description = "The secret's name.")),
    request_body = SecretPut,
    security(("bearer" = ["operator"])),
    responses(
        (status = 200, description = "Changed", body = Secret),
        (status = 201, description = "Made", body = Secret, headers(("Location" = String, description = "The secret's path"))),
    ),
)]
pub(super) async fn put(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(put): Json<SecretPut>,
) -> Result<Response, Refusal> {
    let (secret, new) = app.secret_put(&who, &name, put).await?;
    let location = format!("/v1/secrets/{}", secret.name);
    let body: Json<Secret> = Json(secret);
    Ok(if new {
        (StatusCode::CREATED, [(LOCATION, location)], body).into_response()
    } else {
        body.into_response()
    })
}

/// List secrets
///
/// A page of the namespace's secrets, by name, without their values.
#[utoipa::path(
    get,
    path = "/v1/secrets",
    tag = "secrets",
    operation_id = "list_secrets",
    params(SecretFilter),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "A page", body = Page<Secret>)),
)]
pub(super) async fn list(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Query(filter): Query<SecretFilter>,
) -> Result<Json<Page<Secret>>, Refusal> {
    Ok(Json(app.secret_list(&who, &filter).await?))
}

/// Remove a secret
///
/// Attempts that run keep what they have; one that begins without it is rejected.
#[utoipa::path(
    delete,
    path = "/v1/secrets/{name}",
    tag = "secrets",
    operation_id = "remove_secret",
    params(("name" = String, Path, description = "The secret's name.")),
    security(("bearer" = ["operator"])),
    responses((status = 204, description = "Removed")),
)]
pub(super) async fn delete(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    app.secret_delete(&who, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Encrypt secrets anew
///
/// Encrypts the secrets of all namespaces that are under another key with the coordinator's newest one. The body is empty or
/// `{}`.
#[utoipa::path(
    post,
    path = "/v1/secret-rotations",
    tag = "secrets",
    operation_id = "rotate_secrets",
    security(("bearer" = ["admin"])),
    responses((status = 200, description = "How many were encrypted anew", body = Rotated)),
)]
pub(super) async fn rotate(
    AdminAuth(who): AdminAuth,
    State(app): State<App>,
    _body: NoBody,
) -> Result<Json<Rotated>, Refusal> {
    Ok(Json(app.secrets_rotate(&who).await?))
}
