//! `orca approve` and `orca refuse`: an operator's answer to a task that waits for it.

use orca_proto::approval::Decision;
use orca_proto::client::Client;
use orca_proto::ids::TaskId;

use crate::error::{Exit, Failure};
use crate::output::{Output, escape};

/// Which task, and why.
#[derive(Debug, clap::Args)]
pub(crate) struct DecideArgs {
    /// The task
    #[arg(value_parser = super::id::<TaskId>)]
    id: TaskId,
    /// Why, for whoever looks later
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl DecideArgs {
    /// Does it.
    pub(crate) async fn run(self, approve: bool, client: &Client, output: Output) -> Result<Exit, Failure> {
        let decision = Decision { approve, comment: self.comment };
        let decided = client.decide(self.id, &decision).await;
        let summary = decided.map_err(|error| Failure::about(error, "task", self.id))?;
        if output.is_json() {
            output.json(&summary)?;
        } else {
            let how = if approve { "approved" } else { "refused" };
            let line =
                format!("{} {}: {how}, now {}", summary.id, escape::line(&summary.name), summary.state);
            output.line(&line)?;
        }
        Ok(Exit::Done)
    }
}
