//! The queue's half of a node, for any program: claims as fast as it can work, keeps the leases, hears of cancels, reports.
//!
//! [`Worker`] runs a handler per grant. What it is made of can be used by itself, as Orca's own nodes do: a [`Membership`]
//! registers and renews, [`claim`] claims into a [`Room`], a [`Reporter`] reports.
//!
//! Built for speed: requests carry up to 1,024 tasks each, several are under way at once, and a task whose handler is done at
//! once costs neither a task of the runtime nor a renewal.

mod claims;
mod handler;
mod leases;
mod membership;
mod reporter;
mod room;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::handler::Handlers;
use self::reporter::Tally;
use super::{Client, ClientError};
use crate::ids::NodeId;
use crate::limits;
use crate::node::{Grant, Registration};

pub use self::claims::{Begun, ClaimSettings, claim};
pub use self::handler::Ending;
pub use self::leases::{HeldLease, Leases};
pub use self::membership::{Membership, Resumed};
pub use self::reporter::{Reporter, Unrecorded};
pub use self::room::{Room, Taken, Use};

/// Most tasks that one node may hold.
pub const MOST_SLOTS: u32 = 10_000;
/// Requests with reports that are under way at once.
pub const REPORTS_IN_FLIGHT: usize = 2;

/// Why a node ended otherwise than by its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(&'static str),
    /// The coordinator will not have this node.
    #[error("the coordinator refused this node: {0}")]
    Refused(#[source] ClientError),
    /// Another daemon registered the same name.
    #[error(
        "another daemon registered the name {name:?}, so this one gave up all its tasks; give each its own name"
    )]
    Superseded {
        /// The name.
        name: String,
    },
}

/// How a [`Worker`] works. The defaults suit tasks of some milliseconds and more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Tasks at once, those that are claimed or reported included; 1 to 10,000. Overrides the registration's.
    pub slots: u32,
    /// Most grants in one answer; 1 to 1,024.
    pub batch: u32,
    /// Claims under way at once; 1 to 64.
    pub claims_in_flight: usize,
    /// How long a report waits for others to join it.
    pub report_linger: Duration,
    /// Only these queues; all when empty.
    pub queues: Vec<String>,
    /// How long a shutdown waits for handlers before it drops them and gives their tasks back.
    pub drain_timeout: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            slots: 256,
            batch: 256,
            claims_in_flight: 2,
            report_linger: Duration::ZERO,
            queues: Vec::new(),
            drain_timeout: Duration::from_secs(60),
        }
    }
}

impl WorkerSettings {
    fn check(&self) -> Result<(), WorkerError> {
        if !(1..=MOST_SLOTS).contains(&self.slots) {
            return Err(WorkerError::Setting("slots must lie between 1 and 10,000"));
        }
        if !(1..=limits::CLAIM).contains(&self.batch) {
            return Err(WorkerError::Setting("batch must lie between 1 and 1,024"));
        }
        if !(1..=64).contains(&self.claims_in_flight) {
            return Err(WorkerError::Setting("claims_in_flight must lie between 1 and 64"));
        }
        Ok(())
    }
}

/// What a worker has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Grants taken.
    pub granted: u64,
    /// Outcomes recorded.
    pub settled: u64,
    /// Outcomes that the coordinator refused.
    pub refused: u64,
    /// Tasks whose lease was over before their outcome was recorded.
    pub given_up: u64,
}

/// A running worker. Stops hard when it is dropped; cancel its shutdown and await [`Worker::ended`] to drain it.
#[derive(Debug)]
pub struct Worker {
    member: Arc<Membership>,
    tally: Arc<Tally>,
    running: AbortOnDropHandle<Result<(), WorkerError>>,
}

impl Worker {
    /// Registers, and from then on claims tasks until `shutdown` is cancelled, each of them given to `handler`.
    ///
    /// The handler's future is first polled where the claim was answered, so one that does not wait costs next to nothing;
    /// one that computes for long must do so elsewhere (`spawn_blocking`). It is dropped where it stands when the task is
    /// cancelled (reported as `cancelled`), its deadline is reached (`timed_out`), the drain takes too long
    /// (`runtime_error`, which uses up no attempt) or the lease is over (not reported: another attempt counts). A panic is
    /// reported as a failure.
    ///
    /// `S` is the form of the grants' specs: a `NewTask`, text as it is (`Box<RawValue>`), or nothing (`IgnoredAny`).
    ///
    /// # Errors
    /// [`WorkerError`] if a setting is out of its range or the coordinator refuses the node. Waits for one that is away.
    pub async fn start<S, H, F>(
        client: Client,
        mut registration: Registration,
        settings: WorkerSettings,
        shutdown: CancellationToken,
        handler: H,
    ) -> Result<Self, WorkerError>
    where
        S: DeserializeOwned + Send + 'static,
        H: Fn(Grant<S>) -> F + Send + Sync + 'static,
        F: Future<Output = Ending> + Send + 'static,
    {
        settings.check()?;
        registration.slots = settings.slots;
        let (member, _resumed) = Membership::register(client, registration).await?;
        let member = Arc::new(member);
        let tally = Arc::new(Tally::default());
        let handlers = Handlers::new(&member, settings.report_linger, Arc::clone(&tally));
        let running = tokio::spawn(run(Arc::clone(&member), settings, shutdown, handlers, handler));
        Ok(Self { member, tally, running: AbortOnDropHandle::new(running) })
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.member.id()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.tally.counts()
    }

    /// Waits until it has shut down and drained, or must not go on.
    ///
    /// # Errors
    /// [`WorkerError`] if it ended otherwise than by its shutdown.
    pub async fn ended(self) -> Result<Counts, WorkerError> {
        match self.running.await {
            Ok(ended) => ended?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
        Ok(self.tally.counts())
    }
}

async fn run<S, H, F>(
    member: Arc<Membership>,
    settings: WorkerSettings,
    shutdown: CancellationToken,
    handlers: Handlers,
    handler: H,
) -> Result<(), WorkerError>
where
    S: DeserializeOwned + Send + 'static,
    H: Fn(Grant<S>) -> F + Send + Sync + 'static,
    F: Future<Output = Ending> + Send + 'static,
{
    // However this ends, no handler goes on without it.
    let _nothing_held = LoseAll(Arc::clone(&member));
    let room = Room::new(settings.slots, None);
    let claims = ClaimSettings {
        batch: settings.batch,
        in_flight: settings.claims_in_flight,
        queues: settings.queues.clone(),
    };
    let renewing = member.keep(&shutdown, |_| {});
    tokio::pin!(renewing);
    let (starter, handler) = (handlers.clone(), Arc::new(handler));
    let begin = move |begun: Vec<Begun<S>>| starter.begin(begun, &handler);
    let claiming = claim(&member, &room, &claims, &shutdown, |_| Use::default(), begin);
    let ended = tokio::select! {
        ended = claiming => ended,
        error = &mut renewing => Err(error),
    };
    ended?;
    tokio::select! {
        () = handlers.drain(settings.drain_timeout) => Ok(()),
        error = renewing => Err(error),
    }
}

/// Gives up all leases when it is dropped.
struct LoseAll(Arc<Membership>);

impl Drop for LoseAll {
    fn drop(&mut self) {
        self.0.leases().lose_all();
    }
}
