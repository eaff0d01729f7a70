//! Schedules: set, looked at, paused and forgotten. What they enqueue is in [`run`].

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::page::Page;
use orca_proto::plan::Graph;
use orca_proto::problem::{FieldError, Kind};
use orca_proto::queue::{Pause, Paused};
use orca_proto::schedule::{LastRun, Schedule, ScheduleFilter, ScheduleSpec};
use orca_proto::spec::{NewTask, is_valid_name};
use sqlx::PgConnection;
use uuid::Uuid;

use super::graph::{Place, prepare};
use super::lines::Lines;
use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::schedule::{self, Next, Stored};
use crate::db::{Time, from_json, session, to_json};
use crate::schedule::calendar::Calendar;
use crate::schedule::check::{calendar, check};

mod run;

/// Schedules that one namespace may have.
const MOST: i64 = 10_000;
/// Specs on one page of the list, in bytes.
const PAGE_BYTES: i64 = 8 << 20;
/// Runs to come that are told.
const TOLD: usize = 5;

impl App {
    /// Makes a schedule, or changes what one enqueues and when; answers it and whether it is new. What it has done, and
    /// whether it is paused, stays. A run that is due already, by a timing that stays the same, is not lost.
    ///
    /// # Errors
    /// `validation`; a schedule that would never run is refused too.
    pub async fn schedule_put(
        &self,
        who: &Principal,
        name: &str,
        spec: ScheduleSpec,
    ) -> Result<(Schedule, bool), Error> {
        if !is_valid_name(name) {
            return Err(Error::field("name", "must be 1 to 128 letters, digits or any of ._-"));
        }
        let now = session::now(&mut *self.0.pool.acquire().await?).await?;
        let (calendar, first) = check(&who.namespace, name, &spec, now).map_err(Error::validation)?;
        let (app, namespace, name) = (self.clone(), who.namespace.clone(), name.to_owned());
        self.spawned(async move {
            let text = to_json(&spec)?;
            let put = transaction!(app, |tx, _effects| {
                acceptable(tx, &app.0.lines, &namespace, &spec).await?;
                let known = schedule::lock(tx, &namespace, &name).await?;
                if known.is_none() && schedule::count(tx, &namespace).await? >= MOST {
                    let detail = format!("the namespace has {MOST} schedules already; delete some first");
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                let pending = known.as_ref().and_then(|known| pending(known, &spec));
                let run = pending.unwrap_or(first);
                let next = Next { run, due_at: calendar.due_at(run) };
                let (id, new) = schedule::put(tx, &namespace, &name, &text, next).await?;
                let artifacts: Vec<Uuid> = spec.task.artifacts.iter().map(|input| input.id.0).collect();
                schedule::keep(tx, id, &artifacts).await?;
                let stored = schedule::get(tx, &namespace, &name).await?.ok_or_else(Error::not_found)?;
                Ok((told(stored)?, new))
            })?;
            app.0.signals.schedules.notify_one();
            Ok(put)
        })
        .await
    }

    /// One schedule.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn schedule_get(&self, who: &Principal, name: &str) -> Result<Schedule, Error> {
        let mut connection = self.0.pool.acquire().await?;
        let stored = schedule::get(&mut connection, &who.namespace, searchable(name)?).await?;
        Ok(told(stored.ok_or_else(Error::not_found)?)?)
    }

    /// A page of schedules, by name.
    ///
    /// # Errors
    /// `validation` for a filter that makes no sense, or the database's.
    pub async fn schedule_list(
        &self,
        who: &Principal,
        filter: &ScheduleFilter,
    ) -> Result<Page<Schedule>, Error> {
        let limit = filter.limit.unwrap_or(limits::PAGE);
        if !(1..=limits::PAGE).contains(&limit) {
            return Err(Error::field("?limit", "must lie between 1 and 500"));
        }
        let after = filter.cursor.as_deref().unwrap_or_default();
        if filter.cursor.is_some() && !is_valid_name(after) {
            return Err(Error::field("?cursor", "is no cursor of this list; leave it out to begin anew"));
        }
        let mut connection = self.0.pool.acquire().await?;
        let stored =
            schedule::list(&mut connection, &who.namespace, after, i64::from(limit), PAGE_BYTES).await?;
        let mut next = stored.last().map(|last| last.name.clone());
        if let Some(last) = &next
            && schedule::list(&mut connection, &who.namespace, last, 1, 0).await?.is_empty()
        {
            next = None;
        }
        drop(connection);
        let items = stored.into_iter().map(told).collect::<sqlx::Result<Vec<Schedule>>>()?;
        Ok(Page { items, next })
    }

    /// Forgets a schedule. The tasks of its runs stay as they are.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn schedule_delete(&self, who: &Principal, name: &str) -> Result<(), Error> {
        let (app, namespace, name) = (self.clone(), who.namespace.clone(), searchable(name)?.to_owned());
        self.spawned(async move {
            transaction!(app, |tx, _effects| {
                let id = schedule::delete(tx, &namespace, &name).await?.ok_or_else(Error::not_found)?;
                Ok(schedule::keep(tx, id, &[]).await?)
            })
        })
        .await
    }

    /// Pauses a schedule: once this is answered, no run of it is enqueued but by hand. One that is paused stays as it is.
    ///
    /// # Errors
    /// `not-found`; `validation`.
    pub async fn schedule_pause(&self, who: &Principal, name: &str, pause: Pause) -> Result<Schedule, Error> {
        let mut errors = Vec::new();
        pause.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let (app, who, name) = (self.clone(), who.clone(), searchable(name)?.to_owned());
        self.spawned(async move {
            transaction!(app, |tx, _effects| {
                let reason = pause.reason.as_deref();
                schedule::pause(tx, &who.namespace, &name, &who.subject, reason).await?;
                let stored = schedule::get(tx, &who.namespace, &name).await?.ok_or_else(Error::not_found)?;
                Ok(told(stored)?)
            })
        })
        .await
    }

    /// Ends a schedule's pause. Runs that were missed meanwhile are made up as far back as its `catch_up` says.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn schedule_resume(&self, who: &Principal, name: &str) -> Result<Schedule, Error> {
        let (app, namespace, name) = (self.clone(), who.namespace.clone(), searchable(name)?.to_owned());
        self.spawned(async move {
            let resumed = transaction!(app, |tx, _effects| {
                schedule::resume(tx, &namespace, &name).await?;
                let stored = schedule::get(tx, &namespace, &name).await?.ok_or_else(Error::not_found)?;
                Ok(told(stored)?)
            })?;
            app.0.signals.schedules.notify_one();
            Ok(resumed)
        })
        .await
    }
}

/// A name that may stand in a statement; what cannot be one names nothing.
fn searchable(name: &str) -> Result<&str, Error> {
    if is_valid_name(name) { Ok(name) } else { Err(Error::not_found()) }
}

/// The run that the schedule waits for, where the new spec has it too.
fn pending(known: &Stored, spec: &ScheduleSpec) -> Option<Timestamp> {
    // One that cannot be read any more is replaced as a whole.
    let old: ScheduleSpec = from_json(&known.spec, "schedules.spec").ok()?;
    let same = (&old.cron, &old.timezone, old.starting, old.ending)
        == (&spec.cron, &spec.timezone, spec.starting, spec.ending);
    known.next_run.filter(|_| same).map(|run| run.0)
}

/// Whether a run could be enqueued now, by all that can be said without doing it.
async fn acceptable(
    connection: &mut PgConnection,
    lines: &Lines,
    namespace: &str,
    spec: &ScheduleSpec,
) -> Result<(), Error> {
    let place = Place { lines, namespace, parent: None, listed: false, answered: true };
    let graph = Graph { inside: vec![Vec::new()], outside: vec![Vec::new()] };
    let prepared = prepare(
        connection,
        &place,
        &[TaskId::new()],
        vec![NewTask { unique: None, ..spec.task.clone() }],
        &graph,
    )
    .await;
    prepared.map(drop).map_err(|error| match error {
        Error::Refused(mut problem) => {
            for FieldError { pointer, .. } in &mut problem.errors {
                *pointer = format!("/task{pointer}");
            }
            Error::Refused(problem)
        }
        other => other,
    })
}

/// A schedule's spec and calendar.
///
/// # Errors
/// [`Error::Internal`] if an earlier version wrote what this one cannot read.
fn understood(stored: &Stored) -> Result<(ScheduleSpec, Calendar), Error> {
    let spec: ScheduleSpec = from_json(&stored.spec, "schedules.spec")
        .map_err(|error| Error::Internal(format!("schedule {}: {error}", stored.name)))?;
    let calendar = calendar(&stored.namespace, &stored.name, &spec).map_err(|errors| {
        let told: Vec<String> =
            errors.iter().map(|error| format!("{} {}", error.pointer, error.detail)).collect();
        Error::Internal(format!("schedule {}: {}", stored.name, told.join("; ")))
    })?;
    Ok((spec, calendar))
}

/// A schedule as operators see it.
fn told(stored: Stored) -> sqlx::Result<Schedule> {
    let spec: ScheduleSpec = from_json(&stored.spec, "schedules.spec")?;
    let next = match (stored.next_run, stored.paused_at) {
        // A time zone that is gone must not hide the schedule.
        (Some(Time(run)), None) => calendar(&stored.namespace, &stored.name, &spec)
            .map(|calendar| std::iter::once(run).chain(calendar.runs_after(run)).take(TOLD).collect())
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    let last = match (stored.last_at, stored.last_task) {
        (Some(Time(at)), Some(task)) => Some(LastRun { at, task: TaskId(task) }),
        _ => None,
    };
    let (by, reason) = (stored.paused_by.unwrap_or_default(), stored.paused_reason);
    Ok(Schedule {
        name: stored.name,
        spec,
        paused: stored.paused_at.map(|Time(at)| Paused { at, by, reason }),
        next,
        last,
        created_at: stored.created_at.0,
        updated_at: stored.updated_at.0,
    })
}
