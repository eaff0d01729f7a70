//! The conditions of `why` that dispatch has no part in: what keeps a task out of the line, and what comes after it. One
//! sentence and its facts each; what is true of the task is for the caller to know.

use jiff::Timestamp;
use orca_proto::approval::Decided;
use orca_proto::ids::TaskId;
use orca_proto::signal::Arrived;
use orca_proto::task::{Outcome, State};
use orca_proto::why::{Condition, ConditionKind};
use serde_json::{Map, Value, json};

use super::sentence::NAMED;
use super::words;

/// A condition with these facts; `null` ones are left out.
pub(super) fn condition<'a>(
    kind: ConditionKind,
    blocks: bool,
    message: String,
    facts: impl IntoIterator<Item = (&'a str, Value)>,
) -> Condition {
    let known = facts.into_iter().filter(|(_, value)| !value.is_null());
    let facts: Map<String, Value> = known.map(|(name, value)| (name.to_owned(), value)).collect();
    Condition { kind, blocks, message, facts }
}

/// These nodes of its role are alive and take no work, each with its state in words.
pub(crate) fn out_of_service(nodes: &[(String, String)]) -> Condition {
    let named: Vec<String> =
        nodes.iter().take(NAMED).map(|(name, state)| format!("{name} is {state}")).collect();
    let more = nodes.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    let message = format!("some nodes take no work: {}{rest}", named.join("; "));
    let names: Vec<&str> = nodes.iter().map(|(name, _)| name.as_str()).collect();
    condition(ConditionKind::NodesOutOfService, false, message, [("nodes", json!(names))])
}

/// It waits for another task, which is in `state`. Where that one waits for others in its turn, `root` is what all of them wait
/// for in the end.
pub(crate) fn dependency(
    on: TaskId,
    name: &str,
    state: State,
    root: Option<(TaskId, &str, State)>,
) -> Condition {
    let end = root.map(|(id, name, state)| {
        format!("; in the end it comes down to task {id} ({name}), which is {state}")
    });
    condition(
        ConditionKind::Dependency,
        true,
        format!("it waits for task {on} ({name}), which is {state}{}", end.unwrap_or_default()),
        [
            ("task", json!(on)),
            ("name", json!(name)),
            ("state", json!(state)),
            ("root", json!(root.map(|(id, ..)| id))),
            ("root_state", json!(root.map(|(.., state)| state))),
        ],
    )
}

/// It waits for so many tasks beside those that were named.
pub(crate) fn further(count: u64) -> Condition {
    condition(
        ConditionKind::Dependency,
        true,
        format!("it waits for {} besides", words::tasks(count)),
        [("count", json!(count))],
    )
}

/// It waits for somebody to approve it, at most until `until`.
pub(crate) fn approval(prompt: Option<&str>, until: Option<Timestamp>, now: Timestamp) -> Condition {
    let asked = prompt.map(|prompt| format!(": “{prompt}”")).unwrap_or_default();
    condition(
        ConditionKind::Approval,
        true,
        format!("nobody has approved it yet{asked}{}", limit(until, now)),
        [("prompt", json!(prompt)), ("until", json!(until))],
    )
}

/// Somebody approved it.
pub(crate) fn approved(decided: &Decided) -> Condition {
    let why = decided.comment.as_ref().map(|comment| format!(": “{comment}”")).unwrap_or_default();
    condition(
        ConditionKind::Approval,
        false,
        format!("it was approved by {} at {}{why}", decided.by, words::instant(decided.at)),
        [("by", json!(decided.by)), ("at", json!(decided.at)), ("comment", json!(decided.comment))],
    )
}

/// It waits for a signal, at most until `until`.
pub(crate) fn signal(name: &str, until: Option<Timestamp>, now: Timestamp) -> Condition {
    condition(
        ConditionKind::Signal,
        true,
        format!("signal {name} has not arrived yet{}", limit(until, now)),
        [("signal", json!(name)), ("until", json!(until))],
    )
}

/// A signal that it waited for has come.
pub(crate) fn arrived(signal: &Arrived) -> Condition {
    let Arrived { name, at, by } = signal;
    condition(
        ConditionKind::Signal,
        false,
        format!("signal {name} came from {by} at {}", words::instant(*at)),
        [("signal", json!(name)), ("by", json!(by)), ("at", json!(at))],
    )
}

/// Its time comes at `at`.
pub(crate) fn due(at: Timestamp, now: Timestamp) -> Condition {
    condition(
        ConditionKind::Due,
        at > now,
        format!("it is due in {}, at {}", words::until(at, now), words::instant(at)),
        [("at", json!(at))],
    )
}

/// Attempt `next` of `max_attempts` follows at `at`, as `last` was how the one before ended.
pub(crate) fn backoff(
    at: Timestamp,
    now: Timestamp,
    next: i32,
    max_attempts: i32,
    last: Option<&Outcome>,
) -> Condition {
    let ended = last.map(|last| format!("the last attempt {last}; ")).unwrap_or_default();
    condition(
        ConditionKind::Backoff,
        at > now,
        format!(
            "{ended}attempt {next} of {max_attempts} follows in {}, at {}",
            words::until(at, now),
            words::instant(at)
        ),
        [
            ("at", json!(at)),
            ("attempt", json!(next)),
            ("max_attempts", json!(max_attempts)),
            ("outcome", json!(last)),
        ],
    )
}

/// A node holds it.
pub(crate) fn held_by(node: &str, attempt: i32, since: Timestamp, lease_until: Timestamp) -> Condition {
    condition(
        ConditionKind::HeldBy,
        false,
        format!(
            "node {node} holds attempt {attempt} of it since {}; its lease lasts until {}",
            words::instant(since),
            words::instant(lease_until)
        ),
        [
            ("node", json!(node)),
            ("attempt", json!(attempt)),
            ("since", json!(since)),
            ("lease_until", json!(lease_until)),
        ],
    )
}

/// So many tasks directly under it have not ended.
pub(crate) fn children(open: u64) -> Condition {
    let have = if open == 1 { "has" } else { "have" };
    condition(
        ConditionKind::Children,
        true,
        format!("{} under it {have} not ended", words::tasks(open)),
        [("open", json!(open))],
    )
}

/// Somebody asked to cancel it.
pub(crate) fn cancel_requested(at: Option<Timestamp>, reason: Option<&str>) -> Condition {
    let when = at.map(|at| format!(" at {}", words::instant(at))).unwrap_or_default();
    let why = reason.map(|reason| format!(": “{reason}”")).unwrap_or_default();
    condition(
        ConditionKind::CancelRequested,
        true,
        format!("somebody asked to cancel it{when}{why}"),
        [("at", json!(at)), ("reason", json!(reason))],
    )
}

/// It has ended.
pub(crate) fn ended(state: State, at: Timestamp, reason: Option<&str>) -> Condition {
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    condition(
        ConditionKind::Ended,
        true,
        format!("it ended as {state} at {}{why}", words::instant(at)),
        [("state", json!(state)), ("at", json!(at)), ("reason", json!(reason))],
    )
}

fn limit(until: Option<Timestamp>, now: Timestamp) -> String {
    until.map(|until| format!(" ({} left)", words::until(until, now))).unwrap_or_default()
}
