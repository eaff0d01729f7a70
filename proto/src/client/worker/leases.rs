//! The leases that a node holds. Pure arithmetic over instants; the renewals do the talking.
//!
//! A lease is counted from the moment the request for it was *sent*, so this side gives up before the coordinator does.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::{LeaseRef, Renewed};

/// A lease joins the renewals once it is this old. Most tasks of a fast queue have ended by then, and need no renewal at all.
const AGE: Duration = Duration::from_millis(250);

/// One lease, shared by its attempt and the renewals.
#[derive(Debug)]
pub struct HeldLease {
    /// Which one.
    pub lease: LeaseRef,
    /// Cancelled once somebody asked to cancel the task.
    pub cancel: CancellationToken,
    /// When the task's deadline is reached, where it has one.
    pub deadline: Option<Instant>,
    lost: CancellationToken,
    until: watch::Sender<Instant>,
    born: Instant,
}

impl HeldLease {
    /// Returns once the lease is over: the coordinator said so, or it ran out unrenewed.
    pub async fn over(&self) {
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
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lost.is_cancelled() || *self.until.borrow() <= Instant::now()
    }

    /// Returns once the task's deadline is reached; never where it has none.
    pub async fn deadline_reached(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}

/// What to renew next.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) leases: Vec<LeaseRef>,
    pub(super) cancelling: Vec<LeaseRef>,
    /// The earliest end of a lease.
    earliest: Option<Instant>,
    /// Leases that were held only later are not in it.
    before: Instant,
    /// How old a lease must be to be in it.
    age: Duration,
}

impl Snapshot {
    /// How long the renewal may be held: a third of the lease, or not at all when one of them needs its answer now.
    ///
    /// A held renewal moves the end forward only when it is answered, so a lease with much less than two thirds left could run
    /// out under a second hold.
    pub(super) fn hold(&self, now: Instant, lease: Duration) -> Duration {
        match self.earliest {
            Some(end) if end.saturating_duration_since(now) < lease * 3 / 5 => Duration::ZERO,
            _ => lease / 3,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<HashMap<LeaseRef, Arc<HeldLease>>>,
    granted: Notify,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseRef, Arc<HeldLease>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to hold a lease until `until`.
    pub fn hold(&self, lease: LeaseRef, until: Instant, deadline: Option<Instant>) -> Arc<HeldLease> {
        let held = Arc::new(HeldLease {
            lease,
            cancel: CancellationToken::new(),
            deadline,
            lost: CancellationToken::new(),
            until: watch::Sender::new(until),
            born: Instant::now(),
        });
        self.lock().insert(lease, Arc::clone(&held));
        self.granted.notify_one();
        held
    }

    /// Stops holding a lease: its attempt is settled.
    pub fn release(&self, lease: LeaseRef) {
        self.lock().remove(&lease);
    }

    /// Whether an attempt still works on it.
    #[must_use]
    pub fn holds(&self, lease: LeaseRef) -> bool {
        self.lock().contains_key(&lease)
    }

    /// Returns once a lease that `snapshot` lacks has come of age.
    pub(super) async fn came_of_age(&self, snapshot: &Snapshot) {
        loop {
            let oldest = self.lock().values().map(|held| held.born).filter(|at| *at > snapshot.before).min();
            match oldest.map(|born| born + snapshot.age) {
                Some(at) if at <= Instant::now() => return,
                Some(at) => tokio::time::sleep_until(at).await,
                None => self.granted.notified().await,
            }
        }
    }

    /// The leases that are of age, where a lease lasts `lease`.
    pub(super) fn snapshot(&self, lease: Duration) -> Snapshot {
        let now = Instant::now();
        let age = AGE.min(lease / 8);
        let before = now.checked_sub(age).unwrap_or(now);
        let mut snapshot =
            Snapshot { leases: Vec::new(), cancelling: Vec::new(), earliest: None, before, age };
        let held = self.lock();
        for held in held.values().filter(|held| held.born <= before && !held.is_over()) {
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
    pub(super) fn renewed(&self, sent: Instant, asked: &[LeaseRef], answer: &Renewed) {
        let held = self.lock();
        let lost: HashSet<&LeaseRef> = answer.lost.iter().collect();
        for lost in lost.iter().filter_map(|lease| held.get(lease)) {
            lost.lost.cancel();
        }
        for cancelled in answer.cancel.iter().filter_map(|lease| held.get(lease)) {
            cancelled.cancel.cancel();
        }
        let end = sent + answer.lease.get();
        for kept in asked.iter().filter(|lease| !lost.contains(lease)).filter_map(|lease| held.get(lease)) {
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
    pub fn lose_all(&self) {
        for held in self.lock().values() {
            held.lost.cancel();
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::duration::Span;
    use crate::ids::{FencingToken, TaskId};

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
        let held = leases.hold(lease(), sent + LEASE, None);
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
        let held = leases.hold(lease(), Instant::now() + LEASE, None);
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
        let held = leases.hold(lease(), Instant::now() + LEASE, None);
        leases.renewed(Instant::now(), &[held.lease], &answer(&[held.lease], &[]));
        leases.renewed(Instant::now(), &[held.lease], &answer(&[], &[]));
        assert!(held.is_over());
        assert!(leases.snapshot(LEASE).leases.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_is_told_once_and_named_as_known_from_then_on() {
        let leases = Leases::default();
        let held = leases.hold(lease(), Instant::now() + LEASE, None);
        leases.renewed(Instant::now(), &[held.lease], &answer(&[], &[held.lease]));
        assert!(held.cancel.is_cancelled() && !held.is_over());
        tokio::time::advance(AGE).await;
        assert_eq!(leases.snapshot(LEASE).cancelling, [held.lease]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_is_not_held_while_a_lease_is_short() {
        let leases = Leases::default();
        let hold_of = |until: Duration| async move {
            let leases = Leases::default();
            leases.hold(lease(), Instant::now() + AGE + until, None);
            tokio::time::advance(AGE).await;
            leases.snapshot(LEASE).hold(Instant::now(), LEASE)
        };
        assert_eq!(leases.snapshot(LEASE).hold(Instant::now(), LEASE), LEASE / 3);
        assert_eq!(hold_of(LEASE).await, LEASE / 3);
        assert_eq!(hold_of(LEASE / 2).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_joins_the_renewals_once_it_is_old_enough_to_be_worth_one() {
        let leases = Leases::default();
        let brief = leases.hold(lease(), Instant::now() + LEASE, None);
        let empty = leases.snapshot(LEASE);
        assert!(empty.leases.is_empty());
        leases.release(brief.lease);
        tokio::time::timeout(AGE * 3, leases.came_of_age(&empty)).await.unwrap_err();
        let begin = Instant::now();
        let long = leases.hold(lease(), begin + LEASE, None);
        leases.came_of_age(&empty).await;
        assert_eq!(begin.elapsed(), AGE);
        let full = leases.snapshot(LEASE);
        assert_eq!(full.leases, [long.lease]);
        tokio::time::timeout(AGE * 3, leases.came_of_age(&full)).await.unwrap_err();
    }
}
