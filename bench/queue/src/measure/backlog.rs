//! Whether a claim costs more the more tasks are ready: two databases on the one server, one with a small backlog and one with a
//! large one, claimed from in turn. Each claim takes a few tasks, which are reported and replaced.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use orca_proto::attempt::{AttemptReport, Reports};
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{ClaimRequest, Claimed};
use orca_proto::plan::Batch;
use orca_proto::task::Outcome;
use serde_json::value::RawValue;

use super::Measure;
use crate::bench::Bench;
use crate::board::percentile;
use crate::database::Database;
use crate::orca::{self, Coordinator};

/// Ready tasks of the small backlog.
const SMALL: usize = 10_000;
/// Tasks per claim.
const SLOTS: u32 = 16;
/// Claims between two fillings, so that the backlogs keep their sizes.
const REFILL: usize = 25;
/// Claims before those that count.
const WARM_UP: usize = 100;

/// Measures it.
///
/// # Errors
/// If a claim fails or gets nothing.
pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.includes("orca") {
        return Ok(());
    }
    println!("\nclaims with {} ready tasks and with {SMALL}", bench.size.backlog);
    let mut sides = Vec::new();
    for (name, ready) in [("bench_small", SMALL), ("bench_large", bench.size.backlog)] {
        let database = bench.server.create(name).await?;
        let coordinator = bench.orca.start(&database, &[]).await?;
        let begun = Instant::now();
        orca::preload(&coordinator, "default", ready).await?;
        println!("  {ready} tasks enqueued in {:.1} s", begun.elapsed().as_secs_f64());
        database.settle().await?;
        sides.push(Side::new(database, coordinator).await?);
    }
    for round in 0..bench.size.claims + WARM_UP {
        for side in &mut sides {
            let taken = side.claim().await.with_context(|| side.coordinator.last_words())?;
            if round >= WARM_UP {
                side.taken.push(taken);
            }
            if round % REFILL == REFILL - 1 {
                side.refill().await?;
            }
        }
    }
    let mut tails = Vec::new();
    for side in sides {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| percentile(&side.taken, part));
        println!("  {}: p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms", side.database.name());
        tails.push(p99);
        side.coordinator.stop().await?;
        side.database.remove().await?;
    }
    if let [small, large] = tails.as_slice() {
        bench.board.add(Measure::ClaimBacklog, "orca", large / small);
    }
    Ok(())
}

/// One backlog and the node that claims from it.
struct Side {
    database: Database,
    coordinator: Coordinator,
    operator: Client,
    worker: Client,
    node: NodeId,
    instance: InstanceId,
    refill: Batch,
    /// Of each claim, in ms.
    taken: Vec<f64>,
}

impl Side {
    async fn new(database: Database, coordinator: Coordinator) -> Result<Self> {
        let (operator, worker) = (coordinator.operator()?, coordinator.worker()?);
        let registration = orca::registration("node", SLOTS);
        let node = worker.register(&registration).await?.id;
        let refill = Batch { tasks: vec![orca::task("default"); REFILL * SLOTS as usize] };
        let instance = registration.instance;
        Ok(Self { database, coordinator, operator, worker, node, instance, refill, taken: Vec::new() })
    }

    async fn claim(&self) -> Result<f64> {
        let request = ClaimRequest {
            instance: self.instance,
            slots: SLOTS,
            wait: Span::from(Duration::from_secs(5)),
            queues: Vec::new(),
            free: None,
        };
        let begun = Instant::now();
        let claimed: Claimed<Box<RawValue>> = self.worker.claim(self.node, &request).await?;
        let taken = begun.elapsed().as_secs_f64() * 1_000.0;
        anyhow::ensure!(!claimed.grants.is_empty(), "a claim got nothing although tasks are ready");
        let reports = claimed
            .grants
            .iter()
            .map(|grant| AttemptReport {
                task: grant.task,
                token: grant.token,
                outcome: Outcome::Succeeded,
                result: None::<Box<RawValue>>,
            })
            .collect();
        self.worker.report_many(self.node, &Reports { instance: self.instance, reports }).await?;
        Ok(taken)
    }

    async fn refill(&self) -> Result<()> {
        self.operator.enqueue_batch(&self.refill, None).await?;
        Ok(())
    }
}
