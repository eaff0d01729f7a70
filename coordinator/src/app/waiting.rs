//! Claims that wait for work, and who of them is woken for what.
//!
//! What becomes ready wakes one waiting claim that may take it; a claim that could not take all passes the hint on. Where nothing
//! else waits, an enqueue takes a waiting claim aside instead and grants to it in its own transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};

use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::spec::{Role, meets};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::signals::Signals;
use crate::db::queue::Granted;
use crate::dispatch::{Asker, LaneKey};

/// All claims that wait in one process.
#[derive(Default)]
pub(super) struct Waiters {
    next: u64,
    claims: BTreeMap<u64, Claim>,
    /// Namespaces for which a claim looks again at an instant, because what waits there may begin then.
    armed: HashMap<String, Instant>,
}

struct Claim {
    asker: Arc<Wanting>,
    wake: Arc<Notify>,
    turn: Turn,
    drained: bool,
}

impl Claim {
    /// Whether it will look at what there is now.
    const fn signalled(&self) -> bool {
        matches!(self.turn, Turn::Signalled)
    }

    fn signal(&mut self) {
        self.turn = Turn::Signalled;
        self.wake.notify_one();
    }
}

/// What a claim is at.
enum Turn {
    /// It looks, or is about to.
    Looking,
    /// It has been told to look again.
    Signalled,
    /// It has found nothing and waits.
    Parked,
    /// An enqueue is under way that grants to it: it must hear what came of that before it is answered.
    Reserved,
    /// That has granted to it.
    Handed(Vec<Granted>),
}

/// A node that waits for work of a role in a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Wanting {
    pub(crate) id: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) namespace: String,
    pub(crate) role: Role,
    pub(crate) node: Asker,
}

impl Wanting {
    /// Whether the node could be granted what stands in this lane, limits and the likes of others aside.
    pub(crate) fn takes(&self, lane: &LaneKey) -> bool {
        self.namespace == lane.namespace
            && self.role == lane.role
            && (self.node.queues.is_empty() || self.node.queues.contains(lane.flow.queue()))
            && meets(&lane.requires, &self.node.labels)
            && self.node.free.is_none_or(|free| free.holds(lane.needs) > 0)
    }

    fn has_room(&self, lane: &LaneKey, count: usize) -> bool {
        let free = self.node.free.map_or(u32::MAX, |free| free.holds(lane.needs));
        u32::try_from(count).is_ok_and(|count| count <= self.node.slots.min(free))
    }

    fn is_preferred(&self, lane: &LaneKey) -> bool {
        meets(&lane.prefers, &self.node.labels)
    }
}

/// A claim's place among those that wait; dropped when it has its answer. A signal that it got and did not use is passed
/// on then.
pub(crate) struct Waiter<'a> {
    signals: &'a Signals,
    id: u64,
    wake: Arc<Notify>,
}

impl Signals {
    /// Joins those who wait for work. Join first, then look: what becomes ready in between is not missed.
    pub(crate) fn join(&self, asker: Arc<Wanting>) -> Waiter<'_> {
        let wake = Arc::new(Notify::new());
        let mut waiters = self.waiters();
        let id = waiters.next;
        waiters.next += 1;
        waiters
            .claims
            .insert(id, Claim { asker, wake: Arc::clone(&wake), turn: Turn::Looking, drained: false });
        Waiter { signals: self, id, wake }
    }

    /// Wakes the claim that has waited longest of those that may take of this lane: of a node that the lane prefers, if one
    /// waits.
    pub(crate) fn wake_claim(&self, lane: &LaneKey) {
        self.waiters().wake(lane, 0);
    }

    /// Wakes the claim that has waited longest after `waiter` of those that may take of this lane. What one claim after another
    /// cannot take is offered to each once, and goes in no circle.
    pub(crate) fn wake_after(&self, lane: &LaneKey, waiter: &Waiter<'_>) {
        self.waiters().wake(lane, waiter.id + 1);
    }

    /// Wakes as few claims as it takes for each of these lanes to be looked at by one that may take of it.
    pub(crate) fn wake_any<'a>(&self, lanes: impl Iterator<Item = &'a LaneKey>) {
        let mut waiters = self.waiters();
        for lane in lanes {
            let looks = |claim: &Claim| {
                claim.signalled() && claim.asker.takes(lane) && claim.asker.is_preferred(lane)
            };
            if !waiters.claims.values().any(looks) {
                waiters.wake(lane, 0);
            }
        }
    }

    /// Takes aside the claim that [`Signals::wake_claim`] would wake, if it has room for so many tasks of the lane, is of a node that
    /// they prefer, and is `idle`: what they are granted is to be handed to it.
    pub(crate) fn reserve(
        &self,
        lane: &LaneKey,
        count: usize,
        idle: impl FnOnce(&Wanting) -> bool,
    ) -> Option<Reserved<'_>> {
        let mut waiters = self.waiters();
        let id = waiters.find(lane, 0)?;
        let claim = waiters.claims.get_mut(&id)?;
        let free = matches!(claim.turn, Turn::Parked) && !claim.drained;
        let fits = claim.asker.is_preferred(lane) && claim.asker.has_room(lane, count);
        if !free || !fits || !idle(&claim.asker) {
            return None;
        }
        claim.turn = Turn::Reserved;
        Some(Reserved { signals: self, id, asker: Arc::clone(&claim.asker) })
    }

    /// How many claims wait.
    pub(crate) fn claims(&self) -> usize {
        self.waiters().claims.len()
    }

    /// Has the waiting claims of a node that drains answered.
    pub(crate) fn drain(&self, node: NodeId) {
        for claim in self.waiters().claims.values_mut().filter(|claim| claim.asker.id == node) {
            claim.drained = true;
            claim.wake.notify_one();
        }
    }

    /// Has the caller look again at `at` for all claims of a namespace, unless another does before.
    pub(crate) fn arm(&self, namespace: &str, at: Instant) -> Option<Armed<'_>> {
        let mut waiters = self.waiters();
        if waiters.armed.get(namespace).is_some_and(|armed| *armed <= at) {
            return None;
        }
        waiters.armed.insert(namespace.to_owned(), at);
        Some(Armed { signals: self, namespace: namespace.to_owned(), at })
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    fn wake(&mut self, lane: &LaneKey, from: u64) {
        if let Some(claim) = self.find(lane, from).and_then(|id| self.claims.get_mut(&id)) {
            claim.signal();
        }
    }

    /// Who is next for a lane: of those that have joined at `from` or later.
    fn find(&self, lane: &LaneKey, from: u64) -> Option<u64> {
        let free = |claim: &Claim| matches!(claim.turn, Turn::Looking | Turn::Parked);
        let mut found = self.claims.range(from..).filter(|(_, claim)| free(claim) && claim.asker.takes(lane));
        let first = match lane.prefers.is_empty() {
            true => found.next(),
            false => found.clone().find(|(_, claim)| claim.asker.is_preferred(lane)).or_else(|| found.next()),
        };
        first.map(|(id, _)| *id)
    }
}

/// A waiting claim that is to be granted to. Dropped without [`Reserved::hand`], it looks for itself.
pub(crate) struct Reserved<'a> {
    signals: &'a Signals,
    id: u64,
    pub(crate) asker: Arc<Wanting>,
}

impl Reserved<'_> {
    /// Answers the claim with what was granted to its node. Where its client has gone away meanwhile, the leases run out.
    pub(crate) fn hand(self, grants: Vec<Granted>) {
        if let Some(claim) = self.signals.waiters().claims.get_mut(&self.id) {
            claim.turn = Turn::Handed(grants);
            claim.wake.notify_one();
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut waiters = self.signals.waiters();
        if let Some(claim) =
            waiters.claims.get_mut(&self.id).filter(|claim| matches!(claim.turn, Turn::Reserved))
        {
            claim.signal();
        }
    }
}

/// That a claim looks again at an instant; given up when it is dropped.
pub(crate) struct Armed<'a> {
    signals: &'a Signals,
    namespace: String,
    pub(crate) at: Instant,
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        let mut waiters = self.signals.waiters();
        if waiters.armed.get(&self.namespace) == Some(&self.at) {
            waiters.armed.remove(&self.namespace);
        }
    }
}

impl Waiter<'_> {
    /// Whether the node drains.
    pub(crate) fn drained(&self) -> bool {
        self.signals.waiters().claims.get(&self.id).is_some_and(|claim| claim.drained)
    }

    /// Resolves once this claim should look.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the signal: the look that follows covers it.
    pub(crate) fn take(&self) {
        if let Some(claim) = self.signals.waiters().claims.get_mut(&self.id) {
            claim.turn = Turn::Looking;
        }
    }

    /// Waits for what comes, having found nothing; at once again if it was told to look meanwhile.
    pub(crate) fn park(&self) {
        if let Some(claim) = self.signals.waiters().claims.get_mut(&self.id)
            && matches!(claim.turn, Turn::Looking)
        {
            claim.turn = Turn::Parked;
        }
    }

    /// What was handed to it, once that is known where an enqueue has taken it aside. Nobody can do so afterwards, unless it is
    /// parked again.
    pub(crate) async fn handed(&self) -> Option<Vec<Granted>> {
        loop {
            match self.signals.waiters().claims.get_mut(&self.id).map(|claim| &mut claim.turn) {
                Some(Turn::Handed(grants)) => return Some(std::mem::take(grants)),
                Some(turn @ Turn::Parked) => {
                    *turn = Turn::Looking;
                    return None;
                }
                Some(Turn::Reserved) => {}
                Some(Turn::Looking | Turn::Signalled) | None => return None,
            }
            self.wake.notified().await;
        }
    }

    /// Waits no more: what is left is for others. A signal that came meanwhile is passed on.
    pub(crate) fn leave(&self) {
        let left = self.signals.waiters().claims.remove(&self.id);
        if left.is_some_and(|claim| claim.signalled()) {
            self.signals.dropped.notify_one();
        }
    }

    /// Whether it was signalled and has not taken the signal.
    #[cfg(test)]
    fn unused(&self) -> bool {
        self.signals.waiters().claims.get(&self.id).is_some_and(Claim::signalled)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests;
