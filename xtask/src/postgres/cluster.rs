//! A private Postgres cluster in a temporary directory: its own port on 127.0.0.1, its own password, an unprivileged user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::tail;
use crate::{host, ports};

/// Directories of clusters are named so, with the id of the process that made them behind it.
const PREFIX: &str = "orca-xtask-postgres-";
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Tests: nothing outlives the run anyway.
    None,
    /// Measurements: as in production.
    Full,
    /// Measurements of much work: as in production, with room for it.
    Large,
}

/// A running cluster. Dropping it stops the server and removes its files.
pub(crate) struct Cluster {
    server: Child,
    launch: Launch,
    directory: tempfile::TempDir,
    url: String,
}

/// The directory of `initdb` and `postgres`, of at least version 14: that of `PATH`, else Debian's, newest first.
pub(super) fn binaries() -> Option<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .filter(|(version, _)| *version >= 14)
        .collect();
    packaged.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
    let on_path = host::find_program("initdb").and_then(|program| {
        // A link in PATH may lead to a directory where the server is, too.
        std::fs::canonicalize(program).ok()?.parent().map(Path::to_owned)
    });
    packaged
        .into_iter()
        .map(|(_, directory)| directory)
        .chain(on_path)
        .find(|directory| directory.join("initdb").is_file() && directory.join("postgres").is_file())
}

impl Cluster {
    /// Makes and starts a cluster, after removing what killed runs left.
    ///
    /// # Errors
    /// If there are no binaries, or the server does not come up; with its last words.
    pub(super) async fn start(durability: Durability) -> Result<Self> {
        tokio::task::spawn_blocking(move || Self::start_blocking(durability)).await?
    }

    fn start_blocking(durability: Durability) -> Result<Self> {
        sweep();
        let binaries = binaries().context("there are no Postgres binaries on this machine")?;
        let user = User::of_server()?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir()
            .context("cannot make a directory for Postgres")?;
        // The server's user must get through; what matters below is its own and private.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
        let at = |name: &str| directory.path().join(name);
        let password = uuid::Uuid::new_v4().simple().to_string();
        std::fs::write(at("password"), &password)?;
        std::fs::create_dir(at("run"))?;
        for name in ["password", "run"] {
            let mode = if name == "run" { 0o700 } else { 0o600 };
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode))?;
        }
        std::fs::create_dir(at("data"))?;
        if let Some((uid, gid)) = user.ids {
            for name in ["password", "run", "data"] {
                chown(at(name), Some(uid), Some(gid))?;
            }
        }
        let mut initdb = user.command(&binaries.join("initdb"), directory.path());
        initdb.arg("-D").arg(at("data")).arg("--pwfile").arg(at("password"));
        // Hashing a password for every test's connection would cost more than the tests.
        initdb.args(["-U", "postgres", "-A", "md5", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let made = initdb.stdin(Stdio::null()).output().context("cannot start initdb")?;
        if !made.status.success() {
            bail!("initdb failed ({}): {}", made.status, String::from_utf8_lossy(&made.stderr).trim());
        }
        let port = ports::free()?;
        let launch = Launch {
            user,
            binary: binaries.join("postgres"),
            at: directory.path().to_owned(),
            port,
            durability,
        };
        let server = launch.spawn()?;
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let mut cluster = Self { server, launch, directory, url };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        let status = self.directory.path().join("data/postmaster.pid");
        let pid = self.server.id().to_string();
        while Instant::now() < deadline {
            // The first line of this file is the server's process id, the eighth says `ready` once connections are answered.
            if std::fs::read_to_string(&status).is_ok_and(|text| {
                text.lines().next() == Some(&*pid) && text.lines().any(|line| line.trim() == "ready")
            }) {
                return Ok(());
            }
            if let Some(ended) = self.server.try_wait()? {
                bail!("postgres ended at once ({ended}):\n{}", tail(&self.launch.log(), 20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("postgres was not ready within {} s:\n{}", START.as_secs(), tail(&self.launch.log(), 20))
    }

    /// Stops the server as `pg_ctl restart -m immediate` does, without letting anything finish, and starts it again; it
    /// recovers from its log. Blocks.
    ///
    /// # Errors
    /// If it does not stop, or does not come up again.
    pub(super) fn restart_immediately(&mut self) -> Result<()> {
        let pid =
            i32::try_from(self.server.id()).ok().and_then(Pid::from_raw).context("there is no server")?;
        // SIGQUIT is Postgres' immediate shutdown.
        kill_process(pid, Signal::QUIT).context("cannot stop postgres")?;
        let deadline = Instant::now() + STOP;
        while self.server.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("postgres did not stop within {} s", STOP.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.server = self.launch.spawn()?;
        self.wait_until_ready()
    }

    /// The address of its administrator's database, with the password.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw) else { return };
        // SIGINT is Postgres' fast shutdown.
        let _ = kill_process(pid, Signal::INT);
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if !matches!(self.server.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = kill_process(pid, Signal::QUIT);
        let _ = self.server.wait();
    }
}

/// How the server is started, each time.
struct Launch {
    user: User,
    binary: PathBuf,
    at: PathBuf,
    port: u16,
    durability: Durability,
}

impl Launch {
    fn log(&self) -> PathBuf {
        self.at.join("log")
    }

    fn spawn(&self) -> Result<Child> {
        let output = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut server = self.user.command(&self.binary, &self.at);
        server.arg("-D").arg(self.at.join("data")).arg("-k").arg(self.at.join("run"));
        server.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-c", "max_connections=400"]);
        let settings: &[&str] = match self.durability {
            Durability::None => &["fsync=off", "synchronous_commit=off", "full_page_writes=off"],
            Durability::Full => &[],
            Durability::Large => {
                &["fsync=on", "synchronous_commit=on", "shared_buffers=1GB", "max_wal_size=8GB"]
            }
        };
        for setting in settings {
            server.args(["-c", setting]);
        }
        server
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("cannot start postgres")
    }
}

/// Who runs the server: Postgres refuses to run as root.
struct User {
    ids: Option<(u32, u32)>,
}

impl User {
    fn of_server() -> Result<Self> {
        if !host::is_root() {
            return Ok(Self { ids: None });
        }
        let users = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let ids = ["postgres", "nobody"]
            .iter()
            .find_map(|name| ids(&users, name))
            .context("Postgres refuses to run as root, and there is neither a user postgres nor nobody")?;
        Ok(Self { ids: Some(ids) })
    }

    fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).env("LC_ALL", "C.UTF-8");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let line = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut fields = line.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Stops and removes clusters whose maker is gone without having done so.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(maker) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()) else {
            continue;
        };
        if Path::new("/proc").join(maker).exists() {
            continue;
        }
        let status = std::fs::read_to_string(entry.path().join("data/postmaster.pid")).unwrap_or_default();
        if let Some(pid) =
            status.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw)
            && serves(pid, &entry.path())
        {
            // Nothing in it is worth a proper shutdown.
            let _ = kill_process(pid, Signal::QUIT);
            std::thread::sleep(Duration::from_millis(500));
        }
        let _ = std::fs::remove_dir_all(entry.path());
    }
}

/// Whether the process is the server of that directory, and not another that was given the same id since.
fn serves(pid: Pid, directory: &Path) -> bool {
    std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()))
        .is_ok_and(|place| place == directory.join("data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_user_are_read_whole_names_only() {
        let users = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:1:1::/:\npostgres:x:110:115::/:/bin/sh\n";
        assert_eq!(ids(users, "postgres"), Some((110, 115)));
        assert_eq!(ids(users, "nobody"), None);
    }

    #[tokio::test]
    async fn a_cluster_that_is_restarted_in_a_hurry_serves_what_was_committed() {
        let mut cluster = Cluster::start(Durability::Full).await.unwrap();
        let ask = |url: &str, sql: &str| {
            let mut psql = Command::new(binaries().unwrap().join("psql"));
            psql.args(["-X", "-t", "-A", "-w", "-c", sql, url]).env_remove("PGPASSWORD");
            String::from_utf8_lossy(&psql.output().unwrap().stdout).trim().to_owned()
        };
        ask(cluster.url(), "CREATE TABLE kept AS SELECT 41 + 1 AS value");
        let pid = cluster.server.id();
        cluster.restart_immediately().unwrap();
        assert_ne!(cluster.server.id(), pid);
        assert_eq!(ask(cluster.url(), "SELECT value FROM kept"), "42");
    }

    #[tokio::test]
    async fn a_cluster_serves_its_own_password_only_and_leaves_nothing_behind() {
        let cluster = Cluster::start(Durability::None).await.unwrap();
        let directory = cluster.directory.path().to_owned();
        let ask = |url: &str| {
            let mut psql = Command::new(binaries().unwrap().join("psql"));
            psql.args(["-X", "-t", "-A", "-w", "-c", "SELECT 41 + 1", url]).env_remove("PGPASSWORD");
            psql.output().unwrap()
        };
        assert_eq!(String::from_utf8_lossy(&ask(cluster.url()).stdout).trim(), "42");
        let (start, end) = cluster.url().split_once(":").and_then(|(_, rest)| rest.split_once('@')).unwrap();
        assert!(!start.is_empty());
        assert!(!ask(&format!("postgres://postgres:guessed@{end}")).status.success());
        let pid = cluster.server.id();
        drop(cluster);
        assert!(!directory.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
