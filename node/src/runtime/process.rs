//! Child processes of the node, for machines without an engine. Isolates nothing: the image is ignored, and the program has
//! the node's user, files and network. Never used unless asked for.

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use orca_proto::agent::{env, files};
use orca_proto::spec::ContainerSpec;
use rustix::process::{Pid, kill_process, kill_process_group};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::sync::watch;

use super::{Exit, Fault, Image, Launch, News, PostMortem, Runtime, SAID, Signal, last_words};
use crate::remove_tree::remove_tree;

/// What of the node's environment a task may see.
const PASSED_ON: [&str; 3] = ["PATH", "HOME", "LANG"];
/// Most of what an agent says that is kept, in bytes.
const KEPT: usize = 2 * SAID;
/// Memory that looks like a directory, where the machine has it.
const MEMORY: &str = "/dev/shm";
/// How long killed processes may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Running {
    pid: Option<Pid>,
    directory: PathBuf,
    exit: watch::Receiver<Option<Exit>>,
    said: Arc<Mutex<Vec<u8>>>,
}

/// Runs agents as child processes.
pub(crate) struct Process {
    agent: PathBuf,
    attempts: PathBuf,
    running: Mutex<HashMap<String, Running>>,
}

impl Process {
    pub(super) fn new(agent: PathBuf, attempts: PathBuf) -> Self {
        Self { agent, attempts, running: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Option<Running> {
        self.lock().get(name).cloned()
    }

    /// What the directories of attempts' secrets are named after: every daemon's own.
    fn mark(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        let hash = Sha256::digest(self.attempts.as_os_str().as_bytes());
        let mark: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("orca-secrets-{mark}-")
    }

    fn secrets_of(&self, name: &str) -> PathBuf {
        Path::new(MEMORY).join(format!("{}{name}", self.mark()))
    }

    /// A directory for secrets that nobody else may enter: in memory where there is such a place, else in the attempt's own.
    fn make_room_for_secrets(&self, launch: &Launch) -> std::io::Result<()> {
        let (at, memory) = (launch.directory.join(files::SECRETS), self.secrets_of(&launch.name));
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        match private(&memory) {
            Ok(()) => symlink(memory, at),
            // Not if it is there already: somebody else would own it.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(error),
            Err(error) => {
                tracing::warn!(%error, "{MEMORY} cannot be used: secrets are written to the disk");
                private(&at)
            }
        }
    }

    /// Removes the secrets of an attempt.
    async fn remove_secrets(&self, name: &str) {
        remove(vec![self.secrets_of(name)]).await;
    }

    /// Removes what earlier daemons left of secrets.
    async fn sweep_secrets(&self) {
        let mark = self.mark();
        let entries = std::fs::read_dir(MEMORY).into_iter().flatten().flatten();
        let ours =
            entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&mark)));
        remove(ours.map(|entry| entry.path()).collect()).await;
    }

    fn spawn(&self, launch: &Launch) -> std::io::Result<()> {
        for shown in &launch.artifacts {
            let at = launch.directory.join(files::FILES).join(&shown.name);
            symlink(&shown.source, at)?;
        }
        symlink(&self.agent, launch.directory.join(files::AGENT))?;
        if launch.secrets {
            self.make_room_for_secrets(launch)?;
        }
        let mut command = Command::new(&self.agent);
        command.env_clear().env(env::DIR, &launch.directory).current_dir(&launch.directory);
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let said = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(listen(stderr, Arc::clone(&said)));
        }
        let (tell, exit) = watch::channel(None);
        tokio::spawn(async move {
            let ended = match child.wait().await {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Gone,
                },
                Err(_) => Exit::Gone,
            };
            tell.send_replace(Some(ended));
        });
        let directory = launch.directory.clone();
        self.lock().insert(launch.name.clone(), Running { pid, directory, exit, said });
        Ok(())
    }
}

impl Runtime for Process {
    fn describe(&self) -> &str {
        "process (isolates nothing)"
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }

    fn image<'a>(&'a self, spec: &'a ContainerSpec, _news: &'a News) -> BoxFuture<'a, Result<Image, Fault>> {
        Box::pin(async { Ok(Image { id: spec.image.clone(), ..Image::default() }) })
    }

    fn start<'a>(&'a self, launch: &'a Launch) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async {
            self.spawn(launch).map_err(|error| Fault::Engine(format!("cannot start the agent: {error}")))
        })
    }

    fn wait<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Exit> {
        Box::pin(async {
            let Some(mut running) = self.find(name) else { return Exit::Gone };
            match running.exit.wait_for(Option::is_some).await {
                Ok(exit) => exit.unwrap_or(Exit::Gone),
                Err(_) => Exit::Gone,
            }
        })
    }

    fn post_mortem<'a>(&'a self, name: &'a str) -> BoxFuture<'a, PostMortem> {
        Box::pin(async {
            let said = self.find(name).map(|running| {
                let said = running.said.lock().unwrap_or_else(PoisonError::into_inner);
                last_words(&String::from_utf8_lossy(&said))
            });
            PostMortem { said: said.unwrap_or_default(), ..PostMortem::default() }
        })
    }

    fn signal<'a>(&'a self, name: &'a str, signal: Signal) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let Some(running) = self.find(name) else { return Ok(()) };
            if let (Some(pid), None) = (running.pid, *running.exit.borrow()) {
                let _ended_meanwhile = match signal {
                    // The agent passes it on.
                    Signal::Term => kill_process(pid, rustix::process::Signal::TERM),
                    Signal::Kill => kill_process_group(pid, rustix::process::Signal::KILL),
                };
            }
            Ok(())
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async {
            let Some(mut running) = self.find(name) else {
                self.remove_secrets(name).await;
                return Ok(());
            };
            self.signal(name, Signal::Kill).await?;
            let ended = async {
                let _ = running.exit.wait_for(Option::is_some).await;
                // The task's program has a process group of its own, and so may whatever it started.
                while kill_below(running.directory.clone(), false).await > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(DEATH, ended)
                .await
                .map_err(|_| Fault::Silent("a killed process does not end".to_owned()))?;
            self.remove_secrets(name).await;
            self.lock().remove(name);
            Ok(())
        })
    }

    fn names(&self) -> BoxFuture<'_, Result<Vec<String>, Fault>> {
        Box::pin(async { Ok(self.lock().keys().cloned().collect()) })
    }

    fn resume<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }

    /// Kills them all: a child of an earlier daemon cannot be waited for.
    fn sweep<'a>(&'a self, _but: &'a HashSet<String>) -> BoxFuture<'a, Result<usize, Fault>> {
        Box::pin(async {
            let count = kill_below(self.attempts.clone(), true).await;
            let gone = async {
                while kill_below(self.attempts.clone(), true).await > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(DEATH, gone)
                .await
                .map_err(|_| Fault::Silent("a killed process does not end".to_owned()))?;
            self.sweep_secrets().await;
            Ok(count)
        })
    }

    fn tidy(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Removes directories of secrets.
async fn remove(directories: Vec<PathBuf>) {
    let removal = move || {
        for path in directories {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an attempt's secrets");
            }
        }
    };
    let _removed_or_told = tokio::task::spawn_blocking(removal).await;
}

/// Keeps the end of what an agent says.
async fn listen(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 512];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let excess = said.len().saturating_sub(KEPT);
        said.drain(..excess);
    }
}

/// Kills every process whose `ORCA_DIR` is `directory` (or, with `below`, lies in it); answers how many there were.
async fn kill_below(directory: PathBuf, below: bool) -> usize {
    let killed = tokio::task::spawn_blocking(move || {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let ours = pids.filter(|pid| works_in(*pid, &directory, below));
        ours.filter_map(Pid::from_raw)
            .filter(|pid| kill_process(*pid, rustix::process::Signal::KILL).is_ok())
            .count()
    });
    killed.await.unwrap_or_default()
}

fn works_in(pid: i32, directory: &Path, below: bool) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|variable| {
        let value = variable.strip_prefix(env::DIR.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| {
            let path = Path::new(std::ffi::OsStr::from_bytes(value));
            path == directory || (below && path.starts_with(directory))
        })
    })
}
