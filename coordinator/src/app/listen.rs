//! Coordinators on one database tell each other what became ready and what is to be cancelled: only hints, gathered for a
//! moment, after the fact, and made up for by polling where they are lost.
//!
//! They never travel inside of the transaction that they speak of: one that holds a notification takes a lock at its commit
//! that no two transactions of the whole server can hold.
//!
//! Whoever can log in to the database can send notices, and nobody can be kept from it. So nothing is believed of one: it has
//! the database looked at, and no more.

use std::time::Duration;

use orca_proto::ids::NodeId;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::App;
use super::signals::Outbox;
use crate::db::lane::{self, Among};
use crate::db::{node, session};

/// Before the listener connects again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long notices are gathered.
const GATHER: Duration = Duration::from_millis(3);
/// Between two warnings of notices that are none.
const WARNED: Duration = Duration::from_secs(60);
/// The one channel.
const CHANNEL: &str = "orca";
/// A notification's payload must stay below 8,000 bytes.
const PAYLOAD: usize = 7_000;

/// What coordinators tell each other.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Notice {
    /// Who sent it.
    from: Uuid,
    /// Lanes in which something became ready.
    #[serde(default)]
    lanes: Vec<i32>,
    /// Nodes that have something to cancel.
    #[serde(default)]
    nodes: Vec<Uuid>,
    /// Nodes that take no more work.
    #[serde(default)]
    drains: Vec<Uuid>,
    /// Settings of queues changed.
    #[serde(default)]
    settings: bool,
    /// Schedules changed.
    #[serde(default)]
    schedules: bool,
    /// There is more than fits here: anything may have changed.
    #[serde(default)]
    all: bool,
}

/// Tells the others, until `shutdown`.
pub(crate) async fn tell(app: App, shutdown: CancellationToken) {
    let telling = async {
        loop {
            app.0.signals.posted.notified().await;
            tokio::time::sleep(GATHER).await;
            if let Err(error) = send(&app, app.0.signals.collect()).await {
                tracing::debug!(%error, "cannot tell the other coordinators; they will find it by polling");
            }
        }
    };
    // Cut off anywhere, it loses hints only.
    let _ = shutdown.run_until_cancelled(telling).await;
}

async fn send(app: &App, outbox: Outbox) -> Result<(), crate::error::Error> {
    let mut notice = Notice {
        from: app.0.signals.process,
        lanes: outbox.lanes.into_iter().collect(),
        nodes: outbox.nodes.into_iter().map(|node| node.0).collect(),
        drains: outbox.drains.into_iter().map(|node| node.0).collect(),
        settings: outbox.settings,
        schedules: outbox.schedules,
        all: false,
    };
    let mut payload = crate::db::to_json(&notice)?;
    if payload.len() > PAYLOAD {
        notice = Notice { from: notice.from, all: true, ..Notice::default() };
        payload = crate::db::to_json(&notice)?;
    }
    let mut connection = app.0.pool.acquire().await?;
    Ok(session::notify(&mut connection, CHANNEL, &payload).await?)
}

/// Listens until `shutdown`; a lost connection is made again.
pub(crate) async fn run(app: App, shutdown: CancellationToken) {
    let mut warned = None;
    while let Some(result) = shutdown.run_until_cancelled(listen(&app, &mut warned)).await {
        if let Err(error) = result {
            tracing::warn!(error = %error, "cannot listen for other coordinators' notices; trying again");
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

async fn listen(app: &App, warned: &mut Option<Instant>) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(&app.0.pool).await?;
    listener.listen(CHANNEL).await?;
    // Whatever was told before is not known here.
    app.0.lines.forget_settings();
    app.0.signals.dropped.notify_one();
    loop {
        let notification = listener.recv().await?;
        match serde_json::from_str::<Notice>(notification.payload()) {
            Ok(notice) if notice.from == app.0.signals.process => {}
            Ok(notice) => pass_on(app, &notice).await?,
            Err(_) if warned.is_some_and(|at| at.elapsed() < WARNED) => {}
            Err(error) => {
                *warned = Some(Instant::now());
                tracing::warn!(%error, "a notice on {CHANNEL} is not Orca's; further ones are not told for a minute");
            }
        }
    }
}

async fn pass_on(app: &App, notice: &Notice) -> sqlx::Result<()> {
    let (lines, signals) = (&app.0.lines, &app.0.signals);
    if notice.settings || notice.all {
        lines.forget_settings();
    }
    if notice.schedules || notice.all {
        signals.schedules.notify_one();
    }
    if notice.all {
        signals.wake_nodes();
    }
    notice.nodes.iter().for_each(|node| signals.wake_node(NodeId(*node)));
    if notice.all || notice.settings {
        signals.dropped.notify_one();
    }
    if !notice.drains.is_empty() {
        let mut connection = app.0.pool.acquire().await?;
        let idle = node::idle_of(&mut connection, &notice.drains).await?;
        idle.into_iter().for_each(|node| signals.drain(NodeId(node)));
    }
    if !notice.lanes.is_empty() {
        let version = lines.version();
        let mut connection = app.0.pool.acquire().await?;
        let waiting = lane::waiting(&mut connection, Among::These(&notice.lanes)).await?;
        drop(connection);
        let keys: Vec<_> = waiting.iter().map(|lane| lane.key.clone()).collect();
        lines.refresh(version, waiting, false);
        keys.iter().for_each(|lane| signals.wake_claim(lane));
    }
    Ok(())
}
