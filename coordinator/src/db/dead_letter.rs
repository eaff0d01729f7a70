//! Dead letters: tasks that failed or expired and that nobody tried again or took off the list. A goal's finish step is none:
//! its goal is.

use orca_proto::ids::TaskId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Time;
use super::selection::Wanted;

/// The filters of a page.
pub(crate) struct Filter<'a> {
    pub(crate) queue: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) before: Option<TaskId>,
    pub(crate) limit: i64,
}

/// A page of dead letters of a namespace, newest first.
pub(crate) async fn page(
    connection: &mut PgConnection,
    namespace: &str,
    filter: &Filter<'_>,
) -> sqlx::Result<Vec<TaskId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT t.id FROM orca.tasks t JOIN orca.lanes l ON l.id = t.lane
           WHERE t.namespace = $1 AND t.state IN ('failed', 'expired') AND t.dismissed IS NULL
             AND t.step IS DISTINCT FROM 'finish' AND ($2::text IS NULL OR l.queue = $2)
             AND ($3::text IS NULL OR l.grp = $3) AND ($4::text IS NULL OR t.name = $4)
             AND ($5::uuid IS NULL OR t.id < $5)
           ORDER BY t.id DESC LIMIT $6"#,
        namespace,
        filter.queue,
        filter.group,
        filter.name,
        filter.before.map(|id| id.0),
        filter.limit
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// Waits until nobody else changes the namespace's list in the large, until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT pg_advisory_xact_lock(7024424, hashtext($1)) AS "done: _""#, namespace)
        .execute(connection)
        .await
        .map(drop)
}

/// A dead letter to be tried again.
pub(crate) struct Letter {
    pub(crate) id: Uuid,
    pub(crate) spec: String,
    pub(crate) created_at: Time,
}

/// The next dead letters that are meant, oldest first: at most `most`, whose specs take at most `bytes` together, or one.
pub(crate) async fn next(
    connection: &mut PgConnection,
    namespace: &str,
    wanted: &Wanted,
    (after, upto): (Uuid, Uuid),
    (most, bytes): (i64, i64),
) -> sqlx::Result<Vec<Letter>> {
    sqlx::query_as!(
        Letter,
        r#"WITH found AS (
               SELECT t.id, t.spec, t.created_at, sum(octet_length(t.spec)) OVER (ORDER BY t.id) AS bytes,
                      row_number() OVER (ORDER BY t.id) AS place
               FROM orca.tasks t JOIN orca.lanes l ON l.id = t.lane
               WHERE t.namespace = $1 AND t.state IN ('failed', 'expired') AND t.dismissed IS NULL
                 AND t.step IS DISTINCT FROM 'finish' AND t.id > $2 AND t.id <= $3
                 AND ($4::uuid[] IS NULL OR t.id = ANY ($4)) AND ($5::text[] IS NULL OR t.state = ANY ($5))
                 AND ($6::text IS NULL OR l.queue = $6) AND ($7::text IS NULL OR l.grp = $7)
                 AND ($8::text IS NULL OR t.name = $8) AND ($9::text IS NULL OR t.labels @> $9::text::jsonb)
                 AND ($10::bigint IS NULL OR t.created_at < orca.instant($10))
               ORDER BY t.id LIMIT $11)
           SELECT f.id AS "id!", f.spec AS "spec!", f.created_at AS "created_at!: Time"
           FROM found f WHERE f.place = 1 OR f.bytes <= $12 ORDER BY f.id"#,
        namespace,
        after,
        upto,
        wanted.ids.as_deref(),
        wanted.states.as_deref(),
        wanted.queue,
        wanted.group,
        wanted.name,
        wanted.labels,
        wanted.created_before,
        most,
        bytes
    )
    .fetch_all(connection)
    .await
}

/// How many dead letters are meant, counted up to `most`.
pub(crate) async fn count(
    connection: &mut PgConnection,
    namespace: &str,
    wanted: &Wanted,
    most: i64,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (
               SELECT FROM orca.tasks t JOIN orca.lanes l ON l.id = t.lane
               WHERE t.namespace = $1 AND t.state IN ('failed', 'expired') AND t.dismissed IS NULL
                 AND t.step IS DISTINCT FROM 'finish'
                 AND ($2::uuid[] IS NULL OR t.id = ANY ($2)) AND ($3::text[] IS NULL OR t.state = ANY ($3))
                 AND ($4::text IS NULL OR l.queue = $4) AND ($5::text IS NULL OR l.grp = $5)
                 AND ($6::text IS NULL OR t.name = $6) AND ($7::text IS NULL OR t.labels @> $7::text::jsonb)
                 AND ($8::bigint IS NULL OR t.created_at < orca.instant($8)) LIMIT $9) AS found"#,
        namespace,
        wanted.ids.as_deref(),
        wanted.states.as_deref(),
        wanted.queue,
        wanted.group,
        wanted.name,
        wanted.labels,
        wanted.created_before,
        most
    )
    .fetch_one(connection)
    .await
}

/// Takes at most `most` of the dead letters that are meant off the list; answers how many that were.
pub(crate) async fn purge(
    connection: &mut PgConnection,
    namespace: &str,
    wanted: &Wanted,
    upto: Uuid,
    most: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"UPDATE orca.tasks d SET dismissed = true
           WHERE d.state IN ('failed', 'expired') AND d.dismissed IS NULL AND d.id = ANY (ARRAY(
               SELECT t.id FROM orca.tasks t JOIN orca.lanes l ON l.id = t.lane
               WHERE t.namespace = $1 AND t.state IN ('failed', 'expired') AND t.dismissed IS NULL
                 AND t.step IS DISTINCT FROM 'finish' AND t.id <= $2
                 AND ($3::uuid[] IS NULL OR t.id = ANY ($3)) AND ($4::text[] IS NULL OR t.state = ANY ($4))
                 AND ($5::text IS NULL OR l.queue = $5) AND ($6::text IS NULL OR l.grp = $6)
                 AND ($7::text IS NULL OR t.name = $7) AND ($8::text IS NULL OR t.labels @> $8::text::jsonb)
                 AND ($9::bigint IS NULL OR t.created_at < orca.instant($9))
               ORDER BY t.id LIMIT $10))"#,
        namespace,
        upto,
        wanted.ids.as_deref(),
        wanted.states.as_deref(),
        wanted.queue,
        wanted.group,
        wanted.name,
        wanted.labels,
        wanted.created_before,
        most
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Takes these tasks off the list, where they are on it.
pub(crate) async fn dismiss(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.tasks SET dismissed = true
           WHERE id = ANY ($1) AND state IN ('failed', 'expired') AND dismissed IS NULL"#,
        ids
    )
    .execute(connection)
    .await
    .map(drop)
}
