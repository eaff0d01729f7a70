//! What happened, in order: the body of the Server-Sent Events of `GET /v1/events`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{FencingToken, NodeId, TaskId};
use crate::task::{Outcome, Progress, State};

/// One thing that happened, as a CloudEvents 1.0 event in JSON: the SSE `data`. The SSE `event` is its `type`, the SSE
/// `id` its `id`, which `Last-Event-ID` takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Always `1.0`.
    pub specversion: String,
    /// Its place in the stream; opaque, but later events sort later for the server.
    pub id: String,
    /// Always `/v1/tasks`.
    pub source: String,
    /// Such as `orca.task.state`.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The task's id.
    pub subject: TaskId,
    /// When it happened, by the database's clock.
    pub time: Timestamp,
    /// What happened.
    pub data: EventData,
}

/// The kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EventKind {
    /// A task entered a state; also its enqueueing, with its first state.
    #[serde(rename = "orca.task.state")]
    State,
    /// A running attempt said how far it is.
    #[serde(rename = "orca.task.progress")]
    Progress,
    /// An attempt ended.
    #[serde(rename = "orca.attempt.ended")]
    AttemptEnded,
    /// Somebody asked to cancel a task.
    #[serde(rename = "orca.task.cancel_requested")]
    CancelRequested,
}

impl EventKind {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State => "orca.task.state",
            Self::Progress => "orca.task.progress",
            Self::AttemptEnded => "orca.attempt.ended",
            Self::CancelRequested => "orca.task.cancel_requested",
        }
    }
}

/// The details of an event; which fields are there follows from its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventData {
    /// The task's name for people.
    #[serde(default)]
    pub name: String,
    /// The task it is under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// The state entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The attempt's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// The attempt's fencing token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<FencingToken>,
    /// The node that holds or held the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// How the attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// The query of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields, default)]
pub struct EventQuery {
    /// Only this task and the tasks directly under it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// From the beginning of what is kept, instead of from now. `Last-Event-ID` goes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<bool>,
}
