//! The leases that this daemon holds. Pure arithmetic over instants; the renew loop does the talking.
//!
//! A lease is counted from the moment the request for it was *sent*, so this side gives up before the coordinator does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orca_proto::node::{LeaseRef, Renewed};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One lease, shared by its attempt and the renew loop.
#[derive(Debug)]
pub(crate) struct HeldLease {
    /// Which one.
    pub(crate) lease: LeaseRef,
    /// Somebody asked to cancel the task.
    pub(crate) cancel: CancellationToken,
    lost: CancellationToken,
    until: watch::Sender<Instant>,
}

impl HeldLease {
    /// Returns once the lease is over: the coordinator said so, or it ran out unrenewed.
    pub(crate) async fn over(&self) {
        let mut until = self.until.subscribe();
        loop {
            let end = *until.borrow_and_update();
            tokio::select! {
                () = self.lost.cancelled() => return,
                () = tokio::time::sleep_until(end) => {
                    if *self.until.borrow() <= Instant::now() {
                        self.lost.cancel();
                        return;
                    }
                }
                _ = until.changed() => {}
            }
        }
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.lost.is_cancelled() || *self.until.borrow() <= Instant::now()
    }
}

/// What to renew next.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) leases: Vec<LeaseRef>,
    pub(crate) cancelling: Vec<LeaseRef>,
    /// The earliest end of a lease.
    pub(crate) earliest: Option<Instant>,
}

impl Snapshot {
    /// How long the renewal may be held: a third of the lease, or not at all when one of them needs its answer now.
    ///
    /// A held renewal moves the end forward only when it is answered, so a lease with much less than two thirds left could run
    /// out under a second hold.
    pub(crate) fn hold(&self, now: Instant, lease: Duration) -> Duration {
        match self.earliest {
            Some(end) if end.saturating_duration_since(now) < lease * 3 / 5 => Duration::ZERO,
            _ => lease / 3,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<LeaseRef, Arc<HeldLease>>>,
    granted: Notify,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseRef, Arc<HeldLease>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to hold a lease until `until`.
    pub(crate) fn hold(&self, lease: LeaseRef, until: Instant) -> Arc<HeldLease> {
        let held = Arc::new(HeldLease {
            lease,
            cancel: CancellationToken::new(),
            lost: CancellationToken::new(),
            until: watch::Sender::new(until),
        });
        self.lock().insert(lease, Arc::clone(&held));
        self.granted.notify_one();
        held
    }

    /// Returns once a lease was added since the last call.
    pub(crate) async fn added(&self) {
        self.granted.notified().await;
    }

    /// Stops holding a lease: its attempt is settled.
    pub(crate) fn release(&self, lease: LeaseRef) {
        self.lock().remove(&lease);
    }

    /// Whether an attempt still works on it.
    pub(crate) fn holds(&self, lease: LeaseRef) -> bool {
        self.lock().contains_key(&lease)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for held in self.lock().values().filter(|held| !held.is_over()) {
            let end = *held.until.borrow();
            snapshot.leases.push(held.lease);
            if held.cancel.is_cancelled() {
                snapshot.cancelling.push(held.lease);
            }
            snapshot.earliest = Some(snapshot.earliest.map_or(end, |earliest| earliest.min(end)));
        }
        snapshot
    }

    /// Takes in the answer to a renewal of `asked` that was sent at `sent`.
    pub(crate) fn renewed(&self, sent: Instant, asked: &[LeaseRef], answer: &Renewed) {
        let held = self.lock();
        for lost in answer.lost.iter().filter_map(|lease| held.get(lease)) {
            lost.lost.cancel();
        }
        for cancelled in answer.cancel.iter().filter_map(|lease| held.get(lease)) {
            cancelled.cancel.cancel();
        }
        let end = sent + answer.lease.get();
        for kept in
            asked.iter().filter(|lease| !answer.lost.contains(lease)).filter_map(|lease| held.get(lease))
        {
            kept.until.send_if_modified(|until| {
                let later = end > *until && !kept.lost.is_cancelled();
                if later {
                    *until = end;
                }
                later
            });
        }
    }

    /// Gives up all of them at once.
    pub(crate) fn lose_all(&self) {
        for held in self.lock().values() {
            held.lost.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::duration::Span;
    use orca_proto::ids::{FencingToken, TaskId};

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn lease() -> LeaseRef {
        LeaseRef { task: TaskId::new(), token: FencingToken(1) }
    }

    fn answer(lost: &[LeaseRef], cancel: &[LeaseRef]) -> Renewed {
        Renewed { lease: Span::from(LEASE), lost: lost.to_vec(), cancel: cancel.to_vec() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_counted_from_when_its_renewal_was_sent_not_answered() {
        let leases = Leases::default();
        let sent = Instant::now();
        let held = leases.hold(lease(), sent + LEASE);
        tokio::time::advance(Duration::from_secs(10)).await;
        leases.renewed(sent, &[held.lease], &answer(&[], &[]));
        tokio::time::advance(Duration::from_secs(19)).await;
        assert!(!held.is_over());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(held.is_over());
        held.over().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_moves_the_end_and_wakes_nobody_early() {
        let leases = Leases::default();
        let held = leases.hold(lease(), Instant::now() + LEASE);
        let over = tokio::spawn({
            let held = Arc::clone(&held);
            async move {
                held.over().await;
                Instant::now()
            }
        });
        tokio::time::sleep(Duration::from_secs(20)).await;
        let sent = Instant::now();
        leases.renewed(sent, &[held.lease], &answer(&[], &[]));
        assert!(over.await.unwrap() >= sent + LEASE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_lease_is_over_at_once_and_cannot_come_back() {
        let leases = Leases::default();
        let held = leases.hold(lease(), Instant::now() + LEASE);
        leases.renewed(Instant::now(), &[held.lease], &answer(&[held.lease], &[]));
        leases.renewed(Instant::now(), &[held.lease], &answer(&[], &[]));
        assert!(held.is_over());
        assert!(leases.snapshot().leases.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_is_told_once_and_named_as_known_from_then_on() {
        let leases = Leases::default();
        let held = leases.hold(lease(), Instant::now() + LEASE);
        leases.renewed(Instant::now(), &[held.lease], &answer(&[], &[held.lease]));
        assert!(held.cancel.is_cancelled() && !held.is_over());
        assert_eq!(leases.snapshot().cancelling, [held.lease]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_is_not_held_while_a_lease_is_short() {
        let leases = Leases::default();
        let now = Instant::now();
        assert_eq!(leases.snapshot().hold(now, LEASE), LEASE / 3);
        leases.hold(lease(), now + LEASE);
        assert_eq!(leases.snapshot().hold(now, LEASE), LEASE / 3);
        leases.hold(lease(), now + LEASE / 2);
        assert_eq!(leases.snapshot().hold(now, LEASE), Duration::ZERO);
    }
}
