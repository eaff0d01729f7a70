//! The daemon: start, register, claim, renew, drain.
//!
//! What it is made of is `orca_proto::client::worker`'s: claims while there is room, renewals that keep the leases and hear of
//! cancels, gathered reports. Here each grant becomes an attempt of its own. A shutdown stops the claims, waits for the attempts,
//! then stops the renewals.

mod janitor;

use std::sync::Arc;
use std::time::Duration;

use orca_proto::client::Client;
use orca_proto::client::worker::{
    Begun, ClaimSettings, Membership, REPORTS_IN_FLIGHT, Reporter, Room, Use, WorkerError, claim,
};
use orca_proto::ids::InstanceId;
use orca_proto::limits;
use orca_proto::node::{Free, Registration};
use orca_proto::quantity::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::files::Files;
use crate::runtime::gpus::GpuPool;
use crate::runtime::{self, Runtime};
use crate::settings::{NodeSettings, RuntimeKind, role_name};
use crate::state_dir::{StateDir, empty_trash};
use crate::{NodeError, attempt, heartbeat};

/// How long stopped attempts may take to be removed and given back at the end of a shutdown.
const EVICTION: Duration = Duration::from_secs(30);
/// Large bodies that are in memory at one time, over all attempts.
const LARGE_BODIES: usize = 2;
/// Claims under way at once: one with all the room there is, one with what came free meanwhile.
const CLAIMS: usize = 2;

/// What the loops and the attempts of one daemon share.
pub(crate) struct Node {
    pub(crate) settings: NodeSettings,
    pub(crate) member: Arc<Membership>,
    pub(crate) reporter: Reporter,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) state: StateDir,
    pub(crate) files: Files,
    pub(crate) gpus: Arc<GpuPool>,
    /// Bounds the memory that attempts can make the node use.
    pub(crate) large_bodies: Arc<Semaphore>,
    /// Stop every attempt and give it back: the drain waits no longer.
    pub(crate) evict: CancellationToken,
}

impl Node {
    pub(crate) fn client(&self) -> &Client {
        self.member.client()
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

    let registration = describe(&settings, runtime.describe());
    let member = tokio::select! {
        member = Membership::register(client, registration) => Arc::new(member?),
        () = shutdown.cancelled() => return Ok(()),
    };
    tracing::info!(
        name = %settings.placement.name, id = %member.id(), role = role_name(settings.role),
        slots = settings.placement.slots, runtime = runtime.describe(), "registered"
    );
    let node = Arc::new(Node {
        files: Files::new(state.cache(), settings.runtime.cache_bytes),
        gpus: GpuPool::new(settings.placement.gpus),
        settings,
        reporter: Reporter::start(Arc::clone(&member), REPORTS_IN_FLIGHT, Duration::ZERO),
        member,
        runtime,
        state,
        large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
        evict: CancellationToken::new(),
    });
    heartbeat::beat(node.state.root(), node.member.lease());
    Box::pin(serve(node, shutdown)).await
}

fn describe(settings: &NodeSettings, runtime: &str) -> Registration {
    let placement = &settings.placement;
    Registration {
        name: placement.name.clone(),
        instance: InstanceId::new(),
        role: settings.role,
        slots: placement.slots,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime: runtime.to_owned(),
        labels: placement.all_labels(),
        cpus: placement.capacity.map(|capacity| capacity.cpus),
        memory: placement.capacity.map(|capacity| Bytes(capacity.memory)),
    }
}

/// Runs the loops, and the drain once `shutdown` is cancelled.
async fn serve(node: Arc<Node>, shutdown: CancellationToken) -> Result<(), NodeError> {
    let attempts = TaskTracker::new();
    let watched = Arc::clone(&node);
    let _janitor = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::join!(janitor::run(&watched), janitor::tidy(&watched));
    }));
    let renewing = node.member.keep(&shutdown, |lease| heartbeat::beat(node.state.root(), lease));
    tokio::pin!(renewing);
    let claimed = tokio::select! {
        claimed = claim_into(&node, &attempts, &shutdown) => claimed,
        error = &mut renewing => Err(error),
    };
    attempts.close();
    if let Err(error) = claimed {
        stop_all(&node, &attempts).await;
        return Err(error.into());
    }
    tracing::info!(running = attempts.len(), limit = ?node.settings.drain_timeout, "draining");
    let drained = drain(&node, &attempts);
    tokio::select! {
        () = drained => Ok(()),
        error = renewing => {
            stop_all(&node, &attempts).await;
            Err(error.into())
        }
    }
}

/// Claims until `shutdown` is cancelled; each grant becomes an attempt.
async fn claim_into(
    node: &Arc<Node>,
    attempts: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<(), WorkerError> {
    let placement = &node.settings.placement;
    let total = placement.capacity.map(|total| Free { cpus: total.cpus, memory: Bytes(total.memory) });
    let room = Room::new(placement.slots, total);
    let settings =
        ClaimSettings { batch: limits::CLAIM, in_flight: CLAIMS, queues: placement.queues.clone() };
    let (beginner, attempts) = (Arc::clone(node), attempts.clone());
    let begin = move |begun: Vec<Begun<_>>| {
        for begun in begun {
            let held = beginner.member.leases().hold(begun.lease(), begun.until, begun.deadline);
            let node = Arc::clone(&beginner);
            attempts.spawn(async move {
                let Begun { grant, taken, .. } = begun;
                Box::pin(attempt::run(&node, grant, held)).await;
                drop(taken);
            });
        }
    };
    claim(&node.member, &room, &settings, shutdown, |grant| Use::of(&grant.spec.resources), begin).await
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
    node.member.leases().lose_all();
    if tokio::time::timeout(EVICTION, attempts.wait()).await.is_err() {
        tracing::error!(running = attempts.len(), "could not remove every container; the next start will");
    }
}
