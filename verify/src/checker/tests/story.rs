//! Histories made by hand, line by line.

use jiff::Timestamp;
use orca_proto::event::{Event, EventData, EventKind};
use orca_proto::ids::{FencingToken, InstanceId, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::task::{Attempt, Outcome, State, Task, TaskSummary};
use serde_json::json;

use super::super::check;
use crate::history::{Answer, Asked, Call, Granted, History, Line, What};
use crate::load::pretend;
use crate::node::Behaviour;

pub(super) const UNIX: i64 = 1_700_000_000_000_000;
/// Before what the stories tell, so that they have room.
pub(super) const DUMP: i64 = 1_000_000;

/// Lines in the making. Times are in milliseconds.
pub(super) struct Story {
    pub(super) lines: Vec<Line>,
    pub(super) calls: u64,
    pub(super) node: NodeId,
}

pub(super) fn when(ms: i64) -> Timestamp {
    Timestamp::from_microsecond(UNIX + ms * 1_000).unwrap()
}

pub(super) fn lease(task: TaskId, token: i64) -> LeaseRef {
    LeaseRef { task, token: FencingToken(token) }
}

pub(super) fn asked(ask: &str) -> Asked {
    Asked { ask: ask.to_owned() }
}

pub(super) fn refused(status: u16, problem: &str) -> Answer {
    Answer::Refused { status, problem: problem.to_owned(), detail: "no".to_owned() }
}

pub(super) fn lost() -> Answer {
    refused(409, "lease-lost")
}

/// A task that ended as `state` at `ended`.
pub(super) fn task(ask: &str, state: State, ended: i64) -> Task {
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
        approval: None,
        signals: Vec::new(),
        retried_as: Vec::new(),
    }
}

impl Story {
    pub(super) fn new() -> Self {
        let begin = What::Begin { unix: UNIX, seed: 0, lease_ms: 2_000 };
        let mut story = Self { lines: Vec::new(), calls: 0, node: NodeId::new() };
        story.note(0, begin);
        story.note(DUMP - 1, What::Questions);
        story
    }

    pub(super) fn note(&mut self, at: i64, what: What) {
        self.lines.push(Line { at: at * 1_000, who: "node".into(), what });
    }

    /// A request that was sent at `sent` and answered 5 ms later.
    pub(super) fn call(&mut self, sent: i64, call: Call, answer: Answer) {
        self.calls += 1;
        let id = self.calls;
        self.note(sent, What::Call { id, call });
        self.note(sent + 5, What::Answer { id, answer });
    }

    pub(super) fn enqueue(&mut self, sent: i64, task: &Task) {
        let ask = task.summary.labels.get("ask").unwrap();
        let unique = task.spec.unique.as_ref().map(|unique| unique.key.clone());
        let call =
            Call::Enqueue { namespace: "red".into(), tasks: vec![asked(ask)], key: None, unique, bad: false };
        self.call(sent, call, Answer::Enqueued { ids: vec![task.summary.id], existing: vec![] });
    }

    /// A recorded attempt, and the claim that it was granted to.
    pub(super) fn grant(&mut self, task: &mut Task, number: i32, from: i64, to: i64, outcome: Outcome) {
        let token = FencingToken(i64::try_from(task.attempts.len()).unwrap() + 1);
        task.attempts.push(Attempt {
            number,
            token,
            node: self.node,
            node_name: "node".into(),
            granted_at: when(from),
            started_at: Some(when(from + 1)),
            image: None,
            ended_at: Some(when(to)),
            outcome: Some(outcome),
        });
        let granted = Granted { task: task.summary.id, token, attempt: number, max_attempts: 3, ask: None };
        self.claim(from - 1, granted);
    }

    pub(super) fn claim(&mut self, sent: i64, granted: Granted) {
        let call =
            Call::Claim { namespace: "red".into(), node: self.node, instance: InstanceId::new(), slots: 1 };
        self.call(sent, call, Answer::Granted { grants: vec![granted] });
    }

    pub(super) fn report(&mut self, sent: i64, lease: LeaseRef, outcome: &str, answer: Answer) {
        let body = json!({ "outcome": outcome });
        let call = Call::Report { lease, outcome: outcome.into(), body, plan: None, bad: false };
        self.call(sent, call, answer);
    }

    pub(super) fn renew(
        &mut self,
        sent: i64,
        leases: Vec<LeaseRef>,
        lost: Vec<LeaseRef>,
        cancel: Vec<LeaseRef>,
    ) {
        let call = Call::Renew { node: self.node, instance: InstanceId::new(), leases, cancelling: vec![] };
        self.call(sent, call, Answer::Renewed { lost, cancel });
    }

    pub(super) fn dump(&mut self, task: &Task) {
        let what = What::Task { namespace: "red".into(), task: Box::new(task.clone()) };
        self.note(DUMP, what);
    }

    pub(super) fn ends(&mut self, task: &Task, state: State) {
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

    pub(super) fn broken(mut self) -> Vec<(u8, &'static str)> {
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
pub(super) fn simple(story: &mut Story, ask: &str) -> Task {
    let mut task = task(ask, State::Succeeded, 200);
    story.enqueue(10, &task);
    story.grant(&mut task, 1, 100, 200, Outcome::Succeeded);
    task
}
