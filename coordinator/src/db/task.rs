//! Reading tasks for people.

use std::collections::{BTreeMap, HashMap};

use orca_proto::ids::TaskId;
use orca_proto::spec::NewTask;
use orca_proto::task::{State, TaskSummary};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, from_json, word};

/// A summary as it comes.
struct Row {
    id: Uuid,
    name: String,
    key: Option<String>,
    role: String,
    step: Option<String>,
    queue: String,
    grp: Option<String>,
    priority: i16,
    parent: Option<Uuid>,
    state: String,
    reason: Option<String>,
    cancel_requested: bool,
    attempt: i32,
    max_attempts: i32,
    outcome: Option<String>,
    progress: Option<String>,
    created_at: Time,
    run_at: Option<Time>,
    started_at: Option<Time>,
    finished_at: Option<Time>,
    labels: Option<String>,
    deadline: Option<Time>,
    schedule: Option<String>,
    waits_for: Vec<String>,
}

/// The filters of a list, as columns.
pub(crate) struct Filter<'a> {
    pub(crate) states: Option<Vec<String>>,
    pub(crate) queue: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
    pub(crate) role: Option<String>,
    pub(crate) parent: Option<TaskId>,
    pub(crate) top: bool,
    pub(crate) name: Option<&'a str>,
    pub(crate) label: Option<String>,
    pub(crate) before: Option<TaskId>,
    pub(crate) limit: i64,
}

/// Tasks of a namespace, newest first.
pub(crate) async fn list(
    connection: &mut PgConnection,
    namespace: &str,
    filter: &Filter<'_>,
) -> sqlx::Result<Vec<TaskSummary>> {
    let stored = filter.states.as_deref().map(stored);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id!", name AS "name!", key, role AS "role!", step, queue AS "queue!", nullif(grp, '') AS "grp",
                  priority AS "priority!", parent, state AS "state!", reason, cancel_requested AS "cancel_requested!",
                  attempt AS "attempt!", max_attempts AS "max_attempts!", outcome, progress,
                  created_at AS "created_at!: Time", run_at AS "run_at: Time", started_at AS "started_at: Time",
                  finished_at AS "finished_at: Time", labels::text, deadline AS "deadline: Time", schedule,
                  ARRAY(SELECT w.name FROM orca.gates w WHERE w.task = t.id AND w.opened_at IS NULL ORDER BY w.name)
                      AS "waits_for!"
           FROM orca.task_now t
           WHERE namespace = $1 AND ($2::text[] IS NULL OR (stored = ANY($11) AND state = ANY($2)))
             AND ($3::text IS NULL OR queue = $3) AND ($12::text IS NULL OR grp = $12)
             AND ($4::text IS NULL OR role = $4) AND ($5::uuid IS NULL OR parent = $5)
             AND (NOT $6 OR parent IS NULL) AND ($7::text IS NULL OR name = $7)
             AND ($8::text IS NULL OR labels @> $8::text::jsonb) AND ($9::uuid IS NULL OR id < $9)
           ORDER BY id DESC LIMIT $10"#,
        namespace,
        filter.states.as_deref(),
        filter.queue,
        filter.role,
        filter.parent.map(|id| id.0),
        filter.top,
        filter.name,
        filter.label,
        filter.before.map(|id| id.0),
        filter.limit,
        stored.as_deref(),
        filter.group
    )
    .fetch_all(&mut *connection)
    .await?;
    with_children(connection, rows).await
}

/// A task without its attempts and dependencies.
pub(crate) struct Body {
    pub(crate) summary: TaskSummary,
    pub(crate) spec: NewTask,
    pub(crate) result: Option<Value>,
    pub(crate) retry_of: Option<TaskId>,
}

/// The tasks that try this one again, newest first; at most `most`.
pub(crate) async fn retries(
    connection: &mut PgConnection,
    id: TaskId,
    most: i64,
) -> sqlx::Result<Vec<TaskId>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM orca.tasks WHERE retry_of = $1 ORDER BY id DESC LIMIT $2",
        id.0,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// The words of the column that stand for any of these states.
fn stored(states: &[String]) -> Vec<String> {
    let mut stored = Vec::new();
    for state in states {
        match state.as_str() {
            "ready" | "running" => stored.push("queued".to_owned()),
            "succeeded" => stored.extend(["queued".to_owned(), state.clone()]),
            _ => stored.push(state.clone()),
        }
    }
    stored
}

/// One task of a namespace.
pub(crate) async fn get(
    connection: &mut PgConnection,
    namespace: &str,
    id: TaskId,
) -> sqlx::Result<Option<Body>> {
    let Some(summary) = get_summary(connection, namespace, id).await? else { return Ok(None) };
    let row = sqlx::query!(
        r#"SELECT spec AS "spec!", CASE WHEN state = 'succeeded' THEN result END AS result, retry_of
           FROM orca.task_now WHERE id = $1"#,
        id.0
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Body {
        summary,
        spec: from_json(&row.spec, "tasks.spec")?,
        result: row.result.as_deref().map(|text| from_json(text, "tasks.result")).transpose()?,
        retry_of: row.retry_of.map(TaskId),
    }))
}

/// The summary of one task of a namespace.
pub(crate) async fn get_summary(
    connection: &mut PgConnection,
    namespace: &str,
    id: TaskId,
) -> sqlx::Result<Option<TaskSummary>> {
    Ok(summaries(connection, namespace, &[id]).await?.pop())
}

/// The summaries of those of these tasks that the namespace has, newest first.
pub(crate) async fn summaries(
    connection: &mut PgConnection,
    namespace: &str,
    ids: &[TaskId],
) -> sqlx::Result<Vec<TaskSummary>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id!", name AS "name!", key, role AS "role!", step, queue AS "queue!", nullif(grp, '') AS "grp",
                  priority AS "priority!", parent, state AS "state!", reason, cancel_requested AS "cancel_requested!",
                  attempt AS "attempt!", max_attempts AS "max_attempts!", outcome, progress,
                  created_at AS "created_at!: Time", run_at AS "run_at: Time", started_at AS "started_at: Time",
                  finished_at AS "finished_at: Time", labels::text, deadline AS "deadline: Time", schedule,
                  ARRAY(SELECT w.name FROM orca.gates w WHERE w.task = t.id AND w.opened_at IS NULL ORDER BY w.name)
                      AS "waits_for!"
           FROM orca.task_now t WHERE id = ANY($1) AND namespace = $2 ORDER BY id DESC"#,
        &ids,
        namespace
    )
    .fetch_all(&mut *connection)
    .await?;
    with_children(connection, rows).await
}

/// The state of one task of a namespace.
pub(crate) async fn state(
    connection: &mut PgConnection,
    namespace: &str,
    id: TaskId,
) -> sqlx::Result<Option<State>> {
    let state = sqlx::query_scalar!(
        r#"SELECT state AS "state!" FROM orca.task_now WHERE id = $1 AND namespace = $2"#,
        id.0,
        namespace
    )
    .fetch_optional(connection)
    .await?;
    state.as_deref().map(|state| word(state, "tasks.state")).transpose()
}

/// A task's spec.
pub(crate) async fn spec(connection: &mut PgConnection, id: TaskId) -> sqlx::Result<NewTask> {
    let text =
        sqlx::query_scalar!("SELECT spec FROM orca.tasks WHERE id = $1", id.0).fetch_one(connection).await?;
    from_json(&text, "tasks.spec")
}

/// Stores a task's result; it is shown once the task has succeeded.
pub(crate) async fn set_result(connection: &mut PgConnection, id: TaskId, result: &str) -> sqlx::Result<()> {
    sqlx::query!("UPDATE orca.tasks SET result = $2 WHERE id = $1", id.0, result)
        .execute(connection)
        .await
        .map(drop)
}

/// Makes `finish` the goal's newest finish step, of one more round of planning.
pub(crate) async fn set_finish(
    connection: &mut PgConnection,
    goal: TaskId,
    finish: TaskId,
) -> sqlx::Result<()> {
    sqlx::query!("UPDATE orca.tasks SET finish = $2, rounds = rounds + 1 WHERE id = $1", goal.0, finish.0)
        .execute(connection)
        .await
        .map(drop)
}

async fn with_children(connection: &mut PgConnection, rows: Vec<Row>) -> sqlx::Result<Vec<TaskSummary>> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut children = children(connection, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let children = children.remove(&row.id).unwrap_or_default();
            summary(row, children)
        })
        .collect()
}

async fn children(
    connection: &mut PgConnection,
    parents: &[Uuid],
) -> sqlx::Result<HashMap<Uuid, BTreeMap<State, i64>>> {
    let rows = sqlx::query!(
        r#"SELECT parent AS "parent!", state AS "state!", count(*) AS "count!" FROM orca.task_now
           WHERE parent = ANY($1) GROUP BY 1, 2"#,
        parents
    )
    .fetch_all(connection)
    .await?;
    let mut counts: HashMap<Uuid, BTreeMap<State, i64>> = HashMap::new();
    for row in rows {
        counts.entry(row.parent).or_default().insert(word(&row.state, "tasks.state")?, row.count);
    }
    Ok(counts)
}

/// What a gate is called; an approval has no name.
fn awaited(name: String) -> String {
    if name.is_empty() { "approval".to_owned() } else { name }
}

/// Locks a task's row and nothing of what holds the task.
pub(crate) async fn lock_row(connection: &mut PgConnection, namespace: &str, id: TaskId) -> sqlx::Result<()> {
    sqlx::query!("SELECT FROM orca.tasks WHERE id = $1 AND namespace = $2 FOR NO KEY UPDATE", id.0, namespace)
        .execute(connection)
        .await
        .map(drop)
}

fn summary(row: Row, children: BTreeMap<State, i64>) -> sqlx::Result<TaskSummary> {
    let state: State = word(&row.state, "tasks.state")?;
    Ok(TaskSummary {
        id: TaskId(row.id),
        name: row.name,
        key: row.key,
        role: word(&row.role, "tasks.role")?,
        step: row.step.as_deref().map(|step| word(step, "tasks.step")).transpose()?,
        queue: row.queue,
        group: row.grp,
        priority: row.priority,
        parent: row.parent.map(TaskId),
        state,
        reason: row.reason,
        cancel_requested: row.cancel_requested,
        attempt: row.attempt,
        max_attempts: row.max_attempts,
        outcome: row.outcome.as_deref().map(|text| from_json(text, "tasks.outcome")).transpose()?,
        progress: row.progress.as_deref().map(|text| from_json(text, "tasks.progress")).transpose()?,
        children,
        created_at: row.created_at.0,
        run_at: row.run_at.filter(|_| state == State::Scheduled).map(|time| time.0),
        deadline: row.deadline.map(|time| time.0),
        schedule: row.schedule,
        waits_for: match state {
            State::Blocked => row.waits_for.into_iter().map(awaited).collect(),
            _ => Vec::new(),
        },
        started_at: row.started_at.map(|time| time.0),
        finished_at: row.finished_at.map(|time| time.0),
        labels: match &row.labels {
            Some(text) => from_json(text, "tasks.labels")?,
            None => BTreeMap::new(),
        },
    })
}
