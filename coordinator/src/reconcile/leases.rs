//! Leases that ran out: their attempts are lost, and their tasks are granted again or end.

use orca_proto::ids::TaskId;
use orca_proto::task::Outcome;

use crate::app::transaction::{sample, transaction};
use crate::app::{App, Error};
use crate::db::apply::apply;
use crate::db::{lease, snapshot};
use crate::lifecycle::{Event, Returned, transition};

/// Leases in one transaction.
const BATCH: i64 = 500;

/// Reclaims every lease that has run out.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    loop {
        let reclaimed = turn(app).await?;
        for (task, state) in &reclaimed {
            tracing::info!(task.id = %task, task.state = %state, "a lease ran out");
        }
        if reclaimed.len() < usize::try_from(BATCH).unwrap_or_default() {
            return Ok(());
        }
    }
}

async fn turn(app: &App) -> Result<Vec<(TaskId, orca_proto::task::State)>, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let ids = lease::expired(tx, BATCH).await?;
                if ids.is_empty() {
                    return Ok(Vec::new());
                }
                let mut changes = Vec::with_capacity(ids.len());
                for task in snapshot::lock(tx, &ids).await? {
                    let event = Event::AttemptEnded {
                        outcome: Outcome::Lost,
                        returned: Returned::Nothing,
                        sample: sample(),
                    };
                    match transition(&task.snapshot, event) {
                        Ok(change) => changes.push((task, change)),
                        Err(refusal) => {
                            // It must not keep the others from being reclaimed.
                            tracing::error!(task.id = %task.id, %refusal, "a lease of a task that does not run");
                            lease::release(tx, &[task.id.0]).await?;
                        }
                    }
                }
                apply(tx, &changes, effects).await?;
                Ok(changes.iter().map(|(task, change)| (task.id, change.state)).collect())
            })
        })
        .await
}
