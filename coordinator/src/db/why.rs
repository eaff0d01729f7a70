//! The facts that `why` tells of a task, all as of one instant.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::spec::{NewTask, Role};
use orca_proto::task::{Outcome, State, Step};
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use super::{Time, from_json, timer, word};

/// How many dependencies of dependencies are followed.
const FOLLOWED: i32 = 100;
/// Places in line that are counted one by one.
const COUNTED: i64 = 10_000;
/// Segments that are looked at to say about how many stand before a task that is farther back.
const SEGMENTS: i64 = 50_000;

/// A task as `why` speaks of it.
pub(crate) struct Subject {
    pub(crate) state: State,
    pub(crate) lane: i32,
    pub(crate) role: Role,
    pub(crate) step: Option<Step>,
    pub(crate) parent: Option<TaskId>,
    pub(crate) attempt: i32,
    pub(crate) attempts_used: i32,
    pub(crate) max_attempts: i32,
    pub(crate) open_dependencies: i32,
    pub(crate) open_children: i32,
    pub(crate) cancel_requested: bool,
    pub(crate) reason: Option<String>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) created_at: Time,
    pub(crate) run_at: Option<Time>,
    pub(crate) finished_at: Option<Time>,
    pub(crate) spec: NewTask,
}

/// Lets everything that this transaction reads be as of one instant, the first reading's.
pub(crate) async fn hold_still(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.map(drop)
}

/// One task of a namespace.
pub(crate) async fn subject(
    connection: &mut PgConnection,
    namespace: &str,
    id: TaskId,
) -> sqlx::Result<Option<Subject>> {
    let row = sqlx::query!(
        r#"SELECT state AS "state!", lane AS "lane!", role AS "role!", step, parent, attempt AS "attempt!",
                  attempts_used AS "attempts_used!", max_attempts AS "max_attempts!",
                  open_dependencies AS "open_dependencies!", open_children AS "open_children!",
                  cancel_requested AS "cancel_requested!", reason, outcome, created_at AS "created_at!: Time",
                  run_at AS "run_at: Time", finished_at AS "finished_at: Time", spec AS "spec!"
           FROM orca.task_now WHERE id = $1 AND namespace = $2"#,
        id.0,
        namespace
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(Subject {
            state: word(&row.state, "tasks.state")?,
            lane: row.lane,
            role: word(&row.role, "lanes.role")?,
            step: row.step.as_deref().map(|step| word(step, "tasks.step")).transpose()?,
            parent: row.parent.map(TaskId),
            attempt: row.attempt,
            attempts_used: row.attempts_used,
            max_attempts: row.max_attempts,
            open_dependencies: row.open_dependencies,
            open_children: row.open_children,
            cancel_requested: row.cancel_requested,
            reason: row.reason,
            outcome: row.outcome.as_deref().map(|text| from_json(text, "tasks.outcome")).transpose()?,
            created_at: row.created_at,
            run_at: row.run_at,
            finished_at: row.finished_at,
            spec: from_json(&row.spec, "tasks.spec")?,
        })
    })
    .transpose()
}

/// Another task that one waits for.
pub(crate) struct Awaited {
    pub(crate) id: TaskId,
    pub(crate) name: String,
    pub(crate) state: State,
}

/// Tasks that `task` waits for, at most `most`: its open dependencies; for a finish step the open tasks under `goal`.
pub(crate) async fn awaited(
    connection: &mut PgConnection,
    task: TaskId,
    goal: Option<TaskId>,
    most: i64,
) -> sqlx::Result<Vec<Awaited>> {
    let rows = sqlx::query!(
        r#"WITH named AS (
               (SELECT t.id FROM orca.dependencies w JOIN orca.tasks t ON t.id = w.needs
                WHERE w.task = $1 AND w.open AND t.finished_at IS NULL
                  AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = t.id) ORDER BY w.needs LIMIT $3)
               UNION
               (SELECT t.id FROM orca.tasks t WHERE t.parent = $2 AND t.id <> $1 AND t.step IS DISTINCT FROM 'finish'
                  AND t.finished_at IS NULL
                  AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = t.id) ORDER BY t.id LIMIT $3))
           SELECT n.id AS "id!", t.name AS "name!", t.state AS "state!"
           FROM named n JOIN orca.task_now t ON t.id = n.id ORDER BY n.id LIMIT $3"#,
        task.0,
        goal.map(|goal| goal.0),
        most
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Awaited { id: TaskId(row.id), name: row.name, state: word(&row.state, "tasks.state")? })
        })
        .collect()
}

/// Where the chain of open dependencies that begins at each of these tasks ends, as far as it is followed; nothing for those that
/// depend on nothing any more. Of several dependencies the oldest is followed.
pub(crate) async fn roots(
    connection: &mut PgConnection,
    tasks: &[Uuid],
) -> sqlx::Result<HashMap<TaskId, Awaited>> {
    let rows = sqlx::query!(
        r#"WITH RECURSIVE chain(first, id, depth) AS (
               SELECT u, u, 0 FROM unnest($1::uuid[]) AS u
               UNION ALL
               SELECT c.first, n.id, c.depth + 1 FROM chain c
               CROSS JOIN LATERAL (
                   SELECT t.id FROM orca.dependencies w JOIN orca.tasks t ON t.id = w.needs
                   WHERE w.task = c.id AND w.open AND t.finished_at IS NULL
                     AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = t.id) ORDER BY w.needs LIMIT 1) n
               WHERE c.depth < $2)
           SELECT r.first AS "first!", r.id AS "id!", t.name AS "name!", t.state AS "state!"
           FROM (SELECT DISTINCT ON (first) first, id FROM chain WHERE depth > 0 ORDER BY first, depth DESC) r
           JOIN orca.task_now t ON t.id = r.id"#,
        tasks,
        FOLLOWED
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let state = word(&row.state, "tasks.state")?;
            Ok((TaskId(row.first), Awaited { id: TaskId(row.id), name: row.name, state }))
        })
        .collect()
}

/// Tasks directly under another that have not ended.
pub(crate) async fn open_children(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<u64> {
    let open = sqlx::query_scalar!("SELECT open_children FROM orca.tasks WHERE id = $1", task.0)
        .fetch_optional(connection)
        .await?;
    Ok(open.and_then(|open| u64::try_from(open).ok()).unwrap_or_default())
}

/// A gate that is closed. The one without a name waits for an approval, the others for signals.
pub(crate) struct Closed {
    pub(crate) name: String,
    /// When the wait at it is given up.
    pub(crate) until: Option<Time>,
}

/// The gates that are closed before a task.
pub(crate) async fn closed_gates(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<Vec<Closed>> {
    sqlx::query_as!(
        Closed,
        r#"SELECT w.name, t.at AS "until?: Time" FROM orca.gates w
           LEFT JOIN orca.timers t ON t.task = w.task AND t.kind = $2 || w.name
           WHERE w.task = $1 AND w.opened_at IS NULL ORDER BY w.name"#,
        task.0,
        timer::GATE
    )
    .fetch_all(connection)
    .await
}

/// Who holds a running task.
pub(crate) struct Holder {
    pub(crate) node: String,
    pub(crate) since: Time,
    pub(crate) until: Time,
}

/// The node that holds a task of `lane`.
pub(crate) async fn holder(
    connection: &mut PgConnection,
    lane: i32,
    task: TaskId,
) -> sqlx::Result<Option<Holder>> {
    sqlx::query_as!(
        Holder,
        r#"SELECT node_name AS node, granted_at AS "since: Time", expires_at AS "until: Time" FROM orca.grants
           WHERE lane = $1 AND open > 0 AND $2 = ANY (tasks) ORDER BY token DESC LIMIT 1"#,
        lane,
        task.0
    )
    .fetch_optional(connection)
    .await
}

/// Running tasks of a queue, or of one of its groups; at most `most`.
pub(crate) async fn holders(
    connection: &mut PgConnection,
    namespace: &str,
    queue: &str,
    group: Option<&str>,
    most: i64,
) -> sqlx::Result<Vec<TaskId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT u.task AS "task!" FROM orca.lanes l JOIN orca.grants g ON g.lane = l.id AND g.open > 0,
                unnest(g.tasks) AS u(task)
           WHERE l.namespace = $1 AND l.queue = $2 AND ($3::text IS NULL OR l.grp = $3)
             AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = u.task)
           LIMIT $4"#,
        namespace,
        queue,
        group,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// Where a task stands in its lane.
pub(crate) struct Standing {
    /// Since when.
    pub(crate) since: Time,
    /// Tasks of the lane before it; exact up to 10,000.
    pub(crate) before: u64,
}

/// Where a ready task stands in its lane. `since` is a guess since when, for a task that is so far back that it is not
/// looked for.
pub(crate) async fn standing(
    connection: &mut PgConnection,
    lane: i32,
    task: TaskId,
    since: Time,
) -> sqlx::Result<Standing> {
    let head = sqlx::query!(
        "SELECT seq, upto FROM orca.grants WHERE lane = $1 ORDER BY seq DESC, upto DESC LIMIT 1",
        lane
    )
    .fetch_optional(&mut *connection)
    .await?;
    let (from, taken) = head.map_or((0, 0), |head| (head.seq, i64::from(head.upto)));
    let near = sqlx::query!(
        r#"SELECT seq, size FROM orca.segments WHERE lane = $1 AND seq >= $2 ORDER BY seq LIMIT $3"#,
        lane,
        from,
        COUNTED
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut tasks = 0;
    let last = near.iter().take_while(|segment| {
        let counted = tasks < COUNTED;
        tasks += i64::from(segment.size);
        counted
    });
    let upto = last.last().map_or(from, |segment| segment.seq);
    let found = sqlx::query!(
        r#"WITH stood AS MATERIALIZED (
               SELECT s.seq, u.place, u.id, s.ready_at FROM orca.segments s, unnest(s.tasks) WITH ORDINALITY AS u(id, place)
               WHERE s.lane = $1 AND s.seq BETWEEN $2 AND $4 AND (s.seq > $2 OR u.place > $3)),
           me AS (SELECT * FROM stood WHERE id = $5 LIMIT 1)
           SELECT me.ready_at AS "since!: Time",
                  (SELECT count(*) FROM stood s JOIN orca.tasks t ON t.id = s.id AND t.state = 'queued'
                   WHERE (s.seq, s.place) < (me.seq, me.place)) AS "before!"
           FROM me"#,
        lane,
        from,
        taken,
        upto,
        task.0
    )
    .fetch_optional(&mut *connection)
    .await?;
    match found {
        Some(row) => Ok(Standing { since: row.since, before: u64::try_from(row.before).unwrap_or_default() }),
        None => about(connection, lane, from, since).await,
    }
}

/// About how many stand in a lane before one that came at `since`: where there are too many to count, as many came in a time
/// as in the time that was counted.
async fn about(connection: &mut PgConnection, lane: i32, from: i64, since: Time) -> sqlx::Result<Standing> {
    let before = sqlx::query_scalar!(
        r#"WITH seen AS (
               SELECT size, ready_at FROM orca.segments WHERE lane = $1 AND seq >= $2 ORDER BY seq LIMIT $3)
           SELECT coalesce(sum(size) FILTER (WHERE ready_at < $4), 0) * CASE
                      WHEN count(*) = $3 AND max(ready_at) < $4 AND max(ready_at) > min(ready_at)
                      THEN extract(epoch FROM $4 - min(ready_at)) / extract(epoch FROM max(ready_at) - min(ready_at))
                      ELSE 1 END::double precision AS "before!"
           FROM seen"#,
        lane,
        from,
        SEGMENTS,
        since as Time
    )
    .fetch_one(connection)
    .await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    Ok(Standing { since, before: before.round() as u64 })
}

/// The lanes of a role in a namespace.
pub(crate) async fn lanes(
    connection: &mut PgConnection,
    namespace: &str,
    role: &str,
) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!("SELECT id FROM orca.lanes WHERE namespace = $1 AND role = $2", namespace, role)
        .fetch_all(connection)
        .await
}

/// How many tasks wait in each of these lanes, in the same order: exact where they are few.
pub(crate) async fn waiting(connection: &mut PgConnection, lanes: &[i32]) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        r#"SELECT orca.in_line(u.lane, $2) AS "waiting!" FROM unnest($1::int[]) WITH ORDINALITY AS u(lane, place)
           ORDER BY u.place"#,
        lanes,
        COUNTED
    )
    .fetch_all(connection)
    .await
}

/// Since when a task is thought to be in line, where the line was not searched for it.
#[must_use]
pub(crate) fn came(subject: &Subject) -> Time {
    subject.run_at.map_or(subject.created_at, |at| at.max(subject.created_at))
}
