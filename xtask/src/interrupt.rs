//! Ctrl-C and SIGTERM: the work is dropped (its guards stop what it started), and the clean-up goes on.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Somebody stopped the command.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Runs `work` until it ends or a signal asks to stop; then `work` is dropped and the answer is [`Interrupted`].
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
        _ = hang_up.recv() => Err(Interrupted.into()),
    }
}
