//! Invariants 6 to 8, 10 and 11: what must be waited for, kept apart, and not exceeded.

use orca_proto::ids::{FencingToken, InstanceId, TaskId};
use orca_proto::spec::{Unique, WaitFor};
use orca_proto::task::{Outcome, State};

use super::story::{DUMP, Story, asked, lease, lost, refused, simple, task};
use crate::checker::log_text;
use crate::history::{Answer, Call, Granted, Phase, Trespass, What};

#[test]
fn a_grant_before_its_dependencies_is_noticed() {
    for (state, ended) in [(State::Succeeded, 150), (State::Failed, 50)] {
        let mut story = Story::new();
        let needed = task("needed", state, ended);
        story.enqueue(5, &needed);
        story.dump(&needed);
        let mut early = task("early", State::Succeeded, 200);
        early.depends_on = vec![needed.summary.id];
        story.enqueue(10, &early);
        story.grant(&mut early, 1, 100, 200, Outcome::Succeeded);
        story.dump(&early);
        assert_eq!(story.broken(), [(6, "a task is granted only after its dependencies")]);
    }
}

#[test]
fn a_grant_before_its_signal_is_noticed() {
    let mut story = Story::new();
    let mut task = simple(&mut story, "a");
    task.spec.wait_for =
        vec![WaitFor { signal: "green".into(), timeout: None, on_timeout: Default::default() }];
    story.call(150, Call::Signal { task: task.summary.id, name: "green".into() }, Answer::Done);
    story.dump(&task);
    assert_eq!(story.broken(), [(6, "a task is granted only after its approval and signals")]);
}

#[test]
fn half_a_batch_and_a_cycle_that_was_taken_are_noticed() {
    let batch = |bad| Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("a"), asked("b")],
        key: None,
        unique: None,
        bad,
    };
    let mut story = Story::new();
    story.call(10, batch(false), Answer::None { why: "cut".into() });
    story.dump(&task("a", State::Succeeded, 100));
    assert_eq!(story.broken(), [(6, "plans and batches are there whole or not at all")]);

    let mut story = Story::new();
    let (one, two) = (task("a", State::Succeeded, 100), task("b", State::Succeeded, 100));
    story.call(
        10,
        batch(true),
        Answer::Enqueued { ids: vec![one.summary.id, two.summary.id], existing: vec![] },
    );
    story.dump(&one);
    story.dump(&two);
    assert_eq!(story.broken(), [(6, "cycles, unknown names and batches with one bad task are refused")]);
}

#[test]
fn two_tasks_for_one_idempotency_key_are_noticed() {
    let mut story = Story::new();
    for _ in 0..2 {
        let made = task("a", State::Succeeded, 100);
        let key = Some("k".into());
        let call =
            Call::Enqueue { namespace: "red".into(), tasks: vec![asked("a")], key, unique: None, bad: false };
        story.call(10, call, Answer::Enqueued { ids: vec![made.summary.id], existing: vec![] });
        story.dump(&made);
    }
    assert_eq!(story.broken(), [(7, "one idempotency key gives one task")]);
}

#[test]
fn a_second_task_under_a_held_unique_key_is_noticed_and_one_after_its_end_is_not() {
    for (second, broken) in [(100, 1), (600, 0)] {
        let mut story = Story::new();
        let mut one = task("a", State::Succeeded, 500);
        let mut two = task("b", State::Succeeded, 900);
        for task in [&mut one, &mut two] {
            task.spec.unique = Some(Unique { key: "u".into(), r#while: Default::default() });
        }
        story.enqueue(10, &one);
        story.enqueue(second, &two);
        story.dump(&one);
        story.dump(&two);
        assert_eq!(story.broken(), vec![(7, "at most one open task per unique key"); broken]);
    }
}

#[test]
fn a_lease_that_is_reclaimed_late_or_early_is_noticed() {
    for (ended, name) in [
        (30_000, "an expired lease is reclaimed within one sweep"),
        (1_000, "a lease that stands is not reclaimed"),
    ] {
        let mut story = Story::new();
        let mut task = task("a", State::Failed, ended);
        story.enqueue(10, &task);
        story.grant(&mut task, 1, 100, ended, Outcome::Lost);
        story.dump(&task);
        assert_eq!(story.broken(), [(8, name)]);
    }
}

#[test]
fn a_lease_that_is_reclaimed_late_because_the_database_was_down_is_not_held_against_anybody() {
    let mut story = Story::new();
    let mut task = task("a", State::Failed, 30_000);
    story.enqueue(10, &task);
    story.grant(&mut task, 1, 100, 30_000, Outcome::Lost);
    story.dump(&task);
    for (at, phase) in [(500, Phase::Begin), (29_000, Phase::End)] {
        story.note(at, What::Fault { fault: "stop".into(), target: "postgres".into(), phase });
    }
    assert_eq!(story.broken(), []);
}

#[test]
fn limits_that_are_exceeded_are_noticed() {
    for (group, name) in [
        (None, "the limit of a queue is never exceeded"),
        (Some("narrow".to_owned()), "the limit of a group is never exceeded"),
    ] {
        let mut story = Story::new();
        let limit = Call::Limit {
            namespace: "red".into(),
            queue: "default".into(),
            group: group.clone(),
            max_running: Some(1),
            rate: None,
        };
        story.call(1, limit, Answer::Done);
        for ask in ["a", "b"] {
            let mut task = simple(&mut story, ask);
            task.spec.group.clone_from(&group);
            story.dump(&task);
        }
        assert_eq!(story.broken(), [(8, name)]);
    }
}

#[test]
fn more_than_a_queues_rate_allows_is_noticed() {
    for (count, broken) in [(3, 0), (6, 1)] {
        let mut story = Story::new();
        let rate = Some((2, 1_000));
        let limit = Call::Limit {
            namespace: "red".into(),
            queue: "default".into(),
            group: None,
            max_running: None,
            rate,
        };
        story.call(1, limit, Answer::Done);
        for n in 0..count {
            let task = simple(&mut story, &format!("a{n}"));
            story.dump(&task);
        }
        assert_eq!(story.broken(), vec![(8, "the rate of a queue is never exceeded"); broken]);
    }
}

#[test]
fn a_node_with_more_than_its_slots_is_noticed() {
    let mut story = Story::new();
    let register = Call::Register {
        namespace: "red".into(),
        name: "node".into(),
        instance: InstanceId::new(),
        slots: 1,
    };
    let node = story.node;
    story.call(1, register, Answer::Registered { node });
    for ask in ["a", "b"] {
        let task = simple(&mut story, ask);
        story.dump(&task);
    }
    assert_eq!(story.broken(), [(8, "a node has no more than its slots")]);
}

#[test]
fn log_lines_with_a_gap_of_another_task_or_lost_are_noticed() {
    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let held = lease(task.summary.id, 1);
    story.dump(&task);
    story.note(DUMP, What::Log { lease: held, lines: vec![(0, log_text(held, 0)), (2, log_text(held, 2))] });
    assert_eq!(story.broken(), [(10, "stored lines are gapless and in order")]);

    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let held = lease(task.summary.id, 1);
    story.dump(&task);
    story.note(DUMP, What::Log { lease: held, lines: vec![(0, log_text(lease(TaskId::new(), 1), 0))] });
    assert_eq!(story.broken(), [(10, "stored lines are the attempt's own")]);

    let mut story = Story::new();
    let task = simple(&mut story, "a");
    let held = lease(task.summary.id, 1);
    story.call(120, Call::Log { lease: held, first: 0, count: 2 }, Answer::Logged { next: 2 });
    story.dump(&task);
    story.note(DUMP, What::Log { lease: held, lines: vec![(0, log_text(held, 0))] });
    assert_eq!(story.broken(), [(10, "lines that were acknowledged are stored")]);
}

#[test]
fn what_should_have_been_refused_or_looks_different_or_went_astray_is_noticed() {
    let probe = |why| Call::Probe { verb: "read".into(), why, thing: None };
    for why in
        [Trespass::Absent, Trespass::Foreign, Trespass::Role, Trespass::Anonymous, Trespass::OthersLease]
    {
        let mut story = Story::new();
        story.call(10, probe(why), Answer::Done);
        assert_eq!(story.broken(), [(11, "what a token does not allow is refused")]);
    }
    let mut story = Story::new();
    story.call(10, probe(Trespass::Absent), refused(404, "not-found"));
    story.call(20, probe(Trespass::Foreign), lost());
    assert_eq!(story.broken(), [(11, "a foreign thing looks like an absent one")]);

    let mut story = Story::new();
    let mut task = simple(&mut story, "a");
    task.attempts.clear();
    let granted = Granted {
        task: task.summary.id,
        token: FencingToken(1),
        attempt: 1,
        max_attempts: 3,
        ask: Some("a".into()),
    };
    let node = story.node;
    let call = Call::Claim { namespace: "blue".into(), node, instance: InstanceId::new(), slots: 1 };
    story.lines.retain(|line| !matches!(&line.what, What::Call { call: Call::Claim { .. }, .. }));
    story.call(99, call, Answer::Granted { grants: vec![granted] });
    story.dump(&task);
    assert_eq!(story.broken(), [(11, "tasks, grants and events stay in their namespace")]);
}
