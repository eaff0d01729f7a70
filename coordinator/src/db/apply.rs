//! Writing what the state machine decided: the tasks, and everything that follows from their new states.

use std::collections::{BTreeMap, BTreeSet};

use orca_proto::ids::{NodeId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::spec::Role;
use orca_proto::task::{Outcome, State};
use sqlx::PgConnection;
use uuid::Uuid;

use super::snapshot::Locked;
use super::{millis, to_json};
use crate::lifecycle::Change;

/// Changes written by one statement.
const CHUNK: usize = 10_000;

/// What others must be told once the transaction has committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    /// Lanes in which something became ready, and how much.
    pub(crate) ready: BTreeMap<i32, u64>,
    /// Namespaces in which attempts ended: where limits are, others may begin.
    pub(crate) released: BTreeSet<String>,
    /// Nodes that must cancel something.
    pub(crate) cancels: BTreeSet<NodeId>,
    /// Something waits to be settled.
    pub(crate) unsettled: bool,
    /// Something is due later: the timer must look again.
    pub(crate) scheduled: bool,
    /// Events were written.
    pub(crate) events: bool,
    /// Settings of queues were changed.
    pub(crate) settings: bool,
    /// Schedules were changed.
    pub(crate) schedules: bool,
    /// Tasks that were sent a signal.
    pub(crate) signalled: Vec<TaskId>,
    /// Tasks whose log is complete.
    pub(crate) ended: Vec<TaskId>,
    /// What is done last of all in the transaction: see [`Effects::conclude`].
    pub(crate) last: Last,
}

/// Changes that take locks which come after all others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last {
    /// Tasks that came in line, in this order, and their lanes.
    ids: Vec<Uuid>,
    lanes: Vec<i32>,
    /// Tasks that ended and have unique keys.
    freed: Vec<Uuid>,
}

impl Effects {
    /// Notes that a task entered `state`.
    pub(crate) fn entered(&mut self, id: TaskId, lane: i32, state: State) {
        self.events = true;
        match state {
            State::Ready => {
                *self.ready.entry(lane).or_default() += 1;
            }
            State::Scheduled => self.scheduled = true,
            state if state.is_terminal() => self.ended.push(id),
            _ => {}
        }
    }

    /// Puts a task in line when the transaction ends.
    pub(crate) fn line_up(&mut self, lane: i32, id: Uuid) {
        self.last.lanes.push(lane);
        self.last.ids.push(id);
    }

    /// Does what was put off to the end of the transaction: gives back the unique keys of what ended, and puts in line what
    /// became ready, each in one order. Whoever waits for one of these locks, which come last, so waits for somebody who
    /// waits for nothing but such.
    pub(crate) async fn conclude(&mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        self.free_keys(connection).await?;
        let Last { ids, lanes, .. } = std::mem::take(&mut self.last);
        if ids.is_empty() { Ok(()) } else { super::queue::line_up(connection, &lanes, &ids).await }
    }

    /// Gives back the unique keys of what ended by now, where the same transaction goes on to take them.
    pub(crate) async fn free_keys(&mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let freed = std::mem::take(&mut self.last.freed);
        if freed.is_empty() { Ok(()) } else { super::unique::free(connection, &freed).await }
    }
}

/// A role as its column has it.
pub(crate) const fn role_word(role: Role) -> &'static str {
    match role {
        Role::Work => "work",
        Role::Plan => "plan",
    }
}

/// A state as its column has it: what tells ready from running is kept elsewhere.
pub(crate) const fn stored(state: State) -> &'static str {
    match state {
        State::Ready | State::Running => "queued",
        other => other.as_str(),
    }
}

/// Writes these changes and all that follows from them.
pub(crate) async fn apply(
    connection: &mut PgConnection,
    changes: &[(Locked, Change)],
    effects: &mut Effects,
) -> sqlx::Result<()> {
    for chunk in changes.chunks(CHUNK) {
        write_tasks(connection, chunk).await?;
        close_attempts(connection, chunk).await?;
        move_leases(connection, chunk, effects).await?;
        tell(connection, chunk, effects).await?;
        wait_anew(connection, chunk, effects).await?;
        put_off(chunk, effects);
    }
    Ok(())
}

/// Whether an attempt ended and another is to follow.
fn goes_again(task: &Locked, change: &Change) -> bool {
    task.snapshot.state == State::Running && matches!(change.state, State::Ready | State::Scheduled)
}

async fn write_tasks(connection: &mut PgConnection, chunk: &[(Locked, Change)]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = chunk.iter().map(|(task, _)| task.id.0).collect();
    let states: Vec<String> = chunk.iter().map(|(_, c)| stored(c.state).to_owned()).collect();
    let reasons: Vec<Option<String>> = chunk.iter().map(|(_, c)| c.reason.clone()).collect();
    let attempts: Vec<i32> = chunk.iter().map(|(_, c)| c.attempt).collect();
    let used: Vec<i32> = chunk.iter().map(|(_, c)| c.attempts_used).collect();
    let errors: Vec<i32> = chunk.iter().map(|(_, c)| c.runtime_errors).collect();
    let dependencies: Vec<i32> = chunk.iter().map(|(_, c)| c.open_dependencies).collect();
    let gates: Vec<i32> = chunk.iter().map(|(_, c)| c.open_gates).collect();
    let children: Vec<i32> = chunk.iter().map(|(_, c)| c.open_children).collect();
    // Another attempt does not answer for what an earlier one spawned.
    let failures: Vec<Option<String>> =
        chunk.iter().map(|(t, c)| c.child_failure.clone().filter(|_| !goes_again(t, c))).collect();
    let agains: Vec<bool> = chunk.iter().map(|(t, c)| goes_again(t, c)).collect();
    let cancels: Vec<bool> = chunk.iter().map(|(_, c)| c.cancel_requested).collect();
    let backoffs: Vec<Option<i64>> = chunk.iter().map(|(_, c)| c.backoff.map(millis)).collect();
    let outcomes =
        chunk.iter().map(|(_, c)| outcome_json(c)).collect::<sqlx::Result<Vec<Option<String>>>>()?;
    let takes: Vec<bool> = chunk.iter().map(|(_, c)| c.take_finish_result).collect();
    let fences: Vec<i64> = chunk.iter().map(|(task, _)| task.fence).collect();
    let starts: Vec<Option<i64>> = chunk
        .iter()
        .map(|(task, _)| task.held.as_ref().map(|held| held.granted_at.0.as_microsecond()))
        .collect();
    sqlx::query!(
        r#"UPDATE orca.tasks t SET
               state = c.state, plain = false, fence = c.fence, attempt = greatest(c.attempt, t.attempt),
               reason = CASE WHEN c.state = 'succeeded' THEN NULL ELSE coalesce(c.reason, t.reason) END,
               attempts_used = c.used, runtime_errors = c.errors,
               open_dependencies = c.dependencies, open_gates = c.gates, open_children = c.children,
               child_failure = c.failure, cancel_requested = c.cancel,
               progress = CASE WHEN NOT c.again THEN t.progress END,
               progress_event_at = CASE WHEN NOT c.again THEN t.progress_event_at END,
               started_at = coalesce(t.started_at, orca.instant(c.granted_at)),
               run_at = CASE WHEN c.backoff_ms IS NULL THEN t.run_at
                             ELSE orca.now() + c.backoff_ms * interval '1 millisecond' END,
               start_by = CASE WHEN c.state = 'queued'
                               THEN least(t.deadline, orca.now() + t.schedule_to_start_ms * interval '1 millisecond') END,
               outcome = coalesce(c.outcome, t.outcome),
               result = CASE WHEN c.take THEN (SELECT coalesce(d.result, f.result) FROM orca.tasks f
                                               LEFT JOIN orca.done d ON d.task = f.id WHERE f.id = t.finish)
                             ELSE t.result END,
               finished_at = CASE WHEN c.state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped')
                                  THEN orca.now() END
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[], $8::text[],
                       $9::bool[], $10::bigint[], $11::text[], $12::bool[], $13::bigint[], $14::bigint[], $15::int[],
                       $16::int[], $17::bool[])
                AS c(id, state, reason, used, errors, dependencies, children, failure, cancel, backoff_ms, outcome, take,
                     fence, granted_at, attempt, gates, again)
           WHERE t.id = c.id"#,
        &ids,
        &states,
        &reasons as &[Option<String>],
        &used,
        &errors,
        &dependencies,
        &children,
        &failures as &[Option<String>],
        &cancels,
        &backoffs as &[Option<i64>],
        &outcomes as &[Option<String>],
        &takes,
        &fences,
        &starts as &[Option<i64>],
        &attempts,
        &gates,
        &agains,
    )
    .execute(connection)
    .await
    .map(drop)
}

fn outcome_json(change: &Change) -> sqlx::Result<Option<String>> {
    change.outcome.as_ref().map(to_json::<Outcome>).transpose()
}

async fn move_leases(
    connection: &mut PgConnection,
    chunk: &[(Locked, Change)],
    effects: &mut Effects,
) -> sqlx::Result<()> {
    let (mut released, mut special) = (Vec::<LeaseRef>::new(), Vec::new());
    for (task, change) in chunk.iter().filter(|(task, _)| task.snapshot.state == State::Running) {
        if change.state != State::Running {
            released.push(task.lease());
            effects.released.insert(task.namespace.clone());
            continue;
        }
        special.push(task.lease());
        if let Some(held) = task.held.as_ref().filter(|_| change.cancel_requested) {
            effects.cancels.insert(held.node);
        }
    }
    if !released.is_empty() {
        super::lease::release(connection, &released).await?;
    }
    if !special.is_empty() {
        super::lease::make_special(connection, &special).await?;
    }
    Ok(())
}

/// Sets the timers of what waits for a node, or for its next attempt, from now on.
async fn wait_anew(
    connection: &mut PgConnection,
    chunk: &[(Locked, Change)],
    effects: &mut Effects,
) -> sqlx::Result<()> {
    let starting: Vec<Uuid> = chunk
        .iter()
        .filter(|(task, change)| comes_in_line(task, change) && task.schedule_to_start_ms.is_some())
        .map(|(task, _)| task.id.0)
        .collect();
    if !starting.is_empty() {
        effects.scheduled = true;
        super::timer::set_start(connection, &starting).await?;
    }
    let limited: Vec<Uuid> = chunk
        .iter()
        .filter(|(task, c)| task.limited && goes_again(task, c))
        .map(|(task, _)| task.id.0)
        .collect();
    if !limited.is_empty() {
        effects.scheduled = true;
        super::timer::keep_deadlines(connection, &limited).await?;
    }
    Ok(())
}

fn comes_in_line(task: &Locked, change: &Change) -> bool {
    task.snapshot.state != State::Ready && change.state == State::Ready
}

fn put_off(chunk: &[(Locked, Change)], effects: &mut Effects) {
    for (task, change) in chunk {
        if comes_in_line(task, change) {
            effects.line_up(task.lane, task.id.0);
        }
        if change.state.is_terminal() && task.unique {
            effects.last.freed.push(task.id.0);
        }
    }
}

async fn close_attempts(connection: &mut PgConnection, chunk: &[(Locked, Change)]) -> sqlx::Result<()> {
    let ended: Vec<(&Locked, &Change, &super::lease::Held)> = chunk
        .iter()
        .filter(|(_, change)| change.outcome.is_some())
        .filter_map(|(task, change)| task.held.as_ref().map(|held| (task, change, held)))
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = ended.iter().map(|(task, ..)| task.id.0).collect();
    let tokens: Vec<i64> = ended.iter().map(|(.., held)| held.token).collect();
    let numbers: Vec<i32> = ended.iter().map(|(task, ..)| task.snapshot.attempt).collect();
    let nodes: Vec<Uuid> = ended.iter().map(|(.., held)| held.node.0).collect();
    let names: Vec<String> = ended.iter().map(|(.., held)| held.node_name.clone()).collect();
    let granted: Vec<i64> = ended.iter().map(|(.., held)| held.granted_at.0.as_microsecond()).collect();
    let outcomes =
        ended.iter().map(|(_, c, _)| outcome_json(c)).collect::<sqlx::Result<Vec<Option<String>>>>()?;
    let namespaces: Vec<String> = ended.iter().map(|(task, ..)| task.namespace.clone()).collect();
    sqlx::query!(
        r#"WITH c AS (
               SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::uuid[], $5::text[], $6::bigint[], $7::text[],
                                    $8::text[])
                   AS c(task, token, number, node, node_name, granted_at, outcome, namespace)),
           closed AS (
               INSERT INTO orca.attempts AS a (task, token, number, node, node_name, granted_at, ended_at, outcome)
               SELECT c.task, c.token, c.number, c.node, c.node_name, orca.instant(c.granted_at), orca.now(), c.outcome FROM c
               ON CONFLICT (task, token) DO UPDATE SET ended_at = excluded.ended_at, outcome = excluded.outcome)
           INSERT INTO orca.events (namespace, tasks, kind, attempt, token, node, outcome)
           SELECT c.namespace, ARRAY[c.task], 'orca.attempt.ended', c.number, c.token, c.node, c.outcome FROM c"#,
        &ids,
        &tokens,
        &numbers,
        &nodes,
        &names,
        &granted,
        &outcomes as &[Option<String>],
        &namespaces,
    )
    .execute(&mut *connection)
    .await?;
    super::log::close(connection, &ids, &tokens).await
}

/// Writes the events of states entered and cancels asked for, and puts what ended before the settler.
async fn tell(
    connection: &mut PgConnection,
    chunk: &[(Locked, Change)],
    effects: &mut Effects,
) -> sqlx::Result<()> {
    let mut states = Vec::new();
    let mut cancels = Vec::new();
    let mut ended = Vec::new();
    let mut cancel_children = Vec::new();
    for (task, change) in chunk {
        let id = task.id.0;
        if change.state != task.snapshot.state {
            effects.entered(task.id, task.lane, change.state);
            states.push(super::event::Entered {
                namespace: task.namespace.clone(),
                task: id,
                state: change.state,
                reason: change.reason.clone(),
                attempt: change.attempt,
            });
            if change.state.is_terminal() {
                ended.push(id);
            }
        } else if change.cancel_requested && !task.snapshot.cancel_requested {
            effects.events = true;
            cancels.push(id);
        }
        if change.cancel_children {
            effects.unsettled = true;
            cancel_children.push(id);
        }
    }
    super::event::entered(connection, &states).await?;
    if !cancels.is_empty() {
        super::event::cancel_requests(connection, &cancels).await?;
    }
    if !ended.is_empty() {
        effects.unsettled |= super::settlement::ended(connection, &ended).await?;
    }
    if !cancel_children.is_empty() {
        super::settlement::cancel_children(connection, &cancel_children).await?;
    }
    Ok(())
}
