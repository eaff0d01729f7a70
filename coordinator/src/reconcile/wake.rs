//! Making up for lost wake-ups, and waking those who follow events.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, Error};
use crate::db::{lane, node, queue};
use crate::dispatch::LaneKey;

/// Events become visible when the transactions before them have ended: a second look finds those that had not.
const ECHOES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// Between two wake-ups, however many transactions write events meanwhile: each follower asks the database each time.
const GAP: Duration = Duration::from_millis(20);

/// How long nothing was granted of a lane until nothing is kept of it. Not at once: by what is kept, the next claim and the next
/// look pass over what was there before, even where an old snapshot keeps all of that.
const IDLE: Duration = Duration::from_secs(60);

/// Looks which lanes have something in line, and wakes a claim for each.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    let version = app.0.lines.version();
    let mut connection = app.0.pool.acquire().await?;
    let seed = i32::try_from(app.0.clock.now_us() & i64::from(i32::MAX)).unwrap_or_default();
    let waiting = lane::waiting(&mut connection, lane::Among::All(seed)).await?;
    drop(connection);
    let keys: Vec<LaneKey> = waiting.iter().map(|lane| lane.key.clone()).collect();
    app.0.lines.refresh(version, waiting, true);
    keys.iter().for_each(|lane| app.0.signals.wake_claim(lane));
    Ok(())
}

/// Writes down which nodes are here.
pub(crate) async fn presence(app: &App) -> Result<(), Error> {
    let nodes = app.0.presence.collect();
    if nodes.is_empty() {
        return Ok(());
    }
    let mut connection = app.0.pool.acquire().await?;
    Ok(node::heard(&mut connection, &nodes).await?)
}

/// Removes what has been taken of the lines.
pub(crate) async fn sweep(app: &App) -> Result<(), Error> {
    let mut connection = app.0.pool.acquire().await?;
    queue::sweep(&mut connection, IDLE).await?;
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
