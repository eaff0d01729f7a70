//! Consequences of an end: dependents are let go or skipped, parents learn that a task under them ended, goals come to
//! their finish step and their result.
//!
//! Whoever ends a task only notes that it did, in the same transaction. This settler takes the notes in batches, one
//! settler at a time over all coordinators: so nothing it locks can be locked the other way round, and a task with
//! 100,000 dependents, or a goal with 100,000 tasks, is settled by a few statements.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use orca_proto::ids::TaskId;
use orca_proto::task::State;
use sqlx::PgConnection;

use crate::app::transaction::transaction;
use crate::app::{App, Error, cancel_under, describe};
use crate::db::apply::{Effects, apply};
use crate::db::settlement::{self, Batch, Ended};
use crate::db::snapshot::{self, Locked};
use crate::lifecycle::{Change, Event, Finish, transition};

/// Notes in one transaction.
const BATCH: i64 = 2_000;
/// Waiting tasks that one turn of the repair looks at.
const REPAIRS: i64 = 100;

/// Settles until there is nothing left.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    while !app.0.shutdown.is_cancelled() && turn(app).await? {}
    Ok(())
}

/// Waiting tasks that nobody settled: there should never be one.
pub(crate) async fn repair(app: &App) -> Result<(), Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                settlement::lock(tx).await?;
                let repaired = settlement::repair(tx, REPAIRS).await?;
                if repaired > 0 {
                    effects.unsettled = true;
                    tracing::error!(
                        tasks = repaired,
                        "waiting tasks had nothing open under them; settling them again"
                    );
                }
                Ok(())
            })
        })
        .await
}

async fn turn(app: &App) -> Result<bool, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                settlement::lock(tx).await?;
                let batch = settlement::take(tx, BATCH).await?;
                if batch.is_empty() {
                    return Ok(false);
                }
                settle(tx, &batch, effects).await?;
                Ok(true)
            })
        })
        .await
}

async fn settle(connection: &mut PgConnection, batch: &Batch, effects: &mut Effects) -> Result<(), Error> {
    dependents(connection, &batch.ended, effects).await?;
    let released = parents(connection, &batch.ended, effects).await?;
    release(connection, &released, effects).await?;
    if !batch.cancel_children.is_empty() {
        let reason = "a task beside it, or the one above it, did not succeed";
        cancel_under(connection, &batch.cancel_children, reason, effects).await?;
    }
    Ok(())
}

async fn dependents(
    connection: &mut PgConnection,
    ended: &[Ended],
    effects: &mut Effects,
) -> Result<(), Error> {
    let ids: Vec<TaskId> = ended.iter().map(|task| task.id).collect();
    let waiting = settlement::dependents(connection, &ids).await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let failed: HashMap<TaskId, Arc<str>> = ended
        .iter()
        .filter(|task| task.state != State::Succeeded)
        .map(|task| (task.id, describe(&task.name, task.state, task.reason.as_deref()).into()))
        .collect();
    let doomed = doomed(connection, &failed).await?;
    let ids: BTreeSet<TaskId> = waiting.keys().chain(doomed.keys()).copied().collect();
    let ids: Vec<TaskId> = ids.into_iter().collect();
    let mut changes = Vec::new();
    for task in snapshot::lock(connection, &ids).await? {
        let needs = waiting.get(&task.id).map_or(&[][..], Vec::as_slice);
        let cause = needs.iter().find_map(|id| failed.get(id)).or_else(|| doomed.get(&task.id));
        let failure = cause.map(|cause| cause.to_string());
        let event = Event::DependenciesEnded { ended: count(needs.len()), failure };
        // Refused where it was cancelled or skipped meanwhile: then nothing is left to do.
        if let Ok(change) = transition(&task.snapshot, event) {
            changes.push((task, change));
        }
    }
    Ok(apply(connection, &changes, effects).await?)
}

/// What is skipped because of these failures, near and far: for each task the failure that it goes back to.
async fn doomed(
    connection: &mut PgConnection,
    failed: &HashMap<TaskId, Arc<str>>,
) -> Result<HashMap<TaskId, Arc<str>>, Error> {
    if failed.is_empty() {
        return Ok(HashMap::new());
    }
    let mut ids: Vec<TaskId> = failed.keys().copied().collect();
    let doomed = settlement::doomed(connection, &ids).await?;
    if doomed.is_empty() {
        return Ok(HashMap::new());
    }
    ids.extend(&doomed);
    let doomed: HashSet<TaskId> = doomed.into_iter().collect();
    let mut needed_by: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for (task, needs) in settlement::dependents(connection, &ids).await? {
        if doomed.contains(&task) {
            needs.into_iter().for_each(|id| needed_by.entry(id).or_default().push(task));
        }
    }
    let mut causes: HashMap<TaskId, Arc<str>> = HashMap::new();
    let mut next: Vec<(TaskId, Arc<str>)> =
        failed.iter().map(|(id, cause)| (*id, Arc::clone(cause))).collect();
    while let Some((id, cause)) = next.pop() {
        for task in needed_by.remove(&id).unwrap_or_default() {
            causes.entry(task).or_insert_with(|| Arc::clone(&cause));
            next.push((task, Arc::clone(&cause)));
        }
    }
    Ok(causes)
}

/// Tells parents; answers the finish steps that may now run.
async fn parents(
    connection: &mut PgConnection,
    ended: &[Ended],
    effects: &mut Effects,
) -> Result<Vec<TaskId>, Error> {
    let mut by_parent: BTreeMap<TaskId, Vec<&Ended>> = BTreeMap::new();
    for task in ended {
        if let Some(parent) = task.parent {
            by_parent.entry(parent).or_default().push(task);
        }
    }
    if by_parent.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<TaskId> = by_parent.keys().copied().collect();
    let parents = snapshot::lock(connection, &ids).await?;
    let steps: Vec<TaskId> = parents.iter().filter_map(|parent| parent.finish).collect();
    let ends = settlement::ends(connection, &steps).await?;
    let mut changes: Vec<(Locked, Change)> = Vec::new();
    let mut released = Vec::new();
    for parent in parents {
        let children = by_parent.get(&parent.id).map_or(&[][..], Vec::as_slice);
        let failure = children
            .iter()
            .find(|child| {
                child.state != State::Succeeded
                    && child.parent_token == Some(parent.fence)
                    && Some(child.id) != parent.finish
            })
            .map(|child| describe(&child.name, child.state, child.reason.as_deref()));
        let finish = parent.finish.and_then(|id| ends.get(&id)).map(|(state, reason)| match state {
            State::Blocked => Finish::Blocked,
            State::Succeeded => Finish::Succeeded,
            state if state.is_terminal() => {
                Finish::Failed(describe("", *state, reason.as_deref()).trim().to_owned())
            }
            _ => Finish::Open,
        });
        let event = Event::ChildrenEnded { ended: count(children.len()), failure, finish };
        if let Ok(change) = transition(&parent.snapshot, event) {
            released.extend(parent.finish.filter(|_| change.release_finish));
            changes.push((parent, change));
        }
    }
    apply(connection, &changes, effects).await?;
    Ok(released)
}

async fn release(
    connection: &mut PgConnection,
    steps: &[TaskId],
    effects: &mut Effects,
) -> Result<(), Error> {
    let mut changes = Vec::new();
    for step in snapshot::lock(connection, steps).await? {
        let event = Event::DependenciesEnded { ended: step.snapshot.open_dependencies, failure: None };
        if let Ok(change) = transition(&step.snapshot, event) {
            changes.push((step, change));
        }
    }
    Ok(apply(connection, &changes, effects).await?)
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}
