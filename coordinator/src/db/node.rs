//! Nodes: who is there.

use std::time::Duration;

use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{Node, NodeState, Registration};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::app::lane::millicpus;
use crate::dispatch::{Asker, Capacity, Labels};

use super::{Time, as_word, from_json, millis, to_json, word};

/// A node as the coordinator deals with it.
pub(crate) struct Known {
    pub(crate) id: Uuid,
    pub(crate) subject: String,
    pub(crate) instance: Uuid,
}

/// Locks the node of a name.
pub(crate) async fn lock_by_name(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
) -> sqlx::Result<Option<Known>> {
    sqlx::query_as!(
        Known,
        r#"SELECT id, subject, instance FROM orca.nodes
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
               millicpus, memory, registered_at, last_seen_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, $11, $12, orca.now(), orca.now())
           ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, role = excluded.role,
               slots = excluded.slots, version = excluded.version, runtime = excluded.runtime,
               labels = excluded.labels, millicpus = excluded.millicpus, memory = excluded.memory,
               draining = false, last_seen_at = excluded.last_seen_at"#,
        id.0,
        namespace,
        registration.name,
        subject,
        registration.instance.0,
        as_word(&registration.role),
        i32::try_from(registration.slots).unwrap_or(i32::MAX),
        registration.version,
        registration.runtime,
        labels,
        registration.cpus.map(|cpus| i64::try_from(millicpus(cpus)).unwrap_or(i64::MAX)),
        registration.memory.map(|memory| i64::try_from(memory.0).unwrap_or(i64::MAX))
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A node as a claim needs it.
pub(crate) struct Claiming {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) instance: Uuid,
    pub(crate) role: String,
    pub(crate) labels: Labels,
    /// The queues that its claims name; all when empty.
    pub(crate) queues: Vec<String>,
}

/// One node of a namespace.
pub(crate) async fn get(
    connection: &mut PgConnection,
    namespace: &str,
    id: NodeId,
) -> sqlx::Result<Option<Claiming>> {
    let row = sqlx::query!(
        r#"SELECT name, subject, instance, role, labels::text AS "labels!", queues FROM orca.nodes WHERE id = $1 AND namespace = $2"#,
        id.0,
        namespace
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let labels = from_json(&row.labels, "nodes.labels")?;
        Ok(Claiming {
            name: row.name,
            subject: row.subject,
            instance: row.instance,
            role: row.role,
            labels,
            queues: row.queues,
        })
    })
    .transpose()
}

/// Those of these nodes that drain.
pub(crate) async fn draining_of(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!("SELECT id FROM orca.nodes WHERE id = ANY($1) AND draining", ids)
        .fetch_all(connection)
        .await
}

/// Whether a node drains.
pub(crate) async fn draining(connection: &mut PgConnection, id: NodeId) -> sqlx::Result<bool> {
    let draining = sqlx::query_scalar!("SELECT draining FROM orca.nodes WHERE id = $1", id.0);
    Ok(draining.fetch_optional(connection).await?.unwrap_or_default())
}

/// Notes which queues a node serves, for those who ask why nobody takes a task.
pub(crate) async fn serves(connection: &mut PgConnection, id: NodeId, queues: &[String]) -> sqlx::Result<()> {
    sqlx::query!("UPDATE orca.nodes SET queues = $2 WHERE id = $1 AND queues <> $2", id.0, queues)
        .execute(connection)
        .await
        .map(drop)
}

/// A live node that takes work, and what it has free.
pub(crate) async fn live(
    connection: &mut PgConnection,
    namespace: &str,
    role: &str,
    lease: Duration,
) -> sqlx::Result<Vec<Asker>> {
    let rows = sqlx::query!(
        r#"SELECT n.name, n.labels::text AS "labels!", n.queues, n.slots, n.millicpus, n.memory,
                  coalesce(u.open, 0)::bigint AS "open!", coalesce(u.millicpus, 0)::bigint AS "used_millicpus!",
                  coalesce(u.memory, 0)::bigint AS "used_memory!"
           FROM orca.nodes n
           LEFT JOIN LATERAL (
               SELECT sum(g.open) AS open, sum(g.open * l.millicpus) AS millicpus, sum(g.open * l.memory) AS memory
               FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane WHERE g.node = n.id AND g.open > 0) u ON true
           WHERE n.namespace = $1 AND n.role = $2 AND NOT n.draining
             AND n.last_seen_at >= orca.now() - $3::bigint * interval '1 millisecond'
           ORDER BY n.name"#,
        namespace,
        role,
        millis(lease)
    )
    .fetch_all(connection)
    .await?;
    let less = |all: i64, used: i64| u64::try_from(all - used).unwrap_or_default();
    rows.into_iter()
        .map(|row| {
            let free = row.millicpus.zip(row.memory).map(|(millicpus, memory)| Capacity {
                millicpus: less(millicpus, row.used_millicpus),
                memory: less(memory, row.used_memory),
            });
            Ok(Asker {
                name: row.name,
                labels: from_json(&row.labels, "nodes.labels")?,
                queues: row.queues.into_iter().collect(),
                slots: u32::try_from(i64::from(row.slots) - row.open).unwrap_or_default(),
                free,
            })
        })
        .collect()
}

/// Notes that these nodes were heard of.
pub(crate) async fn heard(connection: &mut PgConnection, ids: &[NodeId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query!(
        r#"WITH locked AS (SELECT id FROM orca.nodes WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
           UPDATE orca.nodes n SET last_seen_at = orca.now() FROM locked k WHERE n.id = k.id"#,
        &ids
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
           WHERE id = $1 AND namespace = $2 RETURNING id, subject, instance"#,
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
