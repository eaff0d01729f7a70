//! Wake-ups inside the process: who waits for work, for cancels, for events, for log lines.
//!
//! A signal is only ever a hint to look at the database again, and every wait has a limit: a lost or doubled one costs
//! time, never truth. Claims that wait are in [`waiting`](super::waiting).

use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use orca_proto::ids::{NodeId, TaskId};
use tokio::sync::Notify;
use uuid::Uuid;

use super::waiting::Waiters;
use crate::db::apply::Effects;

/// How many notifications ids are spread over.
const SHARDS: usize = 64;

/// All wake-ups of one process.
pub(crate) struct Signals {
    /// Names this process in notifications, so that it can pass over its own.
    pub(crate) process: Uuid,
    pub(super) waiters: Mutex<Waiters>,
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
    /// Those that take no more work.
    pub(crate) drains: BTreeSet<NodeId>,
    pub(crate) settings: bool,
    pub(crate) schedules: bool,
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

    /// Tells the other coordinators that a node takes no more work.
    pub(crate) fn post_drain(&self, node: NodeId) {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).drains.insert(node);
        self.posted.notify_one();
    }

    /// Tells the other coordinators that something may begin in these lanes.
    pub(crate) fn post_lanes(&self, lanes: impl Iterator<Item = i32>) {
        let mut lanes = lanes.peekable();
        if lanes.peek().is_some() {
            self.outbox.lock().unwrap_or_else(PoisonError::into_inner).lanes.extend(lanes);
            self.posted.notify_one();
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
}

fn shard(id: &Uuid) -> usize {
    let hasher: BuildHasherDefault<DefaultHasher> = BuildHasherDefault::default();
    let mut state = hasher.build_hasher();
    id.hash(&mut state);
    usize::try_from(std::hash::Hasher::finish(&state) % SHARDS as u64).unwrap_or_default()
}
