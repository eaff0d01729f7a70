//! Connecting: the pool, its sessions' settings, and the schema.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Executor, PgConnection};

use super::Time;
use crate::clock::Clock;

/// How long a caller waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);

/// How long an idle connection is taken for sound.
const TRUSTED: Duration = Duration::from_secs(1);

/// Brings the schema up to date, under a lock, so that replicas may start together.
pub(crate) async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    let mut migrator = sqlx::migrate!();
    // Our own lock comes first, and lasts as long as the connection: two replicas that both make the schema would collide.
    migrator.set_locking(false);
    migrator.dangerous_set_table_name("orca._sqlx_migrations");
    migrator.create_schema("orca");
    connection.execute("SELECT pg_advisory_lock(7024418)").await?;
    let result = migrator.run_direct(None, connection, false).await;
    #[cfg(feature = "sabotage")]
    super::sabotage::take_out(connection).await?;
    connection.execute("SELECT pg_advisory_unlock(7024418)").await?;
    result
}

/// A pool whose sessions have time limits, and the clock's offset where there is one.
///
/// Plans are made anew for each statement: the tables grow from nothing to millions of rows within seconds, and a plan
/// kept from before would scan them whole. The statistics are as old, and one goal of 100,000 tasks skews them: by them
/// the whole table is often the shorter way, and then each end of a task costs as much as there are tasks. Every statement
/// here is made for an index, so whole tables are read, and plans compiled, only where there is no other way.
pub(crate) fn pool(options: PgConnectOptions, connections: u32, clock: Clock) -> PgPool {
    let options = options.application_name("orca-coordinator").options([
        ("statement_timeout", "60s"),
        ("lock_timeout", "20s"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("plan_cache_mode", "force_custom_plan"),
        ("enable_seqscan", "off"),
        ("jit", "off"),
        ("timezone", "UTC"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        // One that was used a moment ago is there: to ask each time would double what a short statement takes.
        .test_before_acquire(false);
    let mut pool = pool.before_acquire(|connection, known| {
        Box::pin(async move {
            if known.idle_for > TRUSTED {
                ping(connection).await?;
            }
            Ok(true)
        })
    });
    if clock.offset_ms().is_some() {
        let again = clock.clone();
        pool = pool
            .after_connect(move |connection, _| {
                let clock = clock.clone();
                Box::pin(async move { set_offset(connection, &clock).await })
            })
            .before_acquire(move |connection, _| {
                let clock = again.clone();
                Box::pin(async move { set_offset(connection, &clock).await.map(|()| true) })
            });
    }
    pool.connect_lazy_with(options)
}

async fn set_offset(connection: &mut PgConnection, clock: &Clock) -> sqlx::Result<()> {
    let offset = clock.offset_ms().unwrap_or_default().to_string();
    sqlx::query!("SELECT set_config('orca.clock_offset_ms', $1, false) AS done", offset)
        .fetch_one(connection)
        .await
        .map(drop)
}

/// Whether the database answers.
pub(crate) async fn ping(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query_scalar!("SELECT 1").fetch_one(connection).await.map(drop)
}

/// From now on the transaction waits for a lock no longer than two seconds: others wait for what it holds.
pub(crate) async fn wait_briefly(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("SELECT set_config('lock_timeout', '2s', true) AS done")
        .fetch_one(connection)
        .await
        .map(drop)
}

/// The time that decides.
pub(crate) async fn now(connection: &mut PgConnection) -> sqlx::Result<Timestamp> {
    sqlx::query_scalar!(r#"SELECT orca.now() AS "now!: Time""#).fetch_one(connection).await.map(|time| time.0)
}

/// Tells other coordinators; delivered when the transaction commits.
pub(crate) async fn notify(connection: &mut PgConnection, channel: &str, payload: &str) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT pg_notify($1, $2) AS "done: _""#, channel, payload)
        .execute(connection)
        .await
        .map(drop)
}
