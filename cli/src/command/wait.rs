//! `orca wait`: until tasks have ended.

use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::log::LogQuery;
use orca_proto::page::Page;
use orca_proto::task::{State, Task};

use super::logs;
use crate::error::{Exit, Failure};
use crate::output::{Output, escape, task};
use crate::watch;

/// How many of a failed task's last log lines are shown.
const LAST_LINES: usize = 10;

/// Wait until tasks have ended; exit code 1 if one did not succeed
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// The tasks
    #[arg(required = true, value_name = "ID")]
    ids: Vec<TaskId>,
    /// Give up after this long, such as 90s or 1h; the tasks go on
    #[arg(long, value_name = "DURATION")]
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
    if ended.summary.state == State::Failed && log == Log::Unseen {
        // The end itself was told; a log that cannot be had now is no other failure.
        let lines = logs::tail(client, ended.summary.id, &LogQuery::default(), LAST_LINES).await;
        for entry in lines.unwrap_or_default() {
            output.remark(&format!("  {}", escape::line(&entry.text)));
        }
    }
    match &ended.result {
        Some(result) if !result.is_null() => output.json(result),
        _ => Ok(()),
    }
}
