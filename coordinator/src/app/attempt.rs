//! What a running attempt says of itself: started, progress, log lines, children, and what it depends on. All of it is
//! fenced: without the task's newest token, an unexpired lease and the credential that holds it, nothing changes.

use std::collections::HashMap;

use orca_proto::artifact::Artifact;
use orca_proto::attempt::{AttemptStart, Children, Dependencies, Dependency};
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::log::{LogAck, LogAppend, LogLine};
use orca_proto::node::LeaseRef;
use orca_proto::plan::Enqueued;
use orca_proto::problem::Kind;
use orca_proto::spec::OnChildFailure;
use orca_proto::task::{Progress, Step};
use sqlx::PgConnection;

use super::check::{Check, aside};
use super::enqueue::{amend, fingerprint, take_key};
use super::graph::{Place, check_list, prepare};
use super::transaction::transaction;
use super::{App, Error, Principal, quota};
use crate::db::apply::apply;
use crate::db::snapshot::{self, Locked};
use crate::db::{artifact, attempt, dependency, event, from_json, insert, lease, log, task, to_json, word};
use crate::lifecycle::{Event, transition};
use crate::sabotage::{Guard, without};

/// Bytes of a progress message.
const MESSAGE: usize = 1_024;
/// Bytes of an image's name with its digest.
const IMAGE: usize = 1_024;
/// What a log line takes beside its text, so that empty lines count too.
const LINE_OVERHEAD: usize = 32;
/// Artifacts told of with a task's dependencies.
const ARTIFACTS: i64 = 100_000;

/// Locks the attempt's task and makes sure that the lease stands.
///
/// # Errors
/// `lease-lost`: also for what the namespace does not have, which looks the same.
pub(crate) async fn fenced(
    connection: &mut PgConnection,
    who: &Principal,
    lease: LeaseRef,
) -> Result<Locked, Error> {
    let task = snapshot::lock_one(connection, &who.namespace, lease.task).await?;
    match task {
        Some(task)
            if task.lease() == lease
                && lease::hold(connection, lease, &who.namespace, &who.subject).await? =>
        {
            Ok(task)
        }
        _ => Err(Error::lease_lost()),
    }
}

async fn hold(connection: &mut PgConnection, who: &Principal, lease: LeaseRef) -> Result<(), Error> {
    let held = lease::hold(connection, lease, &who.namespace, &who.subject).await?;
    held.then_some(()).ok_or_else(Error::lease_lost)
}

impl App {
    /// The attempt's program was started.
    ///
    /// # Errors
    /// `validation`, `lease-lost`, or the database's.
    pub async fn attempt_start(
        &self,
        who: &Principal,
        lease: LeaseRef,
        start: AttemptStart,
    ) -> Result<(), Error> {
        let mut check = Check::default();
        check.text(start.image.as_deref().unwrap_or_default(), "/image", IMAGE);
        check.done()?;
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            transaction!(app, |tx, _effects| {
                hold(tx, &who, lease).await?;
                Ok(attempt::start(tx, lease, start.image.as_deref()).await?)
            })
        })
        .await
    }

    /// How far the attempt is. The last word is kept; an event tells of it at most once a second.
    ///
    /// # Errors
    /// `validation`, `lease-lost`, or the database's.
    pub async fn attempt_progress(
        &self,
        who: &Principal,
        lease: LeaseRef,
        progress: Progress,
    ) -> Result<(), Error> {
        let mut check = Check::default();
        if progress.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            check.fail("/percent", "must lie between 0 and 100");
        }
        check.text(progress.message.as_deref().unwrap_or_default(), "/message", MESSAGE);
        check.done()?;
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            let text = to_json(&progress)?;
            transaction!(app, |tx, effects| {
                // It is written to, and tasks come before the grants that hold them.
                task::lock_row(tx, &who.namespace, lease.task).await?;
                hold(tx, &who, lease).await?;
                effects.events = event::progress(tx, lease, &text).await?;
                Ok(())
            })
        })
        .await
    }

    /// Appends log lines: those that go on where the log ends. What was stored before is passed over, what comes after a
    /// gap is not taken; the answer says what is wanted next.
    ///
    /// # Errors
    /// `validation`, `lease-lost`, or the database's.
    pub async fn attempt_logs(
        &self,
        who: &Principal,
        lease: LeaseRef,
        lines: LogAppend,
    ) -> Result<LogAck, Error> {
        check_lines(&lines.lines)?;
        let (app, who) = (self.clone(), who.clone());
        let ack = self
            .spawned(async move {
                let shared = transaction!(app, |tx, _effects| {
                    hold(tx, &who, lease).await?;
                    append(tx, lease, &lines.lines, app.0.log_limit, false).await
                })?;
                if let Some(ack) = shared {
                    return Ok(ack);
                }
                let alone = transaction!(app, |tx, _effects| {
                    lease::lock_holding(tx, &[(lease.task.0, lease.token.0)].into()).await?;
                    hold(tx, &who, lease).await?;
                    append(tx, lease, &lines.lines, app.0.log_limit, true).await
                })?;
                alone.ok_or_else(|| Error::Internal("a grant that is locked is not".to_owned()))
            })
            .await?;
        self.0.signals.wake_log(lease.task);
        Ok(ack)
    }

    /// Enqueues tasks under the attempt's task. The same key in the same attempt answers the same ids.
    ///
    /// # Errors
    /// `validation`, `plan-invalid`, `idempotency-conflict`, `lease-lost`; `conflict` if the task is being cancelled or a
    /// task under it has failed it already.
    pub async fn attempt_children(
        &self,
        who: &Principal,
        lease: LeaseRef,
        children: Children,
    ) -> Result<Enqueued, Error> {
        let mut check = Check::default();
        check.idempotency_key(&children.idempotency_key, "/idempotency_key");
        if children.tasks.is_empty() {
            check.fail("/tasks", "must hold at least one task");
        }
        check.done()?;
        let now = self.0.clock.now();
        let (children, graph, hash) = aside(move || {
            let graph = check_list(&children.tasks, limits::BATCH_TASKS, now)?;
            let hash = fingerprint("children", &children)?;
            Ok((children, graph, hash))
        })
        .await?;
        let key = format!("attempt/{}/{}/{}", lease.task, lease.token, children.idempotency_key);
        let key = Some((key, hash));
        let ids: Vec<TaskId> = children.tasks.iter().map(|_| TaskId::new()).collect();
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let parent = fenced(tx, &who, lease).await?;
                if let Some(ids) = take_key(tx, &who.namespace, key.as_ref(), &ids).await? {
                    return Ok(Enqueued { ids, existing: Vec::new() });
                }
                if let Some(failure) = &parent.snapshot.child_failure
                    && parent.snapshot.on_child_failure == OnChildFailure::Fail
                {
                    let detail =
                        format!("a task under this one did not succeed, so it takes no more: {failure}");
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                let place = Place {
                    lines: &app.0.lines,
                    namespace: &who.namespace,
                    parent: Some(&parent),
                    listed: true,
                    answered: false,
                };
                let planned = prepare(tx, &place, &ids, children.tasks.clone(), &graph).await?;
                let tasks = i32::try_from(planned.tasks.len()).unwrap_or(i32::MAX);
                let change = transition(&parent.snapshot, Event::Spawned { tasks }).map_err(|_| {
                    Error::refused(
                        Kind::Conflict,
                        "the task is being cancelled, so it takes no tasks under it",
                    )
                })?;
                amend(tx, &who.namespace, key.as_ref(), &planned).await?;
                quota::check(tx, &who.namespace, planned.tasks.len(), &[]).await?;
                insert::tasks(tx, &who.namespace, &planned.tasks, effects).await?;
                apply(tx, &[(parent, change)], effects).await?;
                Ok(Enqueued { ids: planned.ids, existing: planned.existing })
            })
        })
        .await
    }

    /// What the attempt's task depended on; for a finish step, all the tasks of the goal's plans.
    ///
    /// # Errors
    /// `lease-lost`; `conflict` if the results together are larger than a plan's body may be.
    pub async fn attempt_dependencies(
        &self,
        who: &Principal,
        lease: LeaseRef,
    ) -> Result<Dependencies, Error> {
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            transaction!(app, |tx, _effects| {
                let task = fenced(tx, &who, lease).await?;
                let goal = task.parent.filter(|_| task.snapshot.step == Some(Step::Finish));
                let bytes = dependency::settled_bytes(tx, lease.task, goal).await?;
                if usize::try_from(bytes).unwrap_or(usize::MAX) > limits::PLAN_BODY {
                    let detail = format!(
                        "the results of its dependencies take {bytes} bytes together, more than 64 MiB; \
                         let them keep artifacts and return less"
                    );
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                let settled = dependency::settled(tx, lease.task, goal).await?;
                let ids: Vec<uuid::Uuid> = settled.iter().map(|task| task.id).collect();
                let mut artifacts: HashMap<TaskId, Vec<Artifact>> = HashMap::new();
                for artifact in artifact::of_tasks(tx, &ids, ARTIFACTS).await? {
                    if let Some(task) = artifact.task {
                        artifacts.entry(task).or_default().push(artifact);
                    }
                }
                let tasks = settled.into_iter().map(|task| dependency_of(task, &mut artifacts));
                Ok(Dependencies { tasks: tasks.collect::<Result<_, Error>>()? })
            })
        })
        .await
    }
}

fn dependency_of(
    task: dependency::Settled,
    artifacts: &mut HashMap<TaskId, Vec<Artifact>>,
) -> Result<Dependency, Error> {
    let id = TaskId(task.id);
    let state = word(&task.state, "tasks.state")?;
    let kept = artifacts.remove(&id).filter(|_| state == orca_proto::task::State::Succeeded);
    Ok(Dependency {
        id,
        key: task.key,
        name: task.name,
        state,
        reason: task.reason,
        result: task.result.as_deref().map(|text| from_json(text, "tasks.result")).transpose()?,
        artifacts: kept.unwrap_or_default(),
    })
}

/// Appends those lines that go on where the log ends. With the first that is dropped the attempt's end has more to tell, which
/// is noted in its grant: nothing is done then unless that is held `alone`, for two that share it could not both write to it.
async fn append(
    connection: &mut PgConnection,
    lease: LeaseRef,
    lines: &[LogLine],
    limit: i64,
    alone: bool,
) -> Result<Option<LogAck>, Error> {
    let mut extent = log::lock_extent(connection, lease).await?.ok_or_else(Error::lease_lost)?;
    let (mut taken, before) = (Vec::new(), extent.dropped);
    for line in lines {
        if line.seq < extent.next {
            continue;
        }
        if line.seq > extent.next && !without(Guard::LogContiguity) {
            break;
        }
        extent.next = line.seq + 1;
        let size = i64::try_from(line.text.len() + LINE_OVERHEAD).unwrap_or(i64::MAX);
        if extent.dropped > 0 || extent.bytes + size > limit {
            extent.dropped += 1;
        } else {
            extent.bytes += size;
            taken.push(line.clone());
        }
    }
    if extent.dropped > 0 && before == 0 {
        if !alone {
            return Ok(None);
        }
        lease::make_special(connection, &[lease]).await?;
    }
    log::append(connection, lease, &taken, &extent).await?;
    Ok(Some(LogAck { next_seq: extent.next }))
}

fn check_lines(lines: &[LogLine]) -> Result<(), Error> {
    let mut check = Check::default();
    if lines.len() > limits::LOG_LINES {
        check.fail("/lines", "has more than 5,000 entries");
    }
    for (index, line) in lines.iter().enumerate() {
        if line.seq < 0 {
            check.fail(format!("/lines/{index}/seq"), "must not be negative");
        }
        check.text(&line.text, &format!("/lines/{index}/text"), limits::LOG_LINE);
        check.date(line.at, format!("/lines/{index}/at"));
    }
    check.done()
}
