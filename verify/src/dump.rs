//! The end of a history: what the coordinator says of every task, attempt, log and event.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use orca_proto::client::{Client, ClientError};
use orca_proto::event::EventQuery;
use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::log::LogQuery;
use orca_proto::node::LeaseRef;
use orca_proto::task::TaskFilter;

use crate::history::{Recorder, What};
use crate::node::{Behaviour, patiently};
use crate::system::{NAMESPACES, System};

/// Who writes it.
const WHO: &str = "dump";
/// Requests at a time.
const AT_ONCE: usize = 8;
/// Tries of each.
const TRIES: u32 = 5;
/// The stream of what was is over when nothing more came for so long.
const SILENCE: Duration = Duration::from_millis(1_500);

/// Writes all of it.
///
/// # Errors
/// If the coordinators do not answer.
pub(crate) async fn write(system: &System, recorder: &Recorder) -> Result<()> {
    recorder.note(WHO, What::Questions);
    for namespace in NAMESPACES {
        let clients = system.operator(namespace, 0)?;
        let client = clients.current();
        let ids = all(client).await.context("cannot list the tasks")?;
        stream::iter(ids)
            .map(|id| task(client, recorder, namespace, id))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .context("cannot read a task")?;
        events(client, recorder, namespace).await.context("cannot read the events")?;
    }
    Ok(())
}

async fn all(client: &Client) -> Result<Vec<TaskId>, ClientError> {
    let mut filter = TaskFilter { limit: Some(500), ..TaskFilter::default() };
    let mut ids = Vec::new();
    loop {
        let page =
            Client::with_retries(TRIES, async || patiently(Duration::ZERO, client.tasks(&filter)).await)
                .await?;
        ids.extend(page.items.iter().map(|summary| summary.id));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return Ok(ids);
        }
    }
}

async fn task(client: &Client, recorder: &Recorder, namespace: &str, id: TaskId) -> Result<(), ClientError> {
    let task = Client::with_retries(TRIES, async || patiently(Duration::ZERO, client.task(id)).await).await?;
    let behaviour: Behaviour = serde_json::from_value(task.spec.input.clone()).unwrap_or_default();
    let talks = behaviour.lines > 0 || behaviour.afterwards;
    let tokens: Vec<FencingToken> = task.attempts.iter().map(|attempt| attempt.token).collect();
    recorder.note(WHO, What::Task { namespace: namespace.to_owned(), task: Box::new(task) });
    if talks {
        logs(client, recorder, id, &tokens).await?;
    }
    Ok(())
}

async fn logs(
    client: &Client,
    recorder: &Recorder,
    id: TaskId,
    tokens: &[FencingToken],
) -> Result<(), ClientError> {
    let mut by_token: BTreeMap<FencingToken, Vec<(i64, String)>> =
        tokens.iter().map(|token| (*token, Vec::new())).collect();
    let mut query = LogQuery { limit: Some(500), ..LogQuery::default() };
    loop {
        let page =
            Client::with_retries(TRIES, async || patiently(Duration::ZERO, client.logs(id, &query)).await)
                .await?;
        for entry in page.items {
            by_token.entry(entry.token).or_default().push((entry.seq, entry.text));
        }
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    for (token, lines) in by_token {
        recorder.note(WHO, What::Log { lease: LeaseRef { task: id, token }, lines });
    }
    Ok(())
}

async fn events(client: &Client, recorder: &Recorder, namespace: &str) -> Result<(), ClientError> {
    let query = EventQuery { replay: Some(true), ..EventQuery::default() };
    let mut events = client.events(&query).await?;
    while let Ok(Some(event)) = tokio::time::timeout(SILENCE, events.next()).await {
        recorder.note(WHO, What::Event { namespace: namespace.to_owned(), event: Box::new(event?) });
    }
    Ok(())
}
