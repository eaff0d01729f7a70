//! The settings of every system, tried one after another: where the constants called `BEST` come from.

use std::time::Duration;

use anyhow::Result;

use super::Measure;
use crate::bench::Bench;
use crate::{orca, peers};

/// Tries them.
///
/// # Errors
/// The first failure.
pub(super) async fn run(bench: &Bench) -> Result<()> {
    if bench.includes("graphile_worker") {
        graphile(bench).await?;
    }
    if bench.includes("awa") {
        awa(bench).await?;
    }
    if bench.includes("orca") {
        orca(bench).await?;
    }
    Ok(())
}

async fn graphile(bench: &Bench) -> Result<()> {
    use peers::graphile::{Bulk, Settings, drain, enqueue_bulk};
    let mut tried = Vec::new();
    for concurrency in [8, 24, 64] {
        for (local, queues) in [(1_000, 2), (2_000, 2), (2_000, 4), (5_000, 1)] {
            for gather in [1, 5] {
                tried.push(Settings { concurrency, local, queues, gather, connections: 16 });
            }
        }
    }
    for settings in tried.into_iter().filter(|_| bench.wants(Measure::Drain)) {
        let database = bench.server.create("bench").await?;
        let limit = Duration::from_secs(300);
        let (rate, _) = drain(&database, bench.size.drain / 2, Some(settings), limit).await?;
        println!("{rate:>9.0}  graphile_worker {settings:?}");
        database.remove().await?;
    }
    for (producers, chunk) in
        [(1, 1_000), (1, 5_000), (2, 500), (2, 1_000), (2, 2_000), (2, 5_000), (4, 1_000)]
    {
        if !bench.wants(Measure::EnqueueBulk) {
            break;
        }
        let database = bench.server.create("bench").await?;
        let bulk = Bulk { producers, chunk };
        let rate = enqueue_bulk(&database, bench.size.bulk, bulk).await?;
        println!("{rate:>9.0}  graphile_worker {bulk:?}");
        database.remove().await?;
    }
    Ok(())
}

async fn awa(bench: &Bench) -> Result<()> {
    use peers::awa::{Bulk, Settings, drain, enqueue_bulk};
    let mut tried = Vec::new();
    for (workers, batch) in [(256, 512), (511, 512), (1_024, 512), (2_048, 1_024), (4_096, 1_024)] {
        for (claimers, stripes) in [(1, 1), (2, 1), (2, 2), (4, 4)] {
            tried.push(Settings { workers, claimers, batch, stripes, connections: 30 });
        }
    }
    for settings in tried.into_iter().filter(|_| bench.wants(Measure::Drain)) {
        let database = bench.server.create("bench").await?;
        let (rate, _) = drain(&database, bench.size.drain / 3, Some(settings)).await?;
        println!("{rate:>9.0}  awa {settings:?}");
        database.remove().await?;
    }
    for (producers, chunk) in [(1, 5_000), (1, 20_000), (2, 2_000), (2, 5_000), (2, 10_000), (4, 5_000)] {
        if !bench.wants(Measure::EnqueueBulk) {
            break;
        }
        let database = bench.server.create("bench").await?;
        let bulk = Bulk { producers, chunk };
        let rate = enqueue_bulk(&database, bench.size.bulk, bulk).await?;
        println!("{rate:>9.0}  awa {bulk:?}");
        database.remove().await?;
    }
    Ok(())
}

async fn orca(bench: &Bench) -> Result<()> {
    let mut tried = Vec::new();
    for (nodes, claims) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1), (4, 2)] {
        for (slots, batch) in [(1_024, 512), (4_096, 1_024), (8_192, 1_024)] {
            tried.push(orca::Settings { nodes, slots, batch, claims });
        }
    }
    for settings in tried.into_iter().filter(|_| bench.wants(Measure::Drain)) {
        let database = bench.server.create("bench").await?;
        let coordinator = bench.orca.start(&database, &[]).await?;
        let count = orca::preload(&coordinator, "default", bench.size.drain / 2).await?;
        database.settle().await?;
        let rate = orca::drain(&[&coordinator], count, Some(settings)).await?;
        println!("{rate:>9.0}  orca {settings:?}");
        coordinator.stop().await?;
        database.remove().await?;
    }
    for (producers, chunk) in
        [(1, 5_000), (2, 1_000), (2, 2_500), (2, 5_000), (2, 10_000), (4, 2_500), (4, 5_000)]
    {
        if !bench.wants(Measure::EnqueueBulk) {
            break;
        }
        let database = bench.server.create("bench").await?;
        let coordinator = bench.orca.start(&database, &[]).await?;
        let bulk = orca::Bulk { producers, chunk };
        let rate = orca::bulk(&coordinator, bench.size.bulk, bulk).await?;
        println!("{rate:>9.0}  orca {bulk:?}");
        coordinator.stop().await?;
        database.remove().await?;
    }
    Ok(())
}
