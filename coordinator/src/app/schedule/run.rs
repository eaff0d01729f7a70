//! What schedules enqueue: the runs that are due, one by hand, and those of a window that has passed.
//!
//! The schedule's row is locked throughout, and what was enqueued is noted in the same transaction: however many
//! coordinators there are and whenever one goes down, a run that is due is enqueued once. An idempotency key of the
//! schedule's name and the run's instant holds even where a schedule was deleted and made again in between.
//!
//! Where runs may not overlap, a new one depends on the one before, and begins once that has ended in whatever way.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::plan::{Enqueued, Graph};
use orca_proto::problem::Kind;
use orca_proto::schedule::{Backfill, Overlap, ScheduleSpec, env};
use orca_proto::spec::{NewTask, OnDependencyFailure};
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use super::{searchable, understood};
use crate::app::cancel::cancel_level;
use crate::app::check::Check;
use crate::app::enqueue::{amend, fingerprint, take_key};
use crate::app::graph::{Place, prepare};
use crate::app::lines::Lines;
use crate::app::transaction::transaction;
use crate::app::{App, Error, Principal, quota};
use crate::db::apply::Effects;
use crate::db::schedule::{self, Next, Stored};
use crate::db::{Time, insert, millis, session, settlement, snapshot, task};
use crate::schedule::calendar::Calendar;
use crate::schedule::turn::{Turn, turn};

/// Runs of one backfill.
const BACKFILL: usize = 1_000;
/// When a run that was refused is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// An idempotency key and the fingerprint of its request.
type Key = (String, Vec<u8>);

impl App {
    /// The namespaces of which a schedule is due, those first whose has been due longest.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn schedules_due(&self) -> Result<Vec<String>, Error> {
        Ok(schedule::due(&mut *self.0.pool.acquire().await?).await?)
    }

    /// Looks at the schedule of a namespace that has been due longest; answers whether there was one.
    ///
    /// # Errors
    /// The database's, where it is away. A run that is refused, or for which it lacks something, is tried again a while later, so
    /// that no schedule holds up the others, and given up once it is too old.
    pub(crate) async fn schedule_turn(&self, namespace: &str) -> Result<bool, Error> {
        let (app, namespace) = (self.clone(), namespace.to_owned());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let Some(stored) = schedule::take_due(tx, &namespace).await? else { return Ok(false) };
                // What a refused run has already written must go, the lock and what is noted of it must not.
                let mut attempt = tx.begin().await?;
                let mut told = Effects::default();
                match fire(&mut attempt, &app.0.lines, &stored, &mut told).await {
                    Ok(()) => {
                        attempt.commit().await?;
                        *effects = told;
                    }
                    // Not this schedule's fault: all is undone, and done again.
                    Err(error) if error.is_contention() || error.is_away() => return Err(error),
                    Err(error) => {
                        attempt.rollback().await?;
                        let (schedule, namespace) = (&stored.name, &stored.namespace);
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(
                            schedule,
                            namespace,
                            %error,
                            cause,
                            "a scheduled run could not be enqueued; trying again"
                        );
                        schedule::postpone(tx, &stored, millis(AGAIN)).await?;
                    }
                }
                Ok(true)
            })
        })
        .await
    }

    /// Enqueues a run now, beside the schedule's own times and also while it is paused. What `overlap` says of its last run
    /// holds. A repeat under the same idempotency key answers the same task.
    ///
    /// # Errors
    /// `not-found`; `conflict` if the last run is open and `overlap` is `skip`; `idempotency-conflict`; whatever the task is
    /// refused for.
    pub async fn schedule_run(
        &self,
        who: &Principal,
        name: &str,
        idempotency_key: Option<&str>,
    ) -> Result<Enqueued, Error> {
        let name = searchable(name)?.to_owned();
        let key = operator_key(idempotency_key, "schedule run", &name)?;
        let (app, namespace) = (self.clone(), who.namespace.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let stored = schedule::lock(tx, &namespace, &name).await?.ok_or_else(Error::not_found)?;
                let (spec, _) = understood(&stored)?;
                let now = session::now(tx).await?;
                let last = open_run(tx, &stored).await?;
                let run = Runs { lines: &app.0.lines, stored: &stored, spec: &spec, last, key: key.as_ref() };
                Ok(run.enqueue(tx, &[now], effects).await?.into())
            })
        })
        .await
    }

    /// Enqueues the runs of a window that has passed, oldest first, each to begin once the one before has ended; whether
    /// they were enqueued before does not matter. A repeat under the same idempotency key answers the same tasks.
    ///
    /// # Errors
    /// `not-found`; `validation` if the window lies in the future, has no run or too many; `idempotency-conflict`; whatever
    /// the task is refused for.
    pub async fn schedule_backfill(
        &self,
        who: &Principal,
        name: &str,
        window: Backfill,
        idempotency_key: Option<&str>,
    ) -> Result<Enqueued, Error> {
        let name = searchable(name)?.to_owned();
        let mut errors = Vec::new();
        window.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let key = operator_key(idempotency_key, "schedule backfill", &(&name, &window))?;
        let (app, namespace) = (self.clone(), who.namespace.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let stored = schedule::lock(tx, &namespace, &name).await?.ok_or_else(Error::not_found)?;
                let (spec, calendar) = understood(&stored)?;
                if window.to > session::now(tx).await? {
                    return Err(Error::field(
                        "/to",
                        "lies in the future; a backfill is of a window that has passed",
                    ));
                }
                let runs = runs_within(&calendar, &window, stored.spec.len())?;
                let last = open_run(tx, &stored).await?;
                let behind = ScheduleSpec { overlap: Overlap::Queue, ..spec };
                let run =
                    Runs { lines: &app.0.lines, stored: &stored, spec: &behind, last, key: key.as_ref() };
                Ok(run.enqueue(tx, &runs, effects).await?.into())
            })
        })
        .await
    }
}

/// Enqueues what is due of a schedule, and notes what is next.
async fn fire(
    connection: &mut PgConnection,
    lines: &Lines,
    stored: &Stored,
    effects: &mut Effects,
) -> Result<(), Error> {
    let (spec, calendar) = understood(stored)?;
    let Some(Time(next)) = stored.next_run else { return Ok(()) };
    let now = session::now(connection).await?;
    let mut last = open_run(connection, stored).await?;
    let Turn { runs, skipped, missed, next } =
        turn(&calendar, spec.overlap, spec.catch_up.get(), next, now, last.is_some());
    let (name, namespace) = (stored.name.as_str(), stored.namespace.as_str());
    for at in runs {
        let unique = format!("schedule/{name}/{at}");
        let key = (unique.clone(), fingerprint("schedule", &unique)?);
        let run = Runs { lines, stored, spec: &spec, last, key: Some(&key) };
        let ids = run.enqueue(connection, &[at], effects).await?;
        if spec.overlap == Overlap::Queue {
            last = ids.last().copied();
        }
        tracing::info!(schedule = name, namespace, run = %at, tasks = ?ids, "a scheduled run was enqueued");
    }
    if let Some(run) = skipped {
        schedule::skipped(connection, stored, run).await?;
        tracing::info!(schedule = name, namespace, %run, "a scheduled run was skipped: the last has not ended");
    }
    if missed {
        tracing::warn!(
            schedule = name,
            namespace,
            "scheduled runs were missed and are too old to make up for"
        );
    }
    let next = next.map(|run| Next { run, due_at: calendar.due_at(run) });
    Ok(schedule::set_next(connection, stored, next).await?)
}

/// The schedule's last run, if it has not ended.
async fn open_run(connection: &mut PgConnection, stored: &Stored) -> Result<Option<TaskId>, Error> {
    let Some(last) = stored.open_task.map(TaskId) else { return Ok(None) };
    let state = task::state(connection, &stored.namespace, last).await?;
    Ok(state.filter(|state| !state.is_terminal()).map(|_| last))
}

/// The runs of a window, both ends included.
fn runs_within(calendar: &Calendar, window: &Backfill, spec_bytes: usize) -> Result<Vec<Timestamp>, Error> {
    let before = window.from.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(window.from);
    let runs = calendar.runs_after(before).take_while(|run| *run <= window.to);
    let runs: Vec<Timestamp> = runs.take(BACKFILL + 1).collect();
    if runs.is_empty() {
        return Err(Error::field("/from", "no run of the schedule lies between it and /to"));
    }
    if runs.len() > BACKFILL {
        let last = runs.get(BACKFILL - 1).copied().unwrap_or(window.to);
        let detail =
            format!("takes in more than {BACKFILL} runs; choose {last} or earlier, then go on from there");
        return Err(Error::field("/to", detail));
    }
    if spec_bytes.saturating_mul(runs.len()) > limits::PLAN_BODY {
        let most = (limits::PLAN_BODY / spec_bytes.max(1)).max(1);
        let detail =
            format!("takes in {} runs, which are too large for one request; at most {most} fit", runs.len());
        return Err(Error::field("/to", detail));
    }
    Ok(runs)
}

/// Runs of a schedule to enqueue; its row is locked.
struct Runs<'a> {
    lines: &'a Lines,
    stored: &'a Stored,
    spec: &'a ScheduleSpec,
    /// The last run, if it has not ended.
    last: Option<TaskId>,
    key: Option<&'a Key>,
}

impl Runs<'_> {
    /// Enqueues a task for each of these instants, each to begin after the one before has ended, and notes the last.
    async fn enqueue(
        &self,
        connection: &mut PgConnection,
        runs: &[Timestamp],
        effects: &mut Effects,
    ) -> Result<Vec<TaskId>, Error> {
        let namespace = self.stored.namespace.as_str();
        let ids: Vec<TaskId> = runs.iter().map(|_| TaskId::new()).collect();
        if let Some(before) = take_key(connection, namespace, self.key, &ids).await? {
            return Ok(before);
        }
        match (self.spec.overlap, self.last) {
            (Overlap::Replace, Some(last)) => replace(connection, namespace, last, effects).await?,
            (Overlap::Skip, Some(last)) => {
                let detail = format!(
                    "the last run, task {last}, has not ended, and the schedule skips runs that would overlap; wait for \
                     it, or cancel it"
                );
                return Err(Error::refused(Kind::Conflict, detail));
            }
            (Overlap::Queue, _) | (_, None) => {}
        }
        let outside = |first: bool| -> Vec<TaskId> { self.last.filter(|_| first).into_iter().collect() };
        let graph = Graph {
            inside: (0..runs.len()).map(|index| index.checked_sub(1).into_iter().collect()).collect(),
            outside: (0..runs.len()).map(|index| outside(index == 0)).collect(),
        };
        let tasks: Vec<NewTask> = runs.iter().map(|at| self.task(*at)).collect();
        let place =
            Place { lines: self.lines, namespace, parent: None, listed: runs.len() > 1, answered: false };
        let mut planned = prepare(connection, &place, &ids, tasks, &graph).await?;
        planned.tasks.iter_mut().for_each(|task| task.schedule = Some(self.stored.name.clone()));
        amend(connection, namespace, self.key, &planned).await?;
        quota::check(connection, namespace, planned.tasks.len(), &[]).await?;
        insert::tasks(connection, namespace, &planned.tasks, effects).await?;
        let ids = planned.ids;
        if let (Some(at), Some(id)) = (runs.last(), ids.last()) {
            schedule::ran(connection, self.stored, *at, *id).await?;
        }
        Ok(ids)
    }

    /// The task of the run at `at`: it finds in its environment which run it is.
    fn task(&self, at: Timestamp) -> NewTask {
        let mut task = self.spec.task.clone();
        task.name.get_or_insert_with(|| self.stored.name.clone());
        task.on_dependency_failure = OnDependencyFailure::Run;
        task.container.env.insert(env::SCHEDULE.to_owned(), self.stored.name.clone());
        task.container.env.insert(env::RUN_AT.to_owned(), at.to_string());
        task
    }
}

/// Cancels the run before, and all that is under it.
async fn replace(
    connection: &mut PgConnection,
    namespace: &str,
    last: TaskId,
    effects: &mut Effects,
) -> Result<(), Error> {
    settlement::lock(connection).await?;
    let found = snapshot::lock_one(connection, namespace, last).await?;
    let Some(found) = found.filter(|found| !found.snapshot.state.is_terminal()) else { return Ok(()) };
    cancel_level(connection, vec![found], Some("the schedule's next run replaces it"), effects).await?;
    // The next run may be to have the same one.
    Ok(effects.free_keys(connection).await?)
}

fn operator_key(key: Option<&str>, what: &str, request: &impl Serialize) -> Result<Option<Key>, Error> {
    let Some(key) = key else { return Ok(None) };
    let mut check = Check::default();
    check.idempotency_key(key, "Idempotency-Key");
    check.done()?;
    Ok(Some((format!("operator/{key}"), fingerprint(what, request)?)))
}
