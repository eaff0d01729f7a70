//! `cargo xtask …`: everything a person types to build, try, test and measure Orca.
//!
//! One file per verb under `command/`; `engine/` finds, installs and starts a Docker engine and makes the images that no
//! registry gives; `postgres/` runs throw-away databases; `demo/` and `bench/` hold the parts of those two verbs. Nothing
//! here ships: it needs a Rust toolchain and brings, or asks for, everything else by name.

mod bench;
mod command;
mod demo;
mod elf;
mod engine;
mod host;
mod interrupt;
mod leftovers;
mod ports;
mod postgres;
mod proc_status;
mod process;
mod service;
mod stage;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tries, tests and measures Orca.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build everything, start the system, and survey a directory with it.
    Demo(command::demo::Args),
    /// Format, lints, unit, component and end-to-end tests; what continuous integration runs.
    Test(command::test::Args),
    /// Build all binaries, the static ones included, side by side into `dist/<profile>/`.
    Dist(command::dist::Args),
    /// Measure, and write the figures as JSON.
    Bench(command::bench::Args),
    /// Build the images of `compose/` in full, from the sources, through the Docker API.
    Images(command::images::Args),
    /// Check licences, advisories, sources and duplicates with cargo-deny, which is installed where it is missing.
    Audit(command::audit::Args),
    /// Make the data in `.sqlx/` anew, against which queries are checked where there is no database.
    Sqlx(command::sqlx::Args),
    /// Break the real processes while they work, and check from the history that what must always hold does.
    Verify(command::verify::Args),
    /// Write the line per file in ARCHITECTURE.md, from the head of each file.
    Map(command::map::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(7);
        }
    };
    let outcome = runtime.block_on(async {
        match cli.verb {
            Verb::Demo(args) => Box::pin(command::demo::run(args)).await,
            Verb::Test(args) => Box::pin(command::test::run(args)).await,
            Verb::Dist(args) => Box::pin(command::dist::run(args)).await,
            Verb::Bench(args) => Box::pin(command::bench::run(args)).await,
            Verb::Images(args) => Box::pin(command::images::run(args)).await,
            Verb::Audit(args) => Box::pin(command::audit::run(args)).await,
            Verb::Map(args) => Box::pin(command::map::run(args)).await,
            Verb::Verify(args) => Box::pin(command::verify::run(args)).await,
            Verb::Sqlx(args) => Box::pin(command::sqlx::run(args)).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            eprintln!("interrupted; everything that was started has been stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
