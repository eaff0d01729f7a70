//! A private Postgres cluster: made once, started on a unix socket only, stopped with a fast shutdown.
//!
//! What a killed `orca dev` may have left is dealt with here: a server that still runs is stopped, a stale
//! `postmaster.pid` is removed, a half-made cluster is made anew.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::account::Account;
use super::binaries::Binaries;
use super::{socket_dir, supervised};
use crate::error::{Exit, Failure};

/// The superuser and the database.
pub(super) const NAME: &str = "orca";
/// A cluster that is not made to the end.
const UNFINISHED: &str = "postgres.unfinished";
/// How long making a cluster may take.
const MAKE: Duration = Duration::from_secs(120);
/// How long a start may take: after a crash it replays what was written.
const START: Duration = Duration::from_secs(180);
/// How long a fast shutdown may take before a harder one.
const STOP: Duration = Duration::from_secs(30);
/// How long the harder ones may take.
const STOP_HARD: Duration = Duration::from_secs(10);
/// Between two looks at something that has no other way to say it is done.
const LOOK: Duration = Duration::from_millis(50);

/// A running server.
#[derive(Debug)]
pub(super) struct Cluster {
    server: Child,
    socket: PathBuf,
    keep_socket: bool,
}

/// The major version of the cluster in `data`, if there is one.
pub(super) fn version_of(data: &Path) -> Option<u32> {
    std::fs::read_to_string(data.join("postgres/PG_VERSION")).ok()?.trim().parse().ok()
}

impl Cluster {
    /// Starts the cluster in `data/postgres`, making it first where there is none.
    ///
    /// # Errors
    /// A [`Failure`] with the last lines of Postgres's own log.
    pub(super) async fn start(
        data: &Path,
        binaries: &Binaries,
        account: Option<&Account>,
    ) -> Result<Self, Failure> {
        let directory = data.join("postgres");
        if let Some(account) = account {
            account.check_way_to(&directory)?;
        }
        if version_of(data).is_none() {
            let made = make(data, binaries, account).await;
            if made.is_err() {
                // On a full disk what is half made is what fills it. What stays goes before the next try.
                let _ = std::fs::remove_dir_all(data.join(UNFINISHED));
            }
            made?;
        }
        stop_leftover(&directory).await?;
        let socket = socket_dir::prepare(data, account)?;
        let log = data.join("postgres.log");
        let deadline = Instant::now() + START;
        loop {
            let server = launch(&directory, &socket, &log, binaries, account)?;
            let keep_socket = socket.starts_with(data);
            let mut cluster = Self { server, socket: socket.clone(), keep_socket };
            match cluster.wait_ready(&directory, deadline).await {
                Ok(()) => return Ok(cluster),
                // The backends of a server that was killed take a moment to notice; until then a start is refused.
                Err(_) if Instant::now() < deadline && still_in_use(&log) => sleep(LOOK * 10).await,
                Err(failure) => {
                    cluster.stop().await;
                    return Err(failure.hint(format!("Postgres's log is {}", log.display())));
                }
            }
        }
    }

    /// How to reach it. Every part is named, so that no `PG…` variable can lead elsewhere.
    pub(super) fn url(&self) -> String {
        let mut host = String::new();
        for byte in self.socket.as_os_str().as_encoded_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => host.push(char::from(*byte)),
                byte => host.push_str(&format!("%{byte:02X}")),
            }
        }
        format!("postgres://{NAME}@localhost:5432/{NAME}?host={host}&sslmode=disable")
    }

    /// Resolves when the server has ended by itself.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.server.wait().await
    }

    /// Stops it: fast first, harder if that takes too long.
    pub(super) async fn stop(mut self) {
        for (signal, limit) in [(Signal::INT, STOP), (Signal::QUIT, STOP_HARD), (Signal::KILL, STOP_HARD)] {
            if let Some(pid) = self.server.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
            {
                // It may have ended just now.
                let _ = kill_process(pid, signal);
            }
            if timeout(limit, self.server.wait()).await.is_ok() {
                break;
            }
        }
        if !self.keep_socket {
            // A directory outside the data directory would stay behind for good; inside it is made anew if absent.
            let _ = std::fs::remove_dir(&self.socket);
        }
    }

    /// Waits until `postmaster.pid` says that the server takes connections, as `pg_ctl` does.
    async fn wait_ready(&mut self, directory: &Path, deadline: Instant) -> Result<(), Failure> {
        let pid = self.server.id();
        loop {
            if let Ok(Some(status)) = self.server.try_wait() {
                return Err(Failure::new(Exit::Other, "Postgres did not start")
                    .because(log_tail(&directory.with_file_name("postgres.log"), status)));
            }
            if let Some(file) = PidFile::read(directory)
                && file.pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) == pid
                && file.ready
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(Exit::Other, "Postgres did not start in time"));
            }
            sleep(LOOK).await;
        }
    }
}

fn launch(
    directory: &Path,
    socket: &Path,
    log: &Path,
    binaries: &Binaries,
    account: Option<&Account>,
) -> Result<Child, Failure> {
    let open = || {
        let log =
            std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(log)?;
        Ok::<_, io::Error>((log.try_clone()?, log))
    };
    let (out, err) =
        open().map_err(|error| Failure::file(format!("cannot write {}", log.display()), &error))?;
    let mut command = server_command(&binaries.program("postgres"));
    command.arg("-D").arg(directory).arg("-k").arg(socket);
    for setting in ["listen_addresses=", "port=5432", "unix_socket_permissions=0700", "logging_collector=off"]
    {
        command.arg("-c").arg(setting);
    }
    become_account(&mut command, account);
    // A process group of its own: Ctrl-C on the terminal must reach it last, not first.
    command.process_group(0).stdin(Stdio::null()).stdout(out).stderr(err);
    command.spawn().map_err(|error| Failure::file("cannot start Postgres", &error))
}

/// The server, tied to our own life where the system can do that.
fn server_command(program: &Path) -> Command {
    if cfg!(target_os = "linux") {
        // By this name our own binary can be run by an account that may not enter the directory where it is.
        let mut command = Command::new("/proc/self/exe");
        let parent = rustix::process::getpid().as_raw_nonzero().to_string();
        command.arg(supervised::SUPERVISED).arg("--parent").arg(parent).arg(program).arg("--");
        command
    } else {
        Command::new(program)
    }
}

fn become_account(command: &mut Command, account: Option<&Account>) {
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
}

/// Makes a cluster beside its place and moves it there once it is whole.
async fn make(data: &Path, binaries: &Binaries, account: Option<&Account>) -> Result<(), Failure> {
    let (unfinished, finished) = (data.join(UNFINISHED), data.join("postgres"));
    let prepared = || -> io::Result<()> {
        for leftover in [&unfinished, &finished] {
            match std::fs::remove_dir_all(leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::DirBuilder::new().mode(0o700).create(&unfinished)?;
        account.map_or(Ok(()), |account| chown(&unfinished, Some(account.uid), Some(account.gid)))
    };
    // Without PG_VERSION there is nothing of value in it, but never touch what is not ours.
    if finished.is_dir() && std::fs::read_dir(&finished).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::invalid(format!("{} is not empty and not a cluster", finished.display()))
            .hint("remove it, or choose another directory with --data"));
    }
    prepared().map_err(|error| Failure::file(format!("cannot make {}", unfinished.display()), &error))?;

    let mut initdb = Command::new(binaries.program("initdb"));
    // Whoever can enter the socket's directory is let in; that is its owner alone.
    initdb.args(["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C"]);
    initdb.arg("--username").arg(NAME).arg("--pgdata").arg(&unfinished);
    finish(initdb, account, "", "Postgres could not make a cluster").await?;
    let mut single = Command::new(binaries.program("postgres"));
    single.arg("--single").arg("-D").arg(&unfinished).arg("postgres");
    finish(single, account, &format!("CREATE DATABASE {NAME};\n"), "Postgres could not make a database")
        .await?;

    std::fs::rename(&unfinished, &finished)
        .map_err(|error| Failure::file(format!("cannot make {}", finished.display()), &error))
}

async fn finish(
    mut command: Command,
    account: Option<&Account>,
    input: &str,
    what: &str,
) -> Result<(), Failure> {
    become_account(&mut command, account);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let done =
        timeout(MAKE, run).await.map_err(|_| Failure::new(Exit::Other, what).because("it took too long"))?;
    let done = done.map_err(|error| Failure::file(what, &error))?;
    if done.status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Other, what).because(last_lines(&String::from_utf8_lossy(&done.stderr))))
}

/// Stops the server of an `orca dev` that was killed, and removes a lock file that nobody holds.
async fn stop_leftover(directory: &Path) -> Result<(), Failure> {
    let Some(PidFile { pid: Some(pid), .. }) = PidFile::read(directory) else { return Ok(()) };
    if !is_server_of(pid, directory) {
        // Postgres would refuse to start if another process of its account had got that id meanwhile.
        return match std::fs::remove_file(directory.join("postmaster.pid")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::file("cannot remove a stale postmaster.pid", &error))
            }
            _ => Ok(()),
        };
    }
    for (signal, limit) in [(Signal::INT, STOP), (Signal::QUIT, STOP_HARD)] {
        // It may have ended just now.
        let _ = kill_process(pid, signal);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !is_server_of(pid, directory) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }
    Err(Failure::new(Exit::Other, "a Postgres of an earlier `orca dev` does not stop")
        .because(format!("its process id is {pid}"))
        .hint(format!("stop it with: kill -QUIT {pid}")))
}

/// Whether that process runs, and is the server of that cluster: a server's working directory is its data.
fn is_server_of(pid: Pid, directory: &Path) -> bool {
    if cfg!(target_os = "linux") {
        let here = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        return std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == here);
    }
    test_kill_process(pid).is_ok()
}

/// What `postmaster.pid` says: the process id on its first line, its state on its eighth.
struct PidFile {
    pid: Option<Pid>,
    ready: bool,
}

impl PidFile {
    fn read(directory: &Path) -> Option<Self> {
        std::fs::read_to_string(directory.join("postmaster.pid")).ok().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
        Self { pid, ready: lines.nth(6).is_some_and(|line| line.trim() == "ready") }
    }
}

fn still_in_use(log: &Path) -> bool {
    std::fs::read_to_string(log)
        .is_ok_and(|text| text.contains("shared memory block") && text.contains("in use"))
}

fn log_tail(log: &Path, status: ExitStatus) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if text.trim().is_empty() { status.to_string() } else { last_lines(&text) }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_tells_the_process_and_whether_it_takes_connections() {
        let text = "4711\n/data\n1700000000\n5432\n/data/socket\n\n  5432001   0\nready   \n";
        let file = PidFile::parse(text);
        assert_eq!((file.pid, file.ready), (Pid::from_raw(4711), true));
        assert!(!PidFile::parse(&text.replace("ready", "starting")).ready);
        assert!(PidFile::parse("").pid.is_none());
        assert!(PidFile::parse("junk\n").pid.is_none());
    }
}
