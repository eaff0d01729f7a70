//! Tasks that no node took within their `schedule_to_start` limit.

use crate::app::transaction::transaction;
use crate::app::{App, Error};
use crate::db::apply::apply;
use crate::db::{queue, snapshot};
use crate::lifecycle::{Event, transition};

/// Tasks in one transaction.
const BATCH: i64 = 1_000;

/// Expires them all.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    while turn(app).await? >= usize::try_from(BATCH).unwrap_or_default() {}
    Ok(())
}

async fn turn(app: &App) -> Result<usize, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let found = queue::expired(tx, BATCH).await?;
                if found.is_empty() {
                    return Ok(0);
                }
                // Locked first, then asked again: one of them may have been granted, and be ready anew, in between.
                let locked = snapshot::lock(tx, &found).await?;
                let still = queue::still_expired(tx, &found).await?;
                let mut changes = Vec::new();
                for task in locked {
                    if still.contains(&task.id)
                        && let Ok(change) = transition(&task.snapshot, Event::StartExpired)
                    {
                        tracing::info!(task.id = %task.id, "no node took a task in time");
                        changes.push((task, change));
                    }
                }
                apply(tx, &changes, effects).await?;
                Ok(changes.len())
            })
        })
        .await
}
