//! The state machine against the invariants of ARCHITECTURE.md, over random lives.

use std::time::Duration;

use orca_proto::limits;
use orca_proto::spec::{Backoff, NewTask, OnChildFailure, OnDependencyFailure, RetryOn, Role};
use orca_proto::task::{Outcome, State, Step, Timeout};
use proptest::prelude::*;

use super::{Change, Event, Finish, Open, Refusal, Returned, Snapshot, backoff, transition};

fn work() -> Snapshot {
    let spec = NewTask::new("image");
    Snapshot::fresh(&spec, None, Open::default(), false)
}

fn goal() -> Snapshot {
    let spec = NewTask { role: Role::Plan, ..NewTask::new("image") };
    Snapshot::fresh(&spec, Some(Step::Plan), Open::default(), false)
}

/// The task after a change, as the database would give it back.
fn after(task: &Snapshot, change: &Change) -> Snapshot {
    Snapshot {
        state: change.state,
        attempt: change.attempt,
        attempts_used: change.attempts_used,
        runtime_errors: change.runtime_errors,
        open_dependencies: change.open_dependencies,
        open_gates: change.open_gates,
        open_children: change.open_children,
        child_failure: change.child_failure.clone(),
        cancel_requested: change.cancel_requested,
        started: task.started && change.state == State::Running,
        ..task.clone()
    }
}

fn step(task: &Snapshot, event: Event) -> Snapshot {
    after(task, &transition(task, event).unwrap())
}

fn running(task: &Snapshot) -> Snapshot {
    let task = step(task, Event::Enqueued { failure: None });
    Snapshot { started: true, ..step(&task, Event::Granted) }
}

fn ended(outcome: Outcome) -> Event {
    Event::AttemptEnded { outcome, returned: Returned::Nothing, sample: 0.0 }
}

const FAILED: Outcome = Outcome::Failed { exit_code: 1, reason: None };

#[test]
fn a_task_without_dependencies_is_ready_and_one_with_a_later_date_scheduled() {
    assert_eq!(step(&work(), Event::Enqueued { failure: None }).state, State::Ready);
    let later = Snapshot { early: true, ..work() };
    assert_eq!(step(&later, Event::Enqueued { failure: None }).state, State::Scheduled);
}

#[test]
fn a_task_that_cannot_be_enqueued_has_failed_with_the_reason_and_no_other_state_knows_of_it() {
    let refused = Event::EnqueueRefused { reason: "no such artifact".to_owned() };
    let change = transition(&work(), refused.clone()).unwrap();
    assert_eq!((change.state, change.reason.as_deref()), (State::Failed, Some("no such artifact")));
    assert_eq!(transition(&running(&work()), refused), Err(Refusal::NotNow(State::Running)));
}

#[test]
fn a_failed_dependency_skips_a_task_unless_its_policy_is_to_run() {
    let blocked = Snapshot { open_dependencies: 2, ..work() };
    let failure = Some("a failed".to_owned());
    let event = Event::DependenciesEnded { ended: 1, failure };
    let change = transition(&blocked, event.clone()).unwrap();
    assert_eq!(change.state, State::Skipped);
    assert!(change.reason.unwrap().contains("a failed"));
    let run = Snapshot { on_dependency_failure: OnDependencyFailure::Run, ..blocked };
    let waiting = step(&run, event.clone());
    assert_eq!(waiting.state, State::Blocked);
    assert_eq!(step(&waiting, event).state, State::Ready);
}

#[test]
fn outcomes_are_tried_again_as_the_policy_says_and_no_oftener() {
    for (outcome, again) in [
        (FAILED, true),
        (Outcome::TimedOut { which: Timeout::StartToClose }, true),
        (Outcome::OutOfMemory, true),
        (Outcome::Killed { signal: 9 }, true),
        (Outcome::Lost, true),
        (Outcome::Rejected { reason: "no such image".into() }, false),
    ] {
        let state = step(&running(&work()), ended(outcome.clone())).state;
        assert_eq!(state, if again { State::Scheduled } else { State::Failed }, "{outcome:?}");
    }
    let mut picky = running(&work());
    picky.retry.retry_on = vec![RetryOn::OutOfMemory];
    assert_eq!(step(&picky, ended(FAILED)).state, State::Failed);
    picky.attempt = picky.retry.max_attempts;
    assert_eq!(step(&picky, ended(Outcome::OutOfMemory)).state, State::Failed);
}

#[test]
fn a_fault_of_the_engine_uses_up_no_attempt_but_not_for_ever() {
    let mut task = running(&work());
    let fault = || ended(Outcome::RuntimeError { reason: "no space".into() });
    for errors in 1..limits::RUNTIME_ERRORS {
        task = step(&task, fault());
        assert_eq!((task.state, task.attempts_used, task.runtime_errors), (State::Scheduled, 0, errors));
        task = step(&step(&task, Event::Due), Event::Granted);
        assert_eq!(task.attempt, 1);
    }
    assert_eq!(step(&task, fault()).state, State::Failed);
}

#[test]
fn a_node_that_went_before_the_program_began_uses_up_no_attempt() {
    let task = Snapshot { started: false, ..running(&work()) };
    assert_eq!(step(&task, ended(Outcome::Lost)).attempts_used, 0);
    assert_eq!(step(&running(&work()), ended(Outcome::Lost)).attempts_used, 1);
}

#[test]
fn a_cancelled_task_that_does_not_run_ends_at_once_and_a_running_one_when_its_attempt_does() {
    let ready = step(&work(), Event::Enqueued { failure: None });
    assert_eq!(step(&ready, Event::CancelRequested { reason: None }).state, State::Cancelled);
    let asked = step(&running(&work()), Event::CancelRequested { reason: None });
    assert_eq!((asked.state, asked.cancel_requested), (State::Running, true));
    for outcome in [FAILED, Outcome::Lost, Outcome::Cancelled, Outcome::Killed { signal: 9 }] {
        assert_eq!(step(&asked, ended(outcome)).state, State::Cancelled);
    }
}

#[test]
fn a_goal_waits_for_its_plan_then_lets_its_finish_step_go_and_takes_its_result() {
    let planned = Event::AttemptEnded {
        outcome: Outcome::Succeeded,
        returned: Returned::Plan { tasks: 3 },
        sample: 0.0,
    };
    let mut task = Snapshot { has_finish: true, ..step(&running(&goal()), planned) };
    assert_eq!((task.state, task.open_children), (State::Waiting, 3));
    let part = || Event::ChildrenEnded { ended: 1, failure: None, finish: Some(Finish::Blocked) };
    task = step(&task, part());
    let last = transition(&task, part()).unwrap();
    assert!(last.release_finish);
    task = after(&task, &last);
    let done = Event::ChildrenEnded { ended: 1, failure: None, finish: Some(Finish::Succeeded) };
    let change = transition(&task, done).unwrap();
    assert_eq!((change.state, change.take_finish_result), (State::Succeeded, true));
}

#[test]
fn a_failure_under_a_goal_cancels_the_rest_or_not_as_the_policy_says() {
    let waiting = Snapshot { state: State::Waiting, open_children: 3, has_finish: true, ..goal() };
    let failure =
        Event::ChildrenEnded { ended: 1, failure: Some("b failed".into()), finish: Some(Finish::Blocked) };
    let change = transition(&waiting, failure.clone()).unwrap();
    assert!(change.cancel_children);
    let rest =
        Event::ChildrenEnded { ended: 2, failure: None, finish: Some(Finish::Failed("cancelled".into())) };
    let end = transition(&after(&waiting, &change), rest).unwrap();
    assert_eq!((end.state, end.reason.as_deref()), (State::Failed, Some("b failed")));

    let lenient = Snapshot { on_child_failure: OnChildFailure::Continue, ..waiting };
    let change = transition(&lenient, failure).unwrap();
    assert!(!change.cancel_children);
    let failed_finish =
        Event::ChildrenEnded { ended: 2, failure: None, finish: Some(Finish::Failed("failed: no".into())) };
    assert_eq!(step(&after(&lenient, &change), failed_finish).state, State::Failed);
}

#[test]
fn a_planner_that_returns_nothing_has_failed() {
    let change = transition(&running(&goal()), ended(Outcome::Succeeded)).unwrap();
    assert_eq!(change.state, State::Scheduled);
    assert!(matches!(change.outcome, Some(Outcome::Failed { exit_code: 0, reason: Some(_) })));
}

#[test]
fn a_spawning_task_waits_for_what_it_spawned() {
    let task = step(&running(&work()), Event::Spawned { tasks: 2 });
    let success =
        Event::AttemptEnded { outcome: Outcome::Succeeded, returned: Returned::Result, sample: 0.0 };
    let waiting = step(&task, success);
    assert_eq!(waiting.state, State::Waiting);
    let both = Event::ChildrenEnded { ended: 2, failure: None, finish: None };
    assert_eq!(step(&waiting, both).state, State::Succeeded);
}

#[test]
fn the_backoff_grows_to_its_bound_and_jitter_only_shortens_it() {
    let policy = Backoff::default();
    assert_eq!(backoff(&policy, 1, 0.0), Duration::from_secs(1));
    assert_eq!(backoff(&policy, 4, 0.0), Duration::from_secs(8));
    assert_eq!(backoff(&policy, 100, 0.0), Duration::from_secs(300));
    assert_eq!(backoff(&policy, 1, 0.5), Duration::from_millis(950));
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Succeeded),
        3 => Just(FAILED),
        2 => Just(Outcome::Lost),
        1 => Just(Outcome::Cancelled),
        1 => Just(Outcome::OutOfMemory),
        1 => Just(Outcome::Rejected { reason: "no".into() }),
        2 => Just(Outcome::RuntimeError { reason: "no".into() }),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let failure = || prop_oneof![4 => Just(None), 1 => Just(Some("x failed".to_owned()))];
    let finish = prop_oneof![
        Just(None),
        Just(Some(Finish::Blocked)),
        Just(Some(Finish::Succeeded)),
        Just(Some(Finish::Failed("failed".to_owned())))
    ];
    let returned = prop_oneof![
        Just(Returned::Nothing),
        Just(Returned::Result),
        (1..4).prop_map(|tasks| Returned::Plan { tasks })
    ];
    prop_oneof![
        2 => failure().prop_map(|failure| Event::Enqueued { failure }),
        2 => (1..3, failure()).prop_map(|(ended, failure)| Event::DependenciesEnded { ended, failure }),
        3 => Just(Event::Due),
        5 => Just(Event::Granted),
        5 => (outcomes(), returned, 0.0..1.0)
            .prop_map(|(outcome, returned, sample)| Event::AttemptEnded { outcome, returned, sample }),
        1 => (1..3).prop_map(|tasks| Event::PlannedAgain { tasks }),
        1 => (1..3).prop_map(|tasks| Event::Spawned { tasks }),
        3 => (1..3, failure(), finish)
            .prop_map(|(ended, failure, finish)| Event::ChildrenEnded { ended, failure, finish }),
        1 => Just(Event::CancelRequested { reason: None }),
        1 => Just(Event::StartExpired),
        3 => (1..3).prop_map(|opened| Event::GatesOpened { opened }),
        1 => Just(Event::GateRefused { reason: "no".to_owned() }),
        1 => Just(Event::DeadlinePassed),
    ]
}

fn tasks() -> impl Strategy<Value = Snapshot> {
    (any::<bool>(), (0..3, 0..2), 1..4, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(planner, (dependencies, gates), max_attempts, run, carry_on, early)| {
            let mut task = if planner { goal() } else { work() };
            task.open_dependencies = dependencies;
            task.open_gates = gates;
            task.retry.max_attempts = max_attempts;
            task.early = early;
            task.has_finish = planner;
            if run {
                task.on_dependency_failure = OnDependencyFailure::Run;
            }
            if carry_on {
                task.on_child_failure = OnChildFailure::Continue;
            }
            task
        },
    )
}

proptest! {
    /// Invariants 4 (attempts, terminal states), 6 (dependencies) and 9 (nothing granted after a cancel) of design
    /// section 4, after every event of a random life.
    #[test]
    fn no_life_breaks_an_invariant(first in tasks(), life in prop::collection::vec(events(), 0..60)) {
        let mut task = first;
        let mut failed_dependency = false;
        for event in life {
            let before = task.clone();
            match transition(&before, event.clone()) {
                Err(Refusal::Ended(state)) => prop_assert_eq!(state, before.state),
                Err(Refusal::NotNow(state)) => {
                    prop_assert!(!state.is_terminal());
                }
                Ok(change) => {
                    prop_assert!(!before.state.is_terminal(), "4: terminal states never change");
                    if let Event::Enqueued { failure } | Event::DependenciesEnded { failure, .. } = &event {
                        failed_dependency |= failure.is_some();
                    }
                    task = after(&before, &change);
                    prop_assert!(task.attempt <= task.retry.max_attempts, "4: attempts never pass their number");
                    prop_assert!(task.attempt - before.attempt <= 1, "4: attempts count up by one");
                    prop_assert!(task.attempts_used <= task.attempt);
                    prop_assert!(task.runtime_errors <= limits::RUNTIME_ERRORS, "engine faults are bounded");
                    prop_assert!(task.open_children >= 0 && task.open_dependencies >= 0);
                    if event == Event::Granted {
                        prop_assert_eq!(task.open_dependencies, 0, "6: granted only after all dependencies");
                        prop_assert_eq!(task.open_gates, 0, "granted only after all it waits for");
                        prop_assert!(!before.cancel_requested, "9: nothing is granted after a cancel");
                        prop_assert!(
                            !failed_dependency || task.on_dependency_failure == OnDependencyFailure::Run,
                            "6: granted only after all dependencies succeeded"
                        );
                        task.started = true;
                    }
                    if before.cancel_requested {
                        prop_assert!(!matches!(task.state, State::Ready | State::Scheduled | State::Blocked));
                    }
                    if task.state == State::Succeeded {
                        prop_assert_eq!(task.open_children, 0, "it ends only when what is under it has");
                    }
                    prop_assert_eq!(
                        change.outcome.is_some(),
                        matches!(event, Event::AttemptEnded { .. }),
                        "5: an attempt has one outcome, and only at its end"
                    );
                    prop_assert!(change.backoff.is_none() || matches!(task.state, State::Scheduled | State::Ready));
                }
            }
        }
    }
}
