//! Faults: what is broken, when, and for how long; all from one seed.

mod deal;
mod inflict;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use deal::{Fault, Planned, deal};

use crate::history::Recorder;
use crate::system::System;
use inflict::Inflictor;

/// Breaks things as planned, until all is done or `stop`; what is broken then is made whole again.
///
/// # Errors
/// If something cannot be made whole again.
pub async fn run(
    system: &Arc<System>,
    recorder: &Recorder,
    planned: Vec<Planned>,
    stop: &CancellationToken,
) -> Result<()> {
    let inflictor = Arc::new(Inflictor::new(system.clone(), recorder.clone()));
    let begun = tokio::time::Instant::now();
    let mut work = JoinSet::new();
    for planned in planned {
        let (inflictor, stop) = (inflictor.clone(), stop.clone());
        work.spawn(async move {
            let due = tokio::time::sleep_until(begun + planned.after);
            if stop.run_until_cancelled(due).await.is_none() {
                return Ok(());
            }
            // Runs to its end: what it breaks it also mends.
            inflictor.inflict(&planned.fault).await
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok(())
}

/// How long something stays stopped so that its leases run out meanwhile.
pub(crate) fn longer_than(lease: Duration, rng: &mut fastrand::Rng) -> Duration {
    lease.mul_f64(1.2 + 0.4 * rng.f64())
}
