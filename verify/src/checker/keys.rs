//! Invariant 7: at most one open task per unique key; one idempotency key gives one task.

use std::collections::BTreeMap;

use super::Check;
use super::view::View;
use crate::history::{Answer, Call, Op};
use orca_proto::ids::TaskId;
use orca_proto::spec::UniqueWhile;

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    vec![idempotent(view), unique(view)]
}

fn idempotent(view: &View<'_>) -> Check {
    let mut check = Check::of("one idempotency key gives one task");
    let mut by_key: BTreeMap<(&str, &str), Vec<&Op>> = BTreeMap::new();
    for op in &view.history.ops {
        if let Call::Enqueue { namespace, key: Some(key), .. } = &op.call {
            by_key.entry((namespace, key)).or_default().push(op);
        }
    }
    for ((_, key), ops) in by_key {
        if ops.len() < 2 {
            continue;
        }
        let mut answers: Vec<&[TaskId]> = ops.iter().filter_map(|op| ids(op)).collect();
        answers.sort_unstable();
        answers.dedup();
        let copies: Vec<TaskId> = ops
            .iter()
            .take(1)
            .filter_map(|op| match &op.call {
                Call::Enqueue { tasks, .. } => tasks.first(),
                _ => None,
            })
            .filter_map(|asked| view.by_ask.get(asked.ask.as_str()))
            .flatten()
            .copied()
            .collect();
        let broken = answers.len() > 1 || copies.len() > 1;
        let what = || format!("the key {key} gave {} answers and {} tasks", answers.len(), copies.len());
        check.fact(broken.then(|| {
            let mut lines: Vec<usize> = ops.iter().flat_map(|op| op.lines()).collect();
            lines.extend(copies.iter().filter_map(|id| view.line_of(*id)));
            (what(), lines)
        }));
    }
    check
}

fn ids(op: &Op) -> Option<&[TaskId]> {
    match op.answer() {
        Some(Answer::Enqueued { ids, .. }) => Some(ids),
        _ => None,
    }
}

/// Whoever had a task acknowledged under a key, and it was still open when another one's request was answered, sees the
/// other one get that same task.
fn unique(view: &View<'_>) -> Check {
    let mut check = Check::of("at most one open task per unique key");
    let mut by_key: BTreeMap<(&str, &str), Vec<&Op>> = BTreeMap::new();
    for op in &view.history.ops {
        if let Call::Enqueue { namespace, unique: Some(unique), .. } = &op.call {
            by_key.entry((namespace, unique)).or_default().push(op);
        }
    }
    for ((_, key), ops) in by_key {
        // Tasks of this key, when each was acknowledged at first, and until when it surely held the key.
        let mut holders: Vec<(TaskId, &Op, i64)> = Vec::new();
        for op in &ops {
            for id in ids(op).unwrap_or_default() {
                if holders.iter().all(|(known, _, _)| known != id) {
                    holders.push((*id, op, held_until(view, *id)));
                }
            }
        }
        for op in &ops {
            let Some([got]) = ids(op) else { continue };
            let holder = holders
                .iter()
                .find(|(id, first, until)| id != got && first.received() < op.sent && *until > op.received());
            let held = holders
                .iter()
                .any(|(id, first, until)| id == got && first.received() < op.sent && *until > op.received());
            if holder.is_none() && !held {
                continue;
            }
            check.fact(holder.map(|(id, first, _)| {
                let mut lines = [first.lines(), op.lines()].concat();
                lines.extend(view.line_of(*id));
                (format!("{got} was made under the key {key} while {id} held it"), lines)
            }));
        }
    }
    check
}

/// The last moment at which a task surely still held its unique key.
fn held_until(view: &View<'_>, id: TaskId) -> i64 {
    let Some(dumped) = view.tasks.get(&id) else { return i64::MIN };
    let task = dumped.task;
    let queued = task.spec.unique.as_ref().is_some_and(|unique| unique.r#while == UniqueWhile::Queued);
    let begun = task.attempts.first().map(|attempt| attempt.granted_at).filter(|_| queued);
    match begun.into_iter().chain(task.summary.finished_at).min() {
        Some(until) => view.time.earliest(until),
        None => i64::MAX,
    }
}
