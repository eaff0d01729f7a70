//! Invariant 8: an expired lease is reclaimed within one sweep, and no other is; limits of queues, groups and nodes are
//! never exceeded.

use std::collections::{BTreeMap, HashMap};

use orca_proto::ids::{NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::task::{Attempt, Outcome};

use super::Check;
use super::view::View;
use crate::history::{Answer, Call, Op};

/// What a request may take to take effect while nothing is broken, in microseconds.
const EFFECT: i64 = 2_000_000;
/// What a sweep may take while nothing is broken, in microseconds. Far more than its period: machines are busy.
const SWEEP: i64 = 4_000_000;
/// What the machine's and the database's idea of a moment may differ by, in microseconds.
const SLACK: i64 = 50_000;

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    let mut checks = reclaimed(view);
    checks.push(queues(view));
    checks.push(groups(view));
    checks.push(rates(view));
    checks.push(nodes(view));
    checks
}

/// Requests by which leases were kept, by lease.
fn renewals<'a>(view: &View<'a>) -> HashMap<LeaseRef, Vec<&'a Op>> {
    let mut renewals: HashMap<LeaseRef, Vec<&Op>> = HashMap::new();
    for op in &view.history.ops {
        let Call::Renew { leases, .. } = &op.call else { continue };
        let refused = matches!(op.answer(), Some(Answer::Refused { .. }));
        let lost: &[LeaseRef] = match op.answer() {
            Some(Answer::Renewed { lost, .. }) => lost,
            _ => &[],
        };
        for lease in leases.iter().filter(|lease| !refused && !lost.contains(lease)) {
            renewals.entry(*lease).or_default().push(op);
        }
    }
    renewals
}

fn reclaimed(view: &View<'_>) -> Vec<Check> {
    let mut in_time = Check::of("an expired lease is reclaimed within one sweep");
    let mut not_early = Check::of("a lease that stands is not reclaimed");
    let renewals = renewals(view);
    for (id, dumped) in &view.tasks {
        for attempt in dumped.task.attempts.iter().filter(|attempt| attempt.outcome == Some(Outcome::Lost)) {
            let Some(ended) = attempt.ended_at else { continue };
            let granted = view.time.latest(attempt.granted_at);
            let over = view.time.earliest(ended);
            if view.time.moved_between(granted, view.time.latest(ended)) {
                continue;
            }
            let lease = LeaseRef { task: *id, token: attempt.token };
            let kept = renewals.get(&lease).map_or(&[][..], Vec::as_slice);
            // By when the lease must have run out, whatever became of each renewal.
            let effects = kept.iter().map(|op| match op.answer() {
                Some(_) => op.received(),
                None => view.calm_after(op.sent, EFFECT),
            });
            let until = effects.chain([granted]).max().unwrap_or(granted).saturating_add(view.lease);
            let due = view.calm_after(until, SWEEP);
            let lines = || {
                let mut lines: Vec<usize> = kept.last().map(|op| op.lines()).unwrap_or_default();
                lines.push(dumped.line);
                lines
            };
            let late = || {
                let ms = (over - until) / 1_000;
                format!("token {} of {id} was reclaimed {ms} ms after it had run out", attempt.token)
            };
            in_time.fact((over > due).then(|| (late(), lines())));
            early(view, *id, attempt, kept, &mut not_early, lines);
        }
    }
    vec![in_time, not_early]
}

fn early(
    view: &View<'_>,
    id: TaskId,
    attempt: &Attempt,
    kept: &[&Op],
    check: &mut Check,
    lines: impl Fn() -> Vec<usize>,
) {
    let Some(ended) = attempt.ended_at else { return };
    let over = view.time.latest(ended);
    // Another run of the daemon ends the leases of the one before.
    let replaced = view.history.ops.iter().any(|op| {
        matches!(&op.call, Call::Register { name, .. } if *name == attempt.node_name)
            && op.sent < over
            && op.sent > view.time.earliest(attempt.granted_at)
            && !matches!(op.answer(), Some(Answer::Refused { .. }))
    });
    if replaced {
        return;
    }
    // A renewal that was answered took effect after it was sent, so the lease stands that long.
    let renewed = kept.iter().filter(|op| op.succeeded() && op.received() < over).map(|op| op.sent).max();
    let granted = view.time.earliest(attempt.granted_at);
    let stands = renewed.into_iter().chain([granted]).max().unwrap_or(granted).saturating_add(view.lease);
    let what = || {
        let ms = (stands - over) / 1_000;
        format!("token {} of {id} was reclaimed {ms} ms before it could run out", attempt.token)
    };
    check.fact((over < stands - SLACK).then(|| (what(), lines())));
}

/// When an attempt surely ran.
#[derive(Clone, Copy)]
struct Running {
    from: i64,
    to: i64,
    line: usize,
}

fn running(view: &View<'_>, attempt: &Attempt, line: usize) -> Running {
    let to = attempt.ended_at.map_or(i64::MAX, |ended| view.time.earliest(ended));
    Running { from: view.time.latest(attempt.granted_at), to, line }
}

/// At each begin: how many run then, against what `most` allows at that moment.
fn within(check: &mut Check, name: &str, mut all: Vec<Running>, most: impl Fn(i64) -> Option<u32>) {
    all.retain(|one| one.from < one.to);
    all.sort_unstable_by_key(|one| one.from);
    let mut active: Vec<Running> = Vec::new();
    // What begins at the same moment runs at once.
    for batch in all.chunk_by(|one, next| one.from == next.from) {
        let Some(at) = batch.first().map(|one| one.from) else { continue };
        active.retain(|one| one.to > at);
        active.extend(batch);
        let Some(most) = most(at) else { continue };
        let what = || format!("{} run at once in {name}, and {most} may", active.len());
        let broken = active.len() > usize::try_from(most).unwrap_or(usize::MAX);
        check.fact(broken.then(|| {
            let mut lines: Vec<usize> = active.iter().map(|one| one.line).collect();
            lines.sort_unstable();
            lines.dedup();
            (what(), lines)
        }));
    }
}

/// Settings of limits that were not refused, by queue and group, in the order in which they were sent.
type Settings<'a> = HashMap<(&'a str, &'a str, Option<&'a str>), Vec<(&'a Op, u32)>>;

fn settings<'a>(view: &View<'a>) -> Settings<'a> {
    let mut all = Settings::new();
    for op in &view.history.ops {
        if let Call::Limit { namespace, queue, group, max_running, .. } = &op.call
            && !matches!(op.answer(), Some(Answer::Refused { .. }))
        {
            let key = (namespace.as_str(), queue.as_str(), group.as_deref());
            all.entry(key).or_default().push((op, max_running.unwrap_or(u32::MAX)));
        }
    }
    all
}

/// What limits a queue (or a group in it) at a moment: the loosest of those that may have been in force.
fn limit_at(settings: &[(&Op, u32)], at: i64) -> Option<u32> {
    let sent: Vec<_> = settings.iter().filter(|(op, _)| op.sent <= at).collect();
    // The last that was surely in force, and all that may have replaced it.
    let sure = sent.iter().rposition(|(op, _)| op.succeeded() && op.received() < at)?;
    let most = sent.iter().skip(sure).map(|(_, most)| *most).max()?;
    (most != u32::MAX).then_some(most)
}

fn queues(view: &View<'_>) -> Check {
    let mut check = Check::of("the limit of a queue is never exceeded");
    let mut by_queue: BTreeMap<(&str, &str), Vec<Running>> = BTreeMap::new();
    for dumped in view.tasks.values() {
        let runs = by_queue.entry((dumped.namespace, &dumped.task.summary.queue)).or_default();
        runs.extend(dumped.task.attempts.iter().map(|attempt| running(view, attempt, dumped.line)));
    }
    let settings = settings(view);
    for ((space, queue), all) in by_queue {
        let Some(limits) = settings.get(&(space, queue, None)) else { continue };
        within(&mut check, &format!("the queue {queue}"), all, |at| limit_at(limits, at));
    }
    check
}

fn groups(view: &View<'_>) -> Check {
    let mut check = Check::of("the limit of a group is never exceeded");
    let mut by_group: BTreeMap<(&str, &str, &str), Vec<Running>> = BTreeMap::new();
    for dumped in view.tasks.values() {
        let Some(group) = dumped.task.spec.group.as_deref() else { continue };
        let runs = by_group.entry((dumped.namespace, &dumped.task.summary.queue, group)).or_default();
        runs.extend(dumped.task.attempts.iter().map(|attempt| running(view, attempt, dumped.line)));
    }
    let settings = settings(view);
    for ((space, queue, group), all) in by_group {
        let Some(limits) = settings.get(&(space, queue, Some(group))) else { continue };
        let name = format!("the group {group} of {queue}");
        within(&mut check, &name, all, |at| limit_at(limits, at));
    }
    check
}

/// Each queue with a rate is a bucket of so many tasks that fills up again evenly. A clock that is moved may fill it.
fn rates(view: &View<'_>) -> Check {
    let mut check = Check::of("the rate of a queue is never exceeded");
    let mut by_queue: BTreeMap<(&str, &str), Vec<(i64, usize)>> = BTreeMap::new();
    for dumped in view.tasks.values() {
        let grants = by_queue.entry((dumped.namespace, &dumped.task.summary.queue)).or_default();
        let times = dumped.task.attempts.iter().map(|attempt| view.time.earliest(attempt.granted_at));
        grants.extend(times.map(|at| (at, dumped.line)));
    }
    for op in view.history.ops.iter().filter(|op| op.succeeded()) {
        let Call::Limit { namespace, queue, rate: Some((tasks, per_ms)), .. } = &op.call else { continue };
        let mut grants = by_queue.remove(&(namespace.as_str(), queue.as_str())).unwrap_or_default();
        grants.retain(|(at, _)| *at > op.received());
        grants.sort_unstable();
        let per_micro = f64::from(*tasks) / (f64::from(*per_ms) * 1_000.0);
        let most = f64::from(*tasks);
        // Moments are told to the statement, and a task begins or does not.
        let slack = 1.0 + per_micro * SLACK as f64;
        let (mut left, mut last) = (most, op.sent);
        for (at, line) in grants {
            left = (left + (at - last) as f64 * per_micro).min(most) - 1.0;
            if view.time.moved_between(last, at) {
                left = most - 1.0;
            }
            last = at;
            let what = || format!("more than {tasks} in {per_ms} ms began in the queue {queue}");
            check.fact((left < -slack).then(|| (what(), vec![op.sent_line, line])));
        }
    }
    check
}

fn nodes(view: &View<'_>) -> Check {
    let mut check = Check::of("a node has no more than its slots");
    let mut slots: HashMap<NodeId, u32> = HashMap::new();
    for (node, count, _, _, _) in &view.nodes {
        let most = slots.entry(*node).or_default();
        *most = (*most).max(*count);
    }
    let mut by_node: BTreeMap<String, (NodeId, Vec<Running>)> = BTreeMap::new();
    for dumped in view.tasks.values() {
        for attempt in &dumped.task.attempts {
            let runs = by_node.entry(attempt.node.to_string()).or_insert_with(|| (attempt.node, Vec::new()));
            runs.1.push(running(view, attempt, dumped.line));
        }
    }
    for (node, all) in by_node.into_values() {
        within(&mut check, &format!("the node {node}"), all, |_| slots.get(&node).copied());
    }
    check
}
