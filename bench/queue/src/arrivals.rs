//! What the no-op handlers of every system say: that one more task arrived, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::{Mutex, Notify, mpsc};

/// Shared by all handlers of a run; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    count: AtomicUsize,
    expected: usize,
    all: Notify,
    times: mpsc::Sender<Instant>,
    arrived: Mutex<mpsc::Receiver<Instant>>,
}

impl Arrivals {
    /// Counts up to `expected` tasks.
    pub(crate) fn new(expected: usize) -> Self {
        let (times, arrived) = mpsc::channel(64);
        let inner = Inner {
            count: AtomicUsize::new(0),
            expected,
            all: Notify::new(),
            times,
            arrived: Mutex::new(arrived),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Counts `tasks` that arrived.
    pub(crate) fn add(&self, tasks: usize) {
        let before = self.inner.count.fetch_add(tasks, Ordering::Relaxed);
        if before + tasks >= self.inner.expected {
            self.inner.all.notify_one();
        }
    }

    /// Says that a task arrived now; for latencies.
    pub(crate) fn stamp(&self) {
        // Full only if nobody measures.
        let _ = self.inner.times.try_send(Instant::now());
    }

    /// How many arrived.
    pub(crate) fn count(&self) -> usize {
        self.inner.count.load(Ordering::Relaxed)
    }

    /// Waits until all that are expected have arrived.
    ///
    /// # Errors
    /// If they have not within `limit`; with how many had.
    pub(crate) async fn all(&self, limit: Duration) -> Result<()> {
        let wait = async {
            while self.count() < self.inner.expected {
                self.inner.all.notified().await;
            }
        };
        tokio::time::timeout(limit, wait).await.with_context(|| {
            format!("only {} of {} tasks arrived within {limit:?}", self.count(), self.inner.expected)
        })
    }

    /// The next stamp.
    ///
    /// # Errors
    /// If there is none within `limit`.
    pub(crate) async fn next(&self, limit: Duration) -> Result<Instant> {
        let mut arrived = self.inner.arrived.lock().await;
        let next = tokio::time::timeout(limit, arrived.recv()).await;
        next.ok().flatten().with_context(|| format!("the task did not start within {limit:?}"))
    }
}
