//! Designs of the queue's storage side by side, in SQL alone: what a task costs that is claimed and succeeds. What was learnt
//! from it is in `docs/performance.md`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::postgres::{Durability, Postgres};
use crate::process::{Output, capture, run as run_program};
use crate::workspace;

const SETUP: Duration = Duration::from_secs(300);
const DRAIN: Duration = Duration::from_secs(300);
/// Tasks in one claim.
const CLAIM: f64 = 500.0;
/// Claims of one measurement.
const CLAIMS: usize = 800;

/// Name, claim and completion of each design.
const DESIGNS: [(&str, &str, &str); 4] = [
    ("segments, success appended", "claim_segment(false)", "finish_append"),
    ("segments, success updated", "claim_segment(false)", "finish_update"),
    ("segments, lease per task", "claim_segment(true)", "finish_leased"),
    ("entries, SKIP LOCKED, lease per task", "claim_entries()", "finish_leased"),
];

/// Prints tasks per second of each design, with one and with two connections.
///
/// # Errors
/// Where there is no `psql` and `pgbench`, or a design fails.
pub(crate) async fn run() -> Result<()> {
    let postgres = Postgres::start(Durability::Large, None).await?;
    let outcome = measure(&postgres).await;
    let stopped = postgres.stop().await;
    outcome?;
    stopped
}

async fn measure(postgres: &Postgres) -> Result<()> {
    let psql = postgres.psql().context("this needs Postgres' own programs on this machine")?;
    let pgbench = psql.with_file_name("pgbench");
    let directory = tempfile::Builder::new().prefix("orca-bench-storage-").tempdir()?;
    for (name, claim, finish) in DESIGNS {
        let script = directory.path().join("drain.sql");
        std::fs::write(
            &script,
            format!("SELECT storage.{claim} AS fence \\gset\nSELECT storage.{finish}(:fence);\n"),
        )?;
        for clients in [1, 2] {
            setup(&psql, postgres).await?;
            let rate = drain(&pgbench, postgres, &script, clients).await?;
            println!("{name:<38} {clients} connection(s) {:>9.0} tasks/s", rate * CLAIM);
        }
    }
    Ok(())
}

async fn setup(psql: &Path, postgres: &Postgres) -> Result<()> {
    let file: PathBuf = workspace::root().join("bench/storage/setup.sql");
    let mut command = Command::new(psql);
    command.args(["--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(file).arg(postgres.url());
    command.env("PGOPTIONS", "-c client_min_messages=warning");
    run_program(command, "psql", SETUP, Output::Show).await
}

/// Claims per second.
async fn drain(pgbench: &Path, postgres: &Postgres, script: &Path, clients: usize) -> Result<f64> {
    let mut command = Command::new(pgbench);
    let (clients, each) = (clients.to_string(), (CLAIMS / clients).to_string());
    command.args([
        "--no-vacuum",
        "--client",
        &clients,
        "--jobs",
        &clients,
        "--transactions",
        &each,
        "--file",
    ]);
    command.arg(script).arg(postgres.url());
    let printed = capture(command, "pgbench", DRAIN).await?;
    let rate = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    match rate {
        Some(rate) => Ok(rate),
        None => bail!("pgbench printed no rate:\n{printed}"),
    }
}
