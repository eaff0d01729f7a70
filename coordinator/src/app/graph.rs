//! From wishes to rows: checks a list of valid tasks against what exists, and decides each one's first state.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::plan::Graph;
use orca_proto::problem::{FieldError, Kind};
use orca_proto::spec::{DEFAULT_QUEUE, NewTask, OnDependencyFailure, Role};
use orca_proto::task::{State, Step};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Error;
use super::check::{Check, graph_problem};
use super::lane::{lane_of, same_lane};
use super::lines::Lines;
use super::secret::too_large;
use super::{quota, reach, unique};
use crate::db::dependency::Target;
use crate::db::insert::Prepared;
use crate::db::snapshot::{self, Locked};
use crate::db::{artifact, dependency, lane, secret, session, task};
use crate::dispatch::LaneKey;
use crate::lifecycle::{Event, Open, SKIPPED_FOR, Snapshot, transition};

/// How many dependencies that do not exist are told.
const ENOUGH: usize = 1_000;
/// The most of another task's end that a reason tells, in bytes.
const CAUSE: usize = 512;

/// Where new tasks go.
pub(crate) struct Place<'a> {
    pub(crate) lines: &'a Lines,
    pub(crate) namespace: &'a str,
    /// The task they are under, locked.
    pub(crate) parent: Option<&'a Locked>,
    /// What stands before the pointers of the errors: `/tasks/3` for a list, nothing for a task alone.
    pub(crate) listed: bool,
    /// Whether somebody waits for the answer: what could never run is refused then, rather than stored as skipped.
    pub(crate) answered: bool,
}

impl Place<'_> {
    pub(super) fn pointer(&self, index: usize, rest: &str) -> String {
        if self.listed { format!("/tasks/{index}{rest}") } else { rest.to_owned() }
    }
}

/// Checks a list of tasks in itself, with everything that is wrong in one answer.
pub(crate) fn check_list(tasks: &[NewTask], most: usize, now: Timestamp) -> Result<Graph, Error> {
    let mut check = Check::default();
    dates(tasks, now, |index| format!("/tasks/{index}"), &mut check);
    match orca_proto::plan::validate(tasks, most) {
        Ok(graph) => check.done().map(|()| graph),
        Err(errors) => Err(graph_problem(check.after(errors))),
    }
}

/// What is wrong with a list of tasks in itself, beyond [`orca_proto::plan::validate`].
pub(crate) fn check_dates(
    tasks: &[NewTask],
    now: Timestamp,
    pointer: impl Fn(usize) -> String,
) -> Result<(), Error> {
    let mut check = Check::default();
    dates(tasks, now, pointer, &mut check);
    check.done()
}

fn dates(tasks: &[NewTask], now: Timestamp, pointer: impl Fn(usize) -> String, check: &mut Check) {
    for (index, task) in tasks.iter().enumerate() {
        if let Some(at) = task.deadline {
            if at <= now {
                check.fail(format!("{}/deadline", pointer(index)), "has passed already");
            } else if task.delay.is_some_and(|delay| now.checked_add(delay.get()).is_ok_and(|due| due >= at))
            {
                check.fail(format!("{}/deadline", pointer(index)), "must be later than the end of delay");
            }
        }
    }
}

/// New tasks, checked and decided.
pub(crate) struct Planned {
    /// One per task that was asked for.
    pub(crate) ids: Vec<TaskId>,
    /// Those of them that were there already, because they hold a unique key.
    pub(crate) existing: Vec<TaskId>,
    /// What is to be inserted.
    pub(crate) tasks: Vec<Prepared>,
}

/// The tasks as they are to be inserted, under these ids; where another task holds a unique key, that one instead.
///
/// # Errors
/// [`Error::Refused`] naming dependencies and artifacts that do not exist, and dependencies that could never end.
pub(crate) async fn prepare(
    connection: &mut PgConnection,
    place: &Place<'_>,
    ids: &[TaskId],
    tasks: Vec<NewTask>,
    graph: &Graph,
) -> Result<Planned, Error> {
    prepare_again(connection, place, &[], ids, tasks, graph).await
}

/// The same for tasks that stand for others, which have ended and will be written to: those are locked with what the new
/// ones depend on.
///
/// # Errors
/// As [`prepare`].
pub(crate) async fn prepare_again(
    connection: &mut PgConnection,
    place: &Place<'_>,
    ended: &[TaskId],
    ids: &[TaskId],
    tasks: Vec<NewTask>,
    graph: &Graph,
) -> Result<Planned, Error> {
    let tasks = reach::check(connection, place, tasks).await?;
    if ended.is_empty() && tasks.iter().all(|task| task.unique.is_none()) {
        let tasks = decide(connection, place, ids, tasks, graph).await?;
        return Ok(Planned { ids: ids.to_vec(), existing: Vec::new(), tasks });
    }
    // Keys come after tasks: so what holds them now, as far as it must be kept from ending, is locked before they are.
    let wanted = unique::wanted(ids, &tasks);
    let mut near = unique::near(connection, place.namespace, &wanted, &tasks, graph).await?;
    near.extend(ended);
    let near: Vec<TaskId> = near.into_iter().collect();
    snapshot::lock_named(connection, place.namespace, &near).await?;
    let fresh = unique::fresh(connection, place.namespace, ids, tasks, graph, &wanted).await?;
    if fresh.graph.outside.iter().flatten().any(|id| near.binary_search(id).is_err()) {
        return Err(Error::Overtaken);
    }
    let tasks = decide(connection, place, &fresh.kept_ids, fresh.tasks, &fresh.graph).await?;
    Ok(Planned { ids: fresh.ids, existing: fresh.existing, tasks })
}

async fn decide(
    connection: &mut PgConnection,
    place: &Place<'_>,
    ids: &[TaskId],
    tasks: Vec<NewTask>,
    graph: &Graph,
) -> Result<Vec<Prepared>, Error> {
    let depth = place.parent.map_or(0, |parent| parent.depth + 1);
    if depth > limits::DEPTH {
        let detail = format!("would be {depth} levels deep; tasks may spawn tasks {} deep", limits::DEPTH);
        return Err(Error::field(place.pointer(0, ""), detail));
    }
    let now = session::now(connection).await?;
    let targets = outside(connection, place, &tasks, graph).await?;
    // After the tasks: lanes that are not there yet are made under the lock of the namespace's quota.
    let lanes = lanes(connection, place, &tasks).await?;
    artifacts(connection, place, &tasks).await?;
    secrets(connection, place, &tasks).await?;
    let mut prepared = Vec::with_capacity(tasks.len());
    for (index, spec) in tasks.into_iter().enumerate() {
        let id = *ids.get(index).ok_or_else(|| Error::Internal("fewer ids than tasks".to_owned()))?;
        let inside = graph.inside.get(index).map_or(&[][..], Vec::as_slice);
        let outside = graph.outside.get(index).map_or(&[][..], Vec::as_slice);
        let mut needs: Vec<(TaskId, bool)> =
            inside.iter().filter_map(|position| ids.get(*position)).map(|id| (*id, true)).collect();
        let mut failure = None;
        for id in outside {
            let Some(target) = targets.get(id) else { continue };
            needs.push((*id, !target.state.is_terminal()));
            if target.state.is_terminal() && target.state != State::Succeeded {
                let why = describe(&target.name, target.state, target.reason.as_deref());
                if place.answered && spec.on_dependency_failure == OnDependencyFailure::Skip {
                    return Err(never_runs(place, index, &spec, *id, &why));
                }
                failure.get_or_insert(why);
            }
        }
        let lane = *lanes.get(index).ok_or_else(|| Error::Internal("fewer lanes than tasks".to_owned()))?;
        let within = Within { lane, depth, now };
        prepared.push(first_state(id, place, within, spec, needs, Event::Enqueued { failure })?);
    }
    for position in graph.inside.iter().flatten() {
        if let Some(task) = prepared.get_mut(*position) {
            task.needed = true;
        }
    }
    Ok(prepared)
}

fn never_runs(place: &Place<'_>, index: usize, spec: &NewTask, need: TaskId, why: &str) -> Error {
    let need = need.to_string();
    let at = spec.depends_on.iter().position(|known| *known == need).unwrap_or_default();
    let detail = format!("{why}; what depends on it is skipped, unless `on_dependency_failure` is `run`");
    Error::field(place.pointer(index, &format!("/depends_on/{at}")), detail)
}

/// The lanes of these tasks.
///
/// Lanes that are not known yet are made by the same transaction, and not kept in mind: it may come to nothing.
async fn lanes(
    connection: &mut PgConnection,
    place: &Place<'_>,
    tasks: &[NewTask],
) -> Result<Vec<i32>, Error> {
    // Most lists are all of one kind: for each run of tasks of one lane, how long it is, and its lane.
    let mut runs: Vec<(usize, LaneKey)> = Vec::new();
    let mut last: Option<&NewTask> = None;
    for task in tasks {
        match runs.last_mut().filter(|_| last.is_some_and(|before| same_lane(before, task))) {
            Some((length, _)) => *length += 1,
            None => runs.push((1, lane_of(place.namespace, task))),
        }
        last = Some(task);
    }
    let mut numbers: HashMap<&LaneKey, i32> = HashMap::new();
    let mut unknown: HashSet<&LaneKey> = HashSet::new();
    for (_, key) in &runs {
        match place.lines.number(key) {
            Some(number) => drop(numbers.insert(key, number)),
            None => drop(unknown.insert(key)),
        }
    }
    if !unknown.is_empty() {
        let made: Vec<LaneKey> = unknown.iter().map(|key| (*key).clone()).collect();
        let made = make_lanes(connection, place.lines, place.namespace, &made).await?;
        numbers.extend(unknown.into_iter().zip(made));
    }
    let mut lanes = Vec::with_capacity(tasks.len());
    for (length, key) in &runs {
        let number =
            numbers.get(key).copied().ok_or_else(|| Error::Internal("a lane got no number".to_owned()))?;
        lanes.extend(std::iter::repeat_n(number, *length));
    }
    Ok(lanes)
}

/// The numbers of these lanes of a namespace, in the same order; those that are not there yet are made, if it may have their
/// queues and does not have too many kinds of tasks waiting.
pub(crate) async fn make_lanes(
    connection: &mut PgConnection,
    lines: &Lines,
    namespace: &str,
    keys: &[LaneKey],
) -> Result<Vec<i32>, Error> {
    if lines.is_full(namespace) {
        return Err(Error::refused(
            Kind::QuotaExceeded,
            "tasks of 10,000 kinds wait in this namespace already (what differs in queue, group, priority, resources or node \
             labels is of another kind); let some of them run first, or make fewer kinds",
        ));
    }
    let queues: Vec<String> = keys.iter().map(|key| key.flow.queue().to_owned()).collect();
    quota::check(connection, namespace, 0, &queues).await?;
    Ok(lane::resolve(connection, keys).await?)
}

/// Where and when a task is enqueued.
#[derive(Clone, Copy)]
struct Within {
    lane: i32,
    depth: i16,
    now: Timestamp,
}

/// A task that cannot be enqueued as it is, and of which nobody could be told so: one that has failed.
pub(crate) async fn refused(
    connection: &mut PgConnection,
    place: &Place<'_>,
    id: TaskId,
    spec: NewTask,
    reason: String,
) -> Result<Prepared, Error> {
    let now = session::now(connection).await?;
    let mut key = lane_of(place.namespace, &spec);
    let lane = match place.lines.number(&key) {
        Some(number) => Some(number),
        None => {
            // It must be told somewhere that it was refused; but not in a queue that the namespace may not have.
            match quota::check(connection, place.namespace, 0, std::slice::from_ref(&spec.queue)).await {
                Err(Error::Refused(_)) => {
                    let queue = NewTask { queue: DEFAULT_QUEUE.to_owned(), ..NewTask::new("") };
                    key = lane_of(place.namespace, &NewTask { role: spec.role, ..queue });
                }
                checked => checked?,
            }
            lane::resolve(connection, &[key]).await?.first().copied()
        }
    };
    let lane = lane.ok_or_else(|| Error::Internal("a lane got no number".to_owned()))?;
    // What it names may not exist, and it takes nothing.
    let spec = NewTask { artifacts: Vec::new(), unique: None, ..spec };
    let within = Within { lane, depth: 0, now };
    first_state(id, place, within, spec, Vec::new(), Event::EnqueueRefused { reason })
}

fn first_state(
    id: TaskId,
    place: &Place<'_>,
    within: Within,
    spec: NewTask,
    needs: Vec<(TaskId, bool)>,
    event: Event,
) -> Result<Prepared, Error> {
    let step = (spec.role == Role::Plan).then_some(Step::Plan);
    let count = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
    let open = Open {
        dependencies: count(needs.iter().filter(|(_, open)| *open).count()),
        gates: count(usize::from(spec.approval.is_some()) + spec.wait_for.len()),
    };
    let delayed = spec.delay.and_then(|delay| within.now.checked_add(delay.get()).ok());
    let run_at = spec.run_at.or(delayed).filter(|at| *at > within.now);
    let snapshot = Snapshot::fresh(&spec, step, open, run_at.is_some());
    let change = transition(&snapshot, event).map_err(|refusal| Error::Internal(refusal.to_string()))?;
    Ok(Prepared {
        id,
        lane: within.lane,
        parent: place.parent.map(|parent| (parent.id, parent.fence)),
        depth: within.depth,
        step,
        state: change.state,
        reason: change.reason,
        open_dependencies: change.open_dependencies,
        open_gates: change.open_gates,
        needs,
        needed: false,
        run_at,
        retry_of: None,
        schedule: None,
        spec,
    })
}

/// A task and how it ended, for another task's reason.
///
/// A skipped task is described by what it was skipped for, and what is long is cut: however long the chain of tasks that
/// wait for one another, each of them tells the one that failed, in a line.
pub(crate) fn describe(name: &str, state: State, reason: Option<&str>) -> String {
    let whole = match reason {
        Some(reason) if state == State::Skipped && reason.starts_with(SKIPPED_FOR) => {
            reason.trim_start_matches(SKIPPED_FOR).to_owned()
        }
        Some(reason) => format!("{name} {state}: {reason}"),
        None => format!("{name} {state}"),
    };
    if whole.len() <= CAUSE {
        return whole;
    }
    let kept =
        whole.char_indices().map(|(at, _)| at).take_while(|at| *at <= CAUSE).last().unwrap_or_default();
    whole.get(..kept).map_or_else(String::new, |kept| format!("{kept}…"))
}

async fn outside(
    connection: &mut PgConnection,
    place: &Place<'_>,
    tasks: &[NewTask],
    graph: &Graph,
) -> Result<HashMap<TaskId, Target>, Error> {
    let wanted: BTreeSet<TaskId> = graph.outside.iter().flatten().copied().collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let wanted: Vec<TaskId> = wanted.into_iter().collect();
    let found = dependency::targets(connection, place.namespace, &wanted).await?;
    let names = |test: &dyn Fn(&TaskId) -> bool, detail: &str| -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, task) in tasks.iter().enumerate() {
            for (at, name) in task.depends_on.iter().enumerate() {
                if Uuid::parse_str(name).is_ok_and(|id| test(&TaskId(id))) {
                    let pointer = place.pointer(index, &format!("/depends_on/{at}"));
                    errors.push(FieldError::new(pointer, format!("{name} {detail}")));
                    if errors.len() >= ENOUGH {
                        return errors;
                    }
                }
            }
        }
        errors
    };
    let errors = names(&|id| wanted.contains(id) && !found.contains_key(id), "is no task of this namespace");
    if !errors.is_empty() {
        return Err(graph_problem(errors));
    }
    if let Some(parent) = place.parent
        && dependency::would_wait_for_itself(connection, parent.id, &wanted).await?
    {
        // There may be 100,000 of them: halved until one is left.
        let mut looping = wanted.as_slice();
        while looping.len() > 1 {
            let (front, back) = looping.split_at(looping.len() / 2);
            let at_front = dependency::would_wait_for_itself(connection, parent.id, front).await?;
            looping = if at_front { front } else { back };
        }
        let errors = names(&|id| looping.contains(id), "waits for the task that this one would be under");
        return Err(graph_problem(errors));
    }
    Ok(found)
}

async fn artifacts(connection: &mut PgConnection, place: &Place<'_>, tasks: &[NewTask]) -> Result<(), Error> {
    let wanted: BTreeSet<Uuid> =
        tasks.iter().flat_map(|task| task.artifacts.iter().map(|input| input.id.0)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let wanted: Vec<Uuid> = wanted.into_iter().collect();
    let known: HashSet<Uuid> =
        artifact::known(connection, place.namespace, &wanted).await?.into_iter().collect();
    let mut check = Check::default();
    for (index, task) in tasks.iter().enumerate() {
        for (at, input) in task.artifacts.iter().enumerate() {
            if !known.contains(&input.id.0) {
                let pointer = place.pointer(index, &format!("/artifacts/{at}/id"));
                check.fail(pointer, format!("{} is no artifact of this namespace", input.id));
            }
        }
    }
    check.done()
}

/// Refuses secrets that the namespace does not have, and of a task under another those that the other does not name: a program
/// that was given no secret must not be able to plan or spawn its way to one. Where nobody waits for the answer, what is not
/// there is not refused: the attempt is then rejected with the same words, and a schedule does not stop without a trace.
async fn secrets(connection: &mut PgConnection, place: &Place<'_>, tasks: &[NewTask]) -> Result<(), Error> {
    let wanted: BTreeSet<&str> =
        tasks.iter().flat_map(|task| task.secrets.iter().map(|secret| secret.name.as_str())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let allowed: Option<HashSet<String>> = match place.parent {
        None => None,
        Some(parent) => {
            let spec = task::spec(connection, parent.id).await?;
            Some(spec.secrets.into_iter().map(|secret| secret.name).collect())
        }
    };
    let names: Vec<String> = wanted.into_iter().map(ToOwned::to_owned).collect();
    let known: HashMap<String, i64> =
        secret::sizes(connection, place.namespace, &names).await?.into_iter().collect();
    let mut check = Check::default();
    for (index, task) in tasks.iter().enumerate() {
        let mut bytes = 0;
        for (at, wish) in task.secrets.iter().enumerate() {
            let pointer = || place.pointer(index, &format!("/secrets/{at}/name"));
            let name = &wish.name;
            if allowed.as_ref().is_some_and(|allowed| !allowed.contains(name)) {
                let detail = format!(
                    "{name} is not among the secrets of the task that asks for this one; let that name it too"
                );
                check.fail(pointer(), detail);
            } else if let Some(size) = known.get(name) {
                bytes += usize::try_from(*size).unwrap_or_default();
            } else if place.answered || place.parent.is_some() {
                let detail = format!(
                    "there is no secret {name} in this namespace; set it with `orca secret set {name}`"
                );
                check.fail(pointer(), detail);
            }
        }
        if bytes > limits::SECRETS_BYTES {
            check.fail(place.pointer(index, "/secrets"), too_large(bytes));
        }
    }
    check.done()
}
