//! The REST API: thin handlers over [`App`], one noun per file, all listed in [`routes`].
//!
//! A handler's signature is its policy: who may call it ([`auth`]), what it reads ([`extract`]), what it answers. Whatever
//! every request shares is in [`pipeline`]: request id, access log, figures, time limits, and the one place where a
//! refusal becomes `application/problem+json` ([`refusal`]).

mod artifact;
mod attempt;
mod auth;
mod batch;
mod dead_letter;
mod document;
mod event;
mod extract;
mod gate;
mod health;
mod log;
mod namespace;
mod node;
mod pipeline;
mod queue;
mod refusal;
mod routes;
mod schedule;
mod sse;
mod task;
mod verified;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::from_fn_with_state;
use orca_proto::token::Verifier;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use verified::Verified;

use crate::app::App;
use crate::metrics::Metrics;

/// Bodies beyond [`orca_proto::limits::BODY`] that are in memory at once; more of them wait their turn.
const LARGE_BODIES: usize = 4;

/// What handlers work with. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Api {
    /// The application.
    pub(crate) app: App,
    /// Checks bearer tokens.
    pub(crate) verifier: Arc<Verified>,
    /// The figures of `/metrics`.
    pub(crate) metrics: Metrics,
    /// Cancelled when the server begins to go down: streams end then.
    pub(crate) shutdown: CancellationToken,
    /// The OpenAPI document, as served.
    document: Arc<str>,
    /// Keeps few large bodies in memory at a time.
    large_bodies: Arc<Semaphore>,
}

impl Api {
    /// The state for `app`, with tokens checked by `verifier`.
    pub(crate) fn new(app: App, verifier: Verifier, shutdown: CancellationToken) -> Self {
        Self {
            app,
            verifier: Arc::new(Verified::new(verifier)),
            metrics: Metrics::new(),
            shutdown,
            document: document().into(),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
        }
    }
}

impl FromRef<Api> for App {
    fn from_ref(api: &Api) -> Self {
        api.app.clone()
    }
}

/// The OpenAPI 3.1 document of all routes, as pretty JSON that ends in a newline.
pub(crate) fn document() -> String {
    let document = document::complete(routes::list().into_openapi());
    document.to_pretty_json().map(|text| text + "\n").unwrap_or_default()
}

/// Every route behind the pipeline.
pub(crate) fn router(api: Api) -> Router {
    let (routes, _) = routes::list().split_for_parts();
    routes
        .fallback(refusal::unknown_path)
        .method_not_allowed_fallback(refusal::wrong_method)
        .layer(CatchPanicLayer::custom(refusal::panicked))
        .layer(from_fn_with_state(api.clone(), pipeline::observe))
        .with_state(api)
}
