//! What every measure needs: the server, the installation, how large the run is, and the board.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::board::Board;
use crate::database::Server;
use crate::measure::Measure;
use crate::orca::Installation;

/// How long a restart of the server may take.
const RESTART: Duration = Duration::from_secs(120);

/// A run of the benchmark.
pub(crate) struct Bench {
    /// The one server.
    pub(crate) server: Server,
    /// Orca.
    pub(crate) orca: Installation,
    /// How much of everything.
    pub(crate) size: Size,
    /// What was measured.
    pub(crate) board: Board,
    /// Whether settings are compared instead.
    pub(crate) sweep: bool,
    only: Vec<Measure>,
    systems: Vec<String>,
    control: Option<PathBuf>,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Rounds of what is measured side by side.
    pub(crate) rounds: usize,
    /// Tasks per drain.
    pub(crate) drain: usize,
    /// Tasks per drain with default settings.
    pub(crate) drain_default: usize,
    /// Tasks per bulk enqueue.
    pub(crate) bulk: usize,
    /// How long single enqueues go on.
    pub(crate) single: Duration,
    /// Starts per round.
    pub(crate) starts: usize,
    /// Ready tasks of the large backlog.
    pub(crate) backlog: usize,
    /// Claims on each backlog.
    pub(crate) claims: usize,
    /// Tasks while the snapshot is held.
    pub(crate) snapshot: usize,
    /// Idle nodes.
    pub(crate) idle: usize,
    /// How long they are watched.
    pub(crate) watch: Duration,
}

impl Size {
    /// As the figures in docs/performance.md were made.
    pub(crate) const FULL: Self = Self {
        rounds: 3,
        drain: 300_000,
        drain_default: 100_000,
        bulk: 300_000,
        single: Duration::from_secs(5),
        starts: 500,
        backlog: 5_000_000,
        claims: 2_000,
        snapshot: 1_000_000,
        idle: 10_000,
        watch: Duration::from_secs(30),
    };
    /// For a look.
    pub(crate) const QUICK: Self = Self {
        rounds: 1,
        drain: 50_000,
        drain_default: 30_000,
        bulk: 100_000,
        single: Duration::from_secs(2),
        starts: 150,
        backlog: 300_000,
        claims: 400,
        snapshot: 200_000,
        idle: 2_000,
        watch: Duration::from_secs(10),
    };
}

impl Bench {
    /// Of `only` these measures and systems; all where empty.
    pub(crate) fn new(
        server: Server,
        orca: Installation,
        size: Size,
        only: Vec<Measure>,
        systems: Vec<String>,
        control: Option<PathBuf>,
        sweep: bool,
    ) -> Self {
        Self { server, orca, size, board: Board::default(), sweep, only, systems, control }
    }

    /// Whether the measure was asked for.
    pub(crate) fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }

    /// Whether the system was asked for.
    pub(crate) fn includes(&self, system: &str) -> bool {
        self.systems.is_empty() || self.systems.iter().any(|name| name == system)
    }

    /// Asks whoever started this to restart the server in immediate mode, and waits until it answers again. `false` where
    /// nobody can.
    ///
    /// # Errors
    /// If the restart fails.
    pub(crate) async fn restart_server(&self) -> Result<bool> {
        let Some(control) = &self.control else { return Ok(false) };
        let mut stream = UnixStream::connect(control).await.context("cannot ask for a restart")?;
        stream.write_all(b"restart\n").await?;
        let mut answer = String::new();
        let mut reader = BufReader::new(stream);
        tokio::time::timeout(RESTART, reader.read_line(&mut answer))
            .await
            .context("Postgres did not come back")??;
        if answer.trim() != "ready" {
            bail!("Postgres did not come back: {}", answer.trim());
        }
        Ok(true)
    }
}
