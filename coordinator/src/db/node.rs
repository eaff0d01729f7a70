//! Nodes: who is there.

use std::time::Duration;

use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{Node, NodeState, Registration};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, as_word, from_json, millis, to_json, word};

/// A node as the coordinator deals with it.
pub(crate) struct Known {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) instance: Uuid,
    pub(crate) role: String,
    pub(crate) slots: i32,
}

/// Locks the node of a name.
pub(crate) async fn lock_by_name(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
) -> sqlx::Result<Option<Known>> {
    sqlx::query_as!(
        Known,
        r#"SELECT id, name, subject, instance, role, slots FROM orca.nodes
           WHERE namespace = $1 AND name = $2 FOR UPDATE"#,
        namespace,
        name
    )
    .fetch_optional(connection)
    .await
}

/// Writes a registration under `id`, new or again.
pub(crate) async fn register(
    connection: &mut PgConnection,
    namespace: &str,
    subject: &str,
    id: NodeId,
    registration: &Registration,
) -> sqlx::Result<()> {
    let labels = to_json(&registration.labels)?;
    sqlx::query!(
        r#"INSERT INTO orca.nodes (id, namespace, name, subject, instance, role, slots, version, runtime, labels,
               registered_at, last_seen_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, orca.now(), orca.now())
           ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, role = excluded.role,
               slots = excluded.slots, version = excluded.version, runtime = excluded.runtime,
               labels = excluded.labels, draining = false, last_seen_at = excluded.last_seen_at"#,
        id.0,
        namespace,
        registration.name,
        subject,
        registration.instance.0,
        as_word(&registration.role),
        i32::try_from(registration.slots).unwrap_or(i32::MAX),
        registration.version,
        registration.runtime,
        labels
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Notes that a node was heard of, and locks it; `None` if the namespace has none of that id.
pub(crate) async fn seen(
    connection: &mut PgConnection,
    namespace: &str,
    id: NodeId,
    instance: InstanceId,
    draining: Option<bool>,
) -> sqlx::Result<Option<Known>> {
    sqlx::query_as!(
        Known,
        r#"UPDATE orca.nodes SET
               last_seen_at = CASE WHEN instance = $3 THEN orca.now() ELSE last_seen_at END,
               draining = CASE WHEN instance = $3 THEN coalesce($4, draining) ELSE draining END
           WHERE id = $1 AND namespace = $2 RETURNING id, name, subject, instance, role, slots"#,
        id.0,
        namespace,
        instance.0,
        draining
    )
    .fetch_optional(connection)
    .await
}

/// A node as it comes.
struct Row {
    id: Uuid,
    name: String,
    role: String,
    slots: i32,
    running: i64,
    version: String,
    runtime: String,
    labels: String,
    draining: bool,
    gone: bool,
    registered_at: Time,
    last_seen_at: Time,
}

/// The namespace's nodes by name, or the one with this id.
pub(crate) async fn list(
    connection: &mut PgConnection,
    namespace: &str,
    id: Option<NodeId>,
    lease: Duration,
) -> sqlx::Result<Vec<Node>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT n.id, n.name, n.role, n.slots,
                  (SELECT coalesce(sum(g.open), 0)::bigint FROM orca.grants g
                   WHERE g.node = n.id AND g.open > 0 AND g.expires_at > orca.now()) AS "running!",
                  n.version, n.runtime, n.labels::text AS "labels!", n.draining,
                  n.last_seen_at < orca.now() - $3::bigint * interval '1 millisecond' AS "gone!",
                  n.registered_at AS "registered_at: Time", n.last_seen_at AS "last_seen_at: Time"
           FROM orca.nodes n WHERE n.namespace = $1 AND ($2::uuid IS NULL OR n.id = $2) ORDER BY n.name LIMIT 10000"#,
        namespace,
        id.map(|id| id.0),
        millis(lease)
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(node).collect()
}

fn node(row: Row) -> sqlx::Result<Node> {
    Ok(Node {
        id: NodeId(row.id),
        name: row.name,
        role: word(&row.role, "nodes.role")?,
        state: state(row.gone, row.draining),
        slots: u32::try_from(row.slots).unwrap_or_default(),
        running: u32::try_from(row.running).unwrap_or(u32::MAX),
        version: row.version,
        runtime: row.runtime,
        labels: from_json(&row.labels, "nodes.labels")?,
        registered_at: row.registered_at.0,
        last_seen_at: row.last_seen_at.0,
    })
}

const fn state(gone: bool, draining: bool) -> NodeState {
    match (gone, draining) {
        (true, _) => NodeState::Gone,
        (false, true) => NodeState::Draining,
        (false, false) => NodeState::Ready,
    }
}

/// Nodes by role and state.
pub(crate) async fn counts(
    connection: &mut PgConnection,
    lease: Duration,
) -> sqlx::Result<Vec<(orca_proto::spec::Role, NodeState, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT role, last_seen_at < orca.now() - $1::bigint * interval '1 millisecond' AS "gone!", draining,
                  count(*) AS "count!"
           FROM orca.nodes GROUP BY 1, 2, 3"#,
        millis(lease)
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| Ok((word(&row.role, "nodes.role")?, state(row.gone, row.draining), row.count)))
        .collect()
}

/// Forgets nodes that were not heard of for so long and hold nothing.
pub(crate) async fn forget_gone(connection: &mut PgConnection, after: Duration) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"DELETE FROM orca.nodes n WHERE n.last_seen_at < orca.now() - $1::bigint * interval '1 millisecond'
           AND NOT EXISTS (SELECT FROM orca.grants g WHERE g.node = n.id AND g.open > 0)"#,
        millis(after)
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
