//! `orca wait`: until tasks have ended.

use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::log::LogQuery;
use orca_proto::page::Page;
use orca_proto::task::{State, Task, TaskFilter, TaskSummary};

use crate::error::{Exit, Failure};
use crate::output::{Output, escape, task};
use crate::watch;

/// How many of a failed task's last log lines are shown.
const LAST_LINES: u32 = 10;
/// How many of the tasks that failed under a failed one are shown.
const CULPRITS: u32 = 3;

/// Wait until tasks have ended; exit code 1 if one did not succeed
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// The tasks
    #[arg(required = true, value_name = "ID", value_parser = super::id::<TaskId>)]
    ids: Vec<TaskId>,
    /// Give up after this long, such as 90s or 1h; the tasks go on
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<Span>,
}

impl WaitArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let limit = self.timeout.map(Span::get);
        let tasks = watch::until_ended(client, &self.ids, limit, output).await?;
        if output.is_json() {
            output.json(&Page { items: tasks.as_slice().to_vec(), next: None })?;
        } else {
            for task in &tasks {
                report(client, task, Log::Unseen, output).await?;
            }
        }
        Ok(exit_of(&tasks))
    }
}

/// The exit code for tasks that have ended.
pub(super) fn exit_of(tasks: &[Task]) -> Exit {
    if tasks.iter().all(|task| task.summary.state == State::Succeeded) {
        Exit::Done
    } else {
        Exit::TaskNotSucceeded
    }
}

/// Whether the user has seen a task's log by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// It was followed.
    Seen,
    /// Not a line of it.
    Unseen,
}

/// Tells how a task ended: its result on standard output; the rest, with the last log lines of a failure, on standard
/// error.
pub(super) async fn report(client: &Client, ended: &Task, log: Log, output: Output) -> Result<(), Failure> {
    task::remark_end(output, ended);
    if ended.summary.state == State::Failed {
        let culprits = culprits(client, &ended.summary).await;
        for culprit in &culprits {
            let reason = culprit.reason.as_deref().unwrap_or_else(|| culprit.state.as_str());
            let name = escape::line(&culprit.name);
            output.remark(&format!("  {name} ({}): {}", culprit.id, escape::line(reason)));
            last_words(client, culprit, "    ", output).await;
        }
        if culprits.is_empty() && log == Log::Unseen {
            last_words(client, &ended.summary, "  ", output).await;
        }
    }
    match &ended.result {
        Some(result) if !result.is_null() => output.json(result),
        _ => Ok(()),
    }
}

/// What failed under a task. The end itself was told, so what cannot be had now is no other failure.
async fn culprits(client: &Client, ended: &TaskSummary) -> Vec<TaskSummary> {
    if ended.children.is_empty() {
        return Vec::new();
    }
    let filter = TaskFilter {
        parent: Some(ended.id),
        state: Some("failed,expired".to_owned()),
        limit: Some(CULPRITS),
        ..TaskFilter::default()
    };
    client.tasks(&filter).await.map(|page| page.items).unwrap_or_default()
}

/// The end of the log of a task's last attempt, if it can be had.
async fn last_words(client: &Client, ended: &TaskSummary, indent: &str, output: Output) {
    let attempt = (ended.attempt > 0).then_some(ended.attempt);
    let query = LogQuery { attempt, tail: Some(LAST_LINES), ..LogQuery::default() };
    let tail = client.logs(ended.id, &query).await;
    for entry in tail.into_iter().flat_map(|page| page.items) {
        output.remark(&format!("{indent}{}", escape::line(&entry.text)));
    }
}
