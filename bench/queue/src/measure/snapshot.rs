//! Whether one old snapshot, held open, slows the queue down: rounds of filling and draining, first without it, then with it.
//! What is dead cannot be vacuumed while it is held.

use anyhow::Result;

use super::Measure;
use crate::bench::Bench;
use crate::board::median;
use crate::database::Database;
use crate::floor::Rounds;
use crate::orca::{self, Coordinator};
use crate::peers::{awa, graphile};

/// Rounds in all for which the snapshot is held.
const HELD: usize = 20;
/// Rounds of which the median counts, at the beginning and at the end.
const COUNTED: usize = 3;

/// Something that fills itself and drains.
enum System<'a> {
    Floor(Rounds<'a>),
    Graphile(graphile::Graphile, &'a Database),
    Awa(Box<awa::Awa>),
    Orca(Coordinator),
}

impl<'a> System<'a> {
    async fn start(bench: &Bench, name: &str, database: &'a Database) -> Result<Self> {
        Ok(match name {
            "floor" => Self::Floor(Rounds::new(database).await?),
            "graphile_worker" => {
                let connections = graphile::BEST.connections;
                Self::Graphile(graphile::Graphile::set_up(database, connections).await?, database)
            }
            "awa" => {
                let settings = awa::BEST;
                Self::Awa(Box::new(awa::Awa::set_up(database, settings.connections, settings.stripes).await?))
            }
            _ => Self::Orca(bench.orca.start(database, &[]).await?),
        })
    }

    /// Fills in `count` tasks, and drains them; drained per second.
    async fn round(&self, count: usize) -> Result<f64> {
        match self {
            Self::Floor(rounds) => rounds.round(count).await,
            Self::Graphile(graphile, database) => {
                let count = graphile.fill(count).await?;
                let limit = std::time::Duration::from_secs(300);
                graphile.run(database, count, Some(graphile::BEST), limit).await
            }
            Self::Awa(awa) => {
                let count = awa.fill(count).await?;
                awa.run(count, Some(awa::BEST)).await
            }
            Self::Orca(coordinator) => {
                let count = orca::preload(coordinator, "default", count).await?;
                orca::drain(&[coordinator], count, Some(orca::BEST)).await
            }
        }
    }

    async fn stop(self) -> Result<()> {
        match self {
            Self::Orca(coordinator) => coordinator.stop().await,
            Self::Floor(_) | Self::Graphile(..) | Self::Awa(_) => Ok(()),
        }
    }
}

/// Measures it for every system.
///
/// # Errors
/// The first failure.
pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    let chunk = bench.size.snapshot / HELD;
    println!("\n{} tasks while an old snapshot is held, in rounds of {chunk}", bench.size.snapshot);
    for name in crate::board::SYSTEMS {
        if !bench.includes(name) {
            continue;
        }
        let database = bench.server.create("bench").await?;
        let system = System::start(bench, name, &database).await?;
        let mut fresh = Vec::new();
        for round in 0..=COUNTED {
            let rate = system.round(chunk).await?;
            // The first one warms up.
            if round > 0 {
                fresh.push(rate);
            }
        }
        let holder = database.connect().await?;
        holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        // The snapshot is taken by the first query.
        holder.query("SELECT count(*) FROM pg_class", &[]).await?;
        let mut held = Vec::new();
        for _ in 0..HELD {
            held.push(system.round(chunk).await?);
        }
        let series: Vec<String> = held.iter().map(|rate| format!("{rate:.0}")).collect();
        println!("  {name}: fresh {fresh:.0?}, then {}", series.join(" "));
        drop(holder);
        system.stop().await?;
        let last = held.split_off(held.len().saturating_sub(COUNTED));
        if let (Some(fresh), Some(last)) = (median(fresh), median(last)) {
            bench.board.add(Measure::SnapshotRatio, name, last / fresh);
        }
        database.remove().await?;
    }
    Ok(())
}
