//! Two coordinators on one database against one, with the same nodes; and whether a queue's limit is exact with two.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use orca_proto::client::worker::{Ending, Worker, WorkerSettings};
use orca_proto::node::Grant;
use orca_proto::queue::QueueSettings;
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

use super::Measure;
use crate::bench::Bench;
use crate::board::median;
use crate::database::Cost;
use crate::orca::{self, Coordinator};

/// Tasks of the limited queue, and how many of them may run at once.
const LIMITED: usize = 600;
const MOST: u32 = 7;
/// How long each of them runs.
const RUNS: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(120);

/// Measures it.
///
/// # Errors
/// The first failure.
pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.includes("orca") {
        return Ok(());
    }
    println!("\ntwo coordinators on one database");
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..bench.size.rounds * 2 {
        // Now the one first, now the two: whoever comes second finds the disk as the first one left it.
        let order = if round % 2 == 0 { [1, 2] } else { [2, 1] };
        for count in order {
            let (rate, cost) = drain(bench, count).await?;
            println!(
                "  {count} coordinator(s): {rate:.0} tasks/s; per task {:.0} bytes of WAL, {:.4} commits",
                cost.wal, cost.commits
            );
            if let Some(rates) = rates.get_mut(count - 1) {
                rates.push(rate);
            }
        }
    }
    let [one, two] = rates;
    if let (Some(one), Some(two)) = (median(one), median(two)) {
        bench.board.add(Measure::TwoCoordinatorsRatio, "orca", two / one);
    }
    limit(bench).await
}

async fn start(
    bench: &Bench,
    database: &crate::database::Database,
    count: usize,
) -> Result<Vec<Coordinator>> {
    let mut coordinators = Vec::new();
    for _ in 0..count {
        coordinators.push(bench.orca.start(database, &[]).await?);
    }
    Ok(coordinators)
}

async fn drain(bench: &Bench, count: usize) -> Result<(f64, Cost)> {
    let database = bench.server.create("bench").await?;
    let coordinators = start(bench, &database, count).await?;
    let all: Vec<&Coordinator> = coordinators.iter().collect();
    let first = coordinators.first().context("there is no coordinator")?;
    let tasks = orca::preload(first, "default", bench.size.drain).await?;
    database.settle().await?;
    let mark = database.mark().await?;
    let rate = orca::drain(&all, tasks, Some(orca::BEST)).await.context("the drain failed")?;
    for coordinator in coordinators {
        coordinator.stop().await?;
    }
    let cost = database.cost(mark).await?.per(tasks);
    database.remove().await?;
    Ok((rate, cost))
}

/// Runs tasks of a queue with a limit on nodes of two coordinators, and counts how many are held at once.
async fn limit(bench: &mut Bench) -> Result<()> {
    let database = bench.server.create("bench").await?;
    let coordinators = start(bench, &database, 2).await?;
    let first = coordinators.first().context("there is no coordinator")?;
    let settings = QueueSettings { max_running: Some(MOST), ..QueueSettings::default() };
    first.operator()?.set_queue("limited", &settings).await.context("the queue's limit cannot be set")?;
    orca::preload(first, "limited", LIMITED).await?;
    let (running, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let shutdown = CancellationToken::new();
    let mut workers = Vec::new();
    for (index, coordinator) in coordinators.iter().enumerate() {
        let (running, highest) = (Arc::clone(&running), Arc::clone(&highest));
        let handler = move |_: Grant<IgnoredAny>| {
            let (running, highest) = (Arc::clone(&running), Arc::clone(&highest));
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                highest.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(RUNS).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ending::succeeded()
            }
        };
        let registration = orca::registration(&format!("node-{index}"), 64);
        let settings = WorkerSettings::default();
        let client = coordinator.worker()?;
        workers.push(Worker::start(client, registration, settings, shutdown.clone(), handler).await?);
    }
    let begun = Instant::now();
    let settled = |workers: &[Worker]| workers.iter().map(|worker| worker.counts().settled).sum::<u64>();
    while settled(&workers) < LIMITED as u64 && begun.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (done, highest) = (settled(&workers), highest.load(Ordering::SeqCst));
    println!("  a queue that may run {MOST} at once ran {highest} at most; {done} of {LIMITED} tasks done");
    if highest != MOST as usize || done != LIMITED as u64 {
        bench.board.wrong(format!("the limit of {MOST} is not exact: {highest} at once, {done} tasks done"));
    }
    shutdown.cancel();
    for worker in workers {
        worker.ended().await?;
    }
    for coordinator in coordinators {
        coordinator.stop().await?;
    }
    database.remove().await
}
