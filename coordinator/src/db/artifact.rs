//! Records of stored files.

use orca_proto::artifact::Artifact;
use orca_proto::ids::{ArtifactId, TaskId};
use orca_proto::node::LeaseRef;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Time;

/// A record as it comes.
struct Row {
    id: Uuid,
    name: String,
    size: i64,
    sha256: Vec<u8>,
    task: Option<Uuid>,
    created_at: Time,
}

impl From<Row> for Artifact {
    fn from(row: Row) -> Self {
        Self {
            id: ArtifactId(row.id),
            name: row.name,
            size: u64::try_from(row.size).unwrap_or_default(),
            sha256: crate::blobs::hex(&row.sha256),
            task: row.task.map(TaskId),
            created_at: row.created_at.0,
        }
    }
}

/// What is to be recorded.
pub(crate) struct NewArtifact<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) lease: Option<LeaseRef>,
    pub(crate) name: &'a str,
    pub(crate) size: i64,
    pub(crate) sha256: &'a [u8],
}

/// Records a stored file; an attempt's file of the same name is replaced.
pub(crate) async fn insert(connection: &mut PgConnection, new: &NewArtifact<'_>) -> sqlx::Result<Artifact> {
    let (task, token) = (new.lease.map(|lease| lease.task.0), new.lease.map(|lease| lease.token.0));
    if new.lease.is_some() {
        sqlx::query!(
            r#"WITH gone AS (DELETE FROM orca.artifacts WHERE task = $1 AND token = $2 AND name = $3 RETURNING sha256)
               INSERT INTO orca.blob_garbage (sha256) SELECT DISTINCT sha256 FROM gone ON CONFLICT DO NOTHING"#,
            task,
            token,
            new.name
        )
        .execute(&mut *connection)
        .await?;
    }
    let row = sqlx::query_as!(
        Row,
        r#"INSERT INTO orca.artifacts (id, namespace, task, token, name, size, sha256)
           VALUES ($1, $2, $3, $4, $5, $6, $7)
           RETURNING id, name, size, sha256, task, created_at AS "created_at: Time""#,
        ArtifactId::new().0,
        new.namespace,
        task,
        token,
        new.name,
        new.size,
        new.sha256
    )
    .fetch_one(connection)
    .await?;
    Ok(row.into())
}

/// How many files an attempt has kept.
pub(crate) async fn count(connection: &mut PgConnection, lease: LeaseRef) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM orca.artifacts WHERE task = $1 AND token = $2"#,
        lease.task.0,
        lease.token.0
    )
    .fetch_one(connection)
    .await
}

/// One record of the namespace.
pub(crate) async fn get(
    connection: &mut PgConnection,
    namespace: &str,
    id: ArtifactId,
) -> sqlx::Result<Option<Artifact>> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, name, size, sha256, task, created_at AS "created_at: Time" FROM orca.artifacts
           WHERE id = $1 AND namespace = $2"#,
        id.0,
        namespace
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(Artifact::from))
}

/// Which of these the namespace has; they stay until the transaction ends.
pub(crate) async fn known(
    connection: &mut PgConnection,
    namespace: &str,
    ids: &[Uuid],
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "SELECT id FROM orca.artifacts WHERE namespace = $1 AND id = ANY($2) ORDER BY id FOR KEY SHARE",
        namespace,
        ids
    )
    .fetch_all(connection)
    .await
}

/// What these tasks' newest attempts kept, by task and name, at most `most`.
pub(crate) async fn of_tasks(
    connection: &mut PgConnection,
    tasks: &[Uuid],
    most: i64,
) -> sqlx::Result<Vec<Artifact>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT a.id, a.name, a.size, a.sha256, a.task, a.created_at AS "created_at: Time"
           FROM orca.artifacts a JOIN orca.tasks t ON t.id = a.task AND t.fence = a.token
           WHERE a.task = ANY($1) ORDER BY a.task, a.name LIMIT $2"#,
        tasks,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Artifact::from).collect())
}

/// What a task's attempts kept, by name and then by attempt.
pub(crate) async fn of_task(connection: &mut PgConnection, task: TaskId) -> sqlx::Result<Vec<Artifact>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, name, size, sha256, task, created_at AS "created_at: Time" FROM orca.artifacts
           WHERE task = $1 ORDER BY name, token"#,
        task.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Artifact::from).collect())
}

/// Notes content that no record may name.
pub(crate) async fn discard(connection: &mut PgConnection, sha256: &[u8]) -> sqlx::Result<()> {
    sqlx::query!("INSERT INTO orca.blob_garbage (sha256) VALUES ($1) ON CONFLICT DO NOTHING", sha256)
        .execute(connection)
        .await
        .map(drop)
}

/// Content noted an hour ago or earlier that no record names: its bytes may go.
pub(crate) async fn garbage(connection: &mut PgConnection, most: i64) -> sqlx::Result<Vec<Vec<u8>>> {
    sqlx::query_scalar!(
        r#"WITH old AS (
               DELETE FROM orca.blob_garbage WHERE sha256 IN (
                   SELECT sha256 FROM orca.blob_garbage WHERE since < orca.now() - interval '1 hour'
                   ORDER BY since LIMIT $1 FOR UPDATE SKIP LOCKED)
               RETURNING sha256)
           SELECT sha256 FROM old o WHERE NOT EXISTS (SELECT FROM orca.artifacts a WHERE a.sha256 = o.sha256)"#,
        most
    )
    .fetch_all(connection)
    .await
}

/// Whether any record names this content.
pub(crate) async fn is_recorded(connection: &mut PgConnection, sha256: &[u8]) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM orca.artifacts WHERE sha256 = $1) AS "found!""#, sha256)
        .fetch_one(connection)
        .await
}
