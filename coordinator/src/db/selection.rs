//! Which tasks an order for many is about. The tasks are found in the order of their ids, a bounded look at a time, however
//! few of those looked at are meant.

use orca_proto::ids::TaskId;
use orca_proto::selector::Selector;
use sqlx::PgConnection;
use uuid::Uuid;

use super::apply::stored;
use super::to_json;

/// A selector, as columns.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) ids: Option<Vec<Uuid>>,
    /// As the column has them: what tells ready from running, and either from succeeded, is not there.
    pub(crate) states: Option<Vec<String>>,
    pub(crate) queue: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) labels: Option<String>,
    /// Microseconds since 1970.
    pub(crate) created_before: Option<i64>,
}

impl Wanted {
    pub(crate) fn new(selector: &Selector) -> sqlx::Result<Self> {
        let labels = (!selector.labels.is_empty()).then(|| to_json(&selector.labels)).transpose()?;
        let states = selector.states.iter().map(|state| stored(*state).to_owned()).collect();
        Ok(Self {
            ids: (!selector.ids.is_empty()).then(|| selector.ids.iter().map(|id| id.0).collect()),
            states: (!selector.states.is_empty()).then_some(states),
            queue: selector.queue.clone(),
            group: selector.group.clone(),
            name: selector.name.clone(),
            labels,
            created_before: selector.created_before.map(|at| at.as_microsecond()),
        })
    }
}

/// What one look found.
pub(crate) struct Found {
    pub(crate) ids: Vec<Uuid>,
    /// Where the next look goes on; nothing where all were looked at.
    pub(crate) last: Option<Uuid>,
}

/// The newest task of a namespace.
pub(crate) async fn newest(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<Option<TaskId>> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM orca.tasks WHERE namespace = $1 ORDER BY id DESC LIMIT 1",
        namespace
    )
    .fetch_optional(connection)
    .await?;
    Ok(id.map(TaskId))
}

/// The open ones among the next `most` tasks of a namespace that are meant. Locks nothing: the caller locks the tasks, and
/// asks for their states again.
pub(crate) async fn open(
    connection: &mut PgConnection,
    namespace: &str,
    wanted: &Wanted,
    (after, upto): (Uuid, Uuid),
    most: i64,
) -> sqlx::Result<Found> {
    sqlx::query_as!(
        Found,
        r#"WITH page AS MATERIALIZED (
               SELECT t.id, t.lane, t.state, t.name, t.labels, t.created_at FROM orca.tasks t
               WHERE t.namespace = $1 AND t.id > $2 AND t.id <= $3 AND ($4::uuid[] IS NULL OR t.id = ANY ($4))
               ORDER BY t.id LIMIT $5)
           SELECT ARRAY(SELECT p.id FROM page p JOIN orca.lanes l ON l.id = p.lane
                        WHERE p.state IN ('blocked', 'scheduled', 'queued', 'waiting')
                          AND ($6::text[] IS NULL OR p.state = ANY ($6))
                          AND ($7::text IS NULL OR l.queue = $7) AND ($8::text IS NULL OR l.grp = $8)
                          AND ($9::text IS NULL OR p.name = $9) AND ($10::text IS NULL OR p.labels @> $10::text::jsonb)
                          AND ($11::bigint IS NULL OR p.created_at < orca.instant($11))
                          AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = p.id)
                        ORDER BY p.id) AS "ids!",
                  (SELECT p.id FROM page p ORDER BY p.id DESC LIMIT 1) AS last"#,
        namespace,
        after,
        upto,
        wanted.ids.as_deref(),
        most,
        wanted.states.as_deref(),
        wanted.queue,
        wanted.group,
        wanted.name,
        wanted.labels,
        wanted.created_before
    )
    .fetch_one(connection)
    .await
}
