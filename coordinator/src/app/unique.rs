//! Unique keys at enqueueing: a task whose key another open task holds is not enqueued; that other one stands in for it, also
//! for those that were to depend on it.

use std::collections::HashMap;

use orca_proto::ids::TaskId;
use orca_proto::plan::Graph;
use orca_proto::spec::{NewTask, UniqueWhile};
use sqlx::PgConnection;

use super::Error;
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

/// Takes the unique keys of these tasks.
pub(crate) async fn fresh(
    connection: &mut PgConnection,
    namespace: &str,
    ids: &[TaskId],
    tasks: Vec<NewTask>,
    graph: &Graph,
) -> Result<Fresh, Error> {
    let mut wanted: Vec<Wanted> = tasks
        .iter()
        .zip(ids)
        .filter_map(|(task, id)| {
            let unique = task.unique.as_ref()?;
            Some(Wanted { key: unique.key.clone(), task: *id, queued: unique.r#while == UniqueWhile::Queued })
        })
        .collect();
    // Of several in one list the first has the key.
    let mut seen = std::collections::HashSet::new();
    wanted.retain(|wanted| seen.insert(wanted.key.clone()));
    let mut owners = unique::take(connection, namespace, &wanted).await?;
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
            fresh.existing.push(*last);
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
    Ok(fresh)
}
