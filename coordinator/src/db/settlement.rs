//! What has ended and is not yet known to its dependents and parent.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::task::State;
use sqlx::PgConnection;
use uuid::Uuid;

use super::word;

/// The advisory lock that one settler at a time, or a cancel of a tree, holds.
const LOCK: i64 = 7_024_430;

/// Something to settle.
pub(crate) struct Ended {
    pub(crate) id: TaskId,
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) parent: Option<TaskId>,
    pub(crate) parent_token: Option<i64>,
}

/// What settling a batch starts from.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) ended: Vec<Ended>,
    pub(crate) cancel_children: Vec<TaskId>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.cancel_children.is_empty()
    }
}

/// Waits until nobody else changes what hangs together, until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT pg_advisory_xact_lock($1) AS "done: _""#, LOCK).execute(connection).await.map(drop)
}

/// Notes that tasks ended, where somebody waits for that; answers whether anybody does. The tasks are locked.
pub(crate) async fn ended(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"INSERT INTO orca.unsettled (task, kind)
           SELECT id, 'ended' FROM orca.tasks t WHERE id = ANY($1)
             AND (parent IS NOT NULL OR EXISTS (SELECT FROM orca.dependencies d WHERE d.needs = t.id AND d.open))
           ORDER BY id"#,
        ids
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Notes that what is under these tasks is to be cancelled.
pub(crate) async fn cancel_children(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO orca.unsettled (task, kind) SELECT id, 'cancel_children' FROM unnest($1::uuid[]) AS u(id)",
        ids
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Takes the oldest entries, at most `most`; the settlement lock is held.
pub(crate) async fn take(connection: &mut PgConnection, most: i64) -> sqlx::Result<Batch> {
    let rows = sqlx::query!(
        r#"WITH taken AS (
               DELETE FROM orca.unsettled WHERE seq IN (SELECT seq FROM orca.unsettled ORDER BY seq LIMIT $1)
               RETURNING seq, task, kind)
           SELECT k.kind, t.id, t.name, t.state, t.reason, t.parent, t.parent_token
           FROM taken k JOIN orca.tasks t ON t.id = k.task ORDER BY k.seq"#,
        most
    )
    .fetch_all(connection)
    .await?;
    let mut batch = Batch::default();
    for row in rows {
        if row.kind == "ended" {
            batch.ended.push(Ended {
                id: TaskId(row.id),
                name: row.name,
                state: word(&row.state, "tasks.state")?,
                reason: row.reason,
                parent: row.parent.map(TaskId),
                parent_token: row.parent_token,
            });
        } else {
            batch.cancel_children.push(TaskId(row.id));
        }
    }
    Ok(batch)
}

/// The blocked tasks that wait for any of these: for each, which of them.
pub(crate) async fn dependents(
    connection: &mut PgConnection,
    ended: &[TaskId],
) -> sqlx::Result<HashMap<TaskId, Vec<TaskId>>> {
    let ended: Vec<Uuid> = ended.iter().map(|id| id.0).collect();
    let rows =
        sqlx::query!("SELECT task, needs FROM orca.dependencies WHERE needs = ANY($1) AND open", &ended)
            .fetch_all(connection)
            .await?;
    let mut dependents: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for row in rows {
        dependents.entry(TaskId(row.task)).or_default().push(TaskId(row.needs));
    }
    Ok(dependents)
}

/// Everything that will be skipped because these tasks did not succeed, whatever else it waits for: the blocked tasks
/// behind them, near and far, whose policy is to skip.
///
/// Found as a whole, so that a chain of any length is skipped by one step of the settler instead of one per link. The
/// `OFFSET 0` keep each turn of the walk to the indexes, however many tasks there are beside the walk.
pub(crate) async fn doomed(connection: &mut PgConnection, failed: &[TaskId]) -> sqlx::Result<Vec<TaskId>> {
    let failed: Vec<Uuid> = failed.iter().map(|id| id.0).collect();
    let ids = sqlx::query_scalar!(
        r#"WITH RECURSIVE doomed(id, blocked) AS (
               SELECT unnest($1::uuid[]), false
               UNION
               SELECT t.id, true FROM doomed x,
                   LATERAL (SELECT d.task FROM orca.dependencies d WHERE d.needs = x.id AND d.open OFFSET 0) d,
                   LATERAL (SELECT t.id FROM orca.tasks t WHERE t.id = d.task AND t.state = 'blocked'
                            AND coalesce(t.on_dependency_failure, 'skip') = 'skip' OFFSET 0) t)
           SELECT id AS "id!" FROM doomed WHERE blocked"#,
        &failed
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// The state and reason of each of these tasks.
pub(crate) async fn ends(
    connection: &mut PgConnection,
    ids: &[TaskId],
) -> sqlx::Result<HashMap<TaskId, (State, Option<String>)>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", state AS "state!", reason FROM orca.task_now WHERE id = ANY($1)"#,
        &ids
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok((TaskId(row.id), (word(&row.state, "tasks.state")?, row.reason)))).collect()
}

/// Waiting tasks, with tasks under them of which none is open, that no entry speaks of: there should be none. Notes the last of what is
/// under them again, so that they are settled; answers how many. The settlement lock is held.
pub(crate) async fn repair(connection: &mut PgConnection, most: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"WITH stuck AS (
               SELECT p.id FROM orca.tasks p WHERE p.state = 'waiting' AND p.state IN ('blocked', 'waiting')
                 AND EXISTS (SELECT FROM orca.tasks c WHERE c.parent = p.id)
                 AND NOT EXISTS (SELECT FROM orca.tasks c WHERE c.parent = p.id
                                 AND c.state IN ('blocked', 'scheduled', 'queued', 'waiting'))
                 AND NOT EXISTS (SELECT FROM orca.unsettled u JOIN orca.tasks c ON c.id = u.task
                                 WHERE c.parent = p.id)
               ORDER BY p.id LIMIT $1),
           fixed AS (UPDATE orca.tasks t SET open_children = 1 FROM stuck s WHERE t.id = s.id RETURNING t.id)
           INSERT INTO orca.unsettled (task, kind)
           SELECT (SELECT c.id FROM orca.tasks c WHERE c.parent = f.id ORDER BY c.id DESC LIMIT 1), 'ended' FROM fixed f"#,
        most
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
