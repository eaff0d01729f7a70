//! What has ended and is not yet known to its dependents and parent.

use std::collections::HashMap;
use std::time::Duration;

use orca_proto::ids::TaskId;
use orca_proto::task::State;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{millis, word};

/// The advisory lock that one settler at a time, or a cancel of a tree, holds.
const LOCK: i64 = 7_024_430;

/// Something to settle.
pub(crate) struct Ended {
    pub(crate) seq: i64,
    /// Those who wait for it know of it up to this one.
    pub(crate) after: TaskId,
    pub(crate) id: TaskId,
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) parent: Option<TaskId>,
    pub(crate) parent_token: Option<i64>,
}

/// A task of which all that is under it is to be cancelled.
pub(crate) struct CancelChildren {
    pub(crate) seq: i64,
    /// What is under it is cancelled up to this one.
    pub(crate) after: TaskId,
    pub(crate) parent: TaskId,
}

/// What settling a batch starts from.
#[derive(Default)]
pub(crate) struct Batch {
    /// Its entries; some may be of tasks that are no more.
    pub(crate) seqs: Vec<i64>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) cancel_children: Vec<CancelChildren>,
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

/// The oldest entries, at most `most`; the settlement lock is held.
pub(crate) async fn take(connection: &mut PgConnection, most: i64) -> sqlx::Result<Batch> {
    let rows = sqlx::query!(
        r#"SELECT u.seq, u.kind, coalesce(u.after, '00000000-0000-0000-0000-000000000000') AS "after!", t.id AS "id?",
                  t.name AS "name?", t.state AS "state?", t.reason, t.parent, t.parent_token
           FROM orca.unsettled u LEFT JOIN orca.tasks t ON t.id = u.task
           WHERE u.not_before IS NULL OR u.not_before <= orca.now() ORDER BY u.seq LIMIT $1"#,
        most
    )
    .fetch_all(connection)
    .await?;
    let mut batch = Batch::default();
    for row in rows {
        batch.seqs.push(row.seq);
        let (Some(id), Some(name), Some(state)) = (row.id, row.name, row.state) else { continue };
        if row.kind == "ended" {
            batch.ended.push(Ended {
                seq: row.seq,
                after: TaskId(row.after),
                id: TaskId(id),
                name,
                state: word(&state, "tasks.state")?,
                reason: row.reason,
                parent: row.parent.map(TaskId),
                parent_token: row.parent_token,
            });
        } else {
            batch.cancel_children.push(CancelChildren {
                seq: row.seq,
                after: TaskId(row.after),
                parent: TaskId(id),
            });
        }
    }
    Ok(batch)
}

/// Removes entries that are settled.
pub(crate) async fn done(connection: &mut PgConnection, seqs: &[i64]) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM orca.unsettled WHERE seq = ANY($1)", seqs).execute(connection).await.map(drop)
}

/// Notes how far an entry is settled.
pub(crate) async fn settled_upto(connection: &mut PgConnection, seq: i64, after: TaskId) -> sqlx::Result<()> {
    sqlx::query!("UPDATE orca.unsettled SET after = $2 WHERE seq = $1", seq, after.0)
        .execute(connection)
        .await
        .map(drop)
}

/// Lets an entry rest for a while; answers its task, if it is still there.
pub(crate) async fn set_aside(
    connection: &mut PgConnection,
    seq: i64,
    rest: Duration,
) -> sqlx::Result<Option<TaskId>> {
    let task = sqlx::query_scalar!(
        r#"UPDATE orca.unsettled SET not_before = orca.now() + $2::bigint * interval '1 millisecond'
           WHERE seq = $1 RETURNING task"#,
        seq,
        millis(rest)
    )
    .fetch_optional(connection)
    .await?;
    Ok(task.map(TaskId))
}

/// The edges from the blocked tasks that wait for any of these, each from where it is not settled yet: task and what it
/// needs. Of each, and in all, the first `most`.
pub(crate) async fn edges(
    connection: &mut PgConnection,
    ended: &[Ended],
    most: i64,
) -> sqlx::Result<Vec<(TaskId, TaskId)>> {
    let (ids, afters): (Vec<Uuid>, Vec<Uuid>) = ended.iter().map(|ended| (ended.id.0, ended.after.0)).unzip();
    let rows = sqlx::query!(
        r#"SELECT d.task AS "task!", u.id AS "needs!" FROM unnest($1::uuid[], $2::uuid[]) AS u(id, after),
               LATERAL (SELECT d.task FROM orca.dependencies d WHERE d.needs = u.id AND d.open AND d.task > u.after
                        ORDER BY d.task LIMIT $3) d
           LIMIT $3"#,
        &ids,
        &afters,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (TaskId(row.task), TaskId(row.needs))).collect())
}

/// Which of these are blocked.
pub(crate) async fn blocked(connection: &mut PgConnection, ids: &[TaskId]) -> sqlx::Result<Vec<TaskId>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let ids = sqlx::query_scalar!("SELECT id FROM orca.tasks WHERE id = ANY($1) AND state = 'blocked'", &ids)
        .fetch_all(connection)
        .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// The first `fan` blocked tasks that wait for each of these: for each, which of them.
pub(crate) async fn dependents(
    connection: &mut PgConnection,
    ended: &[TaskId],
    fan: i64,
) -> sqlx::Result<HashMap<TaskId, Vec<TaskId>>> {
    let ended: Vec<Uuid> = ended.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT d.task AS "task!", u.id AS "needs!" FROM unnest($1::uuid[]) AS u(id),
               LATERAL (SELECT d.task FROM orca.dependencies d WHERE d.needs = u.id AND d.open
                        ORDER BY d.task LIMIT $2) d"#,
        &ended,
        fan
    )
    .fetch_all(connection)
    .await?;
    let mut dependents: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for row in rows {
        dependents.entry(TaskId(row.task)).or_default().push(TaskId(row.needs));
    }
    Ok(dependents)
}

/// What will be skipped because these tasks did not succeed, whatever else it waits for: blocked tasks behind them, near
/// and far, whose policy is to skip. Of what waits for one task the first `fan`, and at most `most` in all: the others are
/// found when those have ended.
///
/// Found together, so that a long chain is skipped by a few steps of the settler instead of one per link. The `OFFSET 0`
/// keeps each turn of the walk to the index, however many tasks there are beside the walk; `DISTINCT` keeps it from
/// looking at a task once for each of its edges.
pub(crate) async fn doomed(
    connection: &mut PgConnection,
    failed: &[TaskId],
    fan: i64,
    most: i64,
) -> sqlx::Result<Vec<TaskId>> {
    let failed: Vec<Uuid> = failed.iter().map(|id| id.0).collect();
    let ids = sqlx::query_scalar!(
        r#"WITH RECURSIVE doomed(id, blocked) AS (
               SELECT unnest($1::uuid[]), false
               UNION
               SELECT t.id, true FROM (
                   SELECT DISTINCT d.task FROM doomed x,
                       LATERAL (SELECT d.task FROM orca.dependencies d WHERE d.needs = x.id AND d.open
                                ORDER BY d.task LIMIT $2) d) s,
                   LATERAL (SELECT t.id FROM orca.tasks t WHERE t.id = s.task AND t.state = 'blocked'
                            AND coalesce(t.on_dependency_failure, 'skip') = 'skip' OFFSET 0) t)
           SELECT id AS "id!" FROM doomed WHERE blocked LIMIT $3"#,
        &failed,
        fan,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// The state and reason of each/// The state and reason of each of these tasks.
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
