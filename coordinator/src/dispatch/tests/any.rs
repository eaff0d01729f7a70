//! Any world: small names, so that things meet; limits near what runs, so that they matter.

use proptest::prelude::*;

use super::*;

fn maybe<T: std::fmt::Debug + Clone>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.3, strategy)
}

fn any_name(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(of).prop_map(str::to_owned)
}

fn any_labels(values: &'static [&'static str], most: usize) -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map(any_name(&["x", "y"]), any_name(values), 0..=most)
}

fn any_capacity() -> impl Strategy<Value = Capacity> {
    (0_u64..8, 0_u64..8).prop_map(|(cpus, gib)| Capacity { millicpus: cpus * 500, memory: gib << 30 })
}

fn any_rate() -> impl Strategy<Value = Rate> {
    (1_u32..20, 1_u64..100).prop_map(|(tasks, seconds)| Rate { tasks, per: Span::secs(seconds) })
}

fn any_bucket() -> impl Strategy<Value = Bucket> {
    (-3_000_000_i64..9_000_000, 0_i64..20)
        .prop_map(|(allowance, ago)| Bucket { allowance, updated_us: NOW - ago * SECOND })
}

prop_compose! {
    fn any_lane()(
        queue in any_name(&["p", "q"]),
        group in maybe(any_name(&["a", "b"])),
        priority in -3_i16..4,
        needs in any_capacity(),
        requires in any_labels(&["1", "2", "*", "!1", "!*"], 1),
        prefers in any_labels(&["1", "2", "!2"], 1),
    ) -> LaneKey {
        LaneKey { flow: Flow::new(queue, group), priority, needs, requires, prefers, ..lane() }
    }
}

prop_compose! {
    fn any_node()(
        labels in any_labels(&["1", "2"], 2),
        queues in proptest::collection::btree_set(any_name(&["p", "q"]), 0..2),
        slots in 0_u32..40,
        free in maybe(any_capacity()),
    ) -> Asker {
        Asker { name: "any".to_owned(), labels, queues, slots, free, size: None }
    }
}

prop_compose! {
    fn any_group()(
        weight in 1_u32..6,
        max_running in maybe(1_u32..12),
        rate in maybe(any_rate()),
        stopped in proptest::bool::weighted(0.1),
        running in 0_u64..12,
        bucket in any_bucket(),
    ) -> (GroupRules, GroupUsage) {
        let settings = orca_proto::queue::GroupSettings { weight, max_running, rate };
        (GroupRules { settings, paused: stopped.then(paused) }, GroupUsage { running, bucket })
    }
}

prop_compose! {
    fn any_queue()(
        max_running in maybe(1_u32..20),
        rate in maybe(any_rate()),
        ageing in maybe((0_u64..100).prop_map(Span::secs)),
        stopped in proptest::bool::weighted(0.1),
        running in 0_u64..20,
        bucket in any_bucket(),
        a in any_group(),
        b in any_group(),
    ) -> (QueueRules, QueueUsage) {
        let groups = [("a".to_owned(), a), ("b".to_owned(), b)];
        let rules = QueueRules {
            settings: QueueSettings { max_running, rate, ageing },
            paused: stopped.then(paused),
            groups: groups.iter().map(|(name, (rules, _))| (name.clone(), rules.clone())).collect(),
        };
        let groups = groups.into_iter().map(|(name, (_, usage))| (name, usage)).collect();
        (rules, QueueUsage { running, bucket, groups })
    }
}

prop_compose! {
    /// Any world, with at least one node.
    pub(super) fn any_world()(
        p in any_queue(),
        q in any_queue(),
        max_running in maybe(1_u32..30),
        running in 0_u64..30,
        nodes in proptest::collection::vec(any_node(), 1..4),
        lines in proptest::collection::vec((any_lane(), 1_u64..50, 0_i64..400), 1..12),
    ) -> World {
        let queues = [("p".to_owned(), p), ("q".to_owned(), q)];
        let mut world = World { nodes, ..World::default() };
        world.settings.max_running = max_running;
        world.usage.running = running;
        for (name, (rules, usage)) in queues {
            world.settings.queues.insert(name.clone(), rules);
            world.usage.queues.insert(name, usage);
        }
        for (lane, waiting, age) in lines {
            world.line(lane, waiting, NOW - age * SECOND / 10);
        }
        world
    }
}
