//! Handmade histories: a good one that every check has something to say of, and for each check a bad one.

use jiff::Timestamp;
use orca_proto::event::{Event, EventData, EventKind};
use orca_proto::ids::{FencingToken, InstanceId, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::spec::{Unique, WaitFor};
use orca_proto::task::{Attempt, Outcome, State, Task, TaskSummary};
use serde_json::json;

use super::{check, log_text};
use crate::history::{Answer, Asked, Call, Granted, History, Line, Phase, Trespass, What};
use crate::load::pretend;
use crate::node::Behaviour;

const UNIX: i64 = 1_700_000_000_000_000;
/// Before what the stories tell, so that they have room.
const DUMP: i64 = 1_000_000;

/// Lines in the making. Times are in milliseconds.
struct Story {
    lines: Vec<Line>,
    calls: u64,
    node: NodeId,
}

fn when(ms: i64) -> Timestamp {
    Timestamp::from_microsecond(UNIX + ms * 1_000).unwrap()
}

fn lease(task: TaskId, token: i64) -> LeaseRef {
    LeaseRef { task, token: FencingToken(token) }
}

fn asked(ask: &str) -> Asked {
    Asked { ask: ask.to_owned() }
}

fn refused(status: u16, problem: &str) -> Answer {
    Answer::Refused { status, problem: problem.to_owned(), detail: "no".to_owned() }
}

fn lost() -> Answer {
    refused(409, "lease-lost")
}

/// A task that ended as `state` at `ended`.
fn task(ask: &str, state: State, ended: i64) -> Task {
    let spec = pretend(ask, "default", &Behaviour::default());
    Task {
        summary: TaskSummary {
            id: TaskId::new(),
            name: "pretend".into(),
            key: None,
            role: spec.role,
            step: None,
            parent: None,
            queue: spec.queue.clone(),
            group: None,
            priority: 0,
            state,
            reason: None,
            cancel_requested: false,
            attempt: 1,
            max_attempts: 3,
            outcome: None,
            progress: None,
            children: Default::default(),
            created_at: when(0),
            run_at: None,
            started_at: None,
            finished_at: Some(when(ended)),
            deadline: None,
            schedule: None,
            waits_for: Vec::new(),
            labels: spec.labels.clone(),
        },
        spec,
        depends_on: Vec::new(),
        result: None,
        attempts: Vec::new(),
        retry_of: None,
    }
}

impl Story {
    fn new() -> Self {
        let begin = What::Begin { unix: UNIX, seed: 0, lease_ms: 2_000 };
        Self { lines: vec![Line { at: 0, who: "run".into(), what: begin }], calls: 0, node: NodeId::new() }
    }

    fn note(&mut self, at: i64, what: What) {
        self.lines.push(Line { at: at * 1_000, who: "node".into(), what });
    }

    /// A request that was sent at `sent` and answered 5 ms later.
    fn call(&mut self, sent: i64, call: Call, answer: Answer) {
        self.calls += 1;
        let id = self.calls;
        self.note(sent, What::Call { id, call });
        self.note(sent + 5, What::Answer { id, answer });
    }

    fn enqueue(&mut self, sent: i64, task: &Task) {
        let ask = task.summary.labels.get("ask").unwrap();
        let unique = task.spec.unique.as_ref().map(|unique| unique.key.clone());
        let call =
            Call::Enqueue { namespace: "red".into(), tasks: vec![asked(ask)], key: None, unique, bad: false };
        self.call(sent, call, Answer::Enqueued { ids: vec![task.summary.id], existing: vec![] });
    }

    /// A recorded attempt, and the claim that it was granted to.
    fn grant(&mut self, task: &mut Task, number: i32, from: i64, to: i64, outcome: Outcome) {
        let token = FencingToken(i64::try_from(task.attempts.len()).unwrap() + 1);
        task.attempts.push(Attempt {
            number,
            token,
            node: self.node,
            node_name: "node".into(),
            granted_at: when(from),
            started_at: Some(when(from + 1)),
            ended_at: Some(when(to)),
            outcome: Some(outcome),
        });
        let granted = Granted { task: task.summary.id, token, attempt: number, max_attempts: 3, ask: None };
        self.claim(from - 1, granted);
    }

    fn claim(&mut self, sent: i64, granted: Granted) {
        let call =
            Call::Claim { namespace: "red".into(), node: self.node, instance: InstanceId::new(), slots: 1 };
        self.call(sent, call, Answer::Granted { grants: vec![granted] });
    }

    fn report(&mut self, sent: i64, lease: LeaseRef, outcome: &str, answer: Answer) {
        let body = json!({ "outcome": outcome });
        let call = Call::Report { lease, outcome: outcome.into(), body, plan: None, bad: false };
        self.call(sent, call, answer);
    }

    fn renew(&mut self, sent: i64, leases: Vec<LeaseRef>, lost: Vec<LeaseRef>, cancel: Vec<LeaseRef>) {
        let call = Call::Renew { node: self.node, instance: InstanceId::new(), leases, cancelling: vec![] };
        self.call(sent, call, Answer::Renewed { lost, cancel });
    }

    fn dump(&mut self, task: &Task) {
        let what = What::Task { namespace: "red".into(), task: Box::new(task.clone()) };
        self.note(DUMP, what);
    }

    fn ends(&mut self, task: &Task, state: State) {
        let event = Event {
            specversion: "1.0".into(),
            id: "1".into(),
            source: "/v1/tasks".into(),
            kind: EventKind::State,
            subject: task.summary.id,
            time: when(100),
            data: EventData { state: Some(state), ..EventData::default() },
        };
        self.note(DUMP + 1, What::Event { namespace: "red".into(), event: Box::new(event) });
    }

    fn broken(mut self) -> Vec<(u8, &'static str)> {
        self.lines.sort_by_key(|line| line.at);
        let verdicts = check(&History::of(self.lines));
        let checks = verdicts.iter().flat_map(|verdict| {
            let broken = verdict.checks.iter().filter(|check| !check.violations.is_empty());
            broken.map(|check| (verdict.number, check.name))
        });
        checks.collect()
    }
}

/// An enqueued task with one attempt from 100 to 200 that succeeded.
fn simple(story: &mut Story, ask: &str) -> Task {
    let mut task = task(ask, State::Succeeded, 200);
    story.enqueue(10, &task);
    story.grant(&mut task, 1, 100, 200, Outcome::Succeeded);
    task
}

#[test]
fn a_good_history_breaks_nothing_and_every_check_looks_at_something() {
    let mut story = Story::new();
    let register = Call::Register {
        namespace: "red".into(),
        name: "node".into(),
        instance: InstanceId::new(),
        slots: 2,
    };
    let node = story.node;
    story.call(1, register, Answer::Registered { node });
    for group in [None, Some("narrow".to_owned())] {
        let limit =
            Call::Limit { namespace: "red".into(), queue: "default".into(), group, max_running: Some(1) };
        story.call(2, limit, Answer::Done);
    }
    let mut first = task("first", State::Succeeded, 5_000);
    first.spec.group = Some("narrow".into());
    first.spec.wait_for =
        vec![WaitFor { signal: "green".into(), timeout: None, on_timeout: Default::default() }];
    first.spec.unique = Some(Unique { key: "u".into(), r#while: Default::default() });
    let id = first.summary.id;
    story.enqueue(10, &first);
    let unique = Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("again")],
        key: None,
        unique: Some("u".into()),
        bad: false,
    };
    story.call(30, unique, Answer::Enqueued { ids: vec![id], existing: vec![id] });
    story.call(50, Call::Signal { task: id, name: "green".into() }, Answer::Done);
    story.grant(&mut first, 1, 100, 2_700, Outcome::Lost);
    story.renew(400, vec![lease(id, 1)], vec![], vec![]);
    story.grant(&mut first, 2, 2_800, 5_000, Outcome::Succeeded);
    story.note(110, What::ProgramStarted { lease: lease(id, 1) });
    story.note(2_810, What::ProgramStarted { lease: lease(id, 2) });
    story.call(2_900, Call::Fenced { lease: lease(id, 1), verb: "start".into() }, lost());
    story.renew(2_910, vec![lease(id, 1)], vec![lease(id, 1)], vec![]);
    story.call(2_950, Call::Log { lease: lease(id, 2), first: 0, count: 2 }, Answer::Logged { next: 2 });
    let done = || Answer::Reported { state: State::Succeeded };
    story.report(4_990, lease(id, 2), "succeeded", done());
    story.report(5_010, lease(id, 2), "succeeded", done());
    story.report(5_020, lease(id, 2), "failed", refused(409, "result-conflict"));
    for at in [5_100, 5_200] {
        story.call(at, Call::Read { task: id }, Answer::Seen { state: State::Succeeded, result: None });
    }
    let mut second = task("second", State::Cancelled, 6_500);
    second.depends_on = vec![id];
    story.grant(&mut second, 1, 6_000, 6_500, Outcome::Cancelled);
    let mut third = task("third", State::Skipped, 6_500);
    third.depends_on = vec![second.summary.id];
    let both = Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("second"), asked("third")],
        key: Some("k".into()),
        unique: None,
        bad: false,
    };
    let ids = vec![second.summary.id, third.summary.id];
    for at in [5_300, 5_400] {
        story.call(at, both.clone(), Answer::Enqueued { ids: ids.clone(), existing: vec![] });
    }
    let held = lease(second.summary.id, 1);
    story.call(6_100, Call::Cancel { task: second.summary.id }, Answer::Done);
    story.renew(6_200, vec![held], vec![], vec![held]);
    let bad = Call::Enqueue {
        namespace: "red".into(),
        tasks: vec![asked("bad0"), asked("bad1")],
        key: None,
        unique: None,
        bad: true,
    };
    story.call(7_000, bad, refused(422, "plan-invalid"));
    for (why, at) in [(Trespass::Absent, 7_100), (Trespass::Foreign, 7_200)] {
        let probe = Call::Probe { verb: "read".into(), why, thing: Some(id.to_string()) };
        story.call(at, probe, refused(404, "not-found"));
    }
    for task in [&first, &second, &third] {
        story.dump(task);
        story.ends(task, task.summary.state);
    }
    let lines = vec![(0, log_text(lease(id, 2), 0)), (1, log_text(lease(id, 2), 1))];
    story.note(DUMP, What::Log { lease: lease(id, 2), lines });

    story.lines.sort_by_key(|line| line.at);
    for verdict in check(&History::of(story.lines)) {
        for check in verdict.checks {
            assert!(
                check.violations.is_empty(),
                "{}: {}: {:?}",
                verdict.number,
                check.name,
                check.violations
            );
            assert!(check.facts > 0, "{}: {} looked at nothing", verdict.number, check.name);
        }
    }
}

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

#[test]
fn a_clock_that_was_set_back_explains_what_it_explains_and_no_more() {
    for (moved, broken) in [(true, 0), (false, 1)] {
        let mut story = Story::new();
        let mut task = task("a", State::Succeeded, 300);
        story.enqueue(10, &task);
        story.grant(&mut task, 1, 10_000, 10_100, Outcome::OutOfMemory);
        story.grant(&mut task, 2, 9_200, 9_300, Outcome::Succeeded);
        // The second claim was sent when the machine's clock said 10,200.
        for line in &mut story.lines {
            if line.at / 1_000 == 9_199 || line.at / 1_000 == 9_204 {
                line.at += 1_001_000;
            }
        }
        task.summary.finished_at = Some(when(9_300));
        story.dump(&task);
        if moved {
            story.note(10_150, What::ClockMoved { since: 10_140_000, offset_ms: -1_000 });
        }
        assert_eq!(story.broken().len(), broken);
    }
}
