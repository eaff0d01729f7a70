//! `orca logs`: what a task's program wrote.

use futures_util::StreamExt;
use orca_proto::client::{Client, LogItem};
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::log::{LogEntry, LogQuery, Stream};

use super::argument;
use crate::error::{Exit, Failure};
use crate::output::{Output, Style, escape};

/// Show a task's log
///
/// Lines of standard output and standard error come in the order they were written, over all attempts.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The task
    #[arg(value_parser = super::id::<TaskId>)]
    id: TaskId,
    /// Go on until the task has ended
    #[arg(long, short)]
    follow: bool,
    /// Only this attempt
    #[arg(long, value_name = "N", value_parser = argument::from_one, allow_hyphen_values = true)]
    attempt: Option<i32>,
    /// Only the last lines, and with --follow all that come after them
    #[arg(long, short = 'n', value_name = "LINES", value_parser = argument::tail, allow_hyphen_values = true)]
    tail: Option<u32>,
    /// With the time of each line
    #[arg(long, short)]
    timestamps: bool,
}

impl LogsArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let query = LogQuery { attempt: self.attempt, tail: self.tail, ..LogQuery::default() };
        let mut printer = Printer::new(output, self.timestamps);
        match self.follow {
            true => follow(client, self.id, &query, &mut printer).await?,
            false => print(client, self.id, &query, &mut printer).await?,
        }
        if !printer.printed && !self.follow {
            self.explain(client, output).await?;
        }
        Ok(Exit::Done)
    }

    /// Says why there was nothing to show.
    async fn explain(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let task = client.task(self.id).await.map_err(|error| Failure::about(error, "task", self.id))?;
        let begun = task.summary.attempt.max(task.attempts.last().map_or(0, |attempt| attempt.number));
        match self.attempt {
            Some(asked) if asked > begun => {
                Err(Failure::new(Exit::NotFound, format!("task {} has no attempt {asked}", self.id))
                    .because(format!("it is {}, and had {begun}", task.summary.state)))
            }
            None if begun == 0 => {
                output.remark(&format!("no log: the task never ran; it is {}", task.summary.state));
                Ok(())
            }
            _ => {
                output.remark("no log: nothing was written");
                Ok(())
            }
        }
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
    let about = |error| Failure::about(error, "task", id);
    let mut items = client.follow_logs(id, query).await.map_err(about)?;
    while let Some(item) = items.next().await {
        match item? {
            LogItem::Line(entry) => printer.print(&entry)?,
            LogItem::End => break,
        }
    }
    Ok(())
}

/// Prints the lines there are.
///
/// # Errors
/// A [`Failure`] if the task is unknown, or its log cannot be read to the end.
pub(super) async fn print(
    client: &Client,
    id: TaskId,
    query: &LogQuery,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut query = LogQuery { limit: Some(limits::PAGE), ..query.clone() };
    loop {
        let page = client.logs(id, &query).await.map_err(|error| Failure::about(error, "task", id))?;
        page.items.iter().try_for_each(|entry| printer.print(entry))?;
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
    /// Whether there was a line.
    printed: bool,
}

impl Printer {
    /// A printer that has written nothing yet.
    pub(super) fn new(output: Output, timestamps: bool) -> Self {
        Self { output, timestamps, attempt: 1, printed: false }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// A [`Failure`] if standard output cannot be written.
    pub(super) fn print(&mut self, entry: &LogEntry) -> Result<(), Failure> {
        self.printed = true;
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
