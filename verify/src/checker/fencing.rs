//! Invariant 3: the fencing token rises with every grant; what comes with a stale one changes nothing and is refused as
//! `lease-lost`.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::node::LeaseRef;

use super::Check;
use super::view::View;
use crate::history::{Answer, Call, Op};

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    vec![rises(view), stale(view), renewed(view)]
}

fn rises(view: &View<'_>) -> Check {
    let mut check = Check::of("a later grant has a higher token");
    for (id, dumped) in &view.tasks {
        for pair in dumped.task.attempts.windows(2) {
            let [one, next] = pair else { continue };
            let what = || format!("tokens {} and {} of {id} were granted in turn", one.token, next.token);
            check.fact((one.token >= next.token).then(|| (what(), vec![dumped.line])));
        }
    }
    let mut by_task: HashMap<TaskId, Vec<usize>> = HashMap::new();
    for (position, seen) in view.grants.iter().enumerate() {
        by_task.entry(seen.granted.task).or_default().push(position);
    }
    for (id, positions) in by_task {
        for (at, first) in positions.iter().enumerate() {
            for second in positions.iter().skip(at + 1) {
                let (Some(one), Some(two)) = (view.grants.get(*first), view.grants.get(*second)) else {
                    continue;
                };
                let (one, two) = if one.op.sent <= two.op.sent { (one, two) } else { (two, one) };
                let ordered = one.op.received() < two.op.sent;
                let equal = one.granted.token == two.granted.token;
                let broken = equal || ordered && one.granted.token > two.granted.token;
                let what = || {
                    format!(
                        "token {} of {id} was granted, then token {}",
                        one.granted.token, two.granted.token
                    )
                };
                check.fact(broken.then(|| (what(), [one.op.lines(), two.op.lines()].concat())));
            }
        }
    }
    check
}

/// The lease that a request speaks under.
fn lease_of(call: &Call) -> Option<LeaseRef> {
    match call {
        Call::Fenced { lease, .. }
        | Call::Log { lease, .. }
        | Call::Spawn { lease, .. }
        | Call::Report { lease, .. } => Some(*lease),
        _ => None,
    }
}

/// From when on, by all that is known, a lease was over, and the line that shows it.
fn over(
    view: &View<'_>,
    newest: &HashMap<TaskId, Vec<(i64, i64, usize)>>,
    lease: LeaseRef,
) -> Option<(i64, usize)> {
    let superseded = newest
        .get(&lease.task)
        .into_iter()
        .flatten()
        .filter(|(token, _, _)| *token > lease.token.0)
        .map(|(_, at, line)| (*at, *line))
        .min();
    let ended =
        view.attempt(lease).and_then(|(line, attempt)| Some((view.time.latest(attempt.ended_at?), line)));
    superseded.into_iter().chain(ended).min()
}

/// For each task: tokens, when a node had them, and the line that says so.
fn received(view: &View<'_>) -> HashMap<TaskId, Vec<(i64, i64, usize)>> {
    let mut newest: HashMap<TaskId, Vec<(i64, i64, usize)>> = HashMap::new();
    for seen in &view.grants {
        let line = seen.op.lines().pop().unwrap_or_default();
        newest.entry(seen.granted.task).or_default().push((seen.granted.token.0, seen.op.received(), line));
    }
    newest
}

fn stale(view: &View<'_>) -> Check {
    let mut check = Check::of("what comes with a stale token is refused as lease-lost");
    let newest = received(view);
    let mut reports: HashMap<LeaseRef, Vec<&Op>> = HashMap::new();
    for op in &view.history.ops {
        if let Call::Report { lease, .. } = &op.call {
            reports.entry(*lease).or_default().push(op);
        }
    }
    for op in &view.history.ops {
        let Some(lease) = lease_of(&op.call) else { continue };
        let Some(answer) = op.answer() else { continue };
        let Some((since, line)) = over(view, &newest, lease) else { continue };
        if op.sent <= since {
            continue;
        }
        let is_report = matches!(op.call, Call::Report { .. });
        let repeats =
            is_report && settled_it(view, lease, op, reports.get(&lease).map_or(&[], Vec::as_slice));
        let broken = match answer {
            Answer::Refused { problem, .. } => match problem.as_str() {
                "lease-lost" => None,
                "result-conflict" if is_report => None,
                // An invalid plan is refused for what it is, whoever sends it.
                "plan-invalid" | "validation" if is_report => None,
                other => Some(format!("is refused as {other}")),
            },
            _ if repeats => None,
            _ => Some("is accepted".to_owned()),
        };
        check.fact(broken.map(|how| {
            let what =
                format!("token {} of {} is stale, and what comes with it {how}", lease.token, lease.task);
            let mut lines = op.lines();
            lines.push(line);
            (what, lines)
        }));
    }
    check
}

/// Whether an earlier report that says the same settled the attempt.
fn settled_it(view: &View<'_>, lease: LeaseRef, op: &Op, reports: &[&Op]) -> bool {
    let Call::Report { body, outcome, .. } = &op.call else { return false };
    let recorded = view.attempt(lease).and_then(|(_, attempt)| attempt.outcome.as_ref());
    let same = |other: &&&Op| {
        other.sent < op.sent && matches!(&other.call, Call::Report { body: theirs, .. } if theirs == body)
    };
    reports.iter().any(|other| same(&other)) && recorded.is_none_or(|recorded| recorded.name() == outcome)
}

fn renewed(view: &View<'_>) -> Check {
    let mut check = Check::of("a stale lease is not renewed");
    let newest = received(view);
    for op in &view.history.ops {
        let (Call::Renew { leases, .. }, Some(Answer::Renewed { lost, .. })) = (&op.call, op.answer()) else {
            continue;
        };
        for lease in leases {
            let Some((since, line)) = over(view, &newest, *lease) else { continue };
            if op.sent <= since {
                continue;
            }
            let what =
                || format!("token {} of {} is stale, and its lease is renewed", lease.token, lease.task);
            check.fact((!lost.contains(lease)).then(|| {
                let mut lines = op.lines();
                lines.push(line);
                (what(), lines)
            }));
        }
    }
    check
}
