//! The record of every grant.

use orca_proto::ids::{FencingToken, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::task::Attempt;
use sqlx::PgConnection;

use super::{Time, from_json};

/// Makes the record of an attempt whose lease is held, if there is none yet.
pub(crate) async fn open(connection: &mut PgConnection, lease: LeaseRef) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.attempts (task, token, number, node, node_name, granted_at)
           SELECT $1, g.token, t.attempts_used + 1, g.node, g.node_name, g.granted_at
           FROM orca.grants g, orca.tasks t WHERE g.token = $2 AND g.open > 0 AND $1 = ANY (g.tasks) AND t.id = $1
           ON CONFLICT DO NOTHING"#,
        lease.task.0,
        lease.token.0
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Notes that the program was started, and of which image.
pub(crate) async fn start(
    connection: &mut PgConnection,
    lease: LeaseRef,
    image: Option<&str>,
) -> sqlx::Result<()> {
    open(connection, lease).await?;
    sqlx::query!(
        "UPDATE orca.attempts SET started_at = coalesce(started_at, orca.now()), image = coalesce(image, $3) \
         WHERE task = $1 AND token = $2",
        lease.task.0,
        lease.token.0,
        image
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A report that was taken before.
pub(crate) struct Reported {
    pub(crate) hash: Vec<u8>,
    pub(crate) state: String,
}

/// The report that settled an attempt, if one did and it came from this subject's node.
pub(crate) async fn reported(
    connection: &mut PgConnection,
    lease: LeaseRef,
    namespace: &str,
    subject: &str,
) -> sqlx::Result<Option<Reported>> {
    sqlx::query_as!(
        Reported,
        r#"SELECT a.report_hash AS "hash!", a.reported_state AS "state!" FROM orca.attempts a
           JOIN orca.nodes n ON n.id = a.node AND n.namespace = $3 AND n.subject = $4
           WHERE a.task = $1 AND a.token = $2 AND a.report_hash IS NOT NULL"#,
        lease.task.0,
        lease.token.0,
        namespace,
        subject
    )
    .fetch_optional(connection)
    .await
}

/// The result under which an attempt succeeded by the plain way, if it did and for this subject's node.
pub(crate) async fn succeeded(
    connection: &mut PgConnection,
    lease: LeaseRef,
    namespace: &str,
    subject: &str,
) -> sqlx::Result<Option<Option<String>>> {
    sqlx::query_scalar!(
        r#"SELECT d.result FROM orca.done d JOIN orca.nodes n ON n.id = d.node AND n.namespace = $3 AND n.subject = $4
           WHERE d.task = $1 AND d.token = $2"#,
        lease.task.0,
        lease.token.0,
        namespace,
        subject
    )
    .fetch_optional(connection)
    .await
}

/// Remembers the report that settled an attempt, and what was answered.
pub(crate) async fn remember_report(
    connection: &mut PgConnection,
    lease: LeaseRef,
    hash: &[u8],
    state: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE orca.attempts SET report_hash = $3, reported_state = $4 WHERE task = $1 AND token = $2",
        lease.task.0,
        lease.token.0,
        hash,
        state
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A task's newest attempts, at most 100, oldest first.
pub(crate) async fn of_task(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<Vec<Attempt>> {
    let rows = sqlx::query!(
        r#"SELECT token AS "token!", number AS "number!", node AS "node!", node_name AS "node_name!",
                  granted_at AS "granted_at!: Time", started_at AS "started_at: Time", image, ended_at AS "ended_at: Time", outcome
           FROM orca.attempt_now WHERE task = $1 ORDER BY token DESC LIMIT 100"#,
        task.0
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .rev()
        .map(|row| {
            Ok(Attempt {
                number: row.number,
                token: FencingToken(row.token),
                node: NodeId(row.node),
                node_name: row.node_name,
                granted_at: row.granted_at.0,
                started_at: row.started_at.map(|time| time.0),
                image: row.image,
                ended_at: row.ended_at.map(|time| time.0),
                outcome: row
                    .outcome
                    .as_deref()
                    .map(|text| from_json(text, "attempts.outcome"))
                    .transpose()?,
            })
        })
        .collect()
}
