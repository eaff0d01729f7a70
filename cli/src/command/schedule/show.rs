//! Schedules for people.

use jiff::Timestamp;
use orca_proto::page::Page;
use orca_proto::schedule::{Schedule, ScheduleSpec};

use crate::command::queues::note;
use crate::error::Failure;
use crate::output::table::{Rows, text};
use crate::output::{Output, Style, escape, time};

/// Writes a page of schedules.
pub(super) fn list(page: &Page<Schedule>, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(page);
    }
    let now = Timestamp::now();
    let when = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| time::relative(at, now));
    let mut rows = Rows::new(output, &["NAME", "CRON", "ZONE", "NEXT", "LAST", "TASK", "NOTE"]);
    for schedule in &page.items {
        let next = if schedule.paused.is_some() { None } else { schedule.next.first().copied() };
        rows.add(vec![
            text(&schedule.name),
            text(&schedule.spec.cron),
            text(&schedule.spec.timezone),
            text(when(next)),
            text(when(schedule.last.map(|last| last.at))),
            text(schedule.spec.task.display_name()),
            text(note(schedule.paused.as_ref())),
        ]);
    }
    rows.print("no schedules: `orca schedule set` makes one")
}

/// Writes a schedule in full.
pub(super) fn one(schedule: &Schedule, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(schedule);
    }
    let now = Timestamp::now();
    let field = |name: &str, value: &str| {
        output.line(&format!("{} {}", output.paint(Style::Faint, &format!("{name:<9}")), escape::line(value)))
    };
    let instant = |at: Timestamp| format!("{} ({at:.0})", time::relative(at, now));
    let Schedule { name, spec, paused, next, last, created_at: _, updated_at } = schedule;
    let ScheduleSpec { cron, timezone, jitter, overlap, starting, ending, catch_up, task } = spec;
    output.line(&output.paint(Style::Strong, &escape::line(name)))?;
    if let Some(paused) = paused {
        field("state", &note(Some(paused)))?;
    }
    field("cron", &format!("{cron} ({timezone})"))?;
    field("overlap", overlap.as_str())?;
    if !jitter.get().is_zero() {
        field("jitter", &jitter.to_string())?;
    }
    field("catch-up", &catch_up.to_string())?;
    for (name, at) in [("starting", starting), ("ending", ending)] {
        if let Some(at) = at {
            field(name, &instant(*at))?;
        }
    }
    field("task", &format!("{} ({})", task.display_name(), task.container.image))?;
    field("set", &instant(*updated_at))?;
    if let Some(last) = last {
        field("last", &format!("{} as {}", instant(last.at), last.task))?;
    }
    for (index, at) in next.iter().enumerate() {
        field(if index == 0 { "next" } else { "" }, &instant(*at))?;
    }
    Ok(())
}
