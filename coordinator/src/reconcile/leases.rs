//! Leases that ran out: their attempts are lost, and their tasks are granted again or end.

use std::collections::{BTreeSet, HashSet};

use orca_proto::ids::TaskId;
use orca_proto::node::LeaseRef;
use orca_proto::task::{Outcome, State};

use crate::app::transaction::{sample, transaction};
use crate::app::{App, Error};
use crate::db::apply::apply;
use crate::db::lease;
use crate::db::snapshot::{self, Free, Locked};
use crate::lifecycle::{Event, Returned, transition};

/// Grants whose leases end in one transaction.
const BATCH: i64 = 50;

/// Reclaims every lease that has run out. One whose task is being changed by somebody just now, or held by another request for
/// long, is passed over: it is looked at again at the next sweep, and keeps no other from being reclaimed.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    let mut passed_over = BTreeSet::new();
    loop {
        let turn = turn(app, passed_over.iter().copied().collect()).await?;
        for (task, state) in &turn.reclaimed {
            tracing::info!(task.id = %task, task.state = %state, "a lease ran out");
        }
        if turn.reclaimed.is_empty() && turn.strays == 0 && turn.busy.is_empty()
            || turn.found < usize::try_from(BATCH).unwrap_or_default()
        {
            return Ok(());
        }
        passed_over.extend(turn.busy);
    }
}

/// What one transaction did.
#[derive(Default)]
struct Turn {
    /// Leases looked at.
    found: usize,
    /// What became of those that were reclaimed.
    reclaimed: Vec<(TaskId, State)>,
    /// In how many grants were tasks that do not run.
    strays: u64,
    /// Tokens of leases that were passed over.
    busy: Vec<i64>,
}

async fn turn(app: &App, passed_over: Vec<i64>) -> Result<Turn, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let mut found = lease::expired(tx, BATCH, &passed_over).await?;
                if found.is_empty() {
                    return Ok(Turn::default());
                }
                let looked_at = found.len();
                let ids: Vec<TaskId> = found.iter().map(|lease| lease.task).collect();
                let Free { locked, busy } = snapshot::lock_free(tx, &ids).await?;
                let (held, free) = found.into_iter().partition(|lease| busy.contains(&lease.task));
                found = free;
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
                let mut strays: Vec<LeaseRef> =
                    found.iter().filter(|lease| !running.contains(lease)).copied().collect();
                let tokens: Vec<i64> = strays.iter().map(|lease| lease.token.0).collect();
                let grants = lease::lock_free_grants(tx, &tokens).await?;
                strays.retain(|lease| grants.contains(&lease.token.0));
                let dropped = if strays.is_empty() { 0 } else { lease::drop_strays(tx, &strays).await? };
                if dropped > 0 {
                    tracing::error!(grants = dropped, "leases of tasks that do not run");
                }
                let reclaimed = changes.iter().map(|(task, change)| (task.id, change.state)).collect();
                let busy = held.iter().map(|lease: &LeaseRef| lease.token.0).collect();
                Ok(Turn { found: looked_at, reclaimed, strays: dropped, busy })
            })
        })
        .await
}
