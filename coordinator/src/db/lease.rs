//! Leases: held, renewed, taken away.

use std::time::Duration;

use orca_proto::ids::{FencingToken, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use sqlx::PgConnection;
use uuid::Uuid;

use super::millis;

/// Ends the leases of these tasks.
pub(crate) async fn release(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM orca.leases WHERE task = ANY($1)", ids).execute(connection).await.map(drop)
}

/// Marks the leases of these tasks to be cancelled; answers the nodes that hold them.
pub(crate) async fn request_cancel(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<NodeId>> {
    let nodes = sqlx::query_scalar!(
        r#"WITH locked AS (SELECT task FROM orca.leases WHERE task = ANY($1) ORDER BY task FOR NO KEY UPDATE)
           UPDATE orca.leases l SET cancel = true FROM locked k WHERE l.task = k.task RETURNING l.node"#,
        ids
    )
    .fetch_all(connection)
    .await?;
    Ok(nodes.into_iter().map(NodeId).collect())
}

/// Whether this lease stands and is held by a node of this subject. Keeps it from being released until the transaction
/// ends; renewals may pass.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    lease: LeaseRef,
    namespace: &str,
    subject: &str,
) -> sqlx::Result<bool> {
    let held = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM orca.leases l
           WHERE l.task = $1 AND l.token = $2 AND l.expires_at > orca.now()
             AND EXISTS (SELECT FROM orca.nodes n WHERE n.id = l.node AND n.namespace = $3 AND n.subject = $4)
           FOR KEY SHARE OF l"#,
        lease.task.0,
        lease.token.0,
        namespace,
        subject
    )
    .fetch_optional(connection)
    .await?;
    Ok(held.is_some())
}

/// Renews those of these leases that the node still holds; answers them, each with whether it is to be cancelled.
pub(crate) async fn renew(
    connection: &mut PgConnection,
    node: NodeId,
    leases: &[LeaseRef],
    lease: Duration,
) -> sqlx::Result<Vec<(LeaseRef, bool)>> {
    let tasks: Vec<Uuid> = leases.iter().map(|lease| lease.task.0).collect();
    let tokens: Vec<i64> = leases.iter().map(|lease| lease.token.0).collect();
    let rows = sqlx::query!(
        r#"WITH wanted AS (SELECT * FROM unnest($2::uuid[], $3::bigint[]) AS w(task, token)),
           locked AS (
               SELECT l.task FROM orca.leases l JOIN wanted w ON w.task = l.task AND w.token = l.token
               WHERE l.node = $1 AND l.expires_at > orca.now() ORDER BY l.task FOR NO KEY UPDATE OF l)
           UPDATE orca.leases l SET expires_at = orca.now() + $4::bigint * interval '1 millisecond'
           FROM locked k WHERE l.task = k.task RETURNING l.task, l.token, l.cancel"#,
        node.0,
        &tasks,
        &tokens,
        millis(lease)
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (reference(row.task, row.token), row.cancel)).collect())
}

/// The node's leases, each with whether it is to be cancelled.
pub(crate) async fn of_node(
    connection: &mut PgConnection,
    node: NodeId,
) -> sqlx::Result<Vec<(LeaseRef, bool)>> {
    let rows = sqlx::query!(
        "SELECT task, token, cancel FROM orca.leases WHERE node = $1 AND expires_at > orca.now()",
        node.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (reference(row.task, row.token), row.cancel)).collect())
}

/// How many leases a node holds.
pub(crate) async fn count(connection: &mut PgConnection, node: NodeId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM orca.leases WHERE node = $1"#, node.0)
        .fetch_one(connection)
        .await
}

/// Lets the leases of a node run out now: its daemon was replaced.
pub(crate) async fn expire_node(connection: &mut PgConnection, node: NodeId) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"WITH locked AS (SELECT task FROM orca.leases WHERE node = $1 ORDER BY task FOR NO KEY UPDATE)
           UPDATE orca.leases l SET expires_at = orca.now() FROM locked k WHERE l.task = k.task"#,
        node.0
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Tasks whose leases have run out, with the lease locked so that it cannot be renewed meanwhile; those that somebody
/// works on are passed over.
pub(crate) async fn expired(connection: &mut PgConnection, most: i64) -> sqlx::Result<Vec<TaskId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT l.task FROM orca.leases l JOIN orca.tasks t ON t.id = l.task
           WHERE l.expires_at <= orca.now() ORDER BY l.expires_at LIMIT $1 FOR UPDATE OF l, t SKIP LOCKED"#,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

fn reference(task: Uuid, token: i64) -> LeaseRef {
    LeaseRef { task: TaskId(task), token: FencingToken(token) }
}
