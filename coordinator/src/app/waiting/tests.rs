//! Who is woken, who is passed over, and who is taken aside.

use std::time::Duration;

use super::*;
use crate::dispatch::{Capacity, Flow};

fn wanting(queues: &[&str], labels: &[(&str, &str)]) -> Arc<Wanting> {
    let own = |text: &&str| (*text).to_owned();
    let node = Asker {
        queues: queues.iter().map(own).collect(),
        labels: labels.iter().map(|(key, value)| (own(key), own(value))).collect(),
        slots: 1,
        ..Asker::default()
    };
    let (id, instance) = (NodeId::new(), InstanceId::new());
    Arc::new(Wanting { id, instance, namespace: "n".into(), role: Role::Work, node })
}

fn lane(namespace: &str, role: Role, queue: &str) -> LaneKey {
    LaneKey {
        namespace: namespace.into(),
        role,
        flow: Flow::new(queue.into(), None),
        priority: 0,
        needs: Capacity::default(),
        requires: BTreeMap::new(),
        prefers: BTreeMap::new(),
    }
}

#[test]
fn one_waiting_claim_is_woken_and_it_is_the_one_that_takes_the_queue() {
    let signals = Signals::new();
    let other = signals.join(wanting(&["b"], &[]));
    let first = signals.join(wanting(&["a"], &[]));
    let second = signals.join(wanting(&[], &[]));
    signals.wake_claim(&lane("n", Role::Work, "a"));
    assert_eq!([&other, &first, &second].map(Waiter::unused), [false, true, false]);
}

#[test]
fn a_claim_of_a_node_without_the_label_is_passed_over() {
    let signals = Signals::new();
    let without = signals.join(wanting(&[], &[]));
    let with = signals.join(wanting(&[], &[("gpu", "a100")]));
    let needs = LaneKey { requires: [("gpu".into(), "a100".into())].into(), ..lane("n", Role::Work, "a") };
    signals.wake_claim(&needs);
    assert_eq!([&without, &with].map(Waiter::unused), [false, true]);
}

#[test]
fn a_claim_of_a_preferred_node_is_woken_before_one_that_has_waited_longer() {
    let signals = Signals::new();
    let other = signals.join(wanting(&[], &[]));
    let preferred = signals.join(wanting(&[], &[("disk", "ssd")]));
    let wishes = LaneKey { prefers: [("disk".into(), "ssd".into())].into(), ..lane("n", Role::Work, "a") };
    signals.wake_claim(&wishes);
    assert_eq!([&other, &preferred].map(Waiter::unused), [false, true]);
    signals.wake_claim(&wishes);
    assert_eq!([&other, &preferred].map(Waiter::unused), [true, true]);
}

#[test]
fn one_claim_that_takes_all_lanes_is_enough_for_all() {
    let signals = Signals::new();
    let waiters = ["", "", "b"].map(|queue| match queue {
        "" => signals.join(wanting(&["a", "b"], &[])),
        queue => signals.join(wanting(&[queue, "c"], &[])),
    });
    let lanes = ["a", "b", "a"].map(|queue| lane("n", Role::Work, queue));
    signals.wake_any(lanes.iter());
    assert_eq!(waiters.each_ref().map(Waiter::unused), [true, false, false]);
    signals.wake_any([lane("n", Role::Work, "c")].iter());
    assert_eq!(waiters.each_ref().map(Waiter::unused), [true, false, true]);
}

#[test]
fn a_claim_that_was_taken_aside_hears_what_came_of_it() {
    let signals = Signals::new();
    let claim = signals.join(wanting(&[], &[]));
    let lane = lane("n", Role::Work, "a");
    assert!(signals.reserve(&lane, 1, |_| true).is_none(), "it has not looked yet");
    claim.park();
    assert!(signals.reserve(&lane, 2, |_| true).is_none(), "it has one slot");
    assert!(signals.reserve(&lane, 1, |_| false).is_none(), "something else waits");
    let reserved = signals.reserve(&lane, 1, |_| true).unwrap();
    signals.wake_claim(&lane);
    assert!(!claim.unused(), "it is taken");
    let handed = || async {
        tokio::select! { biased; handed = claim.handed() => handed.map(|grants| grants.len()), () = std::future::ready(()) => Some(77) }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(handed()), Some(77), "not known yet");
    reserved.hand(Vec::new());
    assert_eq!(runtime.block_on(handed()), Some(0));
    claim.take();
    claim.park();
    drop(signals.reserve(&lane, 1, |_| true).unwrap());
    assert!(claim.unused(), "what took it aside failed, so it looks for itself");
    assert_eq!(runtime.block_on(handed()), None);
}

#[test]
fn what_one_claim_after_another_cannot_take_comes_to_each_once() {
    let signals = Signals::new();
    let waiters = [0, 1].map(|_| signals.join(wanting(&[], &[])));
    let lane = lane("n", Role::Work, "a");
    signals.wake_after(&lane, &waiters[0]);
    assert_eq!(waiters.each_ref().map(Waiter::unused), [false, true]);
    waiters[1].take();
    signals.wake_after(&lane, &waiters[1]);
    assert_eq!(waiters.each_ref().map(Waiter::unused), [false, false]);
}

#[test]
fn only_the_claim_that_looks_again_first_is_armed() {
    let signals = Signals::new();
    let now = Instant::now();
    let late = signals.arm("n", now + Duration::from_secs(2)).unwrap();
    assert!(signals.arm("n", now + Duration::from_secs(3)).is_none());
    let early = signals.arm("n", now + Duration::from_secs(1)).unwrap();
    drop(late);
    assert!(signals.arm("n", now + Duration::from_secs(2)).is_none());
    drop(early);
    assert!(signals.arm("n", now + Duration::from_secs(2)).is_some());
}

#[test]
fn a_signal_that_was_not_used_is_told() {
    let signals = Signals::new();
    let first = signals.join(wanting(&[], &[]));
    signals.wake_claim(&lane("n", Role::Work, "a"));
    drop(first);
    let told = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        tokio::select! { biased; () = signals.dropped.notified() => true, () = std::future::ready(()) => false }
    });
    assert!(told);
}

#[test]
fn a_signal_for_another_namespace_or_role_wakes_nobody() {
    let signals = Signals::new();
    let waiter = signals.join(wanting(&[], &[]));
    signals.wake_claim(&lane("m", Role::Work, "a"));
    signals.wake_claim(&lane("n", Role::Plan, "a"));
    assert!(!waiter.unused());
}
