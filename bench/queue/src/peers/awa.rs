//! The crate `awa`, on its queue storage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use awa::{
    Client, InsertOpts, InsertParams, JobArgs, JobContext, JobError, JobResult, QueueConfig, QueueStorage,
    QueueStorageConfig, Worker,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::arrivals::Arrivals;
use crate::database::{Cost, Database};
use crate::load;
use crate::payload::Payload;

const QUEUE: &str = "bench";
/// The longest that a drain may take.
const DRAIN: Duration = Duration::from_secs(900);
/// Jobs per call while preloading.
const PRELOAD: usize = 5_000;

/// How its worker runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Jobs at once.
    pub(crate) workers: u32,
    /// Claiming loops.
    pub(crate) claimers: u16,
    /// Jobs per claim.
    pub(crate) batch: usize,
    /// Queue stripes.
    pub(crate) stripes: usize,
    /// Connections.
    pub(crate) connections: u32,
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
    Settings { workers: 1_024, claimers: 1, batch: 512, stripes: 1, connections: 20 };
/// The best found by `--sweep` on the reference machine.
pub(crate) const BEST_BULK: Bulk = Bulk { producers: 2, chunk: 10_000 };

#[derive(Clone, Serialize, Deserialize, JobArgs)]
struct Noop {
    data: String,
}

struct NoopWorker(Arrivals);

#[async_trait]
impl Worker for NoopWorker {
    fn kind(&self) -> &'static str {
        "noop"
    }

    async fn perform(&self, _: &JobContext) -> Result<JobResult, JobError> {
        self.0.add(1);
        self.0.stamp();
        Ok(JobResult::Completed)
    }
}

/// An installation in a database.
pub(crate) struct Awa {
    pool: PgPool,
    store: QueueStorage,
    config: QueueStorageConfig,
}

impl Awa {
    /// With a pool of `connections`.
    ///
    /// # Errors
    /// If it cannot be installed.
    pub(crate) async fn set_up(database: &Database, connections: u32, stripes: usize) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(connections).connect(&database.url()).await?;
        awa::migrations::run(&pool).await?;
        let config = QueueStorageConfig { queue_stripe_count: stripes, ..QueueStorageConfig::default() };
        let store = QueueStorage::new(config.clone())?;
        // What its documents tell an operator of a new installation to do.
        store.prepare_schema(&pool).await?;
        awa::storage::prepare(&pool, "queue_storage", serde_json::json!({ "schema": store.schema() }))
            .await?;
        awa::storage::enter_mixed_transition_quiesced(&pool).await?;
        let status = awa::storage::finalize(&pool).await?;
        if status.state != "active" {
            bail!("awa's queue storage is {}, not active", status.state);
        }
        Ok(Self { pool, store, config })
    }

    /// Adds `count` jobs, rounded up to whole batches; answers how many.
    ///
    /// # Errors
    /// If a call fails.
    pub(crate) async fn fill(&self, count: usize) -> Result<usize> {
        let batch = jobs(PRELOAD.min(count))?;
        for _ in 0..count.div_ceil(batch.len()) {
            self.store.enqueue_params_copy(&self.pool, &batch).await?;
        }
        Ok(count.div_ceil(batch.len()) * batch.len())
    }

    /// Jobs per second until all `count` that are there are durably completed. `None`: the default settings.
    ///
    /// # Errors
    /// If they are not in time.
    pub(crate) async fn run(&self, count: usize, settings: Option<Settings>) -> Result<f64> {
        let arrivals = Arrivals::new(count);
        let target = self.terminal().await? + i64::try_from(count)?;
        let begun = Instant::now();
        let client = self.start(&arrivals, settings).await?;
        arrivals.all(DRAIN).await?;
        // A handler returns before its completion is on disk.
        while self.terminal().await? < target {
            if begun.elapsed() > DRAIN {
                bail!("awa left jobs behind");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = begun.elapsed();
        client.shutdown(Duration::from_secs(10)).await;
        Ok(count as f64 / took.as_secs_f64())
    }

    async fn terminal(&self) -> Result<i64> {
        Ok(self.store.queue_counts(&self.pool, QUEUE).await?.terminal)
    }

    async fn start(&self, arrivals: &Arrivals, settings: Option<Settings>) -> Result<Client> {
        let queue = match settings {
            Some(settings) => QueueConfig {
                max_workers: settings.workers,
                claimers: settings.claimers,
                claim_batch_size: settings.batch,
                poll_interval: Duration::from_millis(50),
                // Without a deadline, attempts take its shorter path.
                deadline_duration: Duration::ZERO,
                ..QueueConfig::default()
            },
            None => QueueConfig::default(),
        };
        let mut builder = Client::builder(self.pool.clone()).queue(QUEUE, queue);
        if settings.is_some() {
            let second = Duration::from_secs(1);
            builder = builder.queue_storage(self.config.clone(), second, second);
        }
        let client = builder.register_worker(NoopWorker(arrivals.clone())).build()?;
        client.start().await?;
        Ok(client)
    }
}

fn jobs(count: usize) -> Result<Vec<InsertParams>> {
    let job = Noop { data: Payload::new().data };
    let options = || InsertOpts { queue: QUEUE.into(), ..InsertOpts::default() };
    (0..count).map(|_| Ok(awa::model::insert::params_with(&job, options())?)).collect()
}

/// Jobs per second, preloaded, until the last is durably completed. `None` for the default settings.
///
/// # Errors
/// If something fails.
pub(crate) async fn drain(
    database: &Database,
    count: usize,
    settings: Option<Settings>,
) -> Result<(f64, Cost)> {
    let awa = Awa::set_up(
        database,
        settings.map_or(20, |settings| settings.connections),
        settings.map_or(1, |settings| settings.stripes),
    )
    .await?;
    let count = awa.fill(count).await?;
    database.settle().await?;
    let mark = database.mark().await?;
    let rate = awa.run(count, settings).await?;
    awa.pool.close().await;
    Ok((rate, database.cost(mark).await?.per(count)))
}

/// Jobs per second, added in bulk by COPY.
///
/// # Errors
/// If something fails.
pub(crate) async fn enqueue_bulk(database: &Database, count: usize, bulk: Bulk) -> Result<f64> {
    let awa = Arc::new(Awa::set_up(database, u32::try_from(bulk.producers)?, 1).await?);
    let batch = Arc::new(jobs(bulk.chunk)?);
    let rate = load::in_batches(count, bulk.producers, bulk.chunk, {
        let awa = Arc::clone(&awa);
        move |_| {
            let (awa, batch) = (Arc::clone(&awa), Arc::clone(&batch));
            async move {
                awa.store.enqueue_params_copy(&awa.pool, &batch).await?;
                Ok(())
            }
        }
    })
    .await;
    awa.pool.close().await;
    rate
}

/// Jobs per second, added one at a time by `clients`.
///
/// # Errors
/// If something fails.
pub(crate) async fn enqueue_single(database: &Database, clients: usize, time: Duration) -> Result<f64> {
    let awa = Awa::set_up(database, u32::try_from(clients)?, 1).await?;
    let pool = awa.pool.clone();
    let rate = load::one_at_a_time(clients, time, move |_| {
        let pool = pool.clone();
        async move { insert(&pool).await }
    })
    .await;
    awa.pool.close().await;
    rate
}

async fn insert(pool: &PgPool) -> Result<()> {
    let job = Noop { data: Payload::new().data };
    let options = InsertOpts { queue: QUEUE.into(), ..InsertOpts::default() };
    awa::insert_with(pool, &job, options).await.context("awa refused a job")?;
    Ok(())
}

/// From the call to the handler, in ms, on an idle system.
///
/// # Errors
/// If something fails.
pub(crate) async fn starts(database: &Database, samples: usize) -> Result<Vec<f64>> {
    let awa = Awa::set_up(database, 20, 1).await?;
    let arrivals = Arrivals::new(usize::MAX);
    let settings = Settings { workers: 50, claimers: 1, batch: 512, stripes: 1, connections: 20 };
    let client = awa.start(&arrivals, Some(settings)).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let taken = load::starts(samples, &arrivals, async || insert(&awa.pool).await).await;
    client.shutdown(Duration::from_secs(10)).await;
    awa.pool.close().await;
    taken
}
