//! What operators have set for the queues of one namespace.

use std::collections::HashMap;

use orca_proto::queue::{GroupSettings, Paused, QueueSettings};

use super::lane::Flow;

/// Everything set in one namespace. What is not named here has its defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Most tasks of the namespace that run at once.
    pub(crate) max_running: Option<u32>,
    /// By name.
    pub(crate) queues: HashMap<String, QueueRules>,
}

/// One queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueRules {
    /// Its limits and its ageing.
    pub(crate) settings: QueueSettings,
    /// Present while it is paused.
    pub(crate) paused: Option<Paused>,
    /// By name.
    pub(crate) groups: HashMap<String, GroupRules>,
}

/// One group of a queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupRules {
    /// Its weight and its limits.
    pub(crate) settings: GroupSettings,
    /// Present while it is paused.
    pub(crate) paused: Option<Paused>,
}

impl Settings {
    /// Whether anything here depends on what runs: a limit or a rate.
    pub(crate) fn is_bounded(&self) -> bool {
        let queue =
            |rules: &QueueRules| rules.is_bounded() || rules.groups.values().any(GroupRules::is_bounded);
        self.max_running.is_some() || self.queues.values().any(queue)
    }

    /// Whether tasks of this flow are bound by what runs or began lately.
    pub(crate) fn bounds(&self, flow: &Flow) -> bool {
        self.max_running.is_some()
            || self.queues.get(flow.queue()).is_some_and(QueueRules::is_bounded)
            || self.group(flow).is_some_and(GroupRules::is_bounded)
    }

    /// Whether there is any rate.
    pub(crate) fn has_rates(&self) -> bool {
        let queue = |rules: &QueueRules| {
            rules.settings.rate.is_some() || rules.groups.values().any(|group| group.settings.rate.is_some())
        };
        self.queues.values().any(queue)
    }

    /// What was set for the flow's group; none for tasks without a group.
    pub(crate) fn group(&self, flow: &Flow) -> Option<&GroupRules> {
        self.queues.get(flow.queue())?.group(flow)
    }

    /// The time in line, in microseconds, that counts as one level of priority in `queue`; 0 if none does.
    pub(crate) fn ageing_us(&self, queue: &str) -> i64 {
        let set = self.queues.get(queue).and_then(|rules| rules.settings.ageing);
        set.unwrap_or(QueueSettings::AGEING).as_millis().saturating_mul(1_000)
    }
}

impl GroupRules {
    fn is_bounded(&self) -> bool {
        self.settings.max_running.is_some() || self.settings.rate.is_some()
    }
}

impl QueueRules {
    fn is_bounded(&self) -> bool {
        self.settings.max_running.is_some() || self.settings.rate.is_some()
    }

    /// What was set for the group of a flow of this queue; none for tasks without a group.
    pub(crate) fn group(&self, flow: &Flow) -> Option<&GroupRules> {
        self.groups.get(flow.group()?)
    }
}
