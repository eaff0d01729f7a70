//! Runs a worker's handlers: at once where they are done at once, else each as a task of the runtime that ends with its lease.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::REPORTS_IN_FLIGHT;
use super::claims::Begun;
use super::leases::HeldLease;
use super::membership::Membership;
use super::reporter::{Claim, Entry, Reporter, Tally};
use super::room::Taken;
use crate::attempt::AttemptReport;
use crate::node::{Grant, LeaseRef};
use crate::task::{Outcome, Timeout};

/// The exit code of a handler that panicked, as of a Rust program.
const PANICKED: i32 = 101;

/// How a task ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// What came of it, with `succeeded`; at most 1 MiB.
    pub result: Option<Box<RawValue>>,
}

impl Ending {
    /// It went well, and there is nothing to say.
    #[must_use]
    pub const fn succeeded() -> Self {
        Self { outcome: Outcome::Succeeded, result: None }
    }

    /// It went well, and this came of it.
    ///
    /// # Errors
    /// If `result` cannot be JSON.
    pub fn with(result: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self { outcome: Outcome::Succeeded, result: Some(to_raw_value(result)?) })
    }

    /// It did not go well.
    #[must_use]
    pub fn failed(exit_code: i32, reason: impl Into<String>) -> Self {
        Outcome::Failed { exit_code, reason: Some(reason.into()) }.into()
    }
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, result: None }
    }
}

/// A handler's future that cannot unwind.
type Running = Pin<Box<dyn Future<Output = Ending> + Send>>;

/// The handlers that run, and the way of their reports.
#[derive(Clone, Debug)]
pub(super) struct Handlers {
    member: Arc<Membership>,
    reporter: Arc<Reporter>,
    tracker: TaskTracker,
    /// The drain waits no longer.
    evict: CancellationToken,
    tally: Arc<Tally>,
}

impl Handlers {
    pub(super) fn new(member: &Arc<Membership>, linger: Duration, tally: Arc<Tally>) -> Self {
        let reporter = Reporter::counting(Arc::clone(member), REPORTS_IN_FLIGHT, linger, Arc::clone(&tally));
        Self {
            member: Arc::clone(member),
            reporter: Arc::new(reporter),
            tracker: TaskTracker::new(),
            evict: CancellationToken::new(),
            tally,
        }
    }

    /// Runs `handler` for each of `begun`.
    pub(super) fn begin<S, H, F>(&self, begun: Vec<Begun<S>>, handler: &Arc<H>)
    where
        S: Send + 'static,
        H: Fn(Grant<S>) -> F + Send + Sync + 'static,
        F: Future<Output = Ending> + Send + 'static,
    {
        self.tally.granted.fetch_add(begun.len() as u64, Ordering::Relaxed);
        let mut ready = Vec::new();
        for begun in begun {
            let lease = begun.lease();
            let Begun { grant, taken, until, deadline } = begun;
            let handler = Arc::clone(handler);
            let running = AssertUnwindSafe(async move { handler(grant).await }).catch_unwind();
            let mut running: Running = Box::pin(
                running
                    .map(|ended| ended.unwrap_or_else(|_| Ending::failed(PANICKED, "the handler panicked"))),
            );
            match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(ending) => {
                    let claim = Claim { until, held: None, release: false, taken: Some(taken), answer: None };
                    ready.push(Entry { report: report(lease, ending), claim });
                }
                // Polled again by its task, with a waker that wakes.
                Poll::Pending => {
                    let held = self.member.leases().hold(lease, until, deadline);
                    self.tracker.spawn(self.clone().attend(running, held, taken));
                }
            }
        }
        if !ready.is_empty() {
            self.reporter.queue(ready);
        }
    }

    async fn attend(self, running: Running, held: Arc<HeldLease>, taken: Taken) {
        let ending = tokio::select! {
            biased;
            ending = running => Some(ending),
            () = held.over() => None,
            () = held.cancel.cancelled() => Some(Outcome::Cancelled.into()),
            () = held.deadline_reached() => Some(Outcome::TimedOut { which: Timeout::Deadline }.into()),
            () = self.evict.cancelled() => {
                Some(Outcome::RuntimeError { reason: "the worker was shut down".to_owned() }.into())
            }
        };
        let lease = held.lease;
        match ending {
            Some(ending) => {
                let claim = Claim {
                    until: tokio::time::Instant::now(),
                    held: Some(held),
                    release: true,
                    taken: Some(taken),
                    answer: None,
                };
                self.reporter.queue([Entry { report: report(lease, ending), claim }]);
            }
            None => {
                self.tally.given_up.fetch_add(1, Ordering::Relaxed);
                self.member.leases().release(lease);
                tracing::warn!(task = %lease.task, "the lease is over: nothing is reported");
            }
        }
    }

    /// Waits until every handler has ended and is reported; after `limit`, those that still run are dropped and given back.
    pub(super) async fn drain(&self, limit: Duration) {
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait()).await.is_err() {
            self.evict.cancel();
            self.tracker.wait().await;
        }
        self.reporter.idle().await;
    }
}

fn report(lease: LeaseRef, ending: Ending) -> AttemptReport<Box<RawValue>> {
    let Ending { outcome, result } = ending;
    let result = result.filter(|_| outcome == Outcome::Succeeded);
    AttemptReport { task: lease.task, token: lease.token, outcome, result }
}
