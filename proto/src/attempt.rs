//! What a node says to the coordinator about one attempt that it holds the lease of.
//!
//! All paths are below `/v1/tasks/{task}/attempts/{token}/`. A token that is not the task's newest, or whose lease has run
//! out, is answered 409 `lease-lost` and changes nothing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::Artifact;
use crate::ids::TaskId;
use crate::plan::Plan;
use crate::spec::NewTask;
use crate::task::{Outcome, State};

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
