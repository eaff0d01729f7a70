//! Claiming: as much at a time as there is room for, with several held requests under way while there is room for more.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::WorkerError;
use super::membership::Membership;
use super::room::{Room, Taken, Use};
use crate::duration::Span;
use crate::limits;
use crate::node::{ClaimRequest, Claimed, Grant, LeaseRef};

/// The longest that a claim is held.
const HOLD: Duration = Duration::from_secs(30);
/// And while more than it offers may come free: an offer cannot grow once it is made, and what needs all that is free must not
/// wait for long.
const SHORT_HOLD: Duration = Duration::from_secs(2);
/// The first wait after a failed claim.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a claim that is under way at the shutdown may take to be answered. Once the coordinator knows of the drain it grants
/// no more, and what it granted just before must not be forgotten.
const FAREWELL: Duration = Duration::from_millis(300);

/// How a node claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimSettings {
    /// Most grants in one answer; 1 to 1,024.
    pub batch: u32,
    /// Claims under way at once; 1 to 64.
    pub in_flight: usize,
    /// Only these queues; all when empty.
    pub queues: Vec<String>,
}

/// A grant with the room for its task, and the ends that were reckoned for it.
#[derive(Debug)]
pub struct Begun<S> {
    /// What was granted.
    pub grant: Grant<S>,
    /// Room for it.
    pub taken: Taken,
    /// When the lease ends unless it is renewed.
    pub until: Instant,
    /// When the task's deadline is reached, where it has one.
    pub deadline: Option<Instant>,
}

impl<S> Begun<S> {
    /// Its lease.
    #[must_use]
    pub const fn lease(&self) -> LeaseRef {
        LeaseRef { task: self.grant.task, token: self.grant.token }
    }
}

/// Claims until `shutdown` is cancelled (`Ok`), giving each answer's grants to `begin`, which must not block.
/// `used` says what a task uses besides its slot.
///
/// # Errors
/// [`WorkerError`] if the node must stop.
pub async fn claim<S: DeserializeOwned + Send + 'static>(
    member: &Arc<Membership>,
    room: &Arc<Room>,
    settings: &ClaimSettings,
    shutdown: &CancellationToken,
    used: fn(&Grant<S>) -> Use,
    begin: impl Fn(Vec<Begun<S>>) + Clone + Send + Sync + 'static,
) -> Result<(), WorkerError> {
    let mut claimers = JoinSet::new();
    for _ in 0..settings.in_flight.max(1) {
        let claimer = Claimer {
            member: Arc::clone(member),
            room: Arc::clone(room),
            settings: settings.clone(),
            shutdown: shutdown.clone(),
            used,
        };
        claimers.spawn(claimer.run(begin.clone()));
    }
    while let Some(ended) = claimers.join_next().await {
        match ended {
            Ok(ended) => ended?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
    Ok(())
}

struct Claimer<S> {
    member: Arc<Membership>,
    room: Arc<Room>,
    settings: ClaimSettings,
    shutdown: CancellationToken,
    used: fn(&Grant<S>) -> Use,
}

impl<S: DeserializeOwned> Claimer<S> {
    async fn run(self, begin: impl Fn(Vec<Begun<S>>)) -> Result<(), WorkerError> {
        let mut wait = FIRST;
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ok(()),
                () = self.member.well() => {}
            }
            let mut offer = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ok(()),
                offer = self.room.offer(self.settings.batch.clamp(1, limits::CLAIM)) => offer,
            };
            // The lease counts from when this is sent: a longer hold would eat it up.
            let hold = if offer.is_whole() { HOLD } else { SHORT_HOLD };
            let request = ClaimRequest {
                instance: self.member.instance(),
                slots: offer.slots(),
                wait: Span::from(hold.min(self.member.lease() / 3)),
                queues: self.settings.queues.clone(),
                free: offer.free(),
            };
            let sent = Instant::now();
            let claiming = self.member.client().claim::<S>(self.member.id(), &request);
            tokio::pin!(claiming);
            let claimed = tokio::select! {
                claimed = &mut claiming => claimed,
                () = self.shutdown.cancelled() => match tokio::time::timeout(FAREWELL, claiming).await {
                    Ok(claimed) => claimed,
                    Err(_) => return Ok(()),
                },
            };
            let error = match claimed {
                Ok(claimed) => {
                    wait = FIRST;
                    let begun = self.reckon(claimed, &mut offer, sent);
                    drop(offer);
                    if !begun.is_empty() {
                        begin(begun);
                    }
                    continue;
                }
                Err(error) => error,
            };
            drop(offer);
            let recovered = tokio::select! {
                // It may have to register anew, with a coordinator that is away for long.
                recovered = self.member.recover(error, "a claim") => recovered,
                () = self.shutdown.cancelled() => return Ok(()),
            };
            recovered?;
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(PATIENCE),
                () = self.shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn reckon(&self, claimed: Claimed<S>, offer: &mut super::room::Offer, sent: Instant) -> Vec<Begun<S>> {
        let answered = Instant::now();
        let mut begun = Vec::with_capacity(claimed.grants.len());
        for grant in claimed.grants {
            let Some(taken) = offer.take((self.used)(&grant)) else {
                // More grants than were asked for. The lease runs out and another node gets the task.
                tracing::error!(task = %grant.task, "the coordinator granted more than there are slots");
                continue;
            };
            let until = sent + grant.lease.get();
            let deadline = grant.deadline_in.and_then(|left| answered.checked_add(left.get()));
            begun.push(Begun { grant, taken, until, deadline });
        }
        begun
    }
}
