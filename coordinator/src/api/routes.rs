//! The one list of all routes, in groups that share a time limit.
//!
//! Who may call a route and what it reads is in its handler's signature.

use axum::middleware::from_fn;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    Api, artifact, attempt, batch, dead_letter, document, event, gate, health, log, namespace, node,
    pipeline, queue, schedule, secret, task,
};

/// Every route, and the document that describes it.
pub(super) fn list() -> OpenApiRouter<Api> {
    let ordinary = OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::openapi))
        .routes(routes!(task::enqueue))
        .routes(routes!(task::get))
        .routes(routes!(task::why))
        .routes(routes!(task::cancel))
        .routes(routes!(task::retry))
        .routes(routes!(gate::decide))
        .routes(routes!(gate::signal))
        .routes(routes!(artifact::list))
        .routes(routes!(artifact::get))
        .routes(routes!(node::register, node::list))
        .routes(routes!(node::get))
        .routes(routes!(node::cordon))
        .routes(routes!(node::uncordon))
        .routes(routes!(secret::put, secret::delete))
        .routes(routes!(attempt::secrets))
        .routes(routes!(attempt::start))
        .routes(routes!(attempt::progress))
        .routes(routes!(attempt::logs))
        .routes(routes!(queue::list))
        .routes(routes!(queue::get, queue::put, queue::delete))
        .routes(routes!(queue::pause))
        .routes(routes!(queue::resume))
        .routes(routes!(queue::put_group))
        .routes(routes!(queue::pause_group))
        .routes(routes!(queue::resume_group))
        .routes(routes!(namespace::get, namespace::put))
        .routes(routes!(schedule::get, schedule::put, schedule::delete))
        .routes(routes!(schedule::pause))
        .routes(routes!(schedule::resume))
        .routes(routes!(schedule::run))
        .routes(routes!(schedule::backfill))
        .route_layer(from_fn(pipeline::no_query))
        .route_layer(from_fn(pipeline::ordinary));
    let large = OpenApiRouter::new()
        .routes(routes!(batch::enqueue))
        .routes(routes!(dead_letter::cancel))
        .routes(routes!(dead_letter::retry))
        .routes(routes!(dead_letter::purge))
        .routes(routes!(secret::rotate))
        .routes(routes!(attempt::children))
        .routes(routes!(attempt::dependencies))
        .routes(routes!(attempt::report))
        .routes(routes!(node::reports))
        .route_layer(from_fn(pipeline::no_query))
        .route_layer(from_fn(pipeline::large));
    let held = OpenApiRouter::new()
        .routes(routes!(node::claim))
        .routes(routes!(node::renew))
        .route_layer(from_fn(pipeline::no_query))
        .route_layer(from_fn(pipeline::held));
    let queried = OpenApiRouter::new()
        .routes(routes!(task::list))
        .routes(routes!(dead_letter::list))
        .routes(routes!(schedule::list))
        .routes(routes!(secret::list))
        .route_layer(from_fn(pipeline::ordinary));
    let held_queried =
        OpenApiRouter::new().routes(routes!(attempt::signal)).route_layer(from_fn(pipeline::held));
    // Bounded by how long they may be silent, not by how long they may take.
    let streamed = OpenApiRouter::new()
        .routes(routes!(log::read))
        .routes(routes!(event::watch))
        .routes(routes!(artifact::upload))
        .routes(routes!(artifact::keep))
        .routes(routes!(artifact::download));
    OpenApiRouter::with_openapi(document::base())
        .merge(ordinary)
        .merge(large)
        .merge(held)
        .merge(queried)
        .merge(held_queried)
        .merge(streamed)
}
