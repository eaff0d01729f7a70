//! Enqueuing through REST: in batches, and one at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use orca_proto::plan::Batch;
use orca_proto::spec::NewTask;

use super::Coordinator;
use crate::load;
use crate::payload::Payload;

/// Tasks per call, and callers, while preloading.
const PRELOAD: Bulk = Bulk { producers: 2, chunk: 5_000 };

/// How tasks are enqueued in bulk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    /// Callers at once.
    pub(crate) producers: usize,
    /// Tasks per call.
    pub(crate) chunk: usize,
}

/// The best found by `--sweep` on the reference machine.
pub(crate) const BEST_BULK: Bulk = Bulk { producers: 2, chunk: 5_000 };

/// A task with the payload as its input, in `queue`.
pub(crate) fn task(queue: &str) -> NewTask {
    let mut task = NewTask::new("noop");
    task.queue = queue.to_owned();
    task.input = Payload::json();
    task
}

/// Tasks per second, enqueued in bulk.
///
/// # Errors
/// If a call fails.
pub(crate) async fn bulk(coordinator: &Coordinator, count: usize, bulk: Bulk) -> Result<f64> {
    fill(coordinator, "default", count, bulk).await
}

/// Puts `count` tasks (rounded up to whole batches) into `queue`; answers how many.
///
/// # Errors
/// If a call fails.
pub(crate) async fn preload(coordinator: &Coordinator, queue: &str, count: usize) -> Result<usize> {
    let chunk = PRELOAD.chunk.min(count);
    fill(coordinator, queue, count, Bulk { chunk, ..PRELOAD }).await?;
    Ok(count.div_ceil(chunk) * chunk)
}

async fn fill(coordinator: &Coordinator, queue: &str, count: usize, bulk: Bulk) -> Result<f64> {
    let client = coordinator.operator()?;
    let batch = Arc::new(Batch { tasks: vec![task(queue); bulk.chunk] });
    load::in_batches(count, bulk.producers, bulk.chunk, move |_| {
        let (client, batch) = (client.clone(), Arc::clone(&batch));
        async move {
            client.enqueue_batch(&batch, None).await?;
            Ok(())
        }
    })
    .await
}

/// Tasks per second, enqueued one at a time by `clients`.
///
/// # Errors
/// If a call fails.
pub(crate) async fn single(coordinator: &Coordinator, clients: usize, time: Duration) -> Result<f64> {
    let client = coordinator.operator()?;
    let task = Arc::new(task("default"));
    load::one_at_a_time(clients, time, move |_| {
        let (client, task) = (client.clone(), Arc::clone(&task));
        async move {
            client.enqueue(&task, None).await?;
            Ok(())
        }
    })
    .await
}
