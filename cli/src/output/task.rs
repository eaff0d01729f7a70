//! One task in full, and how it ended, for people.

use std::time::Duration;

use jiff::Timestamp;
use orca_proto::signal::Arrived;
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
    for id in &task.retried_as {
        field("retried as", &id.to_string())?;
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
    // What has come is told by when it came, not by how long it would have been waited for.
    asked.wait_for.retain(|wait| !task.signals.iter().any(|come| come.name == wait.signal));
    spec::fields(&asked, &field)?;
    for come in &task.signals {
        field("signal", &escape::line(&arrived(come, now)))?;
    }
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
    for image in ran(task) {
        field("ran", &escape::line(&image))?;
    }
    attempts(output, task, now)?;
    if let Some(result) = &task.result {
        output.line(&output.paint(Style::Faint, "result"))?;
        output.json(result)?;
    }
    Ok(())
}

/// Exactly which image ran; from which attempt on, where a name came to stand for another.
fn ran(task: &Task) -> Vec<String> {
    let mut known: Vec<(i32, &str)> = Vec::new();
    for attempt in &task.attempts {
        if let Some(image) = attempt.image.as_deref()
            && known.last().is_none_or(|(_, last)| *last != image)
        {
            known.push((attempt.number, image));
        }
    }
    match known.as_slice() {
        [(_, image)] => vec![(*image).to_owned()],
        known => known.iter().map(|(number, image)| format!("{image} (from attempt {number})")).collect(),
    }
}

fn arrived(come: &Arrived, now: Timestamp) -> String {
    format!("{} came from {} {}", come.name, come.by, instant(come.at, now))
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
        let all = time::between(summary.created_at, finished);
        format!(" after {}{}", time::fine(all), apart(task, all))
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

/// How much of a task's time it ran, and how much it waited. Of what has tasks under it neither says anything.
fn apart(task: &Task, all: Duration) -> String {
    if !task.summary.children.is_empty() {
        return String::new();
    }
    let ran: Duration = task
        .attempts
        .iter()
        .filter_map(|attempt| Some(time::between(attempt.started_at?, attempt.ended_at?)))
        .sum();
    if ran.is_zero() {
        // Programs that work without containers need not say when they started.
        let started = task.summary.started_at.is_some() || !task.attempts.is_empty();
        return if started { "" } else { " without a start" }.to_owned();
    }
    format!(" (ran {}, waited {})", time::fine(ran), time::fine(all.saturating_sub(ran)))
}

/// What a list's last column says of a task: progress, the tasks under it, what it waits for, or why it ended as it did.
pub(crate) fn note(summary: &TaskSummary, now: Timestamp) -> String {
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
    if summary.state == State::Blocked {
        return "waits for the tasks it depends on".to_owned();
    }
    if summary.state == State::Scheduled
        && let Some(at) = summary.run_at
    {
        let due = format!("due {}", time::relative(at, now));
        return summary.outcome.as_ref().map_or_else(|| due.clone(), |outcome| format!("{outcome}, {due}"));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(state: &str, rest: serde_json::Value) -> Task {
        let mut task = serde_json::json!({
            "summary": {
                "id": "0192f0c4-0000-7000-8000-000000000001", "name": "count", "role": "work", "queue": "default",
                "priority": 0, "state": state, "attempt": 1, "max_attempts": 3, "created_at": "2026-01-01T00:00:00Z"
            },
            "spec": {"container": {"image": "debian"}}, "attempts": []
        });
        for (key, value) in rest.as_object().unwrap() {
            match key.as_str() {
                "attempts" => task["attempts"] = value.clone(),
                key => task["summary"][key] = value.clone(),
            }
        }
        serde_json::from_value(task).unwrap()
    }

    #[test]
    fn a_list_says_what_a_task_waits_for() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let note = |state: &str, rest: serde_json::Value| note(&read(state, rest).summary, now);
        let due = "2026-01-01T01:59:00Z";
        let failed = serde_json::json!({"run_at": due, "outcome": {"kind": "failed", "exit_code": 3}});
        assert_eq!(note("scheduled", failed), "exited with code 3, due in 59m");
        assert_eq!(note("scheduled", serde_json::json!({"run_at": due})), "due in 59m");
        let gates = serde_json::json!({"waits_for": ["approval", "go"]});
        assert_eq!(note("blocked", gates), "waits for approval, go");
        assert_eq!(note("blocked", serde_json::json!({})), "waits for the tasks it depends on");
        assert_eq!(note("ready", serde_json::json!({})), "");
    }

    #[test]
    fn an_image_is_told_once_unless_its_name_came_to_stand_for_another() {
        let attempt = |number: i32, image: Option<&str>| {
            serde_json::json!({
                "number": number, "token": number, "node": "0192f0c4-0000-7000-8000-000000000002", "node_name": "w",
                "granted_at": "2026-01-01T00:00:16Z", "image": image
            })
        };
        let task = |images: &[Option<&str>]| {
            let attempts: Vec<_> = (1..).zip(images).map(|(number, image)| attempt(number, *image)).collect();
            ran(&read("failed", serde_json::json!({ "attempts": attempts })))
        };
        assert_eq!(task(&[None, Some("a@1"), Some("a@1")]), ["a@1"]);
        assert_eq!(task(&[Some("a@1"), None, Some("a@2")]), ["a@1 (from attempt 1)", "a@2 (from attempt 3)"]);
        assert!(task(&[None]).is_empty());
    }

    #[test]
    fn the_time_that_a_task_waited_is_told_apart_from_the_time_it_ran() {
        let attempt = serde_json::json!({
            "number": 1, "token": 1, "node": "0192f0c4-0000-7000-8000-000000000002", "node_name": "w",
            "granted_at": "2026-01-01T00:00:16Z", "started_at": "2026-01-01T00:00:16.8Z",
            "ended_at": "2026-01-01T00:00:16.9Z"
        });
        let all = Duration::from_millis(16_900);
        let ran = read("failed", serde_json::json!({"attempts": [attempt]}));
        assert_eq!(apart(&ran, all), " (ran 0.1s, waited 16.8s)");
        assert_eq!(apart(&read("expired", serde_json::json!({})), all), " without a start");
        let goal = read("failed", serde_json::json!({"attempts": [attempt], "children": {"failed": 1}}));
        assert_eq!(apart(&goal, all), "");
    }
}
