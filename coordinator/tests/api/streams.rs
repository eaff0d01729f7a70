//! Server-Sent Events: where they begin, that they go on where they broke, and how they end.

use futures_util::StreamExt;
use orca_proto::attempt::Report;
use orca_proto::client::LogItem;
use orca_proto::event::{Event, EventKind, EventQuery};
use orca_proto::log::{LogAppend, LogLine, LogQuery, Stream};
use orca_proto::task::{Outcome, State};
use orca_proto::token::Access;
use reqwest::{Method, Response};

use crate::harness::{SOON, Server, task};

/// One message of a stream, by its fields.
#[derive(Debug, Default, PartialEq)]
struct Message {
    event: String,
    id: String,
    data: String,
}

/// Reads messages off a raw answer.
struct Messages {
    answer: Response,
    text: String,
}

impl Messages {
    async fn open(server: &Server, path: &str, last: Option<&str>) -> Self {
        let mut request = server.operator(Method::GET, path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// The next message; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let mut parsed = Message::default();
                for line in message.lines() {
                    let (field, value) = line.split_once(": ").unwrap_or((line, ""));
                    match field {
                        "event" => parsed.event = value.to_owned(),
                        "id" => parsed.id = value.to_owned(),
                        "data" => parsed.data = value.to_owned(),
                        _ => panic!("an odd line: {line}"),
                    }
                }
                self.text = rest.to_owned();
                return Some(parsed);
            }
            let chunk = tokio::time::timeout(SOON, self.answer.chunk()).await.expect("the stream is silent");
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
        }
    }
}

#[tokio::test]
async fn an_event_stream_begins_with_its_place_and_goes_on_after_the_last_event_received() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    operator.enqueue(&task("before"), None).await.unwrap();
    // An event is shown once no transaction before it is under way, so a stream begun at once could begin before it.
    let mut all = operator.events(&EventQuery { task: None, replay: Some(true) }).await.unwrap();
    assert_eq!(all.next().await.unwrap().unwrap().data.name, "before");
    let mut live = Messages::open(&server, "/v1/events", None).await;
    let ping = live.next().await.unwrap();
    assert_eq!((ping.event.as_str(), ping.data.as_str()), ("ping", "{}"));
    assert!(!ping.id.is_empty());

    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        let id = operator.enqueue(&task(name), None).await.unwrap().summary.id;
        let message = live.next().await.unwrap();
        let event: Event = serde_json::from_str(&message.data).unwrap();
        assert_eq!((event.kind, event.subject, event.data.name.as_str()), (EventKind::State, id, name));
        assert_eq!((message.event.as_str(), &message.id), ("orca.task.state", &event.id));
        assert_eq!(event.data.state, Some(State::Ready));
        ids.push(message.id);
    }
    drop(live);
    let mut resumed = Messages::open(&server, "/v1/events", Some(&ids[0])).await;
    assert_eq!(resumed.next().await.unwrap().id, ids[0]);
    assert_eq!(resumed.next().await.unwrap().id, ids[1]);
    assert_eq!(resumed.next().await.unwrap().id, ids[2]);
    // From the place that the first ping told, nothing that came after it is missed.
    let mut resumed = Messages::open(&server, "/v1/events", Some(&ping.id)).await;
    assert_eq!(resumed.next().await.unwrap().event, "ping");
    assert_eq!(resumed.next().await.unwrap().id, ids[0]);
    server.stop().await;
}

#[tokio::test]
async fn a_replay_begins_at_the_beginning_and_a_task_filter_keeps_to_its_task() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let first = operator.enqueue(&task("first"), None).await.unwrap().summary.id;
    let second = operator.enqueue(&task("second"), None).await.unwrap().summary.id;
    let mut all = operator.events(&EventQuery { task: None, replay: Some(true) }).await.unwrap();
    assert_eq!(all.next().await.unwrap().unwrap().subject, first);
    assert_eq!(all.next().await.unwrap().unwrap().subject, second);
    let mut one = operator.events(&EventQuery { task: Some(second), replay: Some(true) }).await.unwrap();
    assert_eq!(one.next().await.unwrap().unwrap().subject, second);
    let wrong = server.operator(Method::GET, "/v1/events").header("last-event-id", "x").send().await.unwrap();
    assert_eq!(wrong.status(), 400);
    server.stop().await;
}

#[tokio::test]
async fn followed_logs_come_line_by_line_can_be_resumed_and_end_with_the_task() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let id = operator.enqueue(&task("t"), None).await.unwrap().summary.id;
    let path = format!("/v1/tasks/{id}/logs?follow=true");
    let mut live = Messages::open(&server, &path, None).await;
    assert_eq!(live.next().await.unwrap().event, "ping");

    let worker = server.worker().await;
    let (_, lease) = worker.take().await;
    let mut ids = Vec::new();
    for seq in 0..3 {
        let line =
            LogLine { seq, stream: Stream::Stdout, at: jiff::Timestamp::now(), text: format!("line {seq}") };
        worker.client.append_logs(lease, &LogAppend { lines: vec![line] }).await.unwrap();
        let message = live.next().await.unwrap();
        assert_eq!(message.event, "log");
        assert!(message.data.contains(&format!("line {seq}")), "{message:?}");
        ids.push(message.id);
    }
    let report = Report { outcome: Outcome::Succeeded, result: None, plan: None };
    worker.client.report(lease, &report).await.unwrap();
    assert_eq!(live.next().await.unwrap().event, "end");
    assert_eq!(live.next().await, None);

    let mut resumed = Messages::open(&server, &path, Some(&ids[1])).await;
    assert_eq!(resumed.next().await.unwrap().event, "ping");
    assert_eq!(resumed.next().await.unwrap().id, ids[2]);
    assert_eq!(resumed.next().await.unwrap().event, "end");
    let whole: Vec<_> = operator.follow_logs(id, &LogQuery::default()).await.unwrap().collect().await;
    assert_eq!(whole.len(), 4);
    assert!(matches!(whole.last(), Some(Ok(LogItem::End))));
    server.stop().await;
}

#[tokio::test]
async fn streams_end_when_the_server_goes_down() {
    let server = Server::start().await;
    let id = server.client(Access::Operator).enqueue(&task("t"), None).await.unwrap().summary.id;
    let mut events = Messages::open(&server, "/v1/events", None).await;
    let mut logs = Messages::open(&server, &format!("/v1/tasks/{id}/logs?follow=true"), None).await;
    assert_eq!(events.next().await.unwrap().event, "ping");
    assert_eq!(logs.next().await.unwrap().event, "ping");
    server.shutdown.cancel();
    // What was under way may still come; then they end.
    while events.next().await.is_some() {}
    while logs.next().await.is_some() {}
    server.stop().await;
}
