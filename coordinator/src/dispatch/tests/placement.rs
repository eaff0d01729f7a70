//! Which nodes may have which tasks.

use super::*;

#[test]
fn labels_that_are_required_keep_other_nodes_away() {
    for (wish, suits) in [
        (("gpu", "a100"), true),
        (("gpu", "*"), true),
        (("gpu", "!h100"), true),
        (("zone", "!b"), true),
        (("zone", "!*"), true),
        (("gpu", "h100"), false),
        (("gpu", "!a100"), false),
        (("gpu", "!*"), false),
        (("zone", "*"), false),
    ] {
        let mut world = World::with_slots(1);
        world.nodes[0].labels = labels(&[("gpu", "a100")]);
        world.line(LaneKey { requires: labels(&[wish]), ..lane() }, 1, NOW);
        assert_eq!(world.claim().is_empty(), !suits, "{wish:?}");
    }
}

#[test]
fn a_node_is_given_only_of_the_queues_it_serves() {
    let mut world = World::with_slots(9);
    world.line(lane(), 1, NOW);
    let flow = Flow::new("media".to_owned(), None);
    let media = world.line(LaneKey { flow, ..lane() }, 1, NOW);
    world.nodes[0].queues = ["media".to_owned()].into();
    assert_eq!(world.claim(), [(media, 1)]);
}

#[test]
fn as_many_are_given_as_the_free_processors_and_memory_hold() {
    let mut world = World::with_slots(9);
    world.nodes[0].free = Some(Capacity { millicpus: 4_500, memory: 64 << 30 });
    let small = world.line(lane(), 9, NOW);
    assert_eq!(world.claim(), [(small, 4)]);
    world.nodes[0].free = Some(Capacity { millicpus: 64_000, memory: 1 << 30 });
    assert_eq!(world.claim(), [(small, 2)]);
}

#[test]
fn what_does_not_fit_is_passed_over_for_what_does() {
    let mut world = World::with_slots(9);
    world.nodes[0].free = Some(Capacity { millicpus: 3_000, memory: 64 << 30 });
    let needs = Capacity { millicpus: 2_000, ..lane().needs };
    let large = world.line(LaneKey { needs, ..lane() }, 9, NOW - SECOND);
    let small = world.line(lane(), 9, NOW);
    assert_eq!(world.claim(), [(large, 1), (small, 1)]);
}

#[test]
fn for_three_seconds_a_task_is_kept_for_a_live_node_that_it_prefers() {
    let mut world = World { nodes: vec![node("far", 1), node("near", 1)], ..World::default() };
    world.nodes[1].labels = labels(&[("zone", "a"), ("disk", "ssd")]);
    let prefers = labels(&[("zone", "a"), ("disk", "ssd")]);
    let lane = world.line(LaneKey { prefers, ..lane() }, 1, NOW);
    let mut fairness = Fairness::default();
    let mut given = |world: &World, node, now_us| world.claim_as(&mut fairness, node, now_us);
    assert_eq!(given(&world, 0, NOW), []);
    assert_eq!(given(&world, 0, NOW + 3 * SECOND - 1), []);
    assert_eq!(given(&world, 1, NOW), [(lane, 1)]);
    assert_eq!(given(&world, 0, NOW + 3 * SECOND), [(lane, 1)]);

    world.nodes[1].labels = labels(&[("zone", "a"), ("disk", "hdd")]);
    assert_eq!(given(&world, 0, NOW), [(lane, 1)], "no node has all that it prefers");
}

#[test]
fn a_preferred_node_that_could_not_have_the_task_anyway_is_not_waited_for() {
    let mut world = World { nodes: vec![node("far", 1), node("near", 1)], ..World::default() };
    world.nodes[1].labels = labels(&[("zone", "a")]);
    world.nodes[1].queues = ["media".to_owned()].into();
    let lane = world.line(LaneKey { prefers: labels(&[("zone", "a")]), ..lane() }, 1, NOW);
    assert_eq!(world.claim(), [(lane, 1)]);
}
