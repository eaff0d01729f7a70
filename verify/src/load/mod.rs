//! The load: operators that enqueue, cancel, retry, signal, look, repeat themselves, hang up, and try what they may not.

mod actions;
mod administrator;
mod hang_up;
mod operator;
mod probes;
mod tasks;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use tasks::pretend;

use crate::history::Recorder;
use crate::system::{NAMESPACES, System};
use administrator::Administrator;
use operator::Operator;

/// The queues of a run; the first is not limited.
pub(crate) const QUEUES: [&str; 4] = ["default", "limited", "grouped", "rated"];
/// The groups of the queue `grouped`; the first is limited.
pub(crate) const GROUPS: [&str; 3] = ["narrow", "wide", "other"];

/// What a history says instead of an answer where the sender hung up.
pub(crate) const HUNG_UP: &str = "hang up";

/// How often each kind of thing is done, by weight; 0 is never.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Single tasks.
    pub plain: u32,
    /// Single tasks with an idempotency key, each asked for several times.
    pub keyed: u32,
    /// Tasks with a unique key.
    pub unique: u32,
    /// Batches of tasks that need one another.
    pub graphs: u32,
    /// Goals.
    pub goals: u32,
    /// Tasks that wait for a signal or an approval.
    pub waits: u32,
    /// Cancels.
    pub cancels: u32,
    /// Retries of what ended.
    pub retries: u32,
    /// Looks at tasks.
    pub reads: u32,
    /// What the token does not allow, or is not there.
    pub probes: u32,
    /// What cannot be: cycles, batches with one bad task.
    pub bad: u32,
    /// Requests whose sender hangs up.
    pub hang_ups: u32,
    /// Of a hundred tasks, those that hang.
    pub hang: u8,
    /// Limits of queues and groups are set and changed, queues paused and resumed.
    pub limits: bool,
    /// Nodes report many at a time.
    pub batch_reports: bool,
    /// Things done at a time.
    pub operators: u32,
    /// Between two things that one operator does, at most, in milliseconds.
    pub pause_ms: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            plain: 30,
            keyed: 8,
            unique: 10,
            graphs: 6,
            goals: 2,
            waits: 5,
            cancels: 8,
            retries: 3,
            reads: 15,
            probes: 8,
            bad: 2,
            hang_ups: 5,
            hang: 3,
            limits: true,
            batch_reports: true,
            operators: 14,
            pause_ms: 50,
        }
    }
}

/// Sets the limits; then works until `stop`.
///
/// # Errors
/// If the limits cannot be set.
pub async fn run(
    system: &System,
    recorder: &Recorder,
    mix: Mix,
    seed: u64,
    stop: &CancellationToken,
) -> Result<()> {
    let seeded =
        |number: u32| fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number)));
    let mut work = JoinSet::new();
    if mix.limits {
        for (number, namespace) in NAMESPACES.into_iter().enumerate() {
            let administrator = Administrator::new(system, recorder, namespace, number)?;
            administrator.set_all().await?;
            let (rng, stop) = (seeded(u32::MAX - u32::try_from(number)?), stop.clone());
            work.spawn(async move { administrator.work(rng, &stop).await });
        }
    }
    for number in 0..mix.operators {
        // One in four works for the other tenant.
        let namespace = NAMESPACES[usize::from(number % 4 == 3)];
        let mut operator = Operator::new(system, recorder, namespace, number, seeded(number), mix)?;
        let stop = stop.clone();
        work.spawn(async move {
            stop.run_until_cancelled(Box::pin(operator.work())).await;
            Ok(())
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok(())
}

/// Lets go on whatever waits for a signal or an approval, and answers how many tasks have not ended yet, up to 500 of each
/// tenant.
///
/// # Errors
/// If the coordinators do not answer.
pub async fn finish(system: &System, recorder: &Recorder) -> Result<usize> {
    let mut open = 0;
    for namespace in NAMESPACES {
        let rng = fastrand::Rng::new();
        let operator = Operator::new(system, recorder, namespace, 99, rng, Mix::default())?;
        open += operator.release().await?;
    }
    Ok(open)
}
