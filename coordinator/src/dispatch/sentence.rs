//! One sentence and its facts for each obstacle.

use std::time::Duration;

use jiff::Timestamp;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::quantity::Bytes;
use orca_proto::queue::{Paused, Rate};
use orca_proto::spec::{Role, meets};
use orca_proto::why::{Condition, ConditionKind};
use serde_json::{Value, json};

use super::asker::{Asker, is_large_enough};
use super::condition::condition;
use super::explain::InLine;
use super::lane::{Capacity, Labels, LaneKey};
use super::obstacle::{Moment, Obstacle};
use super::words;

/// Nodes, and tasks that hold a limit, that are named at most.
pub(super) const NAMED: usize = 20;

/// The fact of a task that is larger than each of the nodes.
pub(super) const TOO_LARGE: &str = "too_large";

/// What a sentence may speak of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The task.
    pub(super) task: InLine<'a>,
    /// The nodes that are kept from it by this obstacle: by none before it, or whatever else keeps them.
    pub(super) stopped: &'a [&'a Asker],
    /// How many nodes live.
    pub(super) live: usize,
    /// The state of things.
    pub(super) moment: &'a Moment<'a>,
}

/// The condition that this obstacle is.
pub(super) fn sentence(obstacle: Obstacle<'_>, facts: &Facts<'_>) -> Condition {
    let InLine { lane, queue_holders, group_holders, .. } = facts.task;
    let namespace = || format!("namespace {}", lane.namespace);
    let queue = || format!("queue {}", lane.flow.queue());
    let group = || format!("group {} of {}", lane.flow.group().unwrap_or_default(), queue());
    match obstacle {
        Obstacle::NamespaceLimit { running, max } => {
            limit(ConditionKind::NamespaceLimit, &namespace(), running, max, &[])
        }
        Obstacle::QueuePaused(by) => paused(ConditionKind::QueuePaused, &queue(), by),
        Obstacle::GroupPaused(by) => paused(ConditionKind::GroupPaused, &group(), by),
        Obstacle::QueueLimit { running, max } => {
            limit(ConditionKind::QueueLimit, &queue(), running, max, queue_holders)
        }
        Obstacle::GroupLimit { running, max } => {
            limit(ConditionKind::GroupLimit, &group(), running, max, group_holders)
        }
        Obstacle::QueueRate { rate, again_in } => rated(ConditionKind::QueueRate, &queue(), rate, again_in),
        Obstacle::GroupRate { rate, again_in } => rated(ConditionKind::GroupRate, &group(), rate, again_in),
        Obstacle::Labels { .. } => labels(facts),
        Obstacle::QueuesNotServed => queues(facts),
        Obstacle::Resources { .. } => resources(facts),
        Obstacle::Slots => slots(facts),
        Obstacle::PreferredElsewhere { until_us } => preferred(words::timestamp(until_us), facts),
    }
}

/// There is nobody to take it.
pub(super) fn no_node(lane: &LaneKey) -> Condition {
    let role = match lane.role {
        Role::Work => "worker",
        Role::Plan => "planner",
    };
    condition(
        ConditionKind::NoNode,
        true,
        format!("no {role} node is alive and takes work in namespace {}", lane.namespace),
        [("role", json!(lane.role)), ("namespace", json!(lane.namespace))],
    )
}

fn paused(kind: ConditionKind, whole: &str, by: &Paused) -> Condition {
    let why = by.reason.as_ref().map(|reason| format!(": “{reason}”")).unwrap_or_default();
    condition(
        kind,
        true,
        format!("{whole} was paused by {} at {}{why}", by.by, words::instant(by.at)),
        [("of", json!(whole)), ("at", json!(by.at)), ("by", json!(by.by)), ("reason", json!(by.reason))],
    )
}

fn limit(kind: ConditionKind, whole: &str, running: u64, max: u32, holders: &[TaskId]) -> Condition {
    let held_by: Vec<&TaskId> = holders.iter().take(NAMED).collect();
    let (told, of) = (words::count(running), words::count(u64::from(max)));
    condition(
        kind,
        true,
        format!("{whole} is at its limit: {told} of {of} running{}", words::holders(holders, running)),
        [
            ("of", json!(whole)),
            ("running", json!(running)),
            ("max", json!(max)),
            ("held_by", if held_by.is_empty() { Value::Null } else { json!(held_by) }),
        ],
    )
}

fn rated(kind: ConditionKind, whole: &str, rate: Rate, again_in: Duration) -> Condition {
    condition(
        kind,
        true,
        format!(
            "{whole} has begun {} in {}, as many as its rate allows; the next may begin in {}",
            words::tasks(u64::from(rate.tasks)),
            rate.per,
            words::wait(again_in)
        ),
        [("of", json!(whole)), ("rate", json!(rate)), ("again_in", json!(Span::from(again_in)))],
    )
}

fn labels(facts: &Facts<'_>) -> Condition {
    let requires = &facts.task.lane.requires;
    let met_by_none = |(key, wish): &(&String, &String)| {
        let alone = Labels::from([((*key).clone(), (*wish).clone())]);
        !facts.stopped.iter().any(|node| meets(&alone, &node.labels))
    };
    let unmet: Vec<_> = requires.iter().filter(met_by_none).collect();
    let nodes = words::live_nodes(facts.live);
    let message = match unmet.first() {
        Some((key, _)) => format!(
            "no live node has {} ({nodes}; {key} is {})",
            words::wishes(unmet.iter().copied()),
            words::values(key, facts.stopped.iter().map(|node| &node.labels))
        ),
        None => format!("no live node has all of {} ({nodes})", words::wishes(requires)),
    };
    let unmet: Labels = unmet.into_iter().map(|(key, wish)| (key.clone(), wish.clone())).collect();
    of_nodes(
        ConditionKind::NodeLabels,
        message,
        facts,
        [("requires", json!(requires)), ("unmet", json!(unmet))],
    )
}

fn queues(facts: &Facts<'_>) -> Condition {
    let queue = facts.task.lane.flow.queue();
    let (nobody, of) = nobody(facts);
    let message = format!("{nobody} serves queue {queue} ({of})");
    of_nodes(ConditionKind::NodeQueues, message, facts, [("queue", json!(queue))])
}

fn resources(facts: &Facts<'_>) -> Condition {
    let needs = facts.task.lane.needs;
    let most = |of: fn(&Asker) -> Option<Capacity>| {
        let each = facts.stopped.iter().map(|node| of(node).unwrap_or_default());
        each.fold(Capacity::default(), |most, one| Capacity {
            millicpus: most.millicpus.max(one.millicpus),
            memory: most.memory.max(one.memory),
        })
    };
    let (free, size) = (most(|node| node.free), most(|node| node.size.or(node.free)));
    let too_large = !facts.stopped.iter().any(|node| is_large_enough(node, facts.task.lane));
    let (nobody, of) = nobody(facts);
    let needed = words::capacity(needs);
    let message = if too_large {
        // Waiting helps nobody here, so the words must not sound as if it did.
        let largest = words::capacity(size);
        format!(
            "{nobody} is large enough for {needed}, whatever runs there ({of}; the most that any has in all: {largest})"
        )
    } else {
        format!("{nobody} has {needed} free ({of}; the most that any has: {})", words::capacity(free))
    };
    of_nodes(
        ConditionKind::NodeResources,
        message,
        facts,
        [
            ("needs", amount(needs)),
            ("most_free", amount(free)),
            ("most_in_all", amount(size)),
            (TOO_LARGE, json!(too_large)),
        ],
    )
}

fn slots(facts: &Facts<'_>) -> Condition {
    let (nobody, of) = nobody(facts);
    of_nodes(ConditionKind::NodeSlots, format!("{nobody} has a slot free ({of})"), facts, [])
}

fn preferred(until: Timestamp, facts: &Facts<'_>) -> Condition {
    let prefers = &facts.task.lane.prefers;
    let message = format!(
        "for another {} it is kept for a node with {}, of which none is free",
        words::until(until, words::timestamp(facts.moment.now_us)),
        words::wishes(prefers)
    );
    of_nodes(ConditionKind::Prefers, message, facts, [("prefers", json!(prefers)), ("until", json!(until))])
}

/// A condition about nodes: it names those that would do but for it.
fn of_nodes<const N: usize>(
    kind: ConditionKind,
    message: String,
    facts: &Facts<'_>,
    specific: [(&'static str, Value); N],
) -> Condition {
    let nodes: Vec<&str> = facts.stopped.iter().take(NAMED).map(|node| node.name.as_str()).collect();
    let shared = [("live_nodes", json!(facts.live)), ("nodes", json!(nodes))];
    condition(kind, true, message, specific.into_iter().chain(shared))
}

/// Whom a sentence about nodes denies something of, and how many they are.
fn nobody(facts: &Facts<'_>) -> (&'static str, String) {
    let live = words::live_nodes(facts.live);
    match facts.stopped.len() {
        all if all == facts.live => ("no live node", live),
        fit => ("no live node that is otherwise fit", format!("{fit} of {live}")),
    }
}

fn amount(capacity: Capacity) -> Value {
    json!({"millicpus": capacity.millicpus, "memory": Bytes(capacity.memory)})
}
