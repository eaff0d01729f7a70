//! Invariant 5: reporting the same result twice answers the same; another result for the same token is refused.

use std::collections::BTreeMap;

use orca_proto::node::LeaseRef;
use orca_proto::spec::Role;
use orca_proto::task::State;

use super::Check;
use super::view::View;
use crate::history::{Answer, Call, Op};

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    let mut by_lease: BTreeMap<(String, i64), (LeaseRef, Vec<&Op>)> = BTreeMap::new();
    for op in &view.history.ops {
        if let Call::Report { lease, .. } = &op.call {
            let key = (lease.task.to_string(), lease.token.0);
            by_lease.entry(key).or_insert_with(|| (*lease, Vec::new())).1.push(op);
        }
    }
    let mut same = Check::of("the same report is answered the same");
    let mut other = Check::of("another report for the token is refused as result-conflict");
    let mut recorded = Check::of("what was accepted is what is recorded");
    for (lease, ops) in by_lease.values() {
        let Some(first) = ops.iter().find(|op| state(op).is_some()) else { continue };
        for op in ops {
            if std::ptr::eq(*op, *first) || op.answer().is_none() {
                continue;
            }
            let lines = || [first.lines(), op.lines()].concat();
            if body(op) == body(first) {
                let broken = state(op) != state(first) && (op.sent > first.received() || state(op).is_some());
                same.fact(broken.then(|| {
                    (
                        format!(
                            "the report for token {} of {} was answered otherwise",
                            lease.token, lease.task
                        ),
                        lines(),
                    )
                }));
            } else {
                let broken = if state(op).is_some() {
                    Some("was accepted too")
                } else if op.sent > first.received() && !refused_rightly(op) {
                    Some("was refused otherwise")
                } else {
                    None
                };
                other.fact(broken.map(|how| {
                    (format!("another report for token {} of {} {how}", lease.token, lease.task), lines())
                }));
            }
        }
        if view.shows(first) {
            record(view, *lease, first, &mut recorded);
        }
    }
    vec![same, other, recorded]
}

/// Invalid plans are refused for what they are.
fn refused_rightly(op: &Op) -> bool {
    matches!(op.problem(), Some("result-conflict" | "plan-invalid" | "validation"))
}

fn record(view: &View<'_>, lease: LeaseRef, op: &Op, check: &mut Check) {
    let (Some((line, attempt)), Call::Report { outcome, .. }) = (view.attempt(lease), &op.call) else {
        return;
    };
    let plans = view.tasks.get(&lease.task).is_some_and(|dumped| dumped.task.summary.role == Role::Plan);
    let name = attempt.outcome.as_ref().map(orca_proto::task::Outcome::name);
    // A planner that returns nothing has failed, whatever it says.
    let broken = name != Some(outcome) && !(plans && name == Some("failed"));
    let what =
        || format!("token {} of {} reported {outcome}, and {name:?} is recorded", lease.token, lease.task);
    check.fact(broken.then(|| {
        let mut lines = op.lines();
        lines.push(line);
        (what(), lines)
    }));
}

fn state(op: &Op) -> Option<State> {
    match op.answer() {
        Some(Answer::Reported { state }) => Some(*state),
        _ => None,
    }
}

fn body(op: &Op) -> Option<&serde_json::Value> {
    match &op.call {
        Call::Report { body, .. } => Some(body),
        _ => None,
    }
}
