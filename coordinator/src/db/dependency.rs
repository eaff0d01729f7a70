//! The graph: what depends on what, and what a task may depend on.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::task::State;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{lease, snapshot};

/// A task that others want to depend on.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
}

/// Those of these tasks that the namespace has, kept from ending until the transaction does. From now on more follows from
/// their end.
pub(crate) async fn targets(
    connection: &mut PgConnection,
    namespace: &str,
    ids: &[TaskId],
) -> sqlx::Result<HashMap<TaskId, Target>> {
    let mut targets = HashMap::new();
    let (mut open, mut running) = (Vec::new(), Vec::new());
    let mut reasons = reasons(connection, namespace, ids).await?;
    for task in snapshot::lock_named(connection, namespace, ids).await? {
        let state = task.snapshot.state;
        if !state.is_terminal() {
            open.push(task.id.0);
        }
        if state == State::Running {
            running.push(task.lease());
        }
        let reason = reasons.remove(&task.id).flatten();
        targets.insert(task.id, Target { name: task.name, state, reason });
    }
    if !open.is_empty() {
        sqlx::query!("UPDATE orca.tasks SET plain = false WHERE id = ANY($1) AND plain", &open)
            .execute(&mut *connection)
            .await?;
    }
    if !running.is_empty() {
        lease::make_special(connection, &running).await?;
    }
    Ok(targets)
}

async fn reasons(
    connection: &mut PgConnection,
    namespace: &str,
    ids: &[TaskId],
) -> sqlx::Result<HashMap<TaskId, Option<String>>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        "SELECT id, reason FROM orca.tasks WHERE id = ANY($1) AND namespace = $2 ORDER BY id FOR UPDATE",
        &ids,
        namespace
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (TaskId(row.id), row.reason)).collect())
}

/// Whether a task under `parent` that waited for any of `targets` could wait for itself: one of them is `parent` or above
/// it, or waits, through its dependencies or the tasks under it, for one that is.
pub(crate) async fn would_wait_for_itself(
    connection: &mut PgConnection,
    parent: TaskId,
    targets: &[TaskId],
) -> sqlx::Result<bool> {
    let targets: Vec<Uuid> = targets.iter().map(|id| id.0).collect();
    sqlx::query_scalar!(
        r#"WITH RECURSIVE above AS (
               SELECT id, parent FROM orca.tasks WHERE id = $1
               UNION SELECT t.id, t.parent FROM orca.tasks t JOIN above a ON t.id = a.parent),
           waits(id) AS (
               SELECT unnest($2::uuid[])
               UNION
               SELECT n.id FROM waits w, LATERAL (
                   SELECT d.needs AS id FROM orca.dependencies d WHERE d.task = w.id AND d.open
                   UNION ALL
                   SELECT c.id FROM orca.tasks c WHERE c.parent = w.id
                     AND c.state IN ('blocked', 'scheduled', 'queued', 'waiting')) n)
           SELECT EXISTS (SELECT FROM waits w JOIN above a ON a.id = w.id) AS "found!""#,
        parent.0,
        &targets
    )
    .fetch_one(connection)
    .await
}

/// What a task depends on, by enqueue order.
pub(crate) async fn of_task(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<Vec<TaskId>> {
    let ids =
        sqlx::query_scalar!("SELECT needs FROM orca.dependencies WHERE task = $1 ORDER BY needs", task.0)
            .fetch_all(connection)
            .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// What each of these tasks depends on, by enqueue order.
pub(crate) async fn of_tasks(
    connection: &mut PgConnection,
    tasks: &[Uuid],
) -> sqlx::Result<HashMap<Uuid, Vec<TaskId>>> {
    let rows =
        sqlx::query!("SELECT task, needs FROM orca.dependencies WHERE task = ANY ($1) ORDER BY needs", tasks)
            .fetch_all(connection)
            .await?;
    let mut needs: HashMap<Uuid, Vec<TaskId>> = HashMap::new();
    for row in rows {
        needs.entry(row.task).or_default().push(TaskId(row.needs));
    }
    Ok(needs)
}

/// A dependency that has ended, as its dependent sees it.
pub(crate) struct Settled {
    pub(crate) id: Uuid,
    pub(crate) key: Option<String>,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) result: Option<String>,
}

/// The ended tasks that `task` depends on: for a finish step all the tasks under `goal` but finish steps.
pub(crate) async fn settled(
    connection: &mut PgConnection,
    task: TaskId,
    goal: Option<TaskId>,
) -> sqlx::Result<Vec<Settled>> {
    sqlx::query_as!(
        Settled,
        r#"SELECT t.id AS "id!", t.key, t.name AS "name!", t.state AS "state!", t.reason,
                  CASE WHEN t.state = 'succeeded' THEN t.result END AS result
           FROM orca.dependencies d JOIN orca.task_now t ON t.id = d.needs WHERE d.task = $1
           UNION ALL
           SELECT t.id, t.key, t.name, t.state, t.reason, CASE WHEN t.state = 'succeeded' THEN t.result END
           FROM orca.tasks t WHERE t.parent = $2 AND t.step IS DISTINCT FROM 'finish'
             AND t.state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped')
           ORDER BY 1"#,
        task.0,
        goal.map(|goal| goal.0)
    )
    .fetch_all(connection)
    .await
}

/// Bytes that the results of [`settled`] take together.
pub(crate) async fn settled_bytes(
    connection: &mut PgConnection,
    task: TaskId,
    goal: Option<TaskId>,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(sum(octet_length(coalesce(e.result, t.result))), 0)::bigint AS "bytes!"
           FROM orca.tasks t LEFT JOIN orca.done e ON e.task = t.id
           WHERE t.id IN (SELECT needs FROM orca.dependencies WHERE task = $1
                          UNION ALL SELECT c.id FROM orca.tasks c WHERE c.parent = $2
                            AND c.step IS DISTINCT FROM 'finish')"#,
        task.0,
        goal.map(|goal| goal.0)
    )
    .fetch_one(connection)
    .await
}
