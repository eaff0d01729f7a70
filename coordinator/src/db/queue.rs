//! The queue proper: who stands in line, who is granted, who was granted and succeeded. The statements themselves are in
//! `migrations/0002_hot_path.sql`.

use std::time::Duration;

use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::LeaseRef;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, millis};

/// What was granted.
pub(crate) struct Granted {
    pub(crate) id: Uuid,
    pub(crate) token: i64,
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    pub(crate) step: Option<String>,
    pub(crate) parent: Option<Uuid>,
    pub(crate) has_dependencies: bool,
    pub(crate) deadline_ms: Option<i64>,
    pub(crate) spec: String,
}

/// What a lane was left like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) lane: i32,
    /// Tasks granted of it.
    pub(crate) granted: i32,
    /// Since when the next one has been in line; nothing where there is none.
    pub(crate) since: Option<Time>,
    /// So many that had ended in line were passed over that what comes after them is for another transaction.
    pub(crate) unfinished: bool,
}

/// Plain tasks to enqueue, as columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plain {
    pub(crate) namespaces: Vec<String>,
    pub(crate) ids: Vec<Uuid>,
    pub(crate) lanes: Vec<i32>,
    pub(crate) names: Vec<String>,
    pub(crate) max_attempts: Vec<i32>,
    pub(crate) specs: Vec<String>,
    pub(crate) keys: Vec<Option<String>>,
    pub(crate) labels: Vec<Option<String>>,
    pub(crate) retries: Vec<Option<String>>,
}

impl Plain {
    /// Adds all of another's.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.namespaces.append(&mut other.namespaces);
        self.ids.append(&mut other.ids);
        self.lanes.append(&mut other.lanes);
        self.names.append(&mut other.names);
        self.max_attempts.append(&mut other.max_attempts);
        self.specs.append(&mut other.specs);
        self.keys.append(&mut other.keys);
        self.labels.append(&mut other.labels);
        self.retries.append(&mut other.retries);
    }
}

/// Enqueues plain tasks, in line at once, by one statement; answers when that was.
pub(crate) async fn enqueue_plain(connection: &mut PgConnection, tasks: &Plain) -> sqlx::Result<Time> {
    sqlx::query_scalar!(
        r#"SELECT orca.enqueue_plain($1, $2, $3, $4, $5, $6, $7, $8, $9) AS "at!: Time""#,
        &tasks.namespaces,
        &tasks.ids,
        &tasks.lanes,
        &tasks.names,
        &tasks.max_attempts,
        &tasks.specs,
        &tasks.keys as &[Option<String>],
        &tasks.labels as &[Option<String>],
        &tasks.retries as &[Option<String>],
    )
    .fetch_one(connection)
    .await
}

/// The same, for tasks of one lane; and grants them all to the node, if it can have them and nothing has to be decided about
/// them. Answers also the grants.
pub(crate) async fn enqueue_granted(
    connection: &mut PgConnection,
    tasks: &Plain,
    (node, instance): (NodeId, InstanceId),
    lease: Duration,
) -> sqlx::Result<(Time, Vec<Granted>)> {
    let row = sqlx::query!(
        r#"SELECT at AS "at!: Time", token FROM orca.enqueue_granted($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
        &tasks.namespaces,
        &tasks.ids,
        &tasks.lanes,
        &tasks.names,
        &tasks.max_attempts,
        &tasks.specs,
        &tasks.keys as &[Option<String>],
        &tasks.labels as &[Option<String>],
        &tasks.retries as &[Option<String>],
        node.0,
        instance.0,
        millis(lease)
    )
    .fetch_one(connection)
    .await?;
    let Some(token) = row.token else { return Ok((row.at, Vec::new())) };
    let all = tasks.ids.iter().zip(&tasks.max_attempts).zip(&tasks.specs);
    let granted = all.map(|((id, max_attempts), spec)| Granted {
        id: *id,
        token,
        attempt: 1,
        max_attempts: *max_attempts,
        step: None,
        parent: None,
        has_dependencies: false,
        deadline_ms: None,
        spec: spec.clone(),
    });
    Ok((row.at, granted.collect()))
}

/// Puts queued tasks in line, in the order given.
pub(crate) async fn line_up(connection: &mut PgConnection, lanes: &[i32], ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT orca.line_up($1, $2, orca.now()) AS "done: _""#, lanes, ids)
        .execute(connection)
        .await
        .map(drop)
}

/// Grants the node, if this instance still is the node's, at most `most` tasks, of each lane at most as many as told. Answers them, and how each lane was left.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    (node, instance): (NodeId, InstanceId),
    lanes: &[i32],
    wants: &[i32],
    most: i32,
    lease: Duration,
) -> sqlx::Result<(Vec<Granted>, Vec<Left>)> {
    let rows = sqlx::query!(
        r#"SELECT lane AS "lane!", token, task, attempt, max_attempts, step, parent, has_dependencies, deadline_ms, spec,
                  waiting_since AS "waiting_since: Time", unfinished
           FROM orca.claim($1, $2, $3, $4, $5, $6)"#,
        node.0,
        instance.0,
        lanes,
        wants,
        most,
        millis(lease)
    )
    .fetch_all(connection)
    .await?;
    let (mut granted, mut left) = (Vec::with_capacity(rows.len()), Vec::with_capacity(lanes.len()));
    for row in rows {
        match (row.task, row.token) {
            (Some(id), Some(token)) => granted.push(Granted {
                id,
                token,
                attempt: row.attempt.unwrap_or_default(),
                max_attempts: row.max_attempts.unwrap_or_default(),
                step: row.step,
                parent: row.parent,
                has_dependencies: row.has_dependencies.unwrap_or_default(),
                deadline_ms: row.deadline_ms,
                spec: row.spec.unwrap_or_default(),
            }),
            _ => left.push(Left {
                lane: row.lane,
                granted: row.attempt.unwrap_or_default(),
                since: row.waiting_since,
                unfinished: row.unfinished.unwrap_or_default(),
            }),
        }
    }
    Ok((granted, left))
}

/// Settles those of these successes that nothing else follows from; answers the places of those that it settled. Each
/// lease may be there once only.
pub(crate) async fn finish(
    connection: &mut PgConnection,
    namespace: &str,
    subject: &str,
    leases: &[LeaseRef],
    results: &[Option<String>],
) -> sqlx::Result<Vec<usize>> {
    let tasks: Vec<Uuid> = leases.iter().map(|lease| lease.task.0).collect();
    let tokens: Vec<i64> = leases.iter().map(|lease| lease.token.0).collect();
    let places = sqlx::query_scalar!(
        r#"SELECT place AS "place!" FROM orca.finish($1, $2, $3, $4, $5) AS place"#,
        namespace,
        subject,
        &tasks,
        &tokens,
        results as &[Option<String>]
    )
    .fetch_all(connection)
    .await?;
    Ok(places.into_iter().filter_map(|place| usize::try_from(place - 1).ok()).collect())
}

/// Makes scheduled tasks whose time has come ready; answers their lanes, one per task.
pub(crate) async fn wake_due(connection: &mut PgConnection, most: i64) -> sqlx::Result<Vec<i32>> {
    let rows = sqlx::query!(
        r#"WITH due AS (
               SELECT id FROM orca.tasks WHERE state = 'scheduled' AND run_at <= orca.now() ORDER BY run_at LIMIT $1
               FOR UPDATE SKIP LOCKED)
           UPDATE orca.tasks t SET state = 'queued',
               start_by = least(t.deadline, orca.now() + t.schedule_to_start_ms * interval '1 millisecond')
           FROM due d WHERE t.id = d.id RETURNING t.id, t.lane, t.namespace, t.schedule_to_start_ms"#,
        most
    )
    .fetch_all(&mut *connection)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = rows;
    rows.sort_by_key(|row| row.id);
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let lanes: Vec<i32> = rows.iter().map(|row| row.lane).collect();
    super::event::became_ready(connection, &ids).await?;
    let timed: Vec<Uuid> =
        rows.iter().filter(|row| row.schedule_to_start_ms.is_some()).map(|row| row.id).collect();
    super::timer::set_start(connection, &timed).await?;
    line_up(connection, &lanes, &ids).await?;
    Ok(lanes)
}

/// When the next scheduled task or timer is due, as milliseconds from now: nothing where there is none, negative where it is
/// late.
pub(crate) async fn next_due_ms(connection: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"SELECT ceil(extract(epoch FROM (least((SELECT min(run_at) FROM orca.tasks WHERE state = 'scheduled'),
                                                 (SELECT min(at) FROM orca.timers)) - orca.now())) * 1000)::bigint AS "ms""#
    )
    .fetch_one(connection)
    .await
}

/// Removes what has been taken of the lines, and grants of which nothing is left but the newest of each lane. Of a lane in
/// which nothing was granted for `idle` and nothing waits, the newest go as well, and with them all that looks over the lanes
/// finds of it.
///
/// No lock is needed. What is removed of the lines lies before a grant that has committed; such a grant only goes when the lane
/// has no segment that this statement sees, and those that it does not see have been appended after all that was ever granted.
/// A claim reads the head first: where that is gone, so are the segments.
pub(crate) async fn sweep(connection: &mut PgConnection, idle: Duration) -> sqlx::Result<u64> {
    let segments = sqlx::query!(
        r#"WITH RECURSIVE head AS (
               (SELECT g.lane, g.seq, g.upto, g.granted_at FROM orca.grants g
                ORDER BY g.lane DESC, g.seq DESC, g.upto DESC LIMIT 1)
               UNION ALL
               SELECT n.* FROM head h CROSS JOIN LATERAL (
                   SELECT g.lane, g.seq, g.upto, g.granted_at FROM orca.grants g WHERE g.lane < h.lane
                   ORDER BY g.lane DESC, g.seq DESC, g.upto DESC LIMIT 1) n)
           DELETE FROM orca.segments s USING head h
           WHERE s.lane = h.lane AND s.seq <= h.seq
             AND (s.seq < h.seq
                  OR s.size <= h.upto AND h.granted_at < orca.now() - $1::bigint * interval '1 millisecond')"#,
        millis(idle)
    )
    .execute(&mut *connection)
    .await?;
    // Waits for nobody, and takes no part of a token away while there is another: who locks a token begins with its first part.
    let grants = sqlx::query!(
        r#"WITH RECURSIVE head AS (
               (SELECT g.lane, g.seq, g.token, g.granted_at FROM orca.grants g
                ORDER BY g.lane DESC, g.seq DESC, g.upto DESC LIMIT 1)
               UNION ALL
               SELECT n.* FROM head h CROSS JOIN LATERAL (
                   SELECT g.lane, g.seq, g.token, g.granted_at FROM orca.grants g WHERE g.lane < h.lane
                   ORDER BY g.lane DESC, g.seq DESC, g.upto DESC LIMIT 1) n),
           over AS MATERIALIZED (
               SELECT g.token, g.part FROM head h JOIN orca.grants g ON g.lane = h.lane AND g.seq <= h.seq
               WHERE g.open = 0
                 AND (g.token <> h.token
                      OR h.granted_at < orca.now() - $1::bigint * interval '1 millisecond'
                         AND NOT EXISTS (SELECT FROM orca.segments s WHERE s.lane = g.lane))
                 AND NOT EXISTS (SELECT FROM orca.grants o WHERE o.token = g.token AND o.open > 0)
               FOR UPDATE OF g SKIP LOCKED)
           DELETE FROM orca.grants g USING over o WHERE g.token = o.token AND g.part = o.part"#,
        millis(idle)
    )
    .execute(connection)
    .await?;
    Ok(segments.rows_affected() + grants.rows_affected())
}

/// Open tasks by state: from lines, grants and the narrow indexes, not from the tasks themselves. What ended in the middle of a
/// line counts as ready until it is passed over.
pub(crate) async fn open_counts(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT 'ready' AS "state!", coalesce(sum(x.waiting), 0)::bigint AS "count!" FROM orca.lined l
           LEFT JOIN LATERAL (SELECT g.seq, g.upto FROM orca.grants g WHERE g.lane = l.lane
                              ORDER BY g.seq DESC, g.upto DESC LIMIT 1) head ON true
           CROSS JOIN LATERAL (SELECT sum(s.size) - coalesce(max(head.upto) FILTER (WHERE s.seq = head.seq), 0) AS waiting
                               FROM orca.segments s WHERE s.lane = l.lane AND s.seq >= coalesce(head.seq, 0)) x
           UNION ALL SELECT 'running', coalesce(sum(open), 0)::bigint FROM orca.grants WHERE open > 0
           UNION ALL SELECT 'scheduled', count(*) FROM orca.tasks WHERE state = 'scheduled'
           UNION ALL SELECT 'blocked', count(*) FROM orca.tasks WHERE state = 'blocked' AND state IN ('blocked', 'waiting')
           UNION ALL SELECT 'waiting', count(*) FROM orca.tasks WHERE state = 'waiting' AND state IN ('blocked', 'waiting')"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.state, row.count)).collect())
}
