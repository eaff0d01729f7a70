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

/// Sets the quota of a namespace.
pub(crate) async fn set(connection: &mut PgConnection, namespace: &str, quota: &Quota) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.namespaces (name, max_open, max_running, max_queues) VALUES ($1, $2, $3, $4)
           ON CONFLICT (name) DO UPDATE SET max_open = excluded.max_open, max_running = excluded.max_running,
               max_queues = excluded.max_queues"#,
        namespace,
        quota.max_open,
        quota.max_running,
        quota.max_queues
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Tasks of a namespace that have not ended. What ended in line counts until it is passed over, but for lanes in which no
/// more than `exact` wait.
pub(crate) async fn open(connection: &mut PgConnection, namespace: &str, exact: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT (coalesce((SELECT sum(orca.in_line(l.id, $2)) FROM orca.lined x JOIN orca.lanes l ON l.id = x.lane
                               WHERE l.namespace = $1), 0)
           + (SELECT coalesce(sum(g.open), 0) FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
              WHERE l.namespace = $1 AND g.open > 0)
           + (SELECT count(*) FROM orca.tasks WHERE state = 'scheduled' AND namespace = $1)
           + (SELECT count(*) FROM orca.tasks WHERE state IN ('blocked', 'waiting') AND namespace = $1))::bigint AS "open!""#,
        namespace,
        exact
    )
    .fetch_one(connection)
    .await
}

/// Tasks of a namespace that nodes hold.
pub(crate) async fn running(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(sum(g.open), 0)::bigint AS "running!" FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
           WHERE l.namespace = $1 AND g.open > 0"#,
        namespace
    )
    .fetch_one(connection)
    .await
}

/// How many queues a namespace has by now, and how many of these would be new to it.
pub(crate) async fn queues(
    connection: &mut PgConnection,
    namespace: &str,
    names: &[String],
) -> sqlx::Result<(i64, i64)> {
    let row = sqlx::query!(
        r#"WITH known AS (
               SELECT queue FROM orca.lanes WHERE namespace = $1 UNION SELECT queue FROM orca.queues WHERE namespace = $1)
           SELECT (SELECT count(*) FROM known) AS "known!",
                  (SELECT count(DISTINCT u.name) FROM unnest($2::text[]) AS u(name)
                   WHERE NOT EXISTS (SELECT FROM known k WHERE k.queue = u.name)) AS "new!""#,
        namespace,
        names
    )
    .fetch_one(connection)
    .await?;
    Ok((row.known, row.new))
}
