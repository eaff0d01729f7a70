//! The daemon: start, register, claim, renew, drain.
//!
//! What it is made of is `orca_proto::client::worker`'s: claims while there is room, renewals that keep the leases and hear of
//! cancels, gathered reports. Here each grant becomes an attempt of its own. A shutdown stops the claims, waits for the attempts,
//! then stops the renewals. A start goes on with what an earlier daemon left running.

mod health;
mod janitor;
mod running;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orca_proto::client::Client;
use orca_proto::client::worker::{Membership, REPORTS_IN_FLIGHT, Reporter, Resumed, Room};
use orca_proto::ids::InstanceId;
use orca_proto::node::{Free, Registration, labels};
use orca_proto::quantity::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::attempt::resume::{self, Left};
use crate::egress::Gate;
use crate::files::Files;
use crate::runtime::gpus::GpuPool;
use crate::runtime::{self, Fault, Runtime};
use crate::settings::{NodeSettings, RuntimeKind, role_name};
use crate::state_dir::{StateDir, empty_trash};
use crate::{NodeError, heartbeat};
use running::Running;

/// How long stopped attempts may take to be removed and given back at the end of a shutdown.
const EVICTION: Duration = Duration::from_secs(30);
/// Large bodies that are in memory at one time, over all attempts.
const LARGE_BODIES: usize = 2;

/// What the loops and the attempts of one daemon share.
pub(crate) struct Node {
    pub(crate) settings: NodeSettings,
    pub(crate) member: Arc<Membership>,
    pub(crate) reporter: Reporter,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) state: StateDir,
    pub(crate) files: Files,
    /// Decides what attempts may reach.
    pub(crate) gate: Arc<Gate>,
    pub(crate) gpus: Arc<GpuPool>,
    /// Bounds the memory that attempts can make the node use.
    pub(crate) large_bodies: Arc<Semaphore>,
    /// Stop every attempt and give it back: the drain waits no longer.
    pub(crate) evict: CancellationToken,
    /// Attempts that are doing what another daemon could not take up in the middle.
    pub(crate) busy: TaskTracker,
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
    let gate = Arc::new(Gate::new(&settings)?);
    let state = StateDir::open(&settings.state_dir)?;
    let agent = runtime::agent::install(settings.runtime.agent.as_deref(), &state.agent_dir())?;
    let runtime = runtime::connect(&settings, &state, agent).await?;
    if settings.runtime.kind == RuntimeKind::Process {
        tracing::warn!(
            "the process runtime ISOLATES NOTHING: tasks run as this user, with its files and its network"
        );
    }
    let left = inheritance(&*runtime, &state).await?;
    let trash = state.trash();
    // What containers of an earlier run see of its cache is in there.
    if !left.iter().any(Left::has_inputs) {
        // A thread of its own, for which nobody waits: what it does not get to is there for the next start.
        std::thread::spawn(move || empty_trash(&trash));
    }

    let resumes = left.iter().map(Left::lease).collect();
    let home = Some(state.id());
    let registration = Registration { resumes, home, ..describe(&settings, runtime.describe()) };
    let (member, resumed) = tokio::select! {
        registered = Membership::register(client, registration) => registered?,
        () = shutdown.cancelled() => return Ok(()),
        () = settings.hand_over.cancelled() => return Ok(()),
    };
    let member = Arc::new(member);
    tracing::info!(
        name = %settings.placement.name, id = %member.id(), role = role_name(settings.role),
        slots = settings.placement.slots, runtime = runtime.describe(), "registered"
    );
    let node = Arc::new(Node {
        files: Files::new(state.cache(), settings.runtime.cache_bytes),
        gate,
        gpus: GpuPool::new(settings.placement.gpus),
        settings,
        reporter: Reporter::start(Arc::clone(&member), REPORTS_IN_FLIGHT, Duration::ZERO),
        member,
        runtime,
        state,
        large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
        evict: CancellationToken::new(),
        busy: TaskTracker::new(),
    });
    heartbeat::beat(node.state.root(), node.member.lease());
    Box::pin(serve(node, left, resumed, shutdown)).await
}

/// What an earlier daemon left that can be gone on with. All else of it is removed.
async fn inheritance(runtime: &dyn Runtime, state: &StateDir) -> Result<Vec<Left>, NodeError> {
    let engine = |fault: Fault| NodeError::Engine(fault.to_string());
    let containers = runtime.names().await.map_err(engine)?.into_iter().collect();
    let left = resume::left_behind(state, &containers);
    let kept = left.iter().map(|left| left.container().to_owned()).collect();
    let swept = runtime.sweep(&kept).await.map_err(engine)?;
    if swept > 0 {
        tracing::info!(swept, "removed containers that an earlier run left");
    }
    state.wipe(&left.iter().map(Left::lease).collect())?;
    Ok(left)
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
        labels: labels_of(settings),
        cpus: placement.capacity.map(|capacity| capacity.cpus),
        memory: placement.capacity.map(|capacity| Bytes(capacity.memory)),
        home: None,
        resumes: Vec::new(),
    }
}

/// What the operator says of the node, and what it lets tasks do.
fn labels_of(settings: &NodeSettings) -> BTreeMap<String, String> {
    let mut labels = settings.placement.all_labels();
    labels.retain(|key, _| !key.starts_with("orca/"));
    let allowed = [
        (labels::OPEN_NETWORK, settings.runtime.allow_network),
        (labels::EGRESS, !settings.egress.forbidden),
    ];
    for (label, _) in allowed.into_iter().filter(|(_, allowed)| *allowed) {
        labels.insert(label.to_owned(), labels::YES.to_owned());
    }
    labels
}

/// Runs the loops, and the drain once `shutdown` is cancelled, or the end of all without one.
async fn serve(
    node: Arc<Node>,
    left: Vec<Left>,
    resumed: Resumed,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let placement = &node.settings.placement;
    let total = placement.capacity.map(|total| Free { cpus: total.cpus, memory: Bytes(total.memory) });
    let running = Running {
        room: Room::new(placement.slots, total),
        attempts: TaskTracker::new(),
        cut: CancellationToken::new(),
        node: Arc::clone(&node),
    };
    running.take_up(left, &resumed);
    let watched = Arc::clone(&node);
    let _janitor = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::join!(janitor::run(&watched), janitor::tidy(&watched));
    }));
    // Both ways to end begin with taking no more.
    let ending = shutdown.child_token();
    let watched = Arc::clone(&node);
    let _health = AbortOnDropHandle::new(tokio::spawn(async move { health::run(&watched).await }));
    let renewing = node.member.keep(&ending, |lease| heartbeat::beat(node.state.root(), lease));
    tokio::pin!(renewing);
    let hand_over = &node.settings.hand_over;
    let handing_over = async {
        hand_over.cancelled().await;
        ending.cancel();
        std::future::pending().await
    };
    let claimed = tokio::select! {
        claimed = running.claim(&ending) => claimed,
        error = &mut renewing => Err(error),
        never = handing_over => never,
    };
    if claimed.is_ok() && hand_over.is_cancelled() {
        let handed_over = running.hand_over();
        tokio::pin!(handed_over);
        tokio::select! {
            () = &mut handed_over => {}
            _error = renewing => handed_over.await,
        }
        return Ok(());
    }
    let attempts = running.attempts;
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
