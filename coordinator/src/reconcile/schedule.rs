//! Schedules whose time has come: by a timer set for the next one, on a change, and on a period.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, Error};
use crate::db::schedule;

/// The longest that the timer sleeps: another coordinator may have changed a schedule.
const LONGEST: Duration = Duration::from_secs(5);
/// The shortest: what is late and still there is locked by another coordinator.
const SHORTEST: Duration = Duration::from_millis(10);

/// Turns after which it is looked again of which namespaces something is due, if that many are not.
const TURNS: usize = 8;

/// Enqueues every run that is due: of one namespace after another, so that what one has much of is late for it alone.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    while round(app).await? {}
    Ok(())
}

/// A few turns of each namespace of which something is due; answers whether there were any.
async fn round(app: &App) -> Result<bool, Error> {
    let mut due = app.schedules_due().await?;
    let (mut any, mut failed) = (false, None);
    for _ in 0..(TURNS / due.len().max(1)).max(1) {
        for namespace in std::mem::take(&mut due) {
            if app.0.shutdown.is_cancelled() {
                return Ok(false);
            }
            match app.schedule_turn(&namespace).await {
                Ok(true) => due.push(namespace),
                Ok(false) => {}
                Err(error) if error.is_away() => return Err(error),
                // The others have their turns nevertheless.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        any |= !due.is_empty();
    }
    failed.map_or(Ok(any), Err)
}

/// Runs at the time of the next run of any schedule, until `shutdown`.
pub(crate) async fn repeat(app: App, shutdown: CancellationToken) {
    loop {
        let next = match run(&app).await {
            Ok(()) => next(&app).await,
            Err(error) => Err(error),
        };
        let wait = next.unwrap_or_else(|error| {
            super::failed("schedules", &error);
            LONGEST
        });
        let pause = tokio::time::timeout(wait, app.0.signals.schedules.notified());
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

async fn next(app: &App) -> Result<Duration, Error> {
    let mut connection = app.0.pool.acquire().await?;
    let next = schedule::next_due_ms(&mut connection).await?;
    let wait = next.map_or(LONGEST, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
    Ok(wait.clamp(SHORTEST, LONGEST))
}
