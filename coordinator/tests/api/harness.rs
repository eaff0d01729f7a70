//! A running coordinator with a database of its own; stopping or dropping it leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use orca_coordinator::{Settings, StartError};
use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{ClaimRequest, Claimed, Grant, LeaseRef, Registration};
use orca_proto::spec::{NewTask, Role};
use orca_proto::token::{Access, SigningKey};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The limit of everything that a test waits for.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A coordinator on a port of its own.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) shutdown: CancellationToken,
    key: SigningKey,
    http: reqwest::Client,
    serving: Option<JoinHandle<Result<(), StartError>>>,
    dir: tempfile::TempDir,
    database: Database,
}

impl Server {
    /// Starts one on a new database, without a key for secrets.
    pub(crate) async fn start() -> Self {
        Self::start_with_keys(None).await
    }

    /// Starts one on a new database, with these keys for secrets.
    pub(crate) async fn start_with_keys(keys: Option<&str>) -> Self {
        let (database, dir) = (Database::create().await, tempfile::tempdir().unwrap());
        Self::serve(database, dir, SigningKey::generate().unwrap(), keys).await
    }

    /// Stops it and starts another on the same database, with these keys for secrets.
    pub(crate) async fn again_with_keys(mut self, keys: Option<&str>) -> Self {
        self.end().await;
        Self::serve(self.database, self.dir, self.key, keys).await
    }

    async fn serve(database: Database, dir: tempfile::TempDir, key: SigningKey, keys: Option<&str>) -> Self {
        let private = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            path
        };
        let mut settings =
            Settings::new(&database.url, dir.path().join("data"), private("key.pem", key.to_pem()));
        settings.secrets.key_file = keys.map(|keys| private("secrets.key", keys));
        settings.database.connections = 5;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(orca_coordinator::run(settings, listener, shutdown.clone()));
        let http = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        let server = Self { url, shutdown, key, http, serving: Some(serving), dir, database };
        server.wait_until_ready().await;
        server
    }

    async fn wait_until_ready(&self) {
        let ready = async {
            while !self.get("/readyz").send().await.is_ok_and(|answer| answer.status().is_success()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, ready).await.expect("the coordinator did not become ready");
    }

    /// A token for `subject` in `namespace`.
    pub(crate) fn token_for(&self, role: Access, namespace: &str, subject: &str) -> String {
        self.key.issue(subject, role, namespace, jiff::Timestamp::now(), Span::secs(600)).unwrap()
    }

    /// A token in the default namespace.
    pub(crate) fn token(&self, role: Access) -> String {
        self.token_for(role, "default", &format!("the-{role}"))
    }

    /// An operator's token whose time has passed.
    pub(crate) fn expired_token(&self) -> String {
        let hours_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2);
        self.key.issue("late", Access::Operator, "default", hours_ago, Span::secs(60)).unwrap()
    }

    /// A client in the default namespace.
    pub(crate) fn client(&self, role: Access) -> Client {
        Client::new(&self.url, &self.token(role)).unwrap()
    }

    /// A request without a token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// A GET without a token.
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    /// A request by an operator of the default namespace.
    pub(crate) fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(self.token(Access::Operator))
    }

    /// A request by an admin.
    pub(crate) fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(self.token(Access::Admin))
    }

    /// A worker that is registered under the name `w1`.
    pub(crate) async fn worker(&self) -> Worker {
        self.node("w1", Role::Work, self.client(Access::Worker)).await
    }

    /// A planner that is registered under the name `p1`.
    pub(crate) async fn planner(&self) -> Worker {
        self.node("p1", Role::Plan, self.client(Access::Planner)).await
    }

    async fn node(&self, name: &str, role: Role, client: Client) -> Worker {
        let instance = InstanceId::new();
        let registration = Registration {
            name: name.into(),
            instance,
            role,
            slots: 4,
            version: "test".into(),
            runtime: "none".into(),
            labels: [].into(),
            cpus: None,
            memory: None,
            resumes: Vec::new(),
            home: None,
        };
        let id = client.register(&registration).await.unwrap().id;
        Worker { client, id, instance }
    }

    /// The one row and column that `statement` answers, past the coordinator.
    pub(crate) async fn sql<T>(&self, statement: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = PgConnection::connect(&self.database.url).await.unwrap();
        let found = sqlx::query_scalar(sqlx::AssertSqlSafe(statement.to_owned()));
        let found = found.fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        found
    }

    /// Stops the coordinator and waits until it has ended well.
    pub(crate) async fn stop(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        self.shutdown.cancel();
        let serving = self.serving.take().unwrap();
        tokio::time::timeout(SOON, serving).await.expect("it did not stop").unwrap().unwrap();
    }
}

/// A node by hand.
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) id: NodeId,
    pub(crate) instance: InstanceId,
}

impl Worker {
    /// Claims at most one task, waiting for it for `wait`.
    pub(crate) async fn claim(&self, wait: Span) -> Claimed {
        let request =
            ClaimRequest { instance: self.instance, slots: 1, wait, queues: Vec::new(), free: None };
        self.client.claim(self.id, &request).await.unwrap()
    }

    /// Claims the task that is there.
    pub(crate) async fn take(&self) -> (Grant, LeaseRef) {
        let grant = self.claim(Span::secs(10)).await.grants.pop().expect("there is no task to claim");
        let lease = LeaseRef { task: grant.task, token: grant.token };
        (grant, lease)
    }
}

/// A task with nothing special about it.
pub(crate) fn task(name: &str) -> NewTask {
    NewTask { name: Some(name.to_owned()), ..NewTask::new("example") }
}

/// Status, problem URN and whole body of a refusal; checks what all refusals share.
pub(crate) async fn refusal(answer: Response) -> (u16, String, Value) {
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let text = answer.text().await.unwrap();
    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{status} {text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["status"], status, "{body}");
    assert_eq!(body["request_id"], id, "{body}");
    assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()), "{body}");
    let urn = body["type"].as_str().unwrap().trim_start_matches("urn:orca:problem:").to_owned();
    (status, urn, body)
}

/// A database that goes when it is dropped.
pub(crate) struct Database {
    pub(crate) url: String,
    admin: String,
    name: String,
}

impl Database {
    /// Makes one on the Postgres that the tests were given.
    pub(crate) async fn create() -> Self {
        let admin = std::env::var("ORCA_TEST_DATABASE_URL").expect(
            "these tests need a Postgres: set ORCA_TEST_DATABASE_URL to one whose user may create databases, such as \
             postgres://postgres@127.0.0.1:5432/postgres; `cargo xtask test` starts one and does this",
        );
        let name = format!("orca_api_{}", uuid::Uuid::now_v7().simple());
        execute(&admin, format!("CREATE DATABASE {name}")).await;
        let (base, _) = admin.rsplit_once('/').expect("ORCA_TEST_DATABASE_URL names a database");
        let url = format!("{base}/{name}");
        Self { admin, name, url }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, statement) = (self.admin.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        // Also when the test failed, whose runtime may be going down with it.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(&admin, statement));
        });
        let dropped = dropping.join();
        assert!(dropped.is_ok() || std::thread::panicking(), "the test's database could not be dropped");
    }
}

async fn execute(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
