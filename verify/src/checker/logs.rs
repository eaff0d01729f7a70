//! Invariant 10: log lines of an attempt are gapless and ordered, and never another task's.

use std::collections::HashMap;

use orca_proto::node::LeaseRef;

use super::Check;
use super::view::View;
use crate::history::{Answer, Call};

/// What the node writes as line `seq` of an attempt.
pub(crate) fn text(lease: LeaseRef, seq: i64) -> String {
    format!("line {seq} under token {} of {}", lease.token, lease.task)
}

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    let mut gapless = Check::of("stored lines are gapless and in order");
    let mut own = Check::of("stored lines are the attempt's own");
    let mut kept = Check::of("lines that were acknowledged are stored");
    let mut stored: HashMap<LeaseRef, usize> = HashMap::new();
    for (line, lease, lines) in &view.logs {
        stored.insert(*lease, lines.len());
        let gap = lines.iter().zip(0_i64..).find(|((seq, _), expected)| seq != expected);
        gapless.fact(gap.map(|((seq, _), expected)| {
            (
                format!("line {seq} of token {} of {} is where {expected} belongs", lease.token, lease.task),
                vec![*line],
            )
        }));
        let foreign = lines.iter().find(|(seq, said)| *said != text(*lease, *seq));
        own.fact(foreign.map(|(seq, said)| {
            (format!("line {seq} of token {} of {} says {said:?}", lease.token, lease.task), vec![*line])
        }));
    }
    for op in &view.history.ops {
        let (Call::Log { lease, .. }, Some(Answer::Logged { next })) = (&op.call, op.answer()) else {
            continue;
        };
        if view.logs.is_empty() || !view.shows(op) {
            continue;
        }
        let count = stored.get(lease).copied().unwrap_or_default();
        let broken = i64::try_from(count).unwrap_or(i64::MAX) < *next;
        let what = || {
            format!(
                "{next} lines under token {} of {} were acknowledged, {count} are stored",
                lease.token, lease.task
            )
        };
        kept.fact(broken.then(|| (what(), op.lines())));
    }
    vec![gapless, own, kept]
}
