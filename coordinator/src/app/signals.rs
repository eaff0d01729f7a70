//! Wake-ups inside the process: who waits for work, for cancels, for events, for log lines.
//!
//! A signal is only ever a hint to look at the database again, and every wait has a limit: a lost or doubled one costs
//! time, never truth. What becomes ready wakes one waiting claim that may take it; a claim that could not take all passes the
//! hint on.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orca_proto::ids::{NodeId, TaskId};
use orca_proto::spec::{Role, meets};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::db::apply::Effects;
use crate::dispatch::{Asker, LaneKey};

/// How many notifications ids are spread over.
const SHARDS: usize = 64;

/// All wake-ups of one process.
pub(crate) struct Signals {
    /// Names this process in notifications, so that it can pass over its own.
    pub(crate) process: Uuid,
    waiters: Mutex<Waiters>,
    nodes: Vec<Notify>,
    logs: Vec<Notify>,
    /// Signals that operators send to tasks.
    arrivals: Vec<Notify>,
    events: Notify,
    /// Events were written since the pulse last looked.
    pub(crate) pulse: Notify,
    /// The settler has work.
    pub(crate) unsettled: Notify,
    /// A claim went away with a signal that it had not used: the lanes must be looked over.
    pub(crate) dropped: Notify,
    /// What other coordinators must be told.
    pub(crate) outbox: Mutex<Outbox>,
    /// Something was put into the outbox.
    pub(crate) posted: Notify,
    /// The timer must look when it is next due.
    pub(crate) scheduled: Notify,
    /// A schedule was changed: their timer must look again.
    pub(crate) schedules: Notify,
}

/// What other coordinators must be told, gathered for a moment.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) lanes: BTreeSet<i32>,
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) settings: bool,
    pub(crate) schedules: bool,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    claims: BTreeMap<u64, Claim>,
}

struct Claim {
    asker: Arc<Wanting>,
    wake: Arc<Notify>,
    signalled: bool,
}

/// A node that waits for work of a role in a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Wanting {
    pub(crate) namespace: String,
    pub(crate) role: Role,
    pub(crate) node: Asker,
}

impl Wanting {
    /// Whether the node could be granted what stands in this lane, limits and the likes of others aside.
    fn takes(&self, lane: &LaneKey) -> bool {
        self.namespace == lane.namespace
            && self.role == lane.role
            && (self.node.queues.is_empty() || self.node.queues.contains(lane.flow.queue()))
            && meets(&lane.requires, &self.node.labels)
            && self.node.free.is_none_or(|free| free.holds(lane.needs) > 0)
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
    pub(crate) fn new() -> Self {
        Self {
            process: Uuid::now_v7(),
            waiters: Mutex::default(),
            nodes: (0..SHARDS).map(|_| Notify::new()).collect(),
            logs: (0..SHARDS).map(|_| Notify::new()).collect(),
            arrivals: (0..SHARDS).map(|_| Notify::new()).collect(),
            events: Notify::new(),
            pulse: Notify::new(),
            unsettled: Notify::new(),
            dropped: Notify::new(),
            outbox: Mutex::default(),
            posted: Notify::new(),
            scheduled: Notify::new(),
            schedules: Notify::new(),
        }
    }

    /// Passes on what a committed transaction did.
    pub(crate) fn publish(&self, effects: &Effects) {
        for node in &effects.cancels {
            self.wake_node(*node);
        }
        for task in &effects.signalled {
            if let Some(shard) = self.arrivals.get(shard(&task.0)) {
                shard.notify_waiters();
            }
        }
        for task in &effects.ended {
            self.wake_log(*task);
        }
        if effects.unsettled {
            self.unsettled.notify_one();
        }
        if effects.scheduled {
            self.scheduled.notify_one();
        }
        if effects.events {
            self.pulse.notify_one();
        }
    }

    /// Puts what other coordinators must know into the outbox.
    pub(crate) fn post(&self, effects: &Effects) {
        if effects.ready.is_empty() && effects.cancels.is_empty() && !effects.settings && !effects.schedules {
            return;
        }
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.lanes.extend(effects.ready.keys());
        outbox.nodes.extend(&effects.cancels);
        outbox.settings |= effects.settings;
        outbox.schedules |= effects.schedules;
        drop(outbox);
        self.posted.notify_one();
    }

    /// Empties the outbox.
    pub(crate) fn collect(&self) -> Outbox {
        std::mem::take(&mut *self.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Joins those who wait for work. Join first, then look: what becomes ready in between is not missed.
    pub(crate) fn join(&self, asker: Arc<Wanting>) -> Waiter<'_> {
        let wake = Arc::new(Notify::new());
        let mut waiters = self.waiters();
        let id = waiters.next;
        waiters.next += 1;
        waiters.claims.insert(id, Claim { asker, wake: Arc::clone(&wake), signalled: false });
        Waiter { signals: self, id, wake }
    }

    /// Wakes the claim that has waited longest of those that may take of this lane.
    pub(crate) fn wake_claim(&self, lane: &LaneKey) {
        self.wake_claim_but(None, lane);
    }

    /// Wakes the claim that has waited longest of those beside `waiter` that may take of this lane.
    pub(crate) fn wake_other_claim(&self, lane: &LaneKey, waiter: &Waiter<'_>) {
        self.wake_claim_but(Some(waiter.id), lane);
    }

    fn wake_claim_but(&self, not: Option<u64>, lane: &LaneKey) {
        let mut waiters = self.waiters();
        let first = waiters
            .claims
            .iter_mut()
            .find(|(id, claim)| Some(**id) != not && !claim.signalled && claim.asker.takes(lane));
        if let Some((_, claim)) = first {
            claim.signalled = true;
            claim.wake.notify_one();
        }
    }

    /// Whether any claim waits.
    pub(crate) fn any_claim(&self) -> bool {
        !self.waiters().claims.is_empty()
    }

    /// Wakes the held renewals of a node.
    pub(crate) fn wake_node(&self, node: NodeId) {
        if let Some(shard) = self.nodes.get(shard(&node.0)) {
            shard.notify_waiters();
        }
    }

    /// Wakes the held renewals of all nodes.
    pub(crate) fn wake_nodes(&self) {
        self.nodes.iter().for_each(Notify::notify_waiters);
    }

    /// Wakes those who follow a task's log.
    pub(crate) fn wake_log(&self, task: TaskId) {
        if let Some(shard) = self.logs.get(shard(&task.0)) {
            shard.notify_waiters();
        }
    }

    /// Wakes those who follow events.
    pub(crate) fn wake_events(&self) {
        self.events.notify_waiters();
    }

    /// Resolves at the next signal for a node, at the latest after `most`.
    pub(crate) async fn node_changed(&self, node: NodeId, most: Duration) {
        if let Some(shard) = self.nodes.get(shard(&node.0)) {
            let _ = tokio::time::timeout(most, shard.notified()).await;
        }
    }

    /// Resolves at the next signal for a task's log, at the latest after `most`.
    pub(crate) async fn log_changed(&self, task: TaskId, most: Duration) {
        if let Some(shard) = self.logs.get(shard(&task.0)) {
            let _ = tokio::time::timeout(most, shard.notified()).await;
        }
    }

    /// Resolves at the first signal that is sent to a task after this was called.
    /// Call first, then look: what comes in between is not missed.
    pub(crate) fn arrival(&self, task: TaskId) -> impl Future<Output = ()> + '_ {
        let next = self.arrivals.get(shard(&task.0)).map(Notify::notified);
        async move {
            match next {
                Some(next) => next.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Resolves at the next event, at the latest after `most`.
    pub(crate) async fn events_changed(&self, most: Duration) {
        let _ = tokio::time::timeout(most, self.events.notified()).await;
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shard(id: &Uuid) -> usize {
    let hasher: BuildHasherDefault<DefaultHasher> = BuildHasherDefault::default();
    let mut state = hasher.build_hasher();
    id.hash(&mut state);
    usize::try_from(std::hash::Hasher::finish(&state) % SHARDS as u64).unwrap_or_default()
}

impl Waiter<'_> {
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

    /// Lets others be woken instead of this one, until it takes the next signal.
    pub(crate) fn pass(&self) {
        if let Some(claim) = self.signals.waiters().claims.get_mut(&self.id) {
            claim.signalled = true;
        }
    }

    /// Whether it was signalled and has not taken the signal.
    fn unused(&self) -> bool {
        self.signals.waiters().claims.get(&self.id).is_some_and(|claim| claim.signalled)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let unused = self.unused();
        self.signals.waiters().claims.remove(&self.id);
        if unused {
            // What it was woken for is somebody else's now.
            self.signals.dropped.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{Capacity, Flow};

    fn wanting(queues: &[&str], labels: &[(&str, &str)]) -> Arc<Wanting> {
        let own = |text: &&str| (*text).to_owned();
        let node = Asker {
            queues: queues.iter().map(own).collect(),
            labels: labels.iter().map(|(key, value)| (own(key), own(value))).collect(),
            ..Asker::default()
        };
        Arc::new(Wanting { namespace: "n".into(), role: Role::Work, node })
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
    fn a_claim_hands_its_signal_to_another_and_never_back_to_itself_or_to_one_that_passed() {
        let signals = Signals::new();
        let (first, second, third) = (
            signals.join(wanting(&[], &[])),
            signals.join(wanting(&[], &[])),
            signals.join(wanting(&[], &[])),
        );
        second.pass();
        signals.wake_other_claim(&lane("n", Role::Work, "a"), &first);
        assert_eq!([&first, &third].map(Waiter::unused), [false, true]);
        second.take();
        signals.wake_claim(&lane("n", Role::Work, "a"));
        signals.wake_claim(&lane("n", Role::Work, "a"));
        assert_eq!([&first, &second, &third].map(Waiter::unused), [true, true, true]);
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
