//! How much memory each part holds: after the demo's goal has run through, and of an agent while its task sleeps.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use orca_proto::task::Cancellation;

use super::figures::Figure;
use super::fleet::Fleet;
use super::start::sleeping_agent;
use crate::demo::archive::Tree;
use crate::demo::{goal, watch};
use crate::engine::Engine;
use crate::proc_status::{Memory, memory};

/// Between the end of the work and the reading.
const QUIET: Duration = Duration::from_secs(2);
const CANCEL: Duration = Duration::from_secs(60);

/// Runs the demo's goal on `tree`, then reads the memory of every part.
///
/// # Errors
/// If the goal does not succeed, or a process cannot be read.
pub(crate) async fn measure(
    fleet: &mut Fleet,
    engine: &Engine,
    survey: &str,
    noop: &str,
    tree: &Tree,
) -> Result<Vec<Figure>> {
    let client = fleet.client.clone();
    let (artifact, _) = goal::upload(&client, tree).await?;
    let id = goal::enqueue(&client, survey, "/survey", artifact).await?;
    watch::follow(&client, id, || fleet.check()).await?;
    tokio::time::sleep(QUIET).await;
    let mut figures = Vec::new();
    for (name, pid) in fleet.pids()? {
        add(&mut figures, name, memory(pid)?);
    }
    let (task, pid) = sleeping_agent(&client, engine, noop).await?;
    tokio::time::sleep(QUIET).await;
    let agent = memory(pid);
    client.cancel(task, &Cancellation::default()).await?;
    let deadline = Instant::now() + CANCEL;
    while !client.task(task).await?.summary.state.is_terminal() {
        if Instant::now() >= deadline {
            bail!("the cancelled task had not ended after {} s", CANCEL.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    add(&mut figures, "agent", agent?);
    Ok(figures)
}

/// The binaries' sizes on disk.
///
/// # Errors
/// If one is not there.
pub(crate) fn sizes(bins: &Path) -> Result<Vec<Figure>> {
    ["orca-agent", "orca-coordinator", "orca-worker", "orca"]
        .iter()
        .map(|name| {
            let bytes = std::fs::metadata(bins.join(name))?.len();
            Ok(Figure::new("size on disk", name, bytes as f64 / 1e6, "MB"))
        })
        .collect()
}

fn add(figures: &mut Vec<Figure>, name: &str, memory: Memory) {
    let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
    figures.push(Figure::new("resident", name, mb(memory.resident), "MB"));
    figures.push(Figure::new("resident at most", name, mb(memory.highest), "MB"));
}
