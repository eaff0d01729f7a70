//! What a node and the coordinator say to each other about the node itself: register, claim, renew.
//!
//! A node never needs the coordinator's clock: leases travel as durations from the moment of the answer, and a node counts
//! them from the moment it *sent* the request, so it always gives up first.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::duration::Span;
use crate::ids::{FencingToken, InstanceId, NodeId, TaskId};
use crate::quantity::Bytes;
use crate::queue::Paused;
use crate::spec::{NewTask, Role};
use crate::task::Step;

/// A daemon makes itself known. Doing so again with the same name and instance changes nothing but the details; with
/// another instance, the daemon of that name is taken to have died: its leases end at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Unique in the namespace. Letters, digits, `.`, `_`, `-`; at most 128 bytes.
    pub name: String,
    /// This run of the daemon.
    pub instance: InstanceId,
    /// Where it keeps its files, the same for every run there: while a daemon of another place is alive under the name, it is
    /// refused. Any run takes the name over where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Uuid>,
    /// Must be what the token allows.
    pub role: Role,
    /// Attempts it can run at once; 1 to 10,000.
    pub slots: u32,
    /// Orca's version.
    pub version: String,
    /// What runs the containers, such as `docker 20.10.24 (API 1.41)` or `process (no isolation)`.
    pub runtime: String,
    /// For people and placement; at most 32.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Processor cores that tasks may use in all; 0.01 to 1,000,000. Not counted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory that tasks may use in all. Not counted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Leases of an earlier run whose containers are still there, and which this run goes on with; at most 10,240. All others
    /// that the node holds run out with the registration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumes: Vec<LeaseRef>,
}

/// The coordinator's answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registered {
    /// The node's id; the same for the same name.
    pub id: NodeId,
    /// How long a lease lasts from a grant or a renewal.
    pub lease: Span,
    /// Those of the leases to be resumed that stand; they were renewed. What became of the others is somebody else's to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<LeaseRef>,
}

/// Asks for work. Answered at once if there is some, else as soon as there is, else with nothing after `wait`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// The daemon's run; a superseded one gets `conflict` and must stop.
    pub instance: InstanceId,
    /// Free slots: the most grants to answer; 1 to 1,024.
    pub slots: u32,
    /// How long to hold the request; at most 60 s.
    pub wait: Span,
    /// Only these queues; all when empty.
    #[serde(default)]
    pub queues: Vec<String>,
    /// What the node has left for tasks: only what fits into it together is granted. Not counted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<Free>,
}

/// What a node has left for tasks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Free {
    /// Processor cores; 0 to 1,000,000.
    pub cpus: f64,
    /// Memory.
    pub memory: Bytes,
}

/// Grants, best first.
///
/// Generic over the spec's form, so that a coordinator can pass on stored text without parsing it
/// (`Box<serde_json::value::RawValue>`), and whoever needs no spec can leave it unread (`serde::de::IgnoredAny`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Claimed<S = NewTask> {
    /// At most as many as asked for; none after a wait in vain.
    pub grants: Vec<Grant<S>>,
}

/// The right to run one attempt of one task until the lease ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Grant<S = NewTask> {
    /// The task.
    pub task: TaskId,
    /// The fencing token of this grant.
    pub token: FencingToken,
    /// The attempt's number, from 1.
    pub attempt: i32,
    /// Attempts in all.
    pub max_attempts: i32,
    /// How long the lease lasts, from the moment the request was sent.
    pub lease: Span,
    /// For planners' tasks, which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The goal or task that it is under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Whether there are results of dependencies (for a finish step: of the plan's tasks) to fetch before the start.
    pub has_dependencies: bool,
    /// How long it is until the task's deadline, from the moment of the answer; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_in: Option<Span>,
    /// What to run.
    pub spec: S,
}

/// Keeps leases alive, and waits for requests to cancel. The leases are renewed when the request arrives; it is answered
/// when one of them is to be cancelled or was lost, or else after `wait`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// The daemon's run.
    pub instance: InstanceId,
    /// The leases held; at most 10,240. None at all still says that the node lives.
    pub leases: Vec<LeaseRef>,
    /// Cancels already known: do not answer early for these.
    #[serde(default)]
    pub cancelling: Vec<LeaseRef>,
    /// How long to hold the request; at most a third of the lease is sensible, and no more is granted.
    pub wait: Span,
    /// Why the node takes no work for now, such as an engine that does not answer; at most 1,024 bytes. Absent when it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwell: Option<String>,
    /// The node takes no more work and will go once its attempts have ended.
    #[serde(default)]
    pub draining: bool,
}

/// One lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LeaseRef {
    /// The task.
    pub task: TaskId,
    /// The fencing token.
    pub token: FencingToken,
}

/// What became of the leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Renewed {
    /// How long the kept leases last, from the moment the request was sent.
    pub lease: Span,
    /// No longer this node's: stop these attempts and report nothing.
    pub lost: Vec<LeaseRef>,
    /// To be cancelled: SIGTERM, the task's grace, SIGKILL, then report `cancelled`.
    pub cancel: Vec<LeaseRef>,
}

/// Labels that nodes give themselves, and that tasks require without naming them. Nobody else can set them.
pub mod labels {
    /// Tasks may ask for an open network.
    pub const OPEN_NETWORK: &str = "orca/open-network";
    /// Tasks may name hosts to reach.
    pub const EGRESS: &str = "orca/egress";
    /// The value that says so.
    pub const YES: &str = "yes";
}

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Heard of within the last lease, takes work.
    Ready,
    /// Heard of, finishes what it has and ends.
    Draining,
    /// An operator has it take no more work; finishes what it has.
    Cordoned,
    /// It takes no work for now, by its own judgement.
    Unwell,
    /// Not heard of for longer than a lease.
    Gone,
}

/// A node as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Whether it takes work.
    pub state: NodeState,
    /// Attempts it can run at once.
    pub slots: u32,
    /// Leases it holds.
    pub running: u32,
    /// Processor cores that its tasks may use in all; absent where they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory that its tasks may use in all; absent where it is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Since when, by whom and why it takes no more work, where an operator said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Paused>,
    /// Why it takes no work for now, where it said so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwell: Option<String>,
    /// Orca's version.
    pub version: String,
    /// What runs its containers.
    pub runtime: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When its name was first registered.
    pub registered_at: Timestamp,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
}
