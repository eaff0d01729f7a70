//! Reading tasks as the state machine wants them, locked for the change that follows.
//!
//! A task's own row is locked first. Where it says `queued`, a grant may hold the task: then the grant is locked, so that
//! nobody settles it; and where none does, the head of the lane is, so that nobody makes one. Heads are locked before grants.

use std::collections::{BTreeSet, HashMap, HashSet};

use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::spec::Role;
use orca_proto::task::{State, Step};
use sqlx::PgConnection;
use uuid::Uuid;

use super::lease::Held;
use super::{from_json, lease, word};
use crate::lifecycle::Snapshot;

/// A locked task: what the state machine needs, and what its consequences need.
#[derive(Clone, Debug)]
pub(crate) struct Locked {
    pub(crate) id: TaskId,
    pub(crate) namespace: String,
    pub(crate) lane: i32,
    pub(crate) parent: Option<TaskId>,
    pub(crate) depth: i16,
    pub(crate) name: String,
    /// The newest fencing token; 0 before the first grant.
    pub(crate) fence: i64,
    /// The grant that holds it, while it runs.
    pub(crate) held: Option<Held>,
    pub(crate) rounds: i32,
    pub(crate) finish: Option<TaskId>,
    pub(crate) schedule_to_start_ms: Option<i64>,
    pub(crate) unique: bool,
    /// Whether it has a deadline.
    pub(crate) limited: bool,
    pub(crate) snapshot: Snapshot,
}

impl Locked {
    /// The lease under which it runs or last ran.
    pub(crate) const fn lease(&self) -> LeaseRef {
        LeaseRef { task: self.id, token: FencingToken(self.fence) }
    }
}

/// One row of a locking query, as it comes.
struct Row {
    id: Uuid,
    namespace: String,
    lane: i32,
    role: String,
    parent: Option<Uuid>,
    depth: i16,
    name: String,
    fence: i64,
    rounds: i32,
    finish: Option<Uuid>,
    state: String,
    step: Option<String>,
    attempt: i32,
    attempts_used: i32,
    max_attempts: i32,
    runtime_errors: i32,
    open_dependencies: i32,
    open_gates: i32,
    open_children: i32,
    child_failure: Option<String>,
    cancel_requested: bool,
    on_dependency_failure: Option<String>,
    on_child_failure: Option<String>,
    retry: Option<String>,
    schedule_to_start_ms: Option<i64>,
    unique: bool,
    limited: bool,
    early: bool,
    overdue: bool,
}

/// Locks and reads these tasks, in the order of their ids; ids that do not exist are passed over.
pub(crate) async fn lock(connection: &mut PgConnection, ids: &[TaskId]) -> sqlx::Result<Vec<Locked>> {
    lock_where(connection, None, ids).await
}

/// The same for ids that a caller named: those of other namespaces are passed over and never touched, so that nobody can
/// hold up, or be held up by, what is behind the wall.
pub(crate) async fn lock_named(
    connection: &mut PgConnection,
    namespace: &str,
    ids: &[TaskId],
) -> sqlx::Result<Vec<Locked>> {
    lock_where(connection, Some(namespace), ids).await
}

async fn lock_where(
    connection: &mut PgConnection,
    namespace: Option<&str>,
    ids: &[TaskId],
) -> sqlx::Result<Vec<Locked>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    // What the clock says of a task is asked outside of the query that locks: inside it would be from before the wait, and a
    // timer that went off meanwhile has been taken by then.
    let rows = sqlx::query_as!(
        Row,
        r#"WITH locked AS MATERIALIZED (
               SELECT t.id, t.namespace, t.lane, l.role, t.parent, t.depth, t.name, t.fence, t.rounds, t.finish,
                      t.state, t.step, t.attempt, t.attempts_used, t.max_attempts, t.runtime_errors,
                      t.open_dependencies, t.open_gates, t.open_children, t.child_failure, t.cancel_requested,
                      t.on_dependency_failure, t.on_child_failure, t.retry, t.schedule_to_start_ms,
                      t.unique_key IS NOT NULL AS "unique", t.run_at, t.deadline
               FROM orca.tasks t JOIN orca.lanes l ON l.id = t.lane
               WHERE t.id = ANY($1) AND ($2::text IS NULL OR t.namespace = $2) ORDER BY t.id FOR UPDATE OF t)
           SELECT id, namespace, lane, role, parent, depth, name, fence, rounds, finish, state, step, attempt,
                  attempts_used, max_attempts, runtime_errors, open_dependencies, open_gates, open_children,
                  child_failure, cancel_requested, on_dependency_failure, on_child_failure, retry, schedule_to_start_ms,
                  "unique" AS "unique!", deadline IS NOT NULL AS "limited!",
                  coalesce(run_at > orca.now(), false) AS "early!", coalesce(deadline <= orca.now(), false) AS "overdue!"
           FROM locked"#,
        &ids,
        namespace
    )
    .fetch_all(&mut *connection)
    .await?;
    let queued: Vec<(Uuid, i32)> =
        rows.iter().filter(|row| row.state == "queued").map(|row| (row.id, row.lane)).collect();
    let mut whereabouts = whereabouts(connection, &queued).await?;
    let started = started(connection, &whereabouts).await?;
    rows.into_iter()
        .map(|row| {
            let held = whereabouts.held.remove(&row.id);
            let done = whereabouts.done.contains(&row.id);
            let started = started.contains(&row.id);
            locked(row, held, done, started)
        })
        .collect()
}

/// Those of some tasks that nobody holds a lock of, and the others that there are.
pub(crate) struct Free {
    pub(crate) locked: Vec<Locked>,
    pub(crate) busy: HashSet<TaskId>,
}

/// Locks and reads those of these tasks for which nothing has to be waited for: neither for the task, nor for the grant that
/// holds it or the head of its lane.
pub(crate) async fn lock_free(connection: &mut PgConnection, ids: &[TaskId]) -> sqlx::Result<Free> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        "SELECT id, lane, state FROM orca.tasks WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED",
        &ids
    )
    .fetch_all(&mut *connection)
    .await?;
    let queued: HashMap<Uuid, i32> =
        rows.iter().filter(|row| row.state == "queued").map(|row| (row.id, row.lane)).collect();
    let lanes_of = |of: &[Uuid]| -> Vec<i32> {
        of.iter().filter_map(|id| queued.get(id)).copied().collect::<BTreeSet<i32>>().into_iter().collect()
    };
    let in_queue: Vec<Uuid> = queued.keys().copied().collect();
    let mut holding = lease::tokens_of(connection, &lanes_of(&in_queue), &in_queue).await?;
    let elsewhere: Vec<Uuid> = in_queue.iter().filter(|id| !holding.contains_key(id)).copied().collect();
    let lanes = lanes_of(&elsewhere);
    let heads = lease::lock_free_heads(connection, &lanes).await?;
    holding.extend(lease::tokens_of(connection, &lanes, &elsewhere).await?);
    let tokens: BTreeSet<i64> = holding.values().copied().collect();
    let grants = lease::lock_free_grants(connection, &tokens.into_iter().collect::<Vec<_>>()).await?;
    let elsewhere: HashSet<Uuid> = elsewhere.into_iter().collect();
    let is_free = |id: &Uuid| {
        holding.get(id).is_none_or(|token| grants.contains(token))
            && (!elsewhere.contains(id) || queued.get(id).is_none_or(|lane| heads.contains(lane)))
    };
    let free: Vec<TaskId> = rows.iter().map(|row| row.id).filter(is_free).map(TaskId).collect();
    let there = sqlx::query_scalar!("SELECT id FROM orca.tasks WHERE id = ANY($1)", &ids)
        .fetch_all(&mut *connection)
        .await?;
    let mut busy: HashSet<TaskId> = there.into_iter().map(TaskId).collect();
    busy.retain(|id| free.binary_search(id).is_err());
    Ok(Free { locked: lock(connection, &free).await?, busy })
}

/// Where queued tasks are: with a node, or done; else in line.
#[derive(Default)]
struct Whereabouts {
    held: std::collections::BTreeMap<Uuid, Held>,
    done: HashSet<Uuid>,
}

async fn whereabouts(connection: &mut PgConnection, queued: &[(Uuid, i32)]) -> sqlx::Result<Whereabouts> {
    if queued.is_empty() {
        return Ok(Whereabouts::default());
    }
    let lanes = |of: &[(Uuid, i32)]| -> Vec<i32> {
        of.iter().map(|(_, lane)| *lane).collect::<BTreeSet<i32>>().into_iter().collect()
    };
    let ids: Vec<Uuid> = queued.iter().map(|(id, _)| *id).collect();
    // Not locked before the heads are, which come first; their rows being locked, they can only end meanwhile.
    let mut holding = lease::tokens_of(connection, &lanes(queued), &ids).await?;
    let elsewhere: Vec<(Uuid, i32)> =
        queued.iter().filter(|(id, _)| !holding.contains_key(id)).copied().collect();
    if !elsewhere.is_empty() {
        let lanes = lanes(&elsewhere);
        let ids: Vec<Uuid> = elsewhere.iter().map(|(id, _)| *id).collect();
        lease::lock_heads(connection, &lanes).await?;
        holding.extend(lease::tokens_of(connection, &lanes, &ids).await?);
    }
    let mut held = match holding.is_empty() {
        true => std::collections::BTreeMap::new(),
        false => lease::lock_holding(connection, &holding).await?,
    };
    let done = lease::done(connection, &ids).await?;
    held.retain(|id, _| !done.contains(id));
    Ok(Whereabouts { held, done })
}

/// Which of the running tasks' programs were started.
async fn started(connection: &mut PgConnection, running: &Whereabouts) -> sqlx::Result<HashSet<Uuid>> {
    if running.held.is_empty() {
        return Ok(HashSet::new());
    }
    let (tasks, tokens): (Vec<Uuid>, Vec<i64>) =
        running.held.iter().map(|(id, held)| (*id, held.token)).unzip();
    let started = sqlx::query_scalar!(
        r#"SELECT a.task FROM unnest($1::uuid[], $2::bigint[]) AS u(task, token)
           JOIN orca.attempts a ON a.task = u.task AND a.token = u.token AND a.started_at IS NOT NULL"#,
        &tasks,
        &tokens
    )
    .fetch_all(connection)
    .await?;
    Ok(started.into_iter().collect())
}

/// Locks and reads one task of a namespace.
pub(crate) async fn lock_one(
    connection: &mut PgConnection,
    namespace: &str,
    id: TaskId,
) -> sqlx::Result<Option<Locked>> {
    Ok(lock_named(connection, namespace, &[id]).await?.pop())
}

/// The first `most` open tasks directly under this one after `after`, in the order of their ids.
pub(crate) async fn open_children(
    connection: &mut PgConnection,
    parent: TaskId,
    after: TaskId,
    most: usize,
) -> sqlx::Result<Vec<TaskId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id FROM orca.tasks WHERE parent = $1 AND id > $2
           AND state IN ('blocked', 'scheduled', 'queued', 'waiting') ORDER BY id LIMIT $3"#,
        parent.0,
        after.0,
        i64::try_from(most).unwrap_or(i64::MAX)
    )
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// Locks and reads the open tasks directly under these, in the order of their ids.
pub(crate) async fn lock_open_children(
    connection: &mut PgConnection,
    parents: &[TaskId],
) -> sqlx::Result<Vec<Locked>> {
    let parents: Vec<Uuid> = parents.iter().map(|id| id.0).collect();
    let ids = sqlx::query_scalar!(
        r#"SELECT id FROM orca.tasks WHERE parent = ANY($1)
           AND state IN ('blocked', 'scheduled', 'queued', 'waiting')"#,
        &parents
    )
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<TaskId> = ids.into_iter().map(TaskId).collect();
    Ok(lock(connection, &ids).await?.into_iter().filter(|task| !task.snapshot.state.is_terminal()).collect())
}

fn locked(row: Row, held: Option<Held>, done: bool, started: bool) -> sqlx::Result<Locked> {
    let state = match (row.state.as_str(), &held, done) {
        ("queued", _, true) => State::Succeeded,
        ("queued", Some(_), _) => State::Running,
        ("queued", None, _) => State::Ready,
        (stored, ..) => word(stored, "tasks.state")?,
    };
    let policy = |text: &Option<String>, what| match text {
        Some(text) => word(text, what).map(Some),
        None => Ok(None),
    };
    let snapshot = Snapshot {
        state,
        role: word::<Role>(&row.role, "lanes.role")?,
        step: row.step.as_deref().map(|step| word::<Step>(step, "tasks.step")).transpose()?,
        attempt: if state == State::Running { row.attempts_used + 1 } else { row.attempt },
        attempts_used: row.attempts_used,
        runtime_errors: row.runtime_errors,
        started,
        open_dependencies: row.open_dependencies,
        open_gates: row.open_gates,
        open_children: row.open_children,
        child_failure: row.child_failure,
        cancel_requested: row.cancel_requested,
        has_finish: row.finish.is_some(),
        on_dependency_failure: policy(&row.on_dependency_failure, "tasks.on_dependency_failure")?
            .unwrap_or_default(),
        on_child_failure: match &row.on_child_failure {
            Some(text) => word(text, "tasks.on_child_failure")?,
            None => orca_proto::spec::OnChildFailure::default(),
        },
        retry: match &row.retry {
            Some(text) => from_json(text, "tasks.retry")?,
            None => orca_proto::spec::Retry { max_attempts: row.max_attempts, ..Default::default() },
        },
        early: row.early,
        overdue: row.overdue,
    };
    Ok(Locked {
        id: TaskId(row.id),
        namespace: row.namespace,
        lane: row.lane,
        parent: row.parent.map(TaskId),
        depth: row.depth,
        name: row.name,
        fence: held.as_ref().map_or(row.fence, |held| held.token),
        held,
        rounds: row.rounds,
        finish: row.finish.map(TaskId),
        schedule_to_start_ms: row.schedule_to_start_ms,
        unique: row.unique,
        limited: row.limited,
        snapshot,
    })
}
