//! Nodes: who is there.

use std::time::Duration;

use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{Node, NodeState, Registration};
use orca_proto::quantity::Bytes;
use orca_proto::queue::Paused;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::app::lane::millicpus;
use crate::dispatch::{Asker, Capacity, Labels};

use super::{Time, as_word, from_json, millis, to_json, word};

/// A node as the coordinator deals with it.
pub(crate) struct Known {
    pub(crate) subject: String,
    pub(crate) instance: Uuid,
}

/// A node that a daemon wants to be.
pub(crate) struct Named {
    pub(crate) id: Uuid,
    pub(crate) subject: String,
    pub(crate) instance: Uuid,
    /// Where its daemon keeps its files.
    pub(crate) home: Option<Uuid>,
    /// Whether that daemon was heard of within a lease, and did not say that it ends.
    pub(crate) alive: bool,
}

/// Locks the node of a name.
pub(crate) async fn lock_by_name(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
    lease: Duration,
) -> sqlx::Result<Option<Named>> {
    sqlx::query_as!(
        Named,
        r#"SELECT id, subject, instance, home,
                  NOT draining AND last_seen_at > orca.now() - $3::bigint * interval '1 millisecond' AS "alive!"
           FROM orca.nodes WHERE namespace = $1 AND name = $2 FOR UPDATE"#,
        namespace,
        name,
        millis(lease)
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
               millicpus, memory, home, registered_at, last_seen_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, $11, $12, $13, orca.now(), orca.now())
           ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, role = excluded.role,
               slots = excluded.slots, version = excluded.version, runtime = excluded.runtime,
               labels = excluded.labels, millicpus = excluded.millicpus, memory = excluded.memory,
               home = excluded.home, draining = false, unwell = NULL, last_seen_at = excluded.last_seen_at"#,
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
        registration.memory.map(|memory| i64::try_from(memory.0).unwrap_or(i64::MAX)),
        registration.home
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

/// Those of these nodes that take no work.
pub(crate) async fn idle_of(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!("SELECT id FROM orca.nodes WHERE id = ANY($1) AND NOT takes", ids)
        .fetch_all(connection)
        .await
}

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// It does.
    Takes,
    /// It does not, for now.
    Paused,
    /// It ends, or is none any more.
    Ending,
}

/// Whether a node takes work.
pub(crate) async fn service(connection: &mut PgConnection, id: NodeId) -> sqlx::Result<Service> {
    let row = sqlx::query!("SELECT draining, takes FROM orca.nodes WHERE id = $1", id.0);
    Ok(match row.fetch_optional(connection).await? {
        Some(row) if row.takes => Service::Takes,
        Some(row) if !row.draining => Service::Paused,
        _ => Service::Ending,
    })
}

/// Has a node take no more work; one that is cordoned stays as it is. `false` if the namespace has none of that id.
pub(crate) async fn cordon(
    connection: &mut PgConnection,
    namespace: &str,
    id: NodeId,
    by: &str,
    reason: Option<&str>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"UPDATE orca.nodes SET
               cordoned_by = CASE WHEN cordoned_at IS NULL THEN $3 ELSE cordoned_by END,
               cordon_reason = CASE WHEN cordoned_at IS NULL THEN $4 ELSE cordon_reason END,
               cordoned_at = coalesce(cordoned_at, orca.now())
           WHERE id = $1 AND namespace = $2"#,
        id.0,
        namespace,
        by,
        reason
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Has a node take work again. `false` if the namespace has none of that id.
pub(crate) async fn uncordon(
    connection: &mut PgConnection,
    namespace: &str,
    id: NodeId,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"UPDATE orca.nodes SET cordoned_at = NULL, cordoned_by = NULL, cordon_reason = NULL
           WHERE id = $1 AND namespace = $2"#,
        id.0,
        namespace
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
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
           WHERE n.namespace = $1 AND n.role = $2 AND n.takes
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
            let has = |used_millicpus: i64, used_memory: i64| {
                row.millicpus.zip(row.memory).map(|(millicpus, memory)| Capacity {
                    millicpus: less(millicpus, used_millicpus),
                    memory: less(memory, used_memory),
                })
            };
            Ok(Asker {
                name: row.name,
                labels: from_json(&row.labels, "nodes.labels")?,
                queues: row.queues.into_iter().collect(),
                slots: u32::try_from(i64::from(row.slots) - row.open).unwrap_or_default(),
                free: has(row.used_millicpus, row.used_memory),
                size: has(0, 0),
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
    draining: bool,
    unwell: Option<&str>,
) -> sqlx::Result<Option<Known>> {
    sqlx::query_as!(
        Known,
        r#"UPDATE orca.nodes SET
               last_seen_at = CASE WHEN instance = $3 THEN orca.now() ELSE last_seen_at END,
               draining = CASE WHEN instance = $3 THEN $4 ELSE draining END,
               unwell = CASE WHEN instance = $3 THEN $5 ELSE unwell END
           WHERE id = $1 AND namespace = $2 RETURNING subject, instance"#,
        id.0,
        namespace,
        instance.0,
        draining,
        unwell
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
    millicpus: Option<i64>,
    memory: Option<i64>,
    draining: bool,
    unwell: Option<String>,
    cordoned_at: Option<Time>,
    cordoned_by: Option<String>,
    cordon_reason: Option<String>,
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
                  n.version, n.runtime, n.labels::text AS "labels!", n.millicpus, n.memory, n.draining, n.unwell,
                  n.cordoned_at AS "cordoned_at: Time", n.cordoned_by, n.cordon_reason,
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
    let cordon = row.cordoned_at.zip(row.cordoned_by);
    let cordon = cordon.map(|(at, by)| Paused { at: at.0, by, reason: row.cordon_reason });
    Ok(Node {
        id: NodeId(row.id),
        name: row.name,
        role: word(&row.role, "nodes.role")?,
        state: state(row.gone, row.draining, cordon.is_some(), row.unwell.is_some()),
        cordon,
        unwell: row.unwell,
        cpus: row.millicpus.map(|millicpus| millicpus as f64 / 1_000.0),
        memory: row.memory.and_then(|memory| u64::try_from(memory).ok()).map(Bytes),
        slots: u32::try_from(row.slots).unwrap_or_default(),
        running: u32::try_from(row.running).unwrap_or(u32::MAX),
        version: row.version,
        runtime: row.runtime,
        labels: from_json(&row.labels, "nodes.labels")?,
        registered_at: row.registered_at.0,
        last_seen_at: row.last_seen_at.0,
    })
}

const fn state(gone: bool, draining: bool, cordoned: bool, unwell: bool) -> NodeState {
    if gone {
        NodeState::Gone
    } else if draining {
        NodeState::Draining
    } else if cordoned {
        NodeState::Cordoned
    } else if unwell {
        NodeState::Unwell
    } else {
        NodeState::Ready
    }
}

/// Nodes by role and state.
pub(crate) async fn counts(
    connection: &mut PgConnection,
    lease: Duration,
) -> sqlx::Result<Vec<(orca_proto::spec::Role, NodeState, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT role, last_seen_at < orca.now() - $1::bigint * interval '1 millisecond' AS "gone!", draining,
                  cordoned_at IS NOT NULL AS "cordoned!", unwell IS NOT NULL AS "unwell!", count(*) AS "count!"
           FROM orca.nodes GROUP BY 1, 2, 3, 4, 5"#,
        millis(lease)
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let state = state(row.gone, row.draining, row.cordoned, row.unwell);
            Ok((word(&row.role, "nodes.role")?, state, row.count))
        })
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
