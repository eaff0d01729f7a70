//! The shapes of load that every system is put under.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::arrivals::Arrivals;

/// The longest that one start may take.
const START: Duration = Duration::from_secs(30);
/// Starts before those that count.
const WARM_UP: usize = 30;

/// Tasks per second of `producers` that together call `enqueue` until `tasks` were enqueued, each call of `chunk` tasks.
///
/// # Errors
/// The first of `enqueue`.
pub(crate) async fn in_batches<E, F>(tasks: usize, producers: usize, chunk: usize, enqueue: E) -> Result<f64>
where
    E: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let enqueue = Arc::new(enqueue);
    let calls = tasks.div_ceil(chunk);
    let begun = Instant::now();
    let mut work = JoinSet::new();
    for producer in 0..producers {
        let enqueue = Arc::clone(&enqueue);
        work.spawn(async move {
            for _ in (producer..calls).step_by(producers) {
                enqueue(producer).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok((calls * chunk) as f64 / begun.elapsed().as_secs_f64())
}

/// Calls per second of `clients` that each call `enqueue` again and again for `time`, after a second that does not count.
///
/// # Errors
/// The first of `enqueue`.
pub(crate) async fn one_at_a_time<E, F>(clients: usize, time: Duration, enqueue: E) -> Result<f64>
where
    E: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let enqueue = Arc::new(enqueue);
    let begin = Instant::now() + Duration::from_secs(1);
    let end = begin + time;
    let mut work = JoinSet::new();
    for client in 0..clients {
        let enqueue = Arc::clone(&enqueue);
        work.spawn(async move {
            let mut calls = 0_u64;
            loop {
                enqueue(client).await?;
                let now = Instant::now();
                if now >= end {
                    return anyhow::Ok(calls);
                }
                if now >= begin {
                    calls += 1;
                }
            }
        });
    }
    let mut calls = 0;
    while let Some(done) = work.join_next().await {
        calls += done??;
    }
    Ok(calls as f64 / time.as_secs_f64())
}

/// From the call of `enqueue` to the handler, in ms, one task after another on an idle system.
///
/// # Errors
/// The first of `enqueue`, or if a task does not start.
pub(crate) async fn starts(
    samples: usize,
    arrivals: &Arrivals,
    mut enqueue: impl AsyncFnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut taken = Vec::with_capacity(samples);
    for round in 0..samples + WARM_UP {
        let begun = Instant::now();
        enqueue().await?;
        let arrived = arrivals.next(START).await?;
        if round >= WARM_UP {
            taken.push(arrived.duration_since(begun).as_secs_f64() * 1_000.0);
        }
        // Long enough for the system to be idle again, and never in step with its timers.
        tokio::time::sleep(Duration::from_micros(8_000 + (round as u64 * 1_373) % 7_000)).await;
    }
    Ok(taken)
}
