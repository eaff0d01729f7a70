//! How many tasks an order for many is about, counted before it is given.

use std::fmt;

use orca_proto::client::Client;
use orca_proto::dead_letter::DeadLetterFilter;
use orca_proto::limits;
use orca_proto::page::Page;
use orca_proto::problem::Kind;
use orca_proto::selector::Selector;
use orca_proto::task::{State, TaskFilter, TaskSummary};
use serde::Serialize;

use crate::error::Failure;
use crate::output::count;

/// Pages that are looked at before somebody is asked: 10,000 tasks.
pub(super) const GLANCE: usize = 20;
/// Pages that are looked at where the number is all that is wanted: 100,000 tasks.
pub(super) const WHOLE: usize = 200;

/// Where the tasks are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    /// Those that have not ended, nor been told to.
    Open,
    /// Those on the list of dead letters.
    DeadLetters,
}

/// A number of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Census {
    /// As many were found.
    pub(super) count: u64,
    /// Whether there may be more that nobody looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) at_least: bool,
}

impl Census {
    /// Whether there is certainly none.
    pub(super) fn is_none(self) -> bool {
        self.count == 0 && !self.at_least
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at_least {
            f.write_str("at least ")?;
        }
        write!(f, "{} {}", count(self.count), if self.count == 1 { "task" } else { "tasks" })
    }
}

/// Counts the tasks of a selection, looking at no more than so many pages.
///
/// # Errors
/// A [`Failure`] if the coordinator does not answer.
pub(super) async fn take(
    client: &Client,
    selector: &Selector,
    among: Among,
    pages: usize,
) -> Result<Census, Failure> {
    if among == Among::Open && !selector.ids.is_empty() {
        return of_ids(client, selector).await;
    }
    let (mut census, mut cursor) = (Census { count: 0, at_least: false }, None);
    for _ in 0..pages {
        let page = page(client, selector, among, cursor).await?;
        let found = page.items.iter().filter(|task| is_meant(selector, task, among)).count();
        census.count += found as u64;
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(census),
        }
    }
    census.at_least = true;
    Ok(census)
}

async fn of_ids(client: &Client, selector: &Selector) -> Result<Census, Failure> {
    let mut census = Census { count: 0, at_least: false };
    for id in &selector.ids {
        match client.task(*id).await {
            Ok(task) if is_meant(selector, &task.summary, Among::Open) => census.count += 1,
            Ok(_) => {}
            Err(error) if error.kind() == Some(Kind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(census)
}

async fn page(
    client: &Client,
    selector: &Selector,
    among: Among,
    cursor: Option<String>,
) -> Result<Page<TaskSummary>, Failure> {
    let Selector { queue, group, name, labels, .. } = selector;
    let (queue, group, name) = (queue.clone(), group.clone(), name.clone());
    let limit = Some(limits::PAGE);
    let page = match among {
        Among::DeadLetters => {
            client.dead_letters(&DeadLetterFilter { queue, group, name, cursor, limit }).await?
        }
        Among::Open => {
            let open = State::ALL.iter().filter(|state| !state.is_terminal());
            let states: Vec<&str> = open.map(|state| state.as_str()).collect();
            let label = labels.iter().next().map(|(key, value)| format!("{key}={value}"));
            let state = Some(states.join(","));
            client
                .tasks(&TaskFilter {
                    state,
                    queue,
                    group,
                    name,
                    label,
                    cursor,
                    limit,
                    ..TaskFilter::default()
                })
                .await?
        }
    };
    Ok(page)
}

/// Whether a task passes all filters; lists know only some of them.
fn is_meant(selector: &Selector, task: &TaskSummary, among: Among) -> bool {
    let Selector { ids, queue, group, name, states, labels, created_before, all: _ } = selector;
    (ids.is_empty() || ids.contains(&task.id))
        && queue.as_ref().is_none_or(|queue| *queue == task.queue)
        && (group.is_none() || *group == task.group)
        && name.as_ref().is_none_or(|name| *name == task.name)
        && (states.is_empty() || states.contains(&task.state))
        && labels.iter().all(|(key, value)| task.labels.get(key) == Some(value))
        && created_before.is_none_or(|before| task.created_at < before)
        && (among == Among::DeadLetters || (!task.state.is_terminal() && !task.cancel_requested))
}
