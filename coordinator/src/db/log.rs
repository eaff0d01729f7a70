//! Log lines of attempts: gapless, in order, up to the cap.

use std::borrow::Cow;

use jiff::Timestamp;
use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::log::{LogEntry, LogLine, Stream};
use orca_proto::node::LeaseRef;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{corrupt, from_json, to_json};

/// Text of the lines in one chunk, in bytes. A page is read from few of them, so they are not much larger than one.
const CHUNK: usize = 128 << 10;
/// What a line takes beside its text.
const OVERHEAD: usize = 40;

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
    let chunks = chunks(lines)?;
    if chunks.is_empty() {
        return Ok(());
    }
    let firsts: Vec<i64> = chunks.iter().map(|chunk| chunk.first).collect();
    let counts: Vec<i32> = chunks.iter().map(|chunk| chunk.lines).collect();
    let bodies: Vec<String> = chunks.into_iter().map(|chunk| chunk.body).collect();
    sqlx::query!(
        r#"INSERT INTO orca.log_chunks (task, token, first, lines, body)
           SELECT $1, $2, c.first, c.lines, c.body
           FROM unnest($3::bigint[], $4::integer[], $5::text[]) AS c(first, lines, body)"#,
        lease.task.0,
        lease.token.0,
        &firsts,
        &counts,
        &bodies
    )
    .execute(connection)
    .await
    .map(drop)
}

/// One line as it is stored: its number, its stream, microseconds since 1970, its text.
type Stored<'a> = (i64, Stream, i64, Cow<'a, str>);

/// Lines that are stored together.
struct Chunk {
    first: i64,
    lines: i32,
    body: String,
}

/// Lines in chunks of at most [`CHUNK`] bytes, unless one line alone has more.
fn chunks(lines: &[LogLine]) -> sqlx::Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut rest = lines;
    while let Some(line) = rest.first() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|line| {
            bytes += line.text.len() + OVERHEAD;
            bytes <= CHUNK
        });
        let (chunk, others) = rest.split_at(fits.count().max(1));
        let stored: Vec<Stored<'_>> = chunk
            .iter()
            .map(|line| (line.seq, line.stream, line.at.as_microsecond(), Cow::from(&line.text)))
            .collect();
        let lines = i32::try_from(chunk.len()).unwrap_or(i32::MAX);
        chunks.push(Chunk { first: line.seq, lines, body: to_json(&stored)? });
        rest = others;
    }
    Ok(chunks)
}

/// Adds the line that tells how many were dropped to the logs of ended attempts that passed the cap.
pub(crate) async fn close(connection: &mut PgConnection, tasks: &[Uuid], tokens: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.log_chunks (task, token, first, lines, body)
           SELECT a.task, a.token, a.log_next - a.log_dropped, 1,
                  json_build_array(json_build_array(
                      a.log_next - a.log_dropped, 'system', (extract(epoch FROM orca.now()) * 1000000)::bigint,
                      a.log_dropped || ' more lines were dropped: of one attempt no more than about '
                          || pg_size_pretty(a.log_bytes) || ' is kept'))::text
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
    limit: usize,
) -> sqlx::Result<Vec<LogEntry>> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let keys = sqlx::query!(
        r#"SELECT c.token, c.first, c.lines FROM orca.log_chunks c
           WHERE c.task = $1
             AND (c.token, c.first) >= ($2, coalesce((SELECT max(s.first) FROM orca.log_chunks s
                                                      WHERE s.task = $1 AND s.token = $2 AND s.first <= $3), 0))
             AND ($4::int IS NULL OR c.token = ANY (ARRAY(SELECT n.token FROM orca.attempts n
                                                          WHERE n.task = $1 AND n.number = $4)))
           ORDER BY c.token, c.first LIMIT $5"#,
        task.0,
        token,
        seq + 1,
        attempt,
        most
    )
    .fetch_all(&mut *connection)
    .await?;
    let (mut tokens, mut firsts, mut enough) = (Vec::new(), Vec::new(), 0_usize);
    for key in keys {
        let end = key.first + i64::from(key.lines);
        let passed = if key.token == token { (seq + 1).max(key.first) } else { key.first };
        let new = usize::try_from(end - passed).unwrap_or_default();
        if new > 0 && enough < limit {
            tokens.push(key.token);
            firsts.push(key.first);
            enough += new;
        }
    }
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"SELECT a.number, c.token, c.body FROM unnest($2::bigint[], $3::bigint[]) AS k(token, first)
           JOIN orca.log_chunks c ON c.task = $1 AND c.token = k.token AND c.first = k.first
           JOIN orca.attempts a ON a.task = $1 AND a.token = c.token ORDER BY c.token, c.first"#,
        task.0,
        &tokens,
        &firsts
    )
    .fetch_all(connection)
    .await?;
    let mut entries = Vec::new();
    for row in rows {
        let stored: Vec<Stored<'static>> = from_json(&row.body, "log_chunks.body")?;
        let new = stored.into_iter().filter(|(at, ..)| row.token != token || *at > seq);
        for (seq, stream, at, text) in new.take(limit - entries.len()) {
            let at = Timestamp::from_microsecond(at).map_err(|error| corrupt("log_chunks.body", error))?;
            let (attempt, token, text) = (row.number, FencingToken(row.token), text.into_owned());
            entries.push(LogEntry { attempt, token, seq, stream, at, text });
        }
    }
    Ok(entries)
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
        r#"SELECT token, first, lines, total AS "total!" FROM (
               SELECT c.token, c.first, c.lines,
                      sum(c.lines) OVER (ORDER BY c.token DESC, c.first DESC) AS total
               FROM orca.log_chunks c
               WHERE c.task = $1
                 AND ($2::int IS NULL OR c.token = ANY (ARRAY(SELECT n.token FROM orca.attempts n
                                                              WHERE n.task = $1 AND n.number = $2)))) AS c
           WHERE total > $3 ORDER BY token DESC, first DESC LIMIT 1"#,
        task.0,
        attempt,
        count
    )
    .fetch_optional(connection)
    .await?;
    // Of the chunk that it is in, all but those that are among the last.
    Ok(row.map(|row| (row.token, row.first + (row.total - count) - 1)))
}
