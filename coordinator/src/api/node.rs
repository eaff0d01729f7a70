//! Nodes' verbs about themselves, and operators' view of them.

use axum::extract::State;
use orca_proto::attempt::{Reports, ReportsSettled};
use orca_proto::ids::NodeId;
use orca_proto::limits;
use orca_proto::node::{ClaimRequest, Claimed, Node, Registered, Registration, RenewRequest, Renewed};
use orca_proto::page::Page;
use orca_proto::queue::Pause;

use super::Api;
use super::auth::{NodeAuth, OperatorAuth};
use super::extract::{Json, NoBody, Path};
use super::refusal::Refusal;
use crate::app::{App, RawClaimed, RawReports};

/// Register a node
///
/// A daemon makes itself known. Another instance under the same name ends the leases of the one before.
#[utoipa::path(
    post,
    path = "/v1/nodes",
    tag = "nodes",
    operation_id = "register_node",
    request_body = Registration,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "Registered", body = Registered)),
)]
pub(super) async fn register(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Json(registration): Json<Registration>,
) -> Result<Json<Registered>, Refusal> {
    Ok(Json(app.node_register(&who, registration).await?))
}

/// List nodes
///
/// All nodes of the namespace, by name.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    tag = "nodes",
    operation_id = "list_nodes",
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The nodes", body = Page<Node>)),
)]
pub(super) async fn list(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
) -> Result<Json<Page<Node>>, Refusal> {
    Ok(Json(app.node_list(&who).await?))
}

/// Get a node
///
/// One node of the namespace.
#[utoipa::path(
    get,
    path = "/v1/nodes/{id}",
    tag = "nodes",
    operation_id = "get_node",
    params(("id" = NodeId, Path, description = "The node's id.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The node", body = Node)),
)]
pub(super) async fn get(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<NodeId>,
) -> Result<Json<Node>, Refusal> {
    Ok(Json(app.node_get(&who, id).await?))
}

/// Cordon a node
///
/// Once this is answered, nothing is granted to it. What it runs goes on.
#[utoipa::path(
    post,
    path = "/v1/nodes/{id}/cordon",
    tag = "nodes",
    operation_id = "cordon_node",
    params(("id" = NodeId, Path, description = "The node's id.")),
    request_body = Pause,
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The node", body = Node)),
)]
pub(super) async fn cordon(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<NodeId>,
    Json(value): Json<Pause>,
) -> Result<Json<Node>, Refusal> {
    Ok(Json(app.node_cordon(&who, id, value).await?))
}

/// Uncordon a node
///
/// It takes work again, within a second or two. The body is empty or `{}`.
#[utoipa::path(
    post,
    path = "/v1/nodes/{id}/uncordon",
    tag = "nodes",
    operation_id = "uncordon_node",
    params(("id" = NodeId, Path, description = "The node's id.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The node", body = Node)),
)]
pub(super) async fn uncordon(
    OperatorAuth(who): OperatorAuth,
    State(app): State<App>,
    Path(id): Path<NodeId>,
    _body: NoBody,
) -> Result<Json<Node>, Refusal> {
    Ok(Json(app.node_uncordon(&who, id).await?))
}

/// Claim tasks
///
/// A long poll: answered at once if there is work, else as soon as there is, else with nothing after `wait`.
#[utoipa::path(
    post,
    path = "/v1/nodes/{id}/claims",
    tag = "nodes",
    operation_id = "claim_tasks",
    params(("id" = NodeId, Path, description = "The node's id.")),
    request_body = ClaimRequest,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "Grants, best first", body = Claimed)),
)]
pub(super) async fn claim(
    NodeAuth(who): NodeAuth,
    State(api): State<Api>,
    Path(id): Path<NodeId>,
    Json(request): Json<ClaimRequest>,
) -> Result<Json<RawClaimed>, Refusal> {
    let _held = api.metrics.held("claims");
    // Boxed, as it is held: what reading the request took room for need not be kept meanwhile.
    Ok(Json(Box::pin(api.app.node_claim(&who, id, request)).await?))
}

/// Renew leases
///
/// Renews on arrival, then is held until one of the leases is to be cancelled or was lost, or `wait` is over.
#[utoipa::path(
    post,
    path = "/v1/nodes/{id}/renewals",
    tag = "nodes",
    operation_id = "renew_leases",
    params(("id" = NodeId, Path, description = "The node's id.")),
    request_body = RenewRequest,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "What became of the leases", body = Renewed)),
)]
pub(super) async fn renew(
    NodeAuth(who): NodeAuth,
    State(api): State<Api>,
    Path(id): Path<NodeId>,
    Json(request): Json<RenewRequest>,
) -> Result<Json<Renewed>, Refusal> {
    let _held = api.metrics.held("renewals");
    Ok(Json(Box::pin(api.app.node_renew(&who, id, request)).await?))
}

/// Report many attempts
///
/// How up to 1,024 attempts ended. Each is settled or refused by itself; the answers are in the order of the reports. The same
/// report again is answered the same.
#[utoipa::path(
    post,
    path = "/v1/nodes/{id}/reports",
    tag = "nodes",
    operation_id = "report_many",
    params(("id" = NodeId, Path, description = "The node's id.")),
    request_body = Reports,
    security(("bearer" = ["planner"]), ("bearer" = ["worker"])),
    responses((status = 200, description = "What became of each", body = ReportsSettled)),
)]
pub(super) async fn reports(
    NodeAuth(who): NodeAuth,
    State(app): State<App>,
    Path(id): Path<NodeId>,
    Json(reports): Json<RawReports, { limits::PLAN_BODY }>,
) -> Result<Json<ReportsSettled>, Refusal> {
    Ok(Json(app.node_reports(&who, id, reports).await?))
}
