//! How long after a restart of Postgres in immediate mode, under load, a claim gets tasks again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use orca_proto::duration::Span;
use orca_proto::node::{ClaimRequest, Claimed};
use serde::de::IgnoredAny;

use super::Measure;
use crate::bench::Bench;
use crate::orca::{self, Coordinator, Fleet};

/// Ready tasks of the queue that only the probe claims from.
const PROBES: usize = 5_000;
/// Tasks for the load.
const LOAD: usize = 200_000;
/// Load before the restart.
const BEFORE: Duration = Duration::from_millis(700);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(60);

/// Measures it.
///
/// # Errors
/// If no claim succeeds within a minute.
pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.includes("orca") {
        return Ok(());
    }
    println!("\nPostgres is restarted in immediate mode under load");
    for _ in 0..bench.size.rounds {
        let database = bench.server.create("bench").await?;
        let coordinator = bench.orca.start(&database, &[]).await?;
        orca::preload(&coordinator, "default", LOAD).await?;
        orca::preload(&coordinator, "probe", PROBES).await?;
        // What there is to recover is then what the load wrote.
        database.settle().await?;
        let fleet = Fleet::serving(&["default"], &[&coordinator], Some(orca::BEST)).await?;
        tokio::time::sleep(BEFORE).await;
        let begun = Instant::now();
        let (restarted, claimed) = tokio::join!(
            async {
                let restarted = bench.restart_server().await;
                (restarted, begun.elapsed())
            },
            probe(&coordinator, begun),
        );
        let (restarted, ready) = restarted;
        if !restarted? {
            println!("  nobody can restart it here: not measured");
        } else {
            println!("  Postgres answered again after {:.2} s", ready.as_secs_f64());
            bench.board.add(Measure::PostgresRestartS, "orca", claimed?.as_secs_f64());
        }
        // Its reports were cut off in the middle: that some are sent again, and refused, is no fault here.
        drop(fleet);
        coordinator.stop().await?;
        database.remove().await?;
    }
    Ok(())
}

/// When the first claim that was sent once Postgres was down got a task, from `begun`.
async fn probe(coordinator: &Coordinator, begun: Instant) -> Result<Duration> {
    let client = coordinator.worker()?;
    let registration = orca::registration("probe", 10_000);
    let mut node = None;
    let mut went_down = false;
    let mut last = String::new();
    while begun.elapsed() < LIMIT {
        let attempt = async {
            let id = match node {
                Some(id) => id,
                None => client.register(&registration).await?.id,
            };
            node = Some(id);
            let request = ClaimRequest {
                instance: registration.instance,
                slots: 1,
                wait: Span::secs(0),
                queues: vec!["probe".to_owned()],
                free: None,
            };
            let Claimed { grants } = client.claim::<IgnoredAny>(id, &request).await?;
            anyhow::Ok(grants.len())
        };
        match attempt.await {
            Ok(granted) if went_down && granted > 0 => return Ok(begun.elapsed()),
            Ok(0) if went_down => last = "a claim got nothing".to_owned(),
            // The server is not down yet.
            Ok(_) => {}
            Err(error) => {
                went_down = true;
                last = format!("{error:#}");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    bail!("no claim succeeded within {LIMIT:?} of the restart: {last}\n{}", coordinator.last_words())
}
