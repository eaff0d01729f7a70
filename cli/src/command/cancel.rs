//! `orca cancel`: ends tasks and everything under them.

use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::page::Page;
use orca_proto::selector::BulkCancel;
use orca_proto::task::Cancellation;

use super::confirm;
use super::selection::{self, SelectionArgs};
use crate::error::{Exit, Failure};
use crate::output::{Output, escape};

/// Cancel tasks and everything under them
///
/// What has not started is cancelled at once; what runs is told to stop, and is killed after its grace time.
///
/// Examples:
///   orca cancel TASK --reason 'wrong input'
///   orca cancel --queue nightly --label run=17
///   orca cancel --all --yes
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CancelArgs {
    /// The tasks; with filters, those among them that pass
    #[arg(value_name = "ID", value_parser = super::id::<TaskId>)]
    ids: Vec<TaskId>,
    /// Why, for whoever looks later
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    selection: SelectionArgs,
}

impl CancelArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        if self.selection.is_given() || self.ids.is_empty() {
            self.matching(client, output).await
        } else {
            self.each(client, output).await
        }
    }

    async fn matching(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let selector = self.selection.selector(&self.ids)?;
        let question = format!("Cancel {} that have not ended?", selection::in_words(&selector));
        confirm::agreed(&question, self.selection.yes()).await?;
        let affected = client.cancel_matching(&BulkCancel { selector, reason: self.reason }).await?;
        if output.is_json() {
            output.json(&affected)?;
        } else {
            output.line(&format!("{} cancelled or told to stop", affected.count))?;
        }
        Ok(Exit::Done)
    }

    /// One that cannot be cancelled does not keep the others from it.
    async fn each(self, client: &Client, output: Output) -> Result<Exit, Failure> {
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
