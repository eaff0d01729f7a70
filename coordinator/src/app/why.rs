//! Why a task is not running: gathers what is so at one instant, and lets dispatch explain it.

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::spec::NewTask;
use orca_proto::task::{State, Step};
use orca_proto::why::{Condition, Why};
use sqlx::PgConnection;

use super::lines::lane_of;
use super::{App, Error, Principal};
use crate::db::apply::role_word;
use crate::db::rules::{self, Rules};
use crate::db::why::{self, Subject};
use crate::db::{lane, node, session};
use crate::dispatch::{self, Fleet, Flow, InLine, Line, Moment};

/// Other tasks that are named at most: dependencies, and holders of a limit.
const NAMED: i64 = 20;

impl App {
    /// Why a task is not running; where it runs, who holds it; where it ended, how.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn task_why(&self, who: &Principal, id: TaskId) -> Result<Why, Error> {
        let (app, namespace) = (self.clone(), who.namespace.clone());
        self.spawned(async move {
            let mut tx = app.begin().await?;
            why::hold_still(&mut tx).await?;
            let answer = app.explain(&mut tx, &namespace, id).await;
            // It only read.
            let _ = tx.rollback().await;
            answer
        })
        .await
    }

    async fn explain(&self, tx: &mut PgConnection, namespace: &str, id: TaskId) -> Result<Why, Error> {
        let task = why::subject(tx, namespace, id).await?.ok_or_else(Error::not_found)?;
        let now = session::now(tx).await?;
        let mut conditions = Vec::new();
        if task.cancel_requested && !task.state.is_terminal() {
            conditions.push(dispatch::cancel_requested(None, task.reason.as_deref()));
        }
        match task.state {
            State::Blocked => blocked(tx, id, &task, now, &mut conditions).await?,
            State::Scheduled => conditions.extend(task.run_at.map(|at| {
                if task.attempt == 0 {
                    return dispatch::due(at.0, now);
                }
                let next = task.attempts_used + 1;
                dispatch::backoff(at.0, now, next, task.max_attempts, task.outcome.as_ref())
            })),
            State::Ready => return self.in_line(tx, namespace, id, &task, now, conditions).await,
            State::Running => {
                let holder = why::holder(tx, task.lane, id).await?;
                conditions.extend(
                    holder.map(|by| dispatch::held_by(&by.node, task.attempt, by.since.0, by.until.0)),
                );
            }
            State::Waiting => {
                conditions.push(dispatch::children(u64::try_from(task.open_children).unwrap_or_default()));
            }
            state if state.is_terminal() => {
                let at = task.finished_at.map_or(now, |at| at.0);
                conditions.push(dispatch::ended(state, at, task.reason.as_deref()));
            }
            _ => {}
        }
        Ok(dispatch::why(id, task.state, conditions, None, Vec::new()))
    }

    /// What dispatch says of a task that is ready.
    async fn in_line(
        &self,
        tx: &mut PgConnection,
        namespace: &str,
        id: TaskId,
        task: &Subject,
        now: Timestamp,
        mut conditions: Vec<Condition>,
    ) -> Result<Why, Error> {
        let key = lane_of(namespace, &NewTask { role: task.role, ..task.spec.clone() });
        let role = role_word(task.role);
        let standing = why::standing(tx, task.lane, id, why::came(task)).await?;
        let Rules { settings, mut usage, .. } = rules::load(tx, namespace).await?;
        rules::running(tx, namespace, &mut usage).await?;
        let nodes = node::live(tx, namespace, role, self.0.lease).await?;
        let fleet = Fleet::new(nodes.iter().map(|node| (&node.labels, &node.queues)));
        let moment =
            Moment { settings: &settings, usage: &usage, fleet: &fleet, now_us: now.as_microsecond() };
        let lanes = why::lanes(tx, namespace, role).await?;
        let lines: Vec<Line> = lane::waiting(tx, Some(&lanes))
            .await?
            .into_iter()
            // What nobody may take holds nobody up.
            .filter(|lane| nodes.is_empty() || fleet.may_take(&lane.key))
            .map(|lane| Line {
                id: lane.id,
                waiting: lane.waiting,
                head_since_us: lane.since.0.as_microsecond(),
                lane: std::sync::Arc::new(lane.key),
            })
            .collect();
        let since_us = standing.since.0.as_microsecond();
        let ahead = dispatch::ahead(&lines, &key, since_us, standing.before, &moment);
        let (queue, group) = limited(&key.flow, &moment);
        let (name, in_group) = (key.flow.queue(), key.flow.group());
        let queue_holders =
            if queue { why::holders(tx, namespace, name, None, NAMED).await? } else { Vec::new() };
        let group_holders =
            if group { why::holders(tx, namespace, name, in_group, NAMED).await? } else { Vec::new() };
        let in_line = InLine {
            lane: &key,
            since_us,
            ahead,
            queue_holders: &queue_holders,
            group_holders: &group_holders,
        };
        let explained = dispatch::explain(in_line, &nodes, &moment);
        conditions.extend(explained.conditions);
        Ok(dispatch::why(id, task.state, conditions, Some(ahead), explained.eligible_nodes))
    }
}

/// Whether the queue and the group of a flow have a limit, and as many running as it lets.
fn limited(flow: &Flow, moment: &Moment<'_>) -> (bool, bool) {
    let full = |max: Option<u32>, running: Option<u64>| {
        max.is_some_and(|max| running.is_some_and(|running| running >= u64::from(max)))
    };
    let queue = moment.settings.queues.get(flow.queue()).and_then(|rules| rules.settings.max_running);
    let running = moment.usage.queues.get(flow.queue()).map(|usage| usage.running);
    let group = moment.settings.group(flow).and_then(|rules| rules.settings.max_running);
    let in_group = moment.usage.group(flow).map(|usage| usage.running);
    (full(queue, running), full(group, in_group))
}

/// Everything that a blocked task waits for.
async fn blocked(
    tx: &mut PgConnection,
    id: TaskId,
    task: &Subject,
    now: Timestamp,
    conditions: &mut Vec<Condition>,
) -> Result<(), Error> {
    let goal = task.parent.filter(|_| task.step == Some(Step::Finish));
    let awaited = why::awaited(tx, id, goal, NAMED).await?;
    let named = awaited.len() as u64;
    let all = match goal {
        // The finish step is itself among them.
        Some(goal) => why::open_children(tx, goal).await?.saturating_sub(1),
        None => u64::try_from(task.open_dependencies).unwrap_or_default(),
    };
    conditions.extend(awaited.iter().map(|on| dispatch::dependency(on.id, &on.name, on.state)));
    if named == NAMED.unsigned_abs() && all > named {
        conditions.push(dispatch::further(all - named));
    }
    for gate in why::closed_gates(tx, id).await? {
        let until = gate.until.map(|at| at.0);
        let prompt = task.spec.approval.as_ref().and_then(|approval| approval.prompt.as_deref());
        conditions.push(match gate.name.as_str() {
            "" => dispatch::approval(prompt, until, now),
            name => dispatch::signal(name, until, now),
        });
    }
    if let Some(at) = task.run_at.filter(|at| at.0 > now) {
        conditions.push(dispatch::due(at.0, now));
    }
    Ok(())
}
