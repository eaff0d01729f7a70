//! What happens, as it happens: the event stream.

use axum::extract::State;
use axum::response::Response;
use orca_proto::event::EventQuery;
use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::auth::OperatorAuth;
use super::extract::{LastEventId, Query};
use super::refusal::Refusal;
use super::sse;
use crate::app::{App, EventCursor, Principal};

/// Events per look into the database.
const BATCH: u32 = 500;

/// Watch events
///
/// Server-Sent Events: first a `ping` with the current place as its id, then one CloudEvent per event, with its type as
/// the SSE `event` and its id as the SSE `id`; a `ping` whenever 15 s were quiet. `Last-Event-ID` goes on after that event.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    operation_id = "watch_events",
    params(EventQuery, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event received.")),
    security(("bearer" = ["operator"])),
    responses((status = 200, description = "The stream; each `data` is an `Event`", body = String, content_type = "text/event-stream")),
)]
pub(super) async fn watch(
    OperatorAuth(who): OperatorAuth,
    State(api): State<Api>,
    Query(query): Query<EventQuery>,
    LastEventId(last): LastEventId,
) -> Result<Response, Refusal> {
    if let Some(task) = query.task {
        api.app.task_get(&who, task).await?;
    }
    let cursor = match last {
        Some(last) => Some(
            last.parse::<EventCursor>()
                .map_err(|error| Refusal::new(Kind::Malformed, format!("Last-Event-ID is {error}")))?,
        ),
        None if query.replay == Some(true) => None,
        None => Some(api.app.events_head().await?),
    };
    let held = sse::hold(&api, &who, "events")?;
    let watcher =
        Watcher { app: api.app, who, task: query.task, cursor, shutdown: api.shutdown, _held: held };
    Ok(sse::answer(watcher.stream()))
}

struct Watcher {
    app: App,
    who: Principal,
    task: Option<TaskId>,
    cursor: Option<EventCursor>,
    shutdown: CancellationToken,
    _held: sse::Place,
}

impl Watcher {
    fn stream(
        mut self,
    ) -> impl futures_util::Stream<Item = Result<axum::response::sse::Event, std::convert::Infallible>>
    + Send
    + 'static {
        async_stream::stream! {
            yield Ok(sse::ping(self.place().as_deref()));
            let mut last_sent = tokio::time::Instant::now();
            while !self.shutdown.is_cancelled() {
                // Begun before the look, so that what commits during it is not slept through.
                let app = self.app.clone();
                let changed = app.events_changed();
                tokio::pin!(changed);
                let missed = futures_util::poll!(&mut changed).is_ready();

                let look = self.app.events_look(&self.who, self.cursor.as_ref(), self.task, BATCH).await;
                let (events, place) = match look {
                    Ok(look) => look,
                    Err(error) => {
                        tracing::warn!(%error, "an event stream ends early; its client will come again");
                        return;
                    }
                };
                let more = events.len() >= BATCH as usize;
                let quiet = last_sent.elapsed() >= sse::QUIET;
                if !events.is_empty() || quiet {
                    last_sent = tokio::time::Instant::now();
                }
                if events.is_empty() && quiet {
                    yield Ok(sse::ping(Some(&place.to_string())));
                }
                for event in events {
                    yield Ok(sse::event(event.kind.as_str(), &event.id, &event));
                }
                self.cursor = Some(place);
                if !more && !missed {
                    tokio::select! {
                        () = &mut changed => {}
                        () = tokio::time::sleep_until(last_sent + sse::QUIET) => {}
                        () = self.shutdown.cancelled() => {}
                    }
                }
            }
        }
    }

    fn place(&self) -> Option<String> {
        self.cursor.map(|cursor| cursor.to_string())
    }
}
