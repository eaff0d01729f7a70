//! Nodes as dispatch sees them: the one that asks, and those that it might have been.

use std::collections::{BTreeSet, HashMap};

use orca_proto::spec::meets;

use super::lane::{Capacity, Labels, LaneKey};

/// How many kinds of nodes are looked at to learn whether a preferred one lives. Beyond that the preference is let go: it is
/// no more than that, and a claim must not cost lanes × nodes.
const LOOKED_AT: usize = 64;

/// A live node that takes work, and what it has free.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asker {
    /// Its name, for people.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: Labels,
    /// The queues that it serves; all when empty.
    pub(crate) queues: BTreeSet<String>,
    /// Attempts that it can begin now.
    pub(crate) slots: u32,
    /// Processors and memory that it has free; none when it does not count them.
    pub(crate) free: Option<Capacity>,
    /// All that it has, whoever uses it now; none when it does not count them, or where nobody asks.
    pub(crate) size: Option<Capacity>,
}

/// Whether a node that serves `queues` (all when empty) serves `queue`.
pub(crate) fn serves(queues: &BTreeSet<String>, queue: &str) -> bool {
    queues.is_empty() || queues.contains(queue)
}

/// Whether a node could ever take tasks of a lane: what it has free now aside.
pub(crate) fn fits(node: &Asker, lane: &LaneKey) -> bool {
    serves(&node.queues, lane.flow.queue())
        && meets(&lane.requires, &node.labels)
        && is_large_enough(node, lane)
}

/// Whether a node that runs nothing has the processors and memory for a task of a lane.
pub(crate) fn is_large_enough(node: &Asker, lane: &LaneKey) -> bool {
    node.size.is_none_or(|size| size.holds(lane.needs) > 0)
}

/// The live nodes of one namespace and role by what never changes while they live: made anew when one comes or goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    /// Different labels and queues, each once.
    kinds: Vec<(Labels, BTreeSet<String>)>,
    /// Label → value → kinds that have it, so that a wish for a rare label does not look at every node.
    index: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl Fleet {
    /// The fleet of nodes with these labels and queues.
    pub(crate) fn new<'a>(nodes: impl IntoIterator<Item = (&'a Labels, &'a BTreeSet<String>)>) -> Self {
        let distinct: BTreeSet<_> = nodes.into_iter().collect();
        let mut fleet = Self::default();
        for (kind, (labels, queues)) in distinct.into_iter().enumerate() {
            for (key, value) in labels {
                fleet.index.entry(key.clone()).or_default().entry(value.clone()).or_default().push(kind);
            }
            fleet.kinds.push((labels.clone(), queues.clone()));
        }
        fleet
    }

    /// Whether a live node has all that the lane requires, and serves its queue.
    pub(crate) fn may_take(&self, lane: &LaneKey) -> bool {
        let suits = |(labels, queues): &(Labels, BTreeSet<String>)| {
            serves(queues, lane.flow.queue()) && meets(&lane.requires, labels)
        };
        self.kinds.iter().any(suits)
    }

    /// Whether a live node has all that the lane requires and all that it prefers, and serves its queue.
    pub(crate) fn has_preferred(&self, lane: &LaneKey) -> bool {
        let suits = |(labels, queues): &(Labels, BTreeSet<String>)| {
            serves(queues, lane.flow.queue()) && meets(&lane.requires, labels) && meets(&lane.prefers, labels)
        };
        let wishes = lane.prefers.iter().chain(&lane.requires);
        let rarest = wishes
            .filter(|(_, wish)| *wish != "*" && !wish.starts_with('!'))
            .map(|(key, value)| {
                self.index.get(key).and_then(|values| values.get(value)).map_or(&[][..], Vec::as_slice)
            })
            .min_by_key(|kinds| kinds.len());
        match rarest {
            Some(kinds) => kinds.iter().filter_map(|kind| self.kinds.get(*kind)).take(LOOKED_AT).any(suits),
            None => self.kinds.iter().take(LOOKED_AT).any(suits),
        }
    }
}
