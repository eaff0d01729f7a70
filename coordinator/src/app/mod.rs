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
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
pub use crate::error::{Error, StartError};

mod artifact;
mod attempt;
mod event;
mod log;
mod node;
mod task;

pub use event::{EventCursor, EventCursorError};
pub use log::log_cursor;

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
    /// The clock; [`Clock::system`] but in tests.
    pub clock: Clock,
}

/// Figures about the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Tasks by state. Terminal ones are an estimate.
    pub tasks: Vec<(State, i64)>,
    /// Nodes by role and state.
    pub nodes: Vec<(Role, NodeState, i64)>,
    /// Leases held.
    pub leases: i64,
    /// Connections open to the database.
    pub connections: u32,
    /// Those of them that are idle.
    pub idle_connections: u32,
}

/// The application: everything but HTTP. Clones are handles to the same one.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {}

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
        let _ = (settings, shutdown, tracker);
        Ok(Self(Arc::new(Inner {})))
    }

    /// Whether the database answers within two seconds.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Unavailable`].
    pub async fn database_ready(&self) -> Result<(), Error> {
        Err(Error::Unavailable("not built yet"))
    }

    /// Figures for `/metrics`; cheap however large the queue is.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn queue_stats(&self) -> Result<QueueStats, Error> {
        Err(Error::Unavailable("not built yet"))
    }
}
