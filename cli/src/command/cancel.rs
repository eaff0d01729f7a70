//! `orca cancel`: ends tasks and everything under them.

use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::page::Page;
use orca_proto::task::Cancellation;

use crate::error::{Exit, Failure};
use crate::output::{Output, escape};

/// Cancel tasks and everything under them
///
/// What has not started is cancelled at once; what runs is told to stop, and is killed after its grace time.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The tasks
    #[arg(required = true, value_name = "ID", value_parser = super::id::<TaskId>)]
    ids: Vec<TaskId>,
    /// Why, for whoever looks later
    #[arg(long)]
    reason: Option<String>,
}

impl CancelArgs {
    /// Does it. One that cannot be cancelled does not keep the others from it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let cancellation = Cancellation { reason: self.reason };
        let mut items = Vec::new();
        let mut failures = Vec::new();
        for id in self.ids {
            match client.cancel(id, &cancellation).await {
                Ok(summary) => items.push(summary),
                Err(error) => {
                    let failure = Failure::about(error, "task", id);
                    let hopeless = matches!(failure.exit(), Exit::Unreachable | Exit::NotAllowed);
                    failures.push(failure);
                    if hopeless {
                        break;
                    }
                }
            }
        }
        if output.is_json() {
            output.json(&Page { items, next: None })?;
        } else {
            for summary in &items {
                let how = if summary.state.is_terminal() { summary.state.as_str() } else { "told to stop" };
                output.line(&format!("{} {}: {how}", summary.id, escape::line(&summary.name)))?;
            }
        }
        let last = failures.pop();
        for failure in failures {
            output.remark(failure.render().trim_end());
        }
        last.map_or(Ok(Exit::Done), Err)
    }
}
