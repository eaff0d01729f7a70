//! Limits, rates and pauses of queues, groups and namespaces: kept exactly, whoever claims, and waited for no longer than needed.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use orca_coordinator::app::App;
use orca_proto::duration::Span;
use orca_proto::namespace::Quota;
use orca_proto::node::{Grant, RenewRequest};
use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::queue::{GroupSettings, Pause, QueueSettings, Rate};
use orca_proto::spec::NewTask;
use orca_proto::task::State;
use orca_proto::token::Access;
use serde_json::json;

use super::support::{SOON, TestApp, TestNode, kind, principal, task};

impl TestApp {
    pub(crate) async fn set_queue(&self, queue: &str, settings: QueueSettings) {
        self.app.queue_set(&self.operator(), queue, settings).await.unwrap();
    }

    pub(crate) async fn set_group(&self, queue: &str, group: &str, settings: GroupSettings) {
        self.app.group_set(&self.operator(), queue, group, settings).await.unwrap();
    }

    async fn set_quota(&self, quota: Quota) {
        let admin = principal("elsewhere", "root", Access::Admin);
        self.app.namespace_set(&admin, "default", quota).await.unwrap();
    }

    /// Enqueues so many tasks, each made by `make` of its number.
    pub(crate) async fn fill(&self, count: usize, make: impl Fn(usize) -> NewTask) {
        let tasks = (0..count).map(make).collect();
        self.app.batch_enqueue(&self.operator(), Batch { tasks }, None).await.unwrap();
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.connection().await).await.unwrap()
    }

    async fn running(&self) -> i64 {
        self.number("SELECT coalesce(sum(open), 0)::bigint FROM orca.grants WHERE open > 0").await
    }
}

fn of(queue: &str, group: &str) -> NewTask {
    let group = Some(group.to_owned()).filter(|group| !group.is_empty());
    NewTask { queue: queue.into(), group, key: None, ..task("t") }
}

fn most(max_running: u32) -> QueueSettings {
    QueueSettings { max_running: Some(max_running), ..QueueSettings::default() }
}

fn most_of_group(max_running: u32) -> GroupSettings {
    GroupSettings { max_running: Some(max_running), ..GroupSettings::default() }
}

/// Two nodes, each with a coordinator of its own.
async fn two(test: &TestApp) -> [TestNode; 2] {
    let other = test.replica().await;
    [test.worker("w1").await, TestNode::register(&other, "w2", Access::Worker).await]
}

/// Eight claims at once.
async fn at_once(nodes: &[TestNode; 2], slots: u32) -> Vec<(usize, Grant)> {
    let claims = (0..8).map(|n| async move {
        let grants = nodes[n % 2].claim(slots).await;
        grants.into_iter().map(|grant| (n % 2, grant)).collect::<Vec<_>>()
    });
    join_all(claims).await.into_iter().flatten().collect()
}

/// Lets claims at two coordinators fill a limit again and again.
async fn exactly(test: &TestApp, limit: usize) {
    let nodes = two(test).await;
    let mut held = Vec::new();
    for round in 0..8 {
        held.extend(at_once(&nodes, 3).await);
        assert_eq!(held.len(), limit, "in round {round}");
        assert_eq!(test.running().await, i64::try_from(limit).unwrap());
        for (at, grant) in held.drain(..1 + round % limit) {
            nodes[at].succeed(&grant, json!(null)).await;
        }
    }
}

#[tokio::test]
async fn as_many_of_a_queue_run_as_may_whoever_claims() {
    let test = TestApp::start().await;
    test.set_queue("q", most(5)).await;
    test.fill(100, |n| of("q", if n % 2 == 0 { "a" } else { "" })).await;
    exactly(&test, 5).await;
    let queue = test.app.queue_get(&test.operator(), "q").await.unwrap();
    assert!(queue.running <= 5 && queue.ready > 0, "{queue:?}");
    test.stop().await;
}

#[tokio::test]
async fn as_many_of_a_group_run_as_may_whoever_claims() {
    let test = TestApp::start().await;
    test.set_group("q", "a", most_of_group(4)).await;
    test.fill(100, |_| of("q", "a")).await;
    exactly(&test, 4).await;
    // Neither the queue's other groups nor another queue's group of that name are meant.
    test.fill(4, |n| if n < 2 { of("q", "b") } else { of("r", "a") }).await;
    test.stop().await;
}

#[tokio::test]
async fn as_many_of_a_namespace_run_as_may_whoever_claims() {
    let test = TestApp::start().await;
    test.set_quota(Quota { max_running: Some(6), ..Quota::default() }).await;
    test.fill(100, |n| of(["q", "r", "s"][n % 3], "")).await;
    exactly(&test, 6).await;
    test.stop().await;
}

#[tokio::test]
async fn limits_of_several_queues_groups_and_the_namespace_hold_together_and_no_claim_fails() {
    let test = TestApp::start().await;
    test.set_queue("q", most(4)).await;
    test.set_queue("r", most(4)).await;
    test.set_group("q", "a", most_of_group(1)).await;
    test.set_quota(Quota { max_running: Some(7), ..Quota::default() }).await;
    test.fill(200, |n| {
        let priority = i16::try_from(n % 5).unwrap();
        NewTask { priority, ..of(["q", "r"][n % 2], ["a", "b"][n / 2 % 2]) }
    })
    .await;
    let nodes = two(&test).await;
    for _ in 0..8 {
        let held = at_once(&nodes, 9).await;
        let count = |queue: &str, group: Option<&str>| {
            held.iter()
                .filter(|(_, grant)| grant.spec.queue == queue)
                .filter(|(_, grant)| group.is_none() || grant.spec.group.as_deref() == group)
                .count()
        };
        assert_eq!(held.len(), 7);
        assert!(count("q", None) <= 4 && count("r", None) <= 4 && count("q", Some("a")) <= 1);
        join_all(held.iter().map(|(at, grant)| nodes[*at].succeed(grant, json!(null)))).await;
    }
    test.stop().await;
}

#[tokio::test]
async fn below_a_lowered_limit_nothing_begins_until_enough_has_ended() {
    let test = TestApp::start().await;
    test.fill(10, |_| of("q", "")).await;
    let node = test.worker("w").await;
    let held = node.claim(4).await;
    test.set_queue("q", most(3)).await;
    assert_eq!(node.claim(10).await.len(), 0);
    for grant in &held[..2] {
        node.succeed(grant, json!(null)).await;
    }
    assert_eq!(node.claim(10).await.len(), 1);
    test.set_queue("q", QueueSettings::default()).await;
    assert_eq!(node.claim(10).await.len(), 5);
    test.stop().await;
}

#[tokio::test]
async fn a_rate_lets_a_burst_begin_and_then_one_after_another() {
    let test = TestApp::start().await;
    // The clock goes on by itself meanwhile: by less than any of this.
    let rate = Some(Rate { tasks: 5, per: Span::secs(50_000) });
    let spaced = Duration::from_secs(10_000);
    test.set_queue("q", QueueSettings { rate, ..QueueSettings::default() }).await;
    test.set_group("r", "a", GroupSettings { rate, ..GroupSettings::default() }).await;
    let nodes = two(&test).await;
    for (queue, group) in [("q", ""), ("r", "a")] {
        // As many as will begin: none is left over for the next.
        test.fill(15, |_| of(queue, group)).await;
        let begin = async |expected: usize| {
            let granted = at_once(&nodes, 4).await;
            assert_eq!(granted.len(), expected, "{queue}");
            for (at, grant) in granted {
                nodes[at].succeed(&grant, json!(null)).await;
            }
        };
        begin(5).await;
        begin(0).await;
        test.clock.advance(spaced / 2);
        begin(0).await;
        test.clock.advance(spaced / 2);
        begin(1).await;
        test.clock.advance(spaced * 2);
        begin(2).await;
        test.clock.advance(spaced * 100);
        begin(5).await;
        // Another rate goes on from what is left of this one.
        let faster = Some(Rate { tasks: 10, per: Span::secs(50_000) });
        match group {
            "" => test.set_queue(queue, QueueSettings { rate: faster, ..QueueSettings::default() }).await,
            _ => {
                test.set_group(queue, group, GroupSettings { rate: faster, ..GroupSettings::default() })
                    .await;
            }
        }
        begin(0).await;
        test.clock.advance(spaced);
        begin(2).await;
    }
    test.stop().await;
}

#[tokio::test]
async fn a_waiting_claim_is_answered_as_soon_as_the_rate_allows() {
    let test = TestApp::start().await;
    let rate = Some(Rate { tasks: 1, per: Span::millis(100) });
    test.set_queue("q", QueueSettings { rate, ..QueueSettings::default() }).await;
    test.fill(10, |_| of("q", "")).await;
    let node = test.worker("w").await;
    let began = Instant::now();
    for _ in 0..9 {
        node.claim_one().await;
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(790)..Duration::from_secs(5)).contains(&took), "{took:?}");
    test.stop().await;
}

#[tokio::test]
async fn once_a_pause_is_answered_nothing_is_granted_until_it_is_resumed() {
    let test = TestApp::start().await;
    test.fill(600, |n| of("q", ["a", "b"][n % 2])).await;
    let nodes = two(&test).await;
    let who = test.operator();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let claiming = (0..4).map(|n| {
        let (node, stopped) = (&nodes[n % 2], stopped.clone());
        async move {
            while !*stopped.borrow() {
                for grant in node.claim(2).await {
                    node.succeed(&grant, json!(null)).await;
                }
            }
        }
    });
    let pausing = async {
        for pause in [true, false, true] {
            while test.number("SELECT count(*) FROM orca.done").await == 0 {
                tokio::task::yield_now().await;
            }
            if !pause {
                test.app.queue_resume(&who, "q").await.unwrap();
                continue;
            }
            let reason = Some("a flood".to_owned());
            let queue = test.app.queue_pause(&who, "q", Pause { reason }).await.unwrap();
            assert_eq!(queue.paused.unwrap().by, "ann");
            let fence = test.number("SELECT last_value FROM orca.fence").await;
            assert!(at_once(&nodes, 2).await.is_empty());
            assert_eq!(test.number("SELECT last_value FROM orca.fence").await, fence);
        }
        stop.send(true).unwrap();
    };
    tokio::join!(join_all(claiming), pausing);
    let queue = test.app.queue_get(&who, "q").await.unwrap();
    assert_eq!(queue.paused.unwrap().reason.as_deref(), Some("a flood"));
    test.app.queue_resume(&who, "q").await.unwrap();
    // A group's pause is its own.
    let group = test.app.group_pause(&who, "q", "a", Pause::default()).await.unwrap();
    assert!(group.paused.is_some() && group.ready > 0, "{group:?}");
    let rest = nodes[0].claim(400).await;
    assert!(!rest.is_empty() && rest.iter().all(|grant| grant.spec.group.as_deref() == Some("b")));
    assert!(test.app.group_resume(&who, "q", "a").await.unwrap().paused.is_none());
    assert!(nodes[1].claim(400).await.iter().any(|grant| grant.spec.group.as_deref() == Some("a")));
    test.stop().await;
}

/// The time that several rounds of a wake-up may take together: waking up by the safety net of a second, they take three.
const SIX_WAKE_UPS: Duration = Duration::from_millis(1_500);

/// Waits until a claim waits at this coordinator.
async fn held(app: &App) {
    let waiting = async {
        while app.waiting_claims() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("the claim was not held");
}

#[tokio::test]
async fn a_resumed_queue_is_claimed_from_at_once() {
    let test = TestApp::start().await;
    let nodes = two(&test).await;
    let who = test.operator();
    let mut took = Duration::ZERO;
    for round in 0..6 {
        test.app.queue_pause(&who, "q", Pause::default()).await.unwrap();
        test.fill(1, |_| of("q", "")).await;
        let node = &nodes[round % 2];
        let resume = async {
            held(&node.app).await;
            let began = Instant::now();
            test.app.queue_resume(&who, "q").await.unwrap();
            began
        };
        let (grants, began) = tokio::join!(node.claim_for(1, SOON), resume);
        assert_eq!(grants.len(), 1);
        took += began.elapsed();
    }
    assert!(took < SIX_WAKE_UPS, "{took:?}");
    test.stop().await;
}

#[tokio::test]
async fn what_ends_in_a_full_queue_lets_the_next_waiting_claim_have_its_place_at_once() {
    let test = TestApp::start().await;
    test.set_queue("q", most(1)).await;
    test.fill(20, |_| of("q", "")).await;
    let nodes = two(&test).await;
    let mut took = Duration::ZERO;
    let mut running = nodes[0].claim_one().await;
    // In turn: freed where it waits, and freed at the other coordinator.
    for (from, to) in [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1)] {
        let free = async {
            held(&nodes[to].app).await;
            let began = Instant::now();
            nodes[from].succeed(&running, json!(null)).await;
            began
        };
        let (grants, began) = tokio::join!(nodes[to].claim_for(1, SOON), free);
        running = grants.into_iter().next().unwrap();
        took += began.elapsed();
    }
    assert!(took < SIX_WAKE_UPS, "{took:?}");
    test.stop().await;
}

#[tokio::test]
async fn a_node_that_begins_to_drain_has_its_held_claims_answered() {
    let test = TestApp::start().await;
    let nodes = two(&test).await;
    let drain = async |app: &App, node: &TestNode, draining: bool| {
        let request = RenewRequest {
            instance: node.instance,
            leases: vec![],
            cancelling: vec![],
            wait: Duration::ZERO.into(),
            draining,
            unwell: None,
        };
        app.node_renew(&node.who, node.id, request).await.unwrap();
    };
    for node in &nodes {
        // Told to the coordinator that holds the claim or to the other one.
        for app in [&nodes[0].app, &nodes[1].app] {
            let draining = async {
                held(&node.app).await;
                drain(app, node, true).await;
            };
            let began = Instant::now();
            let (grants, ()) = tokio::join!(node.claim_for(1, SOON), draining);
            assert!(grants.is_empty() && began.elapsed() < SOON / 2);
            test.enqueue(of("q", "")).await;
            let began = Instant::now();
            assert!(node.claim_for(1, SOON).await.is_empty() && began.elapsed() < SOON / 2);
            drain(app, node, false).await;
            assert_eq!(node.claim_for(1, SOON).await.len(), 1);
        }
    }
    test.stop().await;
}

#[tokio::test]
async fn what_nobody_named_is_not_found_and_what_makes_no_sense_is_not_stored() {
    let test = TestApp::start().await;
    let who = test.operator();
    test.enqueue(of("q", "a")).await;
    assert_eq!(kind(test.app.queue_get(&who, "nothing").await), Kind::NotFound);
    for name in ["nothing", "", "a b", "\0"] {
        assert_eq!(kind(test.app.queue_resume(&who, name).await), Kind::NotFound, "{name:?}");
        assert_eq!(kind(test.app.group_resume(&who, "q", name).await), Kind::NotFound, "{name:?}");
    }
    for name in ["", "a b", "\0"] {
        assert_eq!(kind(test.app.queue_pause(&who, name, Pause::default()).await), Kind::Validation);
        assert_eq!(kind(test.app.queue_set(&who, name, most(1)).await), Kind::Validation);
        assert_eq!(kind(test.app.group_set(&who, "q", name, most_of_group(1)).await), Kind::Validation);
    }
    assert_eq!(kind(test.app.queue_set(&who, "new", most(0)).await), Kind::Validation);
    let reason = Some("\0".to_owned());
    assert_eq!(kind(test.app.queue_pause(&who, "new", Pause { reason }).await), Kind::Validation);
    let stranger = principal("other", "eve", Access::Operator);
    assert_eq!(kind(test.app.queue_get(&stranger, "q").await), Kind::NotFound);
    assert_eq!(kind(test.app.queue_resume(&stranger, "q").await), Kind::NotFound);
    let names: Vec<String> =
        test.app.queue_list(&who).await.unwrap().items.into_iter().map(|queue| queue.name).collect();
    assert_eq!(names, ["q"]);
    assert_eq!(kind(test.app.namespace_get(&who, "default").await), Kind::Forbidden);
    assert_eq!(test.number("SELECT count(*) FROM orca.queues").await, 0);
    test.stop().await;
}

#[tokio::test]
async fn what_ended_in_line_is_not_counted_as_ready() {
    let test = TestApp::start().await;
    let who = test.operator();
    let first = test.enqueue(of("q", "a")).await;
    test.enqueue(of("q", "")).await;
    test.enqueue(NewTask { priority: 3, ..of("q", "a") }).await;
    test.app.task_cancel(&who, first, Default::default()).await.unwrap();
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    let queue = test.app.queue_get(&who, "q").await.unwrap();
    assert_eq!((queue.ready, queue.running), (1, 1));
    assert_eq!((queue.groups[0].name.as_str(), queue.groups[0].ready, queue.groups[0].running), ("a", 0, 1));
    node.succeed(&grant, json!(null)).await;
    assert_eq!(test.state(grant.task).await, State::Succeeded);
    assert_eq!(test.app.queue_get(&who, "q").await.unwrap().running, 0);
    test.stop().await;
}
