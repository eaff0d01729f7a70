//! Idempotency keys: one key, one request, one answer.

use orca_proto::ids::TaskId;
use sqlx::PgConnection;
use uuid::Uuid;

/// What was answered under a key, and to which request.
pub(crate) struct Answered {
    pub(crate) request: Vec<u8>,
    pub(crate) ids: Vec<Uuid>,
}

/// Takes the key for this request, or answers what it was used for. A request under way with the same key is waited for.
pub(crate) async fn take(
    connection: &mut PgConnection,
    namespace: &str,
    key: &str,
    request: &[u8],
    ids: &[TaskId],
) -> sqlx::Result<Option<Answered>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let taken = sqlx::query!(
        r#"INSERT INTO orca.idempotency_keys (namespace, key, request, ids) VALUES ($1, $2, $3, $4)
           ON CONFLICT DO NOTHING"#,
        namespace,
        key,
        request,
        &ids
    )
    .execute(&mut *connection)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    sqlx::query_as!(
        Answered,
        "SELECT request, ids FROM orca.idempotency_keys WHERE namespace = $1 AND key = $2",
        namespace,
        key
    )
    .fetch_optional(connection)
    .await
}

/// Forgets keys older than a day, at most `most`.
pub(crate) async fn forget_old(connection: &mut PgConnection, most: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"DELETE FROM orca.idempotency_keys WHERE (namespace, key) IN (
               SELECT namespace, key FROM orca.idempotency_keys WHERE created_at < orca.now() - interval '24 hours'
               ORDER BY created_at LIMIT $1)"#,
        most
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Changes what a key answers: other tasks stand in for some of those that were to be made.
pub(crate) async fn amend(
    connection: &mut PgConnection,
    namespace: &str,
    key: &str,
    ids: &[TaskId],
) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query!(
        "UPDATE orca.idempotency_keys SET ids = $3 WHERE namespace = $1 AND key = $2",
        namespace,
        key,
        &ids
    )
    .execute(connection)
    .await
    .map(drop)
}
