//! Timers that went off: tasks that no node took in time, deadlines, waits for approval and signals that took too long.

use std::collections::{BTreeSet, HashMap, HashSet};

use orca_proto::ids::TaskId;
use orca_proto::spec::OnTimeout;
use sqlx::PgConnection;

use crate::app::transaction::transaction;
use crate::app::{App, Error};
use crate::db::apply::apply;
use crate::db::gate;
use crate::db::snapshot::{self, Free, Locked};
use crate::db::timer::{self, Due};
use crate::lifecycle::{Change, Event, transition};

/// Timers in one transaction.
const BATCH: i64 = 1_000;

/// Does what is to be done for them all; answers whether some were passed over, because their tasks are being changed by
/// somebody just now.
pub(crate) async fn run(app: &App) -> Result<bool, Error> {
    let mut passed_over = Vec::new();
    loop {
        let (found, busy) = turn(app, passed_over.clone()).await?;
        passed_over.extend(busy);
        if found < usize::try_from(BATCH).unwrap_or_default() {
            return Ok(!passed_over.is_empty());
        }
    }
}

async fn turn(app: &App, passed_over: Vec<TaskId>) -> Result<(usize, HashSet<TaskId>), Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let mut found = timer::due(tx, BATCH, &passed_over).await?;
                let count = found.len();
                if found.is_empty() {
                    return Ok((count, HashSet::new()));
                }
                // Locked first, then asked again: a timer may have been set anew in between.
                let Free { locked, busy } = snapshot::lock_free(tx, &tasks(&found)).await?;
                found.retain(|due| !busy.contains(&due.task));
                let mut locked = by_id(locked);
                let mut taken = timer::take(tx, &found).await?;
                while !taken.is_empty() {
                    let (mut changes, mut changed, mut further) = (Vec::new(), HashSet::new(), Vec::new());
                    for due in taken {
                        if changed.contains(&due.task) {
                            further.push(due);
                            continue;
                        }
                        let Some(task) = locked.remove(&due.task) else { continue };
                        if let Some(change) = went_off(tx, &task, &due).await? {
                            tracing::info!(task.id = %task.id, timer = due.kind, task.state = %change.state, "a timer went off");
                            changed.insert(task.id);
                            changes.push((task, change));
                        } else {
                            locked.insert(task.id, task);
                        }
                    }
                    effects.events |= !changes.is_empty();
                    apply(tx, &changes, effects).await?;
                    // What is left is of tasks that the others have changed.
                    locked = by_id(snapshot::lock(tx, &tasks(&further)).await?);
                    taken = further;
                }
                Ok((count, busy))
            })
        })
        .await
}

fn tasks(timers: &[Due]) -> Vec<TaskId> {
    timers.iter().map(|timer| timer.task).collect::<BTreeSet<_>>().into_iter().collect()
}

fn by_id(locked: Vec<Locked>) -> HashMap<TaskId, Locked> {
    locked.into_iter().map(|task| (task.id, task)).collect()
}

/// What a timer makes of its task; nothing where it has begun, or ended, meanwhile.
async fn went_off(connection: &mut PgConnection, task: &Locked, due: &Due) -> Result<Option<Change>, Error> {
    let event = event(connection, task, due).await?;
    Ok(event.and_then(|event| transition(&task.snapshot, event).ok()))
}

async fn event(connection: &mut PgConnection, task: &Locked, due: &Due) -> Result<Option<Event>, Error> {
    if due.kind == timer::START {
        return Ok(Some(Event::StartExpired));
    }
    if due.kind == timer::DEADLINE {
        return Ok(Some(Event::DeadlinePassed));
    }
    let Some(name) = due.kind.strip_prefix(timer::GATE) else { return Ok(None) };
    let what = if name == gate::APPROVAL { "an approval".to_owned() } else { format!("the signal {name}") };
    match gate::on_timeout(connection, task.id, name).await? {
        None => Ok(None),
        Some(OnTimeout::Cancel) => {
            Ok(Some(Event::GateRefused { reason: format!("{what} did not come in time") }))
        }
        Some(OnTimeout::Proceed) => {
            gate::open(connection, task.id, name, "its timeout", None).await?;
            Ok(Some(Event::GatesOpened { opened: 1 }))
        }
    }
}
