//! Secrets, as they are encrypted. No statement sees a value.

use sqlx::PgConnection;

use super::Time;
use crate::keyring::{Sealed, Whose};

/// What is told of a secret.
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) version: i64,
    pub(crate) created_at: Time,
    pub(crate) created_by: String,
    pub(crate) updated_at: Time,
    pub(crate) updated_by: String,
}

/// A secret as it is stored.
pub(crate) struct Stored {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) version: i64,
    key_id: String,
    nonce: Vec<u8>,
    ciphertext: Vec<u8>,
}

impl Stored {
    pub(crate) fn whose(&self) -> Whose<'_> {
        Whose { namespace: &self.namespace, name: &self.name, version: self.version }
    }

    pub(crate) fn sealed(&self) -> Sealed {
        Sealed { key_id: self.key_id.clone(), nonce: self.nonce.clone(), ciphertext: self.ciphertext.clone() }
    }
}

/// The version of a secret, 0 where there is none. Locks its row.
pub(crate) async fn lock_version(
    connection: &mut PgConnection,
    namespace: &str,
    name: &str,
) -> sqlx::Result<i64> {
    let version = sqlx::query_scalar!(
        "SELECT version FROM orca.secrets WHERE namespace = $1 AND name = $2 FOR UPDATE",
        namespace,
        name
    )
    .fetch_optional(connection)
    .await?;
    Ok(version.unwrap_or_default())
}

/// How many secrets a namespace has.
pub(crate) async fn count(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM orca.secrets WHERE namespace = $1"#, namespace)
        .fetch_one(connection)
        .await
}

/// Stores a secret as the version after `before`; nothing if that is not the version that is there by now.
pub(crate) async fn put(
    connection: &mut PgConnection,
    whose: Whose<'_>,
    before: i64,
    sealed: &Sealed,
    by: &str,
) -> sqlx::Result<Option<Told>> {
    sqlx::query_as!(
        Told,
        r#"INSERT INTO orca.secrets AS s (namespace, name, version, key_id, nonce, ciphertext, created_by, updated_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
           ON CONFLICT (namespace, name) DO UPDATE
               SET version = excluded.version, key_id = excluded.key_id, nonce = excluded.nonce,
                   ciphertext = excluded.ciphertext, updated_by = excluded.updated_by, updated_at = orca.now()
               WHERE s.version = $8
           RETURNING name, version, created_at AS "created_at: Time", created_by, updated_at AS "updated_at: Time",
                     updated_by"#,
        whose.namespace,
        whose.name,
        whose.version,
        sealed.key_id,
        sealed.nonce,
        sealed.ciphertext,
        by,
        before
    )
    .fetch_optional(connection)
    .await
}

/// Secrets of a namespace by name, those after `after`, at most `most`.
pub(crate) async fn list(
    connection: &mut PgConnection,
    namespace: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<Told>> {
    sqlx::query_as!(
        Told,
        r#"SELECT name, version, created_at AS "created_at: Time", created_by, updated_at AS "updated_at: Time", updated_by
           FROM orca.secrets WHERE namespace = $1 AND name > $2 ORDER BY name LIMIT $3"#,
        namespace,
        after,
        most
    )
    .fetch_all(connection)
    .await
}

/// Forgets a secret; answers whether there was one.
pub(crate) async fn delete(connection: &mut PgConnection, namespace: &str, name: &str) -> sqlx::Result<bool> {
    let deleted =
        sqlx::query!("DELETE FROM orca.secrets WHERE namespace = $1 AND name = $2", namespace, name)
            .execute(connection)
            .await?;
    Ok(deleted.rows_affected() > 0)
}

/// Those of these secrets that the namespace has.
pub(crate) async fn read(
    connection: &mut PgConnection,
    namespace: &str,
    names: &[String],
) -> sqlx::Result<Vec<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"SELECT namespace, name, version, key_id, nonce, ciphertext FROM orca.secrets
           WHERE namespace = $1 AND name = ANY($2)"#,
        namespace,
        names
    )
    .fetch_all(connection)
    .await
}

/// Those of these secrets that the namespace has, each with the length of its value in bytes.
pub(crate) async fn sizes(
    connection: &mut PgConnection,
    namespace: &str,
    names: &[String],
) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT name, octet_length(ciphertext)::bigint - 16 AS "bytes!" FROM orca.secrets
           WHERE namespace = $1 AND name = ANY($2)"#,
        namespace,
        names
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.bytes)).collect())
}

/// Secrets of all namespaces that are not under the key `newest`, those after `after` (namespace and name), at most `most`;
/// locked.
pub(crate) async fn take_others(
    connection: &mut PgConnection,
    newest: &str,
    after: (&str, &str),
    most: i64,
) -> sqlx::Result<Vec<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"SELECT namespace, name, version, key_id, nonce, ciphertext FROM orca.secrets
           WHERE key_id <> $1 AND (namespace, name) > ($2, $3) ORDER BY namespace, name LIMIT $4 FOR UPDATE"#,
        newest,
        after.0,
        after.1,
        most
    )
    .fetch_all(connection)
    .await
}

/// Stores the same value of the same version under another key.
pub(crate) async fn seal_again(
    connection: &mut PgConnection,
    whose: Whose<'_>,
    sealed: &Sealed,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"UPDATE orca.secrets SET key_id = $4, nonce = $5, ciphertext = $6
           WHERE namespace = $1 AND name = $2 AND version = $3"#,
        whose.namespace,
        whose.name,
        whose.version,
        sealed.key_id,
        sealed.nonce,
        sealed.ciphertext
    )
    .execute(connection)
    .await
    .map(drop)
}

/// The ids of the keys that secrets are under, each with how many are.
pub(crate) async fn keys(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT key_id, count(*) AS "count!" FROM orca.secrets GROUP BY key_id ORDER BY key_id"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.key_id, row.count)).collect())
}
