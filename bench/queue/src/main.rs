//! Measures Orca's queue beside its peers on one Postgres. Started by `cargo xtask bench queue`; docs/performance.md says what
//! is measured and how.
//!
//! `floor` is plain SQL, `peers/` are the other queues, `orca/` starts coordinators and speaks REST with them, `measure/` has a
//! file per group of measures, `board` collects and judges the figures.

mod arrivals;
mod bench;
mod board;
mod database;
mod floor;
mod load;
mod measure;
mod orca;
mod payload;
mod peers;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bench::{Bench, Size};
use crate::database::Server;
use crate::measure::Measure;
use crate::orca::Installation;

/// Measures Orca's queue beside its peers; `cargo xtask bench queue` starts it with what it needs.
#[derive(Debug, Parser)]
struct Args {
    /// The administrator's database on a Postgres that nobody else uses.
    #[arg(long, value_name = "URL", env = "ORCA_BENCH_POSTGRES", hide_env_values = true)]
    postgres: String,
    /// The release binary of `orca-coordinator`.
    #[arg(long, value_name = "FILE")]
    coordinator: PathBuf,
    /// A socket that restarts Postgres in immediate mode when it is sent `restart`, and answers `ready`.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Where to write the figures: a list of {"measure", "system", "value", "unit"}.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Small sizes and a single round: minutes instead of half an hour, and rougher.
    #[arg(long)]
    quick: bool,
    /// Only these measures.
    #[arg(long, value_name = "MEASURE", value_delimiter = ',')]
    only: Vec<Measure>,
    /// Only these systems.
    #[arg(long, value_name = "SYSTEM", value_delimiter = ',',
          value_parser = clap::builder::PossibleValuesParser::new(board::SYSTEMS))]
    system: Vec<String>,
    /// Try the settings of every system instead, and print what each reaches.
    #[arg(long)]
    sweep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<bool> {
    allow_many_connections();
    let server = Server::new(&args.postgres);
    println!("{}", server.settings().await?);
    let orca = Installation::new(&args.coordinator)?;
    let size = if args.quick { Size::QUICK } else { Size::FULL };
    let mut bench = Bench::new(server, orca, size, args.only, args.system, args.control, args.sweep);
    let outcome = tokio::select! {
        outcome = measure::run(&mut bench) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // What was measured before a failure is worth seeing.
    println!("\n{}", bench.board.table());
    if let Some(path) = &args.json {
        bench.board.write(path)?;
    }
    outcome?;
    Ok(!bench.board.is_wrong())
}

/// Ten thousand idle nodes are ten thousand connections, here and in the coordinator, which inherits this.
fn allow_many_connections() {
    const WANTED: u64 = 65_536;
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: Some(WANTED), maximum: Some(now.maximum.unwrap_or(WANTED).max(WANTED)) };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        let hard = Rlimit { current: now.maximum, maximum: now.maximum };
        if setrlimit(Resource::Nofile, hard).is_err() {
            eprintln!("the limit of open files cannot be raised; the measure of idle nodes may fail");
        }
    }
}
