//! Explaining: why a task in line has not been given to a node, by the very gates that dispatch decides by.
//!
//! The nodes are narrowed down gate by gate (labels, queues, processors and memory, slots, preference); the gate at which
//! none is left is a condition that blocks, and speaks of the nodes that are otherwise fit. Each later gate that lets none of
//! all the nodes through is told too: whoever opens the first must not meet the next by surprise.

use std::cmp::Ordering;
use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::task::State;
use orca_proto::why::{Condition, ConditionKind, Why};
use serde_json::json;

use super::asker::{Asker, fits};
use super::condition::condition;
use super::lane::{Flow, LaneKey, Line};
use super::level::level;
use super::obstacle::{Gate, Moment, flow_gates, group_gates, node_gates, queue_gates, room};
use super::sentence::{Facts, NAMED, TOO_LARGE, no_node, sentence};
use super::words;

/// A task in line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InLine<'a> {
    /// Its lane.
    pub(crate) lane: &'a LaneKey,
    /// Since when it is in line, in microseconds since 1970.
    pub(crate) since_us: i64,
    /// Tasks that go before it.
    pub(crate) ahead: Ahead,
    /// Tasks of its queue that run; asked for only where the queue is at its limit, and some are enough.
    pub(crate) queue_holders: &'a [TaskId],
    /// The same of its group.
    pub(crate) group_holders: &'a [TaskId],
}

/// What dispatch says of a task in line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explanation {
    /// None of them blocks exactly when a node would be given the task, were there no others.
    pub(crate) conditions: Vec<Condition>,
    /// Names of live nodes that could take it now; at most 20.
    pub(crate) eligible_nodes: Vec<String>,
}

/// A node, and what stands between it and the task.
type Looked<'a> = (&'a Asker, [Gate<'a>; 5]);

/// Why the task has not been given to one of `nodes`: the live ones of its namespace and role that take work.
pub(crate) fn explain(task: InLine<'_>, nodes: &[Asker], moment: &Moment<'_>) -> Explanation {
    let mut conditions: Vec<Condition> = flow_gates(&task.lane.flow, moment)
        .filter(|gate| gate.room == 0)
        .map(|gate| sentence(gate.obstacle, &Facts { task, stopped: &[], live: nodes.len(), moment }))
        .collect();
    let stages = |node| node_gates(task.lane, task.since_us, node, moment);
    let gates: Vec<Looked<'_>> = nodes.iter().map(|node| (node, stages(node))).collect();
    let mut fit: Vec<&Looked<'_>> = gates.iter().collect();
    if nodes.is_empty() {
        conditions.push(no_node(task.lane));
    }
    for stage in 0..gates.first().map_or(0, |(_, gates)| gates.len()) {
        let passes = |gates: &[Gate<'_>]| gates.get(stage).is_none_or(|gate| gate.room > 0);
        // Once none is left all are asked again: a gate that lets none of them through blocks whatever the others do.
        let was_none_left = fit.is_empty();
        let asked: Vec<&Looked<'_>> =
            if was_none_left { gates.iter().collect() } else { std::mem::take(&mut fit) };
        let (through, stopped): (Vec<&Looked<'_>>, Vec<&Looked<'_>>) =
            asked.into_iter().partition(|(_, gates)| passes(gates));
        let closed = stopped.first().and_then(|(_, gates)| gates.get(stage));
        if let Some(gate) = closed.filter(|_| through.is_empty()) {
            let stopped: Vec<&Asker> = stopped.iter().map(|(node, _)| *node).collect();
            let facts = Facts { task, stopped: &stopped, live: nodes.len(), moment };
            conditions.push(sentence(gate.obstacle, &facts));
        }
        if !was_none_left {
            fit = through;
        }
    }
    let eligible_nodes: Vec<String> = fit.iter().take(NAMED).map(|(node, _)| node.name.clone()).collect();
    let Ahead { tasks, in_turns } = task.ahead;
    if tasks > 0 {
        let go = if tasks == 1 { "goes" } else { "go" };
        let take = if in_turns == 1 { "takes" } else { "take" };
        let turns = match in_turns {
            0 => String::new(),
            all if all == tasks => format!(", of other groups or queues, which {take} turns with its own"),
            some => {
                let some = words::count(some);
                format!(", {some} of them of other groups or queues, which {take} turns with its own")
            }
        };
        let message = format!("about {} {go} before it{turns}", words::tasks(tasks));
        // Where no node fits it, their going would not bring it any nearer.
        conditions.push(condition(
            ConditionKind::BehindOthers,
            nodes.iter().any(|node| fits(node, task.lane)),
            message,
            [("ahead", json!(tasks)), ("in_turns", json!(in_turns))],
        ));
    }
    Explanation { conditions, eligible_nodes }
}

/// Those of the conditions of a task that will still hold once it comes in line, if nobody does anything about them: what runs now may
/// have ended by then, and what is in line may have gone.
pub(crate) fn lasting(mut conditions: Vec<Condition>) -> Vec<Condition> {
    conditions.retain(|condition| {
        matches!(
            condition.kind,
            ConditionKind::QueuePaused
                | ConditionKind::GroupPaused
                | ConditionKind::NoNode
                | ConditionKind::NodeLabels
                | ConditionKind::NodeQueues
        ) || condition.facts.get(TOO_LARGE) == Some(&json!(true))
    });
    conditions
}

/// The lines of which tasks go before one, its own line aside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before<'a> {
    /// Lanes of higher levels: all of their tasks do.
    higher: Vec<&'a Line>,
    /// Older lanes of its own flow on its own level: so do all of theirs.
    own: Vec<&'a Line>,
    /// Lanes of other flows on its level, flow by flow, each with its weight: of those as many as their weight gives turns.
    turns: Vec<(f64, Vec<&'a Line>)>,
    weight: f64,
    since_us: i64,
}

/// How many tasks go before one; an estimate, as what each flow was given before is remembered by the one that grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// In all.
    pub(crate) tasks: u64,
    /// Of these, those of other flows that take turns with its own.
    pub(crate) in_turns: u64,
}

/// The lines of which tasks are served before one that has been in line since `since_us`.
///
/// What a pause or a limit keeps from being served is not among them, unless the same one keeps the task itself: they come
/// free together.
pub(crate) fn before<'a>(
    lines: &'a [Line],
    lane: &LaneKey,
    since_us: i64,
    moment: &Moment<'_>,
) -> Before<'a> {
    let may_be_served = |flow: &Flow| {
        let own_queue = flow.queue() == lane.flow.queue();
        let open = own_queue || room(queue_gates(flow.queue(), moment)) > 0;
        open && (*flow == lane.flow || room(group_gates(flow, moment.settings.group(flow), moment)) > 0)
    };
    let waiting: Vec<&Line> = lines.iter().filter(|line| may_be_served(&line.lane.flow)).collect();
    let top = waiting.iter().map(|line| line.lane.priority).max().unwrap_or(lane.priority).max(lane.priority);
    let level_of = |lane: &LaneKey, since_us: i64| {
        let ageing_us = moment.settings.ageing_us(lane.flow.queue());
        level(lane.priority, moment.now_us.saturating_sub(since_us), ageing_us, top)
    };
    let weight =
        |flow: &Flow| f64::from(moment.settings.group(flow).map_or(1, |rules| rules.settings.weight.max(1)));
    let own = level_of(lane, since_us);
    let mut before = Before { weight: weight(&lane.flow), since_us, ..Before::default() };
    let mut flows: HashMap<&Flow, Vec<&'a Line>> = HashMap::new();
    for line in waiting.into_iter().filter(|line| *line.lane != *lane) {
        match level_of(&line.lane, line.head_since_us).cmp(&own) {
            Ordering::Greater => before.higher.push(line),
            Ordering::Less => {}
            Ordering::Equal if line.lane.flow != lane.flow => {
                flows.entry(&line.lane.flow).or_default().push(line);
            }
            Ordering::Equal if line.head_since_us < since_us => before.own.push(line),
            Ordering::Equal => {}
        }
    }
    before.turns = flows.into_iter().map(|(flow, lines)| (weight(flow), lines)).collect();
    before
}

impl<'a> Before<'a> {
    /// All of these lines.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &'a Line> {
        let turns = self.turns.iter().flat_map(|(_, lines)| lines);
        self.higher.iter().chain(&self.own).chain(turns).copied()
    }

    /// How many tasks go before the one that has `in_lane` of its own lane before it, where so many wait in each line.
    pub(crate) fn ahead(&self, in_lane: u64, waiting: impl Fn(&Line) -> u64) -> Ahead {
        let sum = |lines: &[&Line]| lines.iter().map(|line| waiting(line)).fold(0, u64::saturating_add);
        let own = in_lane.saturating_add(sum(&self.own));
        let in_turns = self.turns.iter().map(|(weight, lines)| {
            let older = lines.iter().any(|line| line.head_since_us < self.since_us);
            turns(own, weight / self.weight, older).min(sum(lines))
        });
        let in_turns = in_turns.fold(0, u64::saturating_add);
        Ahead { tasks: own.saturating_add(sum(&self.higher)).saturating_add(in_turns), in_turns }
    }
}

/// How many tasks a flow of `ratio` times the weight is given until one's own flow has been given `own` and comes to its next.
/// Where both are due at once the one with the `older` head goes first.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, and never negative"
)]
fn turns(own: u64, ratio: f64, older: bool) -> u64 {
    let due = own as f64 * ratio;
    let tie = due.fract() == 0.0;
    (due.ceil() as u64).saturating_add(u64::from(tie && older))
}

/// The whole answer: what blocks comes first, and the first of it is the sentence.
pub(crate) fn why(
    task: TaskId,
    state: State,
    mut conditions: Vec<Condition>,
    ahead: Option<u64>,
    eligible_nodes: Vec<String>,
) -> Why {
    conditions.sort_by_key(|condition| !condition.blocks);
    let blocking = conditions.iter().filter(|condition| condition.blocks).count();
    let summary = match (conditions.first(), blocking) {
        (Some(first), 0 | 1) if state != State::Ready || blocking == 1 => first.message.clone(),
        (Some(first), 2..) => format!("{} (and {} more)", first.message, blocking - 1),
        _ if state == State::Ready => match eligible_nodes.first() {
            Some(node) => format!("nothing keeps it: it goes to the next node that asks, such as {node}"),
            None => "nothing keeps it: it goes to the next node that asks".to_owned(),
        },
        _ => format!("it is {state}"),
    };
    Why { task, state, summary, conditions, ahead, eligible_nodes }
}
