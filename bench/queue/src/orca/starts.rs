//! From the call of enqueue to a node's handler, on an idle system.

use std::time::Duration;

use anyhow::Result;
use orca_proto::client::worker::WorkerSettings;
use tokio_util::sync::CancellationToken;

use super::{Coordinator, task, work};
use crate::arrivals::Arrivals;
use crate::load;

/// Of each start, in ms. One node with the default settings.
///
/// # Errors
/// If a task does not start.
pub(crate) async fn starts(coordinator: &Coordinator, samples: usize) -> Result<Vec<f64>> {
    let arrivals = Arrivals::new(usize::MAX);
    let shutdown = CancellationToken::new();
    let stamp = arrivals.clone();
    let settings = WorkerSettings::default();
    let worker = work(coordinator.worker()?, "node", settings, &shutdown, move || stamp.stamp()).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let client = coordinator.operator()?;
    let task = task("default");
    let taken = load::starts(samples, &arrivals, async || {
        client.enqueue(&task, None).await?;
        Ok(())
    })
    .await;
    shutdown.cancel();
    worker.ended().await?;
    taken
}
