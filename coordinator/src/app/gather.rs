//! Enqueues that arrive within a moment of each other are written together: one statement, one commit, one wait for the disk.
//!
//! Only tasks that need nothing but a row and a place in line come here, so nothing of one request can fail for another's
//! sake. Each is answered after the commit. Where a claim waits and nothing else does, what is written is granted by the same
//! commit.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::spec::{NewTask, OnChildFailure, OnDependencyFailure, Role};
use orca_proto::task::State;
use tokio::sync::{Semaphore, oneshot};

use super::lane::{lane_of, stands_in};
use super::transaction::statement;
use super::waiting::Wanting;
use super::{App, Error, Principal};
use crate::db::Time;
use crate::db::apply::Effects;
use crate::db::insert::{self, Prepared};
use crate::db::queue::{self, Plain};
use crate::dispatch::LaneKey;

/// Transactions at a time, each with a connection: while one waits for the disk, others write.
const WRITERS: usize = 3;
/// Tasks that one statement writes, unless a single request has more.
const TASKS: usize = 1_000;

/// Requests that wait to be written, and who may write.
pub(crate) struct Gathering {
    waiting: Mutex<Vec<Request>>,
    writers: Semaphore,
    /// One at a time: more would wait for the same lane.
    hand_over: Semaphore,
}

/// One request's tasks.
struct Request {
    plain: Plain,
    answer: oneshot::Sender<Result<Timestamp, Error>>,
}

impl Gathering {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::default(), writers: Semaphore::new(WRITERS), hand_over: Semaphore::new(1) }
    }

    fn put(&self, request: Request) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    /// The requests that have waited longest, as many as one statement writes.
    fn take(&self) -> Vec<Request> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tasks = 0;
        let beyond = waiting.iter().position(|request| {
            tasks += request.plain.ids.len();
            tasks > TASKS
        });
        let count = beyond.map_or(waiting.len(), |at| at.max(1));
        waiting.drain(..count).collect()
    }
}

/// Whether a task without dependencies is ready at once and needs nothing but a row and a place in line.
pub(crate) fn is_simple(task: &NewTask) -> bool {
    task.role == Role::Work
        && task.run_at.is_none()
        && task.delay.is_none()
        && task.deadline.is_none()
        && task.unique.is_none()
        && task.approval.is_none()
        && task.wait_for.is_empty()
        && task.depends_on.is_empty()
        && task.artifacts.is_empty()
        && task.secrets.is_empty()
        && task.timeouts.schedule_to_start.is_none()
        && task.on_dependency_failure == OnDependencyFailure::default()
        && task.on_child_failure == OnChildFailure::default()
}

impl App {
    /// Enqueues simple tasks, together with others'; answers their ids and when they came in line.
    pub(crate) async fn gather(
        &self,
        who: &Principal,
        tasks: Vec<NewTask>,
    ) -> Result<(Vec<TaskId>, Timestamp), Error> {
        self.learn_lanes(&who.namespace, &tasks).await?;
        let namespace = &who.namespace;
        let prepare = || -> Result<(Plain, Vec<TaskId>), Error> {
            let mut plain = Plain::default();
            let mut last: Option<(LaneKey, i32)> = None;
            let mut ids = Vec::with_capacity(tasks.len());
            for spec in tasks {
                let lane = match &last {
                    Some((key, lane)) if stands_in(&spec, key) => *lane,
                    _ => {
                        let key = lane_of(namespace, &spec);
                        let known = self.0.lines.number(&key);
                        let lane = known
                            .ok_or_else(|| Error::Unavailable("the lanes changed meanwhile; try again"))?;
                        last = Some((key, lane));
                        lane
                    }
                };
                let task = simple(spec, lane);
                ids.push(task.id);
                insert::push_plain(&mut plain, namespace, &task)?;
            }
            Ok((plain, ids))
        };
        let (plain, ids) = prepare()?;
        let (answer, mut answered) = oneshot::channel();
        self.0.gathering.put(Request { plain, answer });
        // Whoever gets to write writes for all who wait; who is not among them waits on.
        let app = self.clone();
        self.spawned(async move {
            loop {
                let permit = tokio::select! {
                    biased;
                    answer = &mut answered => break answer,
                    permit = app.0.gathering.writers.acquire() => permit,
                };
                let _permit = permit.map_err(|error| Error::Internal(error.to_string()))?;
                let taken = app.0.gathering.take();
                if taken.is_empty() {
                    break answered.await;
                }
                commit(&app, taken).await;
            }
            .map_err(|_| Error::Internal("an enqueue was not answered".to_owned()))?
        })
        .await
        .map(|at| (ids, at))
    }
}

fn simple(spec: NewTask, lane: i32) -> Prepared {
    Prepared {
        id: TaskId::new(),
        lane,
        parent: None,
        depth: 0,
        step: None,
        state: State::Ready,
        reason: None,
        open_dependencies: 0,
        open_gates: 0,
        needs: Vec::new(),
        needed: false,
        run_at: None,
        retry_of: None,
        schedule: None,
        spec,
    }
}

async fn commit(app: &App, taken: Vec<Request>) {
    let mut all = Plain::default();
    let mut answers = Vec::with_capacity(taken.len());
    for request in taken {
        all.append(request.plain);
        answers.push(request.answer);
    }
    let written = match app.hand_over(&all).await {
        Some(written) => written,
        None => {
            let written: Result<Time, Error> =
                statement!(app, |connection| queue::enqueue_plain(connection, &all).await);
            written.map(|at| (at, all.lanes.as_slice()))
        }
    };
    match written {
        Ok((at, waiting)) => {
            let mut effects = Effects { events: true, ..Effects::default() };
            for lane in waiting {
                *effects.ready.entry(*lane).or_default() += 1;
            }
            app.publish(&effects);
            for answer in answers {
                // Who has gone away does not want it.
                let _ = answer.send(Ok(at.0));
            }
        }
        Err(error) => {
            let message = error.to_string();
            let mut errors = vec![error];
            for answer in answers {
                let error = errors.pop().unwrap_or_else(|| {
                    tracing::debug!(error = message, "enqueues that came together failed together");
                    Error::Unavailable("the database did not take it")
                });
                let _ = answer.send(Err(error));
            }
        }
    }
}

impl App {
    /// Writes tasks of one lane and grants them to a claim that waits for such, by one transaction: on an idle system that halves
    /// the way to a node. Answers when they came in line, and the lanes of those that were not granted; nothing, and nothing is
    /// done, where anything else waits that may have to go first, or no claim has room.
    async fn hand_over<'a>(&self, tasks: &'a Plain) -> Option<Result<(Time, &'a [i32]), Error>> {
        let (lane, others) = tasks.lanes.split_first()?;
        if others.iter().any(|other| other != lane) {
            return None;
        }
        let _turn = self.0.gathering.hand_over.try_acquire().ok()?;
        let key = self.0.lines.key(*lane)?;
        if self.0.lines.bounded(&key.namespace) != Some(false) {
            return None;
        }
        let idle = |asker: &Wanting| !self.0.lines.waits_for(asker);
        let reserved = self.0.signals.reserve(&key, tasks.ids.len(), idle)?;
        let (node, lease) = ((reserved.asker.id, reserved.asker.instance), self.0.lease);
        let written =
            statement!(self, |connection| queue::enqueue_granted(connection, tasks, node, lease).await);
        Some(written.map(|(at, granted)| match granted.is_empty() {
            true => (at, tasks.lanes.as_slice()),
            false => {
                reserved.hand(granted);
                (at, [].as_slice())
            }
        }))
    }
}
