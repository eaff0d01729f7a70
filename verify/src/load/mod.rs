//! The load: operators that enqueue, cancel, retry, signal, look, repeat themselves, hang up, and try what they may not.

mod actions;
mod hang_up;
mod operator;
mod probes;
mod tasks;

use std::time::Duration;

use anyhow::Result;
use orca_proto::queue::{GroupSettings, QueueSettings};
use tokio_util::sync::CancellationToken;

pub use tasks::pretend;

use crate::history::{Answer, Call, Recorder};
use crate::node::patiently;
use crate::system::{NAMESPACES, System};
use operator::Operator;

/// The queues of a run; the first is not limited.
pub(crate) const QUEUES: [&str; 3] = ["default", "limited", "grouped"];
/// The groups of the queue `grouped`; the first is limited.
pub(crate) const GROUPS: [&str; 3] = ["narrow", "wide", "other"];

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
    /// Limits of queues and groups are set.
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
            operators: 8,
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
    if mix.limits {
        set_limits(system, recorder, 3, 1).await?;
    }
    let mut work = tokio::task::JoinSet::new();
    for number in 0..mix.operators {
        // One in four works for the other tenant.
        let namespace = NAMESPACES[usize::from(number % 4 == 3)];
        let rng = fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number)));
        let mut operator = Operator::new(system, recorder, namespace, number, rng, mix)?;
        let stop = stop.clone();
        work.spawn(async move {
            stop.run_until_cancelled(async { operator.work().await }).await;
        });
    }
    while work.join_next().await.is_some() {}
    Ok(())
}

/// Lets each limited queue run `queue` tasks at once, and each limited group `group`.
///
/// # Errors
/// If that is refused.
async fn set_limits(system: &System, recorder: &Recorder, queue: u32, group: u32) -> Result<()> {
    const WHO: &str = "administrator";
    for namespace in NAMESPACES {
        let clients = system.operator(namespace, 0)?;
        let client = clients.current();
        let call = |name: &str, group: Option<&str>, most| Call::Limit {
            namespace: namespace.to_owned(),
            queue: name.to_owned(),
            group: group.map(str::to_owned),
            max_running: Some(most),
        };
        let settings = QueueSettings { max_running: Some(queue), ..QueueSettings::default() };
        let request = patiently(Duration::ZERO, client.set_queue("limited", &settings));
        recorder.call(WHO, call("limited", None, queue), request, |_| Answer::Done).await?;
        let settings = GroupSettings { max_running: Some(group), ..GroupSettings::default() };
        let request = patiently(Duration::ZERO, client.set_group("grouped", "narrow", &settings));
        recorder.call(WHO, call("grouped", Some("narrow"), group), request, |_| Answer::Done).await?;
    }
    Ok(())
}

/// Lets go on whatever waits for a signal or an approval, and answers whether anything has not ended yet.
///
/// # Errors
/// If the coordinators do not answer.
pub async fn finish(system: &System, recorder: &Recorder) -> Result<bool> {
    let mut open = false;
    for namespace in NAMESPACES {
        let rng = fastrand::Rng::new();
        let operator = Operator::new(system, recorder, namespace, 99, rng, Mix::default())?;
        open |= operator.release().await?;
    }
    Ok(open)
}
