//! Putting tasks in: one, several, or one that ended once more.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::plan::{self, Batch, Enqueued, Graph};
use orca_proto::problem::Kind;
use orca_proto::spec::NewTask;
use orca_proto::task::{State, Step, Task, TaskSummary};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::check::{Check, aside};
use super::dead_letter::once_more;
use super::gather::is_simple;
use super::graph::{Place, Planned, check_dates, check_list, make_lanes, prepare_again};
use super::inbox::{never_valid, was_valid};
use super::lane::{lane_of, same_lane};
use super::transaction::transaction;
use super::{App, Error, Principal, quota};
use crate::db::{dead_letter, dependency, idempotency, insert, session, task};
use crate::dispatch::LaneKey;
use crate::sabotage::{Guard, without};

/// The fingerprint of a request under an idempotency key.
pub(crate) fn fingerprint(what: &str, request: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut hash = Hashing(Sha256::new());
    hash.0.update(what.as_bytes());
    hash.0.update([0]);
    // Buffered: the serializer writes a few bytes at a time.
    let mut writer = std::io::BufWriter::with_capacity(64 << 10, &mut hash);
    serde_json::to_writer(&mut writer, request)
        .map_err(|error| Error::Internal(format!("a request: {error}")))?;
    writer.flush().map_err(|error| Error::Internal(format!("a request: {error}")))?;
    drop(writer);
    Ok(hash.0.finalize().to_vec())
}

/// Bytes that are only hashed: a plan's may be 64 MiB.
struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Takes an idempotency key for `ids`, or answers the ids that the same request got before.
///
/// # Errors
/// `idempotency-conflict` if the key was used for another request.
pub(crate) async fn take_key(
    connection: &mut PgConnection,
    namespace: &str,
    key: Option<&(String, Vec<u8>)>,
    ids: &[TaskId],
) -> Result<Option<Vec<TaskId>>, Error> {
    let Some((key, request)) = key else { return Ok(None) };
    if without(Guard::IdempotencyKey) {
        return Ok(None);
    }
    match idempotency::take(connection, namespace, key, request, ids).await? {
        None => Ok(None),
        Some(answered) if answered.request == *request => {
            Ok(Some(answered.ids.into_iter().map(TaskId).collect()))
        }
        Some(_) => Err(Error::refused(
            Kind::IdempotencyConflict,
            "this idempotency key was used for another request within the last 24 hours; choose a new one",
        )),
    }
}

impl App {
    /// Enqueues one task, and answers whether there was one that stands for it already: it holds the unique key. A repeat
    /// under the same idempotency key answers the same task.
    ///
    /// # Errors
    /// `validation`, `idempotency-conflict`, or the database's.
    pub async fn task_enqueue(
        &self,
        who: &Principal,
        task: NewTask,
        idempotency_key: Option<&str>,
    ) -> Result<(Task, bool), Error> {
        let outside = plan::validate_one(&task).map_err(Error::validation)?;
        check_dates(std::slice::from_ref(&task), self.0.clock.now(), |_| String::new())?;
        let key = operator_key(idempotency_key, "task", &task)?;
        if key.is_none()
            && outside.is_empty()
            && is_simple(&task)
            && !self.counts_open(&who.namespace).await?
        {
            let spec = task.clone();
            let (ids, at) = self.gather(who, vec![task]).await?;
            let id = ids.first().ok_or_else(|| Error::Internal("one task got no id".to_owned()))?;
            return Ok((fresh(*id, spec, at), false));
        }
        let graph = Graph { inside: vec![Vec::new()], outside: vec![outside] };
        let enqueued = self.insert(who, key, vec![task], graph, false, None).await?;
        let id = first(&enqueued)?;
        Ok((self.task_get(who, id).await?, enqueued.existing.contains(&id)))
    }

    /// Enqueues several tasks, all or none.
    ///
    /// # Errors
    /// `validation`, `plan-invalid`, `idempotency-conflict`, or the database's.
    pub async fn batch_enqueue(
        &self,
        who: &Principal,
        batch: Batch,
        idempotency_key: Option<&str>,
    ) -> Result<Enqueued, Error> {
        if batch.tasks.is_empty() {
            return Err(Error::field("/tasks", "must hold at least one task"));
        }
        let key = idempotency_key.map(ToOwned::to_owned);
        let now = self.0.clock.now();
        let (batch, graph, key) = aside(move || {
            let graph = check_list(&batch.tasks, limits::BATCH_TASKS, now)?;
            let key = operator_key(key.as_deref(), "batch", &batch)?;
            Ok((batch, graph, key))
        })
        .await?;
        if key.is_none() && batch.tasks.iter().all(is_simple) && !self.counts_open(&who.namespace).await? {
            let (ids, _) = self.gather(who, batch.tasks).await?;
            return Ok(Enqueued::from(ids));
        }
        self.insert(who, key, batch.tasks, graph, true, None).await
    }

    /// Enqueues a new task with the spec of one that ended; where a deadline has passed, it is set anew. The old one, and what
    /// it left, stays as it is, but is no dead letter any more. A repeat under the same idempotency key answers the same new
    /// task.
    ///
    /// # Errors
    /// `not-found`; `conflict` if it has not ended, is a finish step, or never had a valid spec; `idempotency-conflict`.
    pub async fn task_retry(
        &self,
        who: &Principal,
        id: TaskId,
        idempotency_key: Option<&str>,
    ) -> Result<Task, Error> {
        let key = operator_key(idempotency_key, "retry", &id)?;
        let mut connection = self.0.pool.acquire().await?;
        let old = task::get(&mut connection, &who.namespace, id).await?.ok_or_else(Error::not_found)?;
        if !old.summary.state.is_terminal() {
            let detail = format!("the task has not ended: it is {}; cancel it first", old.summary.state);
            return Err(Error::refused(Kind::Conflict, detail));
        }
        if old.summary.step == Some(Step::Finish) {
            let detail = "a finish step cannot be tried again by itself; try its goal again";
            return Err(Error::refused(Kind::Conflict, detail));
        }
        if !was_valid(&old.spec) {
            return Err(never_valid(id));
        }
        let outside = dependency::of_task(&mut connection, id).await?;
        let now = session::now(&mut connection).await?;
        drop(connection);
        let spec = once_more(old.spec, old.summary.created_at, now, &outside);
        let graph = Graph { inside: vec![Vec::new()], outside: vec![outside] };
        let enqueued = self.insert(who, key, vec![spec], graph, false, Some(id)).await?;
        self.task_get(who, first(&enqueued)?).await
    }

    async fn insert(
        &self,
        who: &Principal,
        key: Option<(String, Vec<u8>)>,
        tasks: Vec<NewTask>,
        graph: Graph,
        listed: bool,
        retry_of: Option<TaskId>,
    ) -> Result<Enqueued, Error> {
        let (app, namespace) = (self.clone(), who.namespace.clone());
        let unknown = self.unknown_lanes(&namespace, &tasks);
        let ids: Vec<TaskId> = tasks.iter().map(|_| TaskId::new()).collect();
        let enqueued = self
            .spawned(async move {
                transaction!(app, |tx, effects| {
                    if let Some(before) = take_key(tx, &namespace, key.as_ref(), &ids).await? {
                        return Ok(Enqueued::from(before));
                    }
                    let answered = retry_of.is_none();
                    let place =
                        Place { lines: &app.0.lines, namespace: &namespace, parent: None, listed, answered };
                    let mut planned =
                        prepare_again(tx, &place, retry_of.as_slice(), &ids, tasks.clone(), &graph).await?;
                    amend(tx, &namespace, key.as_ref(), &planned).await?;
                    if let Some(old) = retry_of {
                        planned.tasks.iter_mut().for_each(|task| task.retry_of = retry_of);
                        dead_letter::dismiss(tx, &[old.0]).await?;
                    }
                    quota::check(tx, &namespace, planned.tasks.len(), &[]).await?;
                    insert::tasks(tx, &namespace, &planned.tasks, effects).await?;
                    Ok(Enqueued { ids: planned.ids, existing: planned.existing })
                })
            })
            .await?;
        // Not before: what is refused must not leave a queue behind. What fails here is made up for by the next.
        if let Err(error) = self.make_known(&who.namespace, unknown).await {
            tracing::debug!(%error, "cannot look up new lanes");
        }
        Ok(enqueued)
    }

    /// Makes the lanes of these tasks known, so that no transaction has to make them.
    pub(crate) async fn learn_lanes(&self, namespace: &str, tasks: &[NewTask]) -> Result<(), Error> {
        self.make_known(namespace, self.unknown_lanes(namespace, tasks)).await
    }

    /// Those lanes of these tasks that are not known.
    fn unknown_lanes(&self, namespace: &str, tasks: &[NewTask]) -> HashSet<LaneKey> {
        let mut before: Option<&NewTask> = None;
        let mut unknown = HashSet::new();
        for task in tasks {
            if before.is_none_or(|before| !same_lane(before, task)) {
                let key = lane_of(namespace, task);
                if self.0.lines.number(&key).is_none() {
                    unknown.insert(key);
                }
            }
            before = Some(task);
        }
        unknown
    }

    async fn make_known(&self, namespace: &str, unknown: HashSet<LaneKey>) -> Result<(), Error> {
        if unknown.is_empty() {
            return Ok(());
        }
        let keys: Vec<LaneKey> = unknown.into_iter().collect();
        let (app, namespace) = (self.clone(), namespace.to_owned());
        self.spawned(async move {
            let numbers =
                transaction!(app, |tx, _effects| make_lanes(tx, &app.0.lines, &namespace, &keys).await)?;
            for (number, key) in numbers.into_iter().zip(keys) {
                app.0.lines.learn(number, key);
            }
            Ok(())
        })
        .await
    }
}

/// Lets a key answer the tasks that stand in for those that it was taken for.
pub(crate) async fn amend(
    connection: &mut PgConnection,
    namespace: &str,
    key: Option<&(String, Vec<u8>)>,
    planned: &Planned,
) -> Result<(), Error> {
    if let Some((key, _)) = key.filter(|_| !planned.existing.is_empty()) {
        idempotency::amend(connection, namespace, key, &planned.ids).await?;
    }
    Ok(())
}

fn first(enqueued: &Enqueued) -> Result<TaskId, Error> {
    enqueued.ids.first().copied().ok_or_else(|| Error::Internal("one task got no id".to_owned()))
}

/// A task that was enqueued just now and needs nothing but a node.
fn fresh(id: TaskId, spec: NewTask, at: Timestamp) -> Task {
    let summary = TaskSummary {
        id,
        name: spec.display_name().to_owned(),
        key: spec.key.clone(),
        role: spec.role,
        step: None,
        parent: None,
        queue: spec.queue.clone(),
        group: spec.group.clone(),
        priority: spec.priority,
        state: State::Ready,
        reason: None,
        cancel_requested: false,
        attempt: 0,
        max_attempts: spec.retry.max_attempts,
        outcome: None,
        progress: None,
        children: BTreeMap::new(),
        created_at: at,
        run_at: None,
        deadline: None,
        schedule: None,
        waits_for: Vec::new(),
        started_at: None,
        finished_at: None,
        labels: spec.labels.clone(),
    };
    Task {
        summary,
        spec,
        depends_on: Vec::new(),
        result: None,
        attempts: Vec::new(),
        retry_of: None,
        approval: None,
        signals: Vec::new(),
        retried_as: Vec::new(),
    }
}

pub(crate) fn operator_key(
    key: Option<&str>,
    what: &str,
    request: &impl Serialize,
) -> Result<Option<(String, Vec<u8>)>, Error> {
    let Some(key) = key else { return Ok(None) };
    let mut check = Check::default();
    check.idempotency_key(key, "Idempotency-Key");
    check.done()?;
    Ok(Some((format!("operator/{key}"), fingerprint(what, request)?)))
}
