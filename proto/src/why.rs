//! Why a task is not running (or is not over): the very conditions that dispatch decides by, each with its facts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::TaskId;
use crate::task::State;

/// `GET /v1/tasks/{id}/why`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Why {
    /// The task.
    pub task: TaskId,
    /// Where it is in its life.
    pub state: State,
    /// The answer in one sentence, for people.
    pub summary: String,
    /// What was looked at; those that block come first.
    pub conditions: Vec<Condition>,
    /// Tasks that go before it, where it is in line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// Names of live nodes that could take it; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eligible_nodes: Vec<String>,
}

/// One thing that must hold before the task can run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Condition {
    /// Which.
    pub kind: ConditionKind,
    /// Whether it keeps the task from running now.
    pub blocks: bool,
    /// One sentence with the facts, for people.
    pub message: String,
    /// The facts, for programs; which ones follows from the kind.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub facts: serde_json::Map<String, Value>,
}

macro_rules! condition_kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The kinds of [`Condition`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum ConditionKind {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
            /// A kind that this version does not know.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl ConditionKind {
            /// Every kind that this version sends.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Unknown => "unknown" }
            }
        }
    };
}

condition_kinds! {
    /// A task that must succeed first has not.
    Dependency = "dependency",
    /// Nobody has approved it.
    Approval = "approval",
    /// A signal has not arrived.
    Signal = "signal",
    /// Its time has not come.
    Due = "due",
    /// The wait before another attempt is not over.
    Backoff = "backoff",
    /// Somebody paused its queue.
    QueuePaused = "queue_paused",
    /// Somebody paused its group.
    GroupPaused = "group_paused",
    /// Its queue runs as many tasks as it may.
    QueueLimit = "queue_limit",
    /// Its group runs as many tasks as it may.
    GroupLimit = "group_limit",
    /// Its queue began as many tasks lately as it may.
    QueueRate = "queue_rate",
    /// Its group began as many tasks lately as it may.
    GroupRate = "group_rate",
    /// Its namespace runs as many tasks as it may.
    NamespaceLimit = "namespace_limit",
    /// No node for its role is alive and takes work.
    NoNode = "no_node",
    /// Nodes for its role are alive and take no work: cordoned, draining or unwell. Never blocks by itself.
    NodesOutOfService = "nodes_out_of_service",
    /// No live node has the labels that it requires.
    NodeLabels = "node_labels",
    /// No live node has the processors and memory free that it needs.
    NodeResources = "node_resources",
    /// No live node has a slot free.
    NodeSlots = "node_slots",
    /// No live node serves its queue.
    NodeQueues = "node_queues",
    /// It is still kept for the nodes that it prefers.
    Prefers = "prefers",
    /// Other tasks go before it.
    BehindOthers = "behind_others",
    /// A node holds it: which, since when, until when its lease lasts.
    HeldBy = "held_by",
    /// Tasks under it have not ended.
    Children = "children",
    /// Somebody asked to cancel it.
    CancelRequested = "cancel_requested",
    /// It has ended: how, and when.
    Ended = "ended",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_written_as_it_is_told_and_one_of_a_later_version_is_still_read() {
        for kind in ConditionKind::ALL {
            let text = serde_json::to_string(kind).unwrap();
            assert_eq!(text, format!("\"{}\"", kind.as_str()));
            assert_eq!(serde_json::from_str::<ConditionKind>(&text).unwrap(), *kind);
        }
        assert_eq!(
            serde_json::from_str::<ConditionKind>("\"phase_of_moon\"").unwrap(),
            ConditionKind::Unknown
        );
    }
}
