//! Writing what the state machine decided: the tasks, and everything that follows from their new states.

use std::collections::BTreeSet;

use orca_proto::ids::{NodeId, TaskId};
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
    /// Lanes in which something became ready.
    pub(crate) ready: BTreeSet<(String, &'static str, String)>,
    /// Nodes that must cancel something.
    pub(crate) cancels: BTreeSet<NodeId>,
    /// Something waits to be settled.
    pub(crate) unsettled: bool,
    /// Something is due later: the timer must look again.
    pub(crate) scheduled: bool,
    /// Events were written.
    pub(crate) events: bool,
    /// Tasks whose log is complete.
    pub(crate) ended: Vec<TaskId>,
}

impl Effects {
    /// Notes that a task entered `state`.
    pub(crate) fn entered(&mut self, id: TaskId, namespace: &str, role: Role, queue: &str, state: State) {
        self.events = true;
        match state {
            State::Ready => {
                let role = role_word(role);
                self.ready.insert((namespace.to_owned(), role, queue.to_owned()));
            }
            State::Scheduled => self.scheduled = true,
            state if state.is_terminal() => self.ended.push(id),
            _ => {}
        }
    }
}

/// A role as its column has it.
pub(crate) const fn role_word(role: Role) -> &'static str {
    match role {
        Role::Work => "work",
        Role::Plan => "plan",
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
        move_entries(connection, chunk, effects).await?;
        close_attempts(connection, chunk).await?;
        tell(connection, chunk, effects).await?;
    }
    Ok(())
}

async fn write_tasks(connection: &mut PgConnection, chunk: &[(Locked, Change)]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = chunk.iter().map(|(task, _)| task.id.0).collect();
    let states: Vec<String> = chunk.iter().map(|(_, c)| c.state.as_str().to_owned()).collect();
    let reasons: Vec<Option<String>> = chunk.iter().map(|(_, c)| c.reason.clone()).collect();
    let used: Vec<i32> = chunk.iter().map(|(_, c)| c.attempts_used).collect();
    let errors: Vec<i32> = chunk.iter().map(|(_, c)| c.runtime_errors).collect();
    let dependencies: Vec<i32> = chunk.iter().map(|(_, c)| c.open_dependencies).collect();
    let children: Vec<i32> = chunk.iter().map(|(_, c)| c.open_children).collect();
    let failures: Vec<Option<String>> = chunk.iter().map(|(_, c)| c.child_failure.clone()).collect();
    let cancels: Vec<bool> = chunk.iter().map(|(_, c)| c.cancel_requested).collect();
    let backoffs: Vec<Option<i64>> = chunk.iter().map(|(_, c)| c.backoff.map(millis)).collect();
    let outcomes =
        chunk.iter().map(|(_, c)| outcome_json(c)).collect::<sqlx::Result<Vec<Option<String>>>>()?;
    let takes: Vec<bool> = chunk.iter().map(|(_, c)| c.take_finish_result).collect();
    sqlx::query!(
        r#"UPDATE orca.tasks t SET
               state = c.state,
               reason = CASE WHEN c.state = 'succeeded' THEN NULL ELSE coalesce(c.reason, t.reason) END,
               attempts_used = c.used, runtime_errors = c.errors,
               open_dependencies = c.dependencies, open_children = c.children,
               child_failure = c.failure, cancel_requested = c.cancel,
               run_at = CASE WHEN c.backoff_ms IS NULL THEN t.run_at
                             ELSE orca.now() + c.backoff_ms * interval '1 millisecond' END,
               outcome = coalesce(c.outcome::json, t.outcome),
               result = CASE WHEN c.take THEN (SELECT f.result FROM orca.tasks f WHERE f.id = t.finish)
                             ELSE t.result END,
               finished_at = CASE WHEN c.state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped')
                                  THEN orca.now() END
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[], $8::text[],
                       $9::bool[], $10::bigint[], $11::text[], $12::bool[])
                AS c(id, state, reason, used, errors, dependencies, children, failure, cancel, backoff_ms, outcome, take)
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
    )
    .execute(connection)
    .await
    .map(drop)
}

fn outcome_json(change: &Change) -> sqlx::Result<Option<String>> {
    change.outcome.as_ref().map(to_json::<Outcome>).transpose()
}

async fn move_entries(
    connection: &mut PgConnection,
    chunk: &[(Locked, Change)],
    effects: &mut Effects,
) -> sqlx::Result<()> {
    let moved = |test: &dyn Fn(State, State) -> bool| -> Vec<Uuid> {
        chunk
            .iter()
            .filter(|(task, change)| test(task.snapshot.state, change.state))
            .map(|(task, _)| task.id.0)
            .collect()
    };
    let into_ready = moved(&|from, to| from != State::Ready && to == State::Ready);
    if !into_ready.is_empty() {
        super::queue::push(connection, &into_ready).await?;
    }
    let out_of_ready = moved(&|from, to| from == State::Ready && to != State::Ready);
    if !out_of_ready.is_empty() {
        super::queue::remove(connection, &out_of_ready).await?;
    }
    let out_of_running = moved(&|from, to| from == State::Running && to != State::Running);
    if !out_of_running.is_empty() {
        super::lease::release(connection, &out_of_running).await?;
    }
    let cancelled: Vec<Uuid> = chunk
        .iter()
        .filter(|(task, change)| {
            change.state == State::Running && change.cancel_requested && !task.snapshot.cancel_requested
        })
        .map(|(task, _)| task.id.0)
        .collect();
    if !cancelled.is_empty() {
        effects.cancels.extend(super::lease::request_cancel(connection, &cancelled).await?);
    }
    Ok(())
}

async fn close_attempts(connection: &mut PgConnection, chunk: &[(Locked, Change)]) -> sqlx::Result<()> {
    let ended: Vec<&(Locked, Change)> = chunk.iter().filter(|(_, change)| change.outcome.is_some()).collect();
    if ended.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = ended.iter().map(|(task, _)| task.id.0).collect();
    let tokens: Vec<i64> = ended.iter().map(|(task, _)| task.fence).collect();
    let outcomes =
        ended.iter().map(|(_, c)| outcome_json(c)).collect::<sqlx::Result<Vec<Option<String>>>>()?;
    sqlx::query!(
        r#"WITH closed AS (
               UPDATE orca.attempts a SET ended_at = orca.now(), outcome = c.outcome::json
               FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS c(task, token, outcome)
               WHERE a.task = c.task AND a.token = c.token
               RETURNING a.task, a.token, a.number, a.node, a.outcome)
           INSERT INTO orca.events (namespace, task, parent, kind, attempt, token, node, outcome)
           SELECT t.namespace, t.id, t.parent, 'orca.attempt.ended', c.number, c.token, c.node, c.outcome
           FROM closed c JOIN orca.tasks t ON t.id = c.task"#,
        &ids,
        &tokens,
        &outcomes as &[Option<String>],
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
            effects.entered(task.id, &task.namespace, task.snapshot.role, &task.queue, change.state);
            states.push(id);
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
    if !states.is_empty() {
        super::event::states(connection, &states).await?;
    }
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
