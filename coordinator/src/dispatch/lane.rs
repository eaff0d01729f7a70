//! Lanes: what tells tasks in line apart for dispatch.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use orca_proto::spec::Role;

/// Labels of a node, or what a task asks of them.
pub(crate) type Labels = BTreeMap<String, String>;

/// Processors and memory: what a task needs, or what a node has free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Capacity {
    /// Thousandths of a core.
    pub(crate) millicpus: u64,
    /// Bytes.
    pub(crate) memory: u64,
}

impl Capacity {
    /// How many times `needs` fits in here; `u32::MAX` for needs of nothing.
    pub(crate) fn holds(self, needs: Self) -> u32 {
        let times = |have: u64, need: u64| {
            have.checked_div(need).map_or(u32::MAX, |times| u32::try_from(times).unwrap_or(u32::MAX))
        };
        times(self.millicpus, needs.millicpus).min(times(self.memory, needs.memory))
    }

    /// What is left when `needs` is taken `count` times.
    pub(crate) fn less(self, needs: Self, count: u32) -> Self {
        let taken = |need: u64| need.saturating_mul(u64::from(count));
        Self {
            millicpus: self.millicpus.saturating_sub(taken(needs.millicpus)),
            memory: self.memory.saturating_sub(taken(needs.memory)),
        }
    }
}

/// A group of a queue, or those tasks of it that name no group: what shares by weight.
///
/// Carries its hash, as each claim looks up the flow of each lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    hash: u64,
    queue: String,
    group: Option<String>,
}

/// Names come from outside, so what they hash to must not be known there.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Flow {
    /// The flow of tasks in `queue` that name this group.
    pub(crate) fn new(queue: String, group: Option<String>) -> Self {
        Self { hash: HASHES.hash_one((&queue, &group)), queue, group }
    }

    /// The queue.
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// The group inside the queue.
    pub(crate) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }
}

impl Hash for Flow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Everything about a task that dispatch looks at, its time in line aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneKey {
    /// The tenant's namespace.
    pub(crate) namespace: String,
    /// Whose work it is.
    pub(crate) role: Role,
    /// Queue and group.
    pub(crate) flow: Flow,
    /// As the task names it; -100 to 100.
    pub(crate) priority: i16,
    /// What the container may use.
    pub(crate) needs: Capacity,
    /// Node labels that it must find.
    pub(crate) requires: Labels,
    /// Node labels that it would rather find.
    pub(crate) prefers: Labels,
}

/// A lane with something in line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its key.
    pub(crate) lane: Arc<LaneKey>,
    /// Its id in the database.
    pub(crate) id: i32,
    /// Tasks in line, at least 1. May be an estimate: picks are upper bounds.
    pub(crate) waiting: u64,
    /// Since when the first of them has been in line, in microseconds since 1970.
    pub(crate) head_since_us: i64,
}
