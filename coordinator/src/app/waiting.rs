//! Claims that wait for work, and who of them is woken for what.
//!
//! What becomes ready wakes one waiting claim that may take it; a claim that could not take all passes the hint on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};

use orca_proto::ids::NodeId;
use orca_proto::spec::{Role, meets};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::signals::Signals;
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
    signalled: bool,
    drained: bool,
}

/// A node that waits for work of a role in a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Wanting {
    pub(crate) id: NodeId,
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
        waiters.claims.insert(id, Claim { asker, wake: Arc::clone(&wake), signalled: false, drained: false });
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
            let looks =
                |claim: &Claim| claim.signalled && claim.asker.takes(lane) && claim.asker.is_preferred(lane);
            if !waiters.claims.values().any(looks) {
                waiters.wake(lane, 0);
            }
        }
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
        let takes = |claim: &Claim| !claim.signalled && claim.asker.takes(lane);
        let mut found = self.claims.range(from..).filter(|(_, claim)| takes(claim));
        let first = match lane.prefers.is_empty() {
            true => found.next(),
            false => found.clone().find(|(_, claim)| claim.asker.is_preferred(lane)).or_else(|| found.next()),
        };
        let first = first.map(|(id, _)| *id);
        if let Some(claim) = first.and_then(|id| self.claims.get_mut(&id)) {
            claim.signalled = true;
            claim.wake.notify_one();
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
            claim.signalled = false;
        }
    }

    /// Waits no more: what is left is for others. A signal that came meanwhile is passed on.
    pub(crate) fn leave(&self) {
        let left = self.signals.waiters().claims.remove(&self.id);
        if left.is_some_and(|claim| claim.signalled) {
            self.signals.dropped.notify_one();
        }
    }

    /// Whether it was signalled and has not taken the signal.
    #[cfg(test)]
    fn unused(&self) -> bool {
        self.signals.waiters().claims.get(&self.id).is_some_and(|claim| claim.signalled)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dispatch::{Capacity, Flow};

    fn wanting(queues: &[&str], labels: &[(&str, &str)]) -> Arc<Wanting> {
        let own = |text: &&str| (*text).to_owned();
        let node = Asker {
            queues: queues.iter().map(own).collect(),
            labels: labels.iter().map(|(key, value)| (own(key), own(value))).collect(),
            ..Asker::default()
        };
        Arc::new(Wanting { id: NodeId::new(), namespace: "n".into(), role: Role::Work, node })
    }

    fn lane(namespace: &str, role: Role, queue: &str) -> LaneKey {
        LaneKey {
            namespace: namespace.into(),
            role,
            flow: Flow::new(queue.into(), None),
            priority: 0,
            needs: Capacity::default(),
            requires: BTreeMap::new(),
            prefers: BTreeMap::new(),
        }
    }

    #[test]
    fn one_waiting_claim_is_woken_and_it_is_the_one_that_takes_the_queue() {
        let signals = Signals::new();
        let other = signals.join(wanting(&["b"], &[]));
        let first = signals.join(wanting(&["a"], &[]));
        let second = signals.join(wanting(&[], &[]));
        signals.wake_claim(&lane("n", Role::Work, "a"));
        assert_eq!([&other, &first, &second].map(Waiter::unused), [false, true, false]);
    }

    #[test]
    fn a_claim_of_a_node_without_the_label_is_passed_over() {
        let signals = Signals::new();
        let without = signals.join(wanting(&[], &[]));
        let with = signals.join(wanting(&[], &[("gpu", "a100")]));
        let needs =
            LaneKey { requires: [("gpu".into(), "a100".into())].into(), ..lane("n", Role::Work, "a") };
        signals.wake_claim(&needs);
        assert_eq!([&without, &with].map(Waiter::unused), [false, true]);
    }

    #[test]
    fn a_claim_of_a_preferred_node_is_woken_before_one_that_has_waited_longer() {
        let signals = Signals::new();
        let other = signals.join(wanting(&[], &[]));
        let preferred = signals.join(wanting(&[], &[("disk", "ssd")]));
        let wishes =
            LaneKey { prefers: [("disk".into(), "ssd".into())].into(), ..lane("n", Role::Work, "a") };
        signals.wake_claim(&wishes);
        assert_eq!([&other, &preferred].map(Waiter::unused), [false, true]);
        signals.wake_claim(&wishes);
        assert_eq!([&other, &preferred].map(Waiter::unused), [true, true]);
    }

    #[test]
    fn one_claim_that_takes_all_lanes_is_enough_for_all() {
        let signals = Signals::new();
        let waiters = ["", "", "b"].map(|queue| match queue {
            "" => signals.join(wanting(&["a", "b"], &[])),
            queue => signals.join(wanting(&[queue, "c"], &[])),
        });
        let lanes = ["a", "b", "a"].map(|queue| lane("n", Role::Work, queue));
        signals.wake_any(lanes.iter());
        assert_eq!(waiters.each_ref().map(Waiter::unused), [true, false, false]);
        signals.wake_any([lane("n", Role::Work, "c")].iter());
        assert_eq!(waiters.each_ref().map(Waiter::unused), [true, false, true]);
    }

    #[test]
    fn what_one_claim_after_another_cannot_take_comes_to_each_once() {
        let signals = Signals::new();
        let waiters = [0, 1].map(|_| signals.join(wanting(&[], &[])));
        let lane = lane("n", Role::Work, "a");
        signals.wake_after(&lane, &waiters[0]);
        assert_eq!(waiters.each_ref().map(Waiter::unused), [false, true]);
        waiters[1].take();
        signals.wake_after(&lane, &waiters[1]);
        assert_eq!(waiters.each_ref().map(Waiter::unused), [false, false]);
    }

    #[test]
    fn only_the_claim_that_looks_again_first_is_armed() {
        let signals = Signals::new();
        let now = Instant::now();
        let late = signals.arm("n", now + Duration::from_secs(2)).unwrap();
        assert!(signals.arm("n", now + Duration::from_secs(3)).is_none());
        let early = signals.arm("n", now + Duration::from_secs(1)).unwrap();
        drop(late);
        assert!(signals.arm("n", now + Duration::from_secs(2)).is_none());
        drop(early);
        assert!(signals.arm("n", now + Duration::from_secs(2)).is_some());
    }

    #[test]
    fn a_signal_that_was_not_used_is_told() {
        let signals = Signals::new();
        let first = signals.join(wanting(&[], &[]));
        signals.wake_claim(&lane("n", Role::Work, "a"));
        drop(first);
        let told = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            tokio::select! { biased; () = signals.dropped.notified() => true, () = std::future::ready(()) => false }
        });
        assert!(told);
    }

    #[test]
    fn a_signal_for_another_namespace_or_role_wakes_nobody() {
        let signals = Signals::new();
        let waiter = signals.join(wanting(&[], &[]));
        signals.wake_claim(&lane("m", Role::Work, "a"));
        signals.wake_claim(&lane("n", Role::Plan, "a"));
        assert!(!waiter.unused());
    }
}
