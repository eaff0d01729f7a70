//! A node whose tasks only pretend, as a process of its own that can be killed and stopped.

use std::process::ExitCode;

use anyhow::{Context, Result};
use orca_verify::history::Recorder;
use orca_verify::node::{NodeSettings, run};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: verify-node SETTINGS.json")?;
    let settings: Vec<NodeSettings> = serde_json::from_slice(&std::fs::read(path)?)?;
    let shutdown = CancellationToken::new();
    let roles = settings.into_iter().map(|settings| {
        let shutdown = shutdown.clone();
        async move {
            let recorder = Recorder::open(&settings.history)?;
            Box::pin(run(settings, recorder, shutdown)).await
        }
    });
    let roles = futures_util::future::try_join_all(roles);
    tokio::select! {
        outcome = roles => outcome.map(drop),
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = terminated() => Ok(()),
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
