//! Looking at tasks.

use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::page::Page;
use orca_proto::task::{State, Task, TaskFilter, TaskSummary};

use super::check::Check;
use super::{App, Error, Principal};
use crate::db::{as_word, attempt, dependency, gate, task, to_json};

/// Tasks on a page unless told.
pub(super) const PAGE: u32 = 50;

/// Tasks that try one again that are told.
const RETRIES: i64 = 20;

impl App {
    /// One task with its spec, attempts and result.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn task_get(&self, who: &Principal, id: TaskId) -> Result<Task, Error> {
        let mut connection = self.0.pool.acquire().await?;
        let body = task::get(&mut connection, &who.namespace, id).await?.ok_or_else(Error::not_found)?;
        let approval =
            if body.spec.approval.is_some() { gate::decided(&mut connection, id).await? } else { None };
        let signals = if body.spec.wait_for.is_empty() {
            Vec::new()
        } else {
            gate::arrived(&mut connection, id).await?
        };
        // What has not ended cannot have been tried again.
        let retried_as = match body.summary.state.is_terminal() {
            true => task::retries(&mut connection, id, RETRIES).await?,
            false => Vec::new(),
        };
        Ok(Task {
            summary: body.summary,
            spec: body.spec,
            depends_on: dependency::of_task(&mut connection, id).await?,
            result: body.result,
            attempts: attempt::of_task(&mut connection, id).await?,
            retry_of: body.retry_of,
            approval,
            signals,
            retried_as,
        })
    }

    /// Whether the task has ended: no more log lines will come.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn task_ended(&self, who: &Principal, id: TaskId) -> Result<bool, Error> {
        let mut connection = self.0.pool.acquire().await?;
        let state = task::state(&mut connection, &who.namespace, id).await?;
        Ok(state.ok_or_else(Error::not_found)?.is_terminal())
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// `validation` for a filter that makes no sense, or the database's.
    pub async fn task_list(&self, who: &Principal, filter: TaskFilter) -> Result<Page<TaskSummary>, Error> {
        let mut check = Check::default();
        let limit = filter.limit.unwrap_or(PAGE);
        if !(1..=limits::PAGE).contains(&limit) {
            check.fail("?limit", "must lie between 1 and 500");
        }
        let states = filter.state.as_deref().map(|text| states(text, &mut check));
        let before = filter.cursor.as_deref().and_then(|text| {
            let cursor = text.parse::<TaskId>().ok();
            if cursor.is_none() {
                check.fail("?cursor", "is no cursor of this list; leave it out to begin anew");
            }
            cursor
        });
        let label = filter.label.as_deref().and_then(|text| {
            let pair = text.split_once('=');
            if pair.is_none() {
                check.fail("?label", "must be key=value");
            }
            pair
        });
        for (text, pointer) in [
            (&filter.queue, "?queue"),
            (&filter.group, "?group"),
            (&filter.name, "?name"),
            (&filter.label, "?label"),
        ] {
            check.text(text.as_deref().unwrap_or_default(), pointer, 2 * limits::NAME + 1);
        }
        check.done()?;
        let flow = (filter.queue.as_deref(), filter.group.as_deref());
        self.check_flow(&who.namespace, flow, ("?queue", "?group")).await?;
        let wanted = task::Filter {
            states,
            queue: filter.queue.as_deref(),
            group: filter.group.as_deref(),
            role: filter.role.map(|role| as_word(&role)),
            parent: filter.parent,
            top: filter.top.unwrap_or(false),
            name: filter.name.as_deref(),
            label: label
                .map(|(key, value)| to_json(&std::collections::BTreeMap::from([(key, value)])))
                .transpose()?,
            before,
            limit: i64::from(limit) + 1,
        };
        let mut connection = self.0.pool.acquire().await?;
        let mut items = task::list(&mut connection, &who.namespace, &wanted).await?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(Page { items, next })
    }
}

fn states(text: &str, check: &mut Check) -> Vec<String> {
    let mut words = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse::<State>() {
            Ok(state) => words.push(state.as_str().to_owned()),
            Err(error) => check.fail("?state", format!("{word:?} is {error}")),
        }
    }
    if words.is_empty() && text.split(',').all(|word| word.trim().is_empty()) {
        check.fail("?state", "must name at least one state");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_state_is_told_once_and_none_at_all_too() {
        for (text, told) in
            [("nix", "is not a state"), ("ready,nix", "is not a state"), (" ,", "at least one")]
        {
            let mut check = Check::default();
            states(text, &mut check);
            let problem = check.done().unwrap_err().problem();
            let [error] = problem.errors.as_slice() else { panic!("{text}: {problem:?}") };
            assert!(error.detail.contains(told), "{text}: {}", error.detail);
        }
    }
}
