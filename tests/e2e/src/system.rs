//! One whole system for one test: its own database, coordinator, nodes, keys, directories and ports.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use futures_util::future;
use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::node::NodeState;
use orca_proto::spec::NewTask;
use orca_proto::task::TaskFilter;
use orca_proto::token::{Access, DEFAULT_NAMESPACE, SigningKey};
use tempfile::TempDir;
use uuid::Uuid;

use crate::daemon::Daemon;
use crate::database::Database;
use crate::watch::eventually;
use crate::{engine, settings};

/// What the parts log: everything but the requests, of which watching makes many.
const LOG: &str = "info,orca_coordinator=debug,orca_coordinator::api::pipeline=warn,orca_node=debug";
/// How long nodes may take to drain when a test is over: nothing should be running then.
const DRAIN: Duration = Duration::from_secs(20);
/// How long the coordinator may take to end.
const STOP: Duration = Duration::from_secs(15);

/// Which parts a system has.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How long a lease lasts.
    pub lease: Span,
    /// Planner nodes, called `planner-1-…`.
    pub planners: usize,
    /// Worker nodes, called `worker-1-…`.
    pub workers: usize,
    /// Attempts that each node runs at once.
    pub slots: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { lease: Span::secs(10), planners: 0, workers: 1, slots: 4 }
    }
}

/// A running system.
pub struct System {
    /// Part of every name, so that tests side by side do not meet.
    id: String,
    dir: TempDir,
    docker: Docker,
    database: Database,
    key: SigningKey,
    port: u16,
    client: Client,
    coordinator: Daemon,
    nodes: Vec<Daemon>,
    images: Vec<String>,
}

/// What secrets are encrypted with: in each system the same, as none of them outlives its test.
const SECRETS_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

impl System {
    /// Starts one, and returns once all of it is ready.
    ///
    /// # Panics
    /// If a part does not start.
    pub async fn start(shape: Shape) -> Self {
        // The end of a v7 is random; its beginning is the time.
        let id = Uuid::now_v7().simple().to_string().split_off(24);
        let docker = engine::connect().await;
        let database = Database::start(&id).await;
        let dir = tempfile::Builder::new().prefix("orca-e2e-").tempdir().expect("a temporary directory");
        let key = SigningKey::generate().expect("a key");
        let port = settings::free_port();

        secret(&dir.path().join("signing-key.pem"), key.to_pem());
        secret(&dir.path().join("secrets.key"), SECRETS_KEY);
        let operator = issue(&key, "operator", Access::Operator, DEFAULT_NAMESPACE);
        secret(&dir.path().join("operator.token"), &operator);
        let url = format!("http://127.0.0.1:{port}");
        let client = Client::new(&url, &operator).expect("the token can be sent");

        let data = dir.path().join("coordinator");
        std::fs::create_dir(&data).expect("a directory");
        let environment = environment([
            ("ORCA_LISTEN", format!("127.0.0.1:{port}").into()),
            ("DATABASE_URL", database.url().into()),
            ("ORCA_SIGNING_KEY_FILE", dir.path().join("signing-key.pem").into()),
            ("ORCA_SECRETS_KEY_FILE", dir.path().join("secrets.key").into()),
            ("ORCA_DATA_DIR", data.into()),
            ("ORCA_LEASE", shape.lease.to_string().into()),
        ]);
        let coordinator = Daemon::new("coordinator", "orca-coordinator", dir.path(), environment);

        let mut system =
            Self { id, dir, docker, database, key, port, client, coordinator, nodes: vec![], images: vec![] };
        system.coordinator.start();
        system.ready().await;
        for number in 1..=shape.planners {
            system.add_node(Access::Planner, &format!("planner-{number}"), shape.slots);
        }
        for number in 1..=shape.workers {
            system.add_node(Access::Worker, &format!("worker-{number}"), shape.slots);
        }
        system.nodes_ready(shape.planners + shape.workers).await;
        system
    }

    /// Adds a node and starts it. Its token is made out to its name.
    fn add_node(&mut self, access: Access, short_name: &str, slots: u32) {
        let name = format!("{short_name}-{}", self.id);
        let token = self.dir.path().join(format!("{name}.token"));
        secret(&token, &self.token(&name, access));
        let state = self.state_dir(&name);
        std::fs::create_dir(&state).expect("a directory");
        let environment = environment([
            ("ORCA_COORDINATOR", self.url().into()),
            ("ORCA_TOKEN_FILE", token.into()),
            ("ORCA_NODE_NAME", name.clone().into()),
            ("ORCA_SLOTS", slots.to_string().into()),
            ("ORCA_STATE_DIR", state.into()),
            ("ORCA_RUNTIME", "docker".into()),
        ]);
        let binary = if access == Access::Planner { "orca-planner" } else { "orca-worker" };
        let mut node = Daemon::new(&name, binary, self.dir.path(), environment);
        node.start();
        self.nodes.push(node);
    }

    fn state_dir(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("{node}.state"))
    }

    /// Waits until the coordinator answers.
    ///
    /// # Panics
    /// If it does not within 30 s, or ends.
    pub async fn ready(&mut self) {
        let (client, coordinator) = (self.client.clone(), &mut self.coordinator);
        eventually("the coordinator is ready", Duration::from_secs(30), async || {
            assert!(coordinator.is_running(), "the coordinator ended:\n{}", coordinator.tail());
            client.ready().await.ok()
        })
        .await;
    }

    /// Waits until this many nodes take work.
    ///
    /// # Panics
    /// If they do not within 30 s.
    pub async fn nodes_ready(&self, count: usize) {
        eventually(&format!("{count} nodes take work"), Duration::from_secs(30), async || {
            let nodes = self.client.nodes().await.ok()?;
            let ready = nodes.items.iter().filter(|node| node.state == NodeState::Ready).count();
            (ready == count).then_some(())
        })
        .await;
    }

    /// The operator's client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where the coordinator listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The file with the operator's token.
    #[must_use]
    pub fn operator_token_file(&self) -> PathBuf {
        self.dir.path().join("operator.token")
    }

    /// A directory of the test's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The Docker engine.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// A token that this system's coordinator accepts.
    #[must_use]
    pub fn token(&self, subject: &str, access: Access) -> String {
        issue(&self.key, subject, access, DEFAULT_NAMESPACE)
    }

    /// A token for another namespace.
    #[must_use]
    pub fn foreign_token(&self, subject: &str, access: Access) -> String {
        issue(&self.key, subject, access, "elsewhere")
    }

    /// The coordinator's process.
    pub fn coordinator(&mut self) -> &mut Daemon {
        &mut self.coordinator
    }

    /// A node's process, by its whole name or its first part, such as `worker-1`.
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&mut self, name: &str) -> &mut Daemon {
        let whole = format!("{name}-{}", self.id);
        let found = self.nodes.iter_mut().find(|node| node.name() == name || node.name() == whole);
        found.unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// Restarts Postgres, and returns once the coordinator has noticed that it is there again.
    ///
    /// # Panics
    /// If either does not happen.
    pub async fn restart_postgres(&mut self) {
        self.database.restart(&self.docker).await;
        self.ready().await;
    }

    /// Enqueues one task.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn enqueue(&self, task: &NewTask) -> TaskId {
        match self.client.enqueue(task, None).await {
            Ok(task) => task.summary.id,
            Err(error) => panic!("the task was refused: {error}"),
        }
    }

    /// Builds an image that is removed when the test is over, and answers its name.
    ///
    /// # Panics
    /// If it cannot be built.
    pub async fn image(&mut self, dockerfile: &str, files: &[(&str, &Path)]) -> String {
        let tag = format!("orca-e2e-{}:{}", self.id, self.images.len() + 1);
        engine::build(&self.docker, &tag, dockerfile, files).await;
        self.images.push(tag.clone());
        tag
    }

    /// The containers of all its nodes.
    pub async fn containers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &self.nodes {
            found.extend(engine::containers(&self.docker, &format!("orca.node={}", node.name())).await);
        }
        found
    }

    /// Prints what a person needs to find out what went wrong: all tasks, and the ends of all logs.
    pub async fn describe(&self) {
        let filter = TaskFilter { limit: Some(100), ..TaskFilter::default() };
        match self.client.tasks(&filter).await {
            Err(error) => eprintln!("--- the tasks cannot be listed: {error}"),
            Ok(page) => {
                for summary in page.items.iter().rev() {
                    let reason = summary.reason.as_deref().unwrap_or_default();
                    eprintln!("--- {} {:?} {}: {reason}", summary.id, summary.name, summary.state);
                    let Ok(task) = self.client.task(summary.id).await else { continue };
                    for attempt in task.attempts {
                        let outcome = attempt.outcome.map_or_else(|| "open".to_owned(), |o| o.to_string());
                        eprintln!("      attempt {} on {}: {outcome}", attempt.number, attempt.node_name);
                    }
                }
            }
        }
        for daemon in std::iter::once(&self.coordinator).chain(&self.nodes) {
            eprintln!("--- the end of {}'s log:\n{}", daemon.name(), daemon.tail());
        }
    }

    /// Ends everything, and says what was not as it should be at the end: a part that ended by itself or did not drain, a
    /// container or an attempt's directory left behind. Nodes that the test killed are started once more, for sweeping
    /// up is their duty.
    pub async fn take_down(mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.coordinator.was_killed() {
            self.coordinator.start();
            self.ready().await;
        }
        for node in self.nodes.iter_mut().filter(|node| node.was_killed()) {
            node.start();
            let label = format!("orca.node={}", node.name());
            let clean = async {
                while !engine::containers(&self.docker, &label).await.is_empty() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            if tokio::time::timeout(DRAIN, clean).await.is_err() {
                wrong.push(format!("{} did not sweep up the containers of its former life", node.name()));
            }
        }
        let stops = self.nodes.iter_mut().map(|node| node.stop(DRAIN));
        wrong.extend(future::join_all(stops).await.into_iter().filter_map(Result::err));
        wrong.extend(self.coordinator.stop(STOP).await.err());

        let left = self.containers().await;
        if !left.is_empty() {
            wrong.push(format!("containers were left behind: {}", left.join(", ")));
            engine::remove(&self.docker, &left).await;
        }
        for node in &self.nodes {
            let attempts = self.state_dir(node.name()).join("attempts");
            let left = std::fs::read_dir(attempts).map_or(0, Iterator::count);
            if left > 0 {
                wrong.push(format!("{} left {left} attempts' directories behind", node.name()));
            }
        }
        for image in &self.images {
            engine::remove_image(&self.docker, image).await;
        }
        self.database.remove().await;
        wrong
    }
}

fn issue(key: &SigningKey, subject: &str, access: Access, namespace: &str) -> String {
    let token = key.issue(subject, access, namespace, Timestamp::now(), Span::secs(3_600));
    token.expect("the key signs")
}

fn environment<const N: usize>(variables: [(&str, OsString); N]) -> Vec<(String, OsString)> {
    let own = variables.into_iter().map(|(key, value)| (key.to_owned(), value));
    own.chain([("ORCA_LOG".to_owned(), LOG.into()), ("NO_COLOR".to_owned(), "1".into())]).collect()
}

/// Writes a file that only its owner can read.
fn secret(path: &Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a secret can be written");
}
