//! What the coordinator says of a task: its state, its attempts, how they ended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::approval::Decided;
use crate::ids::{FencingToken, NodeId, TaskId};
use crate::signal::Arrived;
use crate::spec::{NewTask, Role};

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Where a task is in its life.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
        #[serde(rename_all = "snake_case")]
        pub enum State {
            $($(#[$doc])* $name,)*
        }

        impl State {
            /// Every state, in the order of a task's life.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

states! {
    /// Waits for its dependencies.
    Blocked = "blocked",
    /// Waits for a time: `run_at`, or the backoff before another attempt.
    Scheduled = "scheduled",
    /// Waits for a node.
    Ready = "ready",
    /// A node holds its lease.
    Running = "running",
    /// Its own program has ended; the tasks under it have not.
    Waiting = "waiting",
    /// Ended, with a result.
    Succeeded = "succeeded",
    /// Ended, after its last attempt did not succeed, or because a task under it did not.
    Failed = "failed",
    /// Ended by request.
    Cancelled = "cancelled",
    /// Ended, because no node took it in time.
    Expired = "expired",
    /// Ended without a start, because a dependency did not succeed.
    Skipped = "skipped",
}

impl State {
    /// Whether nothing can happen to the task any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired | Self::Skipped)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

/// A text that names no [`State`].
#[derive(Debug, thiserror::Error)]
#[error(
    "not a state; one of blocked, scheduled, ready, running, waiting, succeeded, failed, cancelled, expired, skipped"
)]
pub struct UnknownState;

/// How an attempt ended. Never confused with one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// The program exited with 0 and the agent reported it.
    Succeeded,
    /// The program exited by itself with another code, or did not do what its role asks (a planner without a plan).
    Failed {
        /// 0 where the code was not the reason.
        exit_code: i32,
        /// Why, where the exit code does not say it all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A time limit was reached.
    TimedOut {
        /// Which.
        which: Timeout,
    },
    /// The kernel killed it for going over its memory.
    OutOfMemory,
    /// A signal that Orca did not send ended it.
    Killed {
        /// Its number, such as 9 or 11.
        signal: i32,
    },
    /// Its node stopped renewing the lease, or went away with it.
    Lost,
    /// Ended by request.
    Cancelled,
    /// It cannot run anywhere as it is: no such image, an invalid spec, a wish that the node does not grant.
    Rejected {
        /// Why.
        reason: String,
    },
    /// The container engine failed, not the task.
    RuntimeError {
        /// What the engine said.
        reason: String,
    },
}

impl Outcome {
    /// Its name on the wire, such as `out_of_memory`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::TimedOut { .. } => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::Killed { .. } => "killed",
            Self::Lost => "lost",
            Self::Cancelled => "cancelled",
            Self::Rejected { .. } => "rejected",
            Self::RuntimeError { .. } => "runtime_error",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed { exit_code, reason: None } => write!(f, "exited with code {exit_code}"),
            Self::Failed { exit_code: 0, reason: Some(reason) } => f.write_str(reason),
            Self::Failed { exit_code, reason: Some(reason) } => {
                write!(f, "exited with code {exit_code}: {reason}")
            }
            Self::TimedOut { which } => write!(f, "reached its {} limit", which.as_str()),
            Self::OutOfMemory => f.write_str("ran out of memory"),
            Self::Killed { signal } => write!(f, "was killed by signal {signal}"),
            Self::Lost => f.write_str("was lost with its node"),
            Self::Cancelled => f.write_str("was cancelled"),
            Self::Rejected { reason } => write!(f, "was rejected: {reason}"),
            Self::RuntimeError { reason } => write!(f, "could not be run by the engine: {reason}"),
        }
    }
}

/// A time limit of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Timeout {
    /// `timeouts.start_to_close`.
    StartToClose,
    /// `timeouts.heartbeat`.
    Heartbeat,
    /// `deadline`. Not tried again.
    Deadline,
}

impl Timeout {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StartToClose => "start_to_close",
            Self::Heartbeat => "heartbeat",
            Self::Deadline => "deadline",
        }
    }
}

/// Which part of a goal a planner's container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Turns the goal into a plan.
    Plan,
    /// Turns the results of the plan's tasks into the goal's result, or plans again.
    Finish,
}

/// A task as a list shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskSummary {
    /// Its id.
    pub id: TaskId,
    /// Its name for people.
    pub name: String,
    /// Its key in its plan or batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who runs it.
    pub role: Role,
    /// For planners' tasks, which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The goal or task that it is under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Its queue.
    pub queue: String,
    /// Its group in that queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its priority.
    pub priority: i16,
    /// Where it is in its life.
    pub state: State,
    /// Why it is in that state, in a few words, where the state does not say it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether somebody asked to cancel it.
    #[serde(default)]
    pub cancel_requested: bool,
    /// Attempts begun so far.
    pub attempt: i32,
    /// Attempts it may have.
    pub max_attempts: i32,
    /// How the latest attempt that ended did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What the running attempt last said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The tasks directly under it, by state; absent where there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub children: BTreeMap<State, i64>,
    /// When it was enqueued.
    pub created_at: Timestamp,
    /// When it is due, while `scheduled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// By when it must have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The name of the schedule that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// What it still waits for, while `blocked`: names of signals, and `approval`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// When its first attempt was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it reached a terminal state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A task with everything there is to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Task {
    /// What a list shows.
    pub summary: TaskSummary,
    /// What was asked for; fields that have their default are left out.
    pub spec: NewTask,
    /// The tasks it depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<TaskId>,
    /// The result, once `succeeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Its attempts, oldest first; the newest 100.
    pub attempts: Vec<Attempt>,
    /// The task that this one tries again, where somebody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// What was decided, where it waited for an approval and somebody answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Decided>,
    /// The signals among those that it waited for that have come, first come first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<Arrived>,
    /// The tasks that try this one again, newest first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retried_as: Vec<TaskId>,
}

/// One execution under one lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// Its number, from 1. A grant that ended in `runtime_error` or before its start does not use the number up.
    pub number: i32,
    /// Its fencing token; unlike the number, new with every grant.
    pub token: FencingToken,
    /// The node that held the lease.
    pub node: NodeId,
    /// That node's name.
    pub node_name: String,
    /// When the lease was granted.
    pub granted_at: Timestamp,
    /// When the program was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Exactly which image it ran: `NAME@sha256:…` where a registry knows it, else the engine's own `sha256:…`. Known once the
    /// program was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What a program says of how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// A few words; at most 1,024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a request to cancel is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Cancellation {
    /// Why, for whoever looks later; at most 1,024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The filters of `GET /v1/tasks`; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields, default)]
pub struct TaskFilter {
    /// Any of these states, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// This queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// This group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// This role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Directly under this task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// `true`: only tasks under no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<bool>,
    /// Exactly this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// This label, as `key=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Tasks per page; 1 to 500, 50 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
