//! What ten thousand idle nodes cost a coordinator: each holds a claim, which is sent again when it is answered with nothing.
//! Then one task is enqueued, and exactly one claim may be answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, stream};
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{ClaimRequest, Claimed};
use rustix::param::clock_ticks_per_second;
use serde::de::IgnoredAny;
use tokio::task::JoinSet;

use super::Measure;
use crate::bench::Bench;
use crate::orca;

/// How long a claim is held, the longest that is allowed.
const HOLD: Duration = Duration::from_secs(60);
/// Registrations under way at once.
const REGISTERING: usize = 32;
/// Between the last claim sent and the first reading.
const QUIET: Duration = Duration::from_secs(5);
/// How long others may come late after the first answer.
const LATE: Duration = Duration::from_secs(3);

/// What the idle nodes saw.
#[derive(Debug, Default)]
struct Seen {
    /// Claims that were answered with a task.
    granted: AtomicUsize,
    /// Claims that were answered with nothing before their time.
    in_vain: AtomicUsize,
    /// Claims that failed.
    failed: AtomicUsize,
    /// Why the first of them did.
    failure: OnceLock<String>,
}

/// Measures it.
///
/// # Errors
/// If the nodes cannot register.
pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if !bench.includes("orca") {
        return Ok(());
    }
    let count = bench.size.idle;
    println!("\n{count} idle nodes");
    let database = bench.server.create("bench").await?;
    let connections = (count + 1_000).clamp(16, 65_536).to_string();
    let coordinator = bench.orca.start(&database, &[("ORCA_MAX_CONNECTIONS", &connections)]).await?;
    let pid = coordinator.pid()?;
    let client = coordinator.worker()?;
    let registered: Vec<Result<(NodeId, InstanceId)>> = stream::iter(0..count)
        .map(|index| {
            let client = client.clone();
            async move {
                let registration = orca::registration(&format!("node-{index}"), 1);
                Ok((client.register(&registration).await?.id, registration.instance))
            }
        })
        .buffer_unordered(REGISTERING)
        .collect()
        .await;
    let empty = memory(pid)?;
    let seen = Arc::new(Seen::default());
    let mut nodes = JoinSet::new();
    for (index, node) in registered.into_iter().enumerate() {
        let (node, instance) = node.context("a node could not register")?;
        nodes.spawn(hold(client.clone(), node, instance, Arc::clone(&seen)));
        // Not all in the same moment: that would measure a burst, now and again when they all come back.
        if index % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tokio::time::sleep(QUIET).await;
    let before = processor_time(pid)?;
    let begun = Instant::now();
    tokio::time::sleep(bench.size.watch).await;
    let used = processor_time(pid)? - before;
    let share = used / begun.elapsed().as_secs_f64() * 100.0;
    let resident = memory(pid)?;
    let failed = seen.failed.load(Ordering::Relaxed);
    println!("  resident {resident:.0} MB, of which {empty:.0} MB before the claims");
    bench.board.add(Measure::IdleNodesMb, "orca", resident);
    bench.board.add(Measure::IdleNodesCpu, "orca", share);
    if failed > 0 {
        bench.board.wrong(format!(
            "{failed} held claims failed, the first because {}:\n{}",
            seen.failure.get().map_or("?", String::as_str),
            coordinator.last_words()
        ));
    }
    let in_vain = seen.in_vain.load(Ordering::Relaxed);
    coordinator.operator()?.enqueue(&orca::task("default"), None).await?;
    let enqueued = Instant::now();
    while seen.granted.load(Ordering::Relaxed) == 0 {
        if enqueued.elapsed() > Duration::from_secs(10) {
            bail!("a task was enqueued and none of {count} idle nodes got it:\n{}", coordinator.last_words());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("  granted {:.1} ms after the enqueue", enqueued.elapsed().as_secs_f64() * 1_000.0);
    tokio::time::sleep(LATE).await;
    let granted = seen.granted.load(Ordering::Relaxed);
    let in_vain = seen.in_vain.load(Ordering::Relaxed) - in_vain;
    println!("  one task was answered to {granted} claim(s); {in_vain} were answered with nothing");
    if (granted, in_vain) != (1, 0) {
        bench.board.wrong(format!("one new task woke {granted} + {in_vain} of {count} idle nodes, not one"));
    }
    nodes.shutdown().await;
    coordinator.stop().await?;
    database.remove().await
}

async fn hold(client: Client, node: NodeId, instance: InstanceId, seen: Arc<Seen>) {
    let request = ClaimRequest { instance, slots: 1, wait: Span::from(HOLD), queues: Vec::new(), free: None };
    loop {
        let sent = Instant::now();
        match client.claim::<IgnoredAny>(node, &request).await {
            Ok(Claimed { grants }) if !grants.is_empty() => {
                seen.granted.fetch_add(grants.len(), Ordering::Relaxed);
                return;
            }
            Ok(_) if sent.elapsed() < HOLD / 2 => {
                seen.in_vain.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                seen.failed.fetch_add(1, Ordering::Relaxed);
                seen.failure.get_or_init(|| format!("after {:?}: {error:?}", sent.elapsed()));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Resident memory, in MB (a million bytes).
fn memory(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    let kib: f64 = kib.context("/proc does not tell the memory")?.trim().parse()?;
    Ok(kib * 1_024.0 / 1e6)
}

/// Processor time used so far, in seconds.
fn processor_time(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> {
        Ok(fields.get(index).context("/proc does not tell the processor time")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / clock_ticks_per_second() as f64)
}
