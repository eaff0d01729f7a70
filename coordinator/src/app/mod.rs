//! What the coordinator does, one noun per file; knows nothing of HTTP.
//!
//! [`App`] is the one door: the API calls it, `orca dev` and the tests too. Every call names its [`Principal`]; the
//! principal's namespace is a wall, and what lies behind it looks exactly like what does not exist.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orca_proto::node::NodeState;
use orca_proto::spec::Role;
use orca_proto::task::State;
use orca_proto::token::Access;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::db::{self, session};
pub use crate::error::{Error, StartError};
use crate::keyring::Keyring;
use crate::reconcile;

mod artifact;
mod attempt;
mod cancel;
mod cancel_many;
mod check;
mod claim;
mod dead_letter;
mod enqueue;
mod event;
pub(crate) mod fault;
mod filter;
mod gate;
mod gather;
mod graph;
mod inbox;
pub(crate) mod lane;
pub(crate) mod lines;
mod listen;
mod log;
mod namespace;
mod node;
mod normal;
mod presence;
mod queue;
mod quota;
mod reach;
mod renew;
mod report;
mod reports;
mod schedule;
mod secret;
pub(crate) mod signals;
mod task;
pub(crate) mod transaction;
mod unique;
mod waiting;
mod why;

pub(crate) use cancel::{cancel_under, settle_alone};
pub use event::{EventCursor, EventCursorError};
use gather::Gathering;
pub(crate) use graph::describe;
pub(crate) use inbox::Turns;
use lines::Lines;
pub use log::log_cursor;
use presence::Presence;
use signals::Signals;

pub use claim::RawClaimed;
pub use reports::RawReports;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whose things they may see.
    pub namespace: String,
    /// Their name: the token's `sub`.
    pub subject: String,
    /// What they may do.
    pub access: Access,
}

/// What the application needs to run.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// Where the database is.
    pub database: sqlx::postgres::PgConnectOptions,
    /// Connections in the pool; 20 is a good number.
    pub connections: u32,
    /// Where artifacts' bytes are kept.
    pub data_dir: PathBuf,
    /// How long a lease lasts from its grant or renewal; 100 ms to 1 h.
    pub lease: Duration,
    /// How long ended tasks are kept.
    pub retention: Duration,
    /// Bytes of log text that are kept of one attempt.
    pub log_limit: i64,
    /// The keys that secrets are encrypted with; [`Keyring::default`] for none, and no secrets then.
    pub keyring: Keyring,
    /// The clock; [`Clock::system`] but in tests.
    pub clock: Clock,
}

/// Figures about the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Open tasks by state; ended ones are not counted, which would mean to read them all.
    pub tasks: Vec<(State, i64)>,
    /// Nodes by role and state.
    pub nodes: Vec<(Role, NodeState, i64)>,
    /// Tasks that were enqueued by SQL and are not taken in yet; counted up to 100,000.
    pub inbox: i64,
    /// Leases held.
    pub leases: i64,
    /// Connections open to the database.
    pub connections: u32,
    /// Those of them that are idle.
    pub idle_connections: u32,
    /// How long event streams have been held up by a transaction that is still under way.
    pub events_held: Duration,
}

/// The application: everything but HTTP. Clones are handles to the same one.
#[derive(Clone)]
pub struct App(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) pool: PgPool,
    pub(crate) blobs: Blobs,
    pub(crate) signals: Signals,
    pub(crate) lines: Lines,
    pub(crate) presence: Presence,
    pub(crate) gathering: Gathering,
    /// Claims that look at a time.
    pub(crate) claiming: Semaphore,
    /// Who takes the settlement lock, or waits for it at the database.
    pub(crate) settling: Arc<Semaphore>,
    pub(crate) keyring: Keyring,
    pub(crate) clock: Clock,
    pub(crate) lease: Duration,
    pub(crate) retention: Duration,
    pub(crate) log_limit: i64,
    pub(crate) shutdown: CancellationToken,
}

/// Claims that look at a time: more than the pool has connections, as most of them need none.
const CLAIMING: usize = 64;
/// How long the first connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// What came by SQL and waits, counted up to this.
const INBOX: i64 = 100_000;
/// How long [`App::database_ready`] waits.
const READY: Duration = Duration::from_secs(2);

impl App {
    /// Connects, brings the schema up to date, and starts the reconcilers and the listener for notifications on
    /// `tracker`; all of them end once `shutdown` is cancelled, and held requests are then answered at once.
    ///
    /// # Errors
    /// [`StartError`], with what to do about it.
    pub async fn start(
        settings: AppSettings,
        shutdown: CancellationToken,
        tracker: &TaskTracker,
    ) -> Result<Self, StartError> {
        let AppSettings { database, connections, data_dir, lease, retention, log_limit, keyring, clock } =
            settings;
        if !(Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&lease) {
            return Err(StartError::Setting(
                "a lease must last between 100ms and 1h; set ORCA_LEASE".to_owned(),
            ));
        }
        if connections < 3 {
            return Err(StartError::Setting("the pool needs at least 3 connections".to_owned()));
        }
        let blobs = Blobs::open(&data_dir)
            .await
            .map_err(|source| StartError::DataDir { path: data_dir.display().to_string(), source })?;
        let silent = |_| StartError::Connect(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
        let mut connection = tokio::time::timeout(CONNECT, PgConnection::connect_with(&database))
            .await
            .map_err(silent)?
            .map_err(StartError::Connect)?;
        session::ping(&mut connection).await.map_err(StartError::Connect)?;
        session::migrate(&mut connection).await?;
        // The answer to a polite goodbye is of no use.
        let _ = connection.close().await;
        let pool = session::pool(database, connections, clock.clone());
        let signals = Signals::new();
        let app = Self(Arc::new(Inner {
            pool,
            blobs,
            signals,
            lines: Lines::default(),
            presence: Presence::default(),
            gathering: Gathering::new(),
            claiming: Semaphore::new(CLAIMING),
            settling: Arc::new(Semaphore::new(1)),
            keyring,
            clock,
            lease,
            retention,
            log_limit,
            shutdown: shutdown.clone(),
        }));
        // What fails here is tried again each minute; until then tasks go where they are removed from row by row.
        if let Err(error) = reconcile::make_partitions(&app).await {
            tracing::warn!(%error, "cannot make partitions; trying again");
        }
        // What fails here is tried again each second.
        if let Err(error) = reconcile::look_over(&app).await {
            tracing::warn!(%error, "cannot look which lanes wait; trying again");
        }
        if let Err(error) = app.look_over_keys().await {
            tracing::warn!(%error, "cannot look which keys secrets are under");
        }
        tracker.spawn(listen::tell(app.clone(), shutdown.clone()));
        tracker.spawn(listen::run(app.clone(), shutdown.clone()));
        reconcile::start(&app, &shutdown, tracker);
        Ok(app)
    }

    /// Whether the database answers within two seconds.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Unavailable`].
    pub async fn database_ready(&self) -> Result<(), Error> {
        let asked = async {
            let mut connection = self.0.pool.acquire().await?;
            session::ping(&mut connection).await
        };
        tokio::time::timeout(READY, asked)
            .await
            .map_err(|_| Error::Unavailable("the database does not answer"))?
            .map_err(Error::from)
    }

    /// Figures for `/metrics`: from the hot tables and narrow indexes, never from the tasks themselves.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn queue_stats(&self) -> Result<QueueStats, Error> {
        let mut connection = self.0.pool.acquire().await?;
        let mut stats = QueueStats {
            nodes: db::node::counts(&mut connection, self.0.lease).await?,
            inbox: db::inbox::count(&mut connection, INBOX).await?,
            connections: self.0.pool.size(),
            idle_connections: u32::try_from(self.0.pool.num_idle()).unwrap_or(u32::MAX),
            events_held: Duration::from_millis(
                db::event::held_back_ms(&mut connection).await?.try_into().unwrap_or_default(),
            ),
            ..QueueStats::default()
        };
        for (state, count) in db::queue::open_counts(&mut connection).await? {
            let state: State = state.parse().map_err(|error| Error::Internal(format!("{error}")))?;
            if state == State::Running {
                stats.leases = count;
            }
            stats.tasks.push((state, count));
        }
        Ok(stats)
    }

    /// Claims that wait for work at this coordinator, or are about to be answered.
    #[must_use]
    pub fn waiting_claims(&self) -> usize {
        self.0.signals.claims()
    }

    /// Runs every reconciler once, now. They run by themselves all the time; tests that move the clock need not wait.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn reconcile(&self) -> Result<(), Error> {
        reconcile::once(self).await
    }
}
