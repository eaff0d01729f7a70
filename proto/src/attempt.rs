//! What a node says to the coordinator about one attempt that it holds the lease of.
//!
//! All paths but one are below `/v1/tasks/{task}/attempts/{token}/`; [`Reports`] settle many attempts at once. A token that is not the task's newest, or whose lease has run
//! out, is answered 409 `lease-lost` and changes nothing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::Artifact;
use crate::duration::Span;
use crate::ids::{FencingToken, InstanceId, TaskId};
use crate::node::LeaseRef;
use crate::plan::Plan;
use crate::problem;
use crate::spec::NewTask;
use crate::task::{Outcome, State};

/// What there is to tell of an attempt whose program was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AttemptStart {
    /// Exactly which image it runs: `NAME@sha256:…` where a registry knows it, else the engine's own `sha256:…`; at most 1,024
    /// bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// How an attempt ended: the one message that settles it. Sending the same again answers the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What the program returned, with `succeeded`; at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// What a planner's program returned, with `succeeded`. A plan and a result together are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// What the report made of the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reported {
    /// The task's state after it.
    pub state: State,
}

/// How many attempts ended: `POST /v1/nodes/{id}/reports`. Each is settled or refused by itself; one that is refused
/// changes nothing for the others. Plans go by [`Report`].
///
/// Generic over the results' form, so that text can be passed on without parsing it
/// (`Box<serde_json::value::RawValue>`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Reports<S = Value> {
    /// The daemon's run.
    pub instance: InstanceId,
    /// 1 to 1,024; a lease at most once.
    pub reports: Vec<AttemptReport<S>>,
}

/// How one of them ended. Sending the same again answers the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AttemptReport<S = Value> {
    /// The task.
    pub task: TaskId,
    /// The fencing token.
    pub token: FencingToken,
    /// How it ended.
    pub outcome: Outcome,
    /// What the program returned, with `succeeded`; at most 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<S>,
}

impl<S> AttemptReport<S> {
    /// The lease that it settles.
    #[must_use]
    pub const fn lease(&self) -> LeaseRef {
        LeaseRef { task: self.task, token: self.token }
    }
}

/// What became of [`Reports`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportsSettled {
    /// One for each report, in the same order.
    pub settled: Vec<Settled>,
}

/// What became of one of [`Reports`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// It is recorded; the task's state after it.
    State(State),
    /// It changed nothing, and never will.
    Refused(Refused),
}

/// Why a report was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Refused {
    /// For programs.
    pub kind: RefusedKind,
    /// For people.
    pub detail: String,
}

/// The ways in which a report can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RefusedKind {
    /// The token is not the task's newest, or its lease has run out.
    LeaseLost,
    /// Another report was already recorded for this token.
    ResultConflict,
    /// A field is not valid.
    Validation,
}

impl From<RefusedKind> for problem::Kind {
    fn from(kind: RefusedKind) -> Self {
        match kind {
            RefusedKind::LeaseLost => Self::LeaseLost,
            RefusedKind::ResultConflict => Self::ResultConflict,
            RefusedKind::Validation => Self::Validation,
        }
    }
}

/// How long to wait for a signal: the query of `GET …/signals/{name}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields, default)]
pub struct SignalQuery {
    /// At most 60 s; not at all unless told.
    pub wait: Span,
}

/// A signal that has arrived; 204 stands for none yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// What came with it.
    #[serde(default)]
    pub payload: Value,
}

/// Tasks that a running program spawns. The spawning task ends only when they have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Children {
    /// Makes a repeated request harmless: the same key in the same attempt answers the same ids.
    pub idempotency_key: String,
    /// 1 to 10,000.
    pub tasks: Vec<NewTask>,
}

/// What a task finds of the tasks it depended on; for a finish step, of all the plan's tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Dependencies {
    /// In the order they were enqueued.
    pub tasks: Vec<Dependency>,
}

/// One dependency that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// Its id.
    pub id: TaskId,
    /// Its key in the plan or batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub state: State,
    /// Why, when not `succeeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its result, when `succeeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The artifacts that its successful attempt kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}
