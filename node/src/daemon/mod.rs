//! The daemon: start, register, claim, renew, drain.
//!
//! Three loops share one [`Node`]: [`claim`] takes work while slots are free, [`renew`] keeps the leases and hears of
//! cancels, and each grant runs as an attempt of its own. A shutdown stops the first, waits for the attempts, then stops
//! the second.

mod claim;
mod janitor;
pub(crate) mod leases;
mod registration;
mod renew;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use orca_proto::client::Client;
use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::Registered;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::files::Files;
use crate::runtime::{self, Runtime};
use crate::settings::{NodeSettings, RuntimeKind, role_name};
use crate::state_dir::{StateDir, empty_trash};
use crate::{NodeError, heartbeat};
use leases::Leases;

/// How long stopped attempts may take to be removed and given back at the end of a shutdown.
const EVICTION: Duration = Duration::from_secs(30);
/// Large bodies that are in memory at one time, over all attempts.
const LARGE_BODIES: usize = 2;

/// What the loops and the attempts of one daemon share.
pub(crate) struct Node {
    pub(crate) settings: NodeSettings,
    pub(crate) client: Client,
    pub(crate) instance: InstanceId,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) state: StateDir,
    pub(crate) files: Files,
    pub(crate) leases: Leases,
    /// Bounds the memory that attempts can make the node use.
    pub(crate) large_bodies: Arc<Semaphore>,
    /// Stop every attempt and give it back: the drain waits no longer.
    pub(crate) evict: CancellationToken,
    registered: RwLock<Registered>,
}

impl Node {
    pub(crate) fn id(&self) -> NodeId {
        self.registered.read().unwrap_or_else(PoisonError::into_inner).id
    }

    /// How long a lease lasts.
    pub(crate) fn lease(&self) -> Duration {
        self.registered.read().unwrap_or_else(PoisonError::into_inner).lease.get()
    }

    fn set_registered(&self, registered: Registered) {
        *self.registered.write().unwrap_or_else(PoisonError::into_inner) = registered;
    }
}

/// Runs a node until it was told to shut down and has drained.
pub(crate) async fn run(settings: NodeSettings, shutdown: CancellationToken) -> Result<(), NodeError> {
    settings.check()?;
    let client = Client::new(&settings.coordinator.url, settings.coordinator.token.expose())
        .map_err(NodeError::Client)?;
    let state = StateDir::open(&settings.state_dir)?;
    let agent = runtime::agent::install(settings.runtime.agent.as_deref(), &state.agent_dir())?;
    let runtime = runtime::connect(&settings, &state, agent).await?;
    if settings.runtime.kind == RuntimeKind::Process {
        tracing::warn!(
            "the process runtime ISOLATES NOTHING: tasks run as this user, with its files and its network"
        );
    }
    let swept = runtime.sweep().await.map_err(|fault| NodeError::Engine(fault.to_string()))?;
    if swept > 0 {
        tracing::info!(swept, "removed containers that an earlier run left");
    }
    state.wipe()?;
    let trash = state.trash();
    // A thread of its own, for which nobody waits: what it does not get to is there for the next start.
    std::thread::spawn(move || empty_trash(&trash));

    let instance = InstanceId::new();
    let registration = registration::describe(&settings, instance, runtime.describe());
    let registered = tokio::select! {
        registered = registration::register(&client, &registration) => registered?,
        () = shutdown.cancelled() => return Ok(()),
    };
    tracing::info!(
        name = %settings.placement.name, id = %registered.id, role = role_name(settings.role),
        slots = settings.placement.slots, runtime = runtime.describe(), "registered"
    );
    let node = Arc::new(Node {
        files: Files::new(state.cache(), settings.runtime.cache_bytes),
        settings,
        client,
        instance,
        runtime,
        state,
        leases: Leases::default(),
        large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
        evict: CancellationToken::new(),
        registered: RwLock::new(registered),
    });
    heartbeat::beat(node.state.root(), node.lease());
    Box::pin(serve(node, &registration, shutdown)).await
}

/// Runs the loops, and the drain once `shutdown` is cancelled.
async fn serve(
    node: Arc<Node>,
    registration: &orca_proto::node::Registration,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let attempts = TaskTracker::new();
    let watched = Arc::clone(&node);
    let _janitor = AbortOnDropHandle::new(tokio::spawn(async move { janitor::run(&watched).await }));
    let renewing = renew::run(&node, registration, &shutdown);
    tokio::pin!(renewing);
    let superseded = tokio::select! {
        error = claim::run(&node, registration, &attempts, &shutdown) => error,
        error = &mut renewing => Some(error),
    };
    attempts.close();
    let Some(error) = superseded else {
        tracing::info!(running = attempts.len(), limit = ?node.settings.drain_timeout, "draining");
        let drained = drain(&node, &attempts);
        return tokio::select! {
            () = drained => Ok(()),
            error = renewing => {
                stop_all(&node, &attempts).await;
                Err(error)
            }
        };
    };
    stop_all(&node, &attempts).await;
    Err(error)
}

async fn drain(node: &Node, attempts: &TaskTracker) {
    let waited = tokio::time::timeout(node.settings.drain_timeout, attempts.wait());
    if let Some(Ok(())) = node.settings.hurry.run_until_cancelled(waited).await {
        return;
    }
    tracing::warn!(running = attempts.len(), "the drain waits no longer: stopping what still runs");
    node.evict.cancel();
    if tokio::time::timeout(EVICTION, attempts.wait()).await.is_err() {
        tracing::error!(running = attempts.len(), "could not remove every container; the next start will");
    }
}

/// Another daemon has this node's name, so none of its leases hold any more.
async fn stop_all(node: &Node, attempts: &TaskTracker) {
    node.leases.lose_all();
    if tokio::time::timeout(EVICTION, attempts.wait()).await.is_err() {
        tracing::error!(running = attempts.len(), "could not remove every container; the next start will");
    }
}
