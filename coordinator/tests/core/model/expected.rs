//! Where a task may be, by what was done to it and to those it hangs together with.

use orca_proto::limits;
use orca_proto::spec::{OnDependencyFailure, OnTimeout};
use orca_proto::task::State;

use super::record::Known;
use super::step::How;

/// How long a task waits after an attempt that did not succeed, in milliseconds.
pub(crate) const BACKOFF_MS: i64 = 30_000;

/// The states that one of these tasks may be in, where the others are seen in `seen`, and everything has been reconciled.
pub(crate) fn states(tasks: &[Known], at: usize, seen: &[State], now: i64) -> Vec<State> {
    let task = &tasks[at];
    if task.held.is_some() {
        return vec![State::Running];
    }
    if task.cancelled {
        return vec![State::Cancelled];
    }
    let mut states = undisturbed(tasks, at, seen, now);
    if is_disturbed(tasks, at, seen) {
        states.push(State::Cancelled);
    }
    states
}

/// Whether something beside or above a task may have had it cancelled.
pub(crate) fn is_disturbed(tasks: &[Known], at: usize, seen: &[State]) -> bool {
    let Some(under) = tasks[at].parent else { return false };
    let parent = &tasks[under.task];
    let gone = parent.held.is_none() && !parent.waiting;
    let failed = |other: usize| {
        tasks[other].parent.is_some_and(|beside| beside.task == under.task)
            && seen[other].is_terminal()
            && seen[other] != State::Succeeded
    };
    gone || parent.tokens.last() != Some(&under.token)
        || (0..tasks.len()).any(failed)
        || is_disturbed(tasks, under.task, seen)
}

/// How much later than it happened it may be seen that a task came in line.
const SEEN_LATE_MS: i64 = 20_000;

fn undisturbed(tasks: &[Known], at: usize, seen: &[State], now: i64) -> Vec<State> {
    let task = &tasks[at];
    if let Some(end) = task.last_word {
        return vec![end];
    }
    if task.waiting {
        return vec![after_success(tasks, at, |child| seen[child])];
    }
    let past = |instant: Option<i64>| instant.is_some_and(|instant| instant <= now);
    let mut ends = Vec::new();
    if past(task.deadline) || past(task.start_by()) {
        ends.push(State::Expired);
    }
    let ready = if task.due.is_some_and(|due| due > now) { State::Scheduled } else { State::Ready };
    if task.entered {
        if !ends.is_empty() {
            return ends;
        }
        // What others had to end for, or a time to come, came in line some time before it was seen there: its time in line
        // is then over earlier than reckoned, by as much as the clock was moved in one step.
        let at_once =
            task.needs.is_empty() && task.due.is_none() && task.gate.is_none() && task.tokens.is_empty();
        let nearly = task.start_by().is_some_and(|instant| !at_once || instant <= now + SEEN_LATE_MS);
        return if nearly { vec![ready, State::Expired] } else { vec![ready] };
    }
    let run_anyway = task.spec.on_dependency_failure == OnDependencyFailure::Run;
    let failed = |need: &usize| seen[*need].is_terminal() && seen[*need] != State::Succeeded;
    if !run_anyway && task.needs.iter().any(failed) {
        ends.push(State::Skipped);
    }
    let approval = task.spec.approval.as_ref().map(|approval| approval.on_timeout);
    if approval == Some(OnTimeout::Cancel) && past(task.gate) {
        ends.push(State::Cancelled);
    }
    if !ends.is_empty() {
        return ends;
    }
    let waits = task.needs.iter().any(|need| !seen[*need].is_terminal());
    let closed = task.gate.is_some_and(|gate| gate > now);
    vec![if waits || closed { State::Blocked } else { ready }]
}

/// What becomes of a task whose attempt succeeded.
pub(crate) fn after_success(tasks: &[Known], at: usize, seen: impl Fn(usize) -> State) -> State {
    let task = &tasks[at];
    let children =
        || (0..tasks.len()).filter(|child| tasks[*child].parent.is_some_and(|under| under.task == at));
    if children().any(|child| !seen(child).is_terminal()) {
        return if task.cancelled { State::Cancelled } else { State::Waiting };
    }
    let of_this_attempt =
        |child: &usize| tasks[*child].parent.map(|under| under.token) == task.tokens.last().copied();
    if children().filter(of_this_attempt).any(|child| seen(child) != State::Succeeded) {
        State::Failed
    } else {
        State::Succeeded
    }
}

impl Known {
    /// The attempt has ended otherwise than by success; `lost` with its lease where `how` says nothing. Answers what
    /// becomes of the task.
    pub(crate) fn fails(&mut self, how: Option<How>, now: i64) -> State {
        let held = self.held.take().expect("only what is held can fail");
        let engine = match how {
            Some(how) => how == How::RuntimeError,
            None => !held.started,
        };
        if engine {
            self.runtime_errors += 1;
        } else {
            self.attempts_used = held.grant.attempt;
        }
        let again = if engine {
            self.runtime_errors < limits::RUNTIME_ERRORS
        } else {
            held.grant.attempt < self.spec.retry.max_attempts && how != Some(How::Rejected)
        };
        self.ready_since = None;
        if self.cancelled {
            State::Cancelled
        } else if again && self.deadline.is_none_or(|deadline| deadline > now) {
            self.due = Some(now + BACKOFF_MS);
            State::Scheduled
        } else {
            self.last_word = Some(State::Failed);
            State::Failed
        }
    }
}
