//! Hearing what other coordinators on the same database tell.

use std::time::Duration;

use orca_proto::ids::NodeId;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use super::App;
use super::transaction::{CANCEL, Notice, READY};

/// Before the listener connects again.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until `shutdown`; a lost connection is made again. What is missed meanwhile is found by polling.
pub(crate) async fn run(app: App, shutdown: CancellationToken) {
    while let Some(result) = shutdown.run_until_cancelled(listen(&app)).await {
        if let Err(error) = result {
            tracing::warn!(error = %error, "cannot listen for other coordinators' notices; trying again");
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

async fn listen(app: &App) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(&app.0.pool).await?;
    listener.listen_all([READY, CANCEL]).await?;
    loop {
        let notification = listener.recv().await?;
        match serde_json::from_str::<Notice>(notification.payload()) {
            Ok(notice) if notice.from == app.0.signals.process => {}
            Ok(notice) => pass_on(app, notification.channel(), &notice),
            Err(error) => tracing::warn!(%error, "a notice on {} is not Orca's", notification.channel()),
        }
    }
}

fn pass_on(app: &App, channel: &str, notice: &Notice) {
    let signals = &app.0.signals;
    if channel == CANCEL {
        if notice.nodes.is_empty() {
            signals.wake_nodes();
        }
        notice.nodes.iter().for_each(|node| signals.wake_node(NodeId(*node)));
        return;
    }
    if notice.lanes.is_empty() {
        signals.lanes().iter().for_each(|lane| signals.wake_lane(lane));
    }
    for (namespace, role, queue) in &notice.lanes {
        signals.wake_claim(namespace, role, Some(queue));
    }
}
