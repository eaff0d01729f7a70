//! Which lane a task stands in: the one place that says what of a task decides who may take it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use orca_proto::node::labels;
use orca_proto::spec::{Network, NewTask, Role, gpu_label};

use crate::dispatch::{Capacity, Flow, LaneKey};

/// What of a task decides its lane.
#[derive(PartialEq)]
struct Deciding<'a> {
    role: Role,
    queue: &'a str,
    group: Option<&'a str>,
    priority: i16,
    needs: Capacity,
    requires: Cow<'a, BTreeMap<String, String>>,
    prefers: &'a BTreeMap<String, String>,
}

impl<'a> Deciding<'a> {
    fn of(task: &'a NewTask) -> Self {
        // Every field by name: one that is added has to be thought of here.
        let NewTask {
            role,
            queue,
            group,
            priority,
            resources,
            requires,
            prefers,
            key: _,
            name: _,
            run_at: _,
            delay: _,
            deadline: _,
            container: _,
            input: _,
            artifacts: _,
            network,
            retry: _,
            timeouts: _,
            depends_on: _,
            on_dependency_failure: _,
            on_child_failure: _,
            unique: _,
            approval: _,
            wait_for: _,
            labels: _,
            annotations: _,
            secrets: _,
        } = task;
        Self {
            role: *role,
            queue,
            group: group.as_deref(),
            priority: *priority,
            needs: Capacity { millicpus: millicpus(resources.cpus), memory: resources.memory.0 },
            requires: required(requires, network, resources.gpus),
            prefers,
        }
    }
}

/// What a task requires of nodes: what it says, a network if it wants one, as not every node lets a task reach anything, and GPUs
/// if it asks for some.
fn required<'a>(
    said: &'a BTreeMap<String, String>,
    network: &Network,
    gpus: u32,
) -> Cow<'a, BTreeMap<String, String>> {
    let mut requires = Cow::Borrowed(said);
    let label = match network {
        Network::None => None,
        Network::Open => Some(labels::OPEN_NETWORK),
        Network::Egress(_) => Some(labels::EGRESS),
    };
    if let Some(label) = label {
        requires.to_mut().insert(label.to_owned(), labels::YES.to_owned());
    }
    if gpus > 0 {
        requires.to_mut().insert(gpu_label(gpus), "*".to_owned());
    }
    requires
}

/// The lane that a task stands in.
pub(crate) fn lane_of(namespace: &str, task: &NewTask) -> LaneKey {
    let Deciding { role, queue, group, priority, needs, requires, prefers } = Deciding::of(task);
    LaneKey {
        namespace: namespace.to_owned(),
        role,
        flow: Flow::new(queue.to_owned(), group.map(ToOwned::to_owned)),
        priority,
        needs,
        requires: requires.into_owned(),
        prefers: prefers.clone(),
    }
}

/// Whether two tasks of a namespace stand in one lane.
pub(crate) fn same_lane(one: &NewTask, other: &NewTask) -> bool {
    Deciding::of(one) == Deciding::of(other)
}

/// Whether a task of the lane's namespace stands in it.
pub(crate) fn stands_in(task: &NewTask, lane: &LaneKey) -> bool {
    let LaneKey { namespace: _, role, flow, priority, needs, requires, prefers } = lane;
    let (role, priority, needs) = (*role, *priority, *needs);
    let requires = Cow::Borrowed(requires);
    Deciding::of(task)
        == Deciding { role, queue: flow.queue(), group: flow.group(), priority, needs, requires, prefers }
}

/// Cores in thousandths, rounded up: what is granted must fit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be positive and far below the bound; the cast saturates"
)]
pub(crate) fn millicpus(cpus: f64) -> u64 {
    (cpus.max(0.0) * 1_000.0).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_stands_in_its_own_lane_and_in_no_other() {
        let plain = NewTask::new("image");
        let others = [
            NewTask { queue: "b".into(), ..plain.clone() },
            NewTask { group: Some("g".into()), ..plain.clone() },
            NewTask { priority: 1, ..plain.clone() },
            NewTask { role: Role::Plan, ..plain.clone() },
            NewTask { requires: [("a".into(), "b".into())].into(), ..plain.clone() },
            NewTask { prefers: [("a".into(), "b".into())].into(), ..plain.clone() },
            NewTask { network: Network::Open, ..plain.clone() },
        ];
        let lane = lane_of("n", &plain);
        assert!(stands_in(&plain, &lane) && same_lane(&plain, &plain));
        for other in others {
            assert!(!stands_in(&other, &lane) && !same_lane(&plain, &other));
            assert!(stands_in(&other, &lane_of("n", &other)));
        }
    }

    #[test]
    fn a_task_that_asks_for_gpus_requires_a_node_that_offers_so_many() {
        let mut two = NewTask { requires: [("a".into(), "b".into())].into(), ..NewTask::new("image") };
        two.resources.gpus = 2;
        let lane = lane_of("n", &two);
        assert!(stands_in(&two, &lane) && !stands_in(&NewTask::new("image"), &lane));
        let offers = |gpus: u32| (1..=gpus).map(|count| (gpu_label(count), "true".to_owned()));
        let meets = |gpus: u32| {
            let labels = offers(gpus).chain([("a".to_owned(), "b".to_owned())]).collect();
            orca_proto::spec::meets(&lane.requires, &labels)
        };
        assert!(meets(2) && meets(4) && !meets(1) && !meets(0));
    }
}
