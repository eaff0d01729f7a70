//! Invariant 4: attempts count up by one and never pass `max_attempts`; terminal states and their results never change.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::task::{Attempt, Outcome};

use super::Check;
use super::view::View;
use crate::history::{Answer, Call, Op};

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    vec![count(view), bounded(view), told(view), read(view)]
}

/// Only so many of the newest attempts are told.
const TOLD: usize = 100;

/// Whether the attempt used its number up. One that the engine ended, or that went away with its node before it began,
/// did not.
fn used(attempt: &Attempt) -> bool {
    match attempt.outcome {
        Some(Outcome::RuntimeError { .. }) => false,
        Some(Outcome::Lost) => attempt.started_at.is_some(),
        _ => true,
    }
}

fn count(view: &View<'_>) -> Check {
    let mut check = Check::of("attempts count up by one");
    for (id, dumped) in &view.tasks {
        let mut expected = 1;
        for (at, attempt) in dumped.task.attempts.iter().enumerate() {
            if at == 0 && dumped.task.attempts.len() >= TOLD {
                expected = attempt.number;
            }
            let what =
                || format!("token {} of {id} is attempt {}, not {expected}", attempt.token, attempt.number);
            check.fact((attempt.number != expected).then(|| (what(), vec![dumped.line])));
            expected = if used(attempt) { attempt.number + 1 } else { attempt.number };
        }
    }
    check
}

fn bounded(view: &View<'_>) -> Check {
    let mut check = Check::of("no attempt is beyond max_attempts");
    for (id, dumped) in &view.tasks {
        let most = dumped.task.spec.retry.max_attempts;
        for attempt in &dumped.task.attempts {
            let what = || format!("token {} of {id} is attempt {} of {most}", attempt.token, attempt.number);
            check.fact((attempt.number > most).then(|| (what(), vec![dumped.line])));
        }
    }
    for seen in &view.grants {
        let granted = seen.granted;
        let what = || {
            format!("attempt {} of {} of {} was granted", granted.attempt, granted.max_attempts, granted.task)
        };
        check.fact((granted.attempt > granted.max_attempts).then(|| (what(), seen.op.lines())));
    }
    check
}

fn told(view: &View<'_>) -> Check {
    let mut check = Check::of("a terminal state that was told stays");
    for op in &view.history.ops {
        let task = match &op.call {
            Call::Report { lease, .. } => lease.task,
            Call::Read { task } | Call::Cancel { task } | Call::Signal { task, .. } => *task,
            _ => continue,
        };
        let (Some(Answer::Reported { state } | Answer::Seen { state, .. }), Some(dumped)) =
            (op.answer(), view.tasks.get(&task))
        else {
            continue;
        };
        if !state.is_terminal() || !view.shows(op) {
            continue;
        }
        let now = dumped.task.summary.state;
        let what = || format!("the task {task} was {state} and is {now}");
        check.fact((*state != now).then(|| {
            let mut lines = op.lines();
            lines.push(dumped.line);
            (what(), lines)
        }));
    }
    check
}

fn read(view: &View<'_>) -> Check {
    let mut check = Check::of("who reads an ended task twice reads the same");
    let mut ended: HashMap<TaskId, &Op> = HashMap::new();
    for op in &view.history.ops {
        let (Call::Read { task }, Some(Answer::Seen { state, result })) = (&op.call, op.answer()) else {
            continue;
        };
        let Some(before) = ended.get(task) else {
            if state.is_terminal() {
                ended.insert(*task, op);
            }
            continue;
        };
        if op.sent < before.received() {
            continue;
        }
        let same = matches!(before.answer(),
            Some(Answer::Seen { state: first, result: value }) if first == state && value == result);
        let what = || format!("the task {task} had ended, and another state or result was read later");
        check.fact((!same).then(|| (what(), [before.lines(), op.lines()].concat())));
    }
    for (task, op) in ended.iter().filter(|(_, op)| view.shows(op)) {
        let (Some(Answer::Seen { result, .. }), Some(dumped)) = (op.answer(), view.tasks.get(task)) else {
            continue;
        };
        let what = || format!("the result of {task} changed after it had ended");
        check.fact((*result != dumped.task.result).then(|| {
            let mut lines = op.lines();
            lines.push(dumped.line);
            (what(), lines)
        }));
    }
    check
}
