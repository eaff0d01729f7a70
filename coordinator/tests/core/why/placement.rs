//! What settings and nodes keep from running.

use std::collections::BTreeMap;

use orca_proto::ids::{InstanceId, TaskId};
use orca_proto::node::{ClaimRequest, Registration};
use orca_proto::quantity::Bytes;
use orca_proto::spec::{NewTask, Resources, Role};
use orca_proto::token::Access;
use orca_proto::why::ConditionKind;
use serde_json::json;

use super::super::support::{TestApp, principal, registration, task};
use super::{only, why};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn worker(name: &str) -> Registration {
    registration(name, Access::Worker, InstanceId::new())
}

async fn register(test: &TestApp, node: &Registration) -> orca_proto::ids::NodeId {
    let who = principal("default", "nodes", Access::Worker);
    test.app.node_register(&who, node.clone()).await.unwrap().id
}

/// Claims as this node, one task, of these queues.
async fn claim(test: &TestApp, node: &Registration, queues: &[&str]) -> usize {
    let id = register(test, node).await;
    let request = ClaimRequest {
        instance: node.instance,
        slots: 1,
        wait: Default::default(),
        queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
        free: None,
    };
    test.app
        .node_claim(&principal("default", "nodes", Access::Worker), id, request)
        .await
        .unwrap()
        .grants
        .len()
}

async fn set(test: &TestApp, statement: &'static str) {
    sqlx::query(statement).execute(&mut test.connection().await).await.unwrap();
}

async fn blocked_by(test: &TestApp, id: TaskId, kind: ConditionKind) -> String {
    only(&why(test, id).await, kind, true).message.clone()
}

#[tokio::test]
async fn without_a_live_node_of_its_role_a_task_says_so() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    test.planner("p").await;
    assert_eq!(
        blocked_by(&test, id, ConditionKind::NoNode).await,
        "no worker node is alive and takes work in namespace default"
    );
    let id = test.enqueue(NewTask { role: Role::Plan, ..task("g") }).await;
    assert!(why(&test, id).await.conditions.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn labels_resources_slots_and_queues_that_no_node_has_are_told() {
    let test = TestApp::start().await;
    let small = Registration { cpus: Some(0.5), memory: Some(Bytes(1 << 40)), slots: 1, ..worker("small") };
    assert_eq!(claim(&test, &small, &["media"]).await, 0);
    let on = |queue: &str| {
        let mut small = NewTask { queue: queue.into(), ..task("t") };
        small.resources.cpus = 0.1;
        small
    };
    let id = test.enqueue(on("default")).await;
    assert_eq!(
        blocked_by(&test, id, ConditionKind::NodeQueues).await,
        "no live node serves queue default (1 live node)"
    );
    let id = test.enqueue(NewTask { requires: labels(&[("gpu", "*")]), ..on("media") }).await;
    assert!(blocked_by(&test, id, ConditionKind::NodeLabels).await.starts_with("no live node has gpu"));
    let mut large = on("media");
    large.resources.cpus = 8.0;
    let id = test.enqueue(NewTask { priority: 1, ..large }).await;
    let message = blocked_by(&test, id, ConditionKind::NodeResources).await;
    assert!(message.starts_with("no live node is large enough for 8 cpus"), "{message}");

    let all = NewTask { requires: labels(&[("gpu", "*")]), ..on("default") };
    let id =
        test.enqueue(NewTask { resources: Resources { cpus: 8.0, ..all.resources.clone() }, ..all }).await;
    let told = why(&test, id).await;
    let blocking: Vec<ConditionKind> =
        told.conditions.iter().filter(|one| one.blocks).map(|one| one.kind).collect();
    assert_eq!(
        blocking,
        [ConditionKind::NodeLabels, ConditionKind::NodeQueues, ConditionKind::NodeResources]
    );

    let fits = NewTask { priority: 2, ..on("media") };
    test.enqueue(fits.clone()).await;
    assert_eq!(claim(&test, &small, &["media"]).await, 1);
    let id = test.enqueue(fits).await;
    assert_eq!(
        blocked_by(&test, id, ConditionKind::NodeSlots).await,
        "no live node has a slot free (1 live node)"
    );
    test.stop().await;
}

#[tokio::test]
async fn a_preference_holds_a_task_for_nodes_that_have_it_for_a_moment() {
    let test = TestApp::start().await;
    test.worker("far").await;
    let near = Registration { labels: labels(&[("zone", "a")]), slots: 1, ..worker("near") };
    test.enqueue(task("first")).await;
    assert_eq!(claim(&test, &near, &[]).await, 1);
    let id = test.enqueue(NewTask { prefers: labels(&[("zone", "a")]), ..task("a") }).await;
    let message = blocked_by(&test, id, ConditionKind::Prefers).await;
    assert!(message.ends_with("it is kept for a node with zone=a, of which none is free"), "{message}");
    test.clock.advance(std::time::Duration::from_secs(3));
    let told = why(&test, id).await;
    assert_eq!((told.conditions.len(), told.eligible_nodes), (0, vec!["far".to_owned()]));
    test.stop().await;
}

#[tokio::test]
async fn pauses_limits_and_rates_are_told_with_their_facts() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let grouped = || NewTask { group: Some("acme".into()), ..task("t") };
    let running = test.enqueue(grouped()).await;
    node.claim_one().await;
    let id = test.enqueue(grouped()).await;
    let cases = [
        (
            "INSERT INTO orca.queues (namespace, queue, grp, paused_at, paused_by, paused_reason) \
             VALUES ('default', 'default', '', orca.now(), 'ann', 'maintenance')",
            ConditionKind::QueuePaused,
        ),
        (
            "INSERT INTO orca.queues (namespace, queue, grp, paused_at, paused_by) \
             VALUES ('default', 'default', 'acme', orca.now(), 'ann')",
            ConditionKind::GroupPaused,
        ),
        (
            "INSERT INTO orca.queues (namespace, queue, grp, max_running) VALUES ('default', 'default', '', 1)",
            ConditionKind::QueueLimit,
        ),
        (
            "INSERT INTO orca.queues (namespace, queue, grp, max_running) VALUES ('default', 'default', 'acme', 1)",
            ConditionKind::GroupLimit,
        ),
        (
            "INSERT INTO orca.queues (namespace, queue, grp, rate_tasks, rate_per_ms, allowance, allowance_at) \
             VALUES ('default', 'default', '', 5, 3600000, 0, orca.now())",
            ConditionKind::QueueRate,
        ),
        (
            "INSERT INTO orca.queues (namespace, queue, grp, rate_tasks, rate_per_ms, allowance, allowance_at) \
             VALUES ('default', 'default', 'acme', 5, 3600000, 0, orca.now())",
            ConditionKind::GroupRate,
        ),
        (
            "INSERT INTO orca.namespaces (name, max_running) VALUES ('default', 1)",
            ConditionKind::NamespaceLimit,
        ),
    ];
    for (statement, kind) in cases {
        set(&test, statement).await;
        let told = why(&test, id).await;
        let condition = only(&told, kind, true);
        match kind {
            ConditionKind::QueuePaused => assert!(condition.message.ends_with("“maintenance”")),
            ConditionKind::QueueLimit | ConditionKind::GroupLimit => {
                assert_eq!(condition.facts["held_by"], json!([running]));
            }
            _ => {}
        }
        set(&test, "DELETE FROM orca.queues").await;
        set(&test, "DELETE FROM orca.namespaces").await;
    }
    assert_eq!(why(&test, id).await.conditions, []);
    test.stop().await;
}
