//! Invariants 1 to 5 and 9: how a task and its attempts live and end.

use orca_proto::ids::FencingToken;
use orca_proto::task::{Outcome, State};
use serde_json::json;

use super::story::{Story, asked, lease, lost, refused, simple, task};
use crate::history::{Answer, Call, Granted, What};

#[test]
fn an_acknowledged_task_that_is_gone_or_never_ended_is_noticed() {
    let mut story = Story::new();
    story.enqueue(10, &task("gone", State::Succeeded, 100));
    let mut open = task("open", State::Ready, 100);
    open.summary.finished_at = None;
    story.enqueue(20, &open);
    story.dump(&open);
    assert_eq!(story.broken(), [(1, "what was acknowledged is there and has ended")]);
}

#[test]
fn a_task_that_ends_twice_is_noticed() {
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    story.dump(&task);
    story.ends(&task, State::Cancelled);
    story.ends(&task, State::Succeeded);
    assert_eq!(story.broken(), [(1, "a task enters one terminal state, once")]);
}

#[test]
fn what_nobody_asked_for_or_what_was_refused_or_asked_for_once_is_noticed() {
    let name = "nothing is there that nobody asked for";
    let mut story = Story::new();
    story.dump(&task("out of the blue", State::Succeeded, 100));
    assert_eq!(story.broken(), [(1, name)]);

    let mut story = Story::new();
    let there = task("a", State::Succeeded, 100);
    let call = Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("a")],
        key: None,
        unique: None,
        bad: false,
    };
    story.call(10, call, refused(422, "validation"));
    story.dump(&there);
    assert_eq!(story.broken(), [(1, name)]);

    let mut story = Story::new();
    let one = task("a", State::Succeeded, 100);
    story.enqueue(10, &one);
    story.dump(&one);
    story.dump(&task("a", State::Succeeded, 100));
    assert_eq!(story.broken(), [(1, name)]);
}

#[test]
fn attempts_that_overlap_are_noticed() {
    let mut story = Story::new();
    let mut task = task("a", State::Succeeded, 300);
    story.enqueue(10, &task);
    story.grant(&mut task, 1, 100, 200, Outcome::OutOfMemory);
    story.grant(&mut task, 2, 150, 300, Outcome::Succeeded);
    story.dump(&task);
    assert_eq!(story.broken(), [(2, "the recorded attempts of a task follow one another")]);
}

#[test]
fn one_token_with_two_holders_is_noticed() {
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let twice =
        Granted { task: task.summary.id, token: FencingToken(1), attempt: 1, max_attempts: 3, ask: None };
    story.claim(120, twice);
    story.dump(&task);
    assert_eq!(
        story.broken(),
        [(2, "a lease has one holder, the recorded one"), (3, "a later grant has a higher token")]
    );
}

#[test]
fn a_stale_token_that_is_taken_is_noticed() {
    let calls = |id| {
        let lease = lease(id, 1);
        let body = json!({ "outcome": "failed" });
        [
            (Call::Fenced { lease, verb: "start".into() }, Answer::Done),
            (Call::Spawn { lease, tasks: vec![] }, Answer::Enqueued { ids: vec![], existing: vec![] }),
            (
                Call::Report { lease, outcome: "failed".into(), body, plan: None, bad: false },
                Answer::Reported { state: State::Succeeded },
            ),
        ]
    };
    for at in 0..3 {
        let mut story = Story::new();
        let mut task = task("a", State::Succeeded, 3_000);
        story.enqueue(10, &task);
        story.grant(&mut task, 1, 100, 2_200, Outcome::Lost);
        story.grant(&mut task, 2, 2_300, 3_000, Outcome::Succeeded);
        story.dump(&task);
        let (call, answer) = calls(task.summary.id)[at].clone();
        story.call(2_400, call, answer);
        assert!(story.broken().contains(&(3, "what comes with a stale token is refused as lease-lost")));
    }
}

#[test]
fn a_stale_token_that_is_refused_as_something_else_is_noticed() {
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    story.call(
        300,
        Call::Fenced { lease: lease(task.summary.id, 1), verb: "start".into() },
        refused(404, "not-found"),
    );
    story.dump(&task);
    assert_eq!(story.broken(), [(3, "what comes with a stale token is refused as lease-lost")]);
}

#[test]
fn a_stale_lease_that_is_renewed_is_noticed() {
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    story.renew(300, vec![lease(task.summary.id, 1)], vec![], vec![]);
    story.dump(&task);
    assert_eq!(story.broken(), [(3, "a stale lease is not renewed")]);
}

#[test]
fn attempts_that_do_not_count_up_or_are_too_many_are_noticed() {
    let mut story = Story::new();
    let mut same = task("a", State::Succeeded, 400);
    story.enqueue(10, &same);
    story.grant(&mut same, 1, 100, 200, Outcome::OutOfMemory);
    story.grant(&mut same, 1, 300, 400, Outcome::Succeeded);
    story.dump(&same);
    assert_eq!(story.broken(), [(4, "attempts count up by one")]);

    let mut story = Story::new();
    let mut many = task("a", State::Succeeded, 900);
    story.enqueue(10, &many);
    for number in 1..=4 {
        let from = i64::from(number) * 200;
        let outcome = if number == 4 { Outcome::Succeeded } else { Outcome::OutOfMemory };
        story.grant(&mut many, number, from, from + 100, outcome);
    }
    story.dump(&many);
    assert_eq!(story.broken(), [(4, "no attempt is beyond max_attempts")]);
}

#[test]
fn an_attempt_that_the_engine_ended_does_not_use_its_number_up() {
    let mut story = Story::new();
    let mut task = task("a", State::Succeeded, 400);
    story.enqueue(10, &task);
    story.grant(&mut task, 1, 100, 200, Outcome::RuntimeError { reason: "no".into() });
    story.grant(&mut task, 1, 300, 400, Outcome::Succeeded);
    story.dump(&task);
    assert_eq!(story.broken(), []);
}

#[test]
fn a_terminal_state_or_result_that_changes_is_noticed() {
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let id = task.summary.id;
    story.report(190, lease(id, 1), "succeeded", Answer::Reported { state: State::Failed });
    story.dump(&task);
    assert_eq!(story.broken(), [(4, "a terminal state that was told stays")]);

    let mut story = Story::new();
    let mut task = simple(&mut story, "a");
    task.result = Some(json!(2));
    let seen = |value| Answer::Seen { state: State::Succeeded, result: Some(json!(value)) };
    story.call(300, Call::Read { task: task.summary.id }, seen(2));
    story.call(400, Call::Read { task: task.summary.id }, seen(1));
    story.dump(&task);
    assert_eq!(story.broken(), [(4, "who reads an ended task twice reads the same")]);
}

#[test]
fn reports_that_are_answered_otherwise_or_both_taken_or_not_recorded_are_noticed() {
    let done = || Answer::Reported { state: State::Succeeded };
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let held = lease(task.summary.id, 1);
    story.report(190, held, "succeeded", done());
    story.report(210, held, "succeeded", lost());
    story.dump(&task);
    assert_eq!(story.broken(), [(5, "the same report is answered the same")]);

    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let held = lease(task.summary.id, 1);
    story.report(150, held, "succeeded", done());
    story.report(160, held, "out_of_memory", done());
    story.dump(&task);
    assert_eq!(story.broken(), [(5, "another report for the token is refused as result-conflict")]);

    let mut story = Story::new();
    let task = simple(&mut story, "a");
    story.report(190, lease(task.summary.id, 1), "out_of_memory", done());
    story.dump(&task);
    assert_eq!(story.broken(), [(5, "what was accepted is what is recorded")]);
}

#[test]
fn a_grant_after_a_cancel_of_the_task_or_of_what_is_above_it_is_noticed() {
    let name = "nothing is granted after its cancel was acknowledged";
    for above in [false, true] {
        let mut story = Story::new();
        let parent = task("parent", State::Cancelled, 200);
        story.enqueue(5, &parent);
        story.dump(&parent);
        let mut task = simple(&mut story, "a");
        task.summary.parent = Some(parent.summary.id);
        let cancelled = if above { parent.summary.id } else { task.summary.id };
        story.call(50, Call::Cancel { task: cancelled }, Answer::Done);
        story.dump(&task);
        assert_eq!(story.broken(), [(9, name)]);
    }
}

#[test]
fn a_renewal_that_says_nothing_of_a_cancel_and_a_second_run_of_an_attempt_are_noticed() {
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let held = lease(task.summary.id, 1);
    story.call(110, Call::Cancel { task: task.summary.id }, Answer::Done);
    story.renew(150, vec![held], vec![], vec![]);
    story.note(101, What::ProgramStarted { lease: held });
    story.note(102, What::ProgramStarted { lease: held });
    story.dump(&task);
    assert_eq!(
        story.broken(),
        [(9, "who keeps the lease of a cancelled task is told"), (9, "an attempt runs at most once")]
    );
}
