//! Making up for lost wake-ups, and waking those who follow events.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, Error};
use crate::db::queue;

/// Events become visible when the transactions before them have ended: a second look finds those that had not.
const ECHOES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(250)];

/// For each lane that claims wait for: wakes one of them if something waits in it. One query per lane, however many
/// claims there are.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    let lanes = app.0.signals.lanes();
    if lanes.is_empty() {
        return Ok(());
    }
    let mut connection = app.0.pool.acquire().await?;
    for lane in lanes {
        if queue::has_ready(&mut connection, &lane.namespace, lane.role, &lane.queues).await? {
            app.0.signals.wake_lane(&lane);
        }
    }
    Ok(())
}

/// Wakes those who follow events when some were written, and twice more shortly after.
pub(crate) async fn pulse(app: App, shutdown: CancellationToken) {
    loop {
        if shutdown.run_until_cancelled(app.0.signals.pulse.notified()).await.is_none() {
            return;
        }
        for wait in ECHOES {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = app.0.signals.pulse.notified(), if !wait.is_zero() => {}
            }
            app.0.signals.wake_events();
        }
    }
}
