//! Plans and batches: several tasks that may depend on one another, inserted whole or not at all.
//!
//! [`validate`] is pure and shared: the CLI checks before it sends, the node before it stages, the coordinator before it
//! inserts.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::TaskId;
use crate::limits;
use crate::problem::{ENOUGH_ERRORS, FieldError};
use crate::spec::NewTask;
use crate::spec::check::{self, Pointer};

/// What a planner's container returns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// At most 100,000, with at most 200,000 dependencies together. None at all means that the goal's finish step runs at once.
    pub tasks: Vec<NewTask>,
}

/// Several tasks to enqueue at once: all or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// 1 to 10,000, with at most 200,000 dependencies together.
    pub tasks: Vec<NewTask>,
}

/// The ids that a [`Batch`] or spawned children were given, in the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Enqueued {
    /// One per task.
    pub ids: Vec<TaskId>,
    /// Those among them that were there already, because they hold a unique key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub existing: Vec<TaskId>,
}

impl From<Vec<TaskId>> for Enqueued {
    fn from(ids: Vec<TaskId>) -> Self {
        Self { ids, existing: Vec::new() }
    }
}

/// The graph of a valid list of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// For each task, the positions in the list of those it depends on, each once.
    pub inside: Vec<Vec<usize>>,
    /// For each task, the existing tasks it depends on, each once.
    pub outside: Vec<Vec<TaskId>>,
}

/// Checks a list of tasks whole: each task's fields, then that keys are unique, dependencies are known and not
/// circular, and that there are at most `most` tasks and [`limits::EDGES`] dependencies.
///
/// # Errors
/// What is wrong (up to a thousand faults), each with a JSON pointer into `{"tasks": […]}`; a cycle is told by the keys on it.
pub fn validate(tasks: &[NewTask], most: usize) -> Result<Graph, Vec<FieldError>> {
    if tasks.len() > most {
        let detail = format!("has {} tasks; the most is {most}", tasks.len());
        return Err(vec![FieldError::new("/tasks", detail)]);
    }
    let mut errors = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let list = Pointer::Below("/tasks");
    let mut edges = 0_usize;
    for (index, task) in tasks.iter().enumerate() {
        edges = edges.saturating_add(task.depends_on.len());
        if edges > limits::EDGES {
            let detail = format!("is more than all tasks together may have: {} dependencies", limits::EDGES);
            errors.push(FieldError::new(format!("/tasks/{index}/depends_on"), detail));
            return Err(errors);
        }
        check::task(task, list.index(index), &mut errors);
        if let Some(key) = task.key.as_deref()
            && positions.insert(key, index).is_some()
        {
            errors.push(FieldError::new(format!("/tasks/{index}/key"), format!("{key:?} is used twice")));
        }
        if errors.len() >= ENOUGH_ERRORS {
            return Err(errors);
        }
    }
    // Most batches are lists of tasks that have nothing to do with one another.
    if errors.is_empty() && tasks.iter().all(|task| task.depends_on.is_empty()) {
        return Ok(Graph { inside: vec![Vec::new(); tasks.len()], outside: vec![Vec::new(); tasks.len()] });
    }
    let mut graph =
        Graph { inside: Vec::with_capacity(tasks.len()), outside: Vec::with_capacity(tasks.len()) };
    for (index, task) in tasks.iter().enumerate() {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for (at, name) in task.depends_on.iter().enumerate() {
            if let Some(position) = positions.get(name.as_str()) {
                inside.push(*position);
            } else if let Ok(id) = Uuid::parse_str(name) {
                outside.push(TaskId(id));
            } else {
                let pointer = format!("/tasks/{index}/depends_on/{at}");
                errors.push(FieldError::new(
                    pointer,
                    format!("{name:?} is neither a key in this list nor a task id"),
                ));
                if errors.len() >= ENOUGH_ERRORS {
                    return Err(errors);
                }
            }
        }
        inside.sort_unstable();
        inside.dedup();
        outside.sort_unstable();
        outside.dedup();
        graph.inside.push(inside);
        graph.outside.push(outside);
    }
    if errors.is_empty()
        && let Some(cycle) = cycle(&graph.inside)
    {
        let label = |index: usize| tasks[index].key.clone().unwrap_or_else(|| format!("#{index}"));
        let mut names: Vec<String> = cycle.iter().take(20).map(|index| label(*index)).collect();
        names.push(if cycle.len() > 20 { "…".to_owned() } else { label(cycle[0]) });
        errors.push(FieldError::new(
            format!("/tasks/{}/depends_on", cycle[0]),
            format!("is a cycle: {}", names.join(" needs ")),
        ));
    }
    if errors.is_empty() { Ok(graph) } else { Err(errors) }
}

/// Checks one task that is enqueued alone: its dependencies can only be tasks that exist.
///
/// # Errors
/// Everything that is wrong, each with a JSON pointer into the task.
pub fn validate_one(task: &NewTask) -> Result<Vec<TaskId>, Vec<FieldError>> {
    let strip = |error: FieldError| FieldError {
        pointer: error.pointer.strip_prefix("/tasks/0").unwrap_or(&error.pointer).to_owned(),
        detail: error.detail,
    };
    let mut graph = validate(std::slice::from_ref(task), 1)
        .map_err(|errors| errors.into_iter().map(strip).collect::<Vec<_>>())?;
    Ok(graph.outside.pop().unwrap_or_default())
}

/// A cycle in `needs`, as positions in order, or `None`. Kahn's algorithm, then a walk among what is left; no recursion.
fn cycle(needs: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); needs.len()];
    let mut open: Vec<usize> = needs.iter().map(Vec::len).collect();
    for (index, list) in needs.iter().enumerate() {
        for need in list {
            needed_by[*need].push(index);
        }
    }
    let mut free: Vec<usize> = (0..needs.len()).filter(|index| open[*index] == 0).collect();
    while let Some(index) = free.pop() {
        for dependent in &needed_by[index] {
            open[*dependent] -= 1;
            if open[*dependent] == 0 {
                free.push(*dependent);
            }
        }
    }
    let mut at = open.iter().position(|count| *count > 0)?;
    let mut seen_at: HashMap<usize, usize> = HashMap::new();
    let mut path = Vec::new();
    loop {
        if let Some(start) = seen_at.get(&at) {
            return Some(path.split_off(*start));
        }
        seen_at.insert(at, path.len());
        path.push(at);
        at = *needs[at].iter().find(|need| open[**need] > 0)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(key: &str, depends_on: &[&str]) -> NewTask {
        let mut task = NewTask::new("debian");
        task.key = Some(key.to_owned());
        task.depends_on = depends_on.iter().map(|name| (*name).to_owned()).collect();
        task
    }

    #[test]
    fn a_cycle_is_told_by_its_keys() {
        let errors =
            validate(&[task("x", &["c"]), task("a", &["b"]), task("b", &["c"]), task("c", &["a"])], 10)
                .unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].detail.contains("needs a") && !errors[0].detail.contains('x'), "{errors:?}");
    }

    #[test]
    fn a_task_that_needs_itself_is_a_cycle() {
        let errors = validate(&[task("a", &["a"])], 10).unwrap_err();
        assert_eq!(errors[0].detail, "is a cycle: a needs a");
    }

    #[test]
    fn unknown_and_double_keys_are_named() {
        let errors = validate(&[task("a", &["ghost"]), task("a", &[])], 10).unwrap_err();
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/tasks/1/key", "/tasks/0/depends_on/0"]);
    }

    #[test]
    fn too_many_tasks_are_counted_before_anything_else() {
        let tasks = vec![NewTask::new(""); 11];
        let errors = validate(&tasks, 10).unwrap_err();
        assert_eq!(errors, [FieldError::new("/tasks", "has 11 tasks; the most is 10")]);
    }

    #[test]
    fn a_graph_with_too_many_edges_is_refused_at_the_task_that_passes_the_limit() {
        let mut wide = NewTask::new("debian");
        wide.depends_on = vec!["a".to_owned(); limits::EDGES / 2];
        let mut tasks = vec![task("a", &[]), wide.clone(), wide];
        assert!(validate(&tasks, 10).is_ok());
        tasks.push(task("b", &["a"]));
        let errors = validate(&tasks, 10).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].pointer, "/tasks/3/depends_on");
    }

    #[test]
    fn ids_of_existing_tasks_are_told_apart_from_keys() {
        let id = TaskId::new();
        let graph =
            validate(&[task("a", &[&id.to_string(), &id.to_string()]), task("b", &["a"])], 10).unwrap();
        assert_eq!(graph.outside, [vec![id], vec![]]);
        assert_eq!(graph.inside, [vec![], vec![0]]);
    }

    proptest! {
        #[test]
        fn edges_to_earlier_tasks_never_make_a_cycle_and_one_back_edge_on_a_path_always_does(
            edges in prop::collection::vec((1_usize..40, 0_usize..40), 0..120), top in 1_usize..40,
        ) {
            let mut needs: Vec<Vec<usize>> = (0..40_usize).map(|i| if i == 0 { vec![] } else { vec![i - 1] }).collect();
            for (from, to) in edges {
                if to < from { needs[from].push(to); }
            }
            prop_assert_eq!(cycle(&needs), None);
            needs[0].push(top);
            let found = cycle(&needs).expect("0 needs top, and top needs 0 by way of its predecessors");
            for (index, at) in found.iter().enumerate() {
                prop_assert!(needs[*at].contains(&found[(index + 1) % found.len()]));
            }
        }
    }
}
