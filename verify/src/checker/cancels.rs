//! Invariant 9: after a cancel is acknowledged nothing is granted, and whoever runs it hears of it. A container runs at
//! most once for each task and attempt.

use std::collections::{BTreeMap, HashMap, HashSet};

use orca_proto::ids::TaskId;
use orca_proto::node::LeaseRef;

use super::Check;
use super::view::View;
use crate::history::{Answer, Call, Op, What};

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    let cancelled = cancelled(view);
    vec![granted(view, &cancelled), told(view, &cancelled), once(view)]
}

/// Tasks under an acknowledged cancel, each with the request that was acknowledged first.
fn cancelled<'a>(view: &View<'a>) -> BTreeMap<TaskId, &'a Op> {
    let mut first: HashMap<TaskId, &Op> = HashMap::new();
    for op in view.history.ops.iter().filter(|op| op.succeeded()) {
        if let Call::Cancel { task } = &op.call {
            let known = first.entry(*task).or_insert(op);
            if op.received() < known.received() {
                *known = op;
            }
        }
    }
    let mut all = BTreeMap::new();
    for id in view.tasks.keys() {
        let mut at = Some(*id);
        let mut seen = HashSet::new();
        while let Some(task) = at.filter(|task| seen.insert(*task)) {
            if let Some(op) = first.get(&task) {
                all.insert(*id, *op);
                break;
            }
            at = view.tasks.get(&task).and_then(|dumped| dumped.task.summary.parent);
        }
    }
    all
}

fn granted(view: &View<'_>, cancelled: &BTreeMap<TaskId, &Op>) -> Check {
    let mut check = Check::of("nothing is granted after its cancel was acknowledged");
    for (id, op) in cancelled {
        let Some(dumped) = view.tasks.get(id) else { continue };
        let late = dumped.task.attempts.iter().find(|a| view.time.earliest(a.granted_at) > op.received());
        check.fact(late.map(|attempt| {
            let mut lines = op.lines();
            lines.push(dumped.line);
            (
                format!(
                    "token {} of {id} was granted at {}, after its cancel",
                    attempt.token, attempt.granted_at
                ),
                lines,
            )
        }));
    }
    for seen in &view.grants {
        let Some(op) = cancelled.get(&seen.granted.task) else { continue };
        let what = || format!("{} was granted to a claim that was sent after its cancel", seen.granted.task);
        let broken = seen.op.sent > op.received();
        check.fact(broken.then(|| (what(), [op.lines(), seen.op.lines()].concat())));
    }
    check
}

fn told(view: &View<'_>, cancelled: &BTreeMap<TaskId, &Op>) -> Check {
    let mut check = Check::of("who keeps the lease of a cancelled task is told");
    for op in &view.history.ops {
        let (Call::Renew { leases, cancelling, .. }, Some(Answer::Renewed { lost, cancel })) =
            (&op.call, op.answer())
        else {
            continue;
        };
        for lease in leases {
            let Some(asked) = cancelled.get(&lease.task) else { continue };
            if op.sent <= asked.received() {
                continue;
            }
            // An attempt that ended while the request was held is nobody's to cancel any more.
            let ended = view
                .attempt(*lease)
                .and_then(|(_, attempt)| attempt.ended_at)
                .is_some_and(|ended| view.time.earliest(ended) <= op.received());
            // What the node says it knows, it was told before.
            let told = [lost, cancel, cancelling].iter().any(|list| list.contains(lease));
            if ended && !told {
                continue;
            }
            let broken = !told;
            let what =
                || format!("the lease of {} was renewed after its cancel, with no word of it", lease.task);
            check.fact(broken.then(|| (what(), [asked.lines(), op.lines()].concat())));
        }
    }
    check
}

fn once(view: &View<'_>) -> Check {
    let mut check = Check::of("an attempt runs at most once");
    let mut first: HashMap<LeaseRef, usize> = HashMap::new();
    for (position, line) in view.history.lines.iter().enumerate() {
        let What::ProgramStarted { lease } = &line.what else { continue };
        let before = first.insert(*lease, position);
        let what = || format!("the attempt under token {} of {} ran twice", lease.token, lease.task);
        check.fact(before.map(|before| (what(), vec![before, position])));
    }
    check
}
