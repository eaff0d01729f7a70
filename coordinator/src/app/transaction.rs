//! How a transaction is run: to its end even when the caller goes away, again when Postgres gave it up, and with its
//! consequences told only after it has committed.

use std::future::Future;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres, Transaction};
use tracing::Instrument;
use uuid::Uuid;

use super::{App, Error};
use crate::db::apply::Effects;
use crate::db::session;

/// How often a transaction that Postgres gave up is run again.
pub(crate) const TRIES: u32 = 5;
/// The channel on which coordinators tell each other what became ready.
pub(crate) const READY: &str = "orca_ready";
/// The channel on which coordinators tell each other which nodes must cancel.
pub(crate) const CANCEL: &str = "orca_cancel";
/// A notification's payload must stay below 8,000 bytes.
const PAYLOAD: usize = 7_000;

/// What coordinators tell each other. An empty list stands for one too long to send: anything may have changed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// Who sent it.
    pub(crate) from: Uuid,
    /// On [`READY`]: lanes as (namespace, role, queue).
    #[serde(default)]
    pub(crate) lanes: Vec<(String, String, String)>,
    /// On [`CANCEL`]: nodes.
    #[serde(default)]
    pub(crate) nodes: Vec<Uuid>,
}

/// Runs `$body` in a transaction and commits it; `$tx` is its connection, `$effects` collects what others must be told.
/// Must run inside [`App::spawned`].
macro_rules! transaction {
    ($app:expr, |$tx:ident, $effects:ident| $body:expr) => {{
        let mut tries = 0_u32;
        loop {
            tries += 1;
            let mut begun = $app.begin().await?;
            let mut effects = $crate::db::apply::Effects::default();
            let result: Result<_, $crate::error::Error> = {
                let $tx: &mut sqlx::PgConnection = &mut begun;
                let $effects = &mut effects;
                async { $body }.await
            };
            let ended = match result {
                Ok(value) => $app.commit(begun, effects).await.map(|()| value),
                Err(error) => {
                    // An error of the rollback changes nothing: the connection is closed then, and so is the transaction.
                    let _ = begun.rollback().await;
                    Err(error)
                }
            };
            match ended {
                Err(error) if error.is_contention() && tries < $crate::app::transaction::TRIES => {}
                ended => break ended,
            }
        }
    }};
}
pub(crate) use transaction;

impl App {
    /// Runs `work` on a task of its own, so that it comes to its end even when the caller is dropped half-way.
    pub(crate) async fn spawned<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        tokio::spawn(work.in_current_span())
            .await
            .map_err(|error| Error::Internal(format!("a transaction's task ended early: {error}")))?
    }

    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        Ok(self.0.pool.begin().await?)
    }

    /// Commits, with a word to the other coordinators inside and one to this process's own waiters after.
    pub(crate) async fn commit(
        &self,
        mut transaction: Transaction<'static, Postgres>,
        effects: Effects,
    ) -> Result<(), Error> {
        self.tell_others(&mut transaction, &effects).await?;
        transaction.commit().await?;
        self.0.signals.publish(&effects);
        Ok(())
    }

    async fn tell_others(&self, connection: &mut PgConnection, effects: &Effects) -> Result<(), Error> {
        let from = self.0.signals.process;
        if !effects.ready.is_empty() {
            let lanes = effects
                .ready
                .iter()
                .map(|(namespace, role, queue)| (namespace.clone(), (*role).to_owned(), queue.clone()))
                .collect();
            send(connection, READY, Notice { from, lanes, nodes: Vec::new() }).await?;
        }
        if !effects.cancels.is_empty() {
            let nodes = effects.cancels.iter().map(|node| node.0).collect();
            send(connection, CANCEL, Notice { from, lanes: Vec::new(), nodes }).await?;
        }
        Ok(())
    }
}

async fn send(connection: &mut PgConnection, channel: &str, notice: Notice) -> Result<(), Error> {
    let text = |notice: &Notice| {
        serde_json::to_string(notice).map_err(|error| Error::Internal(format!("a notice: {error}")))
    };
    let mut payload = text(&notice)?;
    if payload.len() > PAYLOAD {
        payload = text(&Notice { lanes: Vec::new(), nodes: Vec::new(), ..notice })?;
    }
    Ok(session::notify(connection, channel, &payload).await?)
}

/// A random number in `[0, 1)`.
pub(crate) fn sample() -> f64 {
    let random = Uuid::now_v7().as_u128() & u128::from(u32::MAX);
    u32::try_from(random).map_or(0.0, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}
