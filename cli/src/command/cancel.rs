//! `orca cancel`: ends tasks and everything under them.

use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::page::Page;
use orca_proto::selector::{BulkCancel, Selector};
use orca_proto::task::Cancellation;

use super::census::{self, Among};
use super::selection::{self, SelectionArgs};
use super::{confirm, interrupt};
use crate::error::{Exit, Failure};
use crate::output::{Output, count, escape};

/// How far an order went that was interrupted.
async fn left(client: &Client, selector: &Selector) -> String {
    match census::take(client, selector, Among::Open, census::GLANCE).await {
        Ok(census) => format!("interrupted: {census} not told to stop so far; the same command goes on"),
        Err(_) => "interrupted: a part may be cancelled; the same command goes on".to_owned(),
    }
}

/// Cancel tasks and everything under them
///
/// What has not started is cancelled at once; what runs is told to stop, and is killed after its grace time.
///
/// Examples:
///   orca cancel TASK --reason 'wrong input'
///   orca cancel --queue nightly --label run=17
///   orca cancel --queue nightly --dry-run
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
        if !self.selection.is_given() && !self.ids.is_empty() && !self.selection.dry_run() {
            let told = async || {
                Some("interrupted: some of them may have been told to stop; `orca get` says which".to_owned())
            };
            return interrupt::or_told(self.each(client, output), told, output).await;
        }
        let selector = self.selection.selector(&self.ids)?;
        if self.selection.dry_run() {
            let census = census::take(client, &selector, Among::Open, census::WHOLE).await?;
            selection::would(&census, "would be cancelled or told to stop", output)?;
            return Ok(Exit::Done);
        }
        let told = async || Some(left(client, &selector).await);
        interrupt::or_told(self.matching(client, selector.clone(), output), told, output).await
    }

    async fn matching(self, client: &Client, selector: Selector, output: Output) -> Result<Exit, Failure> {
        let meant = selection::in_words(&selector);
        let question = async || {
            let census = census::take(client, &selector, Among::Open, census::GLANCE).await?;
            Ok((!census.is_none()).then(|| format!("Cancel {census} that have not ended ({meant})?")))
        };
        let plain = format!("Cancel {meant} that have not ended?");
        if !confirm::agreed(&plain, question, self.selection.yes()).await? {
            output.remark("nothing to cancel");
            return Ok(Exit::Done);
        }
        let affected = client.cancel_matching(&BulkCancel { selector, reason: self.reason }).await?;
        if output.is_json() {
            output.json(&affected)?;
        } else {
            output.line(&format!("{} cancelled or told to stop", count(affected.count)))?;
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
            output.remark(failure.told(output).trim_end());
        }
        last.map_or(Ok(Exit::Done), Err)
    }
}
