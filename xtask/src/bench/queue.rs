//! The queue beside its peers: builds the benchmark, which is a workspace of its own, and runs it against a private Postgres
//! that waits for the disk.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;

use crate::postgres::{Durability, Postgres};
use crate::process::{Output, run as run_program};
use crate::{stage, workspace};

const BUILD: Duration = Duration::from_secs(3_600);
/// The longest that the measurements may take.
const MEASURE: Duration = Duration::from_secs(3 * 3_600);
/// The benchmark's own limit for a restart of Postgres is longer.
const REQUEST: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write the figures: a list of {"measure", "system", "value", "unit"}.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Small sizes and a single round: minutes instead of half an hour, and rougher.
    #[arg(long)]
    quick: bool,
    /// Only these measures, such as `drain,enqueue_bulk`.
    #[arg(long, value_name = "MEASURE,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these systems: `floor`, `graphile_worker`, `awa`, `orca`.
    #[arg(long, value_name = "SYSTEM,…", value_delimiter = ',')]
    system: Vec<String>,
    /// Try the settings of every system instead, and print what each reaches.
    #[arg(long)]
    sweep: bool,
}

/// Builds and runs it.
///
/// # Errors
/// If something does not build or cannot be measured, or a measurement showed something wrong.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let (coordinator, bench) = build().await?;
    let mut postgres = Postgres::start(Durability::Large, None).await?;
    let outcome = measure(args, &coordinator, &bench, &mut postgres).await;
    let stopped = postgres.stop().await;
    outcome?;
    stopped
}

/// The binaries of the coordinator and the benchmark, as releases.
async fn build() -> Result<(PathBuf, PathBuf)> {
    let mut coordinator = workspace::cargo();
    coordinator.args(["build", "--release", "-p", "orca-coordinator"]);
    run_program(coordinator, "cargo build of the coordinator", BUILD, Output::Show).await?;
    // A directory of its own, as the peers share no build with Orca.
    let target = workspace::target().join("bench");
    let mut bench = workspace::cargo();
    bench.args(["build", "--release", "--locked", "--manifest-path"]);
    bench.arg(workspace::root().join("bench/queue/Cargo.toml")).arg("--target-dir").arg(&target);
    run_program(bench, "cargo build of the benchmark", BUILD, Output::Show).await?;
    Ok((workspace::target().join("release/orca-coordinator"), target.join("release/orca-bench")))
}

async fn measure(
    args: &Args,
    coordinator: &std::path::Path,
    bench: &std::path::Path,
    postgres: &mut Postgres,
) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("orca-bench-control-").tempdir()?;
    let socket = directory.path().join("control");
    let control = UnixListener::bind(&socket).context("cannot listen for requests of the benchmark")?;
    let mut command = Command::new(bench);
    // Not among the arguments, where everybody on the machine could read the password.
    command.env("ORCA_BENCH_POSTGRES", postgres.url());
    command.arg("--coordinator").arg(coordinator).arg("--control").arg(&socket);
    if let Some(file) = &args.json {
        command.arg("--json").arg(file);
    }
    for (flag, on) in [("--quick", args.quick), ("--sweep", args.sweep)] {
        if on {
            command.arg(flag);
        }
    }
    for (flag, values) in [("--only", &args.only), ("--system", &args.system)] {
        if !values.is_empty() {
            command.arg(flag).arg(values.join(","));
        }
    }
    let work = run_program(command, "the benchmark", MEASURE, Output::Show);
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            request = control.accept() => {
                if let Err(error) = serve(request?.0, postgres).await {
                    stage::note(&format!("a request of the benchmark failed: {error:#}"));
                }
            }
        }
    }
}

/// Restarts Postgres for the one that asks.
async fn serve(stream: UnixStream, postgres: &mut Postgres) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    tokio::time::timeout(REQUEST, stream.read_line(&mut line)).await.context("no request came")??;
    let answer = if line.trim() == "restart" {
        // The benchmark waits for the answer; there is nothing else to do meanwhile.
        match tokio::task::block_in_place(|| postgres.restart_immediately()) {
            Ok(()) => "ready".to_owned(),
            Err(error) => format!("{error:#}").replace('\n', " "),
        }
    } else {
        format!("unknown request {:?}", line.trim())
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(())
}
