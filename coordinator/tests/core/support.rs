//! An application on a database of its own, with a clock that tests move; nothing of it stays behind.

use std::time::Duration;

use orca_coordinator::Clock;
use orca_coordinator::app::{App, AppSettings, Error, Principal};
use orca_proto::attempt::{AttemptStart, Report, Reported};
use orca_proto::ids::{InstanceId, NodeId, TaskId};
use orca_proto::node::{ClaimRequest, Grant, LeaseRef, Registration, RenewRequest, Renewed, labels};
use orca_proto::plan::Plan;
use orca_proto::problem::Kind;
use orca_proto::spec::{NewTask, Role};
use orca_proto::task::{Outcome, State, Task};
use orca_proto::token::Access;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The limit of everything that a test waits for.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How long leases last in tests.
pub(crate) const LEASE: Duration = Duration::from_secs(600);
/// Bytes of log text that are kept of one attempt in tests.
pub(crate) const LOG_LIMIT: i64 = 64 << 20;
/// How long ended tasks are kept in tests.
pub(crate) const RETENTION: Duration = Duration::from_secs(7 * 86_400);

pub(crate) struct TestApp {
    pub(crate) app: App,
    pub(crate) clock: Clock,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    dir: tempfile::TempDir,
    pub(crate) database: Database,
}

/// An empty database and directory, on which applications can be started.
pub(crate) struct Prepared {
    database: Database,
    dir: tempfile::TempDir,
}

impl Prepared {
    pub(crate) async fn start_app(&self, clock: &Clock) -> (App, CancellationToken, TaskTracker) {
        start(&self.database, clock, self.dir.path()).await
    }
}

impl TestApp {
    pub(crate) async fn prepare() -> Prepared {
        Prepared { database: Database::create().await, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn start() -> Self {
        let Prepared { database, dir } = Self::prepare().await;
        let clock = Clock::test();
        let (app, shutdown, tracker) = start(&database, &clock, dir.path()).await;
        Self { app, clock, shutdown, tracker, dir, database }
    }

    /// Another coordinator on the same database and clock.
    pub(crate) async fn replica(&self) -> App {
        let tracker = self.tracker.clone();
        App::start(settings(&self.database, &self.clock, self.dir.path()), self.shutdown.clone(), &tracker)
            .await
            .unwrap()
    }

    /// Ends this coordinator and starts another in its place.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        (self.app, self.shutdown, self.tracker) = start(&self.database, &self.clock, self.dir.path()).await;
    }

    /// Ends the background work and waits for it.
    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(SOON, self.tracker.wait()).await.expect("the background work did not end");
    }

    pub(crate) fn operator(&self) -> Principal {
        principal("default", "ann", Access::Operator)
    }

    pub(crate) async fn enqueue(&self, task: NewTask) -> TaskId {
        self.app.task_enqueue(&self.operator(), task, None).await.unwrap().0.summary.id
    }

    pub(crate) async fn task(&self, id: TaskId) -> Task {
        self.app.task_get(&self.operator(), id).await.unwrap()
    }

    pub(crate) async fn state(&self, id: TaskId) -> State {
        self.task(id).await.summary.state
    }

    /// Lets every reconciler run once.
    pub(crate) async fn reconcile(&self) {
        self.app.reconcile().await.unwrap();
    }

    /// Moves the clock and lets every reconciler run.
    pub(crate) async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.reconcile().await;
    }

    pub(crate) async fn worker(&self, name: &str) -> TestNode {
        TestNode::register(&self.app, name, Access::Worker).await
    }

    pub(crate) async fn planner(&self, name: &str) -> TestNode {
        TestNode::register(&self.app, name, Access::Planner).await
    }

    /// A connection to the test's database.
    pub(crate) async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.database.url).await.unwrap()
    }
}

async fn start(
    database: &Database,
    clock: &Clock,
    dir: &std::path::Path,
) -> (App, CancellationToken, TaskTracker) {
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let app = App::start(settings(database, clock, dir), shutdown.clone(), &tracker).await.unwrap();
    (app, shutdown, tracker)
}

fn settings(database: &Database, clock: &Clock, dir: &std::path::Path) -> AppSettings {
    AppSettings {
        database: database.url.parse::<PgConnectOptions>().unwrap(),
        connections: 6,
        data_dir: dir.to_owned(),
        lease: LEASE,
        retention: RETENTION,
        log_limit: LOG_LIMIT,
        keyring: orca_coordinator::Keyring::default(),
        clock: clock.clone(),
    }
}

pub(crate) fn principal(namespace: &str, subject: &str, access: Access) -> Principal {
    Principal { namespace: namespace.to_owned(), subject: subject.to_owned(), access }
}

/// A node with 1,000 slots, registered.
pub(crate) struct TestNode {
    pub(crate) app: App,
    pub(crate) who: Principal,
    pub(crate) id: NodeId,
    pub(crate) instance: InstanceId,
}

impl TestNode {
    pub(crate) async fn register(app: &App, name: &str, access: Access) -> Self {
        let who = principal("default", &format!("node-{name}"), access);
        let instance = InstanceId::new();
        let id = app.node_register(&who, registration(name, access, instance)).await.unwrap().id;
        Self { app: app.clone(), who, id, instance }
    }

    /// Asks for work without waiting.
    pub(crate) async fn claim(&self, slots: u32) -> Vec<Grant> {
        self.claim_for(slots, Duration::ZERO).await
    }

    pub(crate) async fn claim_for(&self, slots: u32, wait: Duration) -> Vec<Grant> {
        let request = ClaimRequest {
            instance: self.instance,
            slots,
            wait: wait.into(),
            queues: Vec::new(),
            free: None,
        };
        let claimed = self.app.node_claim(&self.who, self.id, request).await.unwrap();
        claimed.grants.into_iter().map(parsed).collect()
    }

    /// The one grant there must be; waited for, since what makes a task ready may be on its way.
    pub(crate) async fn claim_one(&self) -> Grant {
        let mut grants = self.claim_for(1, SOON).await;
        assert_eq!(grants.len(), 1, "there was nothing to claim");
        grants.remove(0)
    }

    pub(crate) async fn renew(&self, leases: &[LeaseRef], wait: Duration) -> Renewed {
        let request = RenewRequest {
            instance: self.instance,
            leases: leases.to_vec(),
            cancelling: Vec::new(),
            wait: wait.into(),
            draining: false,
            unwell: None,
        };
        self.app.node_renew(&self.who, self.id, request).await.unwrap()
    }

    pub(crate) async fn report(&self, grant: &Grant, report: Report) -> Result<Reported, Error> {
        self.app.attempt_report(&self.who, lease(grant), report).await
    }

    pub(crate) async fn succeed(&self, grant: &Grant, result: Value) -> State {
        self.report(grant, success(result)).await.unwrap().state
    }

    pub(crate) async fn fail(&self, grant: &Grant) -> State {
        self.report(grant, failure()).await.unwrap().state
    }

    pub(crate) async fn plan(&self, grant: &Grant, tasks: Vec<NewTask>) -> Result<Reported, Error> {
        self.report(grant, planned(tasks)).await
    }

    pub(crate) async fn start(&self, grant: &Grant) {
        self.app.attempt_start(&self.who, lease(grant), AttemptStart::default()).await.unwrap();
    }
}

/// A grant with its spec read.
pub(crate) fn parsed(grant: Grant<Box<RawValue>>) -> Grant {
    Grant {
        task: grant.task,
        token: grant.token,
        attempt: grant.attempt,
        max_attempts: grant.max_attempts,
        lease: grant.lease,
        step: grant.step,
        parent: grant.parent,
        has_dependencies: grant.has_dependencies,
        deadline_in: grant.deadline_in,
        spec: serde_json::from_str(grant.spec.get()).unwrap(),
    }
}

pub(crate) fn registration(name: &str, access: Access, instance: InstanceId) -> Registration {
    Registration {
        name: name.to_owned(),
        instance,
        role: if access == Access::Planner { Role::Plan } else { Role::Work },
        slots: 1_000,
        version: "test".to_owned(),
        runtime: "none".to_owned(),
        labels: [labels::OPEN_NETWORK, labels::EGRESS].map(|label| (label.into(), labels::YES.into())).into(),
        cpus: None,
        memory: None,
        resumes: Vec::new(),
        home: None,
    }
}

pub(crate) fn lease(grant: &Grant) -> LeaseRef {
    LeaseRef { task: grant.task, token: grant.token }
}

pub(crate) fn success(result: Value) -> Report {
    Report { outcome: Outcome::Succeeded, result: Some(result), plan: None }
}

pub(crate) fn failure() -> Report {
    Report { outcome: Outcome::Failed { exit_code: 3, reason: None }, result: None, plan: None }
}

pub(crate) fn planned(tasks: Vec<NewTask>) -> Report {
    Report { outcome: Outcome::Succeeded, result: None, plan: Some(Plan { tasks }) }
}

/// A worker's task of this name that is tried only once.
pub(crate) fn task(name: &str) -> NewTask {
    let mut task = NewTask::new("image");
    task.key = Some(name.to_owned());
    task.retry.max_attempts = 1;
    task
}

/// A worker's task that depends on others.
pub(crate) fn after(name: &str, needs: &[&str]) -> NewTask {
    NewTask { depends_on: needs.iter().map(|need| (*need).to_owned()).collect(), ..task(name) }
}

pub(crate) fn goal(name: &str) -> NewTask {
    NewTask { role: Role::Plan, ..task(name) }
}

pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().problem().kind
}

/// A database that goes with the test.
pub(crate) struct Database {
    admin: String,
    name: String,
    pub(crate) url: String,
}

impl Database {
    async fn create() -> Self {
        let admin = std::env::var("ORCA_TEST_DATABASE_URL").expect(
            "these tests need a Postgres: set ORCA_TEST_DATABASE_URL to one whose user may create databases, such as \
             postgres://postgres@127.0.0.1:5432/postgres; `cargo xtask test` starts one and does this",
        );
        let name = format!("orca_core_{}", uuid::Uuid::now_v7().simple());
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
    let mut connection = PgConnection::connect(url).await.expect("the tests' Postgres does not answer");
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

impl TestApp {
    /// Blobs on disk.
    pub(crate) fn files(&self) -> usize {
        let count = |path: &std::path::Path| std::fs::read_dir(path).map_or(0, Iterator::count);
        let directories = std::fs::read_dir(self.dir.path().join("blobs")).unwrap();
        directories.map(|entry| count(&entry.unwrap().path())).sum()
    }
}
