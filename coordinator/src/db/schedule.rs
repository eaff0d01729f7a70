//! Schedules: what was set, what is due, and what was done.

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Time;

/// A schedule as it is stored. Its spec is text: whoever fires schedules must not stumble over one that cannot be read.
pub(crate) struct Stored {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) spec: String,
    pub(crate) next_run: Option<Time>,
    pub(crate) paused_at: Option<Time>,
    pub(crate) paused_by: Option<String>,
    pub(crate) paused_reason: Option<String>,
    pub(crate) last_at: Option<Time>,
    pub(crate) last_task: Option<Uuid>,
    /// The task that a next run may not overlap: of the run that was enqueued last, whatever instant it was for.
    pub(crate) open_task: Option<Uuid>,
    pub(crate) created_at: Time,
    pub(crate) updated_at: Time,
}

/// One schedule of a namespace.
pub(crate) async fn get(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
) -> sqlx::Result<Option<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"SELECT namespace, name, spec::text AS "spec!", next_run AS "next_run: Time",
                  paused_at AS "paused_at: Time", paused_by, paused_reason, last_at AS "last_at: Time", last_task, open_task,
                  created_at AS "created_at: Time", updated_at AS "updated_at: Time"
           FROM orca.schedules WHERE namespace = $1 AND name = $2"#,
        namespace,
        name
    )
    .fetch_optional(connection)
    .await
}

/// One schedule of a namespace, locked: nobody else fires or changes it until the transaction ends.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
) -> sqlx::Result<Option<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"SELECT namespace, name, spec::text AS "spec!", next_run AS "next_run: Time",
                  paused_at AS "paused_at: Time", paused_by, paused_reason, last_at AS "last_at: Time", last_task, open_task,
                  created_at AS "created_at: Time", updated_at AS "updated_at: Time"
           FROM orca.schedules WHERE namespace = $1 AND name = $2 FOR UPDATE"#,
        namespace,
        name
    )
    .fetch_optional(connection)
    .await
}

/// Schedules of a namespace by name, those after `after`: at most `most`, and no more than have `bytes` of specs together,
/// though at least one.
pub(crate) async fn list(
    connection: &mut PgConnection,
    namespace: &str,
    after: &str,
    most: i64,
    bytes: i64,
) -> sqlx::Result<Vec<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"SELECT namespace, name, spec AS "spec!", next_run AS "next_run: Time",
                  paused_at AS "paused_at: Time", paused_by, paused_reason, last_at AS "last_at: Time", last_task, open_task,
                  created_at AS "created_at: Time", updated_at AS "updated_at: Time"
           FROM (SELECT namespace, name, spec::text AS spec, next_run, paused_at, paused_by, paused_reason, last_at,
                        last_task, open_task, created_at, updated_at, row_number() OVER so_far AS place,
                        sum(octet_length(spec::text)) OVER so_far AS total
                 FROM orca.schedules WHERE namespace = $1 AND name > $2
                 WINDOW so_far AS (ORDER BY name) ORDER BY name LIMIT $3) page
           WHERE total <= $4 OR place = 1 ORDER BY name"#,
        namespace,
        after,
        most,
        bytes
    )
    .fetch_all(connection)
    .await
}

/// How many schedules a namespace has.
pub(crate) async fn count(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM orca.schedules WHERE namespace = $1"#, namespace)
        .fetch_one(connection)
        .await
}

/// A run to come, and when it is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) run: Timestamp,
    pub(crate) due_at: Timestamp,
}

/// Makes a schedule or changes its spec; what it has done, and whether it is paused, stays. Answers its id and whether it is
/// new.
pub(crate) async fn put(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
    spec: &str,
    next: Next,
) -> sqlx::Result<(Uuid, bool)> {
    let row = sqlx::query!(
        r#"INSERT INTO orca.schedules AS s (namespace, name, id, spec, next_run, next_at)
           VALUES ($1, $2, $3, $4::text::json, orca.instant($5), orca.instant($6))
           ON CONFLICT (namespace, name) DO UPDATE
               SET spec = excluded.spec, next_run = excluded.next_run, next_at = excluded.next_at,
                   updated_at = orca.now()
           RETURNING id, s.id = $3 AS "new!""#,
        namespace,
        name,
        Uuid::now_v7(),
        spec,
        next.run.as_microsecond(),
        next.due_at.as_microsecond()
    )
    .fetch_one(connection)
    .await?;
    Ok((row.id, row.new))
}

/// Has these artifacts, and no others, kept for the schedule.
pub(crate) async fn keep(connection: &mut PgConnection, id: Uuid, artifacts: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM orca.inputs WHERE task = $1 AND artifact <> ALL($2)", id, artifacts)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "INSERT INTO orca.inputs (task, artifact) SELECT DISTINCT $1::uuid, unnest($2::uuid[]) ON CONFLICT DO NOTHING",
        id,
        artifacts
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Forgets a schedule; answers the id it had. The tasks of its runs stay.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "DELETE FROM orca.schedules WHERE namespace = $1 AND name = $2 RETURNING id",
        namespace,
        name
    )
    .fetch_optional(connection)
    .await
}

/// Pauses a schedule that is not paused yet.
pub(crate) async fn pause(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
    by: &str,
    reason: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.schedules SET paused_at = orca.now(), paused_by = $3, paused_reason = $4
           WHERE namespace = $1 AND name = $2 AND paused_at IS NULL"#,
        namespace,
        name,
        by,
        reason
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Ends a pause.
pub(crate) async fn resume(connection: &mut PgConnection, namespace: &str, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.schedules SET paused_at = NULL, paused_by = NULL, paused_reason = NULL
           WHERE namespace = $1 AND name = $2"#,
        namespace,
        name
    )
    .execute(connection)
    .await
    .map(drop)
}

/// The namespaces of which a schedule is due, those first whose has been due longest. However many are due, one is looked at
/// of each namespace.
pub(crate) async fn due(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"WITH RECURSIVE first AS (
               (SELECT namespace, next_at FROM orca.schedules WHERE paused_at IS NULL AND next_at IS NOT NULL
                ORDER BY namespace, next_at LIMIT 1)
               UNION ALL
               SELECT next.namespace, next.next_at FROM first CROSS JOIN LATERAL (
                   SELECT s.namespace, s.next_at FROM orca.schedules s
                   WHERE s.paused_at IS NULL AND s.next_at IS NOT NULL AND s.namespace > first.namespace
                   ORDER BY s.namespace, s.next_at LIMIT 1) next)
           SELECT namespace AS "namespace!" FROM first WHERE next_at <= orca.now() ORDER BY next_at"#
    )
    .fetch_all(connection)
    .await
}

/// The schedule of a namespace that has been due longest, locked; those that another coordinator works on are passed over.
pub(crate) async fn take_due(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<Option<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"SELECT namespace, name, spec::text AS "spec!", next_run AS "next_run: Time",
                  paused_at AS "paused_at: Time", paused_by, paused_reason, last_at AS "last_at: Time", last_task, open_task,
                  created_at AS "created_at: Time", updated_at AS "updated_at: Time"
           FROM orca.schedules WHERE namespace = $1 AND paused_at IS NULL AND next_at <= orca.now()
           ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED"#,
        namespace
    )
    .fetch_optional(connection)
    .await
}

/// When the next schedule is due, as milliseconds from now: nothing where there is none, negative where it is late.
pub(crate) async fn next_due_ms(connection: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"SELECT ceil(extract(epoch FROM (min(next_at) - orca.now())) * 1000)::bigint AS "ms"
           FROM orca.schedules WHERE paused_at IS NULL AND next_at IS NOT NULL"#
    )
    .fetch_one(connection)
    .await
}

/// Sets the run to come.
pub(crate) async fn set_next(
    connection: &mut PgConnection,
    stored: &Stored,
    next: Option<Next>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.schedules SET next_run = orca.instant($3), next_at = orca.instant($4)
           WHERE namespace = $1 AND name = $2"#,
        stored.namespace,
        stored.name,
        next.map(|next| next.run.as_microsecond()),
        next.map(|next| next.due_at.as_microsecond())
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Looks at the same run again, so many milliseconds from now.
pub(crate) async fn postpone(connection: &mut PgConnection, stored: &Stored, by_ms: i64) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.schedules SET next_at = orca.now() + $3::bigint * interval '1 millisecond'
           WHERE namespace = $1 AND name = $2 AND next_at IS NOT NULL"#,
        stored.namespace,
        stored.name,
        by_ms
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Notes a run and its task: as the latest, unless one of a later instant was enqueued before.
pub(crate) async fn ran(
    connection: &mut PgConnection,
    stored: &Stored,
    run: Timestamp,
    task: TaskId,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.schedules
           SET open_task = $4, last_task = CASE WHEN last_at > orca.instant($3) THEN last_task ELSE $4 END,
               last_at = greatest(last_at, orca.instant($3))
           WHERE namespace = $1 AND name = $2"#,
        stored.namespace,
        stored.name,
        run.as_microsecond(),
        task.0
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Notes that runs were left out, `run` the newest of them.
pub(crate) async fn skipped(
    connection: &mut PgConnection,
    stored: &Stored,
    run: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.schedules SET skipped_at = orca.instant($3), skipped = skipped + 1
           WHERE namespace = $1 AND name = $2"#,
        stored.namespace,
        stored.name,
        run.as_microsecond()
    )
    .execute(connection)
    .await
    .map(drop)
}
