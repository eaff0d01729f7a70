//! The system that the demo runs on: `orca dev`, with a database of its own that is forgotten at the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use orca_proto::client::Client;
use serde::Deserialize;

use crate::service::Service;

/// Where there is no Postgres, one has to be downloaded first.
const START: Duration = Duration::from_secs(300);

/// What `orca dev` says once it serves; other fields are for other readers.
#[derive(Deserialize)]
struct Ready {
    url: String,
    token_file: PathBuf,
}

/// A running `orca dev`.
pub(crate) struct System {
    service: Service,
    /// The operator's client.
    pub(crate) client: Client,
    /// Holds its profile and its output; goes away last.
    _directory: tempfile::TempDir,
}

impl System {
    /// Starts the `orca` at `program` on a free port with this container runtime (`docker` or `process`).
    ///
    /// # Errors
    /// If it ends or does not serve in time; with its last words.
    pub(crate) async fn start(program: &Path, runtime: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("orca-demo-").tempdir()?;
        let (ready, log) = (directory.path().join("ready.json"), directory.path().join("orca-dev.log"));
        let mut service = Service::start(program, "orca dev", &log, |command| {
            command.args([
                "dev",
                "--ephemeral",
                "--listen",
                "127.0.0.1:0",
                "--runtime",
                runtime,
                "--ready-file",
            ]);
            command.arg(&ready);
            // The profile that it saves is not the user's.
            command.env("XDG_CONFIG_HOME", directory.path().join("config"));
        })?;
        let deadline = Instant::now() + START;
        let ready: Ready = loop {
            if let Ok(text) = std::fs::read(&ready)
                && let Ok(ready) = serde_json::from_slice(&text)
            {
                break ready;
            }
            service.check()?;
            if Instant::now() >= deadline {
                bail!("orca dev did not serve within {} s:\n{}", START.as_secs(), service.last_words());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let token = std::fs::read_to_string(&ready.token_file)
            .with_context(|| format!("cannot read the token at {}", ready.token_file.display()))?;
        let client = Client::new(&ready.url, &token)?;
        Ok(Self { service, client, _directory: directory })
    }

    /// Checks that it still runs.
    ///
    /// # Errors
    /// If not; with its last words.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.service.check()
    }

    /// The end of its output.
    pub(crate) fn last_words(&self) -> String {
        self.service.last_words()
    }

    /// Drains and stops it.
    ///
    /// # Errors
    /// If it had to be killed.
    pub(crate) async fn stop(self) -> Result<()> {
        self.service.stop().await
    }
}
