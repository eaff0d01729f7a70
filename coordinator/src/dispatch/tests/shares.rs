//! How flows share a level.

use std::collections::HashMap;

use proptest::prelude::*;

use super::choose::LANES;
use super::*;

const PLENTY: u64 = 1 << 40;

#[test]
fn a_group_of_weight_3_gets_75_of_100_slots_and_one_of_weight_1_gets_25() {
    let mut world = World::with_slots(100);
    world.weight("a", 3);
    let a = world.line(in_group("a"), PLENTY, NOW);
    let b = world.line(in_group("b"), PLENTY, NOW - SECOND);
    assert_eq!(world.claim(), [(b, 25), (a, 75)]);
}

#[test]
fn a_share_does_not_depend_on_how_many_slots_are_asked_for_at_once() {
    let mut world = World::with_slots(1);
    world.weight("a", 3);
    let a = world.line(in_group("a"), PLENTY, NOW);
    world.line(in_group("b"), PLENTY, NOW);
    let mut fairness = Fairness::default();
    let to_a = (0..100).filter(|_| world.claim_as(&mut fairness, 0, NOW)[0].0 == a).count();
    assert_eq!(to_a, 75);
}

#[test]
fn what_one_flow_does_not_need_goes_to_the_others() {
    let mut world = World::with_slots(100);
    world.weight("a", 3);
    let a = world.line(in_group("a"), 10, NOW);
    let b = world.line(in_group("b"), PLENTY, NOW);
    let mut picks = world.claim();
    picks.sort_unstable();
    assert_eq!(picks, [(a, 10), (b, 90)]);
}

#[test]
fn a_flow_that_was_away_gets_no_more_than_its_share_when_it_comes_back() {
    let mut world = World::with_slots(10);
    let a = world.line(in_group("a"), PLENTY, NOW);
    let b = world.line(in_group("b"), PLENTY, NOW);
    let mut fairness = Fairness::default();
    let mut both = world.claim_as(&mut fairness, 0, NOW);
    both.sort_unstable();
    assert_eq!(both, [(a, 5), (b, 5)]);
    let away = world.lines.pop().unwrap();
    for _ in 0..100 {
        assert_eq!(world.claim_as(&mut fairness, 0, NOW), [(a, 10)]);
    }
    world.lines.push(away);
    let mut back = world.claim_as(&mut fairness, 0, NOW);
    back.sort_unstable();
    assert_eq!(back, [(a, 5), (b, 5)]);
}

#[test]
fn what_a_flow_could_not_take_is_not_owed_to_it_later() {
    let mut world = World::with_slots(30);
    let a = world.line(in_group("a"), 1, NOW);
    let b = world.line(in_group("b"), PLENTY, NOW);
    let c = world.line(in_group("c"), PLENTY, NOW);
    let mut fairness = Fairness::default();
    let mut claim = |world: &World| {
        let mut picks = world.claim_as(&mut fairness, 0, NOW);
        picks.sort_unstable();
        picks
    };
    for _ in 0..50 {
        let [(_, 1), (_, of_b), (_, of_c)] = claim(&world)[..] else { panic!("not all are served") };
        assert!(of_b + of_c == 29 && of_b.abs_diff(of_c) <= 1, "{of_b} and {of_c}");
    }
    world.lines[0].waiting = PLENTY;
    for _ in 0..2 {
        claim(&world);
    }
    assert_eq!(claim(&world), [(a, 10), (b, 10), (c, 10)]);
}

#[test]
fn a_heavy_flow_that_comes_in_drops_does_not_save_up_its_weight() {
    let mut world = World::with_slots(11);
    world.weight("heavy", 100);
    let heavy = world.line(in_group("heavy"), 1, NOW);
    for other in 0..10 {
        world.line(in_group(&format!("g{other}")), PLENTY, NOW - SECOND);
    }
    let mut fairness = Fairness::default();
    for _ in 0..50 {
        assert_eq!(world.claim_as(&mut fairness, 0, NOW).len(), 11);
    }
    (world.lines[0].waiting, world.nodes[0].slots) = (PLENTY, 110);
    let picks = world.claim_as(&mut fairness, 0, NOW);
    assert_eq!(picks.len(), 11, "the light ones are served too");
    assert!(picks.contains(&(heavy, 100)), "{picks:?}");
}

#[test]
fn those_that_stay_keep_their_history_when_others_are_forgotten() {
    let mut world = World::with_slots(1);
    for flow in 0..200 {
        world.weight(&format!("g{flow}"), if flow == 199 { 3 } else { 1 });
        world.line(in_group(&format!("g{flow}")), PLENTY, NOW);
    }
    let mut fairness = Fairness::default();
    world.claim_as(&mut fairness, 0, NOW);
    assert_eq!(fairness.len(), 200);
    world.lines.drain(..198);
    let to_last = (0..100).filter(|_| world.claim_as(&mut fairness, 0, NOW)[0].0 == 199).count();
    assert_eq!((to_last, fairness.len()), (75, 2));
}

#[test]
fn a_flow_that_only_one_node_wants_is_not_held_back_by_its_work_there() {
    // The second node takes all; the first only what needs no gpu. What `plain` gets from the first, where nobody
    // competes, is not charged against it on the second.
    let mut world = World { nodes: vec![node("plain", 10), node("gpu", 10)], ..World::default() };
    world.nodes[1].labels = labels(&[("gpu", "a100")]);
    let plain = world.line(in_group("plain"), PLENTY, NOW);
    let requires = labels(&[("gpu", "*")]);
    let one = world.line(LaneKey { requires: requires.clone(), ..in_group("one") }, PLENTY, NOW);
    let two = world.line(LaneKey { requires, ..in_group("two") }, PLENTY, NOW);
    let mut fairness = Fairness::default();
    let mut on_gpu: HashMap<i32, u32> = HashMap::new();
    for _ in 0..30 {
        assert_eq!(world.claim_as(&mut fairness, 0, NOW), [(plain, 10)]);
        for (lane, most) in world.claim_as(&mut fairness, 1, NOW) {
            *on_gpu.entry(lane).or_default() += most;
        }
    }
    assert_eq!(on_gpu, HashMap::from([(plain, 100), (one, 100), (two, 100)]));
}

#[test]
fn flows_that_have_nothing_in_line_are_forgotten() {
    let mut fairness = Fairness::default();
    for flow in 0..1_000 {
        let mut world = World::with_slots(1);
        world.line(in_group(&format!("g{flow}")), 1, NOW);
        world.claim_as(&mut fairness, 0, NOW);
        assert!(fairness.len() <= 66, "{} remembered for 1 in line", fairness.len());
    }
}

#[test]
fn more_flows_than_one_claim_may_be_given_of_have_their_turns_in_the_next() {
    let mut world = World::with_slots(1_000);
    for flow in 0..2 * LANES {
        world.line(in_group(&format!("g{flow}")), PLENTY, NOW);
    }
    let mut fairness = Fairness::default();
    let mut served = vec![0; 2 * LANES];
    for claim in 0..10 {
        let picks = world.claim_as(&mut fairness, 0, NOW);
        assert_eq!(picks.len(), LANES);
        assert_eq!(picks.iter().map(|(_, most)| most).sum::<u32>(), 1_000, "the node is filled");
        for (lane, most) in picks {
            served[usize::try_from(lane).unwrap()] += most;
        }
        assert!(claim < 1 || served.iter().all(|served| *served > 0), "a flow had no turn in two claims");
    }
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(most - least <= 2, "{least} to {most}");
}

#[test]
fn with_many_flows_and_one_slot_each_has_its_turn() {
    let mut world = World::with_slots(1);
    for flow in 0..100 {
        world.line(in_group(&format!("g{flow}")), PLENTY, NOW);
    }
    let mut fairness = Fairness::default();
    let mut turns: Vec<i32> = (0..100).map(|_| world.claim_as(&mut fairness, 0, NOW)[0].0).collect();
    turns.sort_unstable();
    assert_eq!(turns, (0..100).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shares_come_to_the_weights_within_one_percent(
        weights in proptest::collection::vec(1_u32..=50, 2..8),
        sizes in proptest::collection::vec(1_u32..=1_024, 1..20),
        rounds in 1_usize..4,
    ) {
        let mut world = World::with_slots(0);
        for (flow, weight) in weights.iter().enumerate() {
            let group = format!("g{flow}");
            world.weight(&group, *weight);
            world.line(in_group(&group), PLENTY, NOW);
        }
        let mut fairness = Fairness::default();
        let mut served = vec![0_u32; weights.len()];
        for slots in sizes.iter().cycle().take(sizes.len() * rounds) {
            world.nodes[0].slots = *slots;
            for (lane, most) in world.claim_as(&mut fairness, 0, NOW) {
                served[usize::try_from(lane).unwrap()] += most;
            }
        }
        let (all, total) = (f64::from(served.iter().sum::<u32>()), f64::from(weights.iter().sum::<u32>()));
        for (weight, served) in weights.iter().zip(served) {
            let due = all * f64::from(*weight) / total;
            // A flow is at most one task ahead, and behind by no more than the others are ahead in all.
            let rounding = f64::from(u32::try_from(weights.len()).unwrap());
            let off = (f64::from(served) - due).abs();
            prop_assert!(off <= 0.01 * due + rounding, "{served} instead of {due}");
        }
    }
}
