//! Whatever is set and whatever the node is like: `why` names something that blocks exactly when a claim gives nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{ClaimRequest, Free, Registration};
use orca_proto::quantity::Bytes;
use orca_proto::spec::NewTask;
use orca_proto::token::Access;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::support::{TestApp, principal, registration, task};
use orca_coordinator::app::App;

/// Worlds that are tried.
const WORLDS: usize = 40;

/// What is set for a queue, a group or a namespace.
#[derive(Clone, Debug)]
struct Rules {
    paused: bool,
    max_running: Option<i32>,
    /// What is left of a rate of one an hour.
    left: Option<f64>,
}

#[derive(Clone, Debug)]
struct World {
    /// Tasks of the queue that another node runs, and how many of them are of the group.
    running: (usize, usize),
    queue: Rules,
    group: Rules,
    namespace_max: Option<i32>,
    grouped: bool,
    labels: BTreeMap<String, String>,
    requires: BTreeMap<String, String>,
    prefers: bool,
    /// Whether there is another node that has what is preferred, which is full.
    preferred: bool,
    waited: bool,
    serves: Vec<String>,
    cpus: Option<f64>,
}

fn rules() -> impl Strategy<Value = Rules> {
    let left = prop_oneof![14 => Just(None), 1 => Just(Some(0.0)), 1 => Just(Some(1.0))];
    (prop::bool::weighted(0.08), prop::option::weighted(0.2, 1..7_i32), left)
        .prop_map(|(paused, max_running, left)| Rules { paused, max_running, left })
}

fn world() -> impl Strategy<Value = World> {
    let set = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let labels =
        prop::sample::select(vec![set(&[]), set(&[("os", "linux")]), set(&[("os", "bsd"), ("zone", "a")])]);
    let requires = prop::sample::select(vec![
        set(&[]),
        set(&[]),
        set(&[]),
        set(&[("os", "*")]),
        set(&[("os", "!bsd")]),
        set(&[("os", "linux")]),
    ]);
    let serves = prop::sample::select(vec![vec![], vec![], vec![], vec!["q"], vec!["q"], vec!["other"]])
        .prop_map(|queues| queues.into_iter().map(str::to_owned).collect());
    let cpus = prop::sample::select(vec![None, None, Some(0.5), Some(4.0), Some(4.0)]);
    (
        ((0..3_usize, 0..3_usize), rules(), rules(), prop::option::weighted(0.1, 1..8_i32), any::<bool>()),
        (labels, requires, any::<bool>(), any::<bool>(), any::<bool>(), serves, cpus),
    )
        .prop_map(|((running, queue, group, namespace_max, grouped), node)| {
            let (labels, requires, prefers, preferred, waited, serves, cpus) = node;
            World {
                running,
                queue,
                group,
                namespace_max,
                grouped,
                labels,
                requires,
                prefers,
                preferred,
                waited,
                serves,
                cpus,
            }
        })
}

async fn claim(app: &App, namespace: &str, id: NodeId, node: &Registration, queues: &[String]) -> usize {
    let free = node.cpus.zip(node.memory).map(|(cpus, memory)| Free { cpus, memory });
    let request = ClaimRequest {
        instance: node.instance,
        slots: node.slots,
        wait: Span::millis(0),
        queues: queues.to_vec(),
        free,
    };
    let who = principal(namespace, "nodes", Access::Worker);
    app.node_claim(&who, id, request).await.unwrap().grants.len()
}

async fn register(app: &App, namespace: &str, node: &Registration) -> NodeId {
    app.node_register(&principal(namespace, "nodes", Access::Worker), node.clone()).await.unwrap().id
}

fn spec(group: bool) -> NewTask {
    NewTask { queue: "q".into(), group: group.then(|| "g".to_owned()), ..task("t") }
}

/// Makes a queue's worth of rules; `grp` is empty for the queue itself.
async fn set(test: &TestApp, namespace: &str, grp: &str, rules: &Rules) {
    sqlx::query(
        "INSERT INTO orca.queues (namespace, queue, grp, max_running, rate_tasks, rate_per_ms, allowance, allowance_at, \
         paused_at, paused_by) \
         SELECT $1, 'q', $2, $3, rated.one, rated.one * 3600000, $4, rated.one * interval '0' + orca.now(), \
         CASE WHEN $5 THEN orca.now() END, CASE WHEN $5 THEN 'ann' END \
         FROM (SELECT CASE WHEN $4::float8 IS NOT NULL THEN 1 END AS one) AS rated",
    )
    .bind(namespace)
    .bind(grp)
    .bind(rules.max_running)
    .bind(rules.left)
    .bind(rules.paused)
    .execute(&mut test.connection().await)
    .await
    .unwrap();
}

/// Builds the world, and answers what `why` says blocks and what a claim then gives.
async fn try_out(
    test: &TestApp,
    before: &App,
    after: &App,
    namespace: &str,
    world: &World,
) -> (String, usize) {
    let operator = principal(namespace, "ann", Access::Operator);
    let plain = |name: &str| registration(name, Access::Worker, InstanceId::new());
    let (alone, in_group) = world.running;
    if alone + in_group > 0 {
        let slots = u32::try_from(alone + in_group).unwrap();
        let busy = Registration { slots, ..plain("busy") };
        let id = register(before, namespace, &busy).await;
        for n in 0..alone + in_group {
            before.task_enqueue(&operator, spec(n < in_group), None).await.unwrap();
        }
        assert_eq!(claim(before, namespace, id, &busy, &[]).await, alone + in_group);
    }
    if world.preferred {
        let labels = [("zone".to_owned(), "a".to_owned()), ("os".to_owned(), "linux".to_owned())].into();
        let near = Registration { labels, slots: 1, ..plain("near") };
        let id = register(before, namespace, &near).await;
        // In another queue, so that no rule counts it but the namespace's.
        let elsewhere = NewTask { queue: "elsewhere".into(), ..task("t") };
        before.task_enqueue(&operator, elsewhere, None).await.unwrap();
        assert_eq!(claim(before, namespace, id, &near, &[]).await, 1);
    }
    let memory = world.cpus.map(|_| Bytes(64 << 30));
    let node =
        Registration { labels: world.labels.clone(), cpus: world.cpus, memory, slots: 2, ..plain("node") };
    let id = register(before, namespace, &node).await;
    assert_eq!(claim(before, namespace, id, &node, &world.serves).await, 0);
    set(test, namespace, "", &world.queue).await;
    set(test, namespace, "g", &world.group).await;
    sqlx::query("INSERT INTO orca.namespaces (name, max_running) VALUES ($1, $2)")
        .bind(namespace)
        .bind(world.namespace_max)
        .execute(&mut test.connection().await)
        .await
        .unwrap();
    let prefers = if world.prefers { [("zone".to_owned(), "a".to_owned())].into() } else { BTreeMap::new() };
    let wanted = NewTask { requires: world.requires.clone(), prefers, ..spec(world.grouped) };
    let (enqueued, _) = after.task_enqueue(&operator, wanted, None).await.unwrap();
    if world.waited {
        test.clock.advance(Duration::from_secs(3));
    }
    let told = after.task_why(&operator, enqueued.summary.id).await.unwrap();
    assert_eq!(told.ahead, Some(0), "{told:?}");
    let blocking = told.conditions.iter().filter(|condition| condition.blocks);
    let blocking = blocking.map(|condition| condition.message.clone()).collect::<Vec<_>>().join("; ");
    assert_eq!(blocking.is_empty(), told.eligible_nodes == ["node"] && blocking.is_empty(), "{told:?}");
    (blocking, claim(after, namespace, id, &node, &world.serves).await)
}

#[tokio::test]
async fn why_blocks_exactly_when_a_claim_gives_nothing() {
    let test = TestApp::start().await;
    // Settings are taken for true for a second: they are made behind the back of one coordinator and met by another.
    let after = test.replica().await;
    let mut runner = TestRunner::deterministic();
    let (mut given, mut kept) = (0, 0);
    for n in 0..WORLDS {
        let world = world().new_tree(&mut runner).unwrap().current();
        let (blocking, granted) = try_out(&test, &test.app, &after, &format!("world-{n}"), &world).await;
        assert_eq!(blocking.is_empty(), granted == 1, "{granted} granted, but: {blocking:?}; {world:#?}");
        if granted == 1 { given += 1 } else { kept += 1 }
    }
    assert!(given >= 10 && kept >= 10, "{given} worlds gave the task, {kept} kept it");
    test.stop().await;
}
