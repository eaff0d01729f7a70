//! From wishes to rows: checks a list of valid tasks against what exists, and decides each one's first state.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::plan::Graph;
use orca_proto::problem::FieldError;
use orca_proto::spec::{NewTask, Role};
use orca_proto::task::{State, Step};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Error;
use crate::db::dependency::Target;
use crate::db::insert::Prepared;
use crate::db::snapshot::Locked;
use crate::db::{artifact, dependency, session};
use crate::lifecycle::{Event, SKIPPED_FOR, Snapshot, transition};

/// How many dependencies that do not exist are told.
const ENOUGH: usize = 1_000;
/// The most of another task's end that a reason tells, in bytes.
const CAUSE: usize = 512;

/// Where new tasks go.
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a str,
    /// The task they are under, locked.
    pub(crate) parent: Option<&'a Locked>,
    /// What stands before the pointers of the errors: `/tasks/3` for a list, nothing for a task alone.
    pub(crate) listed: bool,
}

impl Place<'_> {
    fn pointer(&self, index: usize, rest: &str) -> String {
        if self.listed { format!("/tasks/{index}{rest}") } else { rest.to_owned() }
    }
}

/// What is wrong with a list of tasks in itself, beyond [`orca_proto::plan::validate`].
pub(crate) fn check_dates(tasks: &[NewTask], pointer: impl Fn(usize) -> String) -> Result<(), Error> {
    let mut check = super::check::Check::default();
    for (index, task) in tasks.iter().enumerate() {
        if let Some(at) = task.run_at {
            check.date(at, format!("{}/run_at", pointer(index)));
        }
    }
    check.done()
}

/// The tasks as they are to be inserted, under these ids.
///
/// # Errors
/// [`Error::Refused`] naming dependencies and artifacts that do not exist, and dependencies that could never end.
pub(crate) async fn prepare(
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
    artifacts(connection, place, &tasks).await?;
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
                failure.get_or_insert_with(|| describe(&target.name, target.state, target.reason.as_deref()));
            }
        }
        prepared.push(first_state(id, place, depth, spec, needs, failure, now)?);
    }
    Ok(prepared)
}

fn first_state(
    id: TaskId,
    place: &Place<'_>,
    depth: i16,
    spec: NewTask,
    needs: Vec<(TaskId, bool)>,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Prepared, Error> {
    let step = (spec.role == Role::Plan).then_some(Step::Plan);
    let open = needs.iter().filter(|(_, open)| *open).count();
    let snapshot = Snapshot::fresh(&spec, step, i32::try_from(open).unwrap_or(i32::MAX), now);
    let change = transition(&snapshot, Event::Enqueued { failure })
        .map_err(|refusal| Error::Internal(refusal.to_string()))?;
    Ok(Prepared {
        id,
        parent: place.parent.map(|parent| (parent.id, parent.fence)),
        depth,
        step,
        state: change.state,
        reason: change.reason,
        open_dependencies: change.open_dependencies,
        needs,
        retry_of: None,
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
        return Err(super::check::graph_problem(errors));
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
        return Err(super::check::graph_problem(errors));
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
    let mut check = super::check::Check::default();
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
