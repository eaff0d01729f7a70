//! The log of events: written with every change, read in an order that late commits cannot upset.

use orca_proto::event::{Event, EventData, EventKind};
use orca_proto::ids::{FencingToken, NodeId, TaskId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, from_json, word};

/// Writes that these tasks entered the state that they are in now.
pub(crate) async fn states(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.events (namespace, task, parent, kind, state, reason, attempt)
           SELECT namespace, id, parent, 'orca.task.state', state, reason, nullif(attempt, 0)
           FROM orca.tasks WHERE id = ANY($1) ORDER BY id"#,
        ids
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Writes that somebody asked to cancel these running tasks.
pub(crate) async fn cancel_requests(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.events (namespace, task, parent, kind, reason, attempt, token)
           SELECT namespace, id, parent, 'orca.task.cancel_requested', reason, attempt, fence
           FROM orca.tasks WHERE id = ANY($1) ORDER BY id"#,
        ids
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Stores what a running attempt says of itself; an event of it at most once a second. Answers whether there was one.
pub(crate) async fn progress(
    connection: &mut PgConnection,
    task: TaskId,
    progress: &str,
) -> sqlx::Result<bool> {
    let told = sqlx::query!(
        r#"WITH before AS (
               SELECT id, progress_event_at IS NULL OR progress_event_at <= orca.now() - interval '1 second' AS tell
               FROM orca.tasks WHERE id = $1),
           stored AS (
               UPDATE orca.tasks t SET progress = $2::text::json,
                   progress_event_at = CASE WHEN b.tell THEN orca.now() ELSE t.progress_event_at END
               FROM before b WHERE t.id = b.id
               RETURNING t.namespace, t.id, t.parent, t.attempt, t.fence, b.tell)
           INSERT INTO orca.events (namespace, task, parent, kind, attempt, token, progress)
           SELECT namespace, id, parent, 'orca.task.progress', attempt, fence, $2::text::json FROM stored WHERE tell"#,
        task.0,
        progress
    )
    .execute(connection)
    .await?;
    Ok(told.rows_affected() > 0)
}

/// A stored event, as it comes.
struct Row {
    xid: i64,
    seq: i64,
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

/// At most `limit` events of a namespace after (xid, seq) and up to the transaction `whole` of [`head`], oldest first; with
/// `task`, only its own and those of the tasks directly under it.
pub(crate) async fn after(
    connection: &mut PgConnection,
    namespace: &str,
    (xid, seq): (i64, i64),
    whole: i64,
    task: Option<TaskId>,
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT e.xid::text::bigint AS "xid!", e.seq, e.task, coalesce(t.name, '') AS "name!", e.parent, e.kind,
                  e.at AS "at: Time", e.state, e.reason, e.attempt, e.token, e.node, e.outcome::text, e.progress::text
           FROM orca.events e LEFT JOIN orca.tasks t ON t.id = e.task
           WHERE (e.xid, e.seq) > ($2::bigint::text::xid8, $3)
             AND e.xid <= $6::bigint::text::xid8
             AND e.namespace = $1 AND ($4::uuid IS NULL OR e.task = $4 OR e.parent = $4)
           ORDER BY e.xid, e.seq LIMIT $5"#,
        namespace,
        xid,
        seq,
        task.map(|task| task.0),
        limit,
        whole
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

fn event(row: Row) -> sqlx::Result<Event> {
    let kind: EventKind = word(&row.kind, "events.kind")?;
    Ok(Event {
        specversion: "1.0".to_owned(),
        id: format!("{}-{}", row.xid, row.seq),
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
