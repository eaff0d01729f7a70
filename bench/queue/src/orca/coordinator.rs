//! Coordinators: one process each, started from the release binary on a free port, stopped by SIGTERM.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::token::{Access, DEFAULT_NAMESPACE, SigningKey};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::database::Database;

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);
/// Longer than any measurement.
const TOKENS: u64 = 24 * 3_600;

/// What coordinators share: the binary, the key that signs tokens, the directory of artifacts.
pub(crate) struct Installation {
    binary: PathBuf,
    directory: tempfile::TempDir,
    operator: String,
    worker: String,
}

/// A running coordinator. A drop kills it; [`Coordinator::stop`] lets it drain.
pub(crate) struct Coordinator {
    child: Child,
    log: PathBuf,
    url: String,
    operator: String,
    worker: String,
}

impl Installation {
    /// For the binary at `binary`.
    ///
    /// # Errors
    /// If no key can be made or written.
    pub(crate) fn new(binary: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("orca-bench-").tempdir()?;
        let key = SigningKey::generate()?;
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(directory.path().join("key.pem"))?;
        file.write_all(key.to_pem().as_bytes())?;
        let issue = |name, role| -> Result<String> {
            Ok(key.issue(name, role, DEFAULT_NAMESPACE, Timestamp::now(), Span::secs(TOKENS))?)
        };
        let (operator, worker) = (issue("operator", Access::Operator)?, issue("worker", Access::Worker)?);
        Ok(Self { binary: binary.to_owned(), directory, operator, worker })
    }

    /// A coordinator on `database` with the default settings, and `settings` over them.
    ///
    /// # Errors
    /// If it does not come up; with its last words.
    pub(crate) async fn start(&self, database: &Database, settings: &[(&str, &str)]) -> Result<Coordinator> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = self.directory.path().join(format!("coordinator-{port}.log"));
        let output = std::fs::File::create(&log)?;
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ORCA_") || text.starts_with("PG") || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command
            .env("ORCA_LISTEN", format!("127.0.0.1:{port}"))
            .env("DATABASE_URL", database.url())
            .env("ORCA_SIGNING_KEY_FILE", self.directory.path().join("key.pem"))
            .env("ORCA_DATA_DIR", self.directory.path().join("data"))
            .env("ORCA_LOG", "warn")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?;
        let mut coordinator = Coordinator {
            child,
            log,
            url: format!("http://127.0.0.1:{port}"),
            operator: self.operator.clone(),
            worker: self.worker.clone(),
        };
        let client = coordinator.operator()?;
        let begun = Instant::now();
        while client.ready().await.is_err() {
            if let Some(status) = coordinator.child.try_wait()? {
                bail!("the coordinator ended at once ({status}):\n{}", coordinator.last_words());
            }
            if begun.elapsed() > START {
                bail!("the coordinator did not come up:\n{}", coordinator.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(coordinator)
    }
}

impl Coordinator {
    /// A client with connections of its own, for an operator.
    ///
    /// # Errors
    /// If there can be none.
    pub(crate) fn operator(&self) -> Result<Client> {
        Ok(Client::new(&self.url, &self.operator)?)
    }

    /// A client with connections of its own, for nodes.
    ///
    /// # Errors
    /// If there can be none.
    pub(crate) fn worker(&self) -> Result<Client> {
        Ok(Client::new(&self.url, &self.worker)?)
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("the coordinator has ended:\n{}", self.last_words()))
    }

    /// The end of what it wrote.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(15)).map(|line| format!("    {line}\n")).collect()
    }

    /// Asks it to drain and waits until it has ended.
    ///
    /// # Errors
    /// If it does not end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let ended = tokio::time::timeout(STOP, self.child.wait()).await;
        ended.with_context(|| format!("the coordinator did not stop:\n{}", self.last_words()))??;
        Ok(())
    }
}
