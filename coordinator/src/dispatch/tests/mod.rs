//! A namespace in memory: lanes, nodes, settings and usage, for the tests of dispatch.

use std::sync::Arc;

use orca_proto::duration::Span;
use orca_proto::queue::{Paused, QueueSettings, Rate};
use orca_proto::spec::Role;

use super::choose::Pick;
use super::explain::Explanation;
use super::*;

mod any;
mod explanations;
mod invariants;
mod order;
mod placement;
mod shares;

const SECOND: i64 = 1_000_000;
/// Late enough that nothing in a test happens before 1970.
const NOW: i64 = 1_000_000 * SECOND;

/// Everything that a claim looks at.
#[derive(Clone, Debug, Default)]
struct World {
    settings: Settings,
    usage: Usage,
    nodes: Vec<Asker>,
    lines: Vec<Line>,
}

impl World {
    /// A world with one node of so many slots.
    fn with_slots(slots: u32) -> Self {
        Self { nodes: vec![node("w1", slots)], ..Self::default() }
    }

    fn queue(&mut self, queue: &str) -> &mut QueueRules {
        self.settings.queues.entry(queue.to_owned()).or_default()
    }

    fn group(&mut self, queue: &str, group: &str) -> &mut GroupRules {
        self.queue(queue).groups.entry(group.to_owned()).or_default()
    }

    fn weight(&mut self, group: &str, weight: u32) {
        self.group("default", group).settings.weight = weight;
    }

    fn line(&mut self, lane: LaneKey, waiting: u64, head_since_us: i64) -> i32 {
        let id = i32::try_from(self.lines.len()).unwrap();
        self.lines.push(Line { lane: Arc::new(lane), id, waiting, head_since_us });
        id
    }

    fn fleet(&self) -> Fleet {
        Fleet::new(self.nodes.iter().map(|node| (&node.labels, &node.queues)))
    }

    /// What the node of this index is given, as (lane, most).
    fn claim_as(&self, fairness: &mut Fairness, node: usize, now_us: i64) -> Vec<(i32, u32)> {
        let fleet = self.fleet();
        let moment = Moment { settings: &self.settings, usage: &self.usage, fleet: &fleet, now_us };
        let picks = choose(fairness, &self.nodes[node], &self.lines, &moment);
        picks.into_iter().map(|Pick { lane, most }| (lane, most)).collect()
    }

    /// What the first node is given now, by nobody's history.
    fn claim(&self) -> Vec<(i32, u32)> {
        self.claim_as(&mut Fairness::default(), 0, NOW)
    }

    /// What is said of a task at the head of this line.
    fn explain(&self, line: i32, now_us: i64) -> Explanation {
        let fleet = self.fleet();
        let moment = Moment { settings: &self.settings, usage: &self.usage, fleet: &fleet, now_us };
        let line = &self.lines[usize::try_from(line).unwrap()];
        let task = InLine {
            lane: &line.lane,
            since_us: line.head_since_us,
            ahead: Ahead::default(),
            queue_holders: &[],
            group_holders: &[],
        };
        explain(task, &self.nodes, &moment)
    }
}

fn node(name: &str, slots: u32) -> Asker {
    Asker { name: name.to_owned(), slots, ..Asker::default() }
}

fn lane() -> LaneKey {
    LaneKey {
        namespace: "default".to_owned(),
        role: Role::Work,
        flow: Flow::new("default".to_owned(), None),
        priority: 0,
        needs: Capacity { millicpus: 1_000, memory: 512 << 20 },
        requires: Labels::new(),
        prefers: Labels::new(),
    }
}

fn in_group(group: &str) -> LaneKey {
    LaneKey { flow: Flow::new("default".to_owned(), Some(group.to_owned())), ..lane() }
}

fn with_priority(priority: i16) -> LaneKey {
    LaneKey { priority, ..lane() }
}

fn labels(entries: &[(&str, &str)]) -> Labels {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn paused() -> Paused {
    Paused {
        at: "2026-03-01T10:00:00Z".parse().unwrap(),
        by: "ann".to_owned(),
        reason: Some("maintenance".to_owned()),
    }
}
