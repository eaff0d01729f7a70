//! Unique keys at enqueueing: a task whose key another open task holds is not enqueued; that other one stands in for it, also
//! for those that were to depend on it.

use std::collections::{BTreeSet, HashMap, HashSet};

use orca_proto::ids::TaskId;
use orca_proto::plan::Graph;
use orca_proto::problem::FieldError;
use orca_proto::spec::{NewTask, UniqueWhile};
use sqlx::PgConnection;

use super::Error;
use super::check::graph_problem;
use crate::db::unique::{self, Wanted};
use crate::sabotage::{Guard, without};

/// A list of tasks without those for which others stand in.
pub(crate) struct Fresh {
    /// One per task that was asked for.
    pub(crate) ids: Vec<TaskId>,
    /// Those of them that were there before.
    pub(crate) existing: Vec<TaskId>,
    /// The tasks that are left, their ids and how they depend on one another.
    pub(crate) tasks: Vec<NewTask>,
    pub(crate) kept_ids: Vec<TaskId>,
    pub(crate) graph: Graph,
}

/// The keys that these tasks are to have. Of several in one list the first has the key.
pub(crate) fn wanted(ids: &[TaskId], tasks: &[NewTask]) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = tasks
        .iter()
        .zip(ids)
        .filter_map(|(task, id)| {
            let unique = task.unique.as_ref()?;
            Some(Wanted { key: unique.key.clone(), task: *id, queued: unique.r#while == UniqueWhile::Queued })
        })
        .collect();
    let mut seen = HashSet::new();
    wanted.retain(|wanted| seen.insert(wanted.key.clone()));
    wanted
}

/// What must be locked before these keys are taken: what the tasks are to depend on, as far as it is not among them, and so
/// what has the keys of those that they name.
pub(crate) async fn near(
    connection: &mut PgConnection,
    namespace: &str,
    wanted: &[Wanted],
    tasks: &[NewTask],
    graph: &Graph,
) -> Result<BTreeSet<TaskId>, Error> {
    let keys: Vec<String> = wanted.iter().map(|wanted| wanted.key.clone()).collect();
    let holders = unique::holders(connection, namespace, &keys).await?;
    let mut near: BTreeSet<TaskId> = graph.outside.iter().flatten().copied().collect();
    let needed = graph.inside.iter().flatten().filter_map(|position| tasks.get(*position));
    let keys = needed.filter_map(|task| task.unique.as_ref()).map(|unique| &unique.key);
    near.extend(keys.filter_map(|key| holders.get(key)).map(|(task, _)| task));
    if wanted.len() > 1 {
        // Claims give keys back lane by lane, whatever the order of the keys: the heads of the lanes keep them away.
        near.extend(holders.values().filter(|(_, queued)| *queued).map(|(task, _)| task));
    }
    Ok(near)
}

/// Takes the unique keys of these tasks.
///
/// # Errors
/// `plan-invalid` where a task would wait for itself, because one that it waits for has its unique key.
pub(crate) async fn fresh(
    connection: &mut PgConnection,
    namespace: &str,
    ids: &[TaskId],
    tasks: Vec<NewTask>,
    graph: &Graph,
    wanted: &[Wanted],
) -> Result<Fresh, Error> {
    let mut owners = unique::take(connection, namespace, wanted).await?;
    if without(Guard::UniqueKey) {
        owners.clear();
    }
    let owner = |task: &NewTask, id: TaskId| {
        task.unique.as_ref().and_then(|unique| owners.get(&unique.key)).copied().unwrap_or(id)
    };
    let final_ids: Vec<TaskId> = tasks.iter().zip(ids).map(|(task, id)| owner(task, *id)).collect();
    let places: HashMap<TaskId, usize> = ids
        .iter()
        .zip(&final_ids)
        .filter(|(id, last)| id == last)
        .enumerate()
        .map(|(at, (id, _))| (*id, at))
        .collect();
    let mut fresh = Fresh {
        existing: Vec::new(),
        tasks: Vec::new(),
        kept_ids: Vec::new(),
        graph: Graph::default(),
        ids: final_ids,
    };
    for (position, task) in tasks.into_iter().enumerate() {
        let (Some(id), Some(last)) = (ids.get(position), fresh.ids.get(position)) else { continue };
        if id != last {
            if !places.contains_key(last) {
                fresh.existing.push(*last);
            }
            continue;
        }
        let (mut inside, mut outside) =
            (Vec::new(), graph.outside.get(position).cloned().unwrap_or_default());
        for needs in graph.inside.get(position).into_iter().flatten() {
            let Some(needs) = fresh.ids.get(*needs) else { continue };
            match places.get(needs) {
                Some(at) => inside.push(*at),
                None => outside.push(*needs),
            }
        }
        inside.sort_unstable();
        inside.dedup();
        outside.sort_unstable();
        outside.dedup();
        fresh.kept_ids.push(*id);
        fresh.tasks.push(task);
        fresh.graph.inside.push(inside);
        fresh.graph.outside.push(outside);
    }
    fresh.existing.sort_unstable();
    fresh.existing.dedup();
    if fresh.tasks.len() < ids.len()
        && let Some(at) = in_circle(&fresh.graph)
        && let Some(position) = fresh.kept_ids.get(at).and_then(|id| ids.iter().position(|other| other == id))
    {
        let pointer = format!("/tasks/{position}/depends_on");
        let detail = "leads back to this task, because another of these tasks has the same unique key";
        return Err(graph_problem(vec![FieldError::new(pointer, detail)]));
    }
    Ok(fresh)
}

/// A task that waits for itself, if there is one.
fn in_circle(graph: &Graph) -> Option<usize> {
    let mut open: Vec<usize> = graph.inside.iter().map(Vec::len).collect();
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); open.len()];
    for (task, needs) in graph.inside.iter().enumerate() {
        needs.iter().filter_map(|at| needed_by.get_mut(*at).map(|list| list.push(task))).for_each(drop);
    }
    let mut free: Vec<usize> = (0..open.len()).filter(|at| open.get(*at) == Some(&0)).collect();
    while let Some(done) = free.pop() {
        for task in needed_by.get(done).into_iter().flatten() {
            if let Some(left) = open.get_mut(*task) {
                *left -= 1;
                if *left == 0 {
                    free.push(*task);
                }
            }
        }
    }
    open.iter().position(|left| *left > 0)
}
