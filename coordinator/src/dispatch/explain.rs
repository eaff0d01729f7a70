//! Explaining: why a task in line has not been given to a node, by the very gates that dispatch decides by.
//!
//! The nodes are narrowed down gate by gate (labels, queues, processors and memory, slots, preference); the gate at which
//! none is left is the condition that blocks. So each sentence speaks of the nodes that are otherwise fit.

use orca_proto::ids::TaskId;
use orca_proto::task::State;
use orca_proto::why::{Condition, ConditionKind, Why};
use serde_json::json;

use super::asker::{Asker, fits};
use super::condition::condition;
use super::lane::{LaneKey, Line};
use super::level::level;
use super::obstacle::{Gate, Moment, flow_gates, node_gates, room};
use super::sentence::{Facts, NAMED, no_node, sentence};
use super::words;

/// A task in line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InLine<'a> {
    /// Its lane.
    pub(crate) lane: &'a LaneKey,
    /// Since when it is in line, in microseconds since 1970.
    pub(crate) since_us: i64,
    /// Tasks that go before it: those of its own lane, and those of the lines that go [`before`] it.
    pub(crate) ahead: u64,
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

/// Why the task has not been given to one of `nodes`: the live ones of its namespace and role that take work.
pub(crate) fn explain(task: InLine<'_>, nodes: &[Asker], moment: &Moment<'_>) -> Explanation {
    let mut conditions: Vec<Condition> = flow_gates(&task.lane.flow, moment)
        .filter(|gate| gate.room == 0)
        .map(|gate| sentence(gate.obstacle, &Facts { task, stopped: &[], live: nodes.len(), moment }))
        .collect();
    let stages = |node| node_gates(task.lane, task.since_us, node, moment);
    let gates: Vec<(&Asker, [Gate<'_>; 5])> = nodes.iter().map(|node| (node, stages(node))).collect();
    let mut fit: Vec<&(&Asker, [Gate<'_>; 5])> = gates.iter().collect();
    if nodes.is_empty() {
        conditions.push(no_node(task.lane));
    }
    for stage in 0..gates.first().map_or(0, |(_, gates)| gates.len()) {
        let passes = |gates: &[Gate<'_>]| gates.get(stage).is_none_or(|gate| gate.room > 0);
        let (through, stopped): (Vec<_>, Vec<_>) = fit.into_iter().partition(|(_, gates)| passes(gates));
        fit = through;
        let closed = stopped.first().and_then(|(_, gates)| gates.get(stage));
        if let Some(gate) = closed.filter(|_| fit.is_empty()) {
            let stopped: Vec<&Asker> = stopped.iter().map(|(node, _)| *node).collect();
            let facts = Facts { task, stopped: &stopped, live: nodes.len(), moment };
            conditions.push(sentence(gate.obstacle, &facts));
        }
    }
    let eligible_nodes: Vec<String> = fit.iter().take(NAMED).map(|(node, _)| node.name.clone()).collect();
    if task.ahead > 0 {
        let go = if task.ahead == 1 { "goes" } else { "go" };
        let message = format!("about {} {go} before it", words::tasks(task.ahead));
        // Where no node fits it, their going would not bring it any nearer.
        conditions.push(condition(
            ConditionKind::BehindOthers,
            nodes.iter().any(|node| fits(node, task.lane)),
            message,
            [("ahead", json!(task.ahead))],
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
        )
    });
    conditions
}

/// Those lines whose tasks are served before one that has been in line since `since_us`, its own line aside.
///
/// They are lanes of higher levels and, on its own level, older ones of its own flow. Those of other flows on that level take
/// turns with it and are not among them; nor is what a pause or a limit keeps from being served.
pub(crate) fn before<'a>(
    lines: &'a [Line],
    lane: &LaneKey,
    since_us: i64,
    moment: &Moment<'_>,
) -> Vec<&'a Line> {
    let waiting: Vec<&Line> =
        lines.iter().filter(|line| room(flow_gates(&line.lane.flow, moment)) > 0).collect();
    let top = waiting.iter().map(|line| line.lane.priority).max().unwrap_or(lane.priority).max(lane.priority);
    let level_of = |lane: &LaneKey, since_us: i64| {
        let ageing_us = moment.settings.ageing_us(lane.flow.queue());
        level(lane.priority, moment.now_us.saturating_sub(since_us), ageing_us, top)
    };
    let own = level_of(lane, since_us);
    let others = waiting.into_iter().filter(|line| *line.lane != *lane).filter(|line| {
        let level = level_of(&line.lane, line.head_since_us);
        level > own || (level == own && line.lane.flow == lane.flow && line.head_since_us < since_us)
    });
    others.collect()
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
