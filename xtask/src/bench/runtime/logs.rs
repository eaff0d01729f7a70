//! One task that prints as much as it can: how fast that comes to be stored, whether all of it is, and what other tasks notice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::log::LogQuery;

use super::fresh::by_orca;
use crate::bench::figures::{Figure, percentile};
use crate::bench::fleet::Fleet;
use crate::bench::start::{settle, task};
use crate::engine::Engine;

/// Lines of 100 bytes, with their ends: 200 MB.
const LINES: u64 = 2_000_000;
const BYTES: u64 = 100;
/// Other tasks, one after another, before and during.
const OTHERS: usize = 5;
const LIMIT: Duration = Duration::from_secs(600);

/// Measures it.
///
/// # Errors
/// If a line is lost.
pub(super) async fn measure(fleet: &mut Fleet, engine: &Engine, image: &str) -> Result<Vec<Figure>> {
    let client = fleet.client.clone();
    let alone = others(&client, image).await?;
    settle(engine).await?;
    let begun = Instant::now();
    let mut flood = task(image, &["lines", &LINES.to_string()]);
    flood.timeouts.start_to_close = orca_proto::duration::Span::from(LIMIT);
    let id = client.enqueue(&flood, None).await?.summary.id;
    while last_line(&client, id).await?.is_none() {
        if begun.elapsed() > LIMIT {
            bail!("the first line did not come");
        }
    }
    let first = Instant::now();
    let beside = others(&client, image).await?;
    let (mut left, mut printed) = (None, None);
    while begun.elapsed() < LIMIT {
        let found = client.task(id).await?.summary;
        if printed.is_none() && found.state.is_terminal() {
            printed = Some(first.elapsed());
            left = last_line(&client, id).await?;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = printed.with_context(|| format!("it had not ended after {} s", LIMIT.as_secs()))?;
    let last = left.unwrap_or_default();
    println!("  the last line that is stored: {}", last.trim());
    if last.split_whitespace().next() != Some(&(LINES - 1).to_string()) {
        bail!("of {LINES} lines the last that is stored is {last:?}");
    }
    let rate = (LINES * BYTES) as f64 / 1e6 / took.as_secs_f64();
    Ok(vec![
        Figure::new("log_mb_per_s", "orca", rate, "MB/s"),
        Figure::new("log_others_ratio", "orca", beside / alone, "1"),
    ])
}

/// The median of some other tasks, in ms.
async fn others(client: &Client, image: &str) -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..OTHERS {
        took.push(by_orca(client, image).await?);
    }
    Ok(percentile(&took, 0.5))
}

async fn last_line(client: &Client, id: TaskId) -> Result<Option<String>> {
    let query = LogQuery { tail: Some(1), ..LogQuery::default() };
    Ok(client.logs(id, &query).await?.items.pop().map(|line| line.text))
}
