//! `orca queues`: what is in line, and how it is served.

use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::limits;
use orca_proto::queue::{Group, Paused, Queue, QueueSettings, Rate};

use crate::error::{Exit, Failure};
use crate::output::table::{Rows, text};
use crate::output::{Output, count, time};

/// List queues, or show one with its groups
#[derive(Debug, clap::Args)]
pub(crate) struct QueuesArgs {
    /// Only this one, with its groups
    queue: Option<String>,
}

impl QueuesArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        if let Some(name) = &self.queue {
            let queue = client.queue(name).await.map_err(|error| Failure::about(error, "queue", name))?;
            show(&queue, output)?;
            return Ok(Exit::Done);
        }
        let page = client.queues().await?;
        if output.is_json() {
            output.json(&page)?;
        } else {
            queues(&page.items, output)?;
        }
        Ok(Exit::Done)
    }
}

/// Writes one queue, and its groups if it has some.
pub(super) fn show(queue: &Queue, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(queue);
    }
    queues(std::slice::from_ref(queue), output)?;
    if queue.groups.is_empty() {
        return Ok(());
    }
    output.line("")?;
    groups(&queue.groups, output)
}

fn queues(queues: &[Queue], output: Output) -> Result<(), Failure> {
    let columns = ["QUEUE", "READY", "RUNNING", "GROUPS", "RATE", "AGEING", "NOTE"];
    let mut rows = Rows::new(output, &columns);
    for Queue { name, settings, paused, ready, running, groups, created: _ } in queues {
        rows.add(vec![
            text(name),
            text(waiting(*ready)),
            text(of(*running, settings.max_running)),
            text(groups.len().to_string()),
            text(rate(settings.rate)),
            text(settings.ageing.unwrap_or(QueueSettings::AGEING).to_string()),
            text(note(paused.as_ref())),
        ]);
    }
    rows.print("no queues: a queue is there once a task or a setting names it")
}

/// Writes groups.
pub(super) fn groups(groups: &[Group], output: Output) -> Result<(), Failure> {
    let mut rows = Rows::new(output, &["GROUP", "READY", "RUNNING", "WEIGHT", "RATE", "NOTE"]);
    for Group { name, settings, paused, ready, running, created: _ } in groups {
        rows.add(vec![
            text(name),
            text(waiting(*ready)),
            text(of(*running, settings.max_running)),
            text(settings.weight.to_string()),
            text(rate(settings.rate)),
            text(note(paused.as_ref())),
        ]);
    }
    rows.print("no groups")
}

fn of(running: u64, max_running: Option<u32>) -> String {
    match max_running {
        Some(max) => format!("{} of {}", count(running), count(u64::from(max))),
        None => count(running),
    }
}

fn rate(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "-".to_owned(), |Rate { tasks, per }| format!("{}/{per}", count(u64::from(tasks))))
}

/// That something is paused, since when, by whom and why.
pub(super) fn note(paused: Option<&Paused>) -> String {
    let Some(Paused { at, by, reason }) = paused else { return String::new() };
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("paused {} by {by}{reason}", time::relative(*at, Timestamp::now()))
}

fn waiting(ready: u64) -> String {
    if ready > limits::COUNTED { format!("about {}", count(ready)) } else { count(ready) }
}
