//! Log lines of attempts: gapless, in order, up to the cap.

use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::log::{LogEntry, LogLine};
use orca_proto::node::LeaseRef;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, as_word, word};

/// How far an attempt's log has come.
pub(crate) struct Extent {
    pub(crate) next: i64,
    pub(crate) bytes: i64,
    pub(crate) dropped: i64,
}

/// Locks and reads how far an attempt's log has come.
pub(crate) async fn lock_extent(
    connection: &mut PgConnection,
    lease: LeaseRef,
) -> sqlx::Result<Option<Extent>> {
    super::attempt::open(connection, lease).await?;
    sqlx::query_as!(
        Extent,
        r#"SELECT log_next AS next, log_bytes AS bytes, log_dropped AS dropped FROM orca.attempts
           WHERE task = $1 AND token = $2 FOR UPDATE"#,
        lease.task.0,
        lease.token.0
    )
    .fetch_optional(connection)
    .await
}

/// Stores lines and how far the log has come with them.
pub(crate) async fn append(
    connection: &mut PgConnection,
    lease: LeaseRef,
    lines: &[LogLine],
    extent: &Extent,
) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE orca.attempts SET log_next = $3, log_bytes = $4, log_dropped = $5 WHERE task = $1 AND token = $2",
        lease.task.0,
        lease.token.0,
        extent.next,
        extent.bytes,
        extent.dropped
    )
    .execute(&mut *connection)
    .await?;
    if lines.is_empty() {
        return Ok(());
    }
    let seqs: Vec<i64> = lines.iter().map(|line| line.seq).collect();
    let streams: Vec<String> = lines.iter().map(|line| as_word(&line.stream)).collect();
    let times: Vec<i64> = lines.iter().map(|line| line.at.as_microsecond()).collect();
    let texts: Vec<String> = lines.iter().map(|line| line.text.clone()).collect();
    sqlx::query!(
        r#"INSERT INTO orca.log_lines (task, token, seq, stream, at, text)
           SELECT $1, $2, l.seq, l.stream, orca.instant(l.at), l.text
           FROM unnest($3::bigint[], $4::text[], $5::bigint[], $6::text[]) AS l(seq, stream, at, text)"#,
        lease.task.0,
        lease.token.0,
        &seqs,
        &streams,
        &times,
        &texts
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Adds the line that tells how many were dropped to the logs of ended attempts that passed the cap.
pub(crate) async fn close(connection: &mut PgConnection, tasks: &[Uuid], tokens: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.log_lines (task, token, seq, stream, at, text)
           SELECT a.task, a.token, a.log_next - a.log_dropped, 'system', orca.now(),
                  a.log_dropped || ' more lines were dropped: the log of one attempt is kept up to 64 MiB'
           FROM orca.attempts a JOIN unnest($1::uuid[], $2::bigint[]) AS c(task, token)
             ON a.task = c.task AND a.token = c.token
           WHERE a.log_dropped > 0 ON CONFLICT DO NOTHING"#,
        tasks,
        tokens
    )
    .execute(connection)
    .await
    .map(drop)
}

/// At most `limit` lines of a task after (token, seq), oldest first; with `attempt`, only those of that number.
pub(crate) async fn page(
    connection: &mut PgConnection,
    task: TaskId,
    attempt: Option<i32>,
    (token, seq): (i64, i64),
    limit: i64,
) -> sqlx::Result<Vec<LogEntry>> {
    let rows = sqlx::query!(
        r#"SELECT a.number, l.token, l.seq, l.stream, l.at AS "at: Time", l.text
           FROM (SELECT x.token, x.seq, x.stream, x.at, x.text FROM orca.log_lines x
                 WHERE x.task = $1 AND (x.token, x.seq) > ($2, $3)
                   AND ($4::int IS NULL OR x.token = ANY (ARRAY(SELECT n.token FROM orca.attempts n
                                                                WHERE n.task = $1 AND n.number = $4)))
                 ORDER BY x.token, x.seq LIMIT $5) l
           JOIN orca.attempts a ON a.task = $1 AND a.token = l.token ORDER BY l.token, l.seq"#,
        task.0,
        token,
        seq,
        attempt,
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(LogEntry {
                attempt: row.number,
                token: FencingToken(row.token),
                seq: row.seq,
                stream: word(&row.stream, "log_lines.stream")?,
                at: row.at.0,
                text: row.text,
            })
        })
        .collect()
}

/// The line before the last `count` of a task, as (token, seq); nothing where there are no more. With `attempt`, of those of
/// that number.
pub(crate) async fn before_last(
    connection: &mut PgConnection,
    task: TaskId,
    attempt: Option<i32>,
    count: i64,
) -> sqlx::Result<Option<(i64, i64)>> {
    let row = sqlx::query!(
        r#"SELECT x.token, x.seq FROM orca.log_lines x
           WHERE x.task = $1 AND ($2::int IS NULL OR x.token = ANY (ARRAY(SELECT n.token FROM orca.attempts n
                                                                         WHERE n.task = $1 AND n.number = $2)))
           ORDER BY x.token DESC, x.seq DESC OFFSET $3 LIMIT 1"#,
        task.0,
        attempt,
        count
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.token, row.seq)))
}
