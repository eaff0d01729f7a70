//! Scheduled tasks whose time has come, and timers that went off: by a timer set for the next one, and on a period.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::transaction::transaction;
use crate::app::{App, Error};
use crate::db::queue;

/// Tasks in one transaction.
const BATCH: i64 = 5_000;
/// The longest that the timer sleeps: other coordinators schedule too.
const LONGEST: Duration = Duration::from_secs(1);
/// The shortest: what is late and still there is locked by another coordinator.
const SHORTEST: Duration = Duration::from_millis(2);

/// How soon to look again where timers were passed over.
const BUSY: Duration = Duration::from_millis(100);

/// Makes every task that is due ready; answers whether timers were passed over.
pub(crate) async fn run(app: &App) -> Result<bool, Error> {
    while turn(app).await? >= usize::try_from(BATCH).unwrap_or_default() {}
    super::timers::run(app).await
}

/// Runs at the time of the next scheduled task, until `shutdown`.
pub(crate) async fn repeat(app: App, shutdown: CancellationToken) {
    loop {
        let next = match run(&app).await {
            Ok(false) => next(&app).await,
            // They are past their time, and would be looked at without a pause.
            Ok(true) => next(&app).await.map(|wait| wait.max(BUSY)),
            Err(error) => Err(error),
        };
        let wait = next.unwrap_or_else(|error| {
            super::failed("due", &error);
            LONGEST
        });
        let pause = tokio::time::timeout(wait, app.0.signals.scheduled.notified());
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

async fn next(app: &App) -> Result<Duration, Error> {
    let mut connection = app.0.pool.acquire().await?;
    let next = queue::next_due_ms(&mut connection).await?;
    let wait = next.map_or(LONGEST, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
    Ok(wait.clamp(SHORTEST, LONGEST))
}

async fn turn(app: &App) -> Result<usize, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, effects| {
                let woken = queue::wake_due(tx, BATCH).await?;
                let count = woken.len();
                for lane in woken {
                    *effects.ready.entry(lane).or_default() += 1;
                    effects.events = true;
                }
                if count > 0 {
                    tracing::debug!(tasks = count, "scheduled tasks became ready");
                }
                Ok(count)
            })
        })
        .await
}
