//! The state machine of a task: the one place that decides what an event makes of a state.
//!
//! Pure: it reads no clock and no database, and what is random is handed in. [`transition`] takes what is known of a task
//! and what happened, and answers the whole change or a [`Refusal`]. The SQL writes what it says. Four moves SQL makes
//! set-wise by itself: a plain task is ready when it is enqueued, a claim's ready → running, a timer's scheduled → ready, and
//! running → succeeded where nothing else follows; tests hold those of enqueue and claim to this module.
//!
//! Architecture invariant: nothing else in the crate picks a state.

use std::time::Duration;

use orca_proto::limits;
use orca_proto::spec::{NewTask, OnChildFailure, OnDependencyFailure, Retry, Role};
use orca_proto::task::{Outcome, State, Step};

use crate::sabotage::{Guard, without};

mod attempt;
#[cfg(test)]
mod tests;

pub use attempt::backoff;

/// What the reason of a skipped task begins with; then comes the task that ended otherwise than by success.
pub const SKIPPED_FOR: &str = "a dependency did not succeed: ";

/// What is known of a task before something happens to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Where it is.
    pub state: State,
    /// Who runs it.
    pub role: Role,
    /// For planners' tasks, which step.
    pub step: Option<Step>,
    /// The number of the newest attempt; 0 before the first.
    pub attempt: i32,
    /// Attempts that count against `retry.max_attempts`.
    pub attempts_used: i32,
    /// Grants that ended by the engine's fault, or with their node before the program began.
    pub runtime_errors: i32,
    /// Whether the program of the running attempt was started.
    pub started: bool,
    /// Dependencies that have not ended.
    pub open_dependencies: i32,
    /// Approval and signals that have not come.
    pub open_gates: i32,
    /// Tasks directly under it that have not ended.
    pub open_children: i32,
    /// Which task under it did not succeed, where that decides its own end.
    pub child_failure: Option<String>,
    /// Whether somebody asked to cancel it.
    pub cancel_requested: bool,
    /// For a goal whose plan was inserted: there is a finish step.
    pub has_finish: bool,
    /// Its policy towards dependencies.
    pub on_dependency_failure: OnDependencyFailure,
    /// Its policy towards tasks under it.
    pub on_child_failure: OnChildFailure,
    /// Its retry policy.
    pub retry: Retry,
    /// Whether its `run_at` lies ahead.
    pub early: bool,
    /// Whether its deadline has passed.
    pub overdue: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It was enqueued: dependencies that were open then are in the snapshot, `failure` names one that had already ended
    /// otherwise than by success.
    Enqueued {
        /// The failed dependency and how it ended.
        failure: Option<String>,
    },
    /// It was enqueued where nobody could be told that it cannot be.
    EnqueueRefused {
        /// Why.
        reason: String,
    },
    /// Some of its dependencies ended.
    DependenciesEnded {
        /// How many.
        ended: i32,
        /// One that did not succeed, and how it ended.
        failure: Option<String>,
    },
    /// It was approved, signals came, or the wait for them was given up.
    GatesOpened {
        /// How many.
        opened: i32,
    },
    /// It was not approved, or what it waited for did not come in time.
    GateRefused {
        /// Why.
        reason: String,
    },
    /// Its deadline has passed.
    DeadlinePassed,
    /// Its time has come.
    Due,
    /// A node was given the lease.
    Granted,
    /// The attempt under the lease ended.
    AttemptEnded {
        /// How.
        outcome: Outcome,
        /// What came back with it.
        returned: Returned,
        /// A random number in `[0, 1)` for the backoff.
        sample: f64,
    },
    /// A finish step planned another round: so many tasks were put under the goal.
    PlannedAgain {
        /// The finish step included.
        tasks: i32,
    },
    /// Tasks were spawned under it.
    Spawned {
        /// How many.
        tasks: i32,
    },
    /// Some tasks directly under it ended.
    ChildrenEnded {
        /// How many.
        ended: i32,
        /// The first that did not succeed, and how it ended.
        failure: Option<String>,
        /// For a goal, what became of its newest finish step.
        finish: Option<Finish>,
    },
    /// Somebody asked to cancel it, or something above it.
    CancelRequested {
        /// Why.
        reason: Option<String>,
    },
    /// No node took it within `timeouts.schedule_to_start`.
    StartExpired,
}

/// What a successful attempt brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// Neither a result nor a plan.
    Nothing,
    /// A result.
    Result,
    /// A plan that was inserted: so many tasks, the finish step included.
    Plan {
        /// Tasks inserted.
        tasks: i32,
    },
}

/// A goal's finish step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It waits for the plan's tasks.
    Blocked,
    /// It is on its way.
    Open,
    /// It brought the goal's result.
    Succeeded,
    /// It did not: how it ended.
    Failed(String),
}

/// What an event makes of a task. Every field is the value after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where it is now.
    pub state: State,
    /// Why, for people; kept as it was when `None`.
    pub reason: Option<String>,
    /// The number of the newest attempt.
    pub attempt: i32,
    /// Attempts used.
    pub attempts_used: i32,
    /// Runtime errors so far.
    pub runtime_errors: i32,
    /// Open dependencies.
    pub open_dependencies: i32,
    /// Approval and signals that have not come.
    pub open_gates: i32,
    /// Open tasks under it.
    pub open_children: i32,
    /// The failure under it that counts.
    pub child_failure: Option<String>,
    /// Whether it is to be cancelled.
    pub cancel_requested: bool,
    /// How long to wait before it is due again.
    pub backoff: Option<Duration>,
    /// How the attempt is recorded, where one ended.
    pub outcome: Option<Outcome>,
    /// The tasks under it are to be cancelled.
    pub cancel_children: bool,
    /// The goal's finish step is to be let go.
    pub release_finish: bool,
    /// The goal's result is its finish step's.
    pub take_finish_result: bool,
}

/// Why an event does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The task has ended.
    #[error("the task has ended: it is {0}")]
    Ended(State),
    /// The state knows no such event.
    #[error("a task that is {0} cannot do this")]
    NotNow(State),
}

/// What a task that is being enqueued waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Dependencies that have not ended.
    pub dependencies: i32,
    /// Approval and signals that have not come.
    pub gates: i32,
}

impl Snapshot {
    /// A task that is being enqueued: `blocked` until [`Event::Enqueued`] says otherwise.
    #[must_use]
    pub fn fresh(spec: &NewTask, step: Option<Step>, open: Open, early: bool) -> Self {
        Self {
            state: State::Blocked,
            role: spec.role,
            step,
            attempt: 0,
            attempts_used: 0,
            runtime_errors: 0,
            started: false,
            open_dependencies: open.dependencies,
            open_gates: open.gates,
            open_children: 0,
            child_failure: None,
            cancel_requested: false,
            has_finish: false,
            on_dependency_failure: spec.on_dependency_failure,
            on_child_failure: spec.on_child_failure,
            retry: spec.retry.clone(),
            early,
            overdue: false,
        }
    }
}

impl Change {
    fn of(task: &Snapshot) -> Self {
        Self {
            state: task.state,
            reason: None,
            attempt: task.attempt,
            attempts_used: task.attempts_used,
            runtime_errors: task.runtime_errors,
            open_dependencies: task.open_dependencies,
            open_gates: task.open_gates,
            open_children: task.open_children,
            child_failure: task.child_failure.clone(),
            cancel_requested: task.cancel_requested,
            backoff: None,
            outcome: None,
            cancel_children: false,
            release_finish: false,
            take_finish_result: false,
        }
    }

    fn ends(mut self, state: State, reason: impl Into<Option<String>>) -> Self {
        self.state = state;
        self.reason = reason.into();
        self.backoff = None;
        self.cancel_children = self.open_children > 0;
        self
    }
}

/// What `event` makes of `task`.
///
/// # Errors
/// [`Refusal`] when the event does not apply; nothing changes then.
pub fn transition(task: &Snapshot, event: Event) -> Result<Change, Refusal> {
    use State::{Blocked, Ready, Running, Scheduled, Waiting};
    if task.state.is_terminal() && !without(Guard::TerminalFinal) {
        return Err(Refusal::Ended(task.state));
    }
    let mut change = Change::of(task);
    match (task.state, event) {
        (Blocked, Event::Enqueued { failure }) => {
            enter(task, &mut change, failure);
            Ok(change)
        }
        (Blocked, Event::EnqueueRefused { reason }) => Ok(change.ends(State::Failed, reason)),
        (Blocked, Event::DependenciesEnded { ended, failure }) => {
            change.open_dependencies = (task.open_dependencies - ended).max(0);
            enter(task, &mut change, failure);
            Ok(change)
        }
        (Blocked, Event::GatesOpened { opened }) => {
            change.open_gates = (task.open_gates - opened).max(0);
            enter(task, &mut change, None);
            Ok(change)
        }
        (Blocked, Event::GateRefused { reason }) => Ok(change.ends(State::Cancelled, reason)),
        (Blocked | Scheduled | Ready, Event::DeadlinePassed) => {
            let reason = match task.attempt {
                0 => "it had not begun by its deadline",
                _ => "its deadline passed before it could be tried again",
            };
            Ok(change.ends(State::Expired, reason.to_owned()))
        }
        (Scheduled, Event::Due) => {
            change.state = Ready;
            Ok(change)
        }
        (Ready, Event::Granted) if !task.cancel_requested => {
            change.state = Running;
            change.attempt = task.attempts_used + 1;
            change.child_failure = None;
            Ok(change)
        }
        (Running, Event::AttemptEnded { outcome, returned, sample }) => {
            Ok(attempt::ended(task, change, outcome, returned, sample))
        }
        (Waiting, Event::PlannedAgain { tasks }) => {
            change.open_children += tasks;
            Ok(change)
        }
        (Running, Event::Spawned { tasks }) if !task.cancel_requested => {
            change.open_children += tasks;
            Ok(change)
        }
        (_, Event::ChildrenEnded { ended, failure, finish }) => {
            Ok(children_ended(task, change, ended, failure, finish))
        }
        (Running, Event::CancelRequested { reason }) => {
            change.cancel_requested = true;
            change.reason = reason;
            Ok(change)
        }
        (_, Event::CancelRequested { reason }) => {
            change.cancel_requested = true;
            if without(Guard::CancelBlocksGrant) {
                return Ok(change);
            }
            Ok(change.ends(State::Cancelled, reason))
        }
        (Ready, Event::StartExpired) => {
            let reason = "no node took it within its schedule_to_start limit".to_owned();
            Ok(change.ends(State::Expired, reason))
        }
        (state, _) => Err(Refusal::NotNow(state)),
    }
}

/// Out of `blocked`, if nothing keeps it there.
fn enter(task: &Snapshot, change: &mut Change, failure: Option<String>) {
    if let Some(failure) = failure
        && task.on_dependency_failure == OnDependencyFailure::Skip
    {
        change.state = State::Skipped;
        change.reason = Some(format!("{SKIPPED_FOR}{failure}"));
    } else if (change.open_dependencies == 0 || without(Guard::DependencyCheck)) && change.open_gates == 0 {
        change.state = if task.early { State::Scheduled } else { State::Ready };
    }
}

fn children_ended(
    task: &Snapshot,
    mut change: Change,
    ended: i32,
    failure: Option<String>,
    finish: Option<Finish>,
) -> Change {
    change.open_children = (task.open_children - ended).max(0);
    if !matches!(task.state, State::Running | State::Waiting) {
        return change;
    }
    let counts =
        failure.filter(|_| task.on_child_failure == OnChildFailure::Fail).or_else(|| match &finish {
            Some(Finish::Failed(how)) => Some(format!("its finish step {how}")),
            _ => None,
        });
    if let Some(failure) = counts
        && change.child_failure.is_none()
    {
        change.child_failure = Some(failure);
        change.cancel_children = change.open_children > 0;
    }
    if task.state == State::Running {
        return change;
    }
    if change.open_children == 0 {
        if let Some(failure) = change.child_failure.clone() {
            return change.ends(State::Failed, failure);
        }
        change.take_finish_result = task.has_finish;
        return change.ends(State::Succeeded, None);
    }
    change.release_finish = change.open_children == 1 && finish == Some(Finish::Blocked);
    change
}

/// Whether another grant may end by the engine's fault after `errors` have.
fn engine_may_fail_again(errors: i32) -> bool {
    errors < limits::RUNTIME_ERRORS
}
