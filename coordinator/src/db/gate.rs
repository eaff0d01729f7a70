//! Gates: what a blocked task waits for beside other tasks. An approval is the gate without a name, the others are signals.

use orca_proto::approval::Decided;
use orca_proto::ids::TaskId;
use orca_proto::signal::Arrived;
use orca_proto::spec::{NewTask, OnTimeout};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, as_word, timer, word};

/// The name of the gate that is an approval.
pub(crate) const APPROVAL: &str = "";

/// A gate to put before a task.
pub(crate) struct Gate {
    task: TaskId,
    name: String,
    on_timeout: OnTimeout,
    pub(crate) timeout_ms: Option<i64>,
}

/// The gates that a task asks for.
pub(crate) fn of(task: TaskId, spec: &NewTask) -> Vec<Gate> {
    let approval = spec.approval.iter().map(|approval| Gate {
        task,
        name: APPROVAL.to_owned(),
        on_timeout: approval.on_timeout,
        timeout_ms: approval.timeout.map(|span| span.as_millis()),
    });
    let signals = spec.wait_for.iter().map(|wait| Gate {
        task,
        name: wait.signal.clone(),
        on_timeout: wait.on_timeout,
        timeout_ms: wait.timeout.map(|span| span.as_millis()),
    });
    approval.chain(signals).collect()
}

/// Puts gates before tasks, and sets their timers.
pub(crate) async fn set(connection: &mut PgConnection, gates: &[Gate]) -> sqlx::Result<()> {
    if gates.is_empty() {
        return Ok(());
    }
    let tasks: Vec<Uuid> = gates.iter().map(|gate| gate.task.0).collect();
    let names: Vec<String> = gates.iter().map(|gate| gate.name.clone()).collect();
    let policies: Vec<String> = gates.iter().map(|gate| as_word(&gate.on_timeout)).collect();
    let timeouts: Vec<Option<i64>> = gates.iter().map(|gate| gate.timeout_ms).collect();
    sqlx::query!(
        r#"WITH g AS (
               SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) AS g(task, name, on_timeout, timeout_ms)),
           timed AS (
               INSERT INTO orca.timers (task, kind, at)
               SELECT task, $5 || name, orca.now() + timeout_ms * interval '1 millisecond' FROM g
               WHERE timeout_ms IS NOT NULL)
           INSERT INTO orca.gates (task, name, on_timeout) SELECT task, name, on_timeout FROM g"#,
        &tasks,
        &names,
        &policies,
        &timeouts as &[Option<i64>],
        timer::GATE
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Opens a gate that is closed; answers whether it was. The task is locked.
pub(crate) async fn open(
    connection: &mut PgConnection,
    task: TaskId,
    name: &str,
    by: &str,
    comment: Option<&str>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"WITH quiet AS (DELETE FROM orca.timers WHERE task = $1 AND kind = $4 || $2)
           UPDATE orca.gates SET opened_at = orca.now(), opened_by = $3, comment = $5
           WHERE task = $1 AND name = $2 AND opened_at IS NULL"#,
        task.0,
        name,
        by,
        timer::GATE,
        comment
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Writes down that an approval was refused. The task is locked, and ends.
pub(crate) async fn refuse(
    connection: &mut PgConnection,
    task: TaskId,
    by: &str,
    comment: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.gates SET opened_at = orca.now(), opened_by = $3, comment = $4, refused = true
           WHERE task = $1 AND name = $2 AND opened_at IS NULL"#,
        task.0,
        APPROVAL,
        by,
        comment
    )
    .execute(connection)
    .await
    .map(drop)
}

/// What was decided of a task's approval; nothing where it needs none, or nobody has answered.
pub(crate) async fn decided(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<Option<Decided>> {
    let row = sqlx::query!(
        r#"SELECT opened_at AS "at!: Time", coalesce(opened_by, '') AS "by!", comment, refused FROM orca.gates
           WHERE task = $1 AND name = $2 AND opened_at IS NOT NULL"#,
        task.0,
        APPROVAL
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Decided { approved: !row.refused, at: row.at.0, by: row.by, comment: row.comment }))
}

/// The signals that a task waited for and that have come, first come first.
pub(crate) async fn arrived(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<Vec<Arrived>> {
    let rows = sqlx::query!(
        r#"SELECT name, opened_at AS "at!: Time", coalesce(opened_by, '') AS "by!" FROM orca.gates
           WHERE task = $1 AND name <> $2 AND opened_at IS NOT NULL ORDER BY opened_at, name"#,
        task.0,
        APPROVAL
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| Arrived { name: row.name, at: row.at.0, by: row.by }).collect())
}

/// What is to happen when the wait at a closed gate takes too long; nothing where it is open.
pub(crate) async fn on_timeout(
    connection: &mut PgConnection,
    task: TaskId,
    name: &str,
) -> sqlx::Result<Option<OnTimeout>> {
    let text = sqlx::query_scalar!(
        "SELECT on_timeout FROM orca.gates WHERE task = $1 AND name = $2 AND opened_at IS NULL",
        task.0,
        name
    )
    .fetch_optional(connection)
    .await?;
    text.as_deref().map(|text| word(text, "gates.on_timeout")).transpose()
}
