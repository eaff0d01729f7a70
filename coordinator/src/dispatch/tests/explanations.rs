//! What `why` says of a task in line, word for word.

use orca_proto::ids::TaskId;
use orca_proto::task::{Outcome, State};
use orca_proto::why::{Condition, ConditionKind};
use serde_json::json;

use super::*;

fn only(explanation: &Explanation) -> &Condition {
    assert_eq!(explanation.conditions.len(), 1, "{explanation:?}");
    assert!(explanation.conditions[0].blocks);
    &explanation.conditions[0]
}

#[test]
fn a_task_that_nothing_keeps_names_the_nodes_that_could_have_it() {
    let mut world = World { nodes: vec![node("w1", 1), node("w2", 0), node("w3", 2)], ..World::default() };
    let line = world.line(lane(), 1, NOW);
    let explanation = world.explain(line, NOW);
    assert_eq!(explanation.conditions, []);
    assert_eq!(explanation.eligible_nodes, ["w1", "w3"]);
    let id = TaskId::new();
    let why = why(id, State::Ready, explanation.conditions, Some(0), explanation.eligible_nodes);
    assert_eq!(why.summary, "nothing keeps it: it goes to the next node that asks, such as w1");
}

#[test]
fn a_paused_queue_says_by_whom_and_why() {
    let mut world = World::with_slots(1);
    world.queue("default").paused = Some(paused());
    let line = world.line(lane(), 1, NOW);
    let explanation = world.explain(line, NOW);
    let condition = only(&explanation);
    assert_eq!(condition.kind, ConditionKind::QueuePaused);
    assert_eq!(condition.message, "queue default was paused by ann at 2026-03-01T10:00:00Z: “maintenance”");
    assert_eq!(condition.facts["by"], "ann");
}

#[test]
fn a_group_at_its_limit_names_who_holds_it() {
    let mut world = World::with_slots(1);
    world.group("default", "acme").settings.max_running = Some(4);
    let groups = [("acme".to_owned(), GroupUsage { running: 4, ..GroupUsage::default() })].into();
    world
        .usage
        .queues
        .insert("default".to_owned(), QueueUsage { running: 9, groups, ..QueueUsage::default() });
    world.line(in_group("acme"), 1, NOW);
    let fleet = world.fleet();
    let moment = Moment { settings: &world.settings, usage: &world.usage, fleet: &fleet, now_us: NOW };
    let holders: Vec<TaskId> = (0..4).map(|_| TaskId::new()).collect();
    let task = InLine {
        lane: &world.lines[0].lane,
        since_us: NOW,
        ahead: Ahead::default(),
        queue_holders: &[],
        group_holders: &holders,
    };
    let explanation = explain(task, &world.nodes, &moment);
    let condition = only(&explanation);
    assert_eq!(condition.kind, ConditionKind::GroupLimit);
    assert_eq!(
        condition.message,
        format!(
            "group acme of queue default is at its limit: 4 of 4 running, held by {}, {}, {} and 1 more",
            holders[0], holders[1], holders[2]
        )
    );
    assert_eq!(condition.facts["held_by"], json!(holders));
}

#[test]
fn a_rate_that_is_used_up_says_when_the_next_may_begin() {
    let mut world = World::with_slots(1);
    let rate = Rate { tasks: 2, per: Span::secs(60) };
    world.queue("default").settings.rate = Some(rate);
    let bucket = Bucket::default().take(rate, NOW - 10 * SECOND, 2);
    world.usage.queues.insert("default".to_owned(), QueueUsage { bucket, ..QueueUsage::default() });
    let line = world.line(lane(), 1, NOW);
    assert_eq!(
        only(&world.explain(line, NOW)).message,
        "queue default has begun 2 tasks in 1m, as many as its rate allows; the next may begin in 20s"
    );
}

#[test]
fn a_label_that_no_node_has_says_what_the_nodes_have() {
    let mut world = World { nodes: vec![node("w1", 1), node("w2", 1), node("w3", 1)], ..World::default() };
    world.nodes[0].labels = labels(&[("gpu", "h100"), ("os", "linux")]);
    world.nodes[1].labels = labels(&[("gpu", "h100"), ("os", "linux")]);
    let requires = labels(&[("gpu", "a100"), ("os", "linux")]);
    let line = world.line(LaneKey { requires, ..lane() }, 1, NOW);
    let explanation = world.explain(line, NOW);
    let condition = only(&explanation);
    assert_eq!(condition.kind, ConditionKind::NodeLabels);
    assert_eq!(condition.message, "no live node has gpu=a100 (3 live nodes; gpu is h100 on 2, absent on 1)");
    assert_eq!(condition.facts["unmet"], json!({"gpu": "a100"}));
    assert_eq!(explanation.eligible_nodes, Vec::<String>::new());
}

#[test]
fn labels_that_no_one_node_has_together_say_so() {
    let mut world = World { nodes: vec![node("w1", 1), node("w2", 1)], ..World::default() };
    world.nodes[0].labels = labels(&[("gpu", "a100")]);
    world.nodes[1].labels = labels(&[("zone", "a")]);
    let requires = labels(&[("gpu", "a100"), ("zone", "a")]);
    let line = world.line(LaneKey { requires, ..lane() }, 1, NOW);
    assert_eq!(
        only(&world.explain(line, NOW)).message,
        "no live node has all of gpu=a100, zone=a (2 live nodes)"
    );
}

#[test]
fn each_other_obstacle_of_nodes_has_its_sentence() {
    let mut world = World::with_slots(1);
    let line = world.line(lane(), 1, NOW);
    let message = |world: &World, now_us| only(&world.explain(line, now_us)).message.clone();

    let mut elsewhere = world.clone();
    elsewhere.nodes[0].queues = ["media".to_owned()].into();
    assert_eq!(message(&elsewhere, NOW), "no live node serves queue default (1 live node)");

    let mut small = world.clone();
    small.nodes[0].free = Some(Capacity { millicpus: 500, memory: 8 << 30 });
    assert_eq!(
        message(&small, NOW),
        "no live node has 1 cpu and 512MiB free (1 live node; the most that any has: 0.5 cpus and 8GiB)"
    );

    let mut full = world.clone();
    full.nodes[0].slots = 0;
    assert_eq!(message(&full, NOW), "no live node has a slot free (1 live node)");
    full.nodes.push(node("w2", 1));
    full.nodes[1].queues = ["media".to_owned()].into();
    assert_eq!(message(&full, NOW), "no live node that is otherwise fit has a slot free (1 of 2 live nodes)");

    world.nodes.push(node("near", 0));
    world.nodes[1].labels = labels(&[("zone", "a")]);
    world.lines[0].lane = Arc::new(LaneKey { prefers: labels(&[("zone", "a")]), ..lane() });
    assert_eq!(
        message(&world, NOW + SECOND),
        "for another 2s it is kept for a node with zone=a, of which none is free"
    );

    world.nodes.clear();
    assert_eq!(message(&world, NOW), "no worker node is alive and takes work in namespace default");
}

#[test]
fn the_summary_is_the_first_thing_that_blocks_and_counts_the_rest() {
    let mut world = World::default();
    world.queue("default").paused = Some(paused());
    let line = world.line(lane(), 1, NOW);
    let explanation = world.explain(line, NOW);
    let held = held_by("w1", 1, paused().at, paused().at);
    let conditions = [vec![held], explanation.conditions].concat();
    let why = why(TaskId::new(), State::Ready, conditions, None, Vec::new());
    assert_eq!(
        why.summary,
        "queue default was paused by ann at 2026-03-01T10:00:00Z: “maintenance” (and 1 more)"
    );
    assert_eq!(why.conditions.last().map(|condition| condition.blocks), Some(false));
}

#[test]
fn a_running_task_is_summed_up_by_who_holds_it() {
    let at = paused().at;
    let why = why(TaskId::new(), State::Running, vec![held_by("w1", 2, at, at)], None, Vec::new());
    assert_eq!(
        why.summary,
        "node w1 holds attempt 2 of it since 2026-03-01T10:00:00Z; its lease lasts until 2026-03-01T10:00:00Z"
    );
}

#[test]
fn ahead_are_higher_levels_and_what_is_older_in_the_same_flow() {
    let mut world = World::with_slots(1);
    world.queue("stopped").paused = Some(paused());
    let stopped = Flow::new("stopped".to_owned(), None);
    world.line(with_priority(1), 1_000, NOW);
    world.line(LaneKey { needs: Capacity::default(), ..lane() }, 200, NOW - 2 * SECOND);
    world.line(LaneKey { requires: labels(&[("gpu", "*")]), ..lane() }, 40, NOW);
    world.line(in_group("other"), 5_000, NOW - 2 * SECOND);
    world.line(LaneKey { flow: stopped, ..with_priority(9) }, 60_000, NOW);
    let fleet = world.fleet();
    let moment = Moment { settings: &world.settings, usage: &world.usage, fleet: &fleet, now_us: NOW };
    let ahead = before(&world.lines, &lane(), NOW - SECOND, &moment).ahead(3, |line| line.waiting);
    assert_eq!(ahead, Ahead { tasks: 1_407, in_turns: 204 });
    let task = InLine { lane: &lane(), since_us: NOW, ahead, queue_holders: &[], group_holders: &[] };
    let explanation = explain(task, &world.nodes, &moment);
    assert_eq!(
        only(&explanation).message,
        "about 1,407 tasks go before it, 204 of them of other groups or queues, which take turns with its own"
    );
}

#[test]
fn the_last_of_several_equal_groups_has_all_the_others_before_it_also_where_their_queue_is_paused() {
    let mut world = World::with_slots(1);
    world.queue("default").paused = Some(paused());
    for group in ["a", "b", "c"] {
        world.line(in_group(group), 10, NOW - 2 * SECOND);
    }
    world.group("default", "stopped").paused = Some(paused());
    world.line(in_group("stopped"), 10, NOW - 2 * SECOND);
    world.line(in_group("d"), 10, NOW - 2 * SECOND);
    let fleet = world.fleet();
    let ahead = |world: &World, in_lane| {
        let moment = Moment { settings: &world.settings, usage: &world.usage, fleet: &fleet, now_us: NOW };
        before(&world.lines, &in_group("d"), NOW - SECOND, &moment).ahead(in_lane, |line| line.waiting)
    };
    assert_eq!(ahead(&world, 9), Ahead { tasks: 39, in_turns: 30 });
    assert_eq!(ahead(&world, 2), Ahead { tasks: 11, in_turns: 9 });
    world.weight("d", 3);
    assert_eq!(ahead(&world, 9), Ahead { tasks: 21, in_turns: 12 });
    world.weight("a", 30);
    assert_eq!(ahead(&world, 9), Ahead { tasks: 27, in_turns: 18 });
}

#[test]
fn each_condition_that_keeps_out_all_nodes_is_told_not_only_the_first() {
    let mut world = World { nodes: vec![node("w1", 1), node("w2", 1)], ..World::default() };
    let two = Capacity { millicpus: 2_000, memory: 8 << 30 };
    for node in &mut world.nodes {
        (node.queues, node.free, node.size) = (["media".to_owned()].into(), Some(two), Some(two));
    }
    let needs = Capacity { millicpus: 64_000, memory: 512 << 20 };
    let line = world.line(LaneKey { requires: labels(&[("gpu", "*")]), needs, ..lane() }, 1, NOW);
    let told = |world: &World| -> Vec<ConditionKind> {
        world.explain(line, NOW).conditions.iter().map(|condition| condition.kind).collect()
    };
    let all = [ConditionKind::NodeLabels, ConditionKind::NodeQueues, ConditionKind::NodeResources];
    assert_eq!(told(&world), all);
    // The second is otherwise fit, so it does not serve; the first would, and lacks the label.
    world.nodes[0].queues.clear();
    world.nodes[1].labels = labels(&[("gpu", "a100")]);
    assert_eq!(told(&world), [ConditionKind::NodeQueues, ConditionKind::NodeResources]);
}

#[test]
fn a_task_that_is_larger_than_each_node_is_not_told_to_wait_for_room() {
    let mut world = World::with_slots(1);
    let (two, one) = ((2_000, 8 << 30), (1_000, 1 << 30));
    let amount = |(millicpus, memory)| Some(Capacity { millicpus, memory });
    (world.nodes[0].size, world.nodes[0].free) = (amount(two), amount(one));
    let needs = |millicpus| LaneKey { needs: Capacity { millicpus, memory: 512 << 20 }, ..lane() };
    let large = world.line(needs(64_000), 1, NOW);
    let told = world.explain(large, NOW);
    assert_eq!(
        only(&told).message,
        "no live node is large enough for 64 cpus and 512MiB, whatever runs there (1 live node; the most that any has in \
         all: 2 cpus and 8GiB)"
    );
    assert_eq!(lasting(told.conditions).len(), 1, "it holds once it comes in line as well");
    let fits = world.line(needs(2_000), 1, NOW);
    let told = world.explain(fits, NOW);
    assert!(only(&told).message.starts_with("no live node has 2 cpus and 512MiB free"));
    assert_eq!(lasting(told.conditions), []);
}

#[test]
fn what_keeps_a_task_out_of_the_line_has_its_sentence() {
    let now = paused().at;
    let later = "2026-03-01T10:04:00Z".parse().unwrap();
    let (on, root) = (TaskId::new(), TaskId::new());
    let failed = Outcome::Failed { exit_code: 3, reason: None };
    for (condition, kind, message) in [
        (
            dependency(on, "fetch", State::Running, None),
            ConditionKind::Dependency,
            &*format!("it waits for task {on} (fetch), which is running"),
        ),
        (
            dependency(on, "fetch", State::Blocked, Some((root, "pay", State::Scheduled))),
            ConditionKind::Dependency,
            &*format!(
                "it waits for task {on} (fetch), which is blocked; in the end it comes down to task {root} (pay), which is \
                 scheduled"
            ),
        ),
        (
            approval(Some("Ship it?"), Some(later), now),
            ConditionKind::Approval,
            "nobody has approved it yet: “Ship it?” (4m left)",
        ),
        (approval(None, None, now), ConditionKind::Approval, "nobody has approved it yet"),
        (signal("go", Some(later), now), ConditionKind::Signal, "signal go has not arrived yet (4m left)"),
        (due(later, now), ConditionKind::Due, "it is due in 4m, at 2026-03-01T10:04:00Z"),
        (
            backoff(later, now, 2, 3, Some(&failed)),
            ConditionKind::Backoff,
            "the last attempt exited with code 3; attempt 2 of 3 follows in 4m, at 2026-03-01T10:04:00Z",
        ),
        (children(1), ConditionKind::Children, "1 task under it has not ended"),
        (children(1_203), ConditionKind::Children, "1,203 tasks under it have not ended"),
        (
            cancel_requested(Some(now), Some("no longer needed")),
            ConditionKind::CancelRequested,
            "somebody asked to cancel it at 2026-03-01T10:00:00Z: “no longer needed”",
        ),
        (
            ended(State::Failed, now, Some("exited with code 3")),
            ConditionKind::Ended,
            "it ended as failed at 2026-03-01T10:00:00Z: exited with code 3",
        ),
    ] {
        assert_eq!((condition.kind, condition.message.as_str(), condition.blocks), (kind, message, true));
    }
    assert!(!approval(None, None, now).facts.contains_key("prompt"), "what is not known is left out");
    assert!(!due(now, now).blocks, "its time has come");
}
