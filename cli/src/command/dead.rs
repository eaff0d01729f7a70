//! `orca dead`: tasks that failed or expired, until somebody tries them again or lets them go.

use orca_proto::client::Client;
use orca_proto::dead_letter::DeadLetterFilter;
use orca_proto::ids::TaskId;
use orca_proto::limits;

use super::selection::{self, SelectionArgs};
use super::{confirm, list};
use crate::error::{Exit, Failure};
use crate::output::{Output, count};

/// List, retry and purge dead letters: tasks that failed or expired
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeadCommand {
    /// List them, newest first
    Ls {
        /// Only this queue
        #[arg(long, short)]
        queue: Option<String>,
        /// Only this group
        #[arg(long)]
        group: Option<String>,
        /// Only tasks with exactly this name
        #[arg(long)]
        name: Option<String>,
        /// Every page, not only the first
        #[arg(long, short)]
        all: bool,
        /// Tasks per page
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PAGE)))]
        limit: Option<u32>,
        /// Where an earlier page ended (its `next`)
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Enqueue them once more, as new tasks with the same specs
    ///
    /// Examples:
    ///   orca dead retry TASK TASK
    ///   orca dead retry --queue mails --before 1h
    #[command(verbatim_doc_comment)]
    Retry(Chosen),
    /// Take them off the list for good
    ///
    /// Examples:
    ///   orca dead purge --name import --before 30d
    ///   orca dead purge --all --yes
    #[command(verbatim_doc_comment)]
    Purge(Chosen),
}

/// Which of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Chosen {
    /// These; with filters, those among them that pass
    #[arg(value_name = "ID", value_parser = super::id::<TaskId>)]
    ids: Vec<TaskId>,
    #[command(flatten)]
    selection: SelectionArgs,
}

impl DeadCommand {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        match self {
            Self::Ls { queue, group, name, all, limit, cursor } => {
                let limit = limit.or(all.then_some(limits::PAGE));
                show(client, DeadLetterFilter { queue, group, name, cursor, limit }, all, output).await?;
            }
            Self::Retry(chosen) => {
                let selector = chosen.agreed("Enqueue", "once more").await?;
                let enqueued = client.retry_dead_letters(&selector).await?;
                if output.is_json() {
                    output.json(&enqueued)?;
                } else {
                    enqueued.ids.iter().try_for_each(|id| output.line(&id.to_string()))?;
                    output.remark(&format!("{} enqueued", count(enqueued.ids.len() as u64)));
                }
            }
            Self::Purge(chosen) => {
                let selector = chosen.agreed("Take", "off the list for good").await?;
                let affected = client.purge_dead_letters(&selector).await?;
                if output.is_json() {
                    output.json(&affected)?;
                } else {
                    output.line(&format!("{} purged", count(affected.count)))?;
                }
            }
        }
        Ok(Exit::Done)
    }
}

impl Chosen {
    /// The selection, once it is certain that it is meant. Ids alone say so themselves.
    async fn agreed(&self, what: &str, then: &str) -> Result<orca_proto::selector::Selector, Failure> {
        let selector = self.selection.selector(&self.ids)?;
        if self.selection.is_given() {
            let question =
                format!("{what} {} among the dead letters {then}?", selection::in_words(&selector));
            confirm::agreed(&question, self.selection.yes()).await?;
        }
        Ok(selector)
    }
}

async fn show(
    client: &Client,
    mut filter: DeadLetterFilter,
    all: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut page = client.dead_letters(&filter).await?;
    while all && let Some(next) = page.next.take() {
        filter.cursor = Some(next);
        let mut more = client.dead_letters(&filter).await?;
        page.items.append(&mut more.items);
        page.next = more.next;
    }
    if output.is_json() { output.json(&page) } else { list::print(&page, "no dead letters", output) }
}
