//! What holds of any claim, whatever is in line and whatever is set.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::any::any_world;
use super::obstacle::obstacles;
use super::*;

/// The world after the first node was given these, or how it broke a limit.
fn after(mut world: World, picks: &[(i32, u32)]) -> Result<World, String> {
    for (id, most) in picks {
        let line = &mut world.lines[usize::try_from(*id).unwrap()];
        line.waiting = line.waiting.checked_sub(u64::from(*most)).ok_or("more than wait in the lane")?;
        let lane = Arc::clone(&line.lane);
        let asker = &mut world.nodes[0];
        asker.slots = asker.slots.checked_sub(*most).ok_or("more than the node has slots")?;
        if let Some(free) = &mut asker.free {
            if free.holds(lane.needs) < *most {
                return Err("more than fits".to_owned());
            }
            *free = free.less(lane.needs, *most);
        }
        world.usage.running += u64::from(*most);
        within(world.settings.max_running, world.usage.running)?;
        let rules = &world.settings.queues[lane.flow.queue()];
        let usage = world.usage.queues.get_mut(lane.flow.queue()).unwrap();
        usage.running += u64::from(*most);
        within(rules.settings.max_running, usage.running)?;
        usage.bucket = begun(usage.bucket, rules.settings.rate, *most)?;
        if let Some(group) = lane.flow.group() {
            let (rules, usage) = (&rules.groups[group], usage.groups.get_mut(group).unwrap());
            usage.running += u64::from(*most);
            within(rules.settings.max_running, usage.running)?;
            usage.bucket = begun(usage.bucket, rules.settings.rate, *most)?;
        }
    }
    Ok(world)
}

fn within(max: Option<u32>, running: u64) -> Result<(), String> {
    match max {
        Some(max) if running > u64::from(max) => Err(format!("{running} running of {max}")),
        _ => Ok(()),
    }
}

fn begun(bucket: Bucket, rate: Option<Rate>, count: u32) -> Result<Bucket, String> {
    let Some(rate) = rate else { return Ok(bucket) };
    let bucket = bucket.take(rate, NOW, count);
    if bucket.allowance < 0 { Err("faster than the rate".to_owned()) } else { Ok(bucket) }
}

/// What keeps the first node from each line.
fn obstructed(world: &World) -> Vec<bool> {
    let fleet = world.fleet();
    let moment = Moment { settings: &world.settings, usage: &world.usage, fleet: &fleet, now_us: NOW };
    let lines = world.lines.iter();
    lines
        .map(|line| !obstacles(&line.lane, line.head_since_us, &world.nodes[0], &moment).is_empty())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_claim_breaks_a_limit_or_takes_what_the_node_may_not(world in any_world()) {
        let picks = world.claim();
        let obstructed = obstructed(&world);
        let mut seen = vec![false; world.lines.len()];
        for (lane, most) in &picks {
            let at = usize::try_from(*lane).unwrap();
            prop_assert!(*most > 0, "an empty pick");
            prop_assert!(!obstructed[at], "an obstructed lane");
            prop_assert!(!std::mem::replace(&mut seen[at], true), "a lane picked twice");
        }
        let outcome = after(world, &picks);
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }

    #[test]
    fn a_claim_leaves_nothing_that_the_node_could_still_take(world in any_world()) {
        let after = after(world.clone(), &world.claim()).unwrap();
        for (line, obstructed) in after.lines.iter().zip(obstructed(&after)) {
            prop_assert!(line.waiting == 0 || obstructed, "lane {} could give more", line.id);
        }
    }

    #[test]
    fn a_lane_has_no_obstacle_exactly_when_it_would_be_picked_alone(world in any_world()) {
        for (line, obstructed) in world.lines.iter().zip(obstructed(&world)) {
            let alone = World { lines: vec![line.clone()], ..world.clone() };
            prop_assert_eq!(alone.claim().is_empty(), obstructed);
        }
    }

    #[test]
    fn nothing_blocks_in_the_explanation_exactly_when_some_node_would_be_given_the_task(world in any_world()) {
        for line in &world.lines {
            let explanation = world.explain(line.id, NOW);
            let alone = World { lines: vec![line.clone()], ..world.clone() };
            let takers = (0..world.nodes.len())
                .filter(|node| !alone.claim_as(&mut Fairness::default(), *node, NOW).is_empty())
                .count();
            prop_assert_eq!(explanation.conditions.iter().all(|condition| !condition.blocks), takers > 0);
            if takers > 0 {
                prop_assert_eq!(explanation.eligible_nodes.len(), takers);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Lanes of all priorities, each with something in line at all times, on a node that can never do all of it.
    #[test]
    fn nothing_starves_while_time_in_line_counts(
        lanes in proptest::collection::vec((-5_i16..=5, 0_usize..3, 1_u32..5), 2..12),
        slots in 1_u32..5,
    ) {
        const STEP: i64 = SECOND / 50;
        // Ten levels to rise; then, with at most 11 others, weights and turns that differ by at most 4 × 4.
        const LONGEST: i64 = 10 * SECOND + 11 * 3 * 16 * STEP;
        let mut world = World::with_slots(slots);
        world.queue("default").settings.ageing = Some(Span::secs(1));
        let mut arrivals: Vec<VecDeque<i64>> = Vec::new();
        for (at, (priority, group, weight)) in lanes.into_iter().enumerate() {
            let group = format!("g{group}");
            world.weight(&group, weight);
            let needs = Capacity { millicpus: u64::try_from(at).unwrap(), memory: 0 };
            world.line(LaneKey { priority, needs, ..in_group(&group) }, 3, NOW);
            arrivals.push(VecDeque::from([NOW; 3]));
        }
        let mut fairness = Fairness::default();
        for step in 0..2_000 {
            let now = NOW + step * STEP;
            for (lane, most) in world.claim_as(&mut fairness, 0, now) {
                let arrivals = &mut arrivals[usize::try_from(lane).unwrap()];
                for _ in 0..most {
                    let waited = now - arrivals.pop_front().unwrap();
                    prop_assert!(waited <= LONGEST, "lane {lane} waited {waited} us");
                    arrivals.push_back(now);
                }
            }
            for (line, arrivals) in world.lines.iter_mut().zip(&arrivals) {
                line.head_since_us = *arrivals.front().unwrap();
                prop_assert!(now - line.head_since_us <= LONGEST, "lane {} still waits", line.id);
            }
        }
    }
}
