//! Forgetting: trees that ended long ago and do not go with their partition, uploads nobody uses, old events, idempotency keys, nodes, and bytes without a
//! record.

use std::time::Duration;

use uuid::Uuid;

use crate::app::transaction::transaction;
use crate::app::{App, Error};
use crate::db::{artifact, idempotency, node, partition, retention};

/// Trees begun in one turn.
const TREES: i64 = 200;
/// Rows in one transaction.
const BATCH: i64 = 5_000;
/// Events in one transaction.
const EVENTS: i64 = 10 * BATCH;
/// Blobs in one turn.
const BLOBS: i64 = 500;

/// Forgets whatever is old enough.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    // Until nothing is left: what a busy system leaves in a minute may be more than one batch.
    let ranges = {
        let mut connection = app.0.pool.acquire().await?;
        partition::row_by_row(&mut connection, app.0.retention).await?
    };
    for (from, to) in ranges {
        let mut next = Some(from);
        while let Some(from) = next.filter(|_| !app.0.shutdown.is_cancelled()) {
            next = trees(app, (from, to)).await?;
        }
    }
    while !app.0.shutdown.is_cancelled() && rows(app).await? {}
    blobs(app).await
}

/// Forgets some of the trees in a range; answers from where on there may be more. Those that must stay are passed over: else
/// enough of them would hide all that are behind them.
async fn trees(app: &App, range: (Uuid, Uuid)) -> Result<Option<Uuid>, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, _effects| {
                let roots = retention::old_roots(tx, range, app.0.retention, TREES).await?;
                let Some(last) = roots.last() else { return Ok(None) };
                let ids = retention::deepest(tx, &roots, BATCH).await?;
                if !ids.is_empty() {
                    let forgotten = retention::forget(tx, &ids).await?;
                    tracing::info!(tasks = forgotten, "forgot tasks that ended long ago");
                }
                // There may be more of these trees, or else more trees.
                Ok(if full(ids.len(), BATCH) {
                    Some(range.0)
                } else {
                    Some(Uuid::from_u128(last.as_u128().saturating_add(1)))
                        .filter(|_| full(roots.len(), TREES))
                })
            })
        })
        .await
}

fn full(count: usize, most: i64) -> bool {
    i64::try_from(count).is_ok_and(|count| count >= most)
}

/// Answers whether there may be more.
async fn rows(app: &App) -> Result<bool, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, _effects| {
                let keep = app.0.retention;
                let uploads = retention::forget_uploads(tx, keep, BATCH).await?;
                let events = retention::forget_events(tx, keep, EVENTS).await?;
                let keys = idempotency::forget_old(tx, BATCH).await?;
                let nodes = node::forget_gone(tx, keep.max(Duration::from_secs(3_600))).await?;
                if uploads + events + keys + nodes > 0 {
                    tracing::info!(uploads, events, keys, nodes, "forgot what was old");
                }
                let full = |count: u64, most| usize::try_from(count).is_ok_and(|count| full(count, most));
                Ok(full(uploads, BATCH) || full(events, EVENTS) || full(keys, BATCH))
            })
        })
        .await
}

/// Takes bytes without a record out of sight, asks once more, and only then removes them.
async fn blobs(app: &App) -> Result<(), Error> {
    let disk = |error| Error::Storage("cannot remove a file", error);
    let mut connection = app.0.pool.acquire().await?;
    let garbage = artifact::garbage(&mut connection, BLOBS).await?;
    for sha256 in garbage {
        if !app.0.blobs.discard(&sha256).await.map_err(disk)? {
            continue;
        }
        if artifact::is_recorded(&mut connection, &sha256).await? {
            app.0.blobs.restore(&sha256).await.map_err(disk)?;
        } else {
            app.0.blobs.remove(&sha256).await.map_err(disk)?;
            tracing::info!(sha256 = crate::blobs::hex(&sha256), "removed bytes without a record");
        }
    }
    Ok(())
}
