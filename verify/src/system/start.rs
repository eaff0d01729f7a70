//! Starting a system: a key, tokens, Postgres, links, coordinators, nodes.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::spec::Role;
use orca_proto::token::{Access, SigningKey};
use tokio::sync::Mutex;

use super::postgres::free_port;
use super::{Link, Postgres, Process};
use crate::node::NodeSettings;

/// The tenants of a run.
pub const NAMESPACES: [&str; 2] = ["red", "blue"];
/// Node processes.
pub const NODES: usize = 3;
const COORDINATORS: usize = 2;
/// Connections in a coordinator's pool: few, so that they can run out.
const POOL: u32 = 8;
/// Connections of the Postgres.
const CONNECTIONS: u16 = 40;
/// How long a process may take until it answers.
const READY: Duration = Duration::from_secs(40);

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `orca-coordinator`.
    pub coordinator: PathBuf,
    /// `verify-node`.
    pub node: PathBuf,
}

/// Tokens of one namespace.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// An operator's.
    pub operator: String,
    /// A worker's that no node of the run has.
    pub intruder: String,
}

/// A running system. Dropping it ends everything.
pub struct System {
    /// Coordinators, by number.
    pub coordinators: Vec<Arc<Mutex<Process>>>,
    /// Node processes, by number.
    pub nodes: Vec<Arc<Mutex<Process>>>,
    /// The database.
    pub postgres: Arc<Mutex<Postgres>>,
    /// All links.
    pub links: Vec<Arc<Link>>,
    /// Ports of the coordinators themselves.
    pub ports: Vec<u16>,
    /// Addresses by which operators reach the coordinators.
    pub clients: Vec<String>,
    /// By namespace.
    pub tokens: BTreeMap<&'static str, Tokens>,
    /// The database's address, not by a link.
    pub database: String,
    /// What every file of the history is in.
    pub directory: PathBuf,
    /// How long a lease lasts.
    pub lease: Duration,
    key: SigningKey,
}

impl System {
    /// Starts everything but the nodes, in `directory`. `sabotage` names the guard that the coordinators go without.
    ///
    /// # Errors
    /// If something does not come up.
    pub async fn start(
        binaries: &Binaries,
        directory: &Path,
        lease: Duration,
        sabotage: Option<&str>,
    ) -> Result<Self> {
        let key = SigningKey::generate()?;
        let key_file = directory.join("key.pem");
        secret(&key_file, key.to_pem())?;
        let data = directory.join("data");
        std::fs::create_dir_all(&data)?;
        let postgres = Postgres::start(CONNECTIONS).await?;
        let (mut coordinators, mut links, mut ports, mut clients) = (vec![], vec![], vec![], vec![]);
        for number in 1..=COORDINATORS {
            let name = format!("coordinator-{number}");
            let database = Link::open(format!("{name}>postgres"), postgres.port()).await?;
            let port = free_port()?;
            let mut environment = vec![
                ("DATABASE_URL", postgres.url(database.port())),
                ("ORCA_LISTEN", format!("127.0.0.1:{port}")),
                ("ORCA_SIGNING_KEY_FILE", key_file.display().to_string()),
                ("ORCA_DATA_DIR", data.display().to_string()),
                ("ORCA_LEASE", Span::from(lease).to_string()),
                ("ORCA_DATABASE_CONNECTIONS", POOL.to_string()),
                ("ORCA_LOG", "info".to_owned()),
            ];
            environment.extend(sabotage.map(|name| ("ORCA_SABOTAGE", name.to_owned())));
            let environment = environment.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
            let log = directory.join(format!("{name}.log"));
            let process = Process::new(name.as_str(), &binaries.coordinator, vec![], environment, log);
            let client = Link::open(format!("client>{name}"), port).await?;
            clients.push(format!("http://127.0.0.1:{}", client.port()));
            coordinators.push(Arc::new(Mutex::new(process)));
            links.extend([Arc::new(database), Arc::new(client)]);
            ports.push(port);
        }
        let database = postgres.url(postgres.port());
        let tokens = NAMESPACES
            .into_iter()
            .map(|namespace| {
                let operator = issue(&key, "operator", Access::Operator, namespace)?;
                let intruder = issue(&key, "intruder", Access::Worker, namespace)?;
                Ok((namespace, Tokens { operator, intruder }))
            })
            .collect::<Result<_>>()?;
        let system = Self {
            coordinators,
            nodes: vec![],
            postgres: Arc::new(Mutex::new(postgres)),
            links,
            ports,
            clients,
            tokens,
            database,
            directory: directory.to_owned(),
            lease,
            key,
        };
        for number in 0..COORDINATORS {
            system.start_coordinator(number).await?;
        }
        Ok(system)
    }

    /// Starts a coordinator that does not run, again and again until it is ready.
    ///
    /// # Errors
    /// If it is not in time.
    pub async fn start_coordinator(&self, number: usize) -> Result<()> {
        let (Some(process), Some(port)) = (self.coordinators.get(number), self.ports.get(number)) else {
            bail!("there is no coordinator {number}");
        };
        start_until_ready(process, *port).await
    }

    /// Adds the node processes, each a worker and a planner of the first namespace, with a link to each coordinator.
    ///
    /// # Errors
    /// If one cannot be started.
    pub async fn start_nodes(&mut self, binaries: &Binaries, batch_reports: bool) -> Result<()> {
        for number in 1..=NODES {
            let name = format!("node-{number}");
            let mut coordinators = Vec::new();
            for (at, port) in self.ports.iter().enumerate() {
                let link = Link::open(format!("{name}>coordinator-{}", at + 1), *port).await?;
                coordinators.push(format!("http://127.0.0.1:{}", link.port()));
                self.links.push(Arc::new(link));
            }
            let settings = [
                self.node_settings(
                    &format!("worker-{number}"),
                    NAMESPACES[0],
                    Role::Work,
                    6,
                    &coordinators,
                    batch_reports,
                )?,
                self.node_settings(
                    &format!("planner-{number}"),
                    NAMESPACES[0],
                    Role::Plan,
                    2,
                    &coordinators,
                    batch_reports,
                )?,
            ];
            let file = self.directory.join(format!("{name}.json"));
            secret(&file, &serde_json::to_string(&settings)?)?;
            let log = self.directory.join(format!("{name}.log"));
            let arguments = vec![file.display().to_string()];
            let mut process = Process::new(name, &binaries.node, arguments, vec![], log);
            process.start()?;
            self.nodes.push(Arc::new(Mutex::new(process)));
        }
        Ok(())
    }

    /// Settings of a node that reaches the coordinators by these addresses.
    ///
    /// # Errors
    /// If its token cannot be made.
    pub fn node_settings(
        &self,
        name: &str,
        namespace: &str,
        role: Role,
        slots: u32,
        coordinators: &[String],
        batch_reports: bool,
    ) -> Result<NodeSettings> {
        let access = if role == Role::Plan { Access::Planner } else { Access::Worker };
        Ok(NodeSettings {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            token: issue(&self.key, name, access, namespace)?,
            role,
            slots,
            coordinators: coordinators.to_vec(),
            lease_ms: u64::try_from(self.lease.as_millis())?,
            history: self.history(name),
            batch_reports,
            impostor: None,
        })
    }

    /// Where one of the processes writes what it sees.
    #[must_use]
    pub fn history(&self, who: &str) -> PathBuf {
        self.directory.join(format!("{who}.history"))
    }

    /// An operator's clients of a namespace, one for each coordinator.
    ///
    /// # Errors
    /// If the namespace is none of the run's.
    pub fn operator(&self, namespace: &str, first: usize) -> Result<crate::node::Coordinators> {
        let tokens = self.tokens.get(namespace).context("no such namespace")?;
        crate::node::Coordinators::new(&self.clients, &tokens.operator, first)
    }

    /// Checks that nothing ended by itself.
    ///
    /// # Errors
    /// If something did; with its last words.
    pub async fn check(&self) -> Result<()> {
        for process in self.coordinators.iter().chain(&self.nodes) {
            let mut process = process.lock().await;
            if process.has_ended() {
                bail!("{} ended by itself; its last words:\n{}", process.name, process.last_words());
            }
        }
        Ok(())
    }
}

async fn start_until_ready(process: &Mutex<Process>, port: u16) -> Result<()> {
    let mut process = process.lock().await;
    let client = Client::new(&format!("http://127.0.0.1:{port}"), "nobody")?;
    let deadline = tokio::time::Instant::now() + READY;
    while tokio::time::Instant::now() < deadline {
        if process.has_ended() {
            process.start()?;
        }
        let answer = tokio::time::timeout(Duration::from_secs(1), client.ready()).await;
        if matches!(answer, Ok(Ok(()))) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{} was not ready in time; its last words:\n{}", process.name, process.last_words())
}

fn issue(key: &SigningKey, name: &str, role: Access, namespace: &str) -> Result<String> {
    Ok(key.issue(name, role, namespace, Timestamp::now(), Span::secs(86_400))?)
}

/// A file that only its owner can read.
fn secret(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
