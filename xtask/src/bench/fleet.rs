//! The system as it runs for real, for measurements: a Postgres that waits for the disk, a coordinator, a planner node
//! and a worker node, each a process of its own.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::node::NodeState;
use orca_proto::token::{Access, DEFAULT_NAMESPACE, SigningKey};

use crate::engine::Engine;
use crate::ports;
use crate::postgres::{Durability, Postgres};
use crate::service::Service;

const START: Duration = Duration::from_secs(60);
/// Longer than any measurement.
const TOKENS: u64 = 24 * 3_600;

/// The running system. [`Fleet::stop`] stops it in order; a drop ends it all the same.
pub(crate) struct Fleet {
    /// By name, in the order in which they stop.
    services: Vec<(&'static str, Service)>,
    /// The operator's client.
    pub(crate) client: Client,
    bins: PathBuf,
    url: String,
    key: SigningKey,
    /// What the nodes are told beside the usual.
    settings: Vec<(&'static str, String)>,
    postgres: Postgres,
    directory: tempfile::TempDir,
}

impl Fleet {
    /// Starts everything from the binaries in `bins` and waits until both nodes take work.
    ///
    /// # Errors
    /// If something does not come up; with its last words.
    pub(crate) async fn start(
        bins: &Path,
        engine: &Engine,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let postgres = Postgres::start(Durability::Full, Some(engine)).await?;
        let directory = tempfile::Builder::new().prefix("orca-bench-").tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let key = SigningKey::generate()?;
        secret(&at("key.pem"), key.to_pem())?;
        let address = format!("127.0.0.1:{}", ports::free()?);
        let url = format!("http://{address}");
        let operator = issue(&key, "operator", Access::Operator)?;
        let client = Client::new(&url, &operator)?;
        let log = |name: &str| at(&format!("{name}.log"));

        let coordinator = Service::start(
            &bins.join("orca-coordinator"),
            "orca-coordinator",
            &log("coordinator"),
            |command| {
                command.env("ORCA_LISTEN", &address).env("DATABASE_URL", postgres.url());
                command.env("ORCA_SIGNING_KEY_FILE", at("key.pem")).env("ORCA_DATA_DIR", at("data"));
                command.env("ORCA_LOG", "warn").env("ORCA_LOG_LIMIT", "1GiB");
            },
        )?;
        let services = vec![("coordinator", coordinator)];
        let bins = bins.to_owned();
        let mut fleet = Self { services, client, bins, url, key, settings, postgres, directory };
        fleet.wait("the coordinator", async |client| client.ready().await.is_ok()).await?;
        for (name, role) in [("planner", Access::Planner), ("worker", Access::Worker)] {
            secret(&fleet.token(name), &issue(&fleet.key, name, role)?)?;
            fleet.start_node(name)?;
        }
        fleet
            .wait("the nodes", async |client| {
                let nodes = client.nodes().await.map(|page| page.items).unwrap_or_default();
                nodes.iter().filter(|node| node.state == NodeState::Ready).count() == 2
            })
            .await?;
        Ok(fleet)
    }

    fn token(&self, node: &str) -> PathBuf {
        self.directory.path().join(format!("{node}.token"))
    }

    /// Starts a node, or starts it again in its own directory.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start_node(&mut self, name: &'static str) -> Result<()> {
        let program = format!("orca-{name}");
        let directory = self.directory.path();
        let (state, log) = (directory.join(name), directory.join(format!("{name}.log")));
        let node = Service::start(&self.bins.join(&program), &program, &log, |command| {
            command.env("ORCA_COORDINATOR", &self.url).env("ORCA_TOKEN_FILE", self.token(name));
            command.env("ORCA_NODE_NAME", name).env("ORCA_STATE_DIR", &state);
            command.env("ORCA_RUNTIME", "docker").env("ORCA_AGENT_BINARY", self.bins.join("orca-agent"));
            command.env("ORCA_LOG", "warn").envs(self.settings.iter().map(|(key, value)| (key, value)));
        })?;
        self.services.insert(0, (name, node));
        Ok(())
    }

    /// Kills a node without warning.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) async fn kill_node(&mut self, name: &'static str) -> Result<()> {
        let at =
            self.services.iter().position(|(known, _)| *known == name).context("there is no such node")?;
        self.services.remove(at).1.kill().await
    }

    async fn wait(&mut self, what: &str, ready: impl AsyncFn(&Client) -> bool) -> Result<()> {
        let deadline = Instant::now() + START;
        while !ready(&self.client).await {
            self.check()?;
            if Instant::now() >= deadline {
                bail!("{what} did not come up within {} s:\n{}", START.as_secs(), self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Checks that all of it still runs.
    ///
    /// # Errors
    /// If something has ended; with its last words.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.services.iter_mut().try_for_each(|(_, service)| service.check())
    }

    /// The ends of what each process wrote.
    pub(crate) fn last_words(&self) -> String {
        self.services.iter().map(|(name, service)| format!("  {name}:\n{}\n", service.last_words())).collect()
    }

    /// The process ids, by name.
    ///
    /// # Errors
    /// If one has ended.
    pub(crate) fn pids(&self) -> Result<Vec<(&'static str, u32)>> {
        self.services.iter().map(|(name, service)| Ok((*name, service.pid()?))).collect()
    }

    /// A directory that goes away with the system.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Stops the nodes, then the coordinator, then the database.
    ///
    /// # Errors
    /// The first failure; all are stopped nevertheless.
    pub(crate) async fn stop(self) -> Result<()> {
        let mut outcome = Ok(());
        for (name, service) in self.services {
            let stopped = service.stop().await.with_context(|| format!("cannot stop the {name}"));
            outcome = outcome.and(stopped);
        }
        outcome.and(self.postgres.stop().await)
    }
}

fn issue(key: &SigningKey, name: &str, role: Access) -> Result<String> {
    Ok(key.issue(name, role, DEFAULT_NAMESPACE, Timestamp::now(), Span::secs(TOKENS))?)
}

/// A file that only its owner can read.
fn secret(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
