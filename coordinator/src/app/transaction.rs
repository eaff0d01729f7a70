//! How a transaction is run: to its end even when the caller goes away, again when Postgres gave it up, and with its
//! consequences told only after it has committed.

use std::future::Future;

use sqlx::{Postgres, Transaction};
use tracing::Instrument;
use uuid::Uuid;

use super::{App, Error};
use crate::db::apply::Effects;

/// How often a transaction that Postgres gave up is run again.
pub(crate) const TRIES: u32 = 5;
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
                Ok(value) => $app.conclude(begun, effects).await.map(|()| value),
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

/// Runs `$body`, one statement, on a connection, again when Postgres gave it up. Must run inside [`App::spawned`].
macro_rules! statement {
    ($app:expr, |$connection:ident| $body:expr) => {{
        let mut tries = 0_u32;
        loop {
            tries += 1;
            let result: Result<_, $crate::error::Error> = async {
                let mut acquired = $app.0.pool.acquire().await?;
                let $connection: &mut sqlx::PgConnection = &mut acquired;
                let result: sqlx::Result<_> = async { $body }.await;
                Ok(result?)
            }
            .await;
            match result {
                Err(error) if error.is_contention() && tries < $crate::app::transaction::TRIES => {}
                ended => break ended,
            }
        }
    }};
}
pub(crate) use statement;

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

    /// Does what comes last, commits, and tells what came of it.
    pub(crate) async fn conclude(
        &self,
        mut transaction: Transaction<'static, Postgres>,
        mut effects: Effects,
    ) -> Result<(), Error> {
        effects.conclude(&mut transaction).await?;
        transaction.commit().await?;
        self.learn_bounds(&effects).await;
        self.publish(&effects);
        Ok(())
    }

    /// Makes known whether the namespaces in which attempts ended have limits, so that [`App::publish`] need not guess.
    pub(crate) async fn learn_bounds(&self, effects: &Effects) {
        for namespace in &effects.released {
            if self.0.lines.bounded(namespace).is_none()
                && self.0.lines.any_waiting(namespace)
                && let Err(error) = self.settings(namespace).await
            {
                tracing::debug!(%error, "cannot look what limits a namespace has; its waiting claims are woken in any case");
            }
        }
    }

    /// Passes on what a committed transaction did: to those who wait in this process, and to the other coordinators.
    pub(crate) fn publish(&self, effects: &Effects) {
        let (lines, signals) = (&self.0.lines, &self.0.signals);
        if !effects.ready.is_empty() {
            let now_us = self.0.clock.now_us();
            for (lane, count) in &effects.ready {
                if lines.entered(*lane, *count, now_us)
                    && let Some(key) = lines.key(*lane)
                {
                    signals.wake_claim(&key);
                } else {
                    signals.dropped.notify_one();
                }
            }
        }
        if effects.settings {
            lines.forget_settings();
            signals.dropped.notify_one();
        }
        for namespace in &effects.released {
            let known = lines.bounded(namespace);
            if known == Some(false) {
                continue;
            }
            let lanes = lines.bounded_lanes(namespace);
            signals.wake_any(lanes.iter().map(|(_, lane)| lane.as_ref()));
            if known.is_some() {
                signals.post_lanes(lanes.into_iter().map(|(id, _)| id));
            }
        }
        signals.publish(effects);
        signals.post(effects);
    }
}

/// A random number in `[0, 1)`.
pub(crate) fn sample() -> f64 {
    let random = Uuid::now_v7().as_u128() & u128::from(u32::MAX);
    u32::try_from(random).map_or(0.0, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}
