//! Leases that ran out: their attempts are lost, and their tasks are granted again or end.

use std::collections::HashSet;

use orca_proto::ids::TaskId;
use orca_proto::node::LeaseRef;
use orca_proto::task::{Outcome, State};

use crate::app::transaction::{sample, transaction};
use crate::app::{App, Error};
use crate::db::apply::apply;
use crate::db::lease;
use crate::db::snapshot::{self, Locked};
use crate::lifecycle::{Event, Returned, transition};

/// Grants whose leases end in one transaction.
const BATCH: i64 = 50;

/// Reclaims every lease that has run out.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    loop {
        let (found, reclaimed, strays) = turn(app).await?;
        for (task, state) in &reclaimed {
            tracing::info!(task.id = %task, task.state = %state, "a lease ran out");
        }
        if reclaimed.is_empty() && strays == 0 || found < usize::try_from(BATCH).unwrap_or_default() {
            return Ok(());
        }
    }
}

/// How many were looked at, what became of those that were reclaimed, and in how many grants were tasks that do not run.
async fn turn(app: &App) -> Result<(usize, Vec<(TaskId, State)>, u64), Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let found = lease::expired(tx, BATCH).await?;
                if found.is_empty() {
                    return Ok((0, Vec::new(), 0));
                }
                let ids: Vec<TaskId> = found.iter().map(|lease| lease.task).collect();
                let locked = snapshot::lock(tx, &ids).await?;
                let running: HashSet<LeaseRef> = locked
                    .iter()
                    .filter(|task| task.snapshot.state == State::Running)
                    .map(Locked::lease)
                    .collect();
                let leases: Vec<LeaseRef> = running.iter().copied().collect();
                let over = lease::still_expired(tx, &leases).await?;
                let mut changes = Vec::with_capacity(ids.len());
                for task in locked.into_iter().filter(|task| over.contains(&task.lease())) {
                    let event = Event::AttemptEnded {
                        outcome: Outcome::Lost,
                        returned: Returned::Nothing,
                        sample: sample(),
                    };
                    match transition(&task.snapshot, event) {
                        Ok(change) => changes.push((task, change)),
                        // It must not keep the others from being reclaimed.
                        Err(refusal) => {
                            tracing::error!(task.id = %task.id, %refusal, "a lease cannot be reclaimed");
                        }
                    }
                }
                apply(tx, &changes, effects).await?;
                let strays: Vec<LeaseRef> =
                    found.iter().filter(|lease| !running.contains(lease)).copied().collect();
                let dropped = if strays.is_empty() { 0 } else { lease::drop_strays(tx, &strays).await? };
                if dropped > 0 {
                    tracing::error!(grants = dropped, "leases of tasks that do not run");
                }
                let reclaimed = changes.iter().map(|(task, change)| (task.id, change.state)).collect();
                Ok((found.len(), reclaimed, dropped))
            })
        })
        .await
}
