//! A node's place with its coordinator: it registers, keeps its leases alive, and hears of cancels, for as long as it takes.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::WorkerError;
use super::leases::Leases;
use crate::client::{Client, ClientError};
use crate::duration::Span;
use crate::ids::{InstanceId, NodeId};
use crate::node::{LeaseRef, Registered, Registration, RenewRequest};
use crate::problem::Kind;

/// The longest wait between two tries to register.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first wait between two tries to register.
const FIRST: Duration = Duration::from_millis(100);
/// Two renewals are never closer than this, whatever the coordinator answers.
const GAP: Duration = Duration::from_millis(50);
/// And by this much farther apart for each lease in them, as each is work for the database.
const GAP_PER_LEASE: Duration = Duration::from_micros(100);
/// The longest wait after a failed renewal.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(2);

/// The leases of an earlier run that go on.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// Which ones.
    pub leases: Vec<LeaseRef>,
    /// When they end unless they are renewed.
    pub until: Instant,
}

/// One registered node: who it is to the coordinator, and what it holds.
#[derive(Debug)]
pub struct Membership {
    client: Client,
    registration: Registration,
    registered: RwLock<Registered>,
    leases: Leases,
    unwell: watch::Sender<Option<String>>,
}

impl Membership {
    /// Registers; while the coordinator is away, tries again.
    ///
    /// # Errors
    /// [`WorkerError::Refused`] if it answers that it will not have this node.
    pub async fn register(
        client: Client,
        mut registration: Registration,
    ) -> Result<(Self, Resumed), WorkerError> {
        let (mut registered, sent) = register(&client, &registration).await?;
        // Whoever registers again, as the coordinator forgot it, has nothing left to resume.
        registration.resumes.clear();
        let leases = std::mem::take(&mut registered.resumed);
        let resumed = Resumed { leases, until: sent + registered.lease.get() };
        let registered = RwLock::new(registered);
        Ok((
            Self {
                client,
                registration,
                registered,
                leases: Leases::default(),
                unwell: watch::Sender::new(None),
            },
            resumed,
        ))
    }

    /// Whom it talks to.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// This run of the daemon.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.registration.instance
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.registered.read().unwrap_or_else(PoisonError::into_inner).id
    }

    /// How long a lease lasts.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.registered.read().unwrap_or_else(PoisonError::into_inner).lease.get()
    }

    /// The leases that it holds.
    #[must_use]
    pub const fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Says why the node takes no work for now, or, with `None`, that it is well. It claims nothing meanwhile.
    pub fn say(&self, unwell: Option<String>) {
        self.unwell.send_if_modified(|known| {
            let news = *known != unwell;
            *known = unwell;
            news
        });
    }

    /// Returns once the node is well.
    pub(super) async fn well(&self) {
        let mut unwell = self.unwell.subscribe();
        // The sender lives as long as this does.
        let _well = unwell.wait_for(Option::is_none).await;
    }

    /// Deals with a call that failed: an unknown node registers anew, the rest is to be waited out.
    ///
    /// # Errors
    /// [`WorkerError`] if the node must stop: another has its name, or the coordinator will not have it.
    pub(super) async fn recover(&self, error: ClientError, what: &'static str) -> Result<(), WorkerError> {
        match error.kind() {
            Some(Kind::Conflict) => Err(WorkerError::Superseded { name: self.registration.name.clone() }),
            Some(Kind::NotFound) => {
                tracing::warn!("the coordinator does not know this node any more; registering again");
                let (registered, _sent) = register(&self.client, &self.registration).await?;
                *self.registered.write().unwrap_or_else(PoisonError::into_inner) = registered;
                Ok(())
            }
            _ => {
                tracing::warn!(%error, "{what} failed; trying again");
                Ok(())
            }
        }
    }

    /// Renews until dropped, idle or not: that the node lives, that its leases go on, and, once `draining` is cancelled,
    /// that it takes no more. `renewed` is told of each success, with the length of a lease.
    ///
    /// Returns only if the node must stop; its leases may be another's by then.
    pub async fn keep(&self, draining: &CancellationToken, renewed: impl Fn(Duration)) -> WorkerError {
        let mut wait = GAP;
        let mut health = self.unwell.subscribe();
        loop {
            let lease = self.lease();
            let mut snapshot = self.leases.snapshot(lease);
            let sent = Instant::now();
            let hold = snapshot.hold(sent, lease);
            let told = draining.is_cancelled();
            let request = RenewRequest {
                instance: self.instance(),
                leases: std::mem::take(&mut snapshot.leases),
                cancelling: std::mem::take(&mut snapshot.cancelling),
                wait: Span::from(hold),
                draining: told,
                unwell: health.borrow_and_update().clone(),
            };
            let gap =
                GAP + (GAP_PER_LEASE * u32::try_from(request.leases.len()).unwrap_or(0)).min(lease / 10);
            let answer = tokio::select! {
                answer = self.client.renew(self.id(), &request) => answer,
                // A held renewal does not listen for cancels of leases that came after it. One that is not held answers
                // at once, and breaking it off again and again would renew nothing.
                () = self.leases.came_of_age(&snapshot), if !hold.is_zero() => {
                    tokio::time::sleep_until((sent + gap).max(Instant::now() + GAP)).await;
                    continue;
                }
                () = draining.cancelled(), if !told => continue,
                Ok(()) = health.changed() => {
                    tokio::time::sleep_until(sent + gap).await;
                    continue;
                }
            };
            match answer {
                Ok(answer) => {
                    wait = GAP;
                    self.leases.renewed(sent, &request.leases, &answer);
                    renewed(answer.lease.get());
                }
                Err(error) => {
                    if let Err(error) = self.recover(error, "a renewal").await {
                        return error;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RENEWAL_PATIENCE).min(lease / 6);
                }
            }
            tokio::time::sleep_until(sent + gap).await;
        }
    }
}

/// The answer, and when what it answers was sent.
async fn register(
    client: &Client,
    registration: &Registration,
) -> Result<(Registered, Instant), WorkerError> {
    let mut wait = FIRST;
    loop {
        let sent = Instant::now();
        match client.register(registration).await {
            Ok(registered) => return Ok((registered, sent)),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "cannot register yet; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(PATIENCE);
            }
            Err(error) => return Err(WorkerError::Refused(error)),
        }
    }
}
