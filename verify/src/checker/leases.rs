//! Invariant 2: the committed intervals [grant, release or expiry) of a task's leases never overlap.

use std::collections::HashMap;

use orca_proto::ids::TaskId;

use super::Check;
use super::view::View;

pub(super) fn check(view: &View<'_>) -> Vec<Check> {
    vec![recorded(view), received(view)]
}

fn recorded(view: &View<'_>) -> Check {
    let mut check = Check::of("the recorded attempts of a task follow one another");
    for (id, dumped) in &view.tasks {
        for pair in dumped.task.attempts.windows(2) {
            let [one, next] = pair else { continue };
            let broken = match one.ended_at {
                None => Some(format!(
                    "the attempt under token {} of {id} never ended, and token {} was granted",
                    one.token, next.token
                )),
                Some(ended) if view.time.earliest(ended) > view.time.latest(next.granted_at) => {
                    Some(format!(
                        "token {} of {id} was granted at {}, before token {} ended at {ended}",
                        next.token, next.granted_at, one.token
                    ))
                }
                Some(_) => None,
            };
            check.fact(broken.map(|what| (what, vec![dumped.line])));
        }
    }
    check
}

fn received(view: &View<'_>) -> Check {
    let mut check = Check::of("a lease has one holder, the recorded one");
    let mut holders: HashMap<(TaskId, i64), usize> = HashMap::new();
    for (position, seen) in view.grants.iter().enumerate() {
        let lease = seen.granted.lease();
        let first = *holders.entry((lease.task, lease.token.0)).or_insert(position);
        let other = view.grants.get(first).filter(|_| first != position);
        let broken = match (other, view.attempt(lease)) {
            (Some(other), _) => {
                let mut lines = other.op.lines();
                lines.extend(seen.op.lines());
                Some((format!("token {} of {} was granted twice", lease.token, lease.task), lines))
            }
            (None, Some((line, attempt))) if attempt.node != seen.node => {
                let mut lines = seen.op.lines();
                lines.push(line);
                let what = format!(
                    "token {} of {} was granted to one node and recorded for another",
                    lease.token, lease.task
                );
                Some((what, lines))
            }
            _ => None,
        };
        check.fact(broken);
    }
    check
}
