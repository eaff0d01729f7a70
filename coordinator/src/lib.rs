//! The coordinator: all truth about tasks, in Postgres, served over REST.
//!
//! [`run`] is the whole of it: it starts the application ([`app`]: queue, state machine, reconcilers, artifacts), puts the
//! REST API in front and serves until it is told to stop. Replicas may serve one database together.

mod api;
pub mod app;
mod blobs;
pub mod clock;
mod db;
pub(crate) mod dispatch;
pub mod error;
pub mod keyring;
pub mod lifecycle;
mod metrics;
mod reconcile;
#[cfg_attr(
    not(feature = "sabotage"),
    expect(dead_code, reason = "some guards live in functions of the database")
)]
mod sabotage;
mod schedule;
mod server;
mod settings;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use app::StartError;
pub use clock::Clock;
pub use keyring::Keyring;
pub use settings::{
    AuthSettings, DatabaseSettings, QueueSettings, Secret, SecretsSettings, ServerSettings, Settings,
    StorageSettings,
};

/// How long the reconcilers may take to end once the last request was answered.
const BACKGROUND: Duration = Duration::from_secs(10);

/// Serves on `listener` until `shutdown` is cancelled; then answers held requests at once, lets the rest finish within ten
/// seconds, stops the reconcilers and returns.
///
/// # Errors
/// [`StartError`] if a setting is wrong, the database cannot be used, or the data directory cannot be written.
pub async fn run(
    settings: Settings,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    run_with_clock(settings, listener, shutdown, Clock::system()).await
}

/// [`run`] with another clock, for tests that move time.
///
/// # Errors
/// As [`run`].
pub async fn run_with_clock(
    settings: Settings,
    listener: TcpListener,
    shutdown: CancellationToken,
    clock: Clock,
) -> Result<(), StartError> {
    let mut resolved = settings.resolve(clock)?;
    if let Some(command) = &settings.secrets.key_command {
        let running = Keyring::of_command(settings::KEY_COMMAND, command);
        let Some(printed) = shutdown.run_until_cancelled(running).await else { return Ok(()) };
        resolved.app.keyring = printed?;
    }
    let tracker = TaskTracker::new();
    let starting = app::App::start(resolved.app, shutdown.clone(), &tracker);
    let Some(started) = shutdown.run_until_cancelled(starting).await else { return Ok(()) };
    let router = api::router(api::Api::new(started?, resolved.verifier, shutdown.clone()));
    let limits = server::Limits { connections: resolved.connections, ..server::Limits::default() };
    server::serve(listener, router, limits, shutdown).await;
    tracker.close();
    if tokio::time::timeout(BACKGROUND, tracker.wait()).await.is_err() {
        tracing::warn!("some background work did not end in time");
    }
    Ok(())
}

/// The OpenAPI 3.1 document of the API, as served at `/openapi.json` and committed as `openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    api::document()
}
