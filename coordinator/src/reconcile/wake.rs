//! Making up for lost wake-ups, and waking those who follow events.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, Error};
use crate::db::queue;

/// Events become visible when the transactions before them have ended: a second look finds those that had not.
const ECHOES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// Between two wake-ups, however many transactions write events meanwhile: each follower asks the database each time.
const GAP: Duration = Duration::from_millis(20);

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
    let pulse = &app.0.signals.pulse;
    let beating = async {
        loop {
            pulse.notified().await;
            app.0.signals.wake_events();
            let mut echoes = ECHOES.into_iter();
            let mut next = echoes.next();
            while let Some(wait) = next {
                tokio::time::sleep(GAP).await;
                if tokio::time::timeout(wait, pulse.notified()).await.is_ok() {
                    echoes = ECHOES.into_iter();
                }
                app.0.signals.wake_events();
                next = echoes.next();
            }
            tokio::time::sleep(GAP).await;
        }
    };
    // Cut off anywhere, it loses nothing.
    let _ = shutdown.run_until_cancelled(beating).await;
}
