//! Invariant 6: a task is granted only after all its dependencies succeeded, and only after what else it waits for. Plans
//! and batches are there whole or not at all; cycles and unknown names are refused.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::spec::{OnDependencyFailure, OnTimeout};
use orca_proto::task::State;

use super::Check;
use super::view::View;
use crate::history::{Call, Op};

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    vec![granted_after(view), waited_for(view), whole(view), refused(view)]
}

fn granted_after(view: &View<'_>) -> Check {
    let mut check = Check::of("a task is granted only after its dependencies");
    for (id, dumped) in &view.tasks {
        let Some(first) = dumped.task.attempts.first() else { continue };
        for needs in &dumped.task.depends_on {
            let Some(needed) = view.tasks.get(needs) else { continue };
            let state = needed.task.summary.state;
            let must_succeed = dumped.task.spec.on_dependency_failure == OnDependencyFailure::Skip;
            let ended = needed.task.summary.finished_at;
            let too_early =
                ended.is_none_or(|ended| view.time.earliest(ended) > view.time.latest(first.granted_at));
            let what = if must_succeed && state != State::Succeeded {
                Some(format!("{id} was granted, and {needs}, which it needs, is {state}"))
            } else if too_early {
                Some(format!("{id} was granted at {}, before {needs} ended at {ended:?}", first.granted_at))
            } else {
                None
            };
            check.fact(what.map(|what| (what, vec![dumped.line, needed.line])));
        }
    }
    check
}

fn waited_for(view: &View<'_>) -> Check {
    let mut check = Check::of("a task is granted only after its approval and signals");
    let mut sent: HashMap<(TaskId, &str), &Op> = HashMap::new();
    for op in &view.history.ops {
        if let Call::Signal { task, name } = &op.call {
            sent.entry((*task, name)).or_insert(op);
        }
    }
    for (id, dumped) in &view.tasks {
        let Some(first) = dumped.task.attempts.first() else { continue };
        let spec = &dumped.task.spec;
        let goes_on = |on: OnTimeout| on == OnTimeout::Proceed;
        let approval = spec.approval.iter().filter(|a| !goes_on(a.on_timeout)).map(|_| "approval");
        let signals = spec.wait_for.iter().filter(|w| !goes_on(w.on_timeout)).map(|w| w.signal.as_str());
        for wanted in approval.chain(signals) {
            let came = sent.get(&(*id, wanted)).copied();
            let granted = view.time.latest(first.granted_at);
            let broken = came.is_none_or(|op| op.sent > granted);
            let what = || format!("{id} was granted before {wanted}, which it waits for, was there");
            check.fact(broken.then(|| {
                let mut lines = came.map(Op::lines).unwrap_or_default();
                lines.push(dumped.line);
                (what(), lines)
            }));
        }
    }
    check
}

fn whole(view: &View<'_>) -> Check {
    let mut check = Check::of("plans and batches are there whole or not at all");
    for op in &view.history.ops {
        let (tasks, plan) = match &op.call {
            Call::Enqueue { tasks, .. } | Call::Spawn { tasks, .. } => (tasks, false),
            Call::Report { plan: Some(tasks), .. } => (tasks, true),
            _ => continue,
        };
        if tasks.len() < 2 {
            continue;
        }
        let there = view.present(tasks);
        // A goal that is being cancelled takes no plan.
        let wanted_all = op.succeeded() && !plan;
        let broken = there != tasks.len() && (there != 0 || wanted_all);
        let what = || format!("{there} of {} tasks that belong together are there", tasks.len());
        check.fact(broken.then(|| {
            let mut lines = op.lines();
            let found = tasks.iter().filter_map(|asked| view.by_ask.get(asked.ask.as_str())).flatten();
            lines.extend(found.filter_map(|id| view.line_of(*id)));
            (what(), lines)
        }));
    }
    check
}

fn refused(view: &View<'_>) -> Check {
    let mut check = Check::of("cycles, unknown names and batches with one bad task are refused");
    for op in &view.history.ops {
        let (Call::Enqueue { tasks, bad: true, .. } | Call::Report { plan: Some(tasks), bad: true, .. }) =
            &op.call
        else {
            continue;
        };
        let there = view.present(tasks);
        let broken = if op.succeeded() {
            Some("what cannot be was accepted".to_owned())
        } else if there > 0 {
            Some(format!("{there} tasks of something that cannot be are there"))
        } else {
            None
        };
        if op.answer().is_some() || broken.is_some() {
            check.fact(broken.map(|what| (what, op.lines())));
        }
    }
    check
}
