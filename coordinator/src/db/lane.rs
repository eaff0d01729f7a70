//! Lanes: what is the same to dispatch, under a small number. Never changed once made, so that their numbers can be kept.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::{Time, from_json, to_json};
use crate::dispatch::{Capacity, Flow, LaneKey};

/// The numbers of these lanes, in the same order; those that are not there yet are made.
pub(crate) async fn resolve(connection: &mut PgConnection, keys: &[LaneKey]) -> sqlx::Result<Vec<i32>> {
    let mut ids = find(connection, keys).await?;
    if ids.iter().any(Option::is_none) {
        make(connection, keys).await?;
        ids = find(connection, keys).await?;
    }
    ids.into_iter().map(|id| id.ok_or(sqlx::Error::RowNotFound)).collect()
}

/// The columns of some keys.
struct Columns {
    namespaces: Vec<String>,
    roles: Vec<String>,
    queues: Vec<String>,
    groups: Vec<String>,
    priorities: Vec<i16>,
    millicpus: Vec<i64>,
    memory: Vec<i64>,
    requires: Vec<String>,
    prefers: Vec<String>,
}

impl Columns {
    fn of(keys: &[LaneKey]) -> sqlx::Result<Self> {
        Ok(Self {
            namespaces: keys.iter().map(|key| key.namespace.clone()).collect(),
            roles: keys.iter().map(|key| super::apply::role_word(key.role).to_owned()).collect(),
            queues: keys.iter().map(|key| key.flow.queue().to_owned()).collect(),
            groups: keys.iter().map(|key| key.flow.group().unwrap_or_default().to_owned()).collect(),
            priorities: keys.iter().map(|key| key.priority).collect(),
            millicpus: keys.iter().map(|key| number(key.needs.millicpus)).collect(),
            memory: keys.iter().map(|key| number(key.needs.memory)).collect(),
            requires: keys.iter().map(|key| labels(&key.requires)).collect::<sqlx::Result<_>>()?,
            prefers: keys.iter().map(|key| labels(&key.prefers)).collect::<sqlx::Result<_>>()?,
        })
    }
}

async fn find(connection: &mut PgConnection, keys: &[LaneKey]) -> sqlx::Result<Vec<Option<i32>>> {
    let columns = Columns::of(keys)?;
    sqlx::query_scalar!(
        r#"SELECT l.id AS "id?"
           FROM (SELECT u.*, orca.labels_digest(u.requires, u.prefers) AS digest
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[],
                             $8::text[], $9::text[]) WITH ORDINALITY
                      AS u(namespace, role, queue, grp, priority, millicpus, memory, requires, prefers, place)) k
           LEFT JOIN orca.lanes l
                USING (namespace, role, queue, grp, priority, millicpus, memory, requires, prefers, digest)
           ORDER BY k.place"#,
        &columns.namespaces,
        &columns.roles,
        &columns.queues,
        &columns.groups,
        &columns.priorities,
        &columns.millicpus,
        &columns.memory,
        &columns.requires,
        &columns.prefers
    )
    .fetch_all(connection)
    .await
}

async fn make(connection: &mut PgConnection, keys: &[LaneKey]) -> sqlx::Result<()> {
    let columns = Columns::of(keys)?;
    sqlx::query!(
        r#"INSERT INTO orca.lanes (namespace, role, queue, grp, priority, millicpus, memory, requires, prefers)
           SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bigint[],
                                         $7::bigint[], $8::text[], $9::text[])
           ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ON CONFLICT DO NOTHING"#,
        &columns.namespaces,
        &columns.roles,
        &columns.queues,
        &columns.groups,
        &columns.priorities,
        &columns.millicpus,
        &columns.memory,
        &columns.requires,
        &columns.prefers
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A lane in which something waits.
pub(crate) struct Waiting {
    pub(crate) id: i32,
    pub(crate) key: LaneKey,
    pub(crate) since: Time,
    /// Tasks in line; exact only while they are few.
    pub(crate) waiting: u64,
}

/// Lanes of one namespace that a look goes through.
const LOOKED_AT: i64 = 10_000;

/// Which lanes to look at.
#[derive(Clone, Copy)]
pub(crate) enum Among<'a> {
    /// These.
    These(&'a [i32]),
    /// All; of a namespace with very many of them as many as can be kept in mind: those that are not paused first, and others
    /// for each seed.
    All(i32),
}

/// The lanes in which something waits, and since when its first has been in line.
pub(crate) async fn waiting(connection: &mut PgConnection, among: Among<'_>) -> sqlx::Result<Vec<Waiting>> {
    let (only, seed) = match among {
        Among::These(lanes) => (Some(lanes), 0),
        Among::All(seed) => (None, seed),
    };
    let rows = sqlx::query!(
        r#"SELECT l.id, l.namespace, l.role, l.queue, l.grp, l.priority, l.millicpus, l.memory, l.requires, l.prefers,
                  first.ready_at AS "since!: Time",
                  (SELECT coalesce(sum(f.size), 0)::bigint FROM (
                       SELECT s.size FROM orca.segments s WHERE s.lane = l.id AND s.seq > coalesce(head.seq, 0)
                       ORDER BY s.seq LIMIT 100) f) AS "further!", first.left AS "left!", coalesce(first.seq = head.seq, false) AS "first_is_head!"
           FROM (SELECT unnest($1::int[]) AS id
                 UNION ALL
                 SELECT r.id FROM (
                     SELECT n.id, row_number() OVER (PARTITION BY n.namespace ORDER BY EXISTS (
                         SELECT FROM orca.queues q WHERE q.namespace = n.namespace AND q.queue = n.queue
                           AND q.grp IN ('', n.grp) AND q.paused_at IS NOT NULL), hashint4(n.id # $3)) AS place
                     FROM orca.lined d JOIN orca.lanes n ON n.id = d.lane WHERE $1 IS NULL) r
                 WHERE r.place <= $2) x
           JOIN orca.lanes l ON l.id = x.id
           LEFT JOIN LATERAL (SELECT g.seq, g.upto FROM orca.grants g WHERE g.lane = l.id
                              ORDER BY g.seq DESC, g.upto DESC LIMIT 1) head ON true
           CROSS JOIN LATERAL (SELECT s.seq, s.size FROM orca.segments s WHERE s.lane = l.id
                               ORDER BY s.seq DESC LIMIT 1) tail
           CROSS JOIN LATERAL (SELECT s.ready_at, s.seq,
                                      s.size - CASE WHEN s.seq = head.seq THEN head.upto ELSE 0 END AS left
                               FROM orca.segments s
                               WHERE s.lane = l.id AND s.seq >= coalesce(head.seq, 0)
                                 AND (s.seq > coalesce(head.seq, 0) OR s.size > head.upto)
                               ORDER BY s.seq LIMIT 1) first
           WHERE (head.seq IS NULL OR tail.seq > head.seq OR (tail.seq = head.seq AND tail.size > head.upto))"#,
        only,
        LOOKED_AT,
        seed
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let key = LaneKey {
                namespace: row.namespace,
                role: super::word(&row.role, "lanes.role")?,
                flow: Flow::new(row.queue, Some(row.grp).filter(|group| !group.is_empty())),
                priority: row.priority,
                needs: Capacity {
                    millicpus: row.millicpus.try_into().unwrap_or_default(),
                    memory: row.memory.try_into().unwrap_or_default(),
                },
                requires: read_labels(&row.requires, "lanes.requires")?,
                prefers: read_labels(&row.prefers, "lanes.prefers")?,
            };
            let first = if row.first_is_head { u64::try_from(row.left).unwrap_or_default() } else { 0 };
            let further = u64::try_from(row.further).unwrap_or_default();
            Ok(Waiting { id: row.id, key, since: row.since, waiting: first + further })
        })
        .collect()
}

fn labels(labels: &BTreeMap<String, String>) -> sqlx::Result<String> {
    if labels.is_empty() { Ok(String::new()) } else { to_json(labels) }
}

fn read_labels(text: &str, what: &'static str) -> sqlx::Result<BTreeMap<String, String>> {
    if text.is_empty() { Ok(BTreeMap::new()) } else { from_json(text, what) }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
