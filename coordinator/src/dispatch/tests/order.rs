//! Which lane goes first.

use super::*;

#[test]
fn nothing_in_line_or_no_slot_gives_nothing() {
    assert_eq!(World::with_slots(10).claim(), []);
    let mut world = World::with_slots(0);
    world.line(lane(), 5, NOW);
    assert_eq!(world.claim(), []);
}

#[test]
fn the_higher_priority_goes_first_and_what_is_left_of_the_node_goes_to_the_lower() {
    let mut world = World::with_slots(10);
    let low = world.line(with_priority(-5), 100, NOW - SECOND);
    let high = world.line(with_priority(7), 4, NOW);
    assert_eq!(world.claim(), [(high, 4), (low, 6)]);
}

#[test]
fn of_one_priority_the_oldest_head_goes_first() {
    let mut world = World::with_slots(3);
    let needs = Capacity { millicpus: 2_000, ..lane().needs };
    let newer = world.line(lane(), 2, NOW - SECOND);
    let older = world.line(LaneKey { needs, ..lane() }, 2, NOW - 2 * SECOND);
    assert_eq!(world.claim(), [(older, 2), (newer, 1)]);
}

#[test]
fn time_in_line_lifts_to_the_highest_priority_present_and_then_both_are_served() {
    let mut world = World::with_slots(8);
    let urgent = world.line(with_priority(10), 1_000, NOW);
    let old = world.line(with_priority(0), 1_000, NOW - 600 * SECOND);
    assert_eq!(world.claim(), [(urgent, 6), (old, 2)]);
    world.lines[1].head_since_us += SECOND;
    assert_eq!(world.claim(), [(urgent, 8)], "a level short");
}

#[test]
fn without_ageing_a_lower_priority_waits_for_as_long_as_there_is_a_higher_one() {
    let mut world = World::with_slots(8);
    world.queue("default").settings =
        QueueSettings { ageing: Some(Span::secs(0)), ..QueueSettings::default() };
    let urgent = world.line(with_priority(10), 1_000, NOW);
    world.line(with_priority(0), 1_000, 0);
    assert_eq!(world.claim(), [(urgent, 8)]);
}

#[test]
fn an_old_backlog_gets_every_fourth_grant_where_something_urgent_waits_in_its_own_flow() {
    let mut world = World::with_slots(1);
    let urgent = world.line(with_priority(10), 1_000, NOW);
    let old = world.line(with_priority(0), 1_000, 0);
    let mut fairness = Fairness::default();
    let order: Vec<i32> = (0..8).map(|_| world.claim_as(&mut fairness, 0, NOW)[0].0).collect();
    assert_eq!(order, [urgent, urgent, urgent, old, urgent, urgent, urgent, old]);
}

#[test]
fn a_paused_queue_does_not_set_the_level_that_time_lifts_to() {
    let mut world = World::with_slots(2);
    world.queue("stopped").paused = Some(paused());
    let flow = Flow::new("stopped".to_owned(), None);
    world.line(LaneKey { flow, ..with_priority(100) }, 1, NOW);
    let fresh = world.line(LaneKey { priority: 5, ..in_group("a") }, 10, NOW);
    let old = world.line(in_group("b"), 10, 0);
    assert_eq!(world.claim(), [(old, 1), (fresh, 1)], "both are of level 5");
}
