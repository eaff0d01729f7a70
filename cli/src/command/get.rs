//! `orca get`: everything about one task.

use orca_proto::client::Client;
use orca_proto::ids::TaskId;

use crate::error::{Exit, Failure};
use crate::output::{Output, task};

/// Show everything about a task
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// The task
    #[arg(value_parser = super::id::<TaskId>)]
    id: TaskId,
    /// Only its result, as JSON; exit code 1 while there is none
    #[arg(long)]
    result: bool,
}

impl GetArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let found = client.task(self.id).await.map_err(|error| Failure::about(error, "task", self.id))?;
        if self.result {
            return match &found.result {
                Some(result) => output.json(result).map(|()| Exit::Done),
                None => {
                    output.remark(&format!("no result: the task is {}", found.summary.state));
                    Ok(Exit::TaskNotSucceeded)
                }
            };
        }
        if output.is_json() {
            output.json(&found)?;
        } else {
            task::print(output, &found)?;
        }
        Ok(Exit::Done)
    }
}
