//! Many containers at once: what the node and each agent need for them, and how long a node that is started again takes until it
//! has them all back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::log::LogQuery;
use orca_proto::task::{Cancellation, State};

use crate::bench::figures::{Figure, percentile};
use crate::bench::fleet::Fleet;
use crate::bench::start::{container_of, settle, task};
use crate::engine::Engine;
use crate::proc_status::memory as memory_of;

/// Containers whose memory is counted.
const HELD: usize = 50;
/// Containers that a node takes up again.
const TAKEN_UP: usize = 20;
/// Lines that each of them prints, one every 100 ms.
const TICKS: usize = 250;
const LIMIT: Duration = Duration::from_secs(120);

/// Resident memory of a node with so many running containers, and of the agents.
///
/// # Errors
/// If they do not run.
pub(super) async fn memory(fleet: &mut Fleet, engine: &Engine, image: &str) -> Result<Vec<Figure>> {
    let client = fleet.client.clone();
    let ids = running(&client, image, HELD, &["600"]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mb = |pid: u32| Ok::<f64, anyhow::Error>(memory_of(pid)?.resident as f64 * 1_024.0 / 1e6);
    let pids = fleet.pids()?;
    let node = pids.iter().find(|(name, _)| *name == "worker").context("the worker does not run")?;
    let node = mb(node.1)?;
    let mut agents = Vec::new();
    for id in &ids {
        let container = container_of(engine, *id).await?;
        let state = engine.docker.inspect_container(&container, None).await?.state;
        let pid =
            state.and_then(|state| u32::try_from(state.pid?).ok()).context("a container does not run")?;
        agents.push(mb(pid)?);
    }
    for id in ids {
        client.cancel(id, &Cancellation::default()).await?;
    }
    settle(engine).await?;
    Ok(vec![
        Figure::new("node_mb", "orca", node, "MB"),
        Figure::new("agent_mb", "orca", percentile(&agents, 1.0), "MB"),
    ])
}

/// From the start of the new daemon until lines that were printed after it are stored of every container.
///
/// # Errors
/// If a task does not end well, ran twice, or a line is lost or doubled.
pub(super) async fn reattach(fleet: &mut Fleet, image: &str) -> Result<Vec<Figure>> {
    let client = fleet.client.clone();
    let ids = running(&client, image, TAKEN_UP, &["ticks", &TICKS.to_string()]).await?;
    fleet.kill_node("worker").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (begun, at) = (Instant::now(), Timestamp::now());
    fleet.start_node("worker")?;
    for id in &ids {
        let query = LogQuery { tail: Some(1), ..LogQuery::default() };
        while client.logs(*id, &query).await?.items.pop().is_none_or(|line| line.at <= at) {
            if begun.elapsed() > LIMIT {
                bail!("a task is not heard of again:\n{}", fleet.last_words());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    for id in ids {
        let task = loop {
            let task = client.task(id).await?;
            if task.summary.state.is_terminal() {
                break task;
            }
            if begun.elapsed() > LIMIT {
                bail!("a task did not end");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        if (task.summary.state, task.attempts.len()) != (State::Succeeded, 1) {
            bail!("a task ended as {} after {} attempts", task.summary.state, task.attempts.len());
        }
        check(&client, id).await?;
    }
    Ok(vec![Figure::new("reattach_s", "orca", took, "s")])
}

/// Enqueues tasks and waits until each of them runs.
async fn running(client: &Client, image: &str, count: usize, arguments: &[&str]) -> Result<Vec<TaskId>> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(client.enqueue(&task(image, arguments), None).await?.summary.id);
    }
    let deadline = Instant::now() + LIMIT;
    for id in &ids {
        while !client.task(*id).await?.attempts.iter().any(|attempt| attempt.started_at.is_some()) {
            if Instant::now() > deadline {
                bail!("{count} containers did not run within {} s", LIMIT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(ids)
}

/// Whether each line that the task printed is stored once, in order.
async fn check(client: &Client, id: TaskId) -> Result<()> {
    let log = client.logs(id, &LogQuery::default()).await?;
    let numbers: Vec<usize> =
        log.items.iter().filter_map(|line| line.text.split_whitespace().next()?.parse().ok()).collect();
    if numbers != (0..TICKS).collect::<Vec<_>>() {
        bail!("the log of {id} has {} of {TICKS} lines, or not in order", numbers.len());
    }
    Ok(())
}
