//! A private Postgres that can be killed, stopped, restarted at once and set to another time.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The beginning of the directory's name, with the maker's process id behind it: `cargo xtask` removes what a killed run
/// of that name left.
const PREFIX: &str = "orca-xtask-postgres-";
const START: Duration = Duration::from_secs(60);
/// The file that sets the clock's offset, in the data directory.
const CLOCK: &str = "orca-clock.conf";

/// A cluster of its own. Dropping it stops the server and removes its files.
pub struct Postgres {
    directory: tempfile::TempDir,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    port: u16,
    password: String,
    server: Option<Child>,
}

impl Postgres {
    /// Makes and starts a cluster with `connections` for clients. Its commits outlive its processes, which is all that is
    /// killed here, and need not reach the disk.
    ///
    /// # Errors
    /// If there are no binaries, or the server does not come up.
    pub async fn start(connections: u16) -> Result<Self> {
        tokio::task::spawn_blocking(move || Self::make(connections)).await?
    }

    fn make(connections: u16) -> Result<Self> {
        let binaries =
            binaries().context("there are no Postgres binaries on this machine; install postgresql")?;
        let user = rustix::process::geteuid().is_root().then(server_user).transpose()?;
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("password"), &password)?;
        std::fs::create_dir(at("data"))?;
        std::fs::create_dir(at("run"))?;
        for name in ["password", "data", "run"] {
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o700))?;
            if let Some((uid, gid)) = user {
                chown(at(name), Some(uid), Some(gid))?;
            }
        }
        let port = free_port()?;
        let mut cluster = Self { directory, binaries, user, port, password, server: None };
        let mut initdb = cluster.command("initdb");
        initdb.arg("-D").arg(cluster.at("data")).arg("--pwfile").arg(cluster.at("password"));
        initdb.args(["-U", "postgres", "-A", "md5", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let made = initdb.stdin(Stdio::null()).output().context("cannot start initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
             max_connections = {connections}\nfsync = off\nlog_line_prefix = '%m [%p] '\ninclude = '{CLOCK}'\n",
            cluster.at("run").display()
        );
        cluster.write_clock(0)?;
        std::fs::write(cluster.at("data/postgresql.conf"), settings)?;
        cluster.launch()?;
        Ok(cluster)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.current_dir(self.directory.path()).env("LC_ALL", "C.UTF-8");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address when reached by `port`.
    #[must_use]
    pub fn url(&self, port: u16) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{port}/postgres", self.password)
    }

    /// Starts the server and waits until it answers. What a killed one left running is waited for.
    fn launch(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        let status = self.at("data/postmaster.pid");
        let log = self.at("log");
        while Instant::now() < deadline {
            let output = std::fs::File::options().append(true).create(true).open(&log)?;
            let mut server = self.command("postgres");
            server.arg("-D").arg(self.at("data"));
            server.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
            let mut server = server.spawn().context("cannot start postgres")?;
            let pid = server.id().to_string();
            while Instant::now() < deadline {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                let ours = text.lines().next() == Some(&pid);
                if ours && text.lines().any(|line| line.trim() == "ready") {
                    self.server = Some(server);
                    return Ok(());
                }
                if server.try_wait()?.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            if matches!(server.try_wait(), Ok(None)) {
                let _ = server.kill();
                let _ = server.wait();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let words = std::fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = words.lines().rev().take(10).collect();
        bail!("postgres did not come up; its last words, newest first:\n{}", tail.join("\n"))
    }

    /// Ends the server at once, as by `signal`, and starts it again: SIGQUIT is `pg_ctl restart -m immediate`.
    ///
    /// # Errors
    /// If it does not come up again.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.end(signal);
        self.launch()
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut server) = self.server.take() else { return };
        if let Some(pid) = i32::try_from(server.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if !matches!(server.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = server.kill();
        let _ = server.wait();
    }

    /// Sends a signal to the server and everything that it started.
    pub fn signal_all(&self, signal: Signal) {
        let Some(server) = self.server.as_ref().map(Child::id) else { return };
        for pid in children(server).into_iter().chain([server]) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Lets the coordinators' clock be ahead of the machine's by so much, in milliseconds. Each session has it from its
    /// next statement on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set_clock(&self, offset_ms: i64) -> Result<()> {
        self.write_clock(offset_ms)?;
        if let Some(pid) =
            self.server.as_ref().and_then(|server| i32::try_from(server.id()).ok()).and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::HUP)?;
        }
        Ok(())
    }

    fn write_clock(&self, offset_ms: i64) -> Result<()> {
        let next = self.at("data/orca-clock.next");
        std::fs::write(&next, format!("orca.clock_offset_ms = '{offset_ms}'\n"))?;
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(next, self.at("data").join(CLOCK))?;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // What is stopped hears nothing.
        self.signal_all(Signal::CONT);
        self.end(Signal::QUIT);
    }
}

fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let theirs: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            (theirs == parent).then_some(pid)
        })
        .collect()
}

fn binaries() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    found.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path)
        .filter_map(|directory| {
            std::fs::canonicalize(directory.join("initdb")).ok()?.parent().map(Path::to_owned)
        })
        .collect();
    found
        .into_iter()
        .map(|(_, directory)| directory)
        .chain(on_path)
        .find(|directory| directory.join("initdb").is_file() && directory.join("postgres").is_file())
}

/// Postgres refuses to run as root.
fn server_user() -> Result<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let ids = |name: &str| {
        let line = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .context("Postgres refuses to run as root, and there is neither a user postgres nor nobody")
}

/// A port that nobody listens on at the moment.
pub(super) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("there is no free TCP port")?;
    Ok(listener.local_addr()?.port())
}
