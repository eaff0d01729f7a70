//! A long-running program of Orca's: started with its output in a file, stopped by SIGTERM, never left behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::process::{Group, tail};

/// How long a service may take to drain.
const DRAIN: Duration = Duration::from_secs(90);

/// A running service. Dropping it ends it and everything it started.
pub(crate) struct Service {
    name: String,
    log: PathBuf,
    group: Group,
}

impl Service {
    /// Starts `program` with nothing of Orca's own or of a database in its environment but what `command` says.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(
        program: &Path,
        name: &str,
        log: &Path,
        set_up: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if text.starts_with("ORCA_") || text.starts_with("PG") || text == "DATABASE_URL" {
                command.env_remove(&variable);
            }
        }
        set_up(&mut command);
        let file = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let group = Group::spawn(command, name)?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), group })
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.group.child.id().with_context(|| format!("{} has ended", self.name))
    }

    /// Checks that it has not ended.
    ///
    /// # Errors
    /// If it has; with its last words.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.group.child.try_wait()? {
            bail!("{} ended by itself ({status}); its last words:\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// The end of its output.
    pub(crate) fn last_words(&self) -> String {
        tail(&self.log, 20)
    }

    /// Kills it without warning, and waits until it is gone.
    ///
    /// # Errors
    /// If it has ended already.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.pid()?;
        self.group.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))
    }

    /// Asks it to drain and waits until it has ended.
    ///
    /// # Errors
    /// If it had to be killed.
    pub(crate) async fn stop(self) -> Result<()> {
        self.group.stop(&self.name, DRAIN).await
    }
}
