//! `orca ls`: tasks, newest first.

use comfy_table::Cell;
use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::page::Page;
use orca_proto::spec::Role;
use orca_proto::task::{State, TaskFilter, TaskSummary};

use super::argument;
use crate::error::{Exit, Failure};
use crate::output::table::{self, Rows, text};
use crate::output::{Output, escape, task, time};

/// List tasks, newest first
///
/// Without filters: the newest 50 that are under no other task.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only these states, separated by commas
    #[arg(long, short, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    /// Only this queue
    #[arg(long, short)]
    queue: Option<String>,
    /// Only this group
    #[arg(long)]
    group: Option<String>,
    /// Only tasks with exactly this name
    #[arg(long)]
    name: Option<String>,
    /// Only tasks with this label
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = argument::label)]
    label: Option<String>,
    /// Only goals
    #[arg(long)]
    goals: bool,
    /// Only tasks directly under this one
    #[arg(long, short, value_name = "ID", value_parser = super::id::<TaskId>)]
    parent: Option<TaskId>,
    /// Also tasks that are under another
    #[arg(long, short, conflicts_with = "parent")]
    nested: bool,
    /// Every page, not only the first
    #[arg(long, short)]
    all: bool,
    /// Tasks per page
    #[arg(long, value_name = "N", value_parser = argument::page, allow_hyphen_values = true)]
    limit: Option<u32>,
    /// Where an earlier page ended (its `next`)
    #[arg(long)]
    cursor: Option<String>,
}

impl ListArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let all = self.all;
        let mut filter = self.filter();
        let mut page = client.tasks(&filter).await?;
        while all && let Some(next) = page.next.take() {
            filter.cursor = Some(next);
            let mut more = client.tasks(&filter).await?;
            page.items.append(&mut more.items);
            page.next = more.next;
        }
        if output.is_json() {
            output.json(&page)?;
        } else {
            print(&page, "no tasks", output)?;
        }
        Ok(Exit::Done)
    }

    fn filter(self) -> TaskFilter {
        let states: Vec<&str> = self.state.iter().map(|state| state.as_str()).collect();
        TaskFilter {
            state: (!states.is_empty()).then(|| states.join(",")),
            queue: self.queue,
            group: self.group,
            role: self.goals.then_some(Role::Plan),
            parent: self.parent,
            top: (self.parent.is_none() && !self.nested).then_some(true),
            name: self.name,
            label: self.label,
            cursor: self.cursor,
            limit: self.limit.or(self.all.then_some(limits::PAGE)),
        }
    }
}

const COLUMNS: [&str; 7] = ["ID", "NAME", "STATE", "QUEUE", "ATTEMPT", "AGE", "NOTE"];

/// Writes tasks as a table, or `nothing`.
pub(super) fn print(page: &Page<TaskSummary>, nothing: &str, output: Output) -> Result<(), Failure> {
    let now = Timestamp::now();
    let columns = |summary: &TaskSummary| {
        vec![
            text(summary.id.to_string()),
            text(&summary.name),
            table::state(output, summary.state),
            text(&summary.queue),
            text(format!("{}/{}", summary.attempt, summary.max_attempts)),
            text(time::coarse(time::between(summary.created_at, now))),
        ]
    };
    // Laid out once without the notes, to see what is left for them.
    let mut bare = Rows::new(output, &COLUMNS);
    page.items.iter().for_each(|summary| bare.add(columns(summary)));
    let room = bare.room();
    let mut rows = Rows::new(output, &COLUMNS);
    for summary in &page.items {
        let mut cells = columns(summary);
        cells.push(Cell::new(table::cut(&escape::line(&task::note(summary, now)), room)));
        rows.add(cells);
    }
    rows.print(nothing)?;
    if page.next.is_some() {
        output.remark("there are more: --all shows them");
    }
    Ok(())
}
