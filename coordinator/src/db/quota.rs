//! Quotas of namespaces, and what is used of them.

use sqlx::PgConnection;

/// What a namespace may have.
pub(crate) struct Quota {
    pub(crate) max_open: Option<i64>,
    pub(crate) max_running: Option<i32>,
    pub(crate) max_queues: Option<i32>,
}

/// Locks the quota of a namespace, if it has one.
pub(crate) async fn lock(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        "SELECT max_open, max_running, max_queues FROM orca.namespaces WHERE name = $1 FOR UPDATE",
        namespace
    )
    .fetch_optional(connection)
    .await
}

/// Reads the quota of a namespace, if it has one.
pub(crate) async fn get(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        "SELECT max_open, max_running, max_queues FROM orca.namespaces WHERE name = $1",
        namespace
    )
    .fetch_optional(connection)
    .await
}

/// Tasks of a namespace that have not ended. What ended in line counts until it is passed over.
pub(crate) async fn open(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT (coalesce((
               SELECT sum(x.waiting) FROM orca.lanes l
               LEFT JOIN LATERAL (SELECT g.seq, g.upto FROM orca.grants g WHERE g.lane = l.id
                                  ORDER BY g.seq DESC, g.upto DESC LIMIT 1) head ON true
               CROSS JOIN LATERAL (
                   SELECT sum(s.size) - coalesce(max(head.upto) FILTER (WHERE s.seq = head.seq), 0) AS waiting
                   FROM orca.segments s WHERE s.lane = l.id AND s.seq >= coalesce(head.seq, 0)) x
               WHERE l.namespace = $1), 0)
           + (SELECT coalesce(sum(g.open), 0) FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
              WHERE l.namespace = $1 AND g.open > 0)
           + (SELECT count(*) FROM orca.tasks WHERE state = 'scheduled' AND namespace = $1)
           + (SELECT count(*) FROM orca.tasks WHERE state IN ('blocked', 'waiting') AND namespace = $1))::bigint AS "open!""#,
        namespace
    )
    .fetch_one(connection)
    .await
}
