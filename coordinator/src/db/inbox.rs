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

/// The oldest entries, at most `most`, but for those of the namespaces in `except`.
pub(crate) async fn oldest(
    connection: &mut PgConnection,
    except: &[String],
    most: i64,
) -> sqlx::Result<Vec<Entry>> {
    sqlx::query_as!(
        Entry,
        "SELECT seq, id, namespace, spec, idempotency_key, request FROM orca.inbox WHERE NOT namespace = ANY($1)
         ORDER BY seq LIMIT $2",
        except,
        most
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
