//! A history, sorted for the checks: tasks, grants, logs and events by task, and when nothing was broken.

use std::collections::{BTreeMap, HashMap};

use orca_proto::event::Event;
use orca_proto::ids::{InstanceId, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::task::{Attempt, Task};

use super::time::Time;
use crate::history::{Answer, Asked, Call, Granted, History, Op, Phase, What};

/// How long the system may take to be itself again after a fault, in microseconds.
const RECOVERY: i64 = 3_000_000;

/// A task, as the coordinator told it at the end.
pub(super) struct Dumped<'a> {
    pub(super) line: usize,
    pub(super) namespace: &'a str,
    pub(super) task: &'a Task,
}

impl Dumped<'_> {
    /// The value of its label `ask`.
    pub(super) fn ask(&self) -> Option<&str> {
        self.task.summary.labels.get("ask").map(String::as_str)
    }
}

/// A grant that a node received.
pub(super) struct Seen<'a> {
    pub(super) op: &'a Op,
    pub(super) granted: &'a Granted,
    pub(super) node: NodeId,
    pub(super) namespace: &'a str,
}

/// The stored log of an attempt, behind the line that tells it.
pub(super) type StoredLog<'a> = (usize, LeaseRef, &'a [(i64, String)]);

/// What is known of something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It was refused, or another task was found to be there already.
    Refused,
    /// No answer came.
    Unknown,
    /// It was acknowledged.
    Acknowledged,
}

pub(super) struct View<'a> {
    pub(super) history: &'a History,
    pub(super) time: Time,
    pub(super) lease: i64,
    /// When the coordinator was first asked for all it knows.
    questions: i64,
    pub(super) tasks: BTreeMap<TaskId, Dumped<'a>>,
    pub(super) grants: Vec<Seen<'a>>,
    pub(super) logs: Vec<StoredLog<'a>>,
    pub(super) events: BTreeMap<TaskId, Vec<(usize, &'a str, &'a Event)>>,
    /// Registrations that were answered: node, its slots, its run, and the request.
    pub(super) nodes: Vec<(NodeId, u32, InstanceId, &'a str, &'a Op)>,
    /// For each `ask`, what became of it at best, and the namespace where that is known.
    pub(super) fates: HashMap<&'a str, Fate>,
    /// Tasks by their `ask`, those left out that a retry copied it to.
    pub(super) by_ask: HashMap<&'a str, Vec<TaskId>>,
    /// Stretches in which something other than a node was broken, recovery included; sorted, apart.
    broken: Vec<(i64, i64)>,
}

impl<'a> View<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let mut view = Self {
            history,
            time: Time::of(history),
            lease: 0,
            questions: i64::MAX,
            tasks: BTreeMap::new(),
            grants: Vec::new(),
            logs: Vec::new(),
            events: BTreeMap::new(),
            nodes: Vec::new(),
            fates: HashMap::new(),
            by_ask: HashMap::new(),
            broken: Vec::new(),
        };
        for (position, line) in history.lines.iter().enumerate() {
            match &line.what {
                What::Begin { lease_ms, .. } => view.lease = lease_ms * 1_000,
                What::Questions => view.questions = line.at,
                What::Task { namespace, task } => {
                    let dumped = Dumped { line: position, namespace, task };
                    if let Some(ask) = dumped.task.summary.labels.get("ask")
                        && dumped.task.retry_of.is_none()
                        && dumped.task.summary.step != Some(orca_proto::task::Step::Finish)
                    {
                        view.by_ask.entry(ask).or_default().push(task.summary.id);
                    }
                    view.tasks.insert(task.summary.id, dumped);
                }
                What::Log { lease, lines } => view.logs.push((position, *lease, lines)),
                What::Event { namespace, event } => {
                    view.events.entry(event.subject).or_default().push((position, namespace, event));
                }
                _ => {}
            }
        }
        for op in &history.ops {
            view.take(op);
        }
        view.broken = broken(history);
        view
    }

    fn take(&mut self, op: &'a Op) {
        match (&op.call, op.answer()) {
            (Call::Claim { namespace, node, .. }, Some(Answer::Granted { grants })) => {
                for granted in grants {
                    self.grants.push(Seen { op, granted, node: *node, namespace });
                }
            }
            (Call::Register { slots, instance, name, .. }, Some(Answer::Registered { node })) => {
                self.nodes.push((*node, *slots, *instance, name, op));
            }
            _ => {}
        }
        for asked in asked(&op.call) {
            let fate = match op.answer() {
                None => Fate::Unknown,
                Some(Answer::Refused { .. }) => Fate::Refused,
                Some(Answer::Enqueued { existing, .. }) if !existing.is_empty() => Fate::Refused,
                Some(_) => Fate::Acknowledged,
            };
            let known = self.fates.entry(&asked.ask).or_insert(fate);
            *known = (*known).max(fate);
        }
    }

    /// The record of an attempt.
    pub(super) fn attempt(&self, lease: LeaseRef) -> Option<(usize, &'a Attempt)> {
        let dumped = self.tasks.get(&lease.task)?;
        let task: &'a Task = dumped.task;
        Some((dumped.line, task.attempts.iter().find(|attempt| attempt.token == lease.token)?))
    }

    /// Whether what this request did must show in what the coordinator said at the end.
    pub(super) fn shows(&self, op: &Op) -> bool {
        op.received() < self.questions
    }

    /// How many of these are there.
    pub(super) fn present(&self, tasks: &[Asked]) -> usize {
        tasks.iter().filter(|asked| self.by_ask.contains_key(asked.ask.as_str())).count()
    }

    /// The line of a task, where it is there.
    pub(super) fn line_of(&self, task: TaskId) -> Option<usize> {
        self.tasks.get(&task).map(|dumped| dumped.line)
    }

    /// The moment when, after `from`, nothing but nodes had been broken for `long` in all.
    pub(super) fn calm_after(&self, from: i64, long: i64) -> i64 {
        let (mut at, mut left) = (from, long);
        for (begin, end) in &self.broken {
            if *end <= at {
                continue;
            }
            let calm = (begin - at).max(0);
            if calm >= left {
                break;
            }
            left -= calm;
            at = *end;
        }
        at.saturating_add(left)
    }
}

/// What a request asks for.
pub(super) fn asked(call: &Call) -> &[Asked] {
    match call {
        Call::Enqueue { tasks, .. } | Call::Spawn { tasks, .. } => tasks,
        Call::Report { plan: Some(tasks), .. } => tasks,
        _ => &[],
    }
}

fn broken(history: &History) -> Vec<(i64, i64)> {
    let mut open: HashMap<(&str, &str), i64> = HashMap::new();
    let mut stretches = Vec::new();
    let mut last = 0;
    for line in &history.lines {
        last = line.at;
        let What::Fault { fault, target, phase } = &line.what else { continue };
        if target.starts_with("node-") && !target.contains('>') {
            continue;
        }
        match phase {
            Phase::Begin => {
                open.insert((fault, target), line.at);
            }
            Phase::End => {
                if let Some(from) = open.remove(&(fault.as_str(), target.as_str())) {
                    stretches.push((from, line.at.saturating_add(RECOVERY)));
                }
            }
            Phase::Once => stretches.push((line.at, line.at.saturating_add(RECOVERY))),
        }
    }
    stretches.extend(open.into_values().map(|from| (from, last)));
    stretches.sort_unstable();
    let mut apart: Vec<(i64, i64)> = Vec::new();
    for (from, to) in stretches {
        match apart.last_mut() {
            Some((_, end)) if from <= *end => *end = (*end).max(to),
            _ => apart.push((from, to)),
        }
    }
    apart
}
