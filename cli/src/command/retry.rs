//! `orca retry`: what ended, once more, as a new task.

use orca_proto::client::Client;
use orca_proto::ids::TaskId;

use super::wait;
use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::watch;

/// Enqueue a task that ended once more, as a new task
///
/// The old task stays as it is; the new one names it.
#[derive(Debug, clap::Args)]
pub(crate) struct RetryArgs {
    /// The task that ended
    #[arg(value_parser = super::id::<TaskId>)]
    id: TaskId,
    /// Wait until the new one has ended; exit code 1 if it did not succeed
    #[arg(long, short)]
    wait: bool,
}

impl RetryArgs {
    /// Whether it goes on after the new task is enqueued.
    pub(super) fn waits(&self) -> bool {
        self.wait
    }

    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let mut task = client.retry(self.id).await.map_err(|error| Failure::about(error, "task", self.id))?;
        let id = task.summary.id;
        if !self.wait {
            if output.is_json() {
                output.json(&task)?;
            } else {
                output.line(&id.to_string())?;
            }
            return Ok(Exit::Done);
        }
        if let Some(ended) = watch::until_ended(client, &[id], None, output).await?.pop() {
            task = ended;
        }
        if output.is_json() {
            output.json(&task)?;
        } else {
            wait::report(client, &task, wait::Log::Unseen, output).await?;
        }
        Ok(wait::exit_of(std::slice::from_ref(&task)))
    }
}
