//! Wake-ups inside the process: who waits for work, for cancels, for events, for log lines.
//!
//! A signal is only ever a hint to look at the database again, and every wait has a limit: a lost or doubled one costs
//! time, never truth. What becomes ready wakes one waiting claim; a claim that could not take all passes the hint on.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orca_proto::ids::{NodeId, TaskId};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::db::apply::Effects;

/// How many notifications ids are spread over.
const SHARDS: usize = 64;

/// All wake-ups of one process.
pub(crate) struct Signals {
    /// Names this process in notifications, so that it can pass over its own.
    pub(crate) process: Uuid,
    waiters: Mutex<Waiters>,
    nodes: Vec<Notify>,
    logs: Vec<Notify>,
    events: Notify,
    /// Events were written since the pulse last looked.
    pub(crate) pulse: Notify,
    /// The settler has work.
    pub(crate) unsettled: Notify,
    /// The timer must look when it is next due.
    pub(crate) scheduled: Notify,
    /// A schedule was changed: their timer must look again.
    pub(crate) schedules: Notify,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    claims: BTreeMap<u64, Claim>,
}

struct Claim {
    lane: Lane,
    wake: Arc<Notify>,
    signalled: bool,
}

/// What a claim waits for: tasks of a role in some queues (all, when empty) of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) namespace: String,
    pub(crate) role: &'static str,
    pub(crate) queues: Vec<String>,
}

impl Lane {
    /// `None` stands for any queue.
    fn takes(&self, namespace: &str, role: &str, queue: Option<&str>) -> bool {
        self.namespace == namespace
            && self.role == role
            && (self.queues.is_empty()
                || queue.is_none_or(|queue| self.queues.iter().any(|taken| taken == queue)))
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
            events: Notify::new(),
            pulse: Notify::new(),
            unsettled: Notify::new(),
            scheduled: Notify::new(),
            schedules: Notify::new(),
        }
    }

    /// Passes on what a committed transaction did.
    pub(crate) fn publish(&self, effects: &Effects) {
        for (namespace, role, queue) in &effects.ready {
            self.wake_claim(namespace, role, Some(queue));
        }
        for node in &effects.cancels {
            self.wake_node(*node);
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

    /// Joins those who wait for work. Join first, then look: what becomes ready in between is not missed.
    pub(crate) fn join(&self, lane: Lane) -> Waiter<'_> {
        let wake = Arc::new(Notify::new());
        let mut waiters = self.waiters();
        let id = waiters.next;
        waiters.next += 1;
        waiters.claims.insert(id, Claim { lane, wake: Arc::clone(&wake), signalled: false });
        Waiter { signals: self, id, wake }
    }

    /// Wakes the claim that has waited longest of those that take this queue (`None`: any).
    pub(crate) fn wake_claim(&self, namespace: &str, role: &str, queue: Option<&str>) {
        Self::wake_first(&mut self.waiters(), 0, namespace, role, queue);
    }

    fn wake_first(waiters: &mut Waiters, from: u64, namespace: &str, role: &str, queue: Option<&str>) {
        let first = waiters
            .claims
            .range_mut(from..)
            .map(|(_, claim)| claim)
            .find(|claim| !claim.signalled && claim.lane.takes(namespace, role, queue));
        if let Some(claim) = first {
            claim.signalled = true;
            claim.wake.notify_one();
        }
    }

    /// The different lanes that claims wait for.
    pub(crate) fn lanes(&self) -> BTreeSet<Lane> {
        self.waiters().claims.values().map(|claim| claim.lane.clone()).collect()
    }

    /// Wakes one claim of exactly this lane.
    pub(crate) fn wake_lane(&self, lane: &Lane) {
        let mut waiters = self.waiters();
        if let Some(claim) = waiters.claims.values_mut().find(|claim| !claim.signalled && claim.lane == *lane)
        {
            claim.signalled = true;
            claim.wake.notify_one();
        }
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

    /// There may be more than this claim could take: the next one should look.
    pub(crate) fn pass_on(&self) {
        let mut waiters = self.signals.waiters();
        if let Some(lane) = waiters.claims.get(&self.id).map(|claim| claim.lane.clone()) {
            // Only to those behind it: two that cannot take anything would wake each other for ever.
            Signals::wake_first(&mut waiters, self.id + 1, &lane.namespace, lane.role, None);
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiters = self.signals.waiters();
        if let Some(claim) = waiters.claims.remove(&self.id)
            && claim.signalled
        {
            Signals::wake_first(&mut waiters, 0, &claim.lane.namespace, claim.lane.role, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(queues: &[&str]) -> Lane {
        Lane {
            namespace: "n".into(),
            role: "work",
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
        }
    }

    fn signalled(signals: &Signals, waiter: &Waiter<'_>) -> bool {
        signals.waiters().claims.get(&waiter.id).is_some_and(|claim| claim.signalled)
    }

    #[test]
    fn one_waiting_claim_is_woken_and_it_is_the_one_that_takes_the_queue() {
        let signals = Signals::new();
        let other = signals.join(lane(&["b"]));
        let first = signals.join(lane(&["a"]));
        let second = signals.join(lane(&[]));
        signals.wake_claim("n", "work", Some("a"));
        assert_eq!([&other, &first, &second].map(|waiter| signalled(&signals, waiter)), [false, true, false]);
    }

    #[test]
    fn a_signal_that_was_not_used_goes_to_the_next() {
        let signals = Signals::new();
        let first = signals.join(lane(&[]));
        let second = signals.join(lane(&[]));
        signals.wake_claim("n", "work", Some("a"));
        drop(first);
        assert!(signalled(&signals, &second));
    }

    #[test]
    fn a_signal_for_another_namespace_or_role_wakes_nobody() {
        let signals = Signals::new();
        let waiter = signals.join(lane(&[]));
        signals.wake_claim("m", "work", None);
        signals.wake_claim("n", "plan", None);
        assert!(!signalled(&signals, &waiter));
    }
}
