//! Partitions by time: made ahead, dropped with all that is in them once it is old enough. The statements that make and drop
//! tables are in `migrations/0005_partitions.sql`.

use std::time::Duration;

use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use super::{Time, millis};

/// The advisory lock of whoever makes or drops partitions: one at a time.
const LOCK: i64 = 7_024_431;

/// A partition, and the ids that can be in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partition {
    pub(crate) starts: Time,
    /// The first id.
    pub(crate) from: Uuid,
    /// The first id after it.
    pub(crate) to: Uuid,
}

/// Takes the lock of whoever makes or drops partitions, until the transaction ends; answers false if another has it.
pub(crate) async fn lock(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "got!""#, LOCK).fetch_one(connection).await
}

/// Lets the statements of this transaction take as long as it takes to read a partition whole.
pub(crate) async fn take_time(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection.execute("SET LOCAL statement_timeout = '10min'").await.map(drop)
}

/// The first partition that is missing, one of `width`: there is to be one for now and one for what comes after it.
pub(crate) async fn missing(
    connection: &mut PgConnection,
    width: Duration,
) -> sqlx::Result<Option<(Time, Time)>> {
    let row = sqlx::query!(
        r#"WITH next AS (
               SELECT greatest((SELECT max(ends) FROM orca.partitions),
                               date_bin($1::bigint * interval '1 millisecond', orca.now(), 'epoch')) AS starts)
           SELECT starts AS "starts!: Time", starts + $1::bigint * interval '1 millisecond' AS "ends!: Time" FROM next
           WHERE starts <= orca.now() + $1::bigint * interval '1 millisecond'"#,
        millis(width)
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.starts, row.ends)))
}

/// Makes the partition of a time; answers false if there are tasks of that time already.
pub(crate) async fn make(connection: &mut PgConnection, starts: Time, ends: Time) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT orca.make_partition($1, $2) AS "made!""#, starts as Time, ends as Time)
        .fetch_one(connection)
        .await
}

/// The oldest partition that is to be looked at: it may be old enough.
pub(crate) async fn due(
    connection: &mut PgConnection,
    retention: Duration,
) -> sqlx::Result<Option<Partition>> {
    sqlx::query_as!(
        Partition,
        r#"SELECT starts AS "starts: Time", orca.id_at(starts) AS "from!", orca.id_at(ends) AS "to!" FROM orca.partitions
           WHERE dropped_at IS NULL AND ends <= orca.now() - $1::bigint * interval '1 millisecond'
             AND (look_at IS NULL OR look_at <= orca.now())
           ORDER BY starts LIMIT 1"#,
        millis(retention)
    )
    .fetch_optional(connection)
    .await
}

/// Whether a task in it is open or waits to be settled, or an open task elsewhere depends on one in it or has one under it.
pub(crate) async fn is_used(connection: &mut PgConnection, of: &Partition) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM orca.tasks WHERE id >= $1 AND id < $2 AND state IN ('blocked', 'waiting'))
               OR EXISTS (SELECT FROM orca.tasks WHERE id >= $1 AND id < $2 AND state = 'scheduled')
               OR EXISTS (SELECT FROM orca.unsettled WHERE task >= $1 AND task < $2)
               OR EXISTS (SELECT FROM orca.grants g, unnest(g.tasks) AS u(id)
                          WHERE g.open > 0 AND u.id >= $1 AND u.id < $2
                            AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = u.id))
               OR EXISTS (SELECT FROM orca.tasks w WHERE w.state = 'waiting' AND w.state IN ('blocked', 'waiting')
                            AND EXISTS (SELECT FROM orca.tasks c WHERE c.parent = w.id AND c.id >= $1 AND c.id < $2))
               OR EXISTS (SELECT FROM orca.grants g, unnest(g.special) AS w(id)
                          WHERE g.open > 0
                            AND EXISTS (SELECT FROM orca.tasks c WHERE c.parent = w.id AND c.id >= $1 AND c.id < $2))
               OR EXISTS (SELECT FROM orca.dependencies d JOIN orca.tasks t ON t.id = d.task
                          WHERE d.needs >= $1 AND d.needs < $2 AND NOT (d.task >= $1 AND d.task < $2)
                            AND t.finished_at IS NULL AND NOT EXISTS (SELECT FROM orca.done x WHERE x.task = t.id))
               OR EXISTS (SELECT FROM orca.segments s, unnest(s.tasks) AS u(id)
                          WHERE u.id >= $1 AND u.id < $2
                            AND EXISTS (SELECT FROM orca.tasks t WHERE t.id = u.id AND t.state = 'queued')
                            AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = u.id)) AS "used!""#,
        of.from,
        of.to
    )
    .fetch_one(connection)
    .await
}

/// Whether the last of its tasks to end did so long enough ago; where not, it is not looked at before that.
pub(crate) async fn is_old(
    connection: &mut PgConnection,
    of: &Partition,
    retention: Duration,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"WITH latest AS MATERIALIZED (
               SELECT greatest((SELECT max(finished_at) FROM orca.done WHERE task >= $1 AND task < $2),
                               (SELECT max(finished_at) FROM orca.tasks WHERE id >= $1 AND id < $2)) AS at)
           UPDATE orca.partitions SET look_at = l.at + $4::bigint * interval '1 millisecond' FROM latest l
           WHERE starts = $3 AND l.at > orca.now() - $4::bigint * interval '1 millisecond'"#,
        of.from,
        of.to,
        of.starts as Time,
        millis(retention)
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 0)
}

/// Notes that an open task keeps it; it is looked at again after `again`.
pub(crate) async fn keep(connection: &mut PgConnection, of: &Partition, again: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.partitions SET kept = true, look_at = orca.now() + $2::bigint * interval '1 millisecond'
           WHERE starts = $1"#,
        of.starts as Time,
        millis(again)
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Keeps tasks from being written to it or locked in it until the transaction ends.
pub(crate) async fn close(connection: &mut PgConnection, of: &Partition) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT orca.close_partition($1) AS "done: _""#, of.starts as Time)
        .execute(connection)
        .await
        .map(drop)
}

/// Drops it.
pub(crate) async fn drop_tables(connection: &mut PgConnection, of: &Partition) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT orca.drop_partition($1) AS "done: _""#, of.starts as Time)
        .execute(connection)
        .await
        .map(drop)
}

/// A partition that was dropped, but of whose tasks other tables still speak.
pub(crate) async fn dropped(connection: &mut PgConnection) -> sqlx::Result<Option<Partition>> {
    sqlx::query_as!(
        Partition,
        r#"SELECT starts AS "starts: Time", orca.id_at(starts) AS "from!", orca.id_at(ends) AS "to!" FROM orca.partitions
           WHERE dropped_at IS NOT NULL ORDER BY starts LIMIT 1 FOR UPDATE SKIP LOCKED"#
    )
    .fetch_optional(connection)
    .await
}

/// Forgets a dropped partition of which nothing speaks any more.
pub(crate) async fn forget(connection: &mut PgConnection, of: &Partition) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM orca.partitions WHERE starts = $1", of.starts as Time)
        .execute(connection)
        .await
        .map(drop)
}

/// Ranges of ids, of tasks older than `retention`, that are removed row by row: those without a partition of their own, and
/// those of partitions that an open task keeps.
pub(crate) async fn row_by_row(
    connection: &mut PgConnection,
    retention: Duration,
) -> sqlx::Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        r#"WITH old AS (SELECT orca.now() - $1::bigint * interval '1 millisecond' AS until),
           known AS (SELECT starts, ends, kept FROM orca.partitions WHERE dropped_at IS NULL),
           ranges AS (
               SELECT coalesce(lag(ends) OVER (ORDER BY starts), 'epoch') AS starts, starts AS ends FROM known
               UNION ALL SELECT coalesce((SELECT max(ends) FROM known), 'epoch'), 'infinity'
               UNION ALL SELECT starts, ends FROM known WHERE kept)
           SELECT orca.id_at(starts) AS "from!", orca.id_at(least(ends, until)) AS "to!" FROM ranges, old
           WHERE starts < least(ends, until) ORDER BY starts"#,
        millis(retention)
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.from, row.to)).collect())
}
