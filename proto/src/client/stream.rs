//! Live streams: Server-Sent Events that go on where they broke off.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt, stream};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, ClientError, send};
use crate::event::{Event, EventQuery};
use crate::ids::TaskId;
use crate::log::{LogEntry, LogQuery};

/// The event that carries nothing but its id: sent first, and then whenever the stream was quiet for 15 s.
const PING: &str = "ping";
/// After this long without anything the stream is taken as broken.
const SILENCE: Duration = Duration::from_secs(45);
/// Waits between tries to go on.
const RECONNECT: Duration = Duration::from_millis(500);
/// Failed tries in a row before the stream ends with the error.
const TRIES: u32 = 60;

/// Events as they happen. A broken connection is taken up again after the last event; the error comes after a minute
/// of vain tries.
pub struct EventStream(Pin<Box<dyn Stream<Item = Result<Event, ClientError>> + Send>>);

impl Stream for EventStream {
    type Item = Result<Event, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

/// One thing on a log stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    /// A line.
    Line(Box<LogEntry>),
    /// The task has ended and all its lines were sent.
    End,
}

/// Log lines as they arrive, and [`LogItem::End`] last.
pub struct LogStream(Pin<Box<dyn Stream<Item = Result<LogItem, ClientError>> + Send>>);

impl Stream for LogStream {
    type Item = Result<LogItem, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Client {
    /// What happens from now on (or, with `replay`, from the beginning of what is kept). Resolves once connected.
    ///
    /// # Errors
    /// Any [`ClientError`] of the first connection.
    pub async fn events(&self, query: &EventQuery) -> Result<EventStream, ClientError> {
        let messages = self.messages("/v1/events".into(), query.clone()).await?;
        Ok(EventStream(Box::pin(messages.map(|message| parse(&message?)))))
    }

    /// A task's log from its beginning, then live, until the task has ended.
    ///
    /// # Errors
    /// Any [`ClientError`] of the first connection.
    pub async fn follow_logs(&self, id: TaskId, query: &LogQuery) -> Result<LogStream, ClientError> {
        let query = LogQuery { follow: Some(true), ..query.clone() };
        let messages = self.messages(format!("/v1/tasks/{id}/logs"), query).await?;
        let mut ended = false;
        let items = messages
            .map(|message| {
                let message = message?;
                if message.event == "end" { Ok(LogItem::End) } else { parse(&message).map(LogItem::Line) }
            })
            .take_while(move |item| {
                let before = !ended;
                ended = matches!(item, Ok(LogItem::End));
                std::future::ready(before)
            });
        Ok(LogStream(Box::pin(items)))
    }

    async fn messages<Q: Serialize + Send + Sync + 'static>(
        &self,
        path: String,
        query: Q,
    ) -> Result<impl Stream<Item = Result<eventsource_stream::Event, ClientError>> + Send + use<Q>, ClientError>
    {
        let first = self.connect(&path, &query, None).await?;
        let state = Follow { client: self.clone(), path, query, open: Some(first), last: None };
        Ok(stream::unfold(Some(state), |state| async {
            let mut state = state?;
            match state.next().await {
                Ok(message) => Some((Ok(message), Some(state))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn connect(
        &self,
        path: &str,
        query: &impl Serialize,
        last: Option<&str>,
    ) -> Result<Messages, ClientError> {
        let mut call =
            self.http.request(Method::GET, self.url(path)).query(query).header("accept", "text/event-stream");
        if let Some(last) = last {
            call = call.header("last-event-id", last);
        }
        let sent =
            tokio::time::timeout(super::CALL, send(call)).await.unwrap_or_else(|_| Err(silent(path)))?;
        Ok(Box::pin(sent.bytes_stream().eventsource().map(|item| item.ok())))
    }
}

/// `None` as an item stands for a broken connection.
type Messages = Pin<Box<dyn Stream<Item = Option<eventsource_stream::Event>> + Send>>;

struct Follow<Q> {
    client: Client,
    path: String,
    query: Q,
    open: Option<Messages>,
    last: Option<String>,
}

impl<Q: Serialize> Follow<Q> {
    async fn next(&mut self) -> Result<eventsource_stream::Event, ClientError> {
        let mut failures = 0;
        loop {
            if let Some(open) = &mut self.open {
                if let Ok(Some(Some(message))) = tokio::time::timeout(SILENCE, open.next()).await {
                    if !message.id.is_empty() {
                        self.last = Some(message.id.clone());
                    }
                    if message.event == PING {
                        continue;
                    }
                    return Ok(message);
                }
                self.open = None;
            }
            match self.client.connect(&self.path, &self.query, self.last.as_deref()).await {
                Ok(open) => self.open = Some(open),
                Err(error) if error.is_transient() && failures < TRIES => {
                    failures += 1;
                    tokio::time::sleep(RECONNECT).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn parse<T: DeserializeOwned>(message: &eventsource_stream::Event) -> Result<T, ClientError> {
    serde_json::from_str(&message.data)
        .map_err(|error| ClientError::Decode { url: "the event stream".into(), why: error.to_string() })
}

fn silent(path: &str) -> ClientError {
    ClientError::Transport { url: path.to_owned(), why: "it took too long".to_owned() }
}
