//! One task in full, and how it ended, for people.

use jiff::Timestamp;
use orca_proto::spec::Role;
use orca_proto::task::{State, Task, TaskSummary};

use super::table::{Rows, text};
use super::{Output, Style, escape, spec, time};
use crate::error::Failure;

/// Writes everything about `task`.
pub(crate) fn print(output: Output, task: &Task) -> Result<(), Failure> {
    let now = Timestamp::now();
    let summary = &task.summary;
    let field = |name: &str, value: &str| {
        output.line(&format!("{} {value}", output.paint(Style::Faint, &format!("{name:<11}"))))
    };
    output.line(&output.paint(Style::Strong, &escape::line(&summary.name)))?;
    field("id", &summary.id.to_string())?;
    field("state", &state_line(output, summary))?;
    if let Some(reason) = &summary.reason {
        field("reason", &escape::line(reason))?;
    }
    if let Some(progress) = &summary.progress {
        field("progress", &progress_line(progress.percent, progress.message.as_deref()))?;
    }
    if !summary.children.is_empty() {
        field("under it", &format!("{}: orca ls --parent {}", children_line(summary), summary.id))?;
    }
    for (name, id) in [("parent", summary.parent), ("retry of", task.retry_of)] {
        if let Some(id) = id {
            field(name, &id.to_string())?;
        }
    }
    if summary.role == Role::Plan {
        field("role", "plan (a goal)")?;
    }
    let group = summary.group.as_ref().map_or_else(String::new, |group| format!(", group {group}"));
    let queue = format!("{}{group} (priority {})", summary.queue, summary.priority);
    field("queue", &escape::line(&queue))?;
    if !summary.waits_for.is_empty() {
        field("waits for", &escape::line(&summary.waits_for.join(", ")))?;
    }
    let mut asked = task.spec.clone();
    if let Some(decided) = &task.approval {
        asked.approval = None;
        let how = if decided.approved { "approved" } else { "refused" };
        let why = decided.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
        let when = instant(decided.at, now);
        field("approval", &escape::line(&format!("{how} by {} {when}{why}", decided.by)))?;
    }
    spec::fields(&asked, &field)?;
    if !task.depends_on.is_empty() {
        let shown: Vec<String> = task.depends_on.iter().take(5).map(ToString::to_string).collect();
        let more = task.depends_on.len() - shown.len();
        let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
        field("depends on", &format!("{}{tail}", shown.join(", ")))?;
    }
    for (key, value) in &summary.labels {
        field("label", &escape::line(&format!("{key}={value}")))?;
    }
    for (key, value) in &task.spec.annotations {
        field("annotation", &escape::line(&format!("{key}={value}")))?;
    }
    if let Some(schedule) = &summary.schedule {
        field("schedule", &escape::line(schedule))?;
    }
    field("enqueued", &instant(summary.created_at, now))?;
    for (name, at) in [
        ("due", summary.run_at),
        ("deadline", summary.deadline),
        ("started", summary.started_at),
        ("finished", summary.finished_at),
    ] {
        if let Some(at) = at {
            field(name, &instant(at, now))?;
        }
    }
    attempts(output, task, now)?;
    if let Some(result) = &task.result {
        output.line(&output.paint(Style::Faint, "result"))?;
        output.json(result)?;
    }
    Ok(())
}

fn attempts(output: Output, task: &Task, now: Timestamp) -> Result<(), Failure> {
    if task.attempts.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new(output, &["ATTEMPT", "TOKEN", "NODE", "GRANTED", "RAN", "OUTCOME"]);
    for attempt in &task.attempts {
        let ran = attempt.started_at.map_or_else(
            || "-".to_owned(),
            |started| time::fine(time::between(started, attempt.ended_at.unwrap_or(now))),
        );
        let outcome = match (&attempt.outcome, attempt.ended_at) {
            (Some(outcome), _) => outcome.to_string(),
            (None, None) => "running".to_owned(),
            (None, Some(_)) => "-".to_owned(),
        };
        rows.add(vec![
            text(attempt.number.to_string()),
            text(attempt.token.to_string()),
            text(&attempt.node_name),
            text(time::relative(attempt.granted_at, now)),
            text(ran),
            text(outcome),
        ]);
    }
    rows.print("")
}

/// Says on standard error how a task ended.
pub(crate) fn remark_end(output: Output, task: &Task) {
    let summary = &task.summary;
    let took = summary.finished_at.map_or_else(String::new, |finished| {
        format!(" after {}", time::fine(time::between(summary.created_at, finished)))
    });
    let mut line = format!("{}: {}{took}", escape::line(&summary.name), summary.state);
    if summary.state != State::Succeeded {
        let reason = summary.reason.clone().or_else(|| summary.outcome.as_ref().map(ToString::to_string));
        if let Some(reason) = reason {
            line.push_str(": ");
            line.push_str(&escape::line(&reason));
        }
    }
    output.remark(&line);
}

/// What a list's last column says of a task: progress, the tasks under it, or why it ended as it did.
pub(crate) fn note(summary: &TaskSummary) -> String {
    if summary.state == State::Running
        && let Some(progress) = &summary.progress
    {
        return progress_line(progress.percent, progress.message.as_deref());
    }
    if !summary.state.is_terminal() && summary.cancel_requested {
        return "cancel requested".to_owned();
    }
    if !summary.state.is_terminal() && !summary.children.is_empty() {
        return children_line(summary);
    }
    if !summary.waits_for.is_empty() && !summary.state.is_terminal() {
        return format!("waits for {}", summary.waits_for.join(", "));
    }
    summary.reason.clone().unwrap_or_default()
}

/// How many of the tasks under this one have ended, and how many there are.
pub(crate) fn children_counts(summary: &TaskSummary) -> (u64, u64) {
    summary.children.iter().fold((0, 0), |(ended, all), (state, count)| {
        let count = u64::try_from(*count).unwrap_or(0);
        (if state.is_terminal() { ended + count } else { ended }, all + count)
    })
}

fn children_line(summary: &TaskSummary) -> String {
    let (ended, all) = children_counts(summary);
    let states: Vec<String> =
        summary.children.iter().map(|(state, count)| format!("{count} {state}")).collect();
    format!("{ended} of {all} ended ({})", states.join(", "))
}

fn progress_line(percent: Option<f64>, message: Option<&str>) -> String {
    let percent = percent.map_or_else(String::new, |percent| format!("{percent:.0}% "));
    format!("{percent}{}", escape::line(message.unwrap_or_default())).trim_end().to_owned()
}

fn state_line(output: Output, summary: &TaskSummary) -> String {
    let cancel =
        if summary.cancel_requested && !summary.state.is_terminal() { ", cancel requested" } else { "" };
    format!(
        "{} (attempt {} of {}{cancel})",
        output.state(summary.state),
        summary.attempt,
        summary.max_attempts
    )
}

fn instant(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({at:.0})", time::relative(at, now))
}
