//! Invariant 1: an acknowledged task is never lost; after a drain it is in exactly one terminal state. Nothing appears that
//! nobody asked for.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::task::Step;

use super::Check;
use super::view::{Fate, View, asked};
use crate::history::{Answer, Call};

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    vec![there(view), once(view), asked_for(view)]
}

fn there(view: &View<'_>) -> Check {
    let mut check = Check::of("what was acknowledged is there and has ended");
    for op in &view.history.ops {
        let Some(Answer::Enqueued { ids, .. }) = op.answer() else { continue };
        for id in ids {
            check.fact(match view.tasks.get(id) {
                None => Some((format!("the task {id} was acknowledged and is gone"), op.lines())),
                Some(dumped) if !dumped.task.summary.state.is_terminal() => {
                    let mut lines = op.lines();
                    lines.push(dumped.line);
                    Some((format!("the task {id} never ended: it is {}", dumped.task.summary.state), lines))
                }
                Some(_) => None,
            });
        }
    }
    check
}

fn once(view: &View<'_>) -> Check {
    let mut check = Check::of("a task enters one terminal state, once");
    for (id, events) in &view.events {
        let ends: Vec<_> =
            events.iter().filter(|(_, _, event)| event.data.state.is_some_and(|s| s.is_terminal())).collect();
        if ends.is_empty() {
            continue;
        }
        let lines = || {
            let mut lines: Vec<usize> = ends.iter().map(|(line, _, _)| *line).collect();
            lines.extend(view.line_of(*id));
            lines
        };
        let told = ends.first().and_then(|(_, _, event)| event.data.state);
        let is = view.tasks.get(id).map(|dumped| dumped.task.summary.state);
        check.fact(if ends.len() > 1 {
            Some((format!("the task {id} ended {} times", ends.len()), lines()))
        } else if is.is_some_and(|is| is.is_terminal()) && is != told {
            Some((format!("the task {id} ended as {told:?} and is {is:?}"), lines()))
        } else {
            None
        });
    }
    check
}

fn asked_for(view: &View<'_>) -> Check {
    let mut check = Check::of("nothing is there that nobody asked for");
    let mut keyed: HashMap<&str, bool> = HashMap::new();
    let mut retries: HashMap<TaskId, usize> = HashMap::new();
    for op in &view.history.ops {
        for asked in asked(&op.call) {
            keyed.insert(&asked.ask, matches!(&op.call, Call::Enqueue { key: Some(_), .. }));
        }
        if let Call::Retry { task } = &op.call {
            *retries.entry(*task).or_default() += 1;
        }
    }
    let mut again: HashMap<TaskId, usize> = HashMap::new();
    for (id, dumped) in &view.tasks {
        if dumped.task.summary.step == Some(Step::Finish) {
            continue;
        }
        if let Some(first) = dumped.task.retry_of {
            let count = again.entry(first).or_default();
            *count += 1;
            let most = retries.get(&first).copied().unwrap_or_default();
            let what = format!("the task {first} was retried {count} times, and {most} were asked for");
            check.fact((*count > most).then(|| (what, vec![dumped.line])));
            continue;
        }
        let ask = dumped.ask().unwrap_or_default();
        let copies = view.by_ask.get(ask).map_or(0, Vec::len);
        check.fact(match (view.fates.get(ask), keyed.get(ask)) {
            (None, _) => Some((format!("nobody asked for the task {id}"), vec![dumped.line])),
            (Some(Fate::Refused), _) => {
                let what = format!("the task {id} is there, and what it was asked for with was refused");
                Some((what, proof(view, ask, dumped.line)))
            }
            (_, Some(false)) if copies > 1 => {
                Some((format!("there are {copies} tasks for one wish"), proof(view, ask, dumped.line)))
            }
            _ => None,
        });
    }
    check
}

fn proof(view: &View<'_>, ask: &str, line: usize) -> Vec<usize> {
    let wishes = view.history.ops.iter().filter(|op| asked(&op.call).iter().any(|asked| asked.ask == ask));
    let mut lines: Vec<usize> = wishes.flat_map(crate::history::Op::lines).collect();
    lines.push(line);
    lines
}
