//! Logs of a task: a page, or live.

use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use orca_proto::ids::TaskId;
use orca_proto::log::{LogEntry, LogQuery};
use orca_proto::page::Page;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::auth::OperatorAuth;
use super::extract::{Json, LastEventId, Path, Query};
use super::refusal::Refusal;
use super::sse;
use crate::app::{App, Error, Principal, log_cursor};

/// Read a task's log
///
/// A page of lines, oldest first over all attempts. With `follow=true`, Server-Sent Events instead: a `ping`, then one
/// `log` event per line with its cursor as the id, and `end` once the task has ended and every line was sent.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/logs",
    tag = "tasks",
    operation_id = "read_logs",
    params(
        ("id" = TaskId, Path, description = "The task's id."),
        LogQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "With `follow`: the id of the last line received."),
    ),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "Lines", content(
        (Page<LogEntry> = "application/json"),
        (String = "text/event-stream"),
    ))),
)]
pub(super) async fn read(
    OperatorAuth(who): OperatorAuth,
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<LogQuery>,
    LastEventId(last): LastEventId,
) -> Result<Response, Refusal> {
    if query.follow != Some(true) {
        let page: Json<Page<LogEntry>> = Json(api.app.log_page(&who, id, &query).await?);
        return Ok(page.into_response());
    }
    let query = LogQuery { cursor: last.or_else(|| query.cursor.clone()), follow: None, ..query };
    // The first look tells a wrong id or cursor while there still is a status to tell it with.
    api.app.log_page(&who, id, &query).await?;
    let held = sse::hold(&api, &who, "logs")?;
    let follower = Follower { app: api.app, who, id, query, shutdown: api.shutdown, _held: held };
    Ok(sse::answer(follower.stream()))
}

struct Follower {
    app: App,
    who: Principal,
    id: TaskId,
    query: LogQuery,
    shutdown: CancellationToken,
    _held: sse::Place,
}

impl Follower {
    fn stream(mut self) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
        async_stream::stream! {
            yield Ok(sse::ping(self.query.cursor.as_deref()));
            let mut last_sent = tokio::time::Instant::now();
            while !self.shutdown.is_cancelled() {
                // Begun before the look, so that what is stored during it is not slept through.
                let app = self.app.clone();
                let changed = app.log_changed(self.id);
                tokio::pin!(changed);
                let missed = futures_util::poll!(&mut changed).is_ready();

                let (ended, lines) = match self.look().await {
                    Ok(look) => look,
                    Err(error) => {
                        tracing::warn!(%error, "a log stream ends early; its client will come again");
                        return;
                    }
                };
                let empty = lines.is_empty();
                for line in lines {
                    let cursor = log_cursor(&line);
                    last_sent = tokio::time::Instant::now();
                    yield Ok(sse::event("log", &cursor, &line));
                    self.query.cursor = Some(cursor);
                }
                if !empty {
                    continue;
                }
                if ended {
                    yield Ok(Event::default().event("end").data("{}"));
                    return;
                }
                if last_sent.elapsed() >= sse::QUIET {
                    last_sent = tokio::time::Instant::now();
                    yield Ok(sse::ping(self.query.cursor.as_deref()));
                }
                if !missed {
                    tokio::select! {
                        () = &mut changed => {}
                        () = tokio::time::sleep_until(last_sent + sse::QUIET) => {}
                        () = self.shutdown.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Whether the task had ended, and then the next lines: none after an end means that none will come.
    async fn look(&self) -> Result<(bool, Vec<LogEntry>), Error> {
        let ended = self.app.task_ended(&self.who, self.id).await?;
        let page = self.app.log_page(&self.who, self.id, &self.query).await?;
        Ok((ended, page.items))
    }
}
