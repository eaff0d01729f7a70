//! Taking what ended in line out of the lines' fronts, where nobody claims who would pass over it.

use sqlx::PgConnection;
use uuid::Uuid;

/// Segments that one transaction looks at.
const SEGMENTS: i64 = 50;

/// Lanes whose line begins with a task that has ended.
pub(crate) struct Stale {
    pub(crate) lanes: Vec<i32>,
    /// The last lane that was looked at; nothing where there were no more.
    pub(crate) last: Option<i32>,
}

/// Looks at the next `most` lanes after one.
pub(crate) async fn stale(connection: &mut PgConnection, after: i32, most: i64) -> sqlx::Result<Stale> {
    let row = sqlx::query!(
        r#"SELECT max(l.id) AS last, coalesce(array_agg(l.id) FILTER (WHERE first.task IS NOT NULL AND alive.yes IS NULL), '{}') AS "lanes!"
           FROM (SELECT d.lane AS id FROM orca.lined d WHERE d.lane > $1 ORDER BY d.lane LIMIT $2) l
           LEFT JOIN LATERAL (SELECT g.seq, g.upto FROM orca.grants g WHERE g.lane = l.id
                              ORDER BY g.seq DESC, g.upto DESC LIMIT 1) head ON true
           LEFT JOIN LATERAL (SELECT s.tasks[CASE WHEN s.seq = head.seq THEN head.upto ELSE 0 END + 1] AS task
                              FROM orca.segments s
                              WHERE s.lane = l.id AND s.seq >= coalesce(head.seq, 0)
                                AND (s.seq > coalesce(head.seq, 0) OR s.size > head.upto)
                              ORDER BY s.seq LIMIT 1) first ON true
           LEFT JOIN LATERAL (SELECT true AS yes FROM orca.tasks t WHERE t.id = first.task AND t.state = 'queued'
                              LIMIT 1) alive ON true"#,
        after,
        most
    )
    .fetch_one(connection)
    .await?;
    Ok(Stale { lanes: row.lanes, last: row.last })
}

/// Moves a lane's head past what ended at its front, as a claim would; answers whether there may be more of it.
pub(crate) async fn front(connection: &mut PgConnection, lane: i32) -> sqlx::Result<bool> {
    sqlx::query!(r#"SELECT orca.lock_heads(ARRAY[$1::int]) AS "done: _""#, lane)
        .execute(&mut *connection)
        .await?;
    let all = sqlx::query_scalar!(
        r#"WITH head AS MATERIALIZED (
               SELECT g.seq, g.upto FROM orca.grants g WHERE g.lane = $1 ORDER BY g.seq DESC, g.upto DESC LIMIT 1),
           near AS MATERIALIZED (
               SELECT s.seq, CASE WHEN s.seq = h.seq THEN h.upto ELSE 0 END AS taken, s.tasks
               FROM orca.segments s LEFT JOIN head h ON true
               WHERE s.lane = $1 AND s.seq >= coalesce(h.seq, 0) AND (s.seq > coalesce(h.seq, 0) OR s.size > h.upto)
               ORDER BY s.seq LIMIT $3),
           stood AS MATERIALIZED (
               SELECT n.seq, n.taken + u.place AS place, alive.yes
               FROM near n CROSS JOIN LATERAL unnest(n.tasks[n.taken + 1 :]) WITH ORDINALITY AS u(id, place)
               LEFT JOIN LATERAL (SELECT true AS yes FROM orca.tasks t WHERE t.id = u.id AND t.state = 'queued'
                                  LIMIT 1) alive ON true),
           live AS MATERIALIZED (SELECT seq, place FROM stood WHERE yes ORDER BY seq, place LIMIT 1)
           INSERT INTO orca.grants (token, lane, seq, upto, node, node_name, granted_at, expires_at, open, tasks, special)
           SELECT nextval('orca.fence'), $1, s.seq, s.place, $2, '', orca.now(), orca.now(), 0, '{}', '{}'
           FROM stood s LEFT JOIN live l ON true
           WHERE l.seq IS NULL OR (s.seq, s.place) < (l.seq, l.place) ORDER BY s.seq DESC, s.place DESC LIMIT 1
           RETURNING NOT EXISTS (SELECT FROM live) AS "all!""#,
        lane,
        Uuid::nil(),
        SEGMENTS
    )
    .fetch_optional(connection)
    .await?;
    Ok(all.unwrap_or(false))
}
