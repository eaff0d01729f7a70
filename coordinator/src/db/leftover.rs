//! What other tables say of tasks that went with their partition.
//!
//! Each statement removes a bounded number of rows, found by the range of ids. A task that came late, under an id of that
//! time, is in the default partition and keeps what is its own.

use sqlx::PgConnection;

use super::partition::Partition;

/// Removes about `most` rows of each table; answers how many that were. Artifacts that another task has as an input stay, as
/// uploads; the inputs of schedules, which are no tasks, stay too.
pub(crate) async fn forget(connection: &mut PgConnection, of: &Partition, most: i64) -> sqlx::Result<u64> {
    let mut rows = graph(connection, of, most).await?;
    rows += waits(connection, of, most).await?;
    if rows == 0 {
        // Only when no input of theirs is left: an artifact stays for as long as somebody has it as one.
        rows = artifacts(connection, of, most).await?;
    }
    Ok(rows)
}

async fn graph(connection: &mut PgConnection, of: &Partition, most: i64) -> sqlx::Result<u64> {
    let forward = sqlx::query!(
        r#"DELETE FROM orca.dependencies WHERE (task, needs) IN (
               SELECT x.task, x.needs FROM orca.dependencies x WHERE x.task >= $1 AND x.task < $2
                 AND NOT EXISTS (SELECT FROM orca.tasks t WHERE t.id = x.task) LIMIT $3)"#,
        of.from,
        of.to,
        most
    )
    .execute(&mut *connection)
    .await?;
    let backward = sqlx::query!(
        r#"DELETE FROM orca.dependencies WHERE (task, needs) IN (
               SELECT x.task, x.needs FROM orca.dependencies x WHERE x.needs >= $1 AND x.needs < $2
                 AND NOT EXISTS (SELECT FROM orca.tasks t WHERE t.id = x.needs) LIMIT $3)"#,
        of.from,
        of.to,
        most
    )
    .execute(&mut *connection)
    .await?;
    let inputs = sqlx::query!(
        r#"DELETE FROM orca.inputs WHERE (artifact, task) IN (
               SELECT x.artifact, x.task FROM orca.inputs x WHERE x.task >= $1 AND x.task < $2
                 AND NOT EXISTS (SELECT FROM orca.tasks t WHERE t.id = x.task)
                 AND NOT EXISTS (SELECT FROM orca.schedules s WHERE s.id = x.task) LIMIT $3)"#,
        of.from,
        of.to,
        most
    )
    .execute(connection)
    .await?;
    Ok(forward.rows_affected() + backward.rows_affected() + inputs.rows_affected())
}

async fn waits(connection: &mut PgConnection, of: &Partition, most: i64) -> sqlx::Result<u64> {
    let done = sqlx::query_scalar!(
        r#"WITH gone AS MATERIALIZED (
               SELECT DISTINCT x.task FROM (
                   (SELECT task FROM orca.gates WHERE task >= $1 AND task < $2 LIMIT $3)
                   UNION ALL (SELECT task FROM orca.timers WHERE task >= $1 AND task < $2 LIMIT $3)
                   UNION ALL (SELECT task FROM orca.signals WHERE task >= $1 AND task < $2 LIMIT $3)
                   UNION ALL (SELECT task FROM orca.unique_keys WHERE task >= $1 AND task < $2 LIMIT $3)) x
               WHERE NOT EXISTS (SELECT FROM orca.tasks t WHERE t.id = x.task)),
           gates AS (DELETE FROM orca.gates WHERE task IN (SELECT task FROM gone)),
           timers AS (DELETE FROM orca.timers WHERE task IN (SELECT task FROM gone)),
           signals AS (DELETE FROM orca.signals WHERE task IN (SELECT task FROM gone)),
           keys AS (DELETE FROM orca.unique_keys WHERE task IN (SELECT task FROM gone))
           SELECT count(*) AS "count!" FROM gone"#,
        of.from,
        of.to,
        most
    )
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(done).unwrap_or_default())
}

async fn artifacts(connection: &mut PgConnection, of: &Partition, most: i64) -> sqlx::Result<u64> {
    let kept = sqlx::query!(
        r#"UPDATE orca.artifacts SET task = NULL, token = NULL WHERE id IN (
               SELECT x.id FROM orca.artifacts x WHERE x.task >= $1 AND x.task < $2
                 AND NOT EXISTS (SELECT FROM orca.tasks t WHERE t.id = x.task)
                 AND EXISTS (SELECT FROM orca.inputs i WHERE i.artifact = x.id) LIMIT $3)"#,
        of.from,
        of.to,
        most
    )
    .execute(&mut *connection)
    .await?;
    let gone = sqlx::query_scalar!(
        r#"WITH gone AS (
               DELETE FROM orca.artifacts WHERE id IN (
                   SELECT x.id FROM orca.artifacts x WHERE x.task >= $1 AND x.task < $2
                     AND NOT EXISTS (SELECT FROM orca.tasks t WHERE t.id = x.task)
                     AND NOT EXISTS (SELECT FROM orca.inputs i WHERE i.artifact = x.id) LIMIT $3)
               RETURNING sha256),
           noted AS (
               INSERT INTO orca.blob_garbage (sha256) SELECT DISTINCT sha256 FROM gone ON CONFLICT DO NOTHING)
           SELECT count(*) AS "count!" FROM gone"#,
        of.from,
        of.to,
        most
    )
    .fetch_one(connection)
    .await?;
    Ok(kept.rows_affected() + u64::try_from(gone).unwrap_or_default())
}
