//! What was enqueued from SQL and is not yet a task.

use orca_proto::ids::TaskId;
use sqlx::PgConnection;
use uuid::Uuid;

/// The advisory lock of whoever takes from the inbox: one at a time, so that a task comes before those that depend on it.
const LOCK: i64 = 7_024_432;

/// One enqueued spec, as it was given.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) seq: i64,
    /// The id that the caller was told.
    pub(crate) id: Uuid,
    pub(crate) namespace: String,
    pub(crate) spec: String,
    pub(crate) idempotency_key: Option<String>,
    /// SHA-256 of the spec.
    pub(crate) request: Vec<u8>,
}

/// Takes the lock of whoever takes from the inbox, until the transaction ends; answers false if another has it.
pub(crate) async fn lock(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "got!""#, LOCK).fetch_one(connection).await
}

/// The namespaces that have entries. However many those are, one is looked at of each.
pub(crate) async fn namespaces(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"WITH RECURSIVE known AS (
               SELECT min(namespace) AS name FROM orca.inbox
               UNION ALL
               SELECT (SELECT min(i.namespace) FROM orca.inbox i WHERE i.namespace > known.name) FROM known
               WHERE known.name IS NOT NULL)
           SELECT name AS "name!" FROM known WHERE name IS NOT NULL"#
    )
    .fetch_all(connection)
    .await
}

/// The oldest entries of a namespace: at most `most`, and no more than have `bytes` of specs together, though at least one.
/// No spec but theirs is read for it.
pub(crate) async fn oldest(
    connection: &mut PgConnection,
    namespace: &str,
    most: i64,
    bytes: i64,
) -> sqlx::Result<Vec<Entry>> {
    // Entry by entry: there may be any number of them, and the statistics may not know it.
    sqlx::query_as!(
        Entry,
        r#"WITH RECURSIVE page AS (
               (SELECT i.*, 1::bigint AS place, octet_length(i.spec)::bigint AS total FROM orca.inbox i
                WHERE i.namespace = $1 ORDER BY i.seq LIMIT 1)
               UNION ALL
               SELECT next.*, page.place + 1, page.total + octet_length(next.spec) FROM page CROSS JOIN LATERAL (
                   SELECT i.* FROM orca.inbox i WHERE i.namespace = $1 AND i.seq > page.seq ORDER BY i.seq LIMIT 1) next
               WHERE page.place < $2 AND page.total + octet_length(next.spec) <= $3)
           SELECT seq AS "seq!", id AS "id!", namespace AS "namespace!", spec AS "spec!", idempotency_key,
                  request AS "request!" FROM page ORDER BY seq"#,
        namespace,
        most,
        bytes
    )
    .fetch_all(connection)
    .await
}

/// Whether this entry is still there. The lock is held.
pub(crate) async fn is_there(connection: &mut PgConnection, seq: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM orca.inbox WHERE seq = $1) AS "there!""#, seq)
        .fetch_one(connection)
        .await
}

/// Removes entries; answers how many of them were there.
pub(crate) async fn remove(connection: &mut PgConnection, seqs: &[i64]) -> sqlx::Result<usize> {
    let done = sqlx::query!("DELETE FROM orca.inbox WHERE seq = ANY($1)", seqs).execute(connection).await?;
    Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
}

/// How many entries there are, counted up to `most`.
pub(crate) async fn count(connection: &mut PgConnection, most: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM (SELECT FROM orca.inbox LIMIT $1) AS i"#, most)
        .fetch_one(connection)
        .await
}

/// Whether a task of this id of the namespace is still an entry.
pub(crate) async fn waits(connection: &mut PgConnection, namespace: &str, id: TaskId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM orca.inbox WHERE id = $1 AND namespace = $2) AS "waits!""#,
        id.0,
        namespace
    )
    .fetch_one(connection)
    .await
}
