//! Running other programs: each in its own process group, with a time limit, its output kept, and nothing of it left
//! when the run is dropped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};

/// Between asking a process group to end and ending it.
const GRACE: Duration = Duration::from_secs(10);

/// Where a program's output goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output<'a> {
    /// To the terminal.
    Show,
    /// Into a file, whose end is part of the error if the program fails.
    File(&'a Path),
}

/// Runs `command` and waits for it at most `limit`.
///
/// # Errors
/// If it cannot be started, fails, or takes too long; with the last lines of its output.
pub(crate) async fn run(mut command: Command, what: &str, limit: Duration, output: Output<'_>) -> Result<()> {
    command.stdin(Stdio::null());
    if let Output::File(path) = output {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
    }
    let mut group = Group::spawn(command, what)?;
    let status = match tokio::time::timeout(limit, group.child.wait()).await {
        Ok(status) => status.with_context(|| format!("cannot wait for {what}"))?,
        Err(_) => {
            drop(group);
            bail!("{what} took longer than {} s{}", limit.as_secs(), tail_of(output));
        }
    };
    if !status.success() {
        bail!("{what} failed ({status}){}", tail_of(output));
    }
    Ok(())
}

/// Runs `command` for at most `limit` and returns what it wrote to standard output.
///
/// # Errors
/// If it cannot be started, fails, or takes too long.
pub(crate) async fn capture(mut command: Command, what: &str, limit: Duration) -> Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("{what} took longer than {} s", limit.as_secs()))?
        .with_context(|| format!("cannot start {what}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tail_of(output: Output<'_>) -> String {
    match output {
        Output::Show => String::new(),
        Output::File(path) => format!("; the end of {}:\n{}", path.display(), tail(path, 60)),
    }
}

/// The last `lines` lines of a file, each indented.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    const MOST: u64 = 64 << 10;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.iter().skip(from).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// A child process with a process group of its own. Dropping it ends the whole group: SIGTERM, 10 s, SIGKILL.
pub(crate) struct Group {
    pub(crate) child: Child,
    leader: Option<Pid>,
}

impl Group {
    /// Starts `command` as the leader of a new group.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn spawn(mut command: Command, what: &str) -> Result<Self> {
        command.process_group(0);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {what} ({program})"))?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, leader })
    }

    /// Asks the leader alone to end, and waits for it at most `limit`; then the rest of the group is ended by the drop.
    ///
    /// # Errors
    /// If it had to be killed.
    pub(crate) async fn stop(mut self, what: &str, limit: Duration) -> Result<()> {
        if let (Some(leader), Some(_)) = (self.leader, self.child.id()) {
            // The leader cannot have been reaped: `id` is there as long as nobody waited for it.
            let _ = rustix::process::kill_process(leader, Signal::TERM);
        }
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                bail!("{what} did not end within {} s of SIGTERM and was killed", limit.as_secs())
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(leader) = self.leader else { return };
        if kill_process_group(leader, Signal::TERM).is_err() {
            return;
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            // Reaps the leader, which would else be a member of its group for ever.
            let _ = self.child.try_wait();
            if test_kill_process_group(leader).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = kill_process_group(leader, Signal::KILL);
        let _ = self.child.try_wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Whether the process is there and not merely waiting to be reaped.
    fn runs(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[tokio::test]
    async fn a_dropped_program_is_ended_with_everything_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > '{0}.next'; mv '{0}.next' '{0}'; wait", pid.display());
        let group = Group::spawn(shell(&script), "the sleeper").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !pid.exists() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let grandchild = std::fs::read_to_string(&pid).unwrap();
        assert!(runs(grandchild.trim()));
        drop(group);
        assert!(!runs(grandchild.trim()));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_an_error() {
        let limit = Duration::from_millis(10);
        let error = run(shell("sleep 1000"), "the sleeper", limit, Output::Show).await.unwrap_err();
        assert!(error.to_string().starts_with("the sleeper took longer than"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_shows_the_end_of_the_output() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let script = "for n in $(seq 100); do echo line $n; done; echo why >&2; exit 3";
        let limit = Duration::from_secs(60);
        let error =
            run(shell(script), "the script", limit, Output::File(&log)).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("line 100\n    why"), "{error}");
        assert!(!error.contains("line 10\n"), "{error}");
    }
}
