//! Schedules: tasks that are enqueued again and again, by a cron expression in a time zone.
//!
//! Which instants an expression means, and whether it ever fires, only the coordinator says; what is checked here are the
//! fields by themselves.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::duration::Span;
use crate::ids::TaskId;
use crate::instant;
use crate::limits;
use crate::problem::FieldError;
use crate::queue::Paused;
use crate::spec::{NewTask, check};

/// What a run's program finds in its environment, beside what every task's does.
pub mod env {
    /// The name of the schedule.
    pub const SCHEDULE: &str = "ORCA_SCHEDULE";
    /// The instant that the run is for, in RFC 3339; for a run by hand, when it was asked for.
    pub const RUN_AT: &str = "ORCA_RUN_AT";
}

/// What to enqueue, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Minute, hour, day of month, month, day of week, with seconds in front where there are six; or `@hourly`, `@daily`,
    /// `@weekly`, `@monthly`, `@yearly`. One that never fires is refused.
    pub cron: String,
    /// The IANA time zone that the expression is meant in, such as `Europe/Berlin`.
    #[serde(default = "utc", skip_serializing_if = "is_utc")]
    pub timezone: String,
    /// Each run comes later by a part of this, the same for the same run; none unless told.
    #[serde(default, skip_serializing_if = "is_none")]
    pub jitter: Span,
    /// What happens when the run before has not ended.
    #[serde(default, skip_serializing_if = "is_skip")]
    pub overlap: Overlap,
    /// No run before this instant.
    #[serde(default, deserialize_with = "instant::perhaps", skip_serializing_if = "Option::is_none")]
    pub starting: Option<Timestamp>,
    /// No run after this instant.
    #[serde(default, deserialize_with = "instant::perhaps", skip_serializing_if = "Option::is_none")]
    pub ending: Option<Timestamp>,
    /// Runs missed while no coordinator was there, or while paused, are made up if no older than this; 1 hour unless told.
    #[serde(default = "an_hour", skip_serializing_if = "is_an_hour")]
    pub catch_up: Span,
    /// What each run enqueues; without `key`, `depends_on`, `run_at`, `delay` and `deadline`.
    pub task: NewTask,
}

/// What happens when it is time for a run and the one before has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// This run is left out.
    #[default]
    Skip,
    /// This run waits until the one before has ended, however that ends.
    Queue,
    /// The run before is cancelled.
    Replace,
}

impl Overlap {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Replace => "replace",
        }
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

fn is_utc(timezone: &str) -> bool {
    timezone == "UTC"
}

const fn an_hour() -> Span {
    Span::secs(3_600)
}

fn is_an_hour(span: &Span) -> bool {
    *span == an_hour()
}

fn is_none(span: &Span) -> bool {
    *span == Span::default()
}

fn is_skip(overlap: &Overlap) -> bool {
    *overlap == Overlap::Skip
}

impl ScheduleSpec {
    /// A schedule for `task` at `cron`, with every default.
    #[must_use]
    pub fn new(cron: impl Into<String>, task: NewTask) -> Self {
        Self {
            cron: cron.into(),
            timezone: utc(),
            jitter: Span::default(),
            overlap: Overlap::Skip,
            starting: None,
            ending: None,
            catch_up: an_hour(),
            task,
        }
    }

    /// Checks every field against its documented range and appends what is wrong to `errors`. Whether the expression is one,
    /// whether it ever fires and whether the time zone exists is the coordinator's to say.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        let Self { cron, timezone, jitter, overlap: _, starting, ending, catch_up, task } = self;
        check::text(cron, "/cron", limits::NAME, errors);
        if cron.trim().is_empty() {
            errors.push(FieldError::new("/cron", "must not be empty; such as `0 3 * * *` or @daily"));
        }
        check::text(timezone, "/timezone", limits::NAME, errors);
        if timezone.is_empty() {
            errors.push(FieldError::new("/timezone", "must not be empty; such as Europe/Berlin or UTC"));
        }
        check::span(*jitter, "/jitter", errors);
        check::span(*catch_up, "/catch_up", errors);
        check::instant(*starting, "/starting", errors);
        check::instant(*ending, "/ending", errors);
        if let (Some(starting), Some(ending)) = (starting, ending)
            && ending <= starting
        {
            errors.push(FieldError::new("/ending", "must be later than /starting"));
        }
        task.validate("/task", errors);
        let mut misplaced = |given: bool, field: &str, detail: &str| {
            if given {
                errors.push(FieldError::new(format!("/task/{field}"), detail));
            }
        };
        misplaced(task.key.is_some(), "key", "has no meaning here: each run is enqueued alone");
        misplaced(!task.depends_on.is_empty(), "depends_on", "cannot be the same tasks for every run");
        misplaced(task.run_at.is_some(), "run_at", "is the schedule's to say");
        misplaced(task.delay.is_some(), "delay", "is the schedule's to say");
        misplaced(
            task.deadline.is_some(),
            "deadline",
            "cannot be one instant for every run; see timeouts.schedule_to_start",
        );
    }
}

/// A schedule and what it has done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Schedule {
    /// Its name: letters, digits, `.`, `_`, `-`; at most 128 bytes.
    pub name: String,
    /// What it enqueues, and when.
    pub spec: ScheduleSpec,
    /// Present while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Its next runs, soonest first; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<Timestamp>,
    /// Its latest run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRun>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its spec was last set.
    pub updated_at: Timestamp,
}

/// The latest run of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LastRun {
    /// The instant it was for.
    pub at: Timestamp,
    /// The task it enqueued.
    pub task: TaskId,
}

/// The query of `GET /v1/schedules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleFilter {
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Schedules per page; 1 to 500, 500 unless told. A page of large specs has fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// `POST /v1/schedules/{name}/backfills`: enqueues the runs of a window that has passed, oldest first; at most 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// From this instant on.
    #[serde(deserialize_with = "instant::given")]
    pub from: Timestamp,
    /// Up to this instant, itself included; not in the future.
    #[serde(deserialize_with = "instant::given")]
    pub to: Timestamp,
}

impl Backfill {
    /// Checks every field against its documented range and appends what is wrong to `errors`. Whether `to` has passed is the
    /// coordinator's to say.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        check::instant(Some(self.from), "/from", errors);
        check::instant(Some(self.to), "/to", errors);
        if self.to < self.from {
            errors.push(FieldError::new("/to", "must not be earlier than /from"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rest: serde_json::Value) -> Vec<String> {
        let mut spec =
            serde_json::json!({ "cron": "@daily", "task": { "container": { "image": "debian" } } });
        spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let spec: ScheduleSpec = serde_json::from_value(spec).unwrap();
        let mut errors = Vec::new();
        spec.validate(&mut errors);
        errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn a_schedule_with_only_an_expression_and_a_task_is_valid_and_written_as_such() {
        assert_eq!(faults(serde_json::json!({})), Vec::<String>::new());
        let text = serde_json::to_string(&ScheduleSpec::new("@daily", NewTask::new("x"))).unwrap();
        assert_eq!(text, r#"{"cron":"@daily","task":{"container":{"image":"x"}}}"#);
        let spec: ScheduleSpec = serde_json::from_str(&text).unwrap();
        assert_eq!(spec, ScheduleSpec::new("@daily", NewTask::new("x")));
    }

    #[test]
    fn each_bad_field_is_named_and_what_only_a_single_task_can_say_is_refused() {
        assert_eq!(
            faults(serde_json::json!({
                "cron": " ", "timezone": "", "jitter": "367d", "catch_up": "9000d",
                "starting": "2030-01-01T00:00:00Z", "ending": "2030-01-01T00:00:00Z",
                "task": {
                    "key": "k", "depends_on": ["a"], "delay": "1s", "deadline": "2030-01-01T00:00:00Z",
                    "priority": 101, "container": { "image": "debian" }
                }
            })),
            [
                "/cron",
                "/timezone",
                "/jitter",
                "/catch_up",
                "/ending",
                "/task/priority",
                "/task/key",
                "/task/depends_on",
                "/task/delay",
                "/task/deadline"
            ]
        );
    }

    #[test]
    fn a_window_ends_after_it_begins() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let window = Backfill { from: at("2026-01-02T00:00:00Z"), to: at("2026-01-01T00:00:00Z") };
        let mut errors = Vec::new();
        window.validate(&mut errors);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].pointer, "/to");
    }
}
