//! Leases that ran out: their attempts are lost, and their tasks are granted again or end.

use orca_proto::ids::TaskId;
use orca_proto::node::LeaseRef;
use orca_proto::task::{Outcome, State};

use crate::app::transaction::{sample, transaction};
use crate::app::{App, Error};
use crate::db::apply::apply;
use crate::db::{lease, snapshot};
use crate::lifecycle::{Event, Returned, transition};

/// Grants whose leases end in one transaction.
const BATCH: i64 = 50;

/// Reclaims every lease that has run out.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    loop {
        let (found, reclaimed) = turn(app).await?;
        for (task, state) in &reclaimed {
            tracing::info!(task.id = %task, task.state = %state, "a lease ran out");
        }
        if reclaimed.is_empty() || found < usize::try_from(BATCH).unwrap_or_default() {
            return Ok(());
        }
    }
}

/// How many were looked at, and what became of those that were reclaimed.
async fn turn(app: &App) -> Result<(usize, Vec<(TaskId, State)>), Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let ids = lease::expired(tx, BATCH).await?;
                if ids.is_empty() {
                    return Ok((0, Vec::new()));
                }
                let mut changes = Vec::with_capacity(ids.len());
                let locked = snapshot::lock(tx, &ids).await?;
                let leases: Vec<LeaseRef> = locked.iter().map(|task| task.lease()).collect();
                let over = lease::still_expired(tx, &leases).await?;
                for task in locked.into_iter().filter(|task| over.contains(&task.lease())) {
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
                            lease::release(tx, &[task.lease()]).await?;
                        }
                    }
                }
                apply(tx, &changes, effects).await?;
                Ok((ids.len(), changes.iter().map(|(task, change)| (task.id, change.state)).collect()))
            })
        })
        .await
}
