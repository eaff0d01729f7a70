//! Unique keys: at most one open task of a namespace has each.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use sqlx::PgConnection;
use uuid::Uuid;

/// A key that a task is to have.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: String,
    pub(crate) task: TaskId,
    /// Given back when the task is granted, instead of when it ends.
    pub(crate) queued: bool,
}

/// Takes these keys, each for its task unless another has it; answers for each key whose it is. The keys stay as they are
/// until the transaction ends.
pub(crate) async fn take(
    connection: &mut PgConnection,
    namespace: &str,
    wanted: &[Wanted],
) -> sqlx::Result<HashMap<String, TaskId>> {
    let keys: Vec<String> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
    let tasks: Vec<Uuid> = wanted.iter().map(|wanted| wanted.task.0).collect();
    let queued: Vec<bool> = wanted.iter().map(|wanted| wanted.queued).collect();
    // In order, so that two transactions that want the same keys do not wait for each other in a circle. The update changes
    // nothing: it locks the key of another task, which so can neither be given back nor missed.
    let rows = sqlx::query!(
        r#"INSERT INTO orca.unique_keys AS k (namespace, key, task, queued)
           SELECT $1, u.key, u.task, u.queued FROM unnest($2::text[], $3::uuid[], $4::bool[]) AS u(key, task, queued)
           ORDER BY u.key
           ON CONFLICT (namespace, key) DO UPDATE SET task = k.task RETURNING k.key, k.task"#,
        namespace,
        &keys,
        &tasks,
        &queued
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, TaskId(row.task))).collect())
}

/// Who has these keys, and whether they are given back when the task is granted. Locks nothing: see [`take`].
pub(crate) async fn holders(
    connection: &mut PgConnection,
    namespace: &str,
    keys: &[String],
) -> sqlx::Result<HashMap<String, (TaskId, bool)>> {
    let rows = sqlx::query!(
        "SELECT key, task, queued FROM orca.unique_keys WHERE namespace = $1 AND key = ANY($2)",
        namespace,
        keys
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, (TaskId(row.task), row.queued))).collect())
}

/// Gives back the keys of these tasks, in the order in which [`take`] takes them.
pub(crate) async fn free(connection: &mut PgConnection, tasks: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"WITH mine AS MATERIALIZED (SELECT namespace, key FROM orca.unique_keys WHERE task = ANY($1)
                                      ORDER BY namespace, key FOR UPDATE)
           DELETE FROM orca.unique_keys k USING mine m WHERE k.namespace = m.namespace AND k.key = m.key"#,
        tasks
    )
    .execute(connection)
    .await
    .map(drop)
}
