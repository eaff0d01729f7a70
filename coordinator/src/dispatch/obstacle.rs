//! Obstacles: what keeps a node from being given a task. The one place that decides it, for [`choose`](super::choose())
//! and for [`explain`](super::explain()).
//!
//! Each condition is a [`Gate`]: how many more tasks it lets through, and what to say when that is none. Dispatch counts
//! with the numbers; `why` tells the closed ones.

use std::time::Duration;

use orca_proto::limits;
use orca_proto::queue::{Paused, Rate};
use orca_proto::spec::meets;

use super::asker::{Asker, Fleet, serves};
use super::lane::{Capacity, Flow, Labels, LaneKey};
use super::rate::Bucket;
use super::settings::{GroupRules, Settings};
use super::usage::Usage;

/// How long a preference holds a task back, in microseconds.
const PREFERENCE_US: i64 = limits::PREFERENCE_SECS.cast_signed() * 1_000_000;

/// All that is known of one namespace and role at one instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    /// What operators have set.
    pub(crate) settings: &'a Settings,
    /// What runs.
    pub(crate) usage: &'a Usage,
    /// The live nodes.
    pub(crate) fleet: &'a Fleet,
    /// The instant, in microseconds since 1970.
    pub(crate) now_us: i64,
}

/// Why a node is not given a task, with the facts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Obstacle<'a> {
    /// The namespace runs as many as it may.
    NamespaceLimit {
        /// Tasks running.
        running: u64,
        /// As many as may.
        max: u32,
    },
    /// The queue is paused.
    QueuePaused(&'a Paused),
    /// The queue runs as many as it may.
    QueueLimit {
        /// Tasks running.
        running: u64,
        /// As many as may.
        max: u32,
    },
    /// The queue began as many lately as it may.
    QueueRate {
        /// The rate.
        rate: Rate,
        /// When the next may begin.
        again_in: Duration,
    },
    /// The group is paused.
    GroupPaused(&'a Paused),
    /// The group runs as many as it may.
    GroupLimit {
        /// Tasks running.
        running: u64,
        /// As many as may.
        max: u32,
    },
    /// The group began as many lately as it may.
    GroupRate {
        /// The rate.
        rate: Rate,
        /// When the next may begin.
        again_in: Duration,
    },
    /// The node does not serve the queue.
    QueuesNotServed,
    /// The node lacks a label that the task requires, or has one that it must not.
    Labels {
        /// The node's.
        labels: &'a Labels,
    },
    /// The node has less free than the task needs.
    Resources {
        /// What it has free.
        free: Capacity,
    },
    /// The node has no slot free.
    Slots,
    /// The node is not one that the task prefers, such a one lives, and the task has not been in line for long.
    PreferredElsewhere {
        /// Until when it is kept for the preferred ones, in microseconds since 1970.
        until_us: i64,
    },
}

/// One condition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate<'a> {
    /// How many more tasks may pass.
    pub(crate) room: u32,
    /// What stands in the way when none may.
    pub(crate) obstacle: Obstacle<'a>,
}

/// How many tasks may pass all of the gates.
pub(crate) fn room<'a>(gates: impl IntoIterator<Item = Gate<'a>>) -> u32 {
    gates.into_iter().map(|gate| gate.room).min().unwrap_or(u32::MAX)
}

/// Everything that keeps `asker` from being given a task of `lane` that has been in line since `since_us`. Empty exactly when
/// [`choose`](super::choose()) would give it one, were there no other tasks.
#[cfg(test)]
pub(crate) fn obstacles<'a>(
    lane: &'a LaneKey,
    since_us: i64,
    asker: &'a Asker,
    moment: &Moment<'a>,
) -> Vec<Obstacle<'a>> {
    flow_gates(&lane.flow, moment)
        .chain(node_gates(lane, since_us, asker, moment))
        .filter(|gate| gate.room == 0)
        .map(|gate| gate.obstacle)
        .collect()
}

/// The gates that no node can do anything about: those of namespace, queue and group.
pub(crate) fn flow_gates<'a>(flow: &'a Flow, moment: &Moment<'a>) -> impl Iterator<Item = Gate<'a>> {
    namespace_gate(moment).into_iter().chain(queue_gates(flow.queue(), moment)).chain(group_gates(
        flow,
        moment.settings.group(flow),
        moment,
    ))
}

/// How long until tasks of the flow may begin again, where nothing but rates keeps them from it.
pub(crate) fn again_in(flow: &Flow, moment: &Moment<'_>) -> Option<Duration> {
    let mut longest = None;
    for gate in flow_gates(flow, moment).filter(|gate| gate.room == 0) {
        match gate.obstacle {
            Obstacle::QueueRate { again_in, .. } | Obstacle::GroupRate { again_in, .. } => {
                longest = longest.max(Some(again_in));
            }
            _ => return None,
        }
    }
    longest
}

/// The gate of the namespace, where it has a limit.
pub(crate) fn namespace_gate<'a>(moment: &Moment<'a>) -> Option<Gate<'a>> {
    let running = moment.usage.running;
    let max = moment.settings.max_running?;
    Some(Gate { room: left(max, running), obstacle: Obstacle::NamespaceLimit { running, max } })
}

/// The gates of a queue.
pub(crate) fn queue_gates<'a>(queue: &str, moment: &Moment<'a>) -> impl Iterator<Item = Gate<'a>> + use<'a> {
    let rules = moment.settings.queues.get(queue);
    let usage = moment.usage.queues.get(queue);
    let running = usage.map_or(0, |usage| usage.running);
    let bucket = usage.map(|usage| usage.bucket).unwrap_or_default();
    let now_us = moment.now_us;
    let paused = rules.and_then(|rules| rules.paused.as_ref());
    let max = rules.and_then(|rules| rules.settings.max_running);
    let rate = rules.and_then(|rules| rules.settings.rate);
    [
        paused.map(|paused| Gate { room: 0, obstacle: Obstacle::QueuePaused(paused) }),
        max.map(|max| Gate { room: left(max, running), obstacle: Obstacle::QueueLimit { running, max } }),
        rate.map(|rate| {
            let (room, again_in) = allowed(bucket, rate, now_us);
            Gate { room, obstacle: Obstacle::QueueRate { rate, again_in } }
        }),
    ]
    .into_iter()
    .flatten()
}

/// The gates of a flow's group, for which `rules` were set; none for tasks that name no group.
pub(crate) fn group_gates<'a>(
    flow: &Flow,
    rules: Option<&'a GroupRules>,
    moment: &Moment<'a>,
) -> impl Iterator<Item = Gate<'a>> + use<'a> {
    let max = rules.and_then(|rules| rules.settings.max_running);
    let rate = rules.and_then(|rules| rules.settings.rate);
    // Most groups have no limit, and there may be very many of them.
    let limited = max.is_some() || rate.is_some();
    let usage = if limited { moment.usage.group(flow).copied() } else { None }.unwrap_or_default();
    let (running, now_us) = (usage.running, moment.now_us);
    let paused = rules.and_then(|rules| rules.paused.as_ref());
    [
        paused.map(|paused| Gate { room: 0, obstacle: Obstacle::GroupPaused(paused) }),
        max.map(|max| Gate { room: left(max, running), obstacle: Obstacle::GroupLimit { running, max } }),
        rate.map(|rate| {
            let (room, again_in) = allowed(usage.bucket, rate, now_us);
            Gate { room, obstacle: Obstacle::GroupRate { rate, again_in } }
        }),
    ]
    .into_iter()
    .flatten()
}

/// The gates between one lane and one node.
pub(crate) fn node_gates<'a>(
    lane: &LaneKey,
    since_us: i64,
    asker: &'a Asker,
    moment: &Moment<'_>,
) -> [Gate<'a>; 5] {
    let open = |yes: bool| if yes { u32::MAX } else { 0 };
    let free = asker.free.unwrap_or(Capacity { millicpus: u64::MAX, memory: u64::MAX });
    let until_us = since_us.saturating_add(PREFERENCE_US);
    let kept =
        moment.now_us < until_us && !meets(&lane.prefers, &asker.labels) && moment.fleet.has_preferred(lane);
    [
        Gate {
            room: open(meets(&lane.requires, &asker.labels)),
            obstacle: Obstacle::Labels { labels: &asker.labels },
        },
        Gate { room: open(serves(&asker.queues, lane.flow.queue())), obstacle: Obstacle::QueuesNotServed },
        Gate { room: free.holds(lane.needs), obstacle: Obstacle::Resources { free } },
        Gate { room: asker.slots, obstacle: Obstacle::Slots },
        Gate { room: open(!kept), obstacle: Obstacle::PreferredElsewhere { until_us } },
    ]
}

fn left(max: u32, running: u64) -> u32 {
    u32::try_from(u64::from(max).saturating_sub(running)).unwrap_or(u32::MAX)
}

fn allowed(bucket: Bucket, rate: Rate, now_us: i64) -> (u32, Duration) {
    (bucket.available(rate, now_us), bucket.again_in(rate, now_us))
}
