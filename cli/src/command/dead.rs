//! `orca dead`: tasks that failed or expired, until somebody tries them again or lets them go.

use std::collections::BTreeSet;

use orca_proto::client::Client;
use orca_proto::dead_letter::DeadLetterFilter;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::selector::Selector;
use orca_proto::task::State;

use super::census::{self, Among};
use super::selection::{self, SelectionArgs};
use super::{argument, confirm, interrupt, list};
use crate::error::{Exit, Failure};
use crate::output::{Output, count};

/// How many tasks are asked why they are not on the list.
const NAMED: usize = 20;

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
        #[arg(long, value_name = "N", value_parser = argument::page, allow_hyphen_values = true)]
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
            Self::Retry(chosen) => return chosen.run(Order::Retry, client, output).await,
            Self::Purge(chosen) => return chosen.run(Order::Purge, client, output).await,
        }
        Ok(Exit::Done)
    }
}

/// What is to become of them.
#[derive(Clone, Copy, Debug)]
enum Order {
    Retry,
    Purge,
}

impl Chosen {
    async fn run(&self, order: Order, client: &Client, output: Output) -> Result<Exit, Failure> {
        let selector = self.selection.selector(&self.ids)?;
        if self.selection.dry_run() {
            let census = census::take(client, &selector, Among::DeadLetters, census::WHOLE).await?;
            let what = match order {
                Order::Retry => "would be enqueued once more",
                Order::Purge => "would be taken off the list for good",
            };
            selection::would(&census, what, output)?;
            return Ok(Exit::Done);
        }
        let told = async || {
            let left = census::take(client, &selector, Among::DeadLetters, census::GLANCE).await;
            let left = left.map_or_else(|_| "some".to_owned(), |census| census.to_string());
            Some(format!("interrupted: {left} still on the list; the same command goes on"))
        };
        interrupt::or_told(self.carry_out(order, client, &selector, output), told, output).await
    }

    async fn carry_out(
        &self,
        order: Order,
        client: &Client,
        selector: &Selector,
        output: Output,
    ) -> Result<Exit, Failure> {
        if !self.agreed(order, client, selector).await? {
            output.remark("no dead letter is meant");
            return Ok(Exit::Done);
        }
        let done = match order {
            Order::Retry => {
                let enqueued = client.retry_dead_letters(selector).await?;
                if output.is_json() {
                    output.json(&enqueued)?;
                } else {
                    enqueued.ids.iter().try_for_each(|id| output.line(&id.to_string()))?;
                    output.remark(&format!("{} enqueued", count(enqueued.ids.len() as u64)));
                }
                enqueued.ids.len() as u64
            }
            Order::Purge => {
                let affected = client.purge_dead_letters(selector).await?;
                if output.is_json() {
                    output.json(&affected)?;
                } else {
                    output.line(&format!("{} purged", count(affected.count)))?;
                }
                affected.count
            }
        };
        if self.selection.is_given() {
            return Ok(Exit::Done);
        }
        let ids: BTreeSet<TaskId> = self.ids.iter().copied().collect();
        if done < ids.len() as u64 { Err(not_on_the_list(client, &ids, done).await) } else { Ok(Exit::Done) }
    }

    /// Whether it is meant. Ids alone say so themselves.
    async fn agreed(&self, order: Order, client: &Client, selector: &Selector) -> Result<bool, Failure> {
        if !self.selection.is_given() {
            return Ok(true);
        }
        let (what, then) = match order {
            Order::Retry => ("Enqueue", "once more"),
            Order::Purge => ("Take", "off the list for good"),
        };
        let meant = selection::in_words(selector);
        let question = async || {
            let census = census::take(client, selector, Among::DeadLetters, census::GLANCE).await?;
            let asked = || format!("{what} {census} among the dead letters {then} ({meant})?");
            Ok((!census.is_none()).then(asked))
        };
        let plain = format!("{what} {meant} among the dead letters {then}?");
        confirm::agreed(&plain, question, self.selection.yes()).await
    }
}

/// Why some of the given tasks were not on the list, as far as they tell.
async fn not_on_the_list(client: &Client, ids: &BTreeSet<TaskId>, done: u64) -> Failure {
    let mut why = Vec::new();
    let mut missing = (ids.len() as u64).saturating_sub(done);
    for id in ids.iter().take(NAMED) {
        let said = match client.task(*id).await {
            Ok(task) => match task.summary.state {
                // Of those that ended so, some were on the list, unless none was.
                State::Failed | State::Expired if done > 0 => continue,
                State::Failed | State::Expired => "it was tried again or purged already".to_owned(),
                State::Skipped => "it was skipped; only what failed or expired is on the list".to_owned(),
                State::Succeeded => "it succeeded".to_owned(),
                State::Cancelled => "it was cancelled; `orca retry` tries it again".to_owned(),
                open => format!("it has not ended (it is {open})"),
            },
            Err(error) => match Failure::about(error, "task", id) {
                failure if failure.exit() == Exit::NotFound => "there is no such task".to_owned(),
                failure => return failure,
            },
        };
        missing = missing.saturating_sub(1);
        why.push(format!("{id}: {said}"));
    }
    match (missing, done) {
        (0, _) => {}
        (missing, 0) => why.push(format!("and {} more", count(missing))),
        (missing, _) => why.push(format!("{} were tried again or purged already", count(missing))),
    }
    let what = match ids.len() {
        1 => "the task is not on the list of dead letters".to_owned(),
        all => format!("{} of {all} tasks were not on the list of dead letters", ids.len() as u64 - done),
    };
    Failure::new(Exit::Conflict, what).because(why.join("\n"))
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
