//! Which node is given what: shares by weight, time in line, labels, resources, preferences.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::future::join_all;
use orca_proto::duration::Span;
use orca_proto::ids::InstanceId;
use orca_proto::node::{ClaimRequest, Free, Grant, Registration, labels as own};
use orca_proto::quantity::Bytes;
use orca_proto::queue::{GroupSettings, QueueSettings};
use orca_proto::spec::{Network, NewTask};
use orca_proto::token::Access;
use serde_json::json;
use uuid::Uuid;

use super::support::{SOON, TestApp, TestNode, parsed, principal, registration, task};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn labelled(test: &TestApp, name: &str, with: &[(&str, &str)]) -> TestNode {
    let who = principal("default", &format!("node-{name}"), Access::Worker);
    let instance = InstanceId::new();
    let registration = Registration { labels: labels(with), ..registration(name, Access::Worker, instance) };
    let id = test.app.node_register(&who, registration).await.unwrap().id;
    TestNode { app: test.app.clone(), who, id, instance }
}

fn groups(grants: &[Grant]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for grant in grants {
        *counts.entry(grant.spec.group.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn of_group(group: &str) -> NewTask {
    NewTask { group: Some(group.into()), key: None, ..task("t") }
}

#[tokio::test]
async fn groups_share_by_their_weights_in_one_claim_and_over_many() {
    let test = TestApp::start().await;
    test.set_group("default", "a", GroupSettings { weight: 3, ..GroupSettings::default() }).await;
    // Who comes first with much has no more of it.
    test.fill(300, |_| of_group("b")).await;
    test.fill(300, |_| of_group("a")).await;
    let node = test.worker("w").await;
    let counts = groups(&node.claim(100).await);
    assert_eq!((counts["a"], counts["b"]), (75, 25));
    let mut many = Vec::new();
    for _ in 0..40 {
        many.extend(node.claim(1).await);
    }
    let counts = groups(&many);
    assert_eq!((counts["a"], counts["b"]), (30, 10));
    test.stop().await;
}

#[tokio::test]
async fn time_in_line_lifts_a_task_to_those_of_a_higher_priority_unless_it_is_switched_off() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    for (queue, ageing, expected) in [
        ("q", Span::secs(10), ["new", "new", "new", "old", "new"]),
        ("r", Span::default(), ["new", "new", "new", "new", "old"]),
    ] {
        test.set_queue(queue, QueueSettings { ageing: Some(ageing), ..QueueSettings::default() }).await;
        let of = |name: &str, priority| NewTask { queue: queue.into(), priority, ..task(name) };
        test.enqueue(of("old", 0)).await;
        test.clock.advance(Duration::from_secs(51));
        for _ in 0..4 {
            test.enqueue(of("new", 5)).await;
        }
        let mut order = Vec::new();
        for _ in 0..5 {
            order.push(node.claim_one().await.spec.key.unwrap());
        }
        assert_eq!(order, expected, "{queue}");
    }
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_wants_a_network_waits_for_a_node_that_allows_it_and_why_says_so() {
    let test = TestApp::start().await;
    let id = test.enqueue(NewTask { network: Network::Open, ..task("a") }).await;
    let closed = labelled(&test, "closed", &[]).await;
    assert!(closed.claim(1).await.is_empty());
    let why = test.app.task_why(&test.operator(), id).await.unwrap();
    assert!(why.conditions[0].message.starts_with("no live node has orca/open-network=yes"), "{why:?}");
    let open = labelled(&test, "open", &[(own::OPEN_NETWORK, own::YES)]).await;
    assert_eq!(open.claim_one().await.task, id);
    test.stop().await;
}

#[tokio::test]
async fn a_task_goes_only_to_nodes_with_what_it_requires() {
    let test = TestApp::start().await;
    let gpu = labelled(&test, "gpu", &[("gpu", "a100"), ("os", "linux")]).await;
    let windows = labelled(&test, "win", &[("os", "windows")]).await;
    let bare = labelled(&test, "bare", &[]).await;
    for (requires, takers) in [
        (labels(&[("gpu", "a100")]), [true, false, false]),
        (labels(&[("gpu", "h100")]), [false, false, false]),
        (labels(&[("os", "*")]), [true, true, false]),
        (labels(&[("os", "!windows")]), [true, false, true]),
        (labels(&[("os", "linux"), ("gpu", "*")]), [true, false, false]),
    ] {
        for (node, takes) in [&gpu, &windows, &bare].into_iter().zip(takers) {
            let spec = NewTask { requires: requires.clone(), key: None, ..task("t") };
            let id = test.enqueue(spec).await;
            let granted = node.claim(1).await;
            assert_eq!(!granted.is_empty(), takes, "{requires:?}");
            test.app.task_cancel(&test.operator(), id, Default::default()).await.unwrap();
            for grant in granted {
                node.fail(&grant).await;
            }
        }
    }
    test.stop().await;
}

#[tokio::test]
async fn a_node_is_given_what_fits_into_what_it_has_free() {
    let test = TestApp::start().await;
    let needs = |name: &str, cpus: f64, memory: u64| {
        let mut task = task(name);
        (task.resources.cpus, task.resources.memory) = (cpus, Bytes(memory));
        task
    };
    for (name, cpus, memory) in [("wide", 4.0, 1 << 25), ("big", 0.5, 8 << 30), ("small", 0.5, 1 << 30)] {
        test.fill(3, |_| NewTask { key: None, name: Some(name.into()), ..needs(name, cpus, memory) }).await;
    }
    let node = test.worker("w").await;
    let free = Some(Free { cpus: 1.5, memory: Bytes(4 << 30) });
    let request =
        ClaimRequest { instance: node.instance, slots: 10, wait: Span::default(), queues: vec![], free };
    let claimed = test.app.node_claim(&node.who, node.id, request).await.unwrap();
    let names: Vec<_> = claimed.grants.into_iter().map(|grant| parsed(grant).spec.name.unwrap()).collect();
    assert_eq!(names, ["small", "small", "small"]);
    test.stop().await;
}

#[tokio::test]
async fn a_preferred_node_is_waited_for_a_while_where_one_lives() {
    let test = TestApp::start().await;
    let prefers = labels(&[("disk", "ssd")]);
    let spec = || NewTask { prefers: prefers.clone(), key: None, ..task("t") };
    let other = labelled(&test, "other", &[]).await;
    test.enqueue(spec()).await;
    assert_eq!(other.claim(1).await.len(), 1, "no preferred node lives");
    // The nodes that live are known for a second.
    let fast = labelled(&test, "fast", &[("disk", "ssd")]).await;
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    test.enqueue(spec()).await;
    assert!(other.claim(1).await.is_empty());
    assert_eq!(fast.claim(1).await.len(), 1);
    test.enqueue(spec()).await;
    assert!(other.claim(1).await.is_empty());
    test.clock.advance(Duration::from_secs(3));
    assert_eq!(other.claim(1).await.len(), 1);
    // And of those that wait, it is the preferred one that is woken.
    let both = async { tokio::join!(other.claim_for(1, SOON / 10), fast.claim_for(1, SOON / 10)) };
    let ((others, fasts), _) = tokio::join!(both, test.enqueue(spec()));
    assert_eq!((others.len(), fasts.len()), (0, 1));
    test.stop().await;
}

#[tokio::test]
async fn one_new_task_is_for_one_eligible_node_and_the_others_wait_on() {
    let test = TestApp::start().await;
    let mut nodes = Vec::new();
    for n in 0..6 {
        let with: &[_] = if n % 2 == 0 { &[] } else { &[("gpu", "a100")] };
        nodes.push(labelled(&test, &format!("w{n}"), with).await);
    }
    let claims = nodes.iter().map(|node| node.claim_for(1, Duration::from_millis(600)));
    let enqueue = async {
        let all = async {
            while test.app.waiting_claims() < nodes.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, all).await.unwrap();
        test.enqueue(NewTask { requires: labels(&[("gpu", "a100")]), ..task("t") }).await
    };
    let (granted, id) = tokio::join!(join_all(claims), enqueue);
    let takers: Vec<usize> = (0..6).filter(|n| granted[*n].iter().any(|grant| grant.task == id)).collect();
    assert_eq!((takers.len(), takers[0] % 2, granted.iter().flatten().count()), (1, 1, 1));
    nodes[takers[0]].succeed(&granted[takers[0]][0], json!(null)).await;
    test.stop().await;
}

#[tokio::test]
async fn as_many_and_as_long_labels_as_a_task_may_name_are_a_lane_like_any_other() {
    let test = TestApp::start().await;
    // Nothing that could be stored in less.
    let random = || (0..4).map(|_| Uuid::now_v7().simple().to_string()).collect::<String>();
    let many = || (0..16).map(|_| (random(), random())).collect::<BTreeMap<_, _>>();
    let (requires, prefers) = (many(), many());
    let spec = NewTask { requires: requires.clone(), prefers, key: None, ..task("t") };
    let ids = [test.enqueue(spec.clone()).await, test.enqueue(spec).await];
    let with: Vec<(&str, &str)> =
        requires.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let node = labelled(&test, "w", &with).await;
    let granted: Vec<_> = node.claim(5).await.into_iter().map(|grant| grant.task).collect();
    assert_eq!(granted, ids);
    let lanes: i64 = sqlx::query_scalar("SELECT count(*) FROM orca.lanes")
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap();
    assert_eq!(lanes, 1);
    test.stop().await;
}
