//! How long the tasks of a killed node wait after its lease ran out: one node claims and is never heard of again, another waits.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{ClaimRequest, Claimed, Grant};
use serde::de::IgnoredAny;

use super::Measure;
use crate::bench::Bench;
use crate::orca;

/// Tasks that the node holds when it dies.
const TASKS: u32 = 200;
/// How long the coordinator's leases last here; long ones would only make for a longer wait.
const LEASE: &str = "5s";
const LIMIT: Duration = Duration::from_secs(60);

/// Measures it.
///
/// # Errors
/// If the tasks are not granted again.
pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.includes("orca") {
        return Ok(());
    }
    println!("\na node is lost with {TASKS} tasks; leases of {LEASE}, tasks with the default backoff");
    for _ in 0..bench.size.rounds {
        let database = bench.server.create("bench").await?;
        let coordinator = bench.orca.start(&database, &[("ORCA_LEASE", LEASE)]).await?;
        let client = coordinator.worker()?;
        orca::preload(&coordinator, "default", TASKS as usize).await?;
        let lost = join(&client, "lost").await?;
        let mut held = 0;
        // The lease is counted from before the request, so what is measured is the most that it can have been.
        let sent = Instant::now();
        let mut lease = Duration::ZERO;
        while held < TASKS {
            let grants = claim(&client, lost, TASKS - held, Duration::from_secs(1)).await?;
            ensure!(!grants.is_empty(), "only {held} of {TASKS} tasks were granted");
            lease = grants.first().map_or(lease, |grant| grant.lease.get());
            held += u32::try_from(grants.len())?;
        }
        let other = join(&client, "other").await?;
        let mut again = 0;
        while again < TASKS {
            ensure!(sent.elapsed() < LIMIT, "only {again} of {TASKS} tasks were granted again");
            let grants = claim(&client, other, TASKS - again, Duration::from_secs(10)).await?;
            again += u32::try_from(grants.len())?;
        }
        let waited = sent.elapsed().saturating_sub(lease);
        bench.board.add(Measure::NodeLossS, "orca", waited.as_secs_f64());
        coordinator.stop().await?;
        database.remove().await?;
    }
    Ok(())
}

async fn join(client: &Client, name: &str) -> Result<(NodeId, InstanceId)> {
    let registration = orca::registration(name, TASKS);
    Ok((client.register(&registration).await?.id, registration.instance))
}

async fn claim(
    client: &Client,
    (node, instance): (NodeId, InstanceId),
    slots: u32,
    wait: Duration,
) -> Result<Vec<Grant<IgnoredAny>>> {
    let request = ClaimRequest { instance, slots, wait: Span::from(wait), queues: Vec::new(), free: None };
    let Claimed { grants } = client.claim(node, &request).await?;
    Ok(grants)
}
