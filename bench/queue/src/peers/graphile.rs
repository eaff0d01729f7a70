//! The crate `graphile_worker`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use graphile_worker::tokio_postgres::TokioPostgresDatabase;
use graphile_worker::{
    Database as Driver, IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, Worker,
    WorkerContext, WorkerOptions, WorkerShutdownConfig, WorkerUtils,
};
use serde::{Deserialize, Serialize};

use crate::arrivals::Arrivals;
use crate::database::{Cost, Database};
use crate::load;
use crate::payload::Payload;

const SCHEMA: &str = "graphile_worker";
/// Its own default.
const DEFAULT_CONNECTIONS: usize = 20;
/// Jobs per call while preloading.
const PRELOAD: usize = 5_000;

/// How its worker runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Jobs at once.
    pub(crate) concurrency: usize,
    /// Jobs fetched at once by each local queue; 0 for none.
    pub(crate) local: usize,
    /// Local queues.
    pub(crate) queues: usize,
    /// How long completions are gathered, in ms; 0 for not at all.
    pub(crate) gather: u64,
    /// Connections.
    pub(crate) connections: usize,
}

/// How jobs are added in bulk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    /// Callers at once.
    pub(crate) producers: usize,
    /// Jobs per call.
    pub(crate) chunk: usize,
}

/// The best found by `--sweep` on the reference machine.
pub(crate) const BEST: Settings =
    Settings { concurrency: 24, local: 2_000, queues: 2, gather: 1, connections: 16 };
/// The best found by `--sweep` on the reference machine.
pub(crate) const BEST_BULK: Bulk = Bulk { producers: 2, chunk: 2_000 };

#[derive(Serialize, Deserialize)]
struct Noop {
    #[serde(flatten)]
    payload: Payload,
}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(arrivals) = context.get_ext::<Arrivals>() {
            arrivals.add(1);
            arrivals.stamp();
        }
        Ok::<(), String>(())
    }
}

/// An installation in a database.
pub(crate) struct Graphile {
    driver: Driver,
    utils: WorkerUtils,
}

fn jobs(count: usize) -> Vec<RawJobSpec> {
    let job = || RawJobSpec { identifier: "noop".into(), payload: Payload::json(), spec: JobSpec::default() };
    std::iter::repeat_with(job).take(count).collect()
}

impl Graphile {
    /// With a pool of `connections`.
    ///
    /// # Errors
    /// If it cannot be installed.
    pub(crate) async fn set_up(database: &Database, connections: usize) -> Result<Self> {
        let driver: Driver = TokioPostgresDatabase::from_url(&database.url(), connections)?.into();
        let utils = WorkerUtils::new(driver.clone(), SCHEMA);
        utils.migrate().await?;
        Ok(Self { driver, utils })
    }

    /// Adds `count` jobs, rounded up to whole batches; answers how many.
    ///
    /// # Errors
    /// If a call fails.
    pub(crate) async fn fill(&self, count: usize) -> Result<usize> {
        let batch = jobs(PRELOAD.min(count));
        for _ in 0..count.div_ceil(batch.len()) {
            self.utils.add_raw_jobs(&batch).await?;
        }
        Ok(count.div_ceil(batch.len()) * batch.len())
    }

    /// Jobs per second until all `count` that are there are durably completed, or until `limit`.
    ///
    /// # Errors
    /// If the worker fails.
    pub(crate) async fn run(
        &self,
        database: &Database,
        count: usize,
        settings: Option<Settings>,
        limit: Duration,
    ) -> Result<f64> {
        let arrivals = Arrivals::new(count);
        let watch = database.connect().await?;
        let left = watch.prepare("SELECT EXISTS (SELECT 1 FROM graphile_worker._private_jobs)").await?;
        let worker = self.worker(&arrivals, settings).await?;
        let begun = Instant::now();
        let running = Running::start(worker);
        let in_time = arrivals.all(limit).await.is_ok();
        // A handler returns before its completion is on disk.
        while in_time && begun.elapsed() < limit && watch.query_one(&left, &[]).await?.get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = begun.elapsed();
        let done = arrivals.count();
        running.stop().await?;
        Ok(done as f64 / took.as_secs_f64())
    }

    async fn worker(&self, arrivals: &Arrivals, settings: Option<Settings>) -> Result<Worker> {
        let mut options = WorkerOptions::default()
            .database(self.driver.clone())
            .schema(SCHEMA)
            .add_extension(arrivals.clone())
            .worker_shutdown(WorkerShutdownConfig::default().listen_os_shutdown_signals(false))
            .define_job::<Noop>();
        if let Some(settings) = settings {
            options = options.concurrency(settings.concurrency).poll_interval(Duration::from_millis(100));
            if settings.local > 0 {
                let local =
                    LocalQueueConfig::default().with_size(settings.local).with_queue_count(settings.queues);
                options = options.local_queue(local);
            }
            if settings.gather > 0 {
                options = options.complete_job_batch_delay(Duration::from_millis(settings.gather));
            }
        }
        options.init().await.context("graphile_worker does not start")
    }
}

/// A worker that runs until it is stopped.
struct Running {
    worker: Arc<Worker>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(worker: Worker) -> Self {
        let worker = Arc::new(worker);
        let running = Arc::clone(&worker);
        let task = tokio::spawn(async move {
            if let Err(error) = running.run().await {
                eprintln!("graphile_worker ended: {error}");
            }
        });
        Self { worker, task }
    }

    async fn stop(self) -> Result<()> {
        self.worker.request_shutdown();
        tokio::time::timeout(Duration::from_secs(30), self.task)
            .await
            .context("graphile_worker did not stop")??;
        Ok(())
    }
}

/// Jobs per second, preloaded, and what they cost.
///
/// # Errors
/// If something fails.
pub(crate) async fn drain(
    database: &Database,
    count: usize,
    settings: Option<Settings>,
    limit: Duration,
) -> Result<(f64, Cost)> {
    let connections = settings.map_or(DEFAULT_CONNECTIONS, |settings| settings.connections);
    let graphile = Graphile::set_up(database, connections).await?;
    let count = graphile.fill(count).await?;
    database.settle().await?;
    let mark = database.mark().await?;
    let rate = graphile.run(database, count, settings, limit).await?;
    drop(graphile);
    Ok((rate, database.cost(mark).await?.per(count)))
}

/// Jobs per second, added in bulk.
///
/// # Errors
/// If something fails.
pub(crate) async fn enqueue_bulk(database: &Database, count: usize, bulk: Bulk) -> Result<f64> {
    let utils = Graphile::set_up(database, bulk.producers).await?.utils;
    let batch = Arc::new(jobs(bulk.chunk));
    load::in_batches(count, bulk.producers, bulk.chunk, move |_| {
        let (utils, batch) = (utils.clone(), Arc::clone(&batch));
        async move {
            utils.add_raw_jobs(&batch).await?;
            Ok(())
        }
    })
    .await
}

/// Jobs per second, added one at a time by `clients`.
///
/// # Errors
/// If something fails.
pub(crate) async fn enqueue_single(database: &Database, clients: usize, time: Duration) -> Result<f64> {
    let utils = Graphile::set_up(database, clients).await?.utils;
    load::one_at_a_time(clients, time, move |_| {
        let utils = utils.clone();
        async move {
            utils.add_raw_job("noop", Payload::new(), JobSpec::default()).await?;
            Ok(())
        }
    })
    .await
}

/// From the call to the handler, in ms, on an idle system.
///
/// # Errors
/// If something fails.
pub(crate) async fn starts(database: &Database, samples: usize) -> Result<Vec<f64>> {
    let graphile = Graphile::set_up(database, DEFAULT_CONNECTIONS).await?;
    let arrivals = Arrivals::new(usize::MAX);
    // Without a local queue and without gathering: both trade latency for throughput.
    let settings =
        Settings { concurrency: 4, local: 0, queues: 1, gather: 0, connections: DEFAULT_CONNECTIONS };
    let running = Running::start(graphile.worker(&arrivals, Some(settings)).await?);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let taken = load::starts(samples, &arrivals, async || {
        graphile.utils.add_raw_job("noop", Payload::new(), JobSpec::default()).await?;
        Ok(())
    })
    .await;
    running.stop().await?;
    taken
}
