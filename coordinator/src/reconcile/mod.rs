//! Background work: each reconciler takes no input, looks at the database, and brings one thing in order.
//!
//! They run on a period and on a signal, are idempotent, and several coordinators may run them at once. What they changed
//! they log; what fails they log and try again at the next turn.

use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::{App, Error};
use crate::error::said;

mod due;
mod inbox;
mod leases;
mod partitions;
mod retention;
mod schedule;
mod settle;
mod timers;
mod trim;
mod wake;

pub(crate) use leases::run as expire_leases;
pub(crate) use partitions::ahead as make_partitions;
pub(crate) use wake::run as look_over;

/// How often things are looked at for which nothing better is known.
const PERIOD: Duration = Duration::from_millis(500);
/// How often lost signals are made up for.
const SAFETY_NET: Duration = Duration::from_secs(1);
/// Between two looks over the lanes, however often one is asked for: each is of all that waits.
const GAP: Duration = Duration::from_millis(20);
/// How often it is written down which nodes are here, at the least.
const PRESENCE: Duration = Duration::from_secs(5);
/// How often what was taken of the lines is removed.
const SWEEP: Duration = Duration::from_secs(5);
/// How often what is old is looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// A pause after a failure, so that a database that is down is not hammered.
const PAUSE: Duration = Duration::from_millis(500);

type Turn<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Starts every reconciler on `tracker`.
pub(crate) fn start(app: &App, shutdown: &CancellationToken, tracker: &TaskTracker) {
    let sweep = (app.0.lease / 10).min(PERIOD);
    let spawn = |name, period, turn| {
        tracker.spawn(repeat(name, app.clone(), shutdown.clone(), period, turn));
    };
    spawn("leases", Period::Every(sweep), |app| Box::pin(leases::run(app)));
    spawn("settlement", Period::Settlement, |app| Box::pin(settle::run(app)));
    spawn("wake-ups", Period::Lanes, |app| Box::pin(wake::run(app)));
    spawn("presence", Period::Every((app.0.lease / 6).min(PRESENCE)), |app| Box::pin(wake::presence(app)));
    spawn("lines", Period::Every(SWEEP), |app| Box::pin(wake::sweep(app)));
    spawn("settlement repair", Period::Every(HOUSEKEEPING), |app| Box::pin(settle::repair(app)));
    spawn("partitions", Period::Every(HOUSEKEEPING), |app| Box::pin(partitions::run(app)));
    spawn("retention", Period::Every(HOUSEKEEPING), |app| Box::pin(retention::run(app)));
    tracker.spawn(due::repeat(app.clone(), shutdown.clone()));
    tracker.spawn(inbox::repeat(app.clone(), shutdown.clone()));
    tracker.spawn(schedule::repeat(app.clone(), shutdown.clone()));
    tracker.spawn(trim::repeat(app.clone(), shutdown.clone()));
    tracker.spawn(wake::pulse(app.clone(), shutdown.clone()));
}

/// Runs everything once, for tests that moved the clock.
pub(crate) async fn once(app: &App) -> Result<(), Error> {
    leases::run(app).await?;
    inbox::run(app).await?;
    schedule::run(app).await?;
    due::run(app).await?;
    settle::run(app).await?;
    settle::repair(app).await?;
    settle::run(app).await?;
    partitions::run(app).await?;
    retention::run(app).await?;
    wake::presence(app).await?;
    trim::run(app).await?;
    wake::sweep(app).await?;
    wake::run(app).await
}

/// When a reconciler has its next turn.
#[derive(Clone, Copy)]
enum Period {
    Every(Duration),
    /// When the lanes must be looked over, at the latest after the safety net's time.
    Lanes,
    /// When something waits to be settled, at the latest after the safety net's time.
    Settlement,
}

async fn repeat(
    name: &'static str,
    app: App,
    shutdown: CancellationToken,
    period: Period,
    turn: for<'a> fn(&'a App) -> Turn<'a>,
) {
    let mut took = Duration::ZERO;
    loop {
        let pause = async {
            match period {
                Period::Every(time) => tokio::time::sleep(time).await,
                Period::Lanes => {
                    // However much waits, most of the database's time is for other things.
                    tokio::time::sleep((4 * took).clamp(GAP, SAFETY_NET / 2)).await;
                    let _ = tokio::time::timeout(SAFETY_NET / 2, app.0.signals.dropped.notified()).await;
                }
                Period::Settlement => {
                    let _ = tokio::time::timeout(SAFETY_NET, app.0.signals.unsettled.notified()).await;
                }
            }
        };
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return;
        }
        // A turn is never cut off: what it began in the database it ends there.
        let begun = tokio::time::Instant::now();
        let outcome = turn(&app).await;
        took = begun.elapsed();
        if let Err(error) = outcome {
            failed(name, &error);
            if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }
}

fn failed(name: &'static str, error: &Error) {
    let cause = std::error::Error::source(error).map(said).unwrap_or_default();
    tracing::warn!(reconciler = name, %error, cause, "a reconciler failed; it tries again");
}
