//! Getting a Docker engine onto a machine that has none that answers: root on Debian or Ubuntu only.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::process::{Output, run, tail};
use crate::{host, stage};

/// How long an engine may take from its start to its first answer.
const START: Duration = Duration::from_secs(90);

/// Where an engine is to listen and to keep its things.
pub(super) struct Place {
    socket: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
}

impl Place {
    /// Where every client looks first.
    pub(super) fn usual() -> Self {
        Self {
            socket: "/var/run/docker.sock".into(),
            log: "/var/log/dockerd.log".into(),
            arguments: Vec::new(),
        }
    }
}

/// Installs the engine if there is none, starts it, and waits until it answers.
///
/// # Errors
/// If this machine does not allow it, with what is missing; or if the engine does not come up, with its last words.
pub(super) async fn start(place: &Place) -> Result<()> {
    if let Ok(elsewhere) = std::env::var("DOCKER_HOST") {
        bail!("DOCKER_HOST names {elsewhere}, and only an engine of this machine can be started from here");
    }
    if !host::is_root() {
        let what = if host::find_program("dockerd").is_some() {
            "a Docker engine is installed, but does not answer to this user: is it running, and is the user in its group?"
        } else {
            "there is no Docker engine, and only root may install one"
        };
        bail!(
            "{what} (on Debian or Ubuntu: sudo apt-get install docker.io && sudo usermod -aG docker \"$USER\")"
        );
    }
    if host::find_program("dockerd").is_none() {
        host::install(&["docker.io", "ca-certificates"], "a Docker engine").await?;
        // The package may have started it.
        if answers_within(&place.socket, Duration::from_secs(5)).await {
            return Ok(());
        }
    }
    if host::has_systemd() && place.arguments.is_empty() {
        stage::note("starting the Docker engine by systemd");
        let mut systemctl = Command::new("systemctl");
        systemctl.args(["start", "docker"]);
        let log = crate::workspace::scratch("logs")?.join("systemctl.log");
        run(systemctl, "systemctl start docker", START, Output::File(&log)).await?;
    } else {
        background(place).await?;
    }
    if answers_within(&place.socket, START).await {
        return Ok(());
    }
    bail!(
        "the Docker engine did not answer within {} s of its start; the end of {}:\n{}",
        START.as_secs(),
        place.log.display(),
        tail(&place.log, 20)
    )
}

/// Starts the daemon in a session of its own, so that it outlives this command.
async fn background(place: &Place) -> Result<()> {
    stage::note(&format!("starting dockerd in the background (log: {})", place.log.display()));
    let daemon = host::find_program("dockerd").context("dockerd is not among the installed programs")?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&place.log)
        .with_context(|| format!("cannot write {}", place.log.display()))?;
    let mut setsid = Command::new("setsid");
    setsid.arg("--fork").arg(daemon).args(&place.arguments);
    setsid.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    let status = setsid.status().await.context("cannot start dockerd (setsid, of util-linux, is needed)")?;
    if !status.success() {
        bail!("setsid could not start dockerd ({status})");
    }
    Ok(())
}

/// Whether something accepts connections at `socket` before `limit` is over. dockerd listens only once it is ready to
/// serve, and the caller greets it properly afterwards.
async fn answers_within(socket: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if UnixStream::connect(socket).await.is_ok() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
