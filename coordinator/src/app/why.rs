//! Why a task is not running: gathers what is so at one instant, and lets dispatch explain it.

use std::collections::HashMap;

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::node::NodeState;
use orca_proto::problem::Kind;
use orca_proto::spec::{NewTask, Role};
use orca_proto::task::{State, Step};
use orca_proto::why::{Condition, Why};
use sqlx::PgConnection;

use super::lane::lane_of;
use super::{App, Error, Principal};
use crate::db::apply::role_word;
use crate::db::rules::{self, Rules};
use crate::db::why::{self, Subject};
use crate::db::{gate, inbox, lane, node, session};
use crate::dispatch::{self, Ahead, Asker, Fleet, Flow, InLine, LaneKey, Line, Moment, Settings, Usage};

/// Other tasks that are named at most: dependencies, and holders of a limit.
const NAMED: i64 = 20;
/// Tasks of other lanes of which it is looked at each whether it still waits.
const LOOKED_AT: u64 = 20_000;

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
        let Some(task) = why::subject(tx, namespace, id).await? else {
            if !inbox::waits(tx, namespace, id).await? {
                return Err(Error::not_found());
            }
            let detail = "it was enqueued by SQL and has not been taken in yet: it is within a second, or, where the namespace has \
                          as many open tasks as it may, once some of them have ended";
            return Err(Error::refused(Kind::NotFound, detail));
        };
        let now = session::now(tx).await?;
        let (mut conditions, mut approved) = (Vec::new(), Vec::new());
        if task.cancel_requested && !task.state.is_terminal() {
            conditions.push(dispatch::cancel_requested(None, task.reason.as_deref()));
        }
        if task.spec.approval.is_some()
            && let Some(decided) = gate::decided(tx, id).await?.filter(|decided| decided.approved)
        {
            approved.push(dispatch::approved(&decided));
        }
        if !task.spec.wait_for.is_empty() {
            approved.extend(gate::arrived(tx, id).await?.iter().map(dispatch::arrived));
        }
        match task.state {
            State::Blocked => {
                blocked(tx, id, &task, now, &mut conditions).await?;
                conditions.extend(self.afterwards(tx, namespace, &task, now).await?);
            }
            State::Scheduled => {
                conditions.extend(task.run_at.map(|at| {
                    if task.attempt == 0 {
                        return dispatch::due(at.0, now);
                    }
                    let next = task.attempts_used + 1;
                    dispatch::backoff(at.0, now, next, task.max_attempts, task.outcome.as_ref())
                }));
                conditions.extend(self.afterwards(tx, namespace, &task, now).await?);
            }
            State::Ready => {
                conditions.append(&mut approved);
                return self.in_line(tx, namespace, id, &task, now, conditions).await;
            }
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
        conditions.append(&mut approved);
        Ok(dispatch::why(id, task.state, conditions, None, Vec::new()))
    }

    /// What is known to hold a task once it comes in line.
    async fn afterwards(
        &self,
        tx: &mut PgConnection,
        namespace: &str,
        task: &Subject,
        now: Timestamp,
    ) -> Result<Vec<Condition>, Error> {
        let scene = self.scene(tx, namespace, task, now).await?;
        let in_line = InLine {
            lane: &scene.key,
            since_us: now.as_microsecond(),
            ahead: Ahead::default(),
            queue_holders: &[],
            group_holders: &[],
        };
        Ok(dispatch::lasting(dispatch::explain(in_line, &scene.nodes, &scene.moment()).conditions))
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
        let standing = why::standing(tx, task.lane, id, why::came(task)).await?;
        let since_us = standing.since.0.as_microsecond();
        let scene = self.scene(tx, namespace, task, now).await?;
        let ahead = ahead(tx, namespace, task, &scene, since_us, standing.before).await?;
        let (key, moment) = (&scene.key, scene.moment());
        let (queue, group) = limited(&key.flow, &moment);
        let (name, in_group) = (key.flow.queue(), key.flow.group());
        let queue_holders =
            if queue { why::holders(tx, namespace, name, None, NAMED).await? } else { Vec::new() };
        let group_holders =
            if group { why::holders(tx, namespace, name, in_group, NAMED).await? } else { Vec::new() };
        let in_line = InLine {
            lane: key,
            since_us,
            ahead,
            queue_holders: &queue_holders,
            group_holders: &group_holders,
        };
        let explained = dispatch::explain(in_line, &scene.nodes, &moment);
        conditions.extend(explained.conditions);
        conditions.extend(self.out_of_service(tx, namespace, task.role).await?);
        Ok(dispatch::why(id, task.state, conditions, Some(ahead.tasks), explained.eligible_nodes))
    }

    /// The nodes that live and take no work, where nobody can know that from the rest.
    async fn out_of_service(
        &self,
        tx: &mut PgConnection,
        namespace: &str,
        role: Role,
    ) -> Result<Option<Condition>, Error> {
        let nodes = node::list(tx, namespace, None, self.0.lease).await?;
        let out: Vec<(String, String)> = nodes
            .into_iter()
            .filter(|node| node.role == role)
            .filter_map(|node| {
                let state = match node.state {
                    NodeState::Ready | NodeState::Gone => return None,
                    NodeState::Draining => "draining".to_owned(),
                    NodeState::Cordoned => {
                        let by = node.cordon.as_ref().map(|by| format!(" by {}", by.by)).unwrap_or_default();
                        let reason = node.cordon.and_then(|by| by.reason);
                        format!("cordoned{by}{}", reason.map(|why| format!(" (“{why}”)")).unwrap_or_default())
                    }
                    NodeState::Unwell => format!("unwell ({})", node.unwell.unwrap_or_default()),
                };
                Some((node.name, state))
            })
            .collect();
        Ok((!out.is_empty()).then(|| dispatch::out_of_service(&out)))
    }

    /// What dispatch would look at for this task.
    async fn scene(
        &self,
        tx: &mut PgConnection,
        namespace: &str,
        task: &Subject,
        now: Timestamp,
    ) -> Result<Scene, Error> {
        let Rules { settings, mut usage, .. } = rules::load(tx, namespace).await?;
        rules::running(tx, namespace, &mut usage).await?;
        let nodes = node::live(tx, namespace, role_word(task.role), self.0.lease).await?;
        let fleet = Fleet::new(nodes.iter().map(|node| (&node.labels, &node.queues)));
        let key = lane_of(namespace, &NewTask { role: task.role, ..task.spec.clone() });
        Ok(Scene { key, settings, usage, nodes, fleet, now_us: now.as_microsecond() })
    }
}

/// A task's lane, and all that decides who may take of it.
struct Scene {
    key: LaneKey,
    settings: Settings,
    usage: Usage,
    nodes: Vec<Asker>,
    fleet: Fleet,
    now_us: i64,
}

impl Scene {
    fn moment(&self) -> Moment<'_> {
        Moment { settings: &self.settings, usage: &self.usage, fleet: &self.fleet, now_us: self.now_us }
    }
}

/// How many tasks go before the one that has so many of its own lane before it.
async fn ahead(
    tx: &mut PgConnection,
    namespace: &str,
    task: &Subject,
    scene: &Scene,
    since_us: i64,
    in_lane: u64,
) -> Result<Ahead, Error> {
    // Those that none of the nodes that fit this task may take are not in its way. Where there is no node at all, one that fits
    // may be one that fits them too.
    let fit = scene.nodes.iter().filter(|node| dispatch::fits(node, &scene.key));
    let fleet = Fleet::new(fit.map(|node| (&node.labels, &node.queues)));
    let lanes = why::lanes(tx, namespace, role_word(task.role)).await?;
    let lines: Vec<Line> = lane::waiting(tx, lane::Among::These(&lanes))
        .await?
        .into_iter()
        .filter(|lane| scene.nodes.is_empty() || fleet.may_take(&lane.key))
        .map(|lane| Line {
            id: lane.id,
            waiting: lane.waiting,
            head_since_us: lane.since.0.as_microsecond(),
            lane: std::sync::Arc::new(lane.key),
        })
        .collect();
    let before = dispatch::before(&lines, &scene.key, since_us, &scene.moment());
    // Lines also hold what ended in them: told apart where that is soon done, the short ones first.
    let mut short: Vec<&Line> = before.lines().collect();
    short.sort_by_key(|line| line.waiting);
    let mut looked_at = 0_u64;
    let few = short.iter().take_while(|line| {
        looked_at = looked_at.saturating_add(line.waiting);
        looked_at <= LOOKED_AT
    });
    let few = few.count();
    short.truncate(few);
    let ids: Vec<i32> = short.iter().map(|line| line.id).collect();
    let waiting = why::waiting(tx, &ids).await?;
    let exact = waiting.into_iter().map(|waiting| u64::try_from(waiting).unwrap_or_default());
    let exact: HashMap<i32, u64> = ids.into_iter().zip(exact).collect();
    Ok(before.ahead(in_lane, |line| exact.get(&line.id).copied().unwrap_or(line.waiting)))
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
    let stuck = awaited.iter().filter(|on| on.state == State::Blocked).map(|on| on.id.0);
    let roots = why::roots(tx, &stuck.collect::<Vec<_>>()).await?;
    conditions.extend(awaited.iter().map(|on| {
        let root = roots.get(&on.id).map(|root| (root.id, root.name.as_str(), root.state));
        dispatch::dependency(on.id, &on.name, on.state, root)
    }));
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
