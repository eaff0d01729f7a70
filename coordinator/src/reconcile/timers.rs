//! Timers that went off: tasks that no node took in time, deadlines, waits for approval and signals that took too long.

use orca_proto::spec::OnTimeout;
use sqlx::PgConnection;

use crate::app::transaction::transaction;
use crate::app::{App, Error};
use crate::db::apply::{Effects, apply};
use crate::db::gate;
use crate::db::snapshot::{self, Locked};
use crate::db::timer::{self, Due};
use crate::lifecycle::{Change, Event, transition};

/// Timers in one transaction.
const BATCH: i64 = 1_000;

/// Does what is to be done for them all.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    while turn(app).await? >= usize::try_from(BATCH).unwrap_or_default() {}
    Ok(())
}

async fn turn(app: &App) -> Result<usize, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let found = timer::due(tx, BATCH).await?;
                if found.is_empty() {
                    return Ok(0);
                }
                // Locked first, then asked again: a timer may have been set anew in between.
                let mut ids: Vec<_> = found.iter().map(|timer| timer.task).collect();
                ids.sort_unstable();
                ids.dedup();
                let mut locked = snapshot::lock(tx, &ids).await?;
                for due in timer::take(tx, &found).await? {
                    let Some(at) = locked.iter().position(|task| task.id == due.task) else { continue };
                    let task = locked.swap_remove(at);
                    if let Some((task, change)) = went_off(tx, task, &due, &mut locked, effects).await? {
                        apply(tx, &[(task, change)], effects).await?;
                    }
                }
                Ok(found.len())
            })
        })
        .await
}

/// What a timer makes of its task. One that has not ended goes back to the others: it may have more timers.
async fn went_off(
    connection: &mut PgConnection,
    task: Locked,
    due: &Due,
    others: &mut Vec<Locked>,
    effects: &mut Effects,
) -> Result<Option<(Locked, Change)>, Error> {
    let Some(event) = event(connection, &task, due).await? else {
        others.push(task);
        return Ok(None);
    };
    match transition(&task.snapshot, event) {
        Ok(change) => {
            tracing::info!(task.id = %task.id, timer = due.kind, task.state = %change.state, "a timer went off");
            effects.events = true;
            // It may have more timers that have gone off: none may be forgotten.
            if !change.state.is_terminal() {
                let mut after = task.clone();
                after.snapshot.state = change.state;
                after.snapshot.open_gates = change.open_gates;
                others.push(after);
            }
            Ok(Some((task, change)))
        }
        // It has begun, or ended, meanwhile.
        Err(_) => {
            others.push(task);
            Ok(None)
        }
    }
}

async fn event(connection: &mut PgConnection, task: &Locked, due: &Due) -> Result<Option<Event>, Error> {
    if due.kind == timer::START {
        return Ok(Some(Event::StartExpired));
    }
    if due.kind == timer::DEADLINE {
        return Ok(Some(Event::DeadlinePassed));
    }
    let Some(name) = due.kind.strip_prefix(timer::GATE) else { return Ok(None) };
    let what = if name.is_empty() { "an approval".to_owned() } else { format!("the signal {name}") };
    match gate::on_timeout(connection, task.id, name).await? {
        None => Ok(None),
        Some(OnTimeout::Cancel) => {
            Ok(Some(Event::GateRefused { reason: format!("{what} did not come in time") }))
        }
        Some(OnTimeout::Proceed) => {
            gate::open(connection, task.id, name, "its timeout").await?;
            Ok(Some(Event::GatesOpened { opened: 1 }))
        }
    }
}
