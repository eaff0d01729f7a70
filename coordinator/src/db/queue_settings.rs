//! What operators set for queues and for groups inside of them (the empty group is the queue itself), and what is in line.

use orca_proto::limits;
use orca_proto::queue::{GroupSettings, QueueSettings, Rate};
use sqlx::PgConnection;

/// Tasks of a lane up to which those that ended in line are looked for, and not counted.
const EXACT: i64 = limits::COUNTED.cast_signed();

/// Settings of a queue or a group, as their row has them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    max_running: Option<u32>,
    rate: Option<Rate>,
    ageing_ms: Option<i64>,
    weight: Option<i32>,
}

impl From<&QueueSettings> for Row {
    fn from(settings: &QueueSettings) -> Self {
        let QueueSettings { max_running, rate, ageing } = settings;
        let ageing_ms = ageing.map(|ageing| super::millis(ageing.get()));
        Self { max_running: *max_running, rate: *rate, ageing_ms, weight: None }
    }
}

impl From<&GroupSettings> for Row {
    fn from(settings: &GroupSettings) -> Self {
        let GroupSettings { weight, max_running, rate } = settings;
        let weight = i32::try_from(*weight).ok();
        Self { max_running: *max_running, rate: *rate, ageing_ms: None, weight }
    }
}

/// What of a filter the namespace has seen: tasks were enqueued there, or somebody set something.
pub(crate) struct Known {
    pub(crate) queue: bool,
    pub(crate) group: bool,
}

/// Whether there is such a queue, and such a group in it, or in any queue where none is named.
pub(crate) async fn known(
    connection: &mut PgConnection,
    namespace: &str,
    queue: Option<&str>,
    group: Option<&str>,
) -> sqlx::Result<Known> {
    sqlx::query_as!(
        Known,
        r#"SELECT EXISTS (SELECT FROM orca.lanes l WHERE l.namespace = $1 AND l.queue = $2)
               OR EXISTS (SELECT FROM orca.queues q WHERE q.namespace = $1 AND q.queue = $2) AS "queue!",
                  EXISTS (SELECT FROM orca.lanes l
                          WHERE l.namespace = $1 AND ($2::text IS NULL OR l.queue = $2) AND l.grp = $3)
               OR EXISTS (SELECT FROM orca.queues q
                          WHERE q.namespace = $1 AND ($2::text IS NULL OR q.queue = $2) AND q.grp = $3) AS "group!""#,
        namespace,
        queue,
        group
    )
    .fetch_one(connection)
    .await
}

/// Waits for the claims under way in a namespace, and lets no other go on until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT pg_advisory_xact_lock(7024422, hashtext($1)) AS "done: _""#, namespace)
        .execute(connection)
        .await
        .map(drop)
}

/// Sets how a queue or a group is served; whether it is paused stays. What is left of a rate is carried over to the next.
pub(crate) async fn set(
    connection: &mut PgConnection,
    namespace: &str,
    queue: &str,
    group: &str,
    row: Row,
) -> sqlx::Result<()> {
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    sqlx::query!(
        r#"INSERT INTO orca.queues AS q (namespace, queue, grp, max_running, rate_tasks, rate_per_ms, ageing_ms, weight)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
           ON CONFLICT (namespace, queue, grp) DO UPDATE SET
               max_running = excluded.max_running, ageing_ms = excluded.ageing_ms, weight = excluded.weight,
               rate_tasks = excluded.rate_tasks, rate_per_ms = excluded.rate_per_ms,
               allowance = CASE WHEN excluded.rate_tasks IS NOT NULL AND q.allowance_at IS NOT NULL
                   THEN orca.rate_left(q.rate_tasks, q.rate_per_ms, q.allowance, q.allowance_at, orca.now()) END,
               allowance_at = CASE WHEN excluded.rate_tasks IS NOT NULL AND q.allowance_at IS NOT NULL
                   THEN greatest(q.allowance_at, orca.now()) END"#,
        namespace,
        queue,
        group,
        row.max_running.map(number),
        row.rate.map(|rate| number(rate.tasks)),
        row.rate.map(|rate| super::millis(rate.per.get())),
        row.ageing_ms,
        row.weight
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Whether a task or a setting has named a queue, or a group of it.
pub(crate) async fn is_known(
    connection: &mut PgConnection,
    namespace: &str,
    queue: &str,
    group: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM orca.queues WHERE namespace = $1 AND queue = $2 AND ($3 = '' OR grp = $3))
               OR EXISTS (SELECT FROM orca.lanes WHERE namespace = $1 AND queue = $2 AND ($3 = '' OR grp = $3)) AS "known!""#,
        namespace,
        queue,
        group
    )
    .fetch_one(connection)
    .await
}

/// How many tasks of a queue have not ended. What ended in a long line counts until it is passed over.
pub(crate) async fn open(connection: &mut PgConnection, namespace: &str, queue: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"WITH l AS MATERIALIZED (SELECT id FROM orca.lanes WHERE namespace = $1 AND queue = $2)
           SELECT (coalesce((SELECT sum(orca.in_line(l.id, $3)) FROM l), 0)
               + (SELECT coalesce(sum(g.open), 0) FROM l JOIN orca.grants g ON g.lane = l.id AND g.open > 0)
               + (SELECT count(*) FROM orca.tasks t JOIN l ON l.id = t.lane WHERE t.state = 'scheduled')
               + (SELECT count(*) FROM orca.tasks t JOIN l ON l.id = t.lane
                  WHERE t.state IN ('blocked', 'waiting')))::bigint AS "open!""#,
        namespace,
        queue,
        EXACT
    )
    .fetch_one(connection)
    .await
}

/// Removes what was set for a queue and its groups; answers whether there was anything.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    namespace: &str,
    queue: &str,
) -> sqlx::Result<bool> {
    let done = sqlx::query!("DELETE FROM orca.queues WHERE namespace = $1 AND queue = $2", namespace, queue)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Pauses a queue or a group that is not paused yet.
pub(crate) async fn pause(
    connection: &mut PgConnection,
    namespace: &str,
    queue: &str,
    group: &str,
    by: &str,
    reason: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.queues AS q (namespace, queue, grp, paused_at, paused_by, paused_reason)
           VALUES ($1, $2, $3, orca.now(), $4, $5)
           ON CONFLICT (namespace, queue, grp) DO UPDATE SET
               paused_at = excluded.paused_at, paused_by = excluded.paused_by, paused_reason = excluded.paused_reason
           WHERE q.paused_at IS NULL"#,
        namespace,
        queue,
        group,
        by,
        reason
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Ends a pause, where there is one.
pub(crate) async fn resume(
    connection: &mut PgConnection,
    namespace: &str,
    queue: &str,
    group: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.queues SET paused_at = NULL, paused_by = NULL, paused_reason = NULL
           WHERE namespace = $1 AND queue = $2 AND grp = $3"#,
        namespace,
        queue,
        group
    )
    .execute(connection)
    .await
    .map(drop)
}

/// What stands in the lanes of one flow: a group of a queue, or its tasks without one (the empty group).
pub(crate) struct InLine {
    pub(crate) queue: String,
    pub(crate) group: String,
    pub(crate) ready: i64,
    pub(crate) running: i64,
}

/// What is in line and what runs of each flow that a task has ever named; with `queue`, of that one. By name.
pub(crate) async fn in_line(
    connection: &mut PgConnection,
    namespace: &str,
    queue: Option<&str>,
) -> sqlx::Result<Vec<InLine>> {
    sqlx::query_as!(
        InLine,
        r#"SELECT l.queue, l.grp AS group, coalesce(sum(CASE WHEN x.lane IS NOT NULL THEN orca.in_line(l.id, $3) END), 0)::bigint
                      AS "ready!",
                  coalesce(sum(g.open), 0)::bigint AS "running!"
           FROM orca.lanes l LEFT JOIN orca.lined x ON x.lane = l.id
           LEFT JOIN (SELECT lane, sum(open) AS open FROM orca.grants WHERE open > 0 GROUP BY lane) g ON g.lane = l.id
           WHERE l.namespace = $1 AND ($2::text IS NULL OR l.queue = $2)
           GROUP BY l.queue, l.grp ORDER BY l.queue, l.grp"#,
        namespace,
        queue,
        EXACT
    )
    .fetch_all(connection)
    .await
}
