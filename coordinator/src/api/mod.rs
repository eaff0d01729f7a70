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
mod secret;
mod share;
mod sse;
mod task;
mod verified;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::from_fn_with_state;
use orca_proto::token::Verifier;
use share::Shares;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use verified::Verified;

use crate::app::App;
use crate::metrics::Metrics;

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
    /// What one principal may have of what all share.
    shares: Arc<Shares>,
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
            shares: Arc::new(Shares::new()),
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
