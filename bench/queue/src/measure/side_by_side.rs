//! What every system can do, in turn, so that whatever else the machine does hits all alike: drain, enqueue, start.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Measure;
use crate::bench::Bench;
use crate::board::percentile;
use crate::database::{Cost, Database};
use crate::{floor, orca, peers};

/// Clients that enqueue one at a time.
const CLIENTS: usize = 16;
/// Tasks of the drain before those that count.
const WARM_UP: usize = 20_000;
/// graphile_worker with its default settings works off a backlog at its polling interval; this much of it says enough.
const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

/// One thing to measure of one system.
#[derive(Clone, Copy)]
enum What {
    Drain(usize),
    DrainDefault,
    Bulk,
    Single,
    Starts,
}

/// Measures what was asked for, round after round.
pub(super) async fn run(bench: &mut Bench) {
    let mut wanted = Vec::new();
    if bench.wants(Measure::Drain) {
        wanted.push(What::Drain(bench.size.drain));
    }
    if bench.wants(Measure::DrainDefault) {
        wanted.push(What::DrainDefault);
    }
    if bench.wants(Measure::EnqueueBulk) {
        wanted.push(What::Bulk);
    }
    if bench.wants(Measure::EnqueueSingle) {
        wanted.push(What::Single);
    }
    if bench.wants(Measure::StartP50) || bench.wants(Measure::StartP99) {
        wanted.push(What::Starts);
    }
    if wanted.is_empty() {
        return;
    }
    println!("\nside by side; a warm-up that does not count, then {} round(s)", bench.size.rounds);
    for system in crate::board::SYSTEMS {
        if bench.includes(system)
            && let Err(error) = one(bench, system, What::Drain(WARM_UP)).await
        {
            bench.board.wrong(format!("{error:#}"));
        }
    }
    for round in 1..=bench.size.rounds {
        println!("round {round}");
        for what in &wanted {
            for system in crate::board::SYSTEMS {
                if !bench.includes(system) {
                    continue;
                }
                let figures = match one(bench, system, *what).await {
                    Ok(figures) => figures,
                    // The others are worth measuring all the same.
                    Err(error) => {
                        bench.board.wrong(format!("{error:#}"));
                        continue;
                    }
                };
                for (measure, value) in figures.values {
                    bench.board.add(measure, system, value);
                }
                if let Some((measure, cost)) = figures.cost {
                    bench.board.cost(measure, system, cost);
                }
            }
        }
    }
}

#[derive(Default)]
struct Figures {
    values: Vec<(Measure, f64)>,
    cost: Option<(Measure, Cost)>,
}

impl Figures {
    fn rate(measure: Measure, rate: f64) -> Self {
        Self { values: vec![(measure, rate)], cost: None }
    }

    fn drain(measure: Measure, (rate, cost): (f64, Cost)) -> Self {
        Self { values: vec![(measure, rate)], cost: Some((measure, cost)) }
    }

    fn starts(samples: &[f64]) -> Self {
        let values = [(Measure::StartP50, 0.5), (Measure::StartP99, 0.99)];
        Self { values: values.map(|(measure, part)| (measure, percentile(samples, part))).into(), cost: None }
    }
}

async fn one(bench: &Bench, system: &str, what: What) -> Result<Figures> {
    let database = bench.server.create("bench").await?;
    let figures = match system {
        "floor" => of_floor(bench, &database, what).await,
        "graphile_worker" => of_graphile(bench, &database, what).await,
        "awa" => of_awa(bench, &database, what).await,
        _ => of_orca(bench, &database, what).await,
    };
    let figures = figures.with_context(|| format!("{system} cannot be measured"))?;
    database.remove().await?;
    Ok(figures)
}

async fn of_floor(bench: &Bench, database: &Database, what: What) -> Result<Figures> {
    let size = bench.size;
    Ok(match what {
        What::Drain(count) => Figures::drain(Measure::Drain, floor::drain(database, count).await?),
        What::Bulk => Figures::rate(Measure::EnqueueBulk, floor::enqueue_bulk(database, size.bulk).await?),
        What::Single => {
            let rate = floor::enqueue_single(database, CLIENTS, size.single).await?;
            Figures::rate(Measure::EnqueueSingle, rate)
        }
        What::DrainDefault | What::Starts => Figures::default(),
    })
}

async fn of_graphile(bench: &Bench, database: &Database, what: What) -> Result<Figures> {
    use peers::graphile::{BEST, BEST_BULK, drain, enqueue_bulk, enqueue_single, starts};
    let size = bench.size;
    Ok(match what {
        What::Drain(count) => {
            let limit = Duration::from_secs(600);
            Figures::drain(Measure::Drain, drain(database, count, Some(BEST), limit).await?)
        }
        What::DrainDefault => {
            let (rate, _) = drain(database, size.drain_default, None, DEFAULT_LIMIT).await?;
            Figures::rate(Measure::DrainDefault, rate)
        }
        What::Bulk => {
            Figures::rate(Measure::EnqueueBulk, enqueue_bulk(database, size.bulk, BEST_BULK).await?)
        }
        What::Single => {
            Figures::rate(Measure::EnqueueSingle, enqueue_single(database, CLIENTS, size.single).await?)
        }
        What::Starts => Figures::starts(&starts(database, size.starts).await?),
    })
}

async fn of_awa(bench: &Bench, database: &Database, what: What) -> Result<Figures> {
    use peers::awa::{BEST, BEST_BULK, drain, enqueue_bulk, enqueue_single, starts};
    let size = bench.size;
    Ok(match what {
        What::Drain(count) => Figures::drain(Measure::Drain, drain(database, count, Some(BEST)).await?),
        What::DrainDefault => {
            Figures::drain(Measure::DrainDefault, drain(database, size.drain_default, None).await?)
        }
        What::Bulk => {
            Figures::rate(Measure::EnqueueBulk, enqueue_bulk(database, size.bulk, BEST_BULK).await?)
        }
        What::Single => {
            Figures::rate(Measure::EnqueueSingle, enqueue_single(database, CLIENTS, size.single).await?)
        }
        What::Starts => Figures::starts(&starts(database, size.starts).await?),
    })
}

async fn of_orca(bench: &Bench, database: &Database, what: What) -> Result<Figures> {
    let size = bench.size;
    let coordinator = bench.orca.start(database, &[]).await?;
    let figures = async {
        Ok(match what {
            What::Drain(_) | What::DrainDefault => {
                let (measure, count, settings) = match what {
                    What::Drain(count) => (Measure::Drain, count, Some(orca::BEST)),
                    _ => (Measure::DrainDefault, size.drain_default, None),
                };
                let count = orca::preload(&coordinator, "default", count).await?;
                database.settle().await?;
                let mark = database.mark().await?;
                let rate = orca::drain(&[&coordinator], count, settings).await?;
                return anyhow::Ok((Figures::rate(measure, rate), Some((measure, mark, count))));
            }
            What::Bulk => {
                let rate = orca::bulk(&coordinator, size.bulk, orca::BEST_BULK).await?;
                (Figures::rate(Measure::EnqueueBulk, rate), None)
            }
            What::Single => {
                let rate = orca::single(&coordinator, CLIENTS, size.single).await?;
                (Figures::rate(Measure::EnqueueSingle, rate), None)
            }
            What::Starts => (Figures::starts(&orca::starts(&coordinator, size.starts).await?), None),
        })
    };
    let (mut figures, drained) =
        figures.await.with_context(|| format!("its last words:\n{}", coordinator.last_words()))?;
    coordinator.stop().await?;
    if let Some((measure, mark, count)) = drained {
        figures.cost = Some((measure, database.cost(mark).await?.per(count)));
    }
    Ok(figures)
}
