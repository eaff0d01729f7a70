//! Reading tasks as the state machine wants them, locked for the change that follows.

use orca_proto::ids::TaskId;
use orca_proto::spec::Role;
use orca_proto::task::{State, Step};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{from_json, word};
use crate::lifecycle::Snapshot;

/// A locked task: what the state machine needs, and what its consequences need.
#[derive(Clone, Debug)]
pub(crate) struct Locked {
    pub(crate) id: TaskId,
    pub(crate) namespace: String,
    pub(crate) parent: Option<TaskId>,
    pub(crate) depth: i16,
    pub(crate) name: String,
    pub(crate) queue: String,
    pub(crate) fence: i64,
    pub(crate) rounds: i32,
    pub(crate) finish: Option<TaskId>,
    pub(crate) snapshot: Snapshot,
}

/// One row of a locking query, as it comes.
pub(crate) struct Row {
    id: Uuid,
    namespace: String,
    parent: Option<Uuid>,
    depth: i16,
    name: String,
    queue: String,
    fence: i64,
    rounds: i32,
    finish: Option<Uuid>,
    state: String,
    role: String,
    step: Option<String>,
    attempt: i32,
    attempts_used: i32,
    max_attempts: i32,
    runtime_errors: i32,
    started: bool,
    open_dependencies: i32,
    open_children: i32,
    child_failure: Option<String>,
    cancel_requested: bool,
    on_dependency_failure: String,
    on_child_failure: String,
    retry: Option<String>,
    early: bool,
}

/// Locks and reads these tasks, in the order of their ids; ids that do not exist are passed over.
pub(crate) async fn lock(connection: &mut PgConnection, ids: &[TaskId]) -> sqlx::Result<Vec<Locked>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT t.id, t.namespace, t.parent, t.depth, t.name, t.queue, t.fence, t.rounds, t.finish,
                  t.state, t.role, t.step, t.attempt, t.attempts_used, t.max_attempts, t.runtime_errors,
                  EXISTS (SELECT FROM orca.attempts a
                          WHERE a.task = t.id AND a.token = t.fence AND a.started_at IS NOT NULL) AS "started!",
                  t.open_dependencies, t.open_children, t.child_failure, t.cancel_requested,
                  t.on_dependency_failure, t.on_child_failure, t.retry::text,
                  coalesce(t.run_at > orca.now(), false) AS "early!"
           FROM orca.tasks t WHERE t.id = ANY($1) ORDER BY t.id FOR UPDATE OF t"#,
        &ids
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(locked).collect()
}

/// Locks and reads one task of a namespace.
pub(crate) async fn lock_one(
    connection: &mut PgConnection,
    namespace: &str,
    id: TaskId,
) -> sqlx::Result<Option<Locked>> {
    Ok(lock(connection, &[id]).await?.pop().filter(|task| task.namespace == namespace))
}

/// Locks and reads the open tasks directly under these, in the order of their ids.
pub(crate) async fn lock_open_children(
    connection: &mut PgConnection,
    parents: &[TaskId],
) -> sqlx::Result<Vec<Locked>> {
    let parents: Vec<Uuid> = parents.iter().map(|id| id.0).collect();
    let ids = sqlx::query_scalar!(
        r#"SELECT id FROM orca.tasks WHERE parent = ANY($1)
           AND state IN ('blocked', 'scheduled', 'ready', 'running', 'waiting')"#,
        &parents
    )
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<TaskId> = ids.into_iter().map(TaskId).collect();
    Ok(lock(connection, &ids).await?.into_iter().filter(|task| !task.snapshot.state.is_terminal()).collect())
}

fn locked(row: Row) -> sqlx::Result<Locked> {
    let snapshot = Snapshot {
        state: word::<State>(&row.state, "tasks.state")?,
        role: word::<Role>(&row.role, "tasks.role")?,
        step: row.step.as_deref().map(|step| word::<Step>(step, "tasks.step")).transpose()?,
        attempt: row.attempt,
        attempts_used: row.attempts_used,
        runtime_errors: row.runtime_errors,
        started: row.started,
        open_dependencies: row.open_dependencies,
        open_children: row.open_children,
        child_failure: row.child_failure,
        cancel_requested: row.cancel_requested,
        has_finish: row.finish.is_some(),
        on_dependency_failure: word(&row.on_dependency_failure, "tasks.on_dependency_failure")?,
        on_child_failure: word(&row.on_child_failure, "tasks.on_child_failure")?,
        retry: match &row.retry {
            Some(text) => from_json(text, "tasks.retry")?,
            None => orca_proto::spec::Retry { max_attempts: row.max_attempts, ..Default::default() },
        },
        early: row.early,
    };
    Ok(Locked {
        id: TaskId(row.id),
        namespace: row.namespace,
        parent: row.parent.map(TaskId),
        depth: row.depth,
        name: row.name,
        queue: row.queue,
        fence: row.fence,
        rounds: row.rounds,
        finish: row.finish.map(TaskId),
        snapshot,
    })
}
