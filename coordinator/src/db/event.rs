//! The log of events: written with every change, read in an order that late commits cannot upset.

use orca_proto::event::{Event, EventData, EventKind};
use orca_proto::ids::{FencingToken, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::task::State;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, from_json, word};

/// A state that a task entered.
pub(crate) struct Entered {
    pub(crate) namespace: String,
    pub(crate) task: Uuid,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    /// 0 before the first attempt.
    pub(crate) attempt: i32,
}

/// Writes that tasks entered states; neighbours of which the same is told share a row.
pub(crate) async fn entered(connection: &mut PgConnection, states: &[Entered]) -> sqlx::Result<()> {
    if states.is_empty() {
        return Ok(());
    }
    let namespaces: Vec<String> = states.iter().map(|entered| entered.namespace.clone()).collect();
    let tasks: Vec<Uuid> = states.iter().map(|entered| entered.task).collect();
    let words: Vec<String> = states.iter().map(|entered| entered.state.as_str().to_owned()).collect();
    let reasons: Vec<Option<String>> = states.iter().map(|entered| entered.reason.clone()).collect();
    let attempts: Vec<i32> = states.iter().map(|entered| entered.attempt).collect();
    sqlx::query!(
        r#"INSERT INTO orca.events (namespace, tasks, kind, state, reason, attempt)
           SELECT u.namespace, array_agg(u.task ORDER BY u.place), 'orca.task.state', u.state, u.reason, nullif(u.attempt, 0)
           FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::int[]) WITH ORDINALITY
               AS u(namespace, task, state, reason, attempt, place)
           GROUP BY u.namespace, u.state, u.reason, u.attempt, u.place / 500 ORDER BY min(u.place)"#,
        &namespaces,
        &tasks,
        &words,
        &reasons as &[Option<String>],
        &attempts
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Writes that these scheduled tasks became ready.
pub(crate) async fn became_ready(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.events (namespace, tasks, kind, state, attempt)
           SELECT namespace, array_agg(id ORDER BY id), 'orca.task.state', 'ready', nullif(attempt, 0)
           FROM orca.tasks WHERE id = ANY($1) GROUP BY namespace, attempt"#,
        ids
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Writes that somebody asked to cancel these running tasks.
pub(crate) async fn cancel_requests(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.events (namespace, tasks, kind, reason, attempt, token)
           SELECT namespace, ARRAY[id], 'orca.task.cancel_requested', reason, attempt, fence
           FROM orca.tasks WHERE id = ANY($1) ORDER BY id"#,
        ids
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Stores what a running attempt, whose lease is held, says of itself; an event of it at most once a second. Answers whether
/// there was one.
pub(crate) async fn progress(
    connection: &mut PgConnection,
    lease: LeaseRef,
    progress: &str,
) -> sqlx::Result<bool> {
    let told = sqlx::query!(
        r#"WITH before AS (
               SELECT id, progress_event_at IS NULL OR progress_event_at <= orca.now() - interval '1 second' AS tell
               FROM orca.tasks WHERE id = $1),
           stored AS (
               UPDATE orca.tasks t SET progress = $2,
                   progress_event_at = CASE WHEN b.tell THEN orca.now() ELSE t.progress_event_at END
               FROM before b WHERE t.id = b.id
               RETURNING t.namespace, t.id, t.attempts_used + 1 AS attempt, b.tell)
           INSERT INTO orca.events (namespace, tasks, kind, attempt, token, progress)
           SELECT namespace, ARRAY[id], 'orca.task.progress', attempt, $3, $2 FROM stored WHERE tell"#,
        lease.task.0,
        progress,
        lease.token.0
    )
    .execute(connection)
    .await?;
    Ok(told.rows_affected() > 0)
}

/// A stored event of one task, as it comes.
struct Row {
    xid: i64,
    seq: i64,
    part: i64,
    task: Uuid,
    name: String,
    parent: Option<Uuid>,
    kind: String,
    at: Time,
    state: Option<String>,
    reason: Option<String>,
    attempt: Option<i32>,
    token: Option<i64>,
    node: Option<Uuid>,
    outcome: Option<String>,
    progress: Option<String>,
}

/// At most `limit` events of a namespace after (xid, seq, part) and up to the transaction `whole` of [`head`], oldest first;
/// with `task`, only its own and those of the tasks directly under it.
pub(crate) async fn after(
    connection: &mut PgConnection,
    namespace: &str,
    (xid, seq, part): (i64, i64, i64),
    whole: i64,
    task: Option<TaskId>,
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    // A row `done` stands for two events of each of its tasks, the attempt's end and the task's, in this order.
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT e.xid::text::bigint AS "xid!", e.seq, p.part AS "part!", p.task AS "task!", coalesce(t.name, '') AS "name!",
                  t.parent, CASE WHEN e.kind <> 'done' THEN e.kind WHEN p.part % 2 = 1 THEN 'orca.attempt.ended'
                                 ELSE 'orca.task.state' END AS "kind!",
                  e.at AS "at: Time", CASE WHEN e.kind <> 'done' THEN e.state WHEN p.part % 2 = 0 THEN 'succeeded' END AS state,
                  e.reason, e.attempt, CASE WHEN e.kind <> 'done' OR p.part % 2 = 1 THEN e.token END AS token,
                  CASE WHEN e.kind <> 'done' OR p.part % 2 = 1 THEN e.node END AS node,
                  CASE WHEN e.kind = 'done' AND p.part % 2 = 1 THEN '{"kind":"succeeded"}' ELSE e.outcome END AS outcome,
                  e.progress
           FROM orca.events e
           CROSS JOIN LATERAL (
               SELECT u.task, u.place AS part FROM unnest(e.tasks) WITH ORDINALITY AS u(task, place) WHERE e.kind <> 'done'
               UNION ALL
               SELECT u.task, 2 * u.place - k FROM unnest(e.tasks) WITH ORDINALITY AS u(task, place), (VALUES (1), (0)) AS h(k)
               WHERE e.kind = 'done') AS p
           LEFT JOIN orca.tasks t ON t.id = p.task
           WHERE (e.xid, e.seq) >= ($2::bigint::text::xid8, $3)
             AND (e.xid > $2::bigint::text::xid8 OR e.seq > $3 OR p.part > $7)
             AND e.xid <= $6::bigint::text::xid8
             AND e.namespace = $1 AND ($4::uuid IS NULL OR p.task = $4 OR t.parent = $4)
           ORDER BY e.xid, e.seq, p.part LIMIT $5"#,
        namespace,
        xid,
        seq,
        task.map(|task| task.0),
        limit,
        whole,
        part
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(event).collect()
}

/// The newest transaction whose events readers can see whole, and the newest that has ended at all.
pub(crate) async fn head(connection: &mut PgConnection) -> sqlx::Result<(i64, i64)> {
    let head = sqlx::query!(
        r#"SELECT pg_snapshot_xmin(now)::text::bigint - 1 AS "whole!", pg_snapshot_xmax(now)::text::bigint - 1 AS "ended!"
           FROM pg_current_snapshot() AS now"#
    )
    .fetch_one(connection)
    .await?;
    Ok((head.whole, head.ended))
}

/// How long the first event that readers cannot see yet has been there, in milliseconds; nothing where they see all.
pub(crate) async fn held_back_ms(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(greatest(extract(epoch FROM orca.now() - (
               SELECT e.at FROM orca.events e WHERE e.xid >= pg_snapshot_xmin(pg_current_snapshot())
               ORDER BY e.xid, e.seq LIMIT 1)) * 1000, 0), 0)::bigint AS "ms!""#
    )
    .fetch_one(connection)
    .await
}

fn event(row: Row) -> sqlx::Result<Event> {
    let kind: EventKind = word(&row.kind, "events.kind")?;
    Ok(Event {
        specversion: "1.0".to_owned(),
        id: format!("{}-{}-{}", row.xid, row.seq, row.part),
        source: "/v1/tasks".to_owned(),
        kind,
        subject: TaskId(row.task),
        time: row.at.0,
        data: EventData {
            name: row.name,
            parent: row.parent.map(TaskId),
            state: row.state.as_deref().map(|state| word(state, "events.state")).transpose()?,
            reason: row.reason,
            attempt: row.attempt,
            token: row.token.map(FencingToken),
            node: row.node.map(NodeId),
            outcome: row.outcome.as_deref().map(|text| from_json(text, "events.outcome")).transpose()?,
            progress: row.progress.as_deref().map(|text| from_json(text, "events.progress")).transpose()?,
        },
    })
}
