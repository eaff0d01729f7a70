//! A whole run: the system is started, worked and broken, left to drain, and asked for everything it knows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use orca_proto::spec::Role;
use tokio_util::sync::CancellationToken;

use crate::history::{Recorder, What, merge};
use crate::load::{self, Mix};
use crate::node;
use crate::system::{Binaries, NAMESPACES, System};
use crate::{clock, dump, fault};

/// How long it may take until another task ends. What has not ended then is for the checker to tell.
const DRAIN: Duration = Duration::from_secs(60);
/// The same where a guard is missing: what hangs then need not be waited for.
const SABOTAGED_DRAIN: Duration = Duration::from_secs(12);
/// How long a lease lasts in a run.
const LEASE: Duration = Duration::from_secs(2);

/// What a run is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The programs.
    pub binaries: Binaries,
    /// An empty directory for everything that the run leaves.
    pub directory: PathBuf,
    /// All that is random comes from it.
    pub seed: u64,
    /// How long there is load.
    pub length: Duration,
    /// Whether things are broken.
    pub faults: bool,
    /// The load.
    pub mix: Mix,
    /// The guard that the coordinators go without.
    pub sabotage: Option<&'static str>,
}

/// Makes a history and answers where it is.
///
/// # Errors
/// If the system cannot be started, mended or asked; that something is not as it must be is no error here.
pub async fn run(settings: &Settings) -> Result<PathBuf> {
    let system = System::start(&settings.binaries, &settings.directory, LEASE, settings.sabotage);
    let mut system = system.await.context("the system does not start")?;
    let recorder = Recorder::open(&system.history("run"))?;
    recorder.note(
        "run",
        What::Begin {
            unix: clock::unix_micros(),
            seed: settings.seed,
            lease_ms: i64::try_from(LEASE.as_millis())?,
        },
    );
    system.start_nodes(&settings.binaries, settings.mix.batch_reports).await?;
    let system = Arc::new(system);
    let bystanders = bystanders(&system, settings.mix.batch_reports)?;
    let outcome = work(settings, &system, &recorder).await;
    bystanders.cancel();
    outcome?;
    let whole = settings.directory.join("history.jsonl");
    merge(&parts(&settings.directory)?, &whole)?;
    Ok(whole)
}

async fn work(settings: &Settings, system: &Arc<System>, recorder: &Recorder) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(settings.seed);
    let planned = if settings.faults { fault::deal(&mut rng, settings.length, LEASE) } else { Vec::new() };
    let stop = CancellationToken::new();
    let timer = async {
        tokio::time::sleep(settings.length).await;
        stop.cancel();
        Ok(())
    };
    tokio::try_join!(
        load::run(system, recorder, settings.mix, settings.seed, &stop),
        fault::run(system, recorder, planned, &stop),
        timer,
    )?;
    drain(system, recorder, if settings.sabotage.is_some() { SABOTAGED_DRAIN } else { DRAIN }).await?;
    dump::write(system, recorder).await
}

/// Waits until all has ended, or for `patience` without anything ending.
async fn drain(system: &System, recorder: &Recorder, patience: Duration) -> Result<()> {
    let mut deadline = tokio::time::Instant::now() + patience;
    let (mut last, mut quiet) = (usize::MAX, 0);
    // Nothing is open twice in a row: what hung up last may still be on its way.
    while quiet < 2 && tokio::time::Instant::now() < deadline {
        system.check().await?;
        if let Ok(open) = load::finish(system, recorder).await {
            quiet = if open == 0 { quiet + 1 } else { 0 };
            if open < last {
                (last, deadline) = (open, tokio::time::Instant::now() + patience);
            }
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    Ok(())
}

/// Nodes in this process, that nothing is done to: one more worker of the first tenant, whose leases another node's token
/// is tried on, and the only one of the second.
fn bystanders(system: &System, batch_reports: bool) -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    for (number, namespace) in NAMESPACES.into_iter().enumerate() {
        let name = format!("bystander-{number}");
        let mut settings =
            system.node_settings(&name, namespace, Role::Work, 4, &system.clients, batch_reports)?;
        settings.impostor = system.tokens.get(namespace).map(|tokens| tokens.intruder.clone());
        let recorder = Recorder::open(&settings.history)?;
        tokio::spawn(node::run(settings, recorder, stop.clone()));
    }
    Ok(stop)
}

fn parts(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "history") {
            parts.push(path);
        }
    }
    parts.sort_unstable();
    Ok(parts)
}
