//! Forgetting what ended long ago: whole trees, bottom first, in bounded batches.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::millis;

/// Roots of trees, with ids from `range`, the first first, that ended so long ago and that no open task depends on: it is to get their results.
/// Locked, so that none comes to depend on them meanwhile; those that another coordinator works on are passed over.
pub(crate) async fn old_roots(
    connection: &mut PgConnection,
    range: (Uuid, Uuid),
    retention: Duration,
    most: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"SELECT r.id FROM orca.tasks r LEFT JOIN orca.done e ON e.task = r.id
           WHERE r.id >= $3 AND r.id < $4
             AND (r.parent IS NULL OR NOT EXISTS (SELECT FROM orca.tasks p WHERE p.id = r.parent))
             AND coalesce(e.finished_at, r.finished_at) < orca.now() - $1::bigint * interval '1 millisecond'
             AND NOT EXISTS (SELECT FROM orca.dependencies d JOIN orca.tasks t ON t.id = d.task
                             WHERE d.needs = r.id AND t.finished_at IS NULL
                               AND NOT EXISTS (SELECT FROM orca.done x WHERE x.task = t.id))
           ORDER BY r.id LIMIT $2 FOR UPDATE OF r SKIP LOCKED"#,
        millis(retention),
        most,
        range.0,
        range.1
    )
    .fetch_all(connection)
    .await
}

/// At most `most` tasks of these trees, the deepest first; none of a tree in which anything is still open or waits to be
/// settled, or on which an open task outside depends.
pub(crate) async fn deepest(
    connection: &mut PgConnection,
    roots: &[Uuid],
    most: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"WITH RECURSIVE tree AS (
               SELECT id AS root, id, depth, finished_at FROM orca.tasks WHERE id = ANY($1)
               UNION ALL
               SELECT r.root, t.id, t.depth, t.finished_at FROM orca.tasks t JOIN tree r ON t.parent = r.id),
           open AS (SELECT root, id FROM tree WHERE finished_at IS NULL),
           busy AS (SELECT root FROM open o WHERE NOT EXISTS (SELECT FROM orca.done x WHERE x.task = o.id)
                    UNION SELECT root FROM tree r JOIN orca.unsettled u ON u.task = r.id
                    UNION SELECT root FROM tree r JOIN orca.dependencies d ON d.needs = r.id
                          JOIN orca.tasks t ON t.id = d.task
                          WHERE t.finished_at IS NULL AND NOT EXISTS (SELECT FROM orca.done x WHERE x.task = t.id))
           SELECT id AS "id!" FROM tree WHERE root NOT IN (SELECT root FROM busy) ORDER BY depth DESC, id LIMIT $2"#,
        roots,
        most
    )
    .fetch_all(connection)
    .await
}

/// Forgets these tasks and all that belongs to them. Artifacts that another task has as an input stay, as uploads.
pub(crate) async fn forget(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<u64> {
    sqlx::query!("DELETE FROM orca.inputs WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!(
        r#"UPDATE orca.artifacts a SET task = NULL, token = NULL
           WHERE a.task = ANY($1) AND EXISTS (SELECT FROM orca.inputs i WHERE i.artifact = a.id)"#,
        ids
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"WITH gone AS (DELETE FROM orca.artifacts WHERE task = ANY($1) RETURNING sha256)
           INSERT INTO orca.blob_garbage (sha256) SELECT DISTINCT sha256 FROM gone ON CONFLICT DO NOTHING"#,
        ids
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("DELETE FROM orca.log_chunks WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM orca.attempts WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM orca.timers WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM orca.gates WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM orca.signals WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM orca.done WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM orca.dependencies WHERE task = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM orca.dependencies WHERE needs = ANY($1)", ids)
        .execute(&mut *connection)
        .await?;
    let done = sqlx::query!("DELETE FROM orca.tasks WHERE id = ANY($1)", ids).execute(connection).await?;
    Ok(done.rows_affected())
}

/// Forgets uploads so old that no task has as an input, at most `most`.
pub(crate) async fn forget_uploads(
    connection: &mut PgConnection,
    retention: Duration,
    most: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"WITH old AS (
               SELECT id FROM orca.artifacts a WHERE task IS NULL
                 AND created_at < orca.now() - $1::bigint * interval '1 millisecond'
                 AND NOT EXISTS (SELECT FROM orca.inputs i WHERE i.artifact = a.id)
               ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED),
           gone AS (DELETE FROM orca.artifacts WHERE id IN (SELECT id FROM old) RETURNING sha256)
           INSERT INTO orca.blob_garbage (sha256) SELECT DISTINCT sha256 FROM gone ON CONFLICT DO NOTHING"#,
        millis(retention),
        most
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets events so old, at most `most`, oldest first.
pub(crate) async fn forget_events(
    connection: &mut PgConnection,
    retention: Duration,
    most: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"DELETE FROM orca.events WHERE (xid, seq) IN (
               SELECT xid, seq FROM (SELECT xid, seq, at FROM orca.events ORDER BY xid, seq LIMIT $2) oldest
               WHERE at < orca.now() - $1::bigint * interval '1 millisecond')"#,
        millis(retention),
        most
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
