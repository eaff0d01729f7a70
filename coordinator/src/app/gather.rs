//! Enqueues that arrive within a moment of each other are written together: one statement, one commit, one wait for the disk.
//!
//! Only tasks that need nothing but a row and a place in line come here, so nothing of one request can fail for another's
//! sake. Each is answered after the commit.

use std::time::Duration;

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::spec::{NewTask, OnChildFailure, OnDependencyFailure, Role};
use orca_proto::task::State;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::graph::same_lane;
use super::lines::lane_of;
use super::{App, Error, Principal};
use crate::db::apply::Effects;
use crate::db::insert::{self, Prepared};
use crate::db::queue::{self, Plain};

/// Writers, each with a connection: while one waits for the disk, others write.
const WRITERS: usize = 3;
/// Requests that wait for a writer.
const WAITING: usize = 4_096;
/// Tasks that one statement writes, unless a single request has more.
const TASKS: usize = 1_000;
/// The longest that a request waits for its turn.
const TURN: Duration = Duration::from_secs(30);

/// One request's tasks.
pub(crate) struct Request {
    plain: Plain,
    answer: oneshot::Sender<Result<Timestamp, Error>>,
}

/// Where requests are put.
pub(crate) type Gathering = mpsc::Sender<Request>;

/// The place where requests are put, and where writers take them.
pub(crate) fn channel() -> (Gathering, mpsc::Receiver<Request>) {
    mpsc::channel(WAITING)
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
            let mut last: Option<(NewTask, i32)> = None;
            let mut ids = Vec::with_capacity(tasks.len());
            for spec in tasks {
                let lane = match &last {
                    Some((before, lane)) if same_lane(before, &spec) => *lane,
                    _ => {
                        let known = self.0.lines.number(&lane_of(namespace, &spec));
                        let lane = known.ok_or(Error::Unavailable("the lanes changed meanwhile; try again"))?;
                        last = Some((lane_only(&spec), lane));
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
        let (answer, answered) = oneshot::channel();
        let late = || Error::Unavailable("too much is being enqueued; try again in a moment");
        tokio::time::timeout(TURN, self.0.gathering.send(Request { plain, answer }))
            .await
            .map_err(|_| late())?
            .map_err(|_| Error::Unavailable("the coordinator is shutting down"))?;
        let at = answered.await.map_err(|_| Error::Unavailable("the coordinator is shutting down"))??;
        Ok((ids, at))
    }
}

/// What of a task decides its lane.
fn lane_only(task: &NewTask) -> NewTask {
    NewTask {
        role: task.role,
        queue: task.queue.clone(),
        group: task.group.clone(),
        priority: task.priority,
        resources: task.resources.clone(),
        requires: task.requires.clone(),
        prefers: task.prefers.clone(),
        ..NewTask::new(String::new())
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

/// Writes what was put here, until `shutdown` and until nothing is left.
pub(crate) async fn run(app: App, requests: mpsc::Receiver<Request>, shutdown: CancellationToken) {
    let requests = std::sync::Arc::new(tokio::sync::Mutex::new(requests));
    let writers = (0..WRITERS).map(|_| write(app.clone(), std::sync::Arc::clone(&requests), shutdown.clone()));
    futures_util::future::join_all(writers).await;
}

async fn write(
    app: App,
    requests: std::sync::Arc<tokio::sync::Mutex<mpsc::Receiver<Request>>>,
    shutdown: CancellationToken,
) {
    loop {
        let mut taken = Vec::new();
        {
            let mut requests = requests.lock().await;
            let next = tokio::select! {
                next = requests.recv() => next,
                () = shutdown.cancelled() => requests.try_recv().ok(),
            };
            let Some(first) = next else { return };
            let mut tasks = first.plain.ids.len();
            taken.push(first);
            while tasks < TASKS
                && let Ok(request) = requests.try_recv()
            {
                tasks += request.plain.ids.len();
                taken.push(request);
            }
        }
        commit(&app, taken).await;
    }
}

async fn commit(app: &App, taken: Vec<Request>) {
    let mut all = Plain::default();
    let mut answers = Vec::with_capacity(taken.len());
    for request in taken {
        all.append(request.plain);
        answers.push(request.answer);
    }
    let written = async {
        let mut connection = app.0.pool.acquire().await?;
        queue::enqueue_plain(&mut connection, &all).await
    };
    match written.await {
        Ok(at) => {
            let mut effects = Effects { events: true, ..Effects::default() };
            for lane in &all.lanes {
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
            let mut errors = vec![Error::from(error)];
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
