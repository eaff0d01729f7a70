//! What the queues of one namespace have running, and what is left of their rates.

use std::collections::HashMap;

use super::lane::Flow;
use super::rate::Bucket;

/// Everything in use in one namespace. What is not named here runs nothing and has begun nothing lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Tasks of the namespace that a node holds.
    pub(crate) running: u64,
    /// By name.
    pub(crate) queues: HashMap<String, QueueUsage>,
}

/// One queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueUsage {
    /// Tasks of the queue that a node holds.
    pub(crate) running: u64,
    /// What is left of its rate, where it has one.
    pub(crate) bucket: Bucket,
    /// By name.
    pub(crate) groups: HashMap<String, GroupUsage>,
}

/// One group of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GroupUsage {
    /// Tasks of the group that a node holds.
    pub(crate) running: u64,
    /// What is left of its rate, where it has one.
    pub(crate) bucket: Bucket,
}

impl Usage {
    /// The flow's group; none for tasks without a group, or where it never ran anything.
    pub(crate) fn group(&self, flow: &Flow) -> Option<&GroupUsage> {
        self.queues.get(flow.queue())?.groups.get(flow.group()?)
    }
}
