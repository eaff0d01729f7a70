//! `cargo xtask verify`: builds the programs, and lets `orca-verify` break them while they work and check what it saw.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::process::{Output, run as run_program};
use crate::{interrupt, workspace};

/// The length of the load unless told, in seconds.
pub(crate) const SECONDS: u64 = 20;
const BUILD: Duration = Duration::from_secs(3_600);
/// What a run takes beside its load: start, drain, questions, check.
const ASIDE: Duration = Duration::from_secs(300);
/// What a run with a guard taken out takes at most.
const SABOTAGE: Duration = Duration::from_secs(240);
/// Guards there may be.
const GUARDS: u32 = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long there is load.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// What all that is random comes from: the same seed gives the same load and faults. By the clock unless told.
    #[arg(long)]
    seed: Option<u64>,
    /// Take this guard out of the coordinator, and see that the checker notices.
    #[arg(long, value_name = "GUARD", conflicts_with_all = ["seconds", "all_sabotages"])]
    sabotage: Vec<String>,
    /// Take one guard after the other out of the coordinator, and see that the checker notices each.
    #[arg(long, conflicts_with = "seconds")]
    all_sabotages: bool,
    /// Keep the history also when all holds.
    #[arg(long, conflicts_with_all = ["sabotage", "all_sabotages"])]
    keep: bool,
    /// Passed on.
    #[arg(last = true, hide = true)]
    rest: Vec<String>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    interrupt::unless_interrupted(verify(&args)).await
}

async fn verify(args: &Args) -> Result<()> {
    let sabotage = args.all_sabotages || !args.sabotage.is_empty();
    let bins = build(sabotage, Output::Show).await?;
    let mut command = program(&bins, if sabotage { "sabotage" } else { "run" })?;
    command.args(args.seed.map(|seed| format!("--seed={seed}")));
    let limit = if sabotage {
        command.args(&args.sabotage);
        SABOTAGE * GUARDS
    } else {
        command.args(["--seconds", &args.seconds.to_string()]).args(args.keep.then_some("--keep"));
        Duration::from_secs(args.seconds) + ASIDE
    };
    command.args(&args.rest);
    run_program(command, "orca-verify", limit, Output::Show).await
}

/// One run of `seconds` with everything in `log`, for the tests. Its programs are built here.
///
/// # Errors
/// If something that must always hold does not.
pub(crate) async fn short(seconds: u64, log: &Path) -> Result<()> {
    let bins = build(false, Output::File(log)).await?;
    let mut command = program(&bins, "run")?;
    command.args(["--seconds", &seconds.to_string()]);
    run_program(command, "orca-verify", Duration::from_secs(seconds) + ASIDE, Output::File(log)).await
}

fn program(bins: &Path, verb: &str) -> Result<Command> {
    let mut command = Command::new(bins.join("orca-verify"));
    command.arg(verb).arg("--bins").arg(bins).arg("--out").arg(workspace::scratch("verify/runs")?);
    Ok(command)
}

/// Builds the programs into a directory of their own, which a later build of something else leaves alone.
async fn build(sabotage: bool, output: Output<'_>) -> Result<PathBuf> {
    let bins = workspace::scratch(if sabotage { "verify/bins-sabotage" } else { "verify/bins" })?;
    let built = workspace::target().join("debug");
    if sabotage {
        cargo(&["build", "--package", "orca-coordinator", "--bins", "--features", "sabotage"], output)
            .await?;
        copy(&built, &bins, "orca-coordinator")?;
    }
    // Also after a build with guards that can be taken out: nobody else is to find that one.
    cargo(&["build", "--package", "orca-coordinator", "--package", "orca-verify", "--bins"], output).await?;
    if !sabotage {
        copy(&built, &bins, "orca-coordinator")?;
    }
    copy(&built, &bins, "orca-verify")?;
    copy(&built, &bins, "verify-node")?;
    Ok(bins)
}

async fn cargo(arguments: &[&str], output: Output<'_>) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(arguments);
    run_program(command, &format!("cargo {}", arguments.join(" ")), BUILD, output).await
}

fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    // A program that runs cannot be written to, but it can be replaced.
    let next = to.join(format!("{name}.next"));
    std::fs::copy(from.join(name), &next).with_context(|| format!("cannot copy {name}"))?;
    std::fs::rename(&next, to.join(name)).with_context(|| format!("cannot replace {name}"))?;
    Ok(())
}
