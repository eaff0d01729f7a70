//! What the end of an attempt makes of its task: success, another attempt after a backoff, or the end.

use std::time::Duration;

use orca_proto::spec::{Backoff, OnChildFailure, Retry, RetryOn, Role};
use orca_proto::task::{Outcome, State, Step, Timeout};

use super::{Change, Returned, Snapshot, engine_may_fail_again};

/// The wait before the attempt after the `number`th: `initial × factor^(number-1)`, at most `max`, less a random part.
///
/// `sample` in `[0, 1)` decides how much of the `jitter` share is taken off.
#[must_use]
pub fn backoff(policy: &Backoff, number: i32, sample: f64) -> Duration {
    let grown = policy.initial.get().as_secs_f64() * policy.factor.powi(number.saturating_sub(1).max(0));
    let bounded = grown.min(policy.max.get().as_secs_f64()).max(0.0);
    let wait = bounded * (1.0 - policy.jitter.clamp(0.0, 1.0) * sample.clamp(0.0, 1.0));
    Duration::try_from_secs_f64(wait).unwrap_or_else(|_| policy.max.get())
}

pub(super) fn ended(
    task: &Snapshot,
    mut change: Change,
    outcome: Outcome,
    returned: Returned,
    sample: f64,
) -> Change {
    let outcome = match outcome {
        Outcome::Succeeded
            if task.role == Role::Plan
                && task.step == Some(Step::Plan)
                && returned == Returned::Nothing
                && !task.cancel_requested =>
        {
            let reason = Some("its planner returned neither a plan nor a result".to_owned());
            Outcome::Failed { exit_code: 0, reason }
        }
        other => other,
    };
    change.outcome = Some(outcome.clone());
    if engine_at_fault(task, &outcome) {
        change.runtime_errors += 1;
    } else {
        change.attempts_used = task.attempt;
    }
    match outcome {
        Outcome::Succeeded => succeeded(task, change, returned),
        Outcome::Cancelled => change.ends(State::Cancelled, None),
        _ if task.cancel_requested => change.ends(State::Cancelled, None),
        other => failed(task, change, &other, sample),
    }
}

fn succeeded(task: &Snapshot, mut change: Change, returned: Returned) -> Change {
    if task.cancel_requested && (change.open_children > 0 || matches!(returned, Returned::Plan { .. })) {
        return change.ends(State::Cancelled, None);
    }
    if let Returned::Plan { tasks } = returned
        && task.step == Some(Step::Plan)
    {
        change.open_children += tasks;
    }
    if change.open_children > 0 {
        change.state = State::Waiting;
        change.cancel_children = change.child_failure.is_some();
        return change;
    }
    match change.child_failure.clone() {
        Some(failure) if task.on_child_failure == OnChildFailure::Fail => change.ends(State::Failed, failure),
        _ => change.ends(State::Succeeded, None),
    }
}

fn failed(task: &Snapshot, mut change: Change, outcome: &Outcome, sample: f64) -> Change {
    let again = if engine_at_fault(task, outcome) {
        engine_may_fail_again(change.runtime_errors)
    } else {
        task.attempt < task.retry.max_attempts && worth_another(&task.retry, outcome)
    };
    // The timer of its deadline may have gone off while it ran: nothing would end it later.
    if !again || task.overdue {
        return change.ends(State::Failed, outcome.to_string());
    }
    let number = if engine_at_fault(task, outcome) { change.runtime_errors } else { task.attempt };
    let wait = backoff(&task.retry.backoff, number, sample);
    change.state = if wait.is_zero() { State::Ready } else { State::Scheduled };
    change.backoff = Some(wait);
    change.cancel_children = change.open_children > 0;
    change
}

/// Such a grant does not use up an attempt: the engine failed, or the node went before the program began.
fn engine_at_fault(task: &Snapshot, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::RuntimeError { .. } => true,
        Outcome::Lost => !task.started,
        _ => false,
    }
}

fn worth_another(retry: &Retry, outcome: &Outcome) -> bool {
    let wanted = match outcome {
        Outcome::Failed { exit_code, .. } if !retry.retries_exit_code(*exit_code) => return false,
        Outcome::Failed { .. } => RetryOn::Failed,
        Outcome::TimedOut { which: Timeout::Deadline } => return false,
        Outcome::TimedOut { .. } => RetryOn::TimedOut,
        Outcome::OutOfMemory => RetryOn::OutOfMemory,
        Outcome::Killed { .. } => RetryOn::Killed,
        Outcome::Lost => RetryOn::Lost,
        Outcome::Succeeded | Outcome::Cancelled | Outcome::Rejected { .. } | Outcome::RuntimeError { .. } => {
            return false;
        }
    };
    retry.retry_on.contains(&wanted)
}
