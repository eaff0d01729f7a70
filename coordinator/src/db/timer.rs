//! Instants at which something is to happen to an open task.

use orca_proto::ids::TaskId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Time;

/// The kind of a timer for a task's deadline.
pub(crate) const DEADLINE: &str = "deadline";
/// The kind of a timer for `schedule_to_start`.
pub(crate) const START: &str = "start";
/// What the kind of a timer for a gate begins with; then comes the gate's name.
pub(crate) const GATE: &str = "gate:";

/// A timer that has gone off.
pub(crate) struct Due {
    pub(crate) task: TaskId,
    pub(crate) kind: String,
    pub(crate) at: Time,
}

/// Sets timers; a task's timer of a kind that there is already is set anew.
pub(crate) async fn set(connection: &mut PgConnection, timers: &[(Uuid, String, Time)]) -> sqlx::Result<()> {
    if timers.is_empty() {
        return Ok(());
    }
    let tasks: Vec<Uuid> = timers.iter().map(|(task, ..)| *task).collect();
    let kinds: Vec<String> = timers.iter().map(|(_, kind, _)| kind.clone()).collect();
    let at: Vec<i64> = timers.iter().map(|(.., at)| at.0.as_microsecond()).collect();
    sqlx::query!(
        r#"INSERT INTO orca.timers (task, kind, at)
           SELECT u.task, u.kind, orca.instant(u.at) FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS u(task, kind, at)
           ON CONFLICT (task, kind) DO UPDATE SET at = excluded.at"#,
        &tasks,
        &kinds,
        &at
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Sets the timers of tasks that have just come in line and have a limit on how long they may stay there.
pub(crate) async fn set_start(connection: &mut PgConnection, tasks: &[Uuid]) -> sqlx::Result<()> {
    if tasks.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"INSERT INTO orca.timers (task, kind, at)
           SELECT id, 'start', orca.now() + schedule_to_start_ms * interval '1 millisecond'
           FROM orca.tasks WHERE id = ANY($1) AND schedule_to_start_ms IS NOT NULL
           ON CONFLICT (task, kind) DO UPDATE SET at = excluded.at"#,
        tasks
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Sets the timers of these tasks' deadlines where there are none any more: they went off while the tasks ran.
pub(crate) async fn keep_deadlines(connection: &mut PgConnection, tasks: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.timers (task, kind, at)
           SELECT id, 'deadline', deadline FROM orca.tasks WHERE id = ANY($1) AND deadline IS NOT NULL
           ON CONFLICT (task, kind) DO NOTHING"#,
        tasks
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Timers that have gone off, oldest first, but for those of these tasks. Locks nothing: the caller locks the tasks, and takes the timers by [`take`].
pub(crate) async fn due(
    connection: &mut PgConnection,
    most: i64,
    passed_over: &[TaskId],
) -> sqlx::Result<Vec<Due>> {
    let passed_over: Vec<Uuid> = passed_over.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT task, kind, at AS "at: Time" FROM orca.timers WHERE at <= orca.now() AND NOT task = ANY($2)
           ORDER BY at LIMIT $1"#,
        most,
        &passed_over
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| Due { task: TaskId(row.task), kind: row.kind, at: row.at }).collect())
}

/// Takes those of these timers that still are past their time; answers them in the order in which they went off.
pub(crate) async fn take(connection: &mut PgConnection, timers: &[Due]) -> sqlx::Result<Vec<Due>> {
    let tasks: Vec<Uuid> = timers.iter().map(|timer| timer.task.0).collect();
    let kinds: Vec<String> = timers.iter().map(|timer| timer.kind.clone()).collect();
    let rows = sqlx::query!(
        r#"DELETE FROM orca.timers t USING unnest($1::uuid[], $2::text[]) AS u(task, kind)
           WHERE t.task = u.task AND t.kind = u.kind AND t.at <= orca.now()
           RETURNING t.task, t.kind, t.at AS "at: Time""#,
        &tasks,
        &kinds
    )
    .fetch_all(connection)
    .await?;
    let mut taken: Vec<Due> =
        rows.into_iter().map(|row| Due { task: TaskId(row.task), kind: row.kind, at: row.at }).collect();
    taken.sort_by_key(|timer| timer.at);
    Ok(taken)
}
