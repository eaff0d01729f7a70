//! Nodes: the client library's own worker, with a handler that does nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use orca_proto::client::Client;
use orca_proto::client::worker::{Ending, Worker, WorkerSettings};
use orca_proto::ids::InstanceId;
use orca_proto::node::{Grant, Registration};
use orca_proto::spec::Role;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::Coordinator;

/// The longest that a drain may take.
const DRAIN: Duration = Duration::from_secs(900);

/// How nodes work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Nodes.
    pub(crate) nodes: usize,
    /// Tasks at once, each.
    pub(crate) slots: u32,
    /// Most grants in an answer.
    pub(crate) batch: u32,
    /// Claims under way at once, each.
    pub(crate) claims: usize,
}

/// The best found by `--sweep` on the reference machine.
pub(crate) const BEST: Settings = Settings { nodes: 2, slots: 4_096, batch: 1_024, claims: 2 };

/// What a no-op returns: a result small enough not to matter, so that results are kept.
#[derive(Serialize)]
struct Done {
    ok: bool,
}

/// What a node of that name says of itself.
pub(crate) fn registration(name: &str, slots: u32) -> Registration {
    Registration {
        name: name.to_owned(),
        instance: InstanceId::new(),
        role: Role::Work,
        slots,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime: "none (benchmark)".to_owned(),
        labels: std::collections::BTreeMap::new(),
        cpus: None,
        memory: None,
        resumes: Vec::new(),
        home: None,
    }
}

/// A worker at `client` that gives every grant to `arrived` and reports success.
///
/// # Errors
/// If the coordinator refuses it.
pub(crate) async fn work(
    client: Client,
    name: &str,
    settings: WorkerSettings,
    shutdown: &CancellationToken,
    arrived: impl Fn() + Send + Sync + 'static,
) -> Result<Worker> {
    let registration = registration(name, settings.slots);
    let handler = move |_: Grant<Box<RawValue>>| {
        arrived();
        std::future::ready(Ending::with(&Done { ok: true }).unwrap_or_else(|_| Ending::succeeded()))
    };
    Ok(Worker::start(client, registration, settings, shutdown.clone(), handler).await?)
}

/// Nodes at work.
pub(crate) struct Fleet {
    workers: Vec<Worker>,
    shutdown: CancellationToken,
}

impl Fleet {
    /// Starts nodes, spread over the coordinators in turn. `None`: one node with the default settings.
    ///
    /// # Errors
    /// If a coordinator refuses one.
    pub(crate) async fn start(coordinators: &[&Coordinator], settings: Option<Settings>) -> Result<Self> {
        Self::serving(&[], coordinators, settings).await
    }

    /// The same, for these queues only; all where there are none.
    ///
    /// # Errors
    /// If a coordinator refuses one.
    pub(crate) async fn serving(
        queues: &[&str],
        coordinators: &[&Coordinator],
        settings: Option<Settings>,
    ) -> Result<Self> {
        let shutdown = CancellationToken::new();
        let count = settings.map_or(1, |settings| settings.nodes);
        let mut workers = Vec::new();
        for (index, coordinator) in coordinators.iter().cycle().take(count).enumerate() {
            let mut worker = settings.map_or_else(WorkerSettings::default, |settings| WorkerSettings {
                slots: settings.slots,
                batch: settings.batch,
                claims_in_flight: settings.claims,
                ..WorkerSettings::default()
            });
            worker.queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
            let name = format!("node-{index}");
            workers.push(work(coordinator.worker()?, &name, worker, &shutdown, || {}).await?);
        }
        Ok(Self { workers, shutdown })
    }

    /// How many outcomes the coordinators have recorded.
    pub(crate) fn settled(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counts().settled).sum()
    }

    /// Waits until `count` outcomes are recorded.
    ///
    /// # Errors
    /// If they are not within `limit`, or a report was refused.
    pub(crate) async fn done(&self, count: usize, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.settled() < count as u64 {
            if begun.elapsed() > limit {
                let counts: Vec<_> = self.workers.iter().map(Worker::counts).collect();
                bail!("only {} of {count} tasks were done after {limit:?}: {counts:?}", self.settled());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Drains and stops the nodes. Says so where tasks had to run again: the figure is no good then.
    ///
    /// # Errors
    /// If one ended by itself.
    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        for worker in self.workers {
            let counts = worker.ended().await.context("a node ended by itself")?;
            if counts.refused + counts.given_up > 0 {
                println!(
                    "  orca ran tasks again, as their leases were over or their reports refused: {counts:?}"
                );
            }
        }
        Ok(())
    }
}

/// Tasks per second until `count` that are there already are durably done.
///
/// # Errors
/// If they are not done in time.
pub(crate) async fn drain(
    coordinators: &[&Coordinator],
    count: usize,
    settings: Option<Settings>,
) -> Result<f64> {
    let begun = Instant::now();
    let fleet = Fleet::start(coordinators, settings).await?;
    fleet.done(count, DRAIN).await?;
    let took = begun.elapsed();
    fleet.stop().await?;
    Ok(count as f64 / took.as_secs_f64())
}
