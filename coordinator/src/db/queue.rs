//! The queue proper: entries that wait for a node, and their grants.

use std::time::Duration;

use orca_proto::ids::{NodeId, TaskId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::millis;

/// What was granted.
pub(crate) struct Granted {
    pub(crate) id: Uuid,
    pub(crate) token: i64,
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    pub(crate) step: Option<String>,
    pub(crate) parent: Option<Uuid>,
    pub(crate) has_dependencies: bool,
    pub(crate) spec: String,
}

/// Puts tasks that are `ready` in line, in the order of their ids.
pub(crate) async fn push(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.ready (task, namespace, role, queue, priority, expires_at)
           SELECT id, namespace, role, queue, priority,
                  orca.now() + schedule_to_start_ms * interval '1 millisecond'
           FROM orca.tasks WHERE id = ANY($1) ORDER BY id"#,
        ids
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Takes tasks out of line.
pub(crate) async fn remove(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM orca.ready WHERE task = ANY($1)", ids).execute(connection).await.map(drop)
}

/// Locks at most `most` entries in order and answers their tasks that are free to be granted. Never waits for a lock:
/// who holds an entry may wait for nobody.
pub(crate) async fn pick(
    connection: &mut PgConnection,
    namespace: &str,
    role: &str,
    queues: &[String],
    most: i64,
) -> sqlx::Result<Vec<Uuid>> {
    let picked = sqlx::query_scalar!(
        r#"SELECT task FROM orca.ready
           WHERE namespace = $1 AND role = $2 AND (cardinality($3::text[]) = 0 OR queue = ANY($3))
             AND (expires_at IS NULL OR expires_at > orca.now())
           ORDER BY priority DESC, seq LIMIT $4 FOR UPDATE SKIP LOCKED"#,
        namespace,
        role,
        queues,
        most
    )
    .fetch_all(&mut *connection)
    .await?;
    if picked.is_empty() {
        return Ok(picked);
    }
    let free = sqlx::query_scalar!(
        "SELECT id FROM orca.tasks WHERE id = ANY($1) AND state = 'ready' ORDER BY id FOR UPDATE SKIP LOCKED",
        &picked
    )
    .fetch_all(connection)
    .await?;
    let free: std::collections::HashSet<Uuid> = free.into_iter().collect();
    Ok(picked.into_iter().filter(|id| free.contains(id)).collect())
}

/// Grants picked tasks to a node: entry out, state `running`, fence up by one, lease, attempt, event.
pub(crate) async fn grant(
    connection: &mut PgConnection,
    ids: &[Uuid],
    node: NodeId,
    node_name: &str,
    lease: Duration,
) -> sqlx::Result<Vec<Granted>> {
    sqlx::query_as!(
        Granted,
        r#"WITH taken AS (
               DELETE FROM orca.ready WHERE task = ANY($1)),
           granted AS (
               UPDATE orca.tasks t SET state = 'running', fence = t.fence + 1, attempt = t.attempts_used + 1,
                   child_failure = NULL, progress = NULL, progress_event_at = NULL,
                   started_at = coalesce(t.started_at, orca.now())
               WHERE t.id = ANY($1)
               RETURNING t.id, t.namespace, t.parent, t.fence, t.attempt, t.max_attempts, t.step, t.spec),
           leased AS (
               INSERT INTO orca.leases (task, token, node, expires_at)
               SELECT id, fence, $2, orca.now() + $4::bigint * interval '1 millisecond' FROM granted),
           attempted AS (
               INSERT INTO orca.attempts (task, token, number, node, node_name, granted_at)
               SELECT id, fence, attempt, $2, $3, orca.now() FROM granted),
           told AS (
               INSERT INTO orca.events (namespace, task, parent, kind, state, attempt, token, node)
               SELECT namespace, id, parent, 'orca.task.state', 'running', attempt, fence, $2 FROM granted)
           SELECT g.id, g.fence AS token, g.attempt, g.max_attempts, g.step, g.parent,
                  (coalesce(g.step = 'finish', false)
                   OR EXISTS (SELECT FROM orca.dependencies d WHERE d.task = g.id)) AS "has_dependencies!",
                  g.spec::text AS "spec!"
           FROM granted g"#,
        ids,
        node.0,
        node_name,
        millis(lease)
    )
    .fetch_all(connection)
    .await
}

/// Whether something waits in a lane.
pub(crate) async fn has_ready(
    connection: &mut PgConnection,
    namespace: &str,
    role: &str,
    queues: &[String],
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM orca.ready WHERE namespace = $1 AND role = $2
           AND (cardinality($3::text[]) = 0 OR queue = ANY($3))) AS "found!""#,
        namespace,
        role,
        queues
    )
    .fetch_one(connection)
    .await
}

/// Entries whose tasks no node took in time. Locks nothing: the caller locks the tasks and asks [`still_expired`].
pub(crate) async fn expired(connection: &mut PgConnection, most: i64) -> sqlx::Result<Vec<TaskId>> {
    let ids = sqlx::query_scalar!(
        "SELECT task FROM orca.ready WHERE expires_at <= orca.now() ORDER BY expires_at LIMIT $1",
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// Which of these are still in line, past their time.
pub(crate) async fn still_expired(
    connection: &mut PgConnection,
    ids: &[TaskId],
) -> sqlx::Result<Vec<TaskId>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let ids = sqlx::query_scalar!(
        "SELECT task FROM orca.ready WHERE task = ANY($1) AND expires_at <= orca.now()",
        &ids
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// A lane in which scheduled tasks became ready.
pub(crate) struct Woken {
    pub(crate) namespace: String,
    pub(crate) role: String,
    pub(crate) queue: String,
}

/// Makes scheduled tasks whose time has come ready; answers their lanes, one per task.
pub(crate) async fn wake_due(connection: &mut PgConnection, most: i64) -> sqlx::Result<Vec<Woken>> {
    let due = sqlx::query_scalar!(
        r#"SELECT id FROM orca.tasks WHERE state = 'scheduled' AND run_at <= orca.now() ORDER BY run_at LIMIT $1
           FOR UPDATE SKIP LOCKED"#,
        most
    )
    .fetch_all(&mut *connection)
    .await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let lanes = sqlx::query_as!(
        Woken,
        r#"UPDATE orca.tasks SET state = 'ready' WHERE id = ANY($1) RETURNING namespace, role, queue"#,
        &due
    )
    .fetch_all(&mut *connection)
    .await?;
    push(connection, &due).await?;
    super::event::states(connection, &due).await?;
    Ok(lanes)
}

/// When the next scheduled task is due, as milliseconds from now: nothing where none is scheduled, negative where it is late.
pub(crate) async fn next_due_ms(connection: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"SELECT ceil(extract(epoch FROM (min(run_at) - orca.now())) * 1000)::bigint AS "ms"
           FROM orca.tasks WHERE state = 'scheduled'"#
    )
    .fetch_one(connection)
    .await
}

/// Open tasks by state: from the hot tables and the narrow indexes, not from the tasks themselves.
pub(crate) async fn open_counts(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT 'ready' AS "state!", count(*) AS "count!" FROM orca.ready
           UNION ALL SELECT 'running', count(*) FROM orca.leases
           UNION ALL SELECT 'scheduled', count(*) FROM orca.tasks WHERE state = 'scheduled'
           UNION ALL SELECT 'blocked', count(*) FROM orca.tasks WHERE state = 'blocked' AND state IN ('blocked', 'waiting')
           UNION ALL SELECT 'waiting', count(*) FROM orca.tasks WHERE state = 'waiting' AND state IN ('blocked', 'waiting')"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.state, row.count)).collect())
}
