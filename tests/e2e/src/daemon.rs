//! One process under test: started with nothing but the environment that it is given, its log in a file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::settings;

/// Lines of a log that a failure shows.
const TAIL: usize = 60;

/// A coordinator or node, running or not. Dropping it kills it.
pub struct Daemon {
    name: String,
    binary: String,
    environment: Vec<(String, OsString)>,
    log: PathBuf,
    child: Option<Child>,
    killed: bool,
}

impl Daemon {
    /// A process that is not started yet: `binary` with `environment`, known as `name`, logging below `dir`.
    #[must_use]
    pub fn new(name: &str, binary: &str, dir: &Path, environment: Vec<(String, OsString)>) -> Self {
        Self {
            name: name.to_owned(),
            binary: binary.to_owned(),
            environment,
            log: dir.join(format!("{name}.log")),
            child: None,
            killed: false,
        }
    }

    /// What it is known as; for a node, its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, or starts it again. The log goes on in the same file.
    ///
    /// # Panics
    /// If it runs already or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.expect("the log can be written");
        let mut command = Command::new(settings::binary(&self.binary));
        command.env_clear().envs(self.environment.iter().map(|(key, value)| (key, value)));
        for inherited in ["PATH", "HOME", "TMPDIR", "DOCKER_HOST", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("the log can be written")).stdout(log);
        let child = command.process_group(0).kill_on_drop(true).spawn();
        self.killed = false;
        self.child = Some(child.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name)));
    }

    /// Whether it was started and has not been seen to end.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether it was killed and has not been started again.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.killed
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it is not running.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        let pid = pid.and_then(Pid::from_raw).unwrap_or_else(|| panic!("{} does not run", self.name));
        rustix::process::kill_process(pid, signal).expect("the process can be signalled");
    }

    /// Kills it at once and without warning, and returns once it is gone.
    ///
    /// # Panics
    /// If it is not running.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.killed = true;
        self.gone(Duration::from_secs(10)).await.expect("a killed process ends");
    }

    /// Waits until it has ended by itself, and says how; `None` if it has not within `limit`.
    pub async fn gone(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = tokio::time::timeout(limit, child.wait()).await.ok()?.ok()?;
        self.child = None;
        Some(status)
    }

    /// Asks it to drain, and waits until it has ended; after `limit` it is killed.
    ///
    /// # Errors
    /// In words, if it had to be killed or ended with another code than 0.
    pub async fn stop(&mut self, limit: Duration) -> Result<(), String> {
        if !self.is_running() {
            let Some(status) = self.gone(Duration::from_secs(1)).await else { return Ok(()) };
            return Err(format!("{} had ended by itself: {status}", self.name));
        }
        self.signal(Signal::TERM);
        match self.gone(limit).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("{} was asked to stop and ended badly: {status}", self.name)),
            None => {
                self.kill().await;
                Err(format!("{} was asked to stop and had not ended after {limit:?}", self.name))
            }
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
    }
}
