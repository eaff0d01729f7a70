//! Consequences of an end: dependents are let go or skipped, parents learn that a task under them ended, goals come to
//! their finish step and their result.
//!
//! Whoever ends a task only notes that it did, in the same transaction. This settler takes the notes in batches, one
//! settler at a time over all coordinators: so nothing it locks can be locked the other way round, and a task with
//! many dependents, or a goal with many tasks, is settled by a few statements. A turn takes so much and no more, whatever the
//! graph: others wait for the settlement lock meanwhile. What is left stays noted, and is next.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use orca_proto::ids::TaskId;
use orca_proto::task::State;
use sqlx::PgConnection;

use crate::app::transaction::transaction;
use crate::app::{App, Error, cancel_under, describe, settle_alone};
use crate::db::apply::{Effects, apply};
use crate::db::session;
use crate::db::settlement::{self, Batch, Ended};
use crate::db::snapshot::{self, Locked};
use crate::error::said;
use crate::lifecycle::{Change, Event, Finish, transition};

/// No note: they are counted from 1.
const NONE: i64 = 0;
/// Notes in one transaction.
const BATCH: i64 = 2_000;
/// Edges to dependents that one transaction follows.
const EDGES: usize = 5_000;
/// Tasks further behind a failure that one transaction skips.
const DOOMED: i64 = 5_000;
/// Of those who wait for one of them, how many it looks at.
const FAN: i64 = 32;
/// Tasks under others that one transaction cancels.
const CHILDREN: usize = 5_000;
/// How long a note rests that cannot be settled because somebody holds a lock for long.
const HELD: Duration = Duration::from_secs(1);
/// How long one rests that cannot be settled for another reason.
const BROKEN: Duration = Duration::from_secs(60);
/// Waiting tasks that one turn of the repair looks at.
const REPAIRS: i64 = 100;

/// Settles until there is nothing left. After an error the notes are taken one by one for a while, and one that cannot be
/// settled is set aside, so that it does not keep the others from being.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    let mut most = BATCH;
    while !app.0.shutdown.is_cancelled() {
        let oldest = Arc::new(AtomicI64::new(NONE));
        match turn(app, most, &oldest).await {
            // Where a few were enough for a turn, the next is not tried with many.
            Ok(Some(settled)) => most = settled.saturating_mul(2).clamp(2, BATCH),
            Ok(None) => return Ok(()),
            Err(error) if error.is_away() => return Err(error),
            Err(_) if most > 1 => most = 1,
            Err(error) => match oldest.load(Ordering::Relaxed) {
                NONE => return Err(error),
                seq => set_aside(app, seq, &error).await?,
            },
        }
    }
    Ok(())
}

async fn set_aside(app: &App, seq: i64, error: &Error) -> Result<(), Error> {
    let _turn = app.settlement_turn().await?;
    let held = error.is_held() || error.is_contention();
    let rest = if held { HELD } else { BROKEN };
    let app = app.clone();
    let task = app
        .clone()
        .spawned(async move {
            transaction!(app, |tx, _effects| {
                settle_alone(tx).await?;
                Ok(settlement::set_aside(tx, seq, rest).await?)
            })
        })
        .await?;
    let cause = std::error::Error::source(error).map(said).unwrap_or_default();
    let Some(task) = task else { return Ok(()) };
    if held {
        tracing::warn!(task.id = %task, cause, "what is to be settled is held by somebody; it is tried again");
    } else {
        tracing::error!(task.id = %task, %error, cause, "the end of a task cannot be settled; it is tried again in a minute");
    }
    Ok(())
}

/// Waiting tasks that nobody settled: there should never be one.
pub(crate) async fn repair(app: &App) -> Result<(), Error> {
    let _turn = app.settlement_turn().await?;
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                settle_alone(tx).await?;
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

/// Settles at most `most` notes; answers how many, or nothing where there were none. Leaves in `oldest` which was the first,
/// also where it fails: whoever else settles may have taken it, or another, by then.
async fn turn(app: &App, most: i64, oldest: &Arc<AtomicI64>) -> Result<Option<i64>, Error> {
    let _turn = app.settlement_turn().await?;
    let (app, oldest) = (app.clone(), Arc::clone(oldest));
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                settle_alone(tx).await?;
                session::wait_briefly(tx).await?;
                let batch = settlement::take(tx, most).await?;
                let Some(first) = batch.seqs.first() else { return Ok(None) };
                oldest.store(*first, Ordering::Relaxed);
                settle(tx, batch, effects).await.map(Some)
            })
        })
        .await
}

async fn settle(
    connection: &mut PgConnection,
    mut batch: Batch,
    effects: &mut Effects,
) -> Result<i64, Error> {
    let (edges, rest) = edges(connection, &mut batch).await?;
    dependents(connection, &batch.ended, edges, effects).await?;
    // Its parent hears of it when all who wait for it have.
    let told = if rest { &[][..] } else { &batch.ended[..] };
    let released = parents(connection, told, effects).await?;
    release(connection, &released, effects).await?;
    cancel_children(connection, &mut batch, effects).await?;
    settlement::done(connection, &batch.seqs).await?;
    Ok(i64::try_from(batch.seqs.len()).unwrap_or(BATCH))
}

/// The edges to who waits for what ended. Where they are too many for one turn, the batch is cut; and where one task alone
/// has too many, it is noted up to where it is settled, and stays.
async fn edges(
    connection: &mut PgConnection,
    batch: &mut Batch,
) -> Result<(Vec<(TaskId, TaskId)>, bool), Error> {
    let most = i64::try_from(EDGES).unwrap_or(i64::MAX).saturating_add(1);
    loop {
        let mut edges = settlement::edges(connection, &batch.ended, most).await?;
        edges.sort_unstable();
        edges.dedup();
        match &batch.ended[..] {
            _ if edges.len() <= EDGES => return Ok((edges, false)),
            [one] => {
                edges.truncate(EDGES);
                let (seq, upto) = (one.seq, edges.last().map_or(one.after, |(task, _)| *task));
                settlement::settled_upto(connection, seq, upto).await?;
                batch.cancel_children.clear();
                batch.seqs.clear();
                return Ok((edges, true));
            }
            more => {
                batch.ended.truncate(more.len() / 2);
                let last = batch.ended.last().map_or(0, |ended| ended.seq);
                batch.cancel_children.retain(|note| note.seq <= last);
                batch.seqs.retain(|seq| *seq <= last);
            }
        }
    }
}

/// Cancels what is directly under tasks; what is under that is noted. What is more than one turn takes stays noted.
async fn cancel_children(
    connection: &mut PgConnection,
    batch: &mut Batch,
    effects: &mut Effects,
) -> Result<(), Error> {
    let mut left = CHILDREN;
    for note in &batch.cancel_children {
        if left == 0 {
            batch.seqs.retain(|seq| *seq != note.seq);
            continue;
        }
        let reason = "a task beside it, or the one above it, did not succeed";
        let (count, last) = cancel_under(connection, note.parent, note.after, left, reason, effects).await?;
        if count == left {
            settlement::settled_upto(connection, note.seq, last).await?;
            batch.seqs.retain(|seq| *seq != note.seq);
        }
        left -= count;
    }
    Ok(())
}

async fn dependents(
    connection: &mut PgConnection,
    ended: &[Ended],
    edges: Vec<(TaskId, TaskId)>,
    effects: &mut Effects,
) -> Result<(), Error> {
    if edges.is_empty() {
        return Ok(());
    }
    let mut waiting: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for (task, needs) in edges {
        waiting.entry(task).or_default().push(needs);
    }
    let failed: HashMap<TaskId, Arc<str>> = ended
        .iter()
        .filter(|task| task.state != State::Succeeded)
        .map(|task| (task.id, describe(&task.name, task.state, task.reason.as_deref()).into()))
        .collect();
    let doomed = doomed(connection, &failed).await?;
    let ids: BTreeSet<TaskId> = waiting.keys().chain(doomed.keys()).copied().collect();
    // In a dense graph most have been skipped by now, and nobody comes to be blocked again.
    let ids = settlement::blocked(connection, &ids.into_iter().collect::<Vec<_>>()).await?;
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
    let doomed = settlement::doomed(connection, &ids, FAN, DOOMED).await?;
    if doomed.is_empty() {
        return Ok(HashMap::new());
    }
    ids.extend(&doomed);
    let doomed: HashSet<TaskId> = doomed.into_iter().collect();
    let mut needed_by: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for (task, needs) in settlement::dependents(connection, &ids, FAN).await? {
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
