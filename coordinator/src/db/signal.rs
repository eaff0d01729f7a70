//! Signals that were sent to tasks, each kept for as long as its task is.

use orca_proto::ids::TaskId;
use orca_proto::node::LeaseRef;
use sqlx::PgConnection;

/// Keeps a signal to a task, which is locked; answers the payload of the one of that name that was there before, if any.
pub(crate) async fn put(
    connection: &mut PgConnection,
    task: TaskId,
    name: &str,
    payload: &str,
    by: &str,
) -> sqlx::Result<Option<String>> {
    let put = sqlx::query!(
        r#"INSERT INTO orca.signals (task, name, payload, sent_by) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"#,
        task.0,
        name,
        payload,
        by
    )
    .execute(&mut *connection)
    .await?;
    if put.rows_affected() > 0 {
        return Ok(None);
    }
    sqlx::query_scalar!("SELECT payload FROM orca.signals WHERE task = $1 AND name = $2", task.0, name)
        .fetch_optional(connection)
        .await
}

/// How many signals to a task, which is locked, nobody has read.
pub(crate) async fn unread(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<usize> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM orca.signals WHERE task = $1 AND NOT read"#,
        task.0
    )
    .fetch_one(connection)
    .await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Notes that a signal was read.
pub(crate) async fn read(connection: &mut PgConnection, task: TaskId, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE orca.signals SET read = true WHERE task = $1 AND name = $2 AND NOT read",
        task.0,
        name
    )
    .execute(connection)
    .await
    .map(drop)
}

/// What a running attempt sees of a signal.
pub(crate) struct Look {
    /// Whether its lease stands and is held by a node of this subject.
    pub(crate) held: bool,
    pub(crate) payload: Option<String>,
}

/// Looks whether a signal has come. Locks nothing.
pub(crate) async fn look(
    connection: &mut PgConnection,
    lease: LeaseRef,
    namespace: &str,
    subject: &str,
    name: &str,
) -> sqlx::Result<Look> {
    sqlx::query_as!(
        Look,
        r#"SELECT EXISTS (SELECT FROM orca.grants g
                          JOIN orca.nodes n ON n.id = g.node AND n.namespace = $3 AND n.subject = $4
                          WHERE g.token = $2 AND g.open > 0 AND g.expires_at > orca.now() AND $1 = ANY (g.tasks))
                  AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = $1) AS "held!",
                  (SELECT s.payload FROM orca.signals s WHERE s.task = $1 AND s.name = $5) AS payload"#,
        lease.task.0,
        lease.token.0,
        namespace,
        subject,
        name
    )
    .fetch_one(connection)
    .await
}
