//! Server-Sent Events: a first `ping` that tells where the stream begins, then events, and a `ping` whenever it was quiet.
//!
//! The ids make a broken stream go on where it broke (`Last-Event-ID`). A client that has heard nothing for three pings
//! may take the stream as dead.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderName;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use orca_proto::problem::Kind;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::Api;
use super::refusal::Refusal;
use super::share::STREAMS;
use crate::app::Principal;
use crate::metrics::Held;

/// After this long without an event the current id is sent again.
pub(super) const QUIET: Duration = Duration::from_secs(15);

/// A stream counts as held, and as one of its principal's, until this is dropped.
pub(super) struct Place {
    _held: Held,
    _own: OwnedSemaphorePermit,
}

/// A place for a stream of this kind.
///
/// # Errors
/// `too-many-requests` if the principal holds as many as it may.
pub(super) fn hold(api: &Api, who: &Principal, kind: &'static str) -> Result<Place, Refusal> {
    let Some(own) = api.shares.stream(who) else {
        let detail = format!("{} has {STREAMS} streams open already; close some", who.subject);
        return Err(Refusal::new(Kind::TooManyRequests, detail));
    };
    Ok(Place { _held: api.metrics.held(kind), _own: own })
}

/// Carries nothing but the id.
pub(super) fn ping(id: Option<&str>) -> Event {
    let event = Event::default().event("ping").data("{}");
    match id {
        Some(id) => event.id(one_line(id)),
        None => event,
    }
}

/// One event with JSON as its data.
pub(super) fn event(kind: &str, id: &str, data: &impl Serialize) -> Event {
    // JSON text never holds a bare line end, and everything on the wire serialises.
    let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".into());
    Event::default().event(one_line(kind)).id(one_line(id)).data(data)
}

/// What the library would panic over cannot be in a server-made id; should it be, it goes.
fn one_line(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// The answer that carries `events`.
pub(super) fn answer(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    ([(HeaderName::from_static("x-accel-buffering"), "no")], Sse::new(events)).into_response()
}
