//! Unique keys: at most one open task of a namespace has each.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use sqlx::PgConnection;
use uuid::Uuid;

/// How often a key that was given back in between is tried for again.
const TRIES: usize = 100;

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
    for _ in 0..TRIES {
        // In order, so that two transactions that want the same keys do not wait for each other in a circle.
        sqlx::query!(
            r#"INSERT INTO orca.unique_keys (namespace, key, task, queued)
               SELECT $1, u.key, u.task, u.queued FROM unnest($2::text[], $3::uuid[], $4::bool[]) AS u(key, task, queued)
               ORDER BY u.key ON CONFLICT DO NOTHING"#,
            namespace,
            &keys,
            &tasks,
            &queued
        )
        .execute(&mut *connection)
        .await?;
        let rows = sqlx::query!(
            r#"SELECT key, task FROM orca.unique_keys WHERE namespace = $1 AND key = ANY($2) ORDER BY key FOR SHARE"#,
            namespace,
            &keys
        )
        .fetch_all(&mut *connection)
        .await?;
        // A key that another task had may have been given back in between: then nobody has it yet.
        if rows.len() == keys.len() {
            return Ok(rows.into_iter().map(|row| (row.key, TaskId(row.task))).collect());
        }
    }
    Err(sqlx::Error::Protocol(
        "a unique key was given back again and again while it was asked for".to_owned(),
    ))
}

/// Gives back the keys of these tasks.
pub(crate) async fn free(connection: &mut PgConnection, tasks: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM orca.unique_keys WHERE task = ANY($1)", tasks)
        .execute(connection)
        .await
        .map(drop)
}
