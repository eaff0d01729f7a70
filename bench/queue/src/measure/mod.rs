//! The measures: their names, units and targets, and a file for each group that is measured together.

mod backlog;
mod idle;
mod node_loss;
mod restart;
mod side_by_side;
mod snapshot;
mod sweep;
mod two_coordinators;

use anyhow::Result;
use clap::ValueEnum;

use crate::bench::Bench;
use crate::board::Board;

/// A measure; its name on the command line and in files is [`Measure::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Tasks per second, preloaded, run as no-ops, durably completed; best settings.
    Drain,
    /// The same with default settings, one node.
    DrainDefault,
    /// Tasks per second enqueued in batches.
    EnqueueBulk,
    /// Tasks per second enqueued one at a time by 16 clients.
    EnqueueSingle,
    /// From the call of enqueue to the handler on an idle system, median.
    #[value(name = "start_p50_ms")]
    StartP50,
    /// The same, 99th percentile.
    #[value(name = "start_p99_ms")]
    StartP99,
    /// 99th percentile of claims with 5,000,000 tasks ready, over that with 10,000.
    #[value(name = "claim_p99_backlog")]
    ClaimBacklog,
    /// Rate after 1,000,000 tasks with an old snapshot held open, over the fresh rate.
    SnapshotRatio,
    /// Resident memory of a coordinator that holds 10,000 claims.
    IdleNodesMb,
    /// Share of a core that it uses.
    IdleNodesCpu,
    /// Rate of two coordinators on one database over that of one.
    TwoCoordinatorsRatio,
    /// From the end of a killed node's lease until its last task was granted again.
    NodeLossS,
    /// From the restart of Postgres in immediate mode to the first claim that got tasks.
    PostgresRestartS,
}

impl Measure {
    /// All of them, in the order in which they are shown.
    pub(crate) const ALL: [Self; 13] = [
        Self::Drain,
        Self::DrainDefault,
        Self::EnqueueBulk,
        Self::EnqueueSingle,
        Self::StartP50,
        Self::StartP99,
        Self::ClaimBacklog,
        Self::SnapshotRatio,
        Self::IdleNodesMb,
        Self::IdleNodesCpu,
        Self::TwoCoordinatorsRatio,
        Self::NodeLossS,
        Self::PostgresRestartS,
    ];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::DrainDefault => "drain_default",
            Self::EnqueueBulk => "enqueue_bulk",
            Self::EnqueueSingle => "enqueue_single",
            Self::StartP50 => "start_p50_ms",
            Self::StartP99 => "start_p99_ms",
            Self::ClaimBacklog => "claim_p99_backlog",
            Self::SnapshotRatio => "snapshot_ratio",
            Self::IdleNodesMb => "idle_nodes_mb",
            Self::IdleNodesCpu => "idle_nodes_cpu",
            Self::TwoCoordinatorsRatio => "two_coordinators_ratio",
            Self::NodeLossS => "node_loss_s",
            Self::PostgresRestartS => "postgres_restart_s",
        }
    }

    /// Its unit.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Drain | Self::DrainDefault | Self::EnqueueBulk | Self::EnqueueSingle => "tasks/s",
            Self::StartP50 | Self::StartP99 => "ms",
            Self::ClaimBacklog | Self::SnapshotRatio | Self::TwoCoordinatorsRatio => "1",
            Self::IdleNodesMb => "MB",
            Self::IdleNodesCpu => "% of a core",
            Self::NodeLossS | Self::PostgresRestartS => "s",
        }
    }

    /// What Orca must reach, in words.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::Drain | Self::EnqueueBulk => "ahead of the best peer",
            Self::DrainDefault => "at least 20,000",
            Self::EnqueueSingle => "at least 2 x the best peer",
            Self::StartP50 => "at most 1.5, and within 1.2 x the best peer",
            Self::StartP99 => "at most 5, and within 1.2 x the best peer",
            Self::ClaimBacklog => "at most 1.3",
            Self::SnapshotRatio => "at least 0.9",
            Self::IdleNodesMb => "at most 250",
            Self::IdleNodesCpu => "at most 10",
            Self::TwoCoordinatorsRatio => "at least 1.0",
            Self::NodeLossS => "at most 2",
            Self::PostgresRestartS => "at most 5",
        }
    }

    /// Whether Orca reached it; `None` if it, or the peers where they count, were not measured.
    pub(crate) fn reached(self, board: &Board) -> Option<bool> {
        let orca = board.median(self, "orca")?;
        let peers = || ["graphile_worker", "awa"].iter().filter_map(|peer| board.median(self, peer));
        let most = || peers().reduce(f64::max);
        let least = || peers().reduce(f64::min);
        Some(match self {
            Self::Drain | Self::EnqueueBulk => orca > most()?,
            Self::DrainDefault => orca >= 20_000.0,
            Self::EnqueueSingle => orca >= 2.0 * most()?,
            Self::StartP50 => orca <= 1.5 && orca <= 1.2 * least()?,
            Self::StartP99 => orca <= 5.0 && orca <= 1.2 * least()?,
            Self::ClaimBacklog => orca <= 1.3,
            Self::SnapshotRatio => orca >= 0.9,
            Self::IdleNodesMb => orca <= 250.0,
            Self::IdleNodesCpu => orca <= 10.0,
            Self::TwoCoordinatorsRatio => orca >= 1.0,
            Self::NodeLossS => orca <= 2.0,
            Self::PostgresRestartS => orca <= 5.0,
        })
    }
}

/// Measures what was asked for. What cannot be measured goes to the board as wrong; the rest is worth measuring all the same.
///
/// # Errors
/// The first failure of a sweep.
pub(crate) async fn run(bench: &mut Bench) -> Result<()> {
    if bench.sweep {
        return sweep::run(bench).await;
    }
    side_by_side::run(bench).await;
    for measure in Measure::ALL {
        if !bench.wants(measure) {
            continue;
        }
        let outcome = match measure {
            Measure::ClaimBacklog => backlog::run(bench).await,
            Measure::SnapshotRatio => snapshot::run(bench).await,
            Measure::IdleNodesMb => idle::run(bench).await,
            // Measured with the memory, unless that was not asked for.
            Measure::IdleNodesCpu if !bench.wants(Measure::IdleNodesMb) => idle::run(bench).await,
            Measure::TwoCoordinatorsRatio => two_coordinators::run(bench).await,
            Measure::NodeLossS => node_loss::run(bench).await,
            Measure::PostgresRestartS => restart::run(bench).await,
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            bench.board.wrong(format!("{}: {error:#}", measure.name()));
        }
    }
    Ok(())
}
