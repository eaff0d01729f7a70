//! `orca logs`: what a task's program wrote.

use std::collections::VecDeque;

use futures_util::StreamExt;
use orca_proto::client::{Client, LogItem};
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::log::{LogEntry, LogQuery, Stream};

use crate::error::{Exit, Failure};
use crate::output::{Output, Style, escape};

/// Show a task's log
///
/// Lines of standard output and standard error come in the order they were written, over all attempts.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The task
    id: TaskId,
    /// Go on until the task has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this attempt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    attempt: Option<i32>,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "LINES", conflicts_with = "follow")]
    tail: Option<usize>,
    /// With the time of each line
    #[arg(long, short)]
    timestamps: bool,
}

impl LogsArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let query = LogQuery { attempt: self.attempt, ..LogQuery::default() };
        let mut printer = Printer::new(output, self.timestamps);
        if self.follow {
            follow(client, self.id, &query, &mut printer).await?;
        } else if let Some(lines) = self.tail {
            for entry in tail(client, self.id, &query, lines).await? {
                printer.print(&entry)?;
            }
        } else {
            pages(client, self.id, &query, |entry| printer.print(&entry)).await?;
        }
        Ok(Exit::Done)
    }
}

/// Prints a task's log from its beginning, live, until the task has ended.
///
/// # Errors
/// A [`Failure`] if the task is unknown or the stream cannot go on.
pub(super) async fn follow(
    client: &Client,
    id: TaskId,
    query: &LogQuery,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut items = client.follow_logs(id, query).await?;
    while let Some(item) = items.next().await {
        match item? {
            LogItem::Line(entry) => printer.print(&entry)?,
            LogItem::End => break,
        }
    }
    Ok(())
}

/// The last `lines` lines of a task's log.
///
/// # Errors
/// A [`Failure`] if the task is unknown.
pub(super) async fn tail(
    client: &Client,
    id: TaskId,
    query: &LogQuery,
    lines: usize,
) -> Result<VecDeque<LogEntry>, Failure> {
    let mut last = VecDeque::new();
    pages(client, id, query, |entry| {
        last.push_back(entry);
        if last.len() > lines {
            last.pop_front();
        }
        Ok(())
    })
    .await?;
    Ok(last)
}

async fn pages(
    client: &Client,
    id: TaskId,
    query: &LogQuery,
    mut each: impl FnMut(LogEntry) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut query = LogQuery { limit: Some(limits::PAGE), ..query.clone() };
    loop {
        let page = client.logs(id, &query).await?;
        page.items.into_iter().try_for_each(&mut each)?;
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(()),
        }
    }
}

/// Writes log lines.
pub(super) struct Printer {
    output: Output,
    timestamps: bool,
    attempt: i32,
}

impl Printer {
    /// A printer that has written nothing yet.
    pub(super) fn new(output: Output, timestamps: bool) -> Self {
        Self { output, timestamps, attempt: 1 }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// A [`Failure`] if standard output cannot be written.
    pub(super) fn print(&mut self, entry: &LogEntry) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.output.json_line(entry);
        }
        if entry.attempt != self.attempt {
            self.attempt = entry.attempt;
            self.output.remark(&format!("--- attempt {} ---", entry.attempt));
        }
        let text = escape::line(&entry.text);
        let text = match entry.stream {
            Stream::Stdout => text.into_owned(),
            Stream::Stderr => self.output.paint(Style::Bad, &text),
            Stream::System => self.output.paint(Style::Faint, &format!("[orca] {text}")),
        };
        if self.timestamps {
            let at = self.output.paint(Style::Faint, &format!("{:.3}", entry.at));
            return self.output.line(&format!("{at} {text}"));
        }
        self.output.line(&text)
    }
}
