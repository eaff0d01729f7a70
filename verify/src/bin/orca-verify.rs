//! `orca-verify`: makes a history under faults and checks it, checks an old one, or checks that the checker notices.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use orca_verify::checker::{Verdict, check};
use orca_verify::history::History;
use orca_verify::load::Mix;
use orca_verify::run::{Settings, run};
use orca_verify::system::Binaries;
use orca_verify::{report, sabotage};

/// Puts to the test what must always hold
#[derive(Parser)]
#[command(name = "orca-verify")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a history with the real processes under faults, and check it
    Run(RunArgs),
    /// Check a history
    Check {
        /// The file
        history: PathBuf,
    },
    /// Take one guard after the other out of the coordinator, and see that the checker notices
    Sabotage(SabotageArgs),
}

#[derive(Args)]
struct Programs {
    /// The directory of orca-coordinator and verify-node
    #[arg(long, value_name = "DIR")]
    bins: PathBuf,
    /// Where histories and logs go; each run makes a directory of its own there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    programs: Programs,
    /// How long there is load
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    seconds: u64,
    /// What all that is random comes from; by the clock unless told
    #[arg(long)]
    seed: Option<u64>,
    /// Break nothing
    #[arg(long)]
    no_faults: bool,
    /// Keep the history also when all holds
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct SabotageArgs {
    #[command(flatten)]
    programs: Programs,
    /// Only these guards; all unless told
    names: Vec<String>,
    /// What all that is random comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long there is load for each
    #[arg(long, default_value_t = sabotage::LENGTH.as_secs())]
    seconds: u64,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let work = async {
        match cli.verb {
            Verb::Run(args) => one(&args).await,
            Verb::Check { history } => judge(&history, false),
            Verb::Sabotage(args) => all(&args).await,
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        () = terminated() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

async fn one(args: &RunArgs) -> Result<()> {
    let seed = args
        .seed
        .unwrap_or_else(|| u64::try_from(orca_verify::clock::unix_micros()).unwrap_or_default() % 1_000_000);
    println!("seed {seed}, {} s", args.seconds);
    let name = format!("seed-{seed}");
    let settings = Settings {
        binaries: binaries(&args.programs),
        directory: fresh(&args.programs.out, &name)?,
        seed,
        length: Duration::from_secs(args.seconds),
        faults: !args.no_faults,
        mix: Mix::default(),
        sabotage: None,
    };
    let history = run(&settings).await.with_context(|| {
        format!("the run broke off; its logs are in {}; again: --seed {seed}", settings.directory.display())
    })?;
    judge(&history, args.no_faults)?;
    if !args.keep {
        std::fs::remove_dir_all(&settings.directory)?;
    }
    Ok(())
}

/// Tells what a history shows. A check that looked at nothing is a failure, unless that `may_be`.
fn judge(path: &Path, may_be: bool) -> Result<()> {
    let history = History::read(path)?;
    let verdicts = check(&history);
    println!("{}{}", report::summary(&history), report::verdicts(&history, &verdicts));
    let broken: Vec<String> = verdicts
        .iter()
        .filter(|verdict| verdict.is_broken())
        .map(|verdict| verdict.number.to_string())
        .collect();
    if !broken.is_empty() {
        bail!("invariant {} does not hold; the history is {}", broken.join(", "), path.display());
    }
    let empty: Vec<&str> = checks(&verdicts).filter(|(_, facts)| *facts == 0).map(|(name, _)| name).collect();
    if !empty.is_empty() && !may_be {
        bail!("nothing was shown of: {}; the history is {}", empty.join("; "), path.display());
    }
    Ok(())
}

fn checks(verdicts: &[Verdict]) -> impl Iterator<Item = (&'static str, usize)> {
    verdicts.iter().flat_map(|verdict| verdict.checks.iter().map(|check| (check.name, check.facts)))
}

async fn all(args: &SabotageArgs) -> Result<()> {
    let mut unnoticed = Vec::new();
    let unknown = args.names.iter().find(|name| sabotage::named(name).is_none());
    if let Some(unknown) = unknown {
        let known: Vec<&str> = sabotage::ALL.iter().map(|sabotage| sabotage.name).collect();
        bail!("there is no guard {unknown:?}; there are {}", known.join(", "));
    }
    for guard in &sabotage::ALL {
        if !args.names.is_empty() && !args.names.iter().any(|name| name == guard.name) {
            continue;
        }
        let settings = Settings {
            binaries: binaries(&args.programs),
            directory: fresh(&args.programs.out, &format!("without-{}", guard.name))?,
            seed: args.seed,
            length: Duration::from_secs(args.seconds),
            faults: false,
            mix: (guard.mix)(),
            sabotage: Some(guard.name),
        };
        let history =
            run(&settings).await.with_context(|| format!("the run without {} broke off", guard.name))?;
        let verdicts = check(&History::read(&history)?);
        let broken: Vec<u8> =
            verdicts.iter().filter(|verdict| verdict.is_broken()).map(|verdict| verdict.number).collect();
        let noticed = guard.breaks.iter().any(|number| broken.contains(number));
        let word = if noticed { "noticed" } else { "UNNOTICED" };
        println!(
            "{:<20} {word:<10} broken {broken:?}, looked for {:?}: {}",
            guard.name, guard.breaks, guard.what
        );
        if noticed {
            std::fs::remove_dir_all(&settings.directory)?;
        } else {
            unnoticed.push(format!("{} ({})", guard.name, history.display()));
        }
    }
    if !unnoticed.is_empty() {
        bail!("the checker did not notice that these were taken out: {}", unnoticed.join(", "));
    }
    Ok(())
}

fn binaries(programs: &Programs) -> Binaries {
    Binaries { coordinator: programs.bins.join("orca-coordinator"), node: programs.bins.join("verify-node") }
}

fn fresh(out: &Path, name: &str) -> Result<PathBuf> {
    let directory = out.join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}
